//! Figures, beside their budgets.

use super::load::Came;
use super::peers::Server;
use std::time::Duration;

/// What one server did with one load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figure {
    pub(super) mb_per_s: f64,
    pub(super) cpu_s_per_gb: f64,
    /// The window that it agreed to, where that is less than was asked for.
    pub(super) narrowed: Option<u16>,
}

/// What one server did with one load, or that it did not get to the end of it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Seen {
    Done(Figure),
    /// Not within the limit: its throughput was less than this.
    Late {
        below_mb_per_s: f64,
    },
}

/// What the design asks of ours beside the best of the others: at least so many times the throughput, at most so many times
/// the processor time.
pub(super) struct Budget {
    pub(super) faster: f64,
    pub(super) cheaper: f64,
}

/// Rows of one kind of load, each printed as it comes.
pub(super) struct Table {
    title: &'static str,
    begun: bool,
    /// Whether every budget was met so far.
    pub(super) met: bool,
}

impl Figure {
    pub(super) fn new(bytes: usize, came: &Came, took: Duration, cpu: Duration) -> Self {
        let bytes = bytes * came.rounds;
        #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
        let bytes = bytes as f64;
        Self {
            mb_per_s: bytes / 1e6 / took.as_secs_f64(),
            cpu_s_per_gb: cpu.as_secs_f64() / (bytes / 1e9),
            narrowed: came.narrowed,
        }
    }
}

impl Seen {
    pub(super) fn late(bytes: usize, limit: Duration) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
        Self::Late { below_mb_per_s: bytes as f64 / 1e6 / limit.as_secs_f64() }
    }

    fn mb_per_s(self) -> f64 {
        match self {
            Self::Done(figure) => figure.mb_per_s,
            Self::Late { below_mb_per_s } => below_mb_per_s,
        }
    }
}

/// The one in the middle by throughput; one that did not finish, when any did not.
pub(super) fn median(mut runs: Vec<Seen>) -> Seen {
    if let Some(late) = runs.iter().find(|seen| matches!(seen, Seen::Late { .. })) {
        return *late;
    }
    runs.sort_by(|a, b| a.mb_per_s().total_cmp(&b.mb_per_s()));
    runs[runs.len() / 2]
}

impl Table {
    pub(super) fn new(title: &'static str) -> Self {
        Self { title, begun: false, met: true }
    }

    pub(super) fn row(&mut self, name: &str, row: &[(Server, Seen)], budget: &Budget) {
        if !self.begun {
            self.begun = true;
            let names: Vec<&str> = row.iter().map(|(server, _)| server.name()).collect();
            println!("\n## {}\n\nEach: MB/s / processor seconds per GB.\n", self.title);
            println!("| load | {} | beside the best peer | budget |", names.join(" | "));
            println!("|---|{}---|---|", "---|".repeat(names.len()));
        }
        let shown: Vec<String> = row.iter().map(|(_, seen)| show(*seen)).collect();
        let (ratio, met) = judge(row, budget);
        self.met &= met;
        let Budget { faster, cheaper } = budget;
        let thrift = if cheaper.is_finite() { format!(", ≤ {cheaper}× processor") } else { String::new() };
        let verdict = if met { "met" } else { "MISSED" };
        println!("| {name} | {} | {ratio} | ≥ {faster}×{thrift}: {verdict} |", shown.join(" | "));
    }
}

fn show(seen: Seen) -> String {
    match seen {
        Seen::Done(Figure { mb_per_s, cpu_s_per_gb, narrowed }) => {
            let narrowed = narrowed.map(|window| format!(" (window {window})")).unwrap_or_default();
            // Where packets are lost a thousandth counts.
            let digits = if mb_per_s < 1.0 { 3 } else { 1 };
            format!("{mb_per_s:.digits$} / {cpu_s_per_gb:.2}{narrowed}")
        }
        Seen::Late { below_mb_per_s } => format!("did not finish: < {below_mb_per_s:.3}"),
    }
}

/// A peer that did not finish counts as if it had at the last moment.
fn judge(row: &[(Server, Seen)], budget: &Budget) -> (String, bool) {
    let Some((_, Seen::Done(ours))) = row.iter().find(|(server, _)| *server == Server::Muster) else {
        return ("ours did not finish".into(), false);
    };
    let peers = || row.iter().filter(|(server, _)| *server != Server::Muster).map(|(_, seen)| *seen);
    let best = peers().map(Seen::mb_per_s).fold(f64::NAN, f64::max);
    let cost = |seen| match seen {
        Seen::Done(figure) => figure.cpu_s_per_gb,
        Seen::Late { .. } => f64::NAN,
    };
    let thrift = peers().map(cost).fold(f64::NAN, f64::min);
    let (speed, cost) = (ours.mb_per_s / best, ours.cpu_s_per_gb / thrift);
    let met = speed >= budget.faster && (cost <= budget.cheaper || cost.is_nan());
    let cost = if cost.is_nan() { String::new() } else { format!(", {cost:.2}× processor") };
    (format!("{speed:.2}×{cost}"), met)
}
