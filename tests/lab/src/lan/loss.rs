//! Packet loss by nft in the bridge's namespace: the kernel has no netem, but `numgen` works.

use anyhow::{Result, ensure};

/// One nft script that replaces the loss of one port. Each port has its own table, so that they do not touch each other.
pub(crate) fn rules(tap: &str, percent: u8) -> Result<String> {
    ensure!(percent <= 100, "{percent} % of the packets cannot be lost");
    let table = format!("loss_{tap}");
    // `add` before `delete`: deleting what is not there would be an error
    let mut script = format!("add table bridge {table}; delete table bridge {table};");
    // numgen's numbers end at 99, and nft refuses to compare them with more
    let chance = if percent == 100 { String::new() } else { format!("numgen random mod 100 < {percent} ") };
    if percent > 0 {
        script += &format!(
            " add table bridge {table}; add chain bridge {table} pass {{ type filter hook forward priority 0; }};\
             add rule bridge {table} pass iifname \"{tap}\" {chance}drop;\
             add rule bridge {table} pass oifname \"{tap}\" {chance}drop;"
        );
    }
    Ok(script)
}

/// One nft script that drops or lets through what is sent to a UDP port, whoever sends it.
pub(crate) fn port_rules(port: u16, dropped: bool) -> String {
    let table = format!("port_{port}");
    let mut script = format!("add table bridge {table}; delete table bridge {table};");
    if dropped {
        script += &format!(
            " add table bridge {table}; add chain bridge {table} pass {{ type filter hook forward priority 0; }};\
             add rule bridge {table} pass udp dport {port} drop;"
        );
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_loss_leaves_no_table() {
        assert_eq!(rules("tap0", 0).unwrap(), "add table bridge loss_tap0; delete table bridge loss_tap0;");
    }

    #[test]
    fn a_port_that_is_let_through_again_leaves_no_table() {
        assert!(port_rules(4011, true).contains("udp dport 4011 drop"));
        assert_eq!(port_rules(4011, false), "add table bridge port_4011; delete table bridge port_4011;");
    }

    #[test]
    fn loss_counts_both_ways() {
        let script = rules("tap3", 20).unwrap();
        assert!(script.contains("iifname \"tap3\" numgen random mod 100 < 20 drop"));
        assert!(script.contains("oifname \"tap3\" numgen random mod 100 < 20 drop"));
        assert!(rules("tap3", 101).is_err());
    }
}
