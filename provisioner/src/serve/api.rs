//! TLS on 7480: who may come in, and which route is whose.
//!
//! Every client shows an identity of this cluster in the handshake; the table below says which role may ask what. An
//! answer is made by one function on the core and sent after that has saved.

use super::shared::Shared;
use super::{agent_api, operator_api};
use crate::core::{Asker, Core, Now};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use muster_identity::{Peer, PeerRole, peer_of};
use muster_protocol::signed::Trust;
use muster_protocol::sync::MAX_BODY;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A thousand machines keep one connection each; more than this waits in the kernel's queue.
const CONNECTIONS: usize = 1536;
/// From one address: a machine has one, an operator a few.
const PER_ADDRESS: usize = 32;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Also how long an idle connection is kept: agents ask every few seconds.
const HEAD: Duration = Duration::from_secs(60);
/// For answers under way at the end.
const GRACE: Duration = Duration::from_secs(5);
const BODY: Duration = Duration::from_secs(20);

/// Which function answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Agent(agent_api::Route),
    Operator(operator_api::Route),
}

/// Method, path with `*` for one segment, route. Agents' routes are answered to node keys, operators' to operators.
const ROUTES: &[(&str, &str, Route)] = &[
    ("POST", "/agent/hello", Route::Agent(agent_api::Route::Hello)),
    ("POST", "/agent/v1/claim", Route::Agent(agent_api::Route::Claim)),
    ("POST", "/agent/v1/report", Route::Agent(agent_api::Route::Report)),
    ("POST", "/agent/v1/sync", Route::Agent(agent_api::Route::Sync)),
    ("GET", "/v1/status", Route::Operator(operator_api::Route::Status)),
    ("GET", "/v1/plan", Route::Operator(operator_api::Route::Plan)),
    ("GET", "/v1/seen", Route::Operator(operator_api::Route::Seen)),
    ("GET", "/v1/roster", Route::Operator(operator_api::Route::Roster)),
    ("GET", "/v1/events", Route::Operator(operator_api::Route::ClusterEvents)),
    ("GET", "/v1/nodes/*/explain", Route::Operator(operator_api::Route::Explain)),
    ("POST", "/v1/nodes/*/approve", Route::Operator(operator_api::Route::Approve)),
    ("POST", "/v1/nodes/*/install", Route::Operator(operator_api::Route::Install)),
    ("POST", "/v1/admission", Route::Operator(operator_api::Route::OpenWindow)),
    ("DELETE", "/v1/admission", Route::Operator(operator_api::Route::CloseWindow)),
    ("GET", "/v1/images", Route::Operator(operator_api::Route::Images)),
    ("POST", "/v1/images", Route::Operator(operator_api::Route::RegisterImage)),
    ("POST", "/v1/cluster/without", Route::Operator(operator_api::Route::Without)),
    ("POST", "/v1/cluster/abandon", Route::Operator(operator_api::Route::Abandon)),
    ("POST", "/v1/cluster/unlock", Route::Operator(operator_api::Route::Unlock)),
];

/// What is sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
}

pub(super) const OCTETS: &str = "application/octet-stream";

/// A refusal by the edge itself, as RFC 9457 wants it.
fn problem(status: u16, title: &str) -> Answer {
    operator_api::problem(status, title, None)
}

enum Found<'a> {
    Route(Route, Option<&'a str>),
    OtherMethod,
    Nothing,
}

fn find<'a>(method: &str, path: &'a str) -> Found<'a> {
    let mut other_method = false;
    for (known, pattern, route) in ROUTES {
        let Some(segment) = matches(pattern, path) else { continue };
        if *known == method {
            return Found::Route(*route, segment);
        }
        other_method = true;
    }
    if other_method { Found::OtherMethod } else { Found::Nothing }
}

/// `Some` when the path fits, with what stands for `*`.
fn matches<'a>(pattern: &str, path: &'a str) -> Option<Option<&'a str>> {
    let mut segment = None;
    let mut parts = path.split('/');
    for want in pattern.split('/') {
        let have = parts.next()?;
        if want == "*" && !have.is_empty() {
            segment = Some(have);
        } else if want != have {
            return None;
        }
    }
    parts.next().is_none().then_some(segment)
}

/// Everything between the request's bytes and the answer's. Pure but for the core.
fn respond(
    core: &mut Core,
    now: Now,
    peer: Peer,
    from: IpAddr,
    method: &str,
    path: &str,
    body: &[u8],
) -> Answer {
    let (route, segment) = match find(method, path) {
        Found::Route(route, segment) => (route, segment),
        Found::OtherMethod => return problem(405, "this path is asked with another method"),
        Found::Nothing => return problem(404, "there is no such path"),
    };
    let Some(key) = peer.key else { return problem(403, "a provisioner has nothing to ask here") };
    let asker = Asker { key, address: from };
    match (route, peer.role) {
        (Route::Agent(route), PeerRole::Agent) => agent_api::respond(core, now, &asker, route, body),
        (Route::Operator(route), PeerRole::Operator) => match core.is_operator(&key) {
            Ok(true) => operator_api::respond(core, now, &asker, route, segment, body),
            Ok(false) => problem(403, "this operator key is not known here"),
            Err(error) => operator_api::failed(&error),
        },
        (Route::Agent(_) | Route::Operator(_), _) => problem(403, "this path is not for your role"),
    }
}

/// Opens the TCP port on all addresses: operators also come from this host and from elsewhere.
pub fn open(port: u16) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM.cloexec(), None)?;
    // After a restart old connections may still be in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// What every connection needs.
#[derive(Clone)]
struct Hall {
    shared: Shared,
    trust: Arc<Trust>,
    tls: TlsAcceptor,
    stop: watch::Receiver<bool>,
}

/// Serves until `stop` says so, then lets answers under way go out.
pub async fn run(
    listener: std::net::TcpListener,
    tls: Arc<rustls::ServerConfig>,
    trust: Trust,
    shared: Shared,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let hall = Hall { shared, trust: Arc::new(trust), tls: tls.into(), stop: stop.clone() };
    let crowd = Crowd::default();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, from)) => {
                    if let Some(place) = crowd.enter(from.ip()) {
                        connections.spawn(serve(hall.clone(), stream, from, place));
                    } else {
                        tracing::debug!(%from, "too many connections from one address");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting failed");
                    // Out of descriptors: not in a circle.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = told(&mut stop) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn serve(hall: Hall, stream: TcpStream, from: SocketAddr, _place: Place) {
    let mut stop = hall.stop.clone();
    let served = tokio::select! {
        served = connection(hall, stream, from) => served,
        // A handshake need not be finished.
        () = told_long_ago(&mut stop) => Ok(()),
    };
    if let Err(why) = served {
        tracing::debug!(%from, why, "connection ended");
    }
}

/// The answers that were under way when `stop` came have had their time.
async fn told_long_ago(stop: &mut watch::Receiver<bool>) {
    told(stop).await;
    tokio::time::sleep(GRACE).await;
}

async fn told(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone has nothing more to say: that is the end, too.
    let _told = stop.wait_for(|stop| *stop).await.is_ok();
}

async fn connection(hall: Hall, stream: TcpStream, from: SocketAddr) -> Result<(), String> {
    // Answers are small and waited for.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let handshake = tokio::time::timeout(HANDSHAKE, hall.tls.accept(stream)).await;
    let stream =
        handshake.map_err(|_| "no handshake in time".to_string())?.map_err(|error| error.to_string())?;
    let peer = peer_of(stream.get_ref().1, &hall.trust).map_err(|error| error.to_string())?;
    let mut stop = hall.stop.clone();
    let service = service_fn(move |request| {
        let hall = hall.clone();
        async move { Ok::<_, Infallible>(answer(&hall, peer, from.ip(), request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(32)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(|error| error.to_string()),
        () = told(&mut stop) => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(|error| error.to_string())
}

async fn answer(hall: &Hall, peer: Peer, from: IpAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let (method, path): (Method, String) = (head.method, head.uri.path().to_string());
    let body = tokio::time::timeout(BODY, Limited::new(body, MAX_BODY).collect()).await;
    let answer = match body {
        Err(_) => problem(408, "the body did not come in time"),
        Ok(Err(_)) => problem(413, "the body is longer than 1 MiB, or broke off"),
        Ok(Ok(body)) => {
            let body = body.to_bytes();
            let told = path.clone();
            let asked = hall
                .shared
                .ask(move |core, now| respond(core, now, peer, from, method.as_str(), &path, &body))
                .await;
            asked.unwrap_or_else(|error| {
                tracing::error!(%error, path = told, "answering a request failed: this is a fault of muster");
                problem(500, "answering failed")
            })
        }
    };
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static(answer.content_type));
    response
}

/// How many connections each address has.
#[derive(Clone, Default)]
struct Crowd(Arc<Mutex<HashMap<IpAddr, usize>>>);

struct Place {
    crowd: Crowd,
    address: IpAddr,
}

impl Crowd {
    fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut crowd = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = crowd.entry(address).or_default();
        // Operators on this host share its address with everything else that runs here.
        if *count >= PER_ADDRESS && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Place { crowd: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut crowd = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = crowd.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                crowd.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_with_its_segment_and_nothing_near_it_is() {
        assert!(matches!(
            find("POST", "/v1/nodes/a/approve"),
            Found::Route(Route::Operator(operator_api::Route::Approve), Some("a"))
        ));
        assert!(matches!(find("GET", "/v1/nodes/a/approve"), Found::OtherMethod));
        for path in ["/v1/nodes//approve", "/v1/nodes/a/b/approve", "/v1/status/", "/agent/hello/x", "", "/"]
        {
            assert!(matches!(find("POST", path), Found::Nothing), "{path}");
        }
    }

    #[test]
    fn an_address_may_not_take_all_places() {
        let (crowd, address) = (Crowd::default(), IpAddr::from([10, 0, 0, 1]));
        let places: Vec<Place> = (0..PER_ADDRESS).filter_map(|_| crowd.enter(address)).collect();
        assert_eq!(places.len(), PER_ADDRESS);
        assert!(crowd.enter(address).is_none());
        drop(places);
        assert!(crowd.enter(address).is_some());
    }
}
