//! HTTPS server: takes a request whole, calls one handler, answers.

use crate::base::{log, pki};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const BODY_LIMIT: usize = 16 << 20;
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A request with its body and what is known of the asker.
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub from: SocketAddr,
    /// Common name of a verified client certificate.
    pub name: Option<String>,
}

pub struct Answer {
    pub status: u16,
    pub kind: &'static str,
    pub body: Bytes,
}

pub type Handler = Rc<dyn Fn(Asked) -> Pin<Box<dyn Future<Output = Answer>>>>;

impl Asked {
    /// User and password of `Basic` credentials.
    pub fn credentials(&self) -> Option<(String, String)> {
        let value = self.headers.get(AUTHORIZATION)?.to_str().ok()?;
        let plain = crate::base::http::unbase64(value.strip_prefix("Basic ")?.trim())?;
        let (user, password) = std::str::from_utf8(&plain).ok()?.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Answer {
    pub fn text(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: body.into() }
    }

    pub fn json(status: u16, value: &serde_json::Value) -> Self {
        Self { status, kind: "application/json", body: value.to_string().into() }
    }

    pub fn raw_json(status: u16, text: String) -> Self {
        Self { status, kind: "application/json", body: text.into() }
    }
}

/// Accept for ever.
pub async fn run(listener: TcpListener, acceptor: TlsAcceptor, handler: Handler) {
    loop {
        let (tcp, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                log::warn(&format!("accept failed: {e}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, handler) = (acceptor.clone(), handler.clone());
        tokio::task::spawn_local(async move {
            let _ = tcp.set_nodelay(true);
            let Ok(Ok(tls)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await else { return };
            let certs = tls.get_ref().1.peer_certificates();
            let name = certs.and_then(|c| c.first()).and_then(|c| pki::common_name(c));
            converse(tls, from, name, handler).await;
        });
    }
}

/// One connection; a peer's nonsense ends it and nothing else.
pub async fn converse<S>(io: S, from: SocketAddr, name: Option<String>, handler: Handler)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, name) = (handler.clone(), name.clone());
        async move {
            let (head, body) = request.into_parts();
            let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
                return respond(Answer::text(413, "body too large\n"));
            };
            let asked = Asked {
                method: head.method,
                path: head.uri.path().to_owned(),
                query: head.uri.query().unwrap_or_default().to_owned(),
                headers: head.headers,
                body: body.to_bytes(),
                from,
                name,
            };
            respond(handler(asked).await)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(120));
    let _ = builder.serve_connection(TokioIo::new(io), service).await;
}

fn respond(answer: Answer) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = hyper::StatusCode::from_u16(answer.status).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(answer.kind));
    // every answer says whose it is
    response.headers_mut().insert("x-stand-in", hyper::header::HeaderValue::from_static("k3s-standin"));
    Ok(response)
}
