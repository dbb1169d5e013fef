//! A provisioner for this test alone: it relays boxes and clocks, serves artifacts, and grants starts one after the other.
//! The real sequencer is the provisioner's own and tested there.

use super::{CLUSTER, Lab, in_hub, key, name, online, role, sign, trust};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use muster_identity::{Identity, peer_of, server_config};
use muster_protocol::etcd::{GateRecord, Identity as Cluster, NodeSeen};
use muster_protocol::grant::{Action, Command, Grant, Start};
use muster_protocol::ids::{Digest, NodeName, Role};
use muster_protocol::keys::Fingerprint;
use muster_protocol::sealed::SealedBox;
use muster_protocol::signed::{By, Clock, Listener, Signed};
use muster_protocol::status::State;
use muster_protocol::sync::{SyncReply, SyncRequest};
use muster_protocol::wire;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio_rustls::TlsAcceptor;

const FENCE: u64 = 100;

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) last: BTreeMap<NodeName, SyncRequest>,
    pub(crate) boxes: BTreeMap<Fingerprint, Vec<Signed<SealedBox>>>,
    pub(crate) results: Vec<Result<String, String>>,
    /// Whose turn it is, and since when nothing is granted any more.
    pub(crate) granting: bool,
    turn: u8,
    identity: Option<Cluster>,
    pub(crate) away: bool,
    /// A removed server that may join anew, under a newer fence.
    pub(crate) rejoin: Option<u8>,
}

pub(crate) struct Provisioner {
    shared: Arc<(Mutex<Seen>, Condvar)>,
}

impl Provisioner {
    pub(crate) fn start(lab: &Lab) -> Self {
        let shared =
            Arc::new((Mutex::new(Seen { granting: true, turn: 1, ..Seen::default() }), Condvar::new()));
        let files = lab.artifacts.clone();
        let _for_ever = in_hub(move || serve_artifacts(&files));
        let state = shared.clone();
        let _for_ever = in_hub(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, serve_api(state));
        });
        Self { shared }
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.shared.0.lock().unwrap())
    }

    /// Waits for the sync after which it is so.
    pub(crate) fn wait(&self, what: &str, limit: Duration, is_so: impl Fn(&Seen) -> bool) {
        let (seen, synced) = &*self.shared;
        let until = Instant::now() + limit;
        let mut seen = seen.lock().unwrap();
        while !is_so(&seen) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited {limit:?} for {what}; last: {:#?}", summary(&seen));
            seen = synced.wait_timeout(seen, left).unwrap().0;
        }
    }
}

fn summary(seen: &Seen) -> Vec<String> {
    let line = |request: &SyncRequest| {
        let status = &request.status;
        let server = request.server.as_ref().map(|server| (&server.record, &server.own));
        format!("{:?} {} {:?} {server:?}", status.node, status.state, status.reasons)
    };
    seen.last.values().map(line).collect()
}

pub(crate) fn is_ready(seen: &Seen, n: u8) -> bool {
    seen.last.get(&name(n)).is_some_and(|request| request.status.state == State::Ready)
}

async fn serve_api(shared: Arc<(Mutex<Seen>, Condvar)>) {
    let identity = Identity::provisioner(CLUSTER, &online()).unwrap();
    let acceptor = TlsAcceptor::from(server_config(&identity, &trust()).unwrap());
    let listener = tokio::net::TcpListener::bind("10.77.0.1:7480").await.unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::task::spawn_local(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let peer = peer_of(stream.get_ref().1, &trust()).unwrap();
            let service = service_fn(move |request: Request<Incoming>| {
                let shared = shared.clone();
                async move {
                    assert_eq!(request.uri().path(), "/agent/v1/sync");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let request: SyncRequest = wire::decode(&body).unwrap();
                    assert_eq!(peer.key.map(|key| key.fingerprint()), Some(request.status.key));
                    if shared.0.lock().unwrap().away {
                        // As if nobody answered.
                        std::future::pending::<()>().await;
                    }
                    let reply = answer(&mut shared.0.lock().unwrap(), request);
                    shared.1.notify_all();
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(wire::encode(&reply)))))
                }
            });
            let _closed = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(seen: &mut Seen, request: SyncRequest) -> SyncReply {
    let me = request.status.node.clone().unwrap();
    let n = (1..=9).find(|n| name(*n) == me).unwrap();
    for sealed in &request.boxes {
        let by = key(n).public();
        let to = sealed.verify(By::Key(CLUSTER, &by), &Listener::default()).unwrap().get().to;
        seen.boxes.entry(to).or_default().push(sealed.clone());
    }
    seen.results.extend(request.results.iter().map(|result| result.outcome.clone()));
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let clock = request.clock_nonce.map(|nonce| sign(&Clock { unix_ms, nonce }));
    let wants = request.wants_grant;
    seen.last.insert(me.clone(), request);
    advance(seen);
    let its_turn = seen.turn == n || seen.rejoin == Some(n);
    let grant = (seen.granting && wants && its_turn).then(|| grant(seen, n)).flatten();
    // One command, to the first server, once it is up; its result ends it.
    let told = !seen.results.is_empty();
    let snapshot = Command {
        fence: super::number(50),
        node: name(1),
        key: key(1).public().fingerprint(),
        action: Action::Snapshot { name: "before-the-join".into() },
        expires_at: u64::MAX,
    };
    let commands =
        (n == 1 && seen.identity.is_some() && !told).then(|| sign(&snapshot)).into_iter().collect();
    SyncReply {
        manifest: None,
        roster: None,
        clock,
        grant: grant.map(|grant| sign(&grant)),
        commands,
        boxes: seen.boxes.get(&key(n).public().fingerprint()).cloned().unwrap_or_default(),
        node: node_seen(seen, &me),
        next_ms: 1000,
    }
}

/// The next server's turn comes when the one before is a ready member.
fn advance(seen: &mut Seen) {
    while let Some(request) = seen.last.get(&name(seen.turn)).filter(|_| role(seen.turn) == Role::Server) {
        let Some(server) = &request.server else { return };
        let GateRecord::Member { identity, .. } = server.record else { return };
        if !server.own.as_ref().is_some_and(|own| own.ready) {
            return;
        }
        seen.identity.get_or_insert(identity);
        seen.turn += 1;
    }
}

fn grant(seen: &Seen, n: u8) -> Option<Grant> {
    let again = if seen.rejoin == Some(n) { 100 } else { 0 };
    let start = if n == 1 {
        // Every server has said that it holds nothing.
        let blank =
            |n| seen.last.get(&name(n)).and_then(|r| r.server.as_ref()).is_some_and(|s| s.data.is_empty());
        if !(1..=3).all(blank) {
            return None;
        }
        Start::Init { nonce: [9; 16] }
    } else {
        let voters = (1..=3).filter(|other| *other < n || again > 0 && *other != n);
        let voters = voters.map(|n| (name(n), super::address(n))).collect();
        Start::Join { identity: seen.identity?, voters }
    };
    let fence = super::number(FENCE + again + u64::from(n));
    Some(Grant { fence, node: name(n), key: key(n).public().fingerprint(), start })
}

fn node_seen(seen: &Seen, me: &NodeName) -> Option<NodeSeen> {
    let servers = seen.last.values().filter_map(|request| request.server.as_ref());
    servers.flat_map(|server| &server.nodes).find(|node| node.name == *me).cloned()
}

fn serve_artifacts(files: &[Vec<u8>]) {
    let listener = TcpListener::bind("10.77.0.1:80").unwrap();
    for stream in listener.incoming().map_while(Result::ok) {
        let files = files.to_vec();
        let _until_closed = std::thread::spawn(move || {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut stream = stream;
            loop {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if reader.read_line(&mut head).unwrap_or(0) == 0 {
                        return;
                    }
                }
                let file = files.iter().find(|file| head.contains(&Digest::of(file).to_string()));
                let range =
                    head.split("bytes=").nth(1).and_then(|range| range.lines().next()?.split_once('-'));
                let (Some(file), Some((first, last))) = (file, range) else { return };
                let (first, last): (usize, usize) = (first.parse().unwrap(), last.trim().parse().unwrap());
                let part = &file[first..=last];
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{}\r\n\r\n",
                    part.len(),
                    file.len()
                );
                if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(part)).is_err() {
                    return;
                }
            }
        });
    }
}
