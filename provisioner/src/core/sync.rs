//! What a running node says and hears: everything periodic in one question.

use super::hello::note_seen;
use super::ordering::close;
use super::report::next_ms;
use super::{Asker, Core, CoreError, Now, events, name_of};
use crate::cluster::evidence::Heard;
use crate::cluster::record::Record;
use crate::cluster::upkeep;
use crate::store::rows::{BOXES, BoxRow, COMMANDS, KEYS, number_key};
use crate::store::{Read, StoreError, Tx};
use muster_protocol::etcd::NodeSeen;
use muster_protocol::grant::{Command, CommandResult, Grant};
use muster_protocol::ids::{Digest, NodeName, Role};
use muster_protocol::keys::Fingerprint;
use muster_protocol::sealed::{SealedBox, Secret};
use muster_protocol::signed::{By, Clock, Listener, Signed};
use muster_protocol::sync::{SyncReply, SyncRequest};
use muster_protocol::wire;

/// A waiting node asks again after this.
const WAIT_MS: u32 = 5_000;

impl Core {
    pub fn sync(&mut self, now: Now, asker: &Asker, request: &SyncRequest) -> Result<SyncReply, CoreError> {
        let Some(name) = name_of(&self.store.view()?, &asker.key)? else {
            return self.unadmitted_sync(now, asker, request);
        };
        self.compare_numbers(now, &name, true, &request.seen, request.installed)?;
        self.note_status(now, asker, &name, &request.status)?;
        let cluster = self.trust.cluster;
        let record = self.store.write(|tx| -> Result<Option<Record>, StoreError> {
            note_seen(tx, now, asker, &name, |row| row.installed |= request.installed.is_some())?;
            if let Some(number) = request.installed {
                close(tx, now, cluster, &name, asker.print(), number)?;
            }
            let mut record = None;
            for result in &request.results {
                if let Some((addon, digest)) = finish(tx, now, &name, result)? {
                    record.get_or_insert_with(|| self.record.clone()).applied.insert(addon, digest);
                }
            }
            if let Some(record) = &record {
                tx.put_signed("membership", &wire::encode(record))?;
            }
            request.boxes.iter().try_for_each(|sealed| self.keep_box(tx, now, asker, &name, sealed))?;
            Ok(record)
        })?;
        if let Some(record) = record {
            self.record = record;
        }
        let server = self.config.machine(&name).is_some_and(|machine| machine.role == Role::Server);
        if let Some(report) = request.server.as_ref().filter(|_| server) {
            let heard = Heard {
                at_ms: now.mono_ms,
                key: asker.print(),
                report: report.clone(),
                wants_grant: request.wants_grant,
                installation: request.installed.unwrap_or_default(),
                seen_fence: request.seen.fence,
            };
            self.heard.insert(name.clone(), heard);
            self.cluster_step(now)?;
        }
        self.reply(now, asker, &name, request)
    }

    /// A key that is not admitted hears nothing but when to ask again.
    fn unadmitted_sync(
        &mut self,
        now: Now,
        asker: &Asker,
        request: &SyncRequest,
    ) -> Result<SyncReply, CoreError> {
        let claimed = request.status.node.clone().filter(|name| self.config.machine(name).is_some());
        if let Some(name) = claimed.or_else(|| self.named.get(&asker.print()).cloned()) {
            self.compare_numbers(now, &name, false, &request.seen, request.installed)?;
            let mac = self.config.machine(&name).and_then(|machine| machine.macs.first().copied());
            if let Some(mac) = mac {
                let why = "it runs, but its key is not admitted here";
                self.note_pending(now, asker, &name, (mac, Some(request.status.detected)), why)?;
            }
            self.note_name(asker.print(), &name);
            self.note_status(now, asker, &name, &request.status)?;
        }
        Ok(empty_reply())
    }

    fn reply(
        &self,
        now: Now,
        asker: &Asker,
        name: &NodeName,
        request: &SyncRequest,
    ) -> Result<SyncReply, CoreError> {
        let frozen = self.frozen(now)?.is_some();
        let mut reply = empty_reply();
        reply.next_ms = next_ms(&request.status);
        reply.clock = request.clock_nonce.filter(|_| now.clock).map(|nonce| {
            Signed::by_online(self.trust.cluster, &self.online, &Clock { unix_ms: now.unix_ms, nonce })
        });
        reply.node = self.seen_by_servers(now, name);
        if frozen {
            return Ok(reply);
        }
        self.store.write(|tx| -> Result<(), CoreError> {
            if let Ok((number, bytes)) = self.manifest(tx, now, name, request.seen.manifest)?
                && number > request.seen.manifest
            {
                reply.manifest = Some(wire::decode(&bytes)?);
            }
            let (version, bytes) = self.roster(tx)?;
            if version > request.seen.roster {
                reply.roster = Some(wire::decode(&bytes)?);
            }
            Ok(())
        })?;
        let (cluster, key) = (self.trust.cluster, asker.print());
        if let Some((_, fence, start)) = self.decision.grants.iter().find(|(node, _, _)| node == name) {
            let grant = Grant { fence: *fence, node: name.clone(), key, start: start.clone() };
            reply.grant = Some(Signed::by_online(cluster, &self.online, &grant));
        }
        let view = self.store.view()?;
        for (fence, row) in super::cluster_step::commands(&view)? {
            if row.node == *name {
                let command =
                    Command { fence, node: row.node, key, action: row.action, expires_at: row.expires_at };
                reply.commands.push(Signed::by_online(cluster, &self.online, &command));
            }
        }
        // k3s that runs has its tokens on disk: then they need not travel again.
        let runs = request.status.evidence.k3s.as_ref().is_some_and(|k3s| k3s.unit == "active");
        if !runs {
            for (box_key, _) in view.all(BOXES, &format!("{key}/"))? {
                if let Some(bytes) = view.signed(&format!("box/{box_key}"))? {
                    reply.boxes.push(wire::decode(&bytes)?);
                }
            }
        }
        Ok(reply)
    }

    /// This node as the freshest server's agent read it.
    fn seen_by_servers(&self, now: Now, name: &NodeName) -> Option<NodeSeen> {
        let fresh = self.heard.values().filter(|heard| now.mono_ms.saturating_sub(heard.at_ms) <= 30_000);
        let mut fresh: Vec<&Heard> = fresh.collect();
        fresh.sort_by_key(|heard| std::cmp::Reverse(heard.at_ms));
        fresh.iter().find_map(|heard| heard.report.nodes.iter().find(|node| node.name == *name)).cloned()
    }

    /// Relays an opaque box, if its sender is an admitted server and its recipient may have what is said to be inside.
    fn keep_box(
        &self,
        tx: &mut Tx,
        now: Now,
        asker: &Asker,
        name: &NodeName,
        sealed: &Signed<SealedBox>,
    ) -> Result<(), StoreError> {
        let verified = match sealed.verify(By::Key(self.trust.cluster, &asker.key), &Listener::default()) {
            Ok(verified) => verified.into_inner(),
            Err(why) => {
                return events::note(
                    tx,
                    now.unix_ms,
                    name.as_str(),
                    format!("a box was not relayed: {why}"),
                    None,
                );
            }
        };
        if let Err(why) = self.may_relay(tx, asker, name, &verified)? {
            return events::note(
                tx,
                now.unix_ms,
                name.as_str(),
                format!("a box was not relayed: {why}"),
                None,
            );
        }
        let key = format!("{}/{}", verified.to, verified.secret);
        let bytes = wire::encode(sealed);
        if tx.signed(&format!("box/{key}"))?.is_some_and(|known| known == bytes) {
            return Ok(());
        }
        tx.put_signed(&format!("box/{key}"), &bytes)?;
        tx.put(BOXES, &key, &BoxRow { from: verified.from, at_unix_ms: now.unix_ms })
    }

    fn may_relay(
        &self,
        tx: &Tx,
        asker: &Asker,
        name: &NodeName,
        sealed: &SealedBox,
    ) -> Result<Result<(), String>, StoreError> {
        let role = |name: &NodeName| self.config.machine(name).map(|machine| machine.role);
        if sealed.from != asker.print() {
            return Ok(Err("it names another sender".into()));
        }
        if role(name) != Some(Role::Server) {
            return Ok(Err("only servers make tokens".into()));
        }
        if sealed.to == self.home.recovery.fingerprint() || self.is_operator_print(tx, sealed.to)? {
            return Ok(Ok(()));
        }
        let Some(recipient) = tx.get(KEYS, &sealed.to.to_string())?.map(|row| row.name) else {
            return Ok(Err("its recipient is not admitted".into()));
        };
        Ok(match (sealed.secret, role(&recipient)) {
            (Secret::AgentToken, Some(_)) | (Secret::ServerToken, Some(Role::Server)) => Ok(()),
            (Secret::ServerToken, Some(Role::Worker)) => {
                Err(format!("`{recipient}` is a worker: it gets no server token"))
            }
            (Secret::Kubeconfig, _) => Err("a kubeconfig is for operators".into()),
            (Secret::AgentToken | Secret::ServerToken, None) => {
                Err(format!("`{recipient}` is no longer declared"))
            }
        })
    }

    fn is_operator_print(&self, tx: &Tx, print: Fingerprint) -> Result<bool, StoreError> {
        let operators = tx.get(crate::store::rows::OPERATORS, "operators")?.unwrap_or_default();
        Ok(operators.iter().any(|operator| operator.key.fingerprint() == print))
    }
}

fn empty_reply() -> SyncReply {
    SyncReply {
        manifest: None,
        roster: None,
        clock: None,
        grant: None,
        commands: Vec::new(),
        boxes: Vec::new(),
        node: None,
        next_ms: WAIT_MS,
    }
}

/// A command's result ends it; whose it was not is ignored.
/// The add-on that is there now, if that is what was done.
fn finish(
    tx: &mut Tx,
    now: Now,
    name: &NodeName,
    result: &CommandResult,
) -> Result<Option<(String, Digest)>, StoreError> {
    let key = number_key(result.fence);
    let Some(row) = tx.get(COMMANDS, &key)?.filter(|row| row.node == *name) else { return Ok(None) };
    tx.delete(COMMANDS, &key)?;
    let word = super::cluster_step::word(&row.action);
    let what = match &result.outcome {
        Ok(_) => format!("command {} ({word}) done", result.fence),
        Err(why) => format!("command {} ({word}) failed: {why}", result.fence),
    };
    events::note(tx, now.unix_ms, name.as_str(), what, None)?;
    Ok(result.outcome.as_ref().ok().and_then(|_| upkeep::applied(&row.action)))
}
