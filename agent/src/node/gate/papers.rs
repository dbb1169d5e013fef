//! Everything on the disk that the gate reads, verified; and the decision over it.

use super::GRANT;
use super::GateError;
use super::decide::{Allowed, Me, Way, decide};
use super::no_drop_in;
use super::record::{Kept, look};
use crate::node::tokens::{Tokens, server_keys};
use crate::state::{BOOT, KEY, MANIFEST, Root, StateError, TRUST};
use muster_protocol::etcd::GateRecord;
use muster_protocol::grant::Grant;
use muster_protocol::ids::Number;
use muster_protocol::keys::{PublicKey, SecretKey};
use muster_protocol::manifest::Manifest;
use muster_protocol::signed::{By, Listener, Signed, Trust, Verified};
use std::net::Ipv4Addr;

/// A node's papers.
pub struct Papers {
    pub trust: Trust,
    pub key: SecretKey,
    pub manifest: Verified<Manifest>,
    /// Keys of the roster's servers; empty before there is a roster.
    pub servers: Vec<PublicKey>,
    pub kept: Kept,
    /// The order under which this disk was installed, as PID 1 read it from the marker.
    pub installation: Number,
}

impl Papers {
    pub fn read(root: &Root) -> Result<Self, StateError> {
        let missing = |path: &str, hint| StateError::Missing { path: root.path(path), hint };
        let seeded = "the installer seeds it; muster node reinstall NAME";
        let trust = root.trust()?.ok_or_else(|| missing(TRUST, seeded))?;
        let key = root.key()?.ok_or_else(|| missing(KEY, seeded))?;
        let manifest = root.manifest(&trust, &key.public())?.ok_or_else(|| missing(MANIFEST, seeded))?;
        let servers = root.roster(&trust)?.map(|roster| server_keys(roster.get())).unwrap_or_default();
        let boot = root.boot(&root.path(BOOT))?;
        let installation = boot.and_then(|boot| boot.order).unwrap_or_default();
        Ok(Self { trust, key, manifest, servers, kept: Kept::load(root)?, installation })
    }

    pub fn tokens<'a>(&'a self, root: &'a Root) -> Tokens<'a> {
        Tokens { root, cluster: self.trust.cluster, key: &self.key, servers: &self.servers }
    }

    pub(super) fn address(&self) -> Result<Ipv4Addr, GateError> {
        let manifest = self.manifest.get();
        let address = manifest.network.address.map(|cidr| cidr.address);
        address.ok_or_else(|| GateError::NoAddress { node: manifest.node.clone() })
    }

    fn me(&self) -> Result<Me<'_>, GateError> {
        let name = &self.manifest.get().node;
        Ok(Me { name, address: self.address()?, installation: self.installation })
    }

    /// The grant that lies in tmpfs, if it is for us and not older than the newest accepted one.
    fn grant(&self, root: &Root) -> Result<Option<Verified<Grant>>, GateError> {
        let Some(signed) = root.load::<Signed<Grant>>(GRANT)? else { return Ok(None) };
        let numbers = root.numbers()?;
        let me = (&self.manifest.get().node, self.key.public().fingerprint());
        let listener = Listener {
            me: Some(me),
            accepted: numbers.grant,
            delegation: numbers.delegation,
            ..Listener::default()
        };
        signed.verify(By::Online(&self.trust), &listener).map(Some).map_err(GateError::BadGrant)
    }

    /// The fence of a grant that lies here and lets k3s start, or that the gate has taken up since `known` was read. The grant is
    /// read first: the gate writes its record before it removes it.
    pub fn granted(&self, root: &Root, known: &GateRecord) -> Option<Number> {
        let grant = self.grant(root).ok().flatten();
        let kept = Kept::load(root).ok()?;
        let me = self.me().ok()?;
        if let Some(grant) = grant
            && let Ok(Allowed { way: Way::Init { .. } | Way::Join { .. }, keep }) =
                decide(me, &look(root), &kept, Some(grant.get()))
        {
            return Some(keep.fence);
        }
        let begun = matches!(kept.record, GateRecord::Initialising { .. } | GateRecord::Joining { .. });
        (begun && kept.record != *known).then_some(kept.fence)
    }

    /// The decision alone: nothing is written, nobody is asked. The node service looks here before it starts k3s.
    pub fn preview(&self, root: &Root) -> Result<Allowed, GateError> {
        no_drop_in(root)?;
        let grant = self.grant(root);
        let believed = grant.as_ref().ok().and_then(Option::as_ref).map(Verified::get);
        match (decide(self.me()?, &look(root), &self.kept, believed), grant) {
            (Ok(allowed), _) => Ok(allowed),
            // Without the bad grant the answer might have been another: that is what to tell.
            (Err(refusal), Err(bad)) if refusal.wants_grant() => Err(bad),
            (Err(refusal), _) => Err(refusal.into()),
        }
    }
}
