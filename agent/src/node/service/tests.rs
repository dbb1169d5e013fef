use super::*;
use crate::node::prepare::Span;
use crate::node::testing::{Cluster, node};
use crate::state::MANIFEST;
use muster_protocol::manifest::Manifest;

fn prepared_k3s() -> Prepared {
    Prepared { kata: None, k3s: Span { started_ms: 1, ended_ms: 2 }, waiting: vec![] }
}

#[tokio::test]
async fn files_of_a_manifest_that_was_replaced_meanwhile_count_for_nothing() {
    let cluster = Cluster::new();
    let root = node(&cluster, 4);
    let without_kata = |n| Manifest { number: Cluster::number(n), kata: None, ..cluster.manifest(4) };
    root.save(MANIFEST, &cluster.sign(&without_kata(10))).unwrap();
    let options = Options { root: (*root).clone(), boot: None, provisioner: None };
    let (mut service, _) = start(&options).await.unwrap();

    service.prepare_if_due();
    let failed = service.preparing.take().unwrap().await.unwrap();
    assert!(failed.is_err(), "there is nobody to fetch k3s from");
    root.save(MANIFEST, &cluster.sign(&without_kata(11))).unwrap();
    service.papers = Papers::read(&root).unwrap();
    let later = Instant::now() + Duration::from_secs(60);
    // A failure of the old ones is no trouble, and no reason to wait with the new ones; a success is none to start k3s.
    for done in [failed, Ok(prepared_k3s())] {
        service.prepare_at = later;
        service.prepared(done);
        assert!(service.prepared.is_none() && service.troubles.is_empty() && !service.timeline.has("k3s"));
        assert!(service.prepare_at < later);
    }

    service.preparing_for = Cluster::number(11);
    service.prepared(Ok(prepared_k3s()));
    assert!(service.prepared.is_some() && service.timeline.has("k3s"));
}
