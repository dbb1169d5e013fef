//! Agents against the API, over TLS.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

mod api_support;

use api_support::{LIMIT, Served, ask, claim, hello, order_for, status};
use muster_protocol::hello::{Answer, wait};
use muster_protocol::keys::SecretKey;
use muster_protocol::status::State;
use muster_protocol::sync::{Claim, ClaimAnswer, MAX_BODY, Noted, Report, SyncReply, SyncRequest};
use tokio::task::JoinSet;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

#[tokio::test]
async fn a_machine_is_admitted_ordered_and_installed_once() {
    let served = Served::start().await;
    let order = order_for(&served, &key(1), 1).await;
    assert!(matches!(claim(&served, &key(1), &order).await, ClaimAnswer::Held { .. }));
    let report =
        Report { status: status(&key(1), State::Installing), installed: Some(order.number), log: Vec::new() };
    let _: Noted = ask(&mut served.agent(&key(1)), "/agent/v1/report", &report).await.unwrap();
    assert!(matches!(claim(&served, &key(1), &order).await, ClaimAnswer::Refused { .. }), "it is done");
    let picture = served.get_json("/v1/status").await;
    assert_eq!(picture["machines"][0]["order"]["state"], "done");
    assert_eq!(picture["machines"][0]["state"], "installing");
    served.stop().await;
}

#[tokio::test]
async fn ten_machines_that_claim_one_order_at_once_give_exactly_one_holder() {
    let served = Served::start().await;
    let order = order_for(&served, &key(1), 1).await;
    let mut claims = JoinSet::new();
    for seed in 1..=10_u8 {
        let mut client = served.agent(&key(seed));
        let question = Claim { order: order.number, disk: order.disk.clone() };
        claims.spawn(async move {
            ask::<_, ClaimAnswer>(&mut client, "/agent/v1/claim", &question).await.unwrap()
        });
    }
    let answers = claims.join_all().await;
    assert_eq!(answers.iter().filter(|answer| matches!(answer, ClaimAnswer::Held { .. })).count(), 1);
    let explained = served.get_json("/v1/nodes/one/explain").await;
    let held = explained["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["what"].as_str().unwrap().contains("is held"));
    assert_eq!(held.count(), 1);
    served.stop().await;
}

#[tokio::test]
async fn a_second_key_for_an_admitted_name_gets_nothing() {
    let served = Served::start().await;
    let order = order_for(&served, &key(1), 1).await;
    let mut second = served.agent(&key(2));
    let Answer::Wait(told) = ask(&mut second, "/agent/hello", &hello(2, 1)).await.unwrap() else { panic!() };
    assert_eq!(told.code, wait::OTHER_KEY);
    let question = Claim { order: order.number, disk: order.disk.clone() };
    let answer: ClaimAnswer = ask(&mut second, "/agent/v1/claim", &question).await.unwrap();
    assert!(matches!(answer, ClaimAnswer::Refused { .. }));
    let request = SyncRequest {
        status: status(&key(2), State::Installed),
        seen: Default::default(),
        installed: None,
        server: None,
        wants_grant: true,
        results: Vec::new(),
        boxes: Vec::new(),
        clock_nonce: Some([1; 16]),
    };
    let reply: SyncReply = ask(&mut second, "/agent/v1/sync", &request).await.unwrap();
    let nothing = reply.manifest.is_none()
        && reply.roster.is_none()
        && reply.clock.is_none()
        && reply.grant.is_none()
        && reply.commands.is_empty()
        && reply.boxes.is_empty();
    assert!(nothing, "{reply:?}");
    served.stop().await;
}

#[tokio::test]
async fn agents_and_operators_each_have_their_own_routes() {
    let served = Served::start().await;
    let refused = served.agent(&key(1)).get("/v1/status", LIMIT).await.unwrap();
    assert_eq!(refused.status, 403);
    let refused = served.post_json("/agent/hello", "").await;
    assert_eq!(refused.status, 403);
    let unknown = served.operator_with(&key(9)).get("/v1/status", LIMIT).await.unwrap();
    assert_eq!(unknown.status, 403, "an operator key that nobody knows");
    let wrong_method = served.operator().get("/agent/hello", LIMIT).await.unwrap();
    assert_eq!(wrong_method.status, 405);
    assert_eq!(served.operator().get("/v1/nothing", LIMIT).await.unwrap().status, 404);
    served.stop().await;
}

#[tokio::test]
async fn a_body_that_is_too_long_or_nonsense_is_refused_and_the_next_request_is_answered() {
    let served = Served::start().await;
    let mut client = served.agent(&key(1));
    let nonsense = client.post("/agent/hello", "x", vec![0xff; 100], LIMIT).await.unwrap();
    assert_eq!(nonsense.status, 400);
    // The server may close before it has read all of it: both ends are a refusal.
    if let Ok(long) = client.post("/agent/hello", "x", vec![0; MAX_BODY + 1], LIMIT).await {
        assert_eq!(long.status, 413);
    }
    let answer: Answer = ask(&mut served.agent(&key(1)), "/agent/hello", &hello(1, 1)).await.unwrap();
    assert!(matches!(answer, Answer::Wait(_)));
    served.stop().await;
}

#[tokio::test]
async fn a_machine_of_another_cluster_does_not_come_in() {
    let served = Served::start().await;
    let mut foreign = served.trust.clone();
    foreign.cluster.0[0] ^= 1;
    let identity = muster_identity::Identity::agent(foreign.cluster, &key(1)).unwrap();
    let config =
        muster_identity::client_config(&identity, &served.trust, muster_identity::Expect::Provisioner);
    let mut client = muster_identity::http::Client::new(served.at, config.unwrap());
    assert!(client.get("/agent/hello", LIMIT).await.is_err());
    served.stop().await;
}

#[tokio::test]
async fn the_end_waits_for_no_idle_connection() {
    let served = Served::start().await;
    let mut client = served.agent(&key(1));
    let _: Answer = ask(&mut client, "/agent/hello", &hello(1, 1)).await.unwrap();
    let half_open = tokio::net::TcpStream::connect(served.at).await.unwrap();
    served.stop().await;
    drop((client, half_open));
}
