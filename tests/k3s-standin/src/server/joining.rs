//! The join loop: each second, without limit, until the server asked lets this member in.
//!
//! The real k3s adds itself over gRPC at any member's port 2379; here the server asked does it for us at
//! `/v1-k3s/standin/member-add`.

use crate::base::faults::Fault;
use crate::base::http::{Ask, Client, HttpError, basic};
use crate::base::log;
use crate::etcd::config::{Initial, Member};
use crate::etcd::listed::{DbInfo, Listed};
use crate::server::state::K3s;
use hyper::Method;
use hyper::body::Bytes;
use k3s_model::join::{JoinStep, decide_join};
use k3s_model::texts;
use std::time::Duration;

const PERIOD: Duration = Duration::from_secs(1);
const ADD_LIMIT: Duration = Duration::from_secs(20);

/// The name is taken: the only way in which joining ends without a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinRefused {
    #[error("{}: {}", texts::JOIN_FAILED, texts::DUPLICATE_NAME)]
    Duplicate,
    #[error("{text}: {0}", text = texts::JOIN_FAILED)]
    Other(String),
}

/// Why one look did not end the loop, or why it did.
enum Look {
    In(Initial),
    Wait(String),
    Refused(JoinRefused),
}

pub async fn join(k3s: &K3s, server: &Client) -> Result<Initial, JoinRefused> {
    loop {
        match look(k3s, server).await {
            Look::In(initial) => return Ok(initial),
            Look::Wait(why) => log::info(&why),
            Look::Refused(why) => return Err(why),
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn look(k3s: &K3s, server: &Client) -> Look {
    let credentials = basic("server", &k3s.secrets.server);
    let headers: &[(&str, &str)] = &[("authorization", &credentials)];
    let ask = Ask { method: Method::GET, path: "/db/info", headers, body: Bytes::new() };
    let listed = match server.send(&ask, Duration::from_secs(5)).await {
        Ok(reply) if reply.status == 200 => match serde_json::from_slice::<DbInfo>(&reply.body) {
            Ok(info) => info.members,
            Err(e) => return wait_for_list(&e.to_string()),
        },
        Ok(reply) => return wait_for_list(&reply.message()),
        Err(e) => return wait_for_list(&e.to_string()),
    };
    let name = k3s.member_name.borrow().clone();
    let members: Vec<_> = listed.iter().map(Listed::to_model).collect();
    let me = Member { name: &name, ip: &k3s.ip, metrics_on_node_ip: false, debug: false };
    match decide_join(&members, &k3s.node, &name, &k3s.ip) {
        JoinStep::Duplicate => Look::Refused(JoinRefused::Duplicate),
        JoinStep::Alone => {
            log::info("Starting etcd for new cluster");
            Look::In(Initial::New)
        }
        JoinStep::GoOn { cluster } => started(cluster),
        JoinStep::Add { mut cluster } => {
            let url = me.peer_url();
            log::info(&format!("Adding member {name}={url} to etcd cluster {:?}", shown(&cluster)));
            match add(server, headers, &url).await {
                Ok(()) => {
                    if k3s.faults.is_on(Fault::JoinStopsAfterAdd) {
                        log::info("stand-in: stopped after the member add, as a test wants it");
                        std::future::pending::<()>().await;
                    }
                    cluster.push((name.clone(), url));
                    started(cluster)
                }
                Err(look) => look,
            }
        }
    }
}

fn started(cluster: Vec<(String, String)>) -> Look {
    log::info(&format!("Starting etcd to join cluster with members {:?}", shown(&cluster)));
    Look::In(Initial::Existing(cluster))
}

fn shown(cluster: &[(String, String)]) -> Vec<String> {
    cluster.iter().map(|(name, url)| format!("{name}={url}")).collect()
}

async fn add(server: &Client, headers: &[(&str, &str)], url: &str) -> Result<(), Look> {
    let ask = Ask {
        method: Method::POST,
        path: "/v1-k3s/standin/member-add",
        headers,
        body: Bytes::from(url.to_owned()),
    };
    match server.send(&ask, ADD_LIMIT).await {
        Ok(reply) if reply.status == 200 => Ok(()),
        Ok(reply) => Err(refused(&reply.message())),
        Err(HttpError::TimedOut) => Err(Look::Wait(texts::ADD_TIMED_OUT.to_owned())),
        Err(e) => Err(wait_for_list(&e.to_string())),
    }
}

/// What etcd said to the member add, sorted as k3s sorts it: two texts are waited for, a time-out is tried again, the rest ends.
fn refused(message: &str) -> Look {
    let waits = [texts::TOO_MANY_LEARNERS, texts::UNHEALTHY];
    if waits.contains(&message) {
        Look::Wait(format!("{}: {message}", texts::WAITING_TO_JOIN))
    } else if message.contains("timed out") || message.contains("deadline") || message == texts::NO_LEADER {
        Look::Wait(texts::ADD_TIMED_OUT.to_owned())
    } else {
        Look::Refused(JoinRefused::Other(message.to_owned()))
    }
}

fn wait_for_list(why: &str) -> Look {
    Look::Wait(format!("{}: {}: {why}", texts::WAITING_FOR_LIST, texts::LIST_FROM_SERVER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waiting_texts_are_the_recorded_ones() {
        let recorded = include_str!("../../fixtures/logs/texts.txt");
        let Look::Wait(text) = refused(texts::TOO_MANY_LEARNERS) else { panic!("not waiting") };
        assert!(recorded.contains(&text));
        let why = "Internal error occurred: failed to get etcd MemberList: context deadline exceeded";
        let Look::Wait(text) = wait_for_list(why) else { panic!("not waiting") };
        assert!(recorded.contains(&text));
        assert!(recorded.contains(&JoinRefused::Duplicate.to_string()));
    }

    #[test]
    fn any_other_refusal_ends_the_join() {
        assert!(matches!(refused(texts::MEMBER_EXISTS), Look::Refused(_)));
        assert!(matches!(refused(texts::REQUEST_TIMED_OUT), Look::Wait(_)));
    }
}
