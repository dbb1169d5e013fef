//! rustls configurations for both sides: the identity is the check; names and dates are not looked at.

use crate::certificate::{BadPeer, Identity, IdentityError, Peer, PeerRole, identify};
use muster_protocol::keys::PublicKey;
use muster_protocol::signed::Trust;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, Error,
    ServerConfig, SignatureScheme,
};
use std::sync::Arc;

/// Who must be at the other end.
#[derive(Debug, Clone)]
pub enum Expect {
    Provisioner,
    /// The agent with this key and no other.
    Node(PublicKey),
}

/// For a listener: every client must show an identity of this cluster; what it may do is the routes' business.
pub fn server_config(identity: &Identity, trust: &Trust) -> Result<Arc<ServerConfig>, IdentityError> {
    let verifier = Arc::new(Pinned::new(trust, None));
    let mut config = ServerConfig::builder_with_provider(verifier.provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key().into())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For a caller: the handshake fails unless the server is who was expected.
pub fn client_config(
    identity: &Identity,
    trust: &Trust,
    expect: Expect,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let verifier = Arc::new(Pinned::new(trust, Some(expect)));
    let mut config = ClientConfig::builder_with_provider(verifier.provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key.clone_key().into())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The identity of a connected peer, after the handshake.
pub fn peer_of(connection: &CommonState, trust: &Trust) -> Result<Peer, BadPeer> {
    let certificate =
        connection.peer_certificates().and_then(|chain| chain.first()).ok_or(BadPeer::NoCertificate)?;
    identify(certificate, trust)
}

#[derive(Debug)]
struct Pinned {
    trust: Trust,
    expect: Option<Expect>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn new(trust: &Trust, expect: Option<Expect>) -> Self {
        Self { trust: trust.clone(), expect, provider: Arc::new(ring::default_provider()) }
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), BadPeer> {
        let peer = identify(certificate, &self.trust)?;
        match (&self.expect, peer.role) {
            (None, _) | (Some(Expect::Provisioner), PeerRole::Provisioner) => Ok(()),
            (Some(Expect::Node(want)), PeerRole::Agent) if peer.key == Some(*want) => Ok(()),
            (Some(Expect::Node(_)), PeerRole::Agent) => Err(BadPeer::OtherNode),
            (Some(Expect::Provisioner), have) => Err(BadPeer::Unexpected { have, want: "the provisioner" }),
            (Some(Expect::Node(_)), have) => Err(BadPeer::Unexpected { have, want: "an agent" }),
        }
    }
}

fn refusal(bad: BadPeer) -> Error {
    Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(bad))))
}

/// The signature over the handshake proves that the peer holds the certificate's key, which the identity names.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion()).map_err(refusal)
    }

    handshake_signatures!();
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion()).map_err(refusal)
    }

    handshake_signatures!();
}
