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

/// What the design asks of ours beside the best of the others.
pub(super) enum Budget {
    /// At least so many times the throughput, at most so many times the processor time.
    Throughput { faster: f64, cheaper: f64 },
}

/// Rows of one kind of load.
pub(super) struct Table {
    title: String,
    unit: &'static str,
    rows: Vec<Row>,
}

/// Its name, what each server did, and what is asked of ours.
type Row = (String, Vec<(Server, Option<Figure>)>, Budget);

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

/// The one in the middle by throughput; `None` when any run failed.
pub(super) fn median(figures: Vec<Option<Figure>>) -> Option<Figure> {
    let mut figures: Vec<Figure> = figures.into_iter().collect::<Option<_>>()?;
    figures.sort_by(|a, b| a.mb_per_s.total_cmp(&b.mb_per_s));
    figures.get(figures.len() / 2).copied()
}

impl Table {
    pub(super) fn new(title: &str, unit: &'static str) -> Self {
        Self { title: title.into(), unit, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, name: &str, figures: Vec<(Server, Option<Figure>)>, budget: Budget) {
        eprintln!("{}: {name}", self.title);
        self.rows.push((name.into(), figures, budget));
    }

    /// Prints all; whether every budget was met.
    pub(super) fn print(&self) -> bool {
        println!("\n## {}\n", self.title);
        let Some((_, first, _)) = self.rows.first() else { return true };
        let names: Vec<&str> = first.iter().map(|(server, _)| server.name()).collect();
        println!("Each: {} / processor seconds per GB.\n", self.unit);
        println!("| load | {} | beside the best peer | budget |", names.join(" | "));
        println!("|---|{}---|---|", "---|".repeat(names.len()));
        let mut all = true;
        for (name, figures, budget) in &self.rows {
            let shown: Vec<String> = figures.iter().map(|(_, figure)| show(*figure)).collect();
            let (ratio, verdict, met) = judge(figures, budget);
            all &= met;
            println!("| {name} | {} | {ratio} | {verdict} |", shown.join(" | "));
        }
        all
    }
}

fn show(figure: Option<Figure>) -> String {
    match figure {
        Some(Figure { mb_per_s, cpu_s_per_gb, narrowed }) => {
            let narrowed = narrowed.map(|window| format!(" (window {window})")).unwrap_or_default();
            format!("{mb_per_s:.1} / {cpu_s_per_gb:.2}{narrowed}")
        }
        None => "did not finish".into(),
    }
}

fn judge(figures: &[(Server, Option<Figure>)], budget: &Budget) -> (String, String, bool) {
    let Budget::Throughput { faster, cheaper } = budget;
    let wanted = if cheaper.is_finite() {
        format!("≥ {faster}×, ≤ {cheaper}× processor")
    } else {
        format!("≥ {faster}×")
    };
    let Some((_, Some(ours))) = figures.iter().find(|(server, _)| *server == Server::Muster) else {
        return ("ours did not finish".into(), format!("{wanted}: MISSED"), false);
    };
    let peers =
        || figures.iter().filter(|(server, _)| *server != Server::Muster).filter_map(|(_, figure)| *figure);
    let best = peers().map(|figure| figure.mb_per_s).fold(f64::NAN, f64::max);
    let thrift = peers().map(|figure| figure.cpu_s_per_gb).fold(f64::NAN, f64::min);
    if best.is_nan() {
        return ("no peer finished".into(), format!("{wanted}: met"), true);
    }
    let (speed, cost) = (ours.mb_per_s / best, ours.cpu_s_per_gb / thrift);
    let met = speed >= *faster && cost <= *cheaper;
    let verdict = if met { "met" } else { "MISSED" };
    (format!("{speed:.2}×, {cost:.2}× processor"), format!("{wanted}: {verdict}"), met)
}
