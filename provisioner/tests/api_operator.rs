//! Operators against the API, over TLS.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

mod api_support;

use api_support::{LIMIT, Served, ask, hello};
use muster_protocol::hello::Answer;
use muster_protocol::keys::SecretKey;
use muster_protocol::roster::Roster;
use muster_protocol::signed::{By, Listener, Signed};
use muster_protocol::wire;

fn problem(body: &[u8]) -> serde_json::Value {
    serde_json::from_slice(body).unwrap()
}

#[tokio::test]
async fn a_key_is_approved_by_its_fingerprint() {
    let served = Served::start().await;
    let key = SecretKey::from_seed([1; 32]);
    let mut machine = served.agent(&key);
    let waits: Answer = ask(&mut machine, "/agent/hello", &hello(1, 1)).await.unwrap();
    assert!(matches!(waits, Answer::Wait(_)));
    let print = key.public().fingerprint();
    let picture = served.get_json("/v1/status").await;
    assert_eq!(picture["machines"][0]["pending"][0]["key"], print.to_string());
    let unknown = served.post_json("/v1/nodes/one/approve", r#"{"key":"ABCD-EFGH-IJKL-MNOP"}"#).await;
    assert_eq!(unknown.status, 404);
    assert!(problem(&unknown.body)["hint"].as_str().unwrap().contains("node show one"));
    let approved = served.post_json("/v1/nodes/one/approve", &format!(r#"{{"key":"{print}"}}"#)).await;
    assert_eq!(approved.status, 200);
    let ordered: Answer = ask(&mut machine, "/agent/hello", &hello(1, 1)).await.unwrap();
    assert!(matches!(ordered, Answer::Install(_)));
    served.stop().await;
}

#[tokio::test]
async fn wrong_questions_are_answered_with_what_is_wrong() {
    let served = Served::start().await;
    for (path, body, status) in [
        ("/v1/admission", r#"{"minutes":0}"#, 422),
        ("/v1/admission", r#"{"minutes":"x"}"#, 400),
        ("/v1/nodes/nobody/install", "{}", 404),
        ("/v1/nodes/NOT_A_NAME/install", "{}", 404),
        ("/v1/nodes/one/install", "{}", 409),
        ("/v1/nodes/one/install", r#"{"plan":"zz"}"#, 400),
        ("/v1/cluster/unlock", "null", 409),
        ("/v1/cluster/abandon", r#"{"name":"one"}"#, 409),
        ("/v1/cluster/without", r#"{"name":"two"}"#, 409),
    ] {
        let answer = served.post_json(path, body).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", String::from_utf8_lossy(&answer.body));
        assert!(!problem(&answer.body)["title"].as_str().unwrap().is_empty());
    }
    let closed =
        served.operator().request(hyper::Method::DELETE, "/v1/admission", "", Vec::new(), LIMIT).await;
    assert_eq!(closed.unwrap().status, 409, "no window is open");
    served.stop().await;
}

#[tokio::test]
async fn the_roster_is_signed_and_lists_the_operator() {
    let served = Served::start().await;
    let answer = served.operator().get("/v1/roster", LIMIT).await.unwrap();
    let signed: Signed<Roster> = wire::decode(&answer.body).unwrap();
    let roster = signed.verify(By::Online(&served.trust), &Listener::default()).unwrap().into_inner();
    assert_eq!(roster.operators[0].key, served.operator.public());
    let again = served.operator().get("/v1/roster", LIMIT).await.unwrap();
    assert_eq!(again.body, answer.body, "the same content keeps its number");
    served.stop().await;
}

#[tokio::test]
async fn an_image_is_registered_only_with_its_file_in_place() {
    let served = Served::start().await;
    let images = served.get_json("/v1/images").await;
    assert_eq!(images.as_array().unwrap().len(), 4);
    let mut row = images[0].clone();
    row["files"][0]["digest"] = "00".repeat(32).into();
    let refused = served.post_json("/v1/images", &row.to_string()).await;
    assert_ne!(refused.status, 200);
    assert_eq!(served.get_json("/v1/images").await.as_array().unwrap().len(), 4);
    served.stop().await;
}
