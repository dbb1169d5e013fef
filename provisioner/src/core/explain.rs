//! Why a machine did not boot: inferred from what DHCP, TFTP and the agent's own words left behind.

use super::{Core, CoreError, Now, events, machine_row, macs_of};
use crate::config::meant::{Dhcp, Os};
use crate::store::rows::{EventRow, MachineRow, Trace};
use muster_protocol::ids::NodeName;
use serde::{Deserialize, Serialize};

/// An answer to "why".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub name: String,
    /// The furthest that it came, and what that means.
    pub verdict: String,
    /// What to look at next.
    pub next: Vec<String>,
    pub events: Vec<EventRow>,
}

/// What is known, as the inference sees it.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub os: Os,
    pub dhcp: Dhcp,
    pub trace: Option<&'a Trace>,
    pub row: &'a MachineRow,
    /// Unix milliseconds of the last word of its agent to this process.
    pub agent: Option<u64>,
    /// What it was told or says itself.
    pub reasons: &'a [String],
    pub state: &'a str,
}

/// Verdict and next steps.
pub fn infer(facts: &Facts<'_>) -> (String, Vec<String>) {
    let step =
        |verdict: &str, next: &[&str]| (verdict.to_string(), next.iter().map(ToString::to_string).collect());
    if facts.os == Os::Keep {
        return step(
            "it keeps its own system, so it gets no boot answer",
            &["os = \"muster\" in cluster.toml would change that"],
        );
    }
    let trace = facts.trace;
    let after_file = trace.and_then(|trace| trace.file_done.as_ref()).map(|done| done.at_unix_ms);
    let spoke = facts.agent.is_some_and(|at| after_file.is_none_or(|file| at >= file));
    if spoke || (facts.agent.is_some() && facts.state != "silent") {
        let verdict = format!("its agent speaks: it is {}", facts.state);
        let next =
            if facts.reasons.is_empty() { vec!["nothing is missing".into()] } else { facts.reasons.to_vec() };
        return (verdict, next);
    }
    let Some(trace) = trace.filter(|trace| **trace != Trace::default()) else {
        if facts.row.last_seen_unix_ms > 0 {
            return step(
                "it was known before, but nothing was heard of it since this provisioner started",
                &["is it switched on, and its cable plugged in?"],
            );
        }
        return step(
            "nothing was heard from its MAC addresses",
            &[
                "is it switched on, its cable plugged in, and network boot (PXE) on in its firmware?",
                "are the MAC addresses in cluster.toml right? `muster node list --seen` shows what else asks",
                "DHCP snooping or another VLAN would hide it, too",
            ],
        );
    };
    if let Some(done) = &trace.file_done {
        if trace.hello.is_some_and(|at| at >= done.at_unix_ms) {
            return step(
                "the boot image ran and its agent spoke, then fell silent",
                &[
                    "look at the machine's console: the agent's last words stay for 30 s",
                    "is the cable still plugged in?",
                ],
            );
        }
        return step(
            "the boot file was sent whole, but the agent did not speak",
            &[
                "Secure Boot may have refused it: the firmware then shows its menu or the next boot entry",
                "a kernel without a driver for this network card, or a panic: look at the console",
                "an agent of another cluster's image finds no beacon that it believes: was the image built with this state directory's trust?",
            ],
        );
    }
    if let Some((_, why)) = &trace.file_failed {
        let mut answer = step(
            "the boot file was begun and broke off",
            &["packet loss or a bad cable; a firewall that drops UDP after the first packets"],
        );
        answer.1.insert(0, why.clone());
        return answer;
    }
    if trace.file_start.is_some() {
        return step(
            "the boot file is being sent, or the machine went away in the middle",
            &["wait a minute and ask again"],
        );
    }
    if trace.ack_4011.is_some() {
        return step(
            "it was told its boot file, but did not ask for it",
            &[
                "a firewall in front of port 69/udp (TFTP), on this host or between",
                "`nft list ruleset` on this host",
            ],
        );
    }
    if trace.request_4011.is_some() {
        return step(
            "it asked on port 4011 and was not answered",
            &["see the log of `muster serve` for the reason"],
        );
    }
    if trace.offer.is_some() {
        let mut next = vec!["a firewall in front of port 4011/udp, on this host or between"];
        if facts.dhcp == Dhcp::Proxy {
            next.insert(0, "no other DHCP server gave it an address: proxy mode needs one on the LAN");
        }
        return step("it was offered a boot, but did not ask on port 4011", &next);
    }
    if trace.discover.is_some() {
        return step(
            "it asked for an address (DISCOVER) and was not answered by muster",
            &[
                "see the log of `muster serve` for the reason",
                "DHCP snooping may drop answers from this port of the switch",
            ],
        );
    }
    step(
        "only packets that muster ignores came from it",
        &["it asks for an address, but not for a network boot: is PXE on in its firmware?"],
    )
}

impl Core {
    pub fn explain(&self, now: Now, name: &NodeName) -> Result<Option<Explanation>, CoreError> {
        let Some(machine) = self.config.machine(name) else { return Ok(None) };
        let view = self.store.view()?;
        let row = machine_row(&view, name)?;
        let picture = self.picture(now)?;
        let part = picture.machines.into_iter().find(|part| part.name == name.as_str()).unwrap_or_default();
        let facts = Facts {
            os: machine.os,
            dhcp: self.config.provisioner.dhcp,
            trace: self.traces.of(&macs_of(&self.config, &row, name)),
            row: &row,
            agent: self.live.get(name).map(|live| live.heard_unix_ms),
            reasons: &part.reasons,
            state: &part.state,
        };
        let (verdict, next) = infer(&facts);
        let events = events::of(&view, name.as_str())?;
        Ok(Some(Explanation { name: name.to_string(), verdict, next, events }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rows::FileDone;

    fn verdict(trace: Trace) -> String {
        let row = MachineRow::default();
        let facts = Facts {
            os: Os::Muster,
            dhcp: Dhcp::Proxy,
            trace: Some(&trace),
            row: &row,
            agent: None,
            reasons: &[],
            state: "unseen",
        };
        let (verdict, next) = infer(&facts);
        format!("{verdict} | {}", next.join(" | "))
    }

    #[test]
    fn each_furthest_point_has_its_own_reason() {
        let discover = Trace { discover: Some(1), ..Trace::default() };
        let offer = Trace { offer: Some(2), ..discover.clone() };
        let ack = Trace { request_4011: Some(3), ack_4011: Some(4), ..offer.clone() };
        let done = FileDone { at_unix_ms: 9, name: "boot".into(), bytes: 1, ms: 5 };
        let sent = Trace { file_start: Some(5), file_done: Some(done), ..ack.clone() };
        let spoke = Trace { hello: Some(10), ..sent.clone() };
        for (trace, word) in [
            (Trace::default(), "nothing was heard"),
            (discover, "snooping"),
            (offer, "4011/udp"),
            (ack, "69/udp"),
            (sent, "Secure Boot"),
            (spoke, "fell silent"),
        ] {
            let text = verdict(trace);
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
