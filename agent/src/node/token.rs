//! One token as k3s writes it, and the hash of a CA that is in it.

use muster_protocol::ids::Digest;
use zeroize::Zeroizing;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is neither `K10<hash>::user:password` nor a bare password")]
pub struct Malformed;

/// A token as k3s writes it. Shows nothing of itself.
pub struct Token {
    /// The CA hash of a full token; a bare password has none.
    ca: Option<Digest>,
    text: Zeroizing<String>,
    password_at: usize,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token(ca: {:?})", self.ca)
    }
}

impl Token {
    /// `K10<64 hex>::<user>:<password>`, or a bare password of printable characters.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(Malformed);
        }
        let owned = || Zeroizing::new(text.to_owned());
        let Some(full) = text.strip_prefix("K10") else {
            return Ok(Self { ca: None, text: owned(), password_at: 0 });
        };
        let (hash, credentials) = full.split_once("::").ok_or(Malformed)?;
        let (_user, password) = credentials.split_once(':').ok_or(Malformed)?;
        let ca = hash.parse().map_err(|_| Malformed)?;
        if password.is_empty() {
            return Err(Malformed);
        }
        Ok(Self { ca: Some(ca), text: owned(), password_at: text.len() - password.len() })
    }

    pub fn ca(&self) -> Option<Digest> {
        self.ca
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// What stands behind the last colon; the whole of a bare one.
    pub fn password(&self) -> &str {
        &self.text[self.password_at..]
    }

    /// The same password with a CA hash and a user in front.
    pub(super) fn full(&self, ca: Digest, user: &str) -> Zeroizing<String> {
        Zeroizing::new(format!("K10{ca}::{user}:{}", self.password()))
    }
}

/// The hash in a `K10` token: of the PEM as served when it is one certificate, else of the last one's DER, which is
/// the root in the bundles k3s serves (k3s: pkg/clientaccess/token.go).
pub fn token_hash(cacerts: &[u8]) -> Option<Digest> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(cacerts).collect::<Result<_, _>>().ok()?;
    match certificates.as_slice() {
        [] => None,
        [_] => Some(Digest::of(cacerts)),
        [.., root] => Some(Digest::of(root)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/k3s");

    fn fixture(name: &str) -> String {
        std::fs::read_to_string(format!("{FIXTURES}/{name}")).unwrap()
    }

    #[test]
    fn recorded_tokens_are_read() {
        let token = Token::parse(&fixture("server-token.txt")).unwrap();
        assert_eq!(token.password(), "sekret-token-1");
        assert_eq!(token.ca(), token_hash(fixture("cacerts.pem").as_bytes()));
        let agent = Token::parse(&fixture("agent-token.txt")).unwrap();
        assert_eq!(agent.password(), "agentonly-7");
        assert_eq!(Token::parse("bare").unwrap().password(), "bare");
        for bad in [
            "",
            "K10",
            "K10zz::server:x",
            "a b",
            "K10733f::server:x",
            &format!("K10{}::server:", "0".repeat(64)),
        ] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_debug_form_shows_no_token() {
        let token = Token::parse(&fixture("server-token.txt")).unwrap();
        assert!(!format!("{token:?}").contains("sekret"));
    }
}
