//! The boots as a person reads them: one line per machine and stage, seconds since power-on.

use super::status::Machine;
use std::fmt::Write;

pub(crate) fn timeline(machines: &[&Machine], power_on_ms: u64) -> String {
    let mut out = String::new();
    for machine in machines {
        let _ = writeln!(out, "{} ({})", machine.name, machine.doing());
        for stage in &machine.stages {
            let at = match stage.at_unix_ms {
                Some(at) => format!("{:8.1} s", at.saturating_sub(power_on_ms) as f64 / 1000.0),
                None => "         ?".into(),
            };
            let _ = write!(out, "  {at}  {:12} {:8.1} s", stage.step, stage.ms as f64 / 1000.0);
            if let Some(bytes) = stage.bytes {
                let rate = bytes as f64 / 1e6 / (stage.ms.max(1) as f64 / 1000.0);
                let _ = write!(out, "  {:.0} MB, {rate:.0} MB/s", bytes as f64 / 1e6);
            }
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::status::Stage;
    use super::*;

    #[test]
    fn a_write_shows_its_rate() {
        let stage =
            Stage { step: "write".into(), at_unix_ms: Some(61_000), ms: 2000, bytes: Some(500_000_000) };
        let machine = Machine {
            name: "a".into(),
            state: Some("ready".into()),
            stages: vec![stage],
            ..Machine::default()
        };
        let text = timeline(&[&machine], 1_000);
        assert!(text.contains("    60.0 s  write             2.0 s  500 MB, 250 MB/s"), "{text}");
    }
}
