//! What each node is to be, and who belongs to the cluster: derived from configuration and registered artifacts.
//!
//! A new number is given only when the content changes, so that "the same number with other bytes" never happens; the
//! very bytes that were sent are kept.

use super::{Core, CoreError, Now, admitted, machine_row};
use crate::config::meant::{Config, Machine};
use crate::store::artifacts::latest;
use crate::store::rows::{
    ArtifactFile, ArtifactKind, COUNTERS, CURRENT, Current, KeyRow, MachineRow, OPERATORS,
};
use crate::store::{Read, StoreError, Tx};
use muster_protocol::ids::{Arch, Digest, NodeName, Number};
use muster_protocol::keys::Fingerprint;
use muster_protocol::manifest::{K3s, Kata, Manifest, Network, PlacedFile};
use muster_protocol::roster::{Member, Roster};
use muster_protocol::signed::Signed;
use muster_protocol::wire;

/// How long a statement may be accepted after it was signed (trust rules: at most 7 days).
pub(super) const VALID_S: u64 = 7 * 86_400;
/// A machine that has not taken its manifest yet gets a fresh one when less than this is left.
const RENEW_S: u64 = 86_400;

/// Not 0: the roster must be looked at again. Looking means reading every machine.
const ROSTER_CHANGED: &str = "roster-changed";

pub(super) fn roster_changed(tx: &mut Tx) -> Result<(), StoreError> {
    tx.put(COUNTERS, ROSTER_CHANGED, &1)
}

/// What a machine's disk would be written from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) index: Digest,
    pub(super) uki: ArtifactFile,
    pub(super) loader: ArtifactFile,
}

/// Why there is no manifest or image yet; each names the command that helps.
pub(super) type Missing = String;

/// Everything an install of this machine needs, or the first thing that is missing.
pub(super) fn image(
    view: &impl Read,
    config: &Config,
    machine: &Machine,
    arch: Arch,
) -> Result<Result<Image, Missing>, StoreError> {
    let missing = |what: String, how: &str| {
        Ok(Err(format!("{what} is not registered (hint: muster image build {how})")))
    };
    let Some(uki) = latest(view, ArtifactKind::Uki, arch, None)? else {
        return missing(
            format!("the boot image for {arch}"),
            &format!("--arch {arch} --netboot DIR --agent FILE"),
        );
    };
    let Some(loader) = latest(view, ArtifactKind::Loader, arch, None)? else {
        return missing(
            format!("the boot loader for {arch}"),
            &format!("--arch {arch} --netboot DIR --agent FILE"),
        );
    };
    let Some(node) = latest(view, ArtifactKind::NodeImage, arch, None)? else {
        return missing(format!("the node image for {arch}"), &format!("--arch {arch} --node-image FILE"));
    };
    if uki.kernel_release != node.kernel_release {
        let release = |row: &Option<String>| row.clone().unwrap_or_else(|| "unknown".into());
        return Ok(Err(format!(
            "the boot image has kernel {}, the node image has modules for {}: they must be the same",
            release(&uki.kernel_release),
            release(&node.kernel_release)
        )));
    }
    if let Err(missing) = k3s_files(view, config, arch)?.and(kata(view, config, machine, arch)?) {
        return Ok(Err(missing));
    }
    Ok(match (node.file("index"), uki.files.first(), loader.files.first()) {
        (Some(index), Some(uki), Some(loader)) => {
            Ok(Image { index: index.digest, uki: uki.clone(), loader: loader.clone() })
        }
        (_, _, _) => Err("a registered image has no files (hint: muster image build again)".into()),
    })
}

type K3sFiles = (Vec<PlacedFile>, Option<String>);

fn k3s_files(view: &impl Read, config: &Config, arch: Arch) -> Result<Result<K3sFiles, Missing>, StoreError> {
    let version = &config.k3s.version;
    Ok(match latest(view, ArtifactKind::K3s, arch, Some(version))? {
        None => Err(format!(
            "k3s {version} for {arch} is not registered (hint: muster image build --arch {arch} --k3s DIR)"
        )),
        Some(row) => {
            let placed = |file: &ArtifactFile| PlacedFile {
                path: file.path.clone(),
                mode: file.mode,
                digest: file.digest,
                bytes: file.bytes,
            };
            Ok((row.files.iter().map(placed).collect(), row.stand_in))
        }
    })
}

fn kata(
    view: &impl Read,
    config: &Config,
    machine: &Machine,
    arch: Arch,
) -> Result<Result<Option<Kata>, Missing>, StoreError> {
    let Some(wanted) = config.kata.as_ref().filter(|_| machine.sandbox) else { return Ok(Ok(None)) };
    let row = latest(view, ArtifactKind::Kata, arch, Some(&wanted.version))?;
    Ok(match row.as_ref().and_then(|row| Some((row, row.files.first()?))) {
        None => Err(format!(
            "Kata {} for {arch} is not registered (hint: muster image build --arch {arch} --kata FILE)",
            wanted.version
        )),
        Some((row, archive)) => Ok(Some(Kata {
            version: wanted.version.clone(),
            archive: archive.digest,
            archive_bytes: archive.bytes,
            require: wanted.require,
            stand_in: row.stand_in.clone(),
        })),
    })
}

/// The manifest's content; number and expiry are filled in when it is signed.
fn content(
    view: &impl Read,
    config: &Config,
    machine: &Machine,
    row: &MachineRow,
    key: Fingerprint,
) -> Result<Result<Manifest, Missing>, StoreError> {
    let Some(arch) = row.inventory.as_ref().map(|inventory| inventory.arch) else {
        return Ok(Err("its hardware is not known yet: it has not said hello to this provisioner".into()));
    };
    let (files, stand_in) = match k3s_files(view, config, arch)? {
        Ok(files) => files,
        Err(missing) => return Ok(Err(missing)),
    };
    let kata = match kata(view, config, machine, arch)? {
        Ok(kata) => kata,
        Err(missing) => return Ok(Err(missing)),
    };
    let servers = config.servers().filter_map(|server| Some((server.name.clone(), server.address?.address)));
    Ok(Ok(Manifest {
        number: Number::default(),
        node: machine.name.clone(),
        key,
        class: machine.class,
        role: machine.role,
        cluster_name: config.name.to_string(),
        network: Network {
            macs: machine.macs.clone(),
            address: machine.address,
            gateway: config.network.gateway,
            dns: config.network.dns.clone(),
            ntp: config.network.ntp.clone(),
        },
        k3s: K3s {
            version: config.k3s.version.clone(),
            files,
            servers: servers.collect(),
            registration: config.k3s.registration.clone(),
            shared: config.k3s.extra.clone(),
            stand_in,
        },
        kata,
        labels: machine.labels.clone(),
        taints: machine.taints.clone(),
        authorized_keys: config.authorized_keys.clone(),
        expires_at: 0,
    }))
}

impl Core {
    /// This node's manifest in force: the saved one, or a new one when its content changed. `taken` is the newest
    /// number that the node has accepted.
    pub(super) fn manifest(
        &self,
        tx: &mut Tx,
        now: Now,
        name: &NodeName,
        taken: Number,
    ) -> Result<Result<(Number, Vec<u8>), Missing>, CoreError> {
        let Some(machine) = self.config.machine(name) else {
            return Ok(Err(format!("`{name}` is no longer declared in cluster.toml")));
        };
        let row = machine_row(tx, name)?;
        let Some(key) = row.admitted.map(|admitted| admitted.key.fingerprint()) else {
            return Ok(Err(format!("`{name}` is not admitted")));
        };
        let mut manifest = match content(tx, &self.config, machine, &row, key)? {
            Ok(manifest) => manifest,
            Err(missing) => return Ok(Err(missing)),
        };
        let digest = Digest::of(&wire::encode(&manifest));
        let saved_key = format!("manifest/{name}");
        let current = tx.get(CURRENT, &saved_key)?;
        if let (Some(current), Some(bytes)) = (current, tx.signed(&saved_key)?) {
            let taken_already = taken == current.number;
            let lasts = current.expires_at > now.unix() + RENEW_S;
            let ours = current.number.delegation == self.online.number;
            if current.content == digest && ours && (taken_already || lasts) {
                return Ok(Ok((current.number, bytes)));
            }
        }
        manifest.number = tx.fresh(self.online.number)?;
        manifest.expires_at = now.unix() + VALID_S;
        let bytes = wire::encode(&Signed::by_online(self.trust.cluster, &self.online, &manifest));
        let current = Current { number: manifest.number, content: digest, expires_at: manifest.expires_at };
        tx.put(CURRENT, &saved_key, &current)?;
        tx.put_signed(&saved_key, &bytes)?;
        Ok(Ok((manifest.number, bytes)))
    }

    /// The roster in force.
    pub(super) fn roster(&self, tx: &mut Tx) -> Result<(Number, Vec<u8>), CoreError> {
        let saved = (tx.get(CURRENT, "roster")?, tx.signed("roster")?);
        let stale = tx.get(COUNTERS, ROSTER_CHANGED)?.unwrap_or(1) != 0;
        if let ((Some(current), Some(bytes)), false) = (&saved, stale) {
            return Ok((current.number, bytes.clone()));
        }
        let mut roster = Roster {
            version: Number::default(),
            operators: tx.get(OPERATORS, "operators")?.unwrap_or_default(),
            nodes: self.members(tx)?,
            recovery: self.home.recovery,
        };
        let digest = Digest::of(&wire::encode(&roster));
        tx.put(COUNTERS, ROSTER_CHANGED, &0)?;
        if let (Some(current), Some(bytes)) = saved
            && current.content == digest
            && current.number.delegation == self.online.number
        {
            return Ok((current.number, bytes));
        }
        roster.version = tx.fresh(self.online.number)?;
        let bytes = wire::encode(&Signed::by_online(self.trust.cluster, &self.online, &roster));
        tx.put(CURRENT, "roster", &Current { number: roster.version, content: digest, expires_at: 0 })?;
        tx.put_signed("roster", &bytes)?;
        Ok((roster.version, bytes))
    }

    /// For an operator's own copy.
    pub fn roster_bytes(&self) -> Result<Vec<u8>, CoreError> {
        self.store.write(|tx| self.roster(tx).map(|(_, bytes)| bytes))
    }

    fn members(&self, tx: &Tx) -> Result<Vec<Member>, CoreError> {
        let mut members = Vec::new();
        for KeyRow { name, key } in admitted(tx)? {
            // A machine that was taken out of cluster.toml is no member, though its key is remembered.
            let Some(machine) = self.config.machine(&name) else { continue };
            let seen = machine_row(tx, &name)?.address;
            let address = machine.address.map(|cidr| cidr.address).or(seen);
            members.push(Member { name, key, role: machine.role, address });
        }
        Ok(members)
    }
}
