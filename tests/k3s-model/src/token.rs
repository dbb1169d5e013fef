//! K10 tokens: `K10<64 hex>::server:<pw>`, `K10<64 hex>::node:<pw>`, `K10<64 hex>::<6>.<16>`, or a bare password that pins no CA.

use crate::ids::CaHash;
use alloc::string::{String, ToString};
use core::fmt;

/// A parsed token; the password never shows in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The CA that the token pins; none in the short form.
    pub ca: Option<CaHash>,
    /// `server`, `node` or, for a bootstrap token, its 6-character id.
    pub user: Option<String>,
    pub password: String,
}

/// Why a text that starts like a full token is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    #[error("token is empty")]
    Empty,
    #[error("token starts with K10 but has no 64 hexadecimal digits before `::`")]
    Hash,
    #[error("token has neither `user:password` nor `id.secret` after `::`")]
    Credentials,
}

impl Token {
    pub fn parse(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        if text.is_empty() {
            return Err(BadToken::Empty);
        }
        let Some(rest) = text.strip_prefix("K10") else {
            return Ok(Self { ca: None, user: None, password: text.to_string() });
        };
        let (hash, credentials) = rest.split_once("::").ok_or(BadToken::Hash)?;
        let ca = Some(CaHash::parse(hash).ok_or(BadToken::Hash)?);
        let (user, password) = credentials
            .split_once(':')
            .or_else(|| {
                credentials.split_once('.').filter(|(id, secret)| id.len() == 6 && secret.len() == 16)
            })
            .ok_or(BadToken::Credentials)?;
        Ok(Self { ca, user: Some(user.to_string()), password: password.to_string() })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("ca", &self.ca).field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_tokens_parse() {
        let server = Token::parse(include_str!("../../k3s-standin/fixtures/server-token.txt")).unwrap();
        assert_eq!(server.user.as_deref(), Some("server"));
        assert_eq!(server.password, "sekret-token-1");
        let agent = Token::parse(include_str!("../../k3s-standin/fixtures/agent-token.txt")).unwrap();
        assert_eq!(agent.user.as_deref(), Some("node"));
        assert_ne!(agent.ca, server.ca);
    }

    #[test]
    fn a_bare_password_pins_no_ca() {
        assert_eq!(Token::parse("sekret").unwrap().ca, None);
    }

    #[test]
    fn a_short_hash_is_refused() {
        assert_eq!(Token::parse("K1012::server:x"), Err(BadToken::Hash));
        assert_eq!(Token::parse(" "), Err(BadToken::Empty));
    }

    #[test]
    fn a_password_does_not_show_in_debug() {
        assert!(!alloc::format!("{:?}", Token::parse("sekret").unwrap()).contains("sekret"));
    }
}
