//! etcd's plain port 2381: what we read from it, and the unhealthy answers that stand in for it when etcd has ended.
//!
//! Real k3s keeps that port open after its etcd was told that it is removed; a child's port closes with it.

use crate::base::log;
use crate::base::web::{Answer, Handler, converse};
use std::collections::BTreeSet;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PORT: u16 = 2381;
const REMOVED_HEALTH: &str = "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}";

/// Ids of the peers that this etcd hears.
pub async fn active_peers() -> BTreeSet<u64> {
    scrape().await.map(|text| parse_active_peers(&text)).unwrap_or_default()
}

async fn scrape() -> std::io::Result<String> {
    let mut tcp = TcpStream::connect(("127.0.0.1", PORT)).await?;
    tcp.write_all(b"GET /metrics HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n").await?;
    let mut text = String::new();
    tcp.read_to_string(&mut text).await?;
    Ok(text)
}

fn parse_active_peers(text: &str) -> BTreeSet<u64> {
    let remote = |line: &str| {
        let rest = line.strip_prefix("etcd_network_active_peers{")?;
        let (labels, value) = rest.rsplit_once("} ")?;
        let id = labels.split_once("Remote=\"")?.1.split('"').next()?;
        (value.trim() == "1").then(|| u64::from_str_radix(id, 16).ok())?
    };
    text.lines().filter_map(remote).collect()
}

/// Answer on 2381 in the place of an etcd that has ended because its member was removed while it was down.
pub async fn stand_in_for_removed() {
    let listener = match TcpListener::bind(("127.0.0.1", PORT)).await {
        Ok(listener) => listener,
        Err(e) => return log::error(&format!("cannot keep port {PORT} open: {e}")),
    };
    let handler: Handler = Rc::new(|asked| {
        Box::pin(async move {
            match asked.path.as_str() {
                "/health" => Answer::raw_json(503, REMOVED_HEALTH.to_owned()),
                "/metrics" => Answer::text(200, "etcd_server_has_leader 0\netcd_server_is_learner 0\n"),
                _ => Answer::text(404, "404 page not found\n"),
            }
        })
    });
    loop {
        if let Ok((tcp, from)) = listener.accept().await {
            tokio::task::spawn_local(converse(tcp, from, None, handler.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_voter_hears_both_peers() {
        let peers = parse_active_peers(include_str!("../../fixtures/metrics-2381-voter.prom"));
        assert_eq!(peers, BTreeSet::from([0x528b_2b65_66c1_0909, 0x8f42_6e13_ce34_4ad1]));
    }

    #[test]
    fn a_removed_member_s_health_is_the_recorded_one() {
        assert_eq!(REMOVED_HEALTH, include_str!("../../fixtures/health-2381-no-leader.json").trim());
    }
}
