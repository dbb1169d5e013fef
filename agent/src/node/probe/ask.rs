//! One request to k3s or etcd: connect, ask, read the whole answer, within one limit. No connection is kept.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// Longest answer of our own k3s: a NodeList of a thousand nodes stays below.
const LONG: usize = 32 << 20;
/// Longest answer of whoever has an address: certificates, a list of members.
const SHORT: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{to} did not answer within {} ms", limit.as_millis())]
    TimedOut { to: SocketAddr, limit: Duration },
    #[error("cannot connect to {to}")]
    Connect { to: SocketAddr, source: std::io::Error },
    #[error("the TLS handshake with {to} failed")]
    Handshake { to: SocketAddr, source: std::io::Error },
    #[error("{to} broke off")]
    Broken { to: SocketAddr, source: hyper::Error },
    #[error("the answer of {to} is too long or was cut short")]
    Answer { to: SocketAddr },
    #[error("cannot use a certificate, key or header")]
    Setup,
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Status code and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub to: SocketAddr,
    pub path: &'a str,
    /// `POST` with this JSON, else `GET`.
    pub json: Option<&'a str>,
    /// Password of k3s's user `server`.
    pub server_password: Option<&'a str>,
    pub limit: Duration,
    /// Bytes of the answer.
    pub longest: usize,
}

impl<'a> Ask<'a> {
    pub fn get(to: SocketAddr, path: &'a str) -> Self {
        Self { to, path, json: None, server_password: None, limit: Duration::from_secs(2), longest: LONG }
    }

    /// Asked of another machine.
    pub fn short(self) -> Self {
        Self { longest: SHORT, ..self }
    }

    pub async fn plain(self) -> Result<Answer, AskError> {
        self.within(async { self.exchange(self.connect().await?).await }).await
    }

    pub async fn tls(self, config: &Arc<ClientConfig>) -> Result<Answer, AskError> {
        self.within(async { self.exchange(self.handshake(config).await?).await }).await
    }

    /// Whether something speaks TLS there, if only to refuse us. What it says to `path` does not matter, but a peer that
    /// we have a certificate for would log a connection without a question as rejected.
    pub async fn speaks_tls(self, config: &Arc<ClientConfig>) -> bool {
        match self.within(self.handshake(config)).await {
            Ok(stream) => {
                let _whatever = self.within(self.exchange(stream)).await;
                true
            }
            // An alert is spoken TLS; etcd sends one to clients without a certificate.
            Err(AskError::Handshake { source, .. }) => source
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
                .is_some_and(|error| matches!(error, rustls::Error::AlertReceived(_))),
            Err(_) => false,
        }
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, AskError>>) -> Result<T, AskError> {
        let Self { to, limit, .. } = *self;
        tokio::time::timeout(limit, work).await.unwrap_or(Err(AskError::TimedOut { to, limit }))
    }

    async fn connect(&self) -> Result<TcpStream, AskError> {
        let to = self.to;
        let stream = TcpStream::connect(to).await.map_err(|source| AskError::Connect { to, source })?;
        stream.set_nodelay(true).map_err(|source| AskError::Connect { to, source })?;
        Ok(stream)
    }

    async fn handshake(
        &self,
        config: &Arc<ClientConfig>,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, AskError> {
        let to = self.to;
        let name = ServerName::IpAddress(to.ip().into());
        TlsConnector::from(config.clone())
            .connect(name, self.connect().await?)
            .await
            .map_err(|source| AskError::Handshake { to, source })
    }

    async fn exchange<S>(&self, stream: S) -> Result<Answer, AskError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let to = self.to;
        let broken = |source| AskError::Broken { to, source };
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let method = if self.json.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(self.path).header("host", to.to_string());
        if self.json.is_some() {
            request = request.header("content-type", "application/json");
        }
        if let Some(password) = self.server_password {
            let pair = Zeroizing::new(format!("server:{password}"));
            let header = Zeroizing::new(format!("Basic {}", *base64(pair.as_bytes())));
            request = request.header("authorization", header.as_str());
        }
        let body = Bytes::copy_from_slice(self.json.unwrap_or_default().as_bytes());
        let request = request.body(Full::new(body)).map_err(|_| AskError::Setup)?;
        let talk = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), self.longest).collect().await;
            let body = body.map_err(|_| AskError::Answer { to })?.to_bytes().to_vec();
            Ok(Answer { status, body })
        };
        // The connection must be driven while we wait; it ends with our answer or with its own error.
        tokio::select! {
            answer = talk => answer,
            ended = driver => Err(match ended {
                Err(source) => AskError::Broken { to, source },
                Ok(()) => AskError::Answer { to },
            }),
        }
    }
}

/// Speaks to whoever answers: for what is public, and for hashes that are compared afterwards. With our own
/// certificate (PEM) if there is one.
pub fn anyone(own: Option<(&[u8], &[u8])>) -> Result<Arc<ClientConfig>, AskError> {
    let verifier = Arc::new(Anyone(Arc::new(ring::default_provider())));
    let config = ClientConfig::builder_with_provider(verifier.0.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    with_own(config, own)
}

/// Speaks only to holders of a certificate by this CA, with our own certificate if there is one (all PEM).
pub fn only(ca: &[u8], own: Option<(&[u8], &[u8])>) -> Result<Arc<ClientConfig>, AskError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate.map_err(|_| AskError::Setup)?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    with_own(config, own)
}

fn with_own(
    config: ConfigBuilder<ClientConfig, WantsClientCert>,
    own: Option<(&[u8], &[u8])>,
) -> Result<Arc<ClientConfig>, AskError> {
    let config = match own {
        None => config.with_no_client_auth(),
        Some((certificates, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| AskError::Setup)?;
            config.with_client_auth_cert(chain.map_err(|_| AskError::Setup)?, key)?
        }
    };
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// RFC 4648 §4, for one header.
fn base64(bytes: &[u8]) -> Zeroizing<String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Zeroizing::new(String::with_capacity(bytes.len().div_ceil(3) * 4));
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            if at <= chunk.len() {
                text.push(char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_rfc_4648() {
        for (plain, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(*base64(plain.as_bytes()), text);
        }
    }

    #[tokio::test]
    async fn a_closed_port_speaks_no_tls_and_answers_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        drop(listener);
        let ask = Ask::get(to, "/");
        assert!(!ask.speaks_tls(&anyone(None).unwrap()).await);
        assert!(matches!(ask.plain().await, Err(AskError::Connect { .. })));
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up_in_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let limit = Duration::from_millis(50);
        let ask = Ask { limit, ..Ask::get(listener.local_addr().unwrap(), "/") };
        assert!(matches!(ask.plain().await, Err(AskError::TimedOut { .. })));
    }
}
