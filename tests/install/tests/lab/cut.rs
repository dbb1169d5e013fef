//! Where in an install the provisioner is killed: which exchange, and how far it had come.

use muster_protocol::ids::Digest;
use muster_protocol::sync::Report;
use muster_protocol::wire;
use std::collections::{BTreeMap, BTreeSet};

/// What passes between machine and provisioner, as far as an install is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exchange {
    /// The first `hello`: admitted, and an order is made.
    Order,
    Claim,
    /// Bytes of an artifact, by the name of its row and file.
    Fetch(&'static str),
    /// The report that says for the first time that this step is done.
    Told(String),
    /// The last report: installed.
    Installed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Killed before it heard the question.
    Unheard,
    /// Killed when it had answered, and saved what belongs to it; the answer is lost. Of an artifact half arrives.
    Unanswered,
    /// Killed when the answer was on its way, and arrives.
    Answered,
}

/// Tells exchanges from what passes by.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    cut: Option<(Exchange, Moment)>,
    hellos: u32,
    told: BTreeSet<String>,
}

impl Watch {
    pub(crate) fn arm(&mut self, exchange: Exchange, moment: Moment) {
        self.cut = Some((exchange, moment));
    }

    /// Whether it is to be killed in this one. Each cut is made once.
    pub(crate) fn due(&mut self, passing: &[Exchange]) -> Option<Moment> {
        let (exchange, moment) = self.cut.as_ref()?;
        let moment = passing.contains(exchange).then_some(*moment)?;
        self.cut = None;
        Some(moment)
    }

    /// What an agent's question is.
    pub(crate) fn question(&mut self, path: &str, body: &[u8]) -> Vec<Exchange> {
        match path {
            "/agent/hello" => {
                self.hellos += 1;
                if self.hellos == 1 { vec![Exchange::Order] } else { vec![] }
            }
            "/agent/v1/claim" => vec![Exchange::Claim],
            "/agent/v1/report" => self.report(&wire::decode(body).unwrap()),
            other => panic!("an installing machine does not ask `{other}`"),
        }
    }

    fn report(&mut self, report: &Report) -> Vec<Exchange> {
        let steps = report.status.stages.iter().map(|stage| &stage.step);
        let new: Vec<_> = steps.filter(|step| self.told.insert((*step).clone())).cloned().collect();
        let installed = report.installed.map(|_| Exchange::Installed);
        new.into_iter().map(Exchange::Told).chain(installed).collect()
    }
}

pub(crate) fn fetch(names: &BTreeMap<Digest, &'static str>, digest: &Digest) -> Vec<Exchange> {
    names.get(digest).map(|name| Exchange::Fetch(name)).into_iter().collect()
}
