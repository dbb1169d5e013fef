//! HTTPS client: one host, one idle connection kept, every request with a time limit.

use crate::base::tls::{self, Pair, TlsError, Trust};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// More than any snapshot of a stand-in's datastore.
const BODY_LIMIT: usize = 512 << 20;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("dial tcp {host}:{port}: connect: {}", reason(source))]
    Connect { host: String, port: u16, source: std::io::Error },
    #[error("tls: {0}")]
    Tls(std::io::Error),
    #[error("{0:?} is no host name")]
    Name(String),
    #[error("{0}")]
    Protocol(String),
    #[error("context deadline exceeded")]
    TimedOut,
    #[error(transparent)]
    Config(#[from] TlsError),
}

fn reason(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        _ => e.to_string(),
    }
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The `message` of a Status object, or the text itself.
    pub fn message(&self) -> String {
        let json = self.json();
        json["message"].as_str().map_or_else(|| self.text().trim().to_owned(), str::to_owned)
    }
}

/// What is sent.
pub struct Ask<'a> {
    pub method: Method,
    pub path: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: Bytes,
}

impl<'a> Ask<'a> {
    pub fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, headers: &[], body: Bytes::new() }
    }
}

/// A client of one host.
pub struct Client {
    host: String,
    port: u16,
    config: RefCell<Arc<rustls::ClientConfig>>,
    idle: RefCell<Option<SendRequest<Full<Bytes>>>>,
}

impl Client {
    pub fn new(host: &str, port: u16, trust: &Trust<'_>, pair: Option<Pair<'_>>) -> Result<Self, HttpError> {
        let config = Arc::new(tls::client(trust, pair)?);
        Ok(Self { host: host.to_owned(), port, config: RefCell::new(config), idle: RefCell::new(None) })
    }

    /// For an URL such as `https://10.77.0.11:6443`.
    pub fn of_url(url: &str, trust: &Trust<'_>, pair: Option<Pair<'_>>) -> Result<Self, HttpError> {
        let host = k3s_model::config::url_host(url);
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
        let port = rest.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(443);
        Self::new(host, port, trust, pair)
    }

    pub async fn get(&self, path: &str, limit: Duration) -> Result<Reply, HttpError> {
        self.send(&Ask::get(path), limit).await
    }

    pub async fn send(&self, ask: &Ask<'_>, limit: Duration) -> Result<Reply, HttpError> {
        tokio::time::timeout(limit, self.send_unlimited(ask)).await.unwrap_or(Err(HttpError::TimedOut))
    }

    async fn send_unlimited(&self, ask: &Ask<'_>) -> Result<Reply, HttpError> {
        let kept = self.idle.borrow_mut().take();
        if let Some(mut kept) = kept
            && kept.ready().await.is_ok()
            && let Ok(reply) = self.exchange(kept, ask).await
        {
            return Ok(reply);
        }
        // the server may have closed the kept connection just now: once more on a fresh one
        let fresh = self.connect().await?;
        self.exchange(fresh, ask).await
    }

    async fn exchange(
        &self,
        mut sender: SendRequest<Full<Bytes>>,
        ask: &Ask<'_>,
    ) -> Result<Reply, HttpError> {
        let protocol = |e: &dyn std::error::Error| HttpError::Protocol(e.to_string());
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(ask.path)
            .header("host", format!("{}:{}", self.host, self.port));
        for (name, value) in ask.headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(ask.body.clone())).map_err(|e| protocol(&e))?;
        let response = sender.send_request(request).await.map_err(|e| protocol(&e))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
        let body = body.map_err(|e| protocol(e.as_ref()))?.to_bytes();
        *self.idle.borrow_mut() = Some(sender);
        Ok(Reply { status, body })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        let at = |source| HttpError::Connect { host: self.host.clone(), port: self.port, source };
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(at)?;
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(self.host.clone()).map_err(|_| HttpError::Name(self.host.clone()))?;
        let config = self.config.borrow().clone();
        let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(HttpError::Tls)?;
        let (sender, connection) =
            handshake(TokioIo::new(tls)).await.map_err(|e| HttpError::Protocol(e.to_string()))?;
        tokio::task::spawn_local(async move {
            // its end is seen by the next request
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// `Basic` credentials.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| (n << 8) | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = (n >> (18 - 6 * i)) & 63;
            out.push(if i <= chunk.len() { char::from(ALPHABET[digit as usize]) } else { '=' });
        }
    }
    out
}

pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut n, mut bits) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        n = (n << 6) | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((n >> bits) as u8);
            n &= (1 << bits) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_agrees_with_its_rfc_and_comes_back() {
        for (plain, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), text);
            assert_eq!(unbase64(text).unwrap(), plain.as_bytes());
        }
        assert_eq!(unbase64("a*"), None);
    }
}
