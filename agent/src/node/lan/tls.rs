//! Full answers over TLS on 7481: `/status`, `/inventory`, `/metrics`, to operators of the roster and the provisioner.

use crate::node::lan::{Board, metrics};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use muster_identity::{Identity, IdentityError, Peer, PeerRole, peer_of, server_config};
use muster_protocol::roster::Roster;
use muster_protocol::signed::Signed;
use muster_protocol::wire;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Connections at once; one more waits in the kernel's queue.
const MAX_CONNECTIONS: usize = 16;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection, idle or slow, ends after this.
const LIFE: Duration = Duration::from_secs(60);

pub fn acceptor(board: &Board) -> Result<TlsAcceptor, IdentityError> {
    let identity = Identity::agent(board.cluster(), &board.key)?;
    Ok(TlsAcceptor::from(server_config(&identity, &board.trust)?))
}

/// Serves for ever.
pub async fn run(listener: TcpListener, acceptor: TlsAcceptor, board: Arc<Board>) -> io::Error {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let (acceptor, board) = (acceptor.clone(), board.clone());
                connections.spawn(async move {
                    let ended = tokio::time::timeout(LIFE, serve(stream, acceptor, board)).await;
                    if let Ok(Err(why)) = ended {
                        tracing::debug!(%why, "a connection on 7481 ended");
                    }
                });
            }
            Err(error) if is_passing(&error) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => return error,
        }
    }
}

/// Errors of one connection, or of a full table of files; the listener itself is well.
fn is_passing(error: &io::Error) -> bool {
    let full = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
        || error.raw_os_error().is_some_and(|code| full.contains(&code))
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, board: Arc<Board>) -> Result<(), String> {
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
    let stream = stream.map_err(|_| "the handshake took too long")?.map_err(|error| error.to_string())?;
    let peer = peer_of(stream.get_ref().1, &board.trust).map_err(|bad| bad.to_string())?;
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&board, peer, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(|error| error.to_string())
}

/// Whether this peer may ask here at all.
fn may_ask(peer: Peer, roster: Option<&Roster>) -> bool {
    match peer.role {
        PeerRole::Provisioner => true,
        PeerRole::Operator => roster
            .is_some_and(|roster| roster.operators.iter().any(|operator| Some(operator.key) == peer.key)),
        PeerRole::Agent => false,
    }
}

fn answer(board: &Board, peer: Peer, method: &Method, path: &str) -> Response<Full<Bytes>> {
    const WIRE: &str = "application/octet-stream";
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    if !may_ask(peer, board.roster().as_ref()) {
        return text(StatusCode::FORBIDDEN, "only operators of the roster are answered\n");
    }
    if method != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is known here\n");
    }
    let Some(status) = board.status() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "nothing was looked at yet\n");
    };
    match path {
        "/status" => body(wire::encode(&Signed::by_key(board.cluster(), &board.key, &status)), WIRE),
        "/inventory" => body(wire::encode(&board.inventory), WIRE),
        "/metrics" => body(metrics::text(&status).into_bytes(), TEXT),
        _unknown => text(StatusCode::NOT_FOUND, "known are /status, /inventory and /metrics\n"),
    }
}

fn body(bytes: Vec<u8>, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(kind));
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect;
    use crate::node::testing::{Cluster, a_status, scratch};
    use muster_identity::http::Client;
    use muster_identity::{Expect, client_config};
    use muster_protocol::inventory::Inventory;
    use muster_protocol::keys::SecretKey;
    use muster_protocol::signed::{By, Listener};
    use muster_protocol::status::Status;
    use std::net::SocketAddr;

    async fn node() -> (SocketAddr, tokio::task::JoinHandle<io::Error>) {
        let cluster = Cluster::new();
        let root = scratch();
        let board = Board::new(cluster.trust.clone(), cluster.node(1), detect::inventory(root.as_path()));
        board.post(a_status(1));
        board.trust_roster(cluster.roster());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let acceptor = acceptor(&board).unwrap();
        (at, tokio::spawn(run(listener, acceptor, Arc::new(board))))
    }

    fn client(at: SocketAddr, identity: &Identity) -> Client {
        let cluster = Cluster::new();
        let expect = Expect::Node(cluster.node(1).public());
        Client::new(at, client_config(identity, &cluster.trust, expect).unwrap())
    }

    async fn get(client: &mut Client, path: &str) -> (u16, Vec<u8>) {
        let answer = client.get(path, Duration::from_secs(5)).await.unwrap();
        (answer.status, answer.body)
    }

    #[tokio::test]
    async fn an_operator_gets_signed_status_inventory_and_metrics() {
        let cluster = Cluster::new();
        let (at, server) = node().await;
        let mut client = client(at, &Identity::operator(cluster.trust.cluster, &cluster.operator()).unwrap());
        let (code, body) = get(&mut client, "/status").await;
        assert_eq!(code, 200);
        let signed: Signed<Status> = wire::decode(&body).unwrap();
        let key = cluster.node(1).public();
        let status = signed.verify(By::Key(cluster.trust.cluster, &key), &Listener::default()).unwrap();
        assert_eq!(status.get(), &a_status(1));
        assert!(wire::decode::<Inventory>(&get(&mut client, "/inventory").await.1).is_ok());
        let (code, body) = get(&mut client, "/metrics").await;
        assert_eq!(code, 200);
        assert!(String::from_utf8(body).unwrap().contains("muster_node_state"));
        assert_eq!(get(&mut client, "/etc/passwd").await.0, 404);
        server.abort();
    }

    #[tokio::test]
    async fn agents_and_strange_operators_learn_nothing() {
        let cluster = Cluster::new();
        let (at, server) = node().await;
        for identity in [
            Identity::agent(cluster.trust.cluster, &cluster.node(2)),
            Identity::operator(cluster.trust.cluster, &SecretKey::from_seed([88; 32])),
        ] {
            let mut client = client(at, &identity.unwrap());
            for path in ["/status", "/inventory", "/metrics", "/x"] {
                assert_eq!(get(&mut client, path).await.0, 403);
            }
        }
        server.abort();
    }
}
