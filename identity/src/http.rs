//! Requests over one pinned connection, kept open between them and made anew when it broke.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// Longest body that is read from a peer.
pub const MAX_ANSWER: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("cannot connect to {to}")]
    Connect { to: SocketAddr, source: std::io::Error },
    #[error("{to} is not the peer it should be: {why}")]
    NotThePeer { to: SocketAddr, why: String },
    #[error("{to} broke off the TLS handshake")]
    Handshake { to: SocketAddr, source: std::io::Error },
    #[error("the connection to {to} broke")]
    Broken { to: SocketAddr, source: hyper::Error },
    #[error("{to} did not answer within {} ms", limit.as_millis())]
    TimedOut { to: SocketAddr, limit: Duration },
    #[error("the answer of {to} is longer than {MAX_ANSWER} bytes or was cut short")]
    Answer { to: SocketAddr },
}

/// Status code and body of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// One peer. Requests go one after the other.
pub struct Client {
    to: SocketAddr,
    config: Arc<ClientConfig>,
    open: Option<Connection>,
}

impl Client {
    pub fn new(to: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self { to, config, open: None }
    }

    pub fn peer(&self) -> SocketAddr {
        self.to
    }

    pub async fn get(&mut self, path: &str, limit: Duration) -> Result<Response, RequestError> {
        self.request(Method::GET, path, "", Vec::new(), limit).await
    }

    pub async fn post(
        &mut self,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Response, RequestError> {
        self.request(Method::POST, path, content_type, body, limit).await
    }

    /// `limit` covers connecting, asking and the whole answer.
    pub async fn request(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Response, RequestError> {
        let to = self.to;
        let answer = tokio::time::timeout(limit, self.exchange(method, path, content_type, body)).await;
        let answer = answer.unwrap_or(Err(RequestError::TimedOut { to, limit }));
        if answer.is_err() {
            // A half-read answer would be taken for the next one.
            self.open = None;
        }
        answer
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Response, RequestError> {
        let to = self.to;
        let broken = |source| RequestError::Broken { to, source };
        let mut connection = match self.kept().await {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let mut request = Request::builder().method(method).uri(path).header("host", "muster");
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        let Ok(request) = request.body(Full::new(Bytes::from(body))) else {
            return Err(RequestError::Answer { to });
        };
        let response = connection.sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|_| RequestError::Answer { to })?
            .to_bytes()
            .to_vec();
        self.open = Some(connection);
        Ok(Response { status, body })
    }

    /// The connection of the last request, unless the other side has closed it meanwhile: seen before anything is sent.
    async fn kept(&mut self) -> Option<Connection> {
        let mut kept = self.open.take()?;
        kept.sender.ready().await.is_ok().then_some(kept)
    }

    async fn connect(&self) -> Result<Connection, RequestError> {
        let to = self.to;
        let stream = TcpStream::connect(to).await.map_err(|source| RequestError::Connect { to, source })?;
        // Requests are small and waited for: Nagle would only add 40 ms.
        stream.set_nodelay(true).map_err(|source| RequestError::Connect { to, source })?;
        let name = ServerName::IpAddress(to.ip().into());
        let stream = TlsConnector::from(self.config.clone())
            .connect(name, stream)
            .await
            .map_err(|source| handshake_error(to, source))?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| RequestError::Broken { to, source })?;
        let driver = tokio::spawn(async move {
            // Its error reaches the waiting request; here it would be told twice.
            let _told_to_the_request = driver.await;
        });
        Ok(Connection { sender, driver })
    }
}

/// rustls shows our own verdict in its Debug form only; take it out for people.
fn handshake_error(to: SocketAddr, source: std::io::Error) -> RequestError {
    let verdict = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if let Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(verdict))) = verdict {
        return RequestError::NotThePeer { to, why: verdict.0.to_string() };
    }
    RequestError::Handshake { to, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BadPeer, Expect, Identity, PeerRole, client_config, peer_of, server_config};
    use muster_protocol::ids::ClusterId;
    use muster_protocol::keys::SecretKey;
    use muster_protocol::signed::{Delegation, OnlineKey, Signed, Trust};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    const CLUSTER: ClusterId = ClusterId([9; 16]);

    fn trust(root: u8) -> Trust {
        let root = SecretKey::from_seed([root; 32]).public().verify;
        Trust { cluster: CLUSTER, cluster_name: "test".into(), root, build_epoch: 0 }
    }

    fn online(root: u8) -> OnlineKey {
        let secret = SecretKey::from_seed([200; 32]);
        let delegation = Delegation { number: 3, online: secret.public().verify };
        let delegation = Signed::by_key(CLUSTER, &SecretKey::from_seed([root; 32]), &delegation);
        OnlineKey { secret, delegation, number: 3 }
    }

    /// One connection: answers with who the client is, as many times as asked.
    async fn serve_one(identity: Identity) -> (SocketAddr, JoinHandle<Option<crate::Peer>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(server_config(&identity, &trust(1)).unwrap());
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.ok()?;
            let peer = peer_of(stream.get_ref().1, &trust(1)).unwrap();
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
            Some(peer)
        });
        (at, task)
    }

    #[tokio::test]
    async fn both_sides_learn_who_the_other_is_and_the_connection_is_kept() {
        let (at, server) = serve_one(Identity::provisioner(CLUSTER, &online(1)).unwrap()).await;
        let node = SecretKey::from_seed([5; 32]);
        let identity = Identity::agent(CLUSTER, &node).unwrap();
        let mut client = Client::new(at, client_config(&identity, &trust(1), Expect::Provisioner).unwrap());
        for _ in 0..3 {
            let answer =
                client.post("/x", "text/plain", b"hi".to_vec(), Duration::from_secs(5)).await.unwrap();
            assert_eq!(answer, Response { status: 200, body: b"ok".to_vec() });
        }
        drop(client);
        let peer = server.await.unwrap().unwrap();
        assert_eq!((peer.role, peer.key), (PeerRole::Agent, Some(node.public())));
    }

    async fn refused(server: Identity, expect: Expect) -> String {
        let (at, _server) = serve_one(server).await;
        let identity = Identity::agent(CLUSTER, &SecretKey::from_seed([5; 32])).unwrap();
        let mut client = Client::new(at, client_config(&identity, &trust(1), expect).unwrap());
        match client.get("/", Duration::from_secs(5)).await {
            Err(RequestError::NotThePeer { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_provisioner_of_another_root_is_refused() {
        let text = refused(Identity::provisioner(CLUSTER, &online(2)).unwrap(), Expect::Provisioner).await;
        assert!(text.contains("root key"), "{text}");
    }

    #[tokio::test]
    async fn an_agent_is_no_provisioner_and_no_other_agent() {
        let agent = || Identity::agent(CLUSTER, &SecretKey::from_seed([6; 32])).unwrap();
        let text = refused(agent(), Expect::Provisioner).await;
        assert!(text.contains("expected was the provisioner"), "{text}");
        let other = SecretKey::from_seed([7; 32]).public();
        let text = refused(agent(), Expect::Node(other)).await;
        assert!(text.contains(&BadPeer::OtherNode.to_string()), "{text}");
    }

    #[tokio::test]
    async fn a_node_of_another_cluster_is_refused_by_the_server() {
        let (at, server) = serve_one(Identity::provisioner(CLUSTER, &online(1)).unwrap()).await;
        let stranger = Identity::agent(ClusterId([1; 16]), &SecretKey::from_seed([5; 32])).unwrap();
        let mut client = Client::new(at, client_config(&stranger, &trust(1), Expect::Provisioner).unwrap());
        assert!(client.get("/", Duration::from_secs(5)).await.is_err());
        assert_eq!(server.await.unwrap(), None);
    }
}
