//! The part of a k3s configuration that decides about membership.

use crate::token::Token;
use alloc::string::String;

/// What `config.yaml` says about starting or joining.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    pub cluster_init: bool,
    /// `server:`, an URL such as `https://10.77.0.11:6443`.
    pub server: Option<String>,
    pub token: Option<Token>,
    pub is_agent: bool,
}

/// The host part of an URL such as `https://10.77.0.11:6443`, without port or brackets.
pub fn url_host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('/').next().unwrap_or(rest);
    if let Some(six) = rest.strip_prefix('[') {
        return six.split(']').next().unwrap_or(six);
    }
    rest.rsplit_once(':').map_or(rest, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_url_s_host_has_neither_port_nor_brackets() {
        assert_eq!(url_host("https://10.77.0.11:6443"), "10.77.0.11");
        assert_eq!(url_host("https://[fd00::1]:6443/x"), "fd00::1");
        assert_eq!(url_host("k3s.lab"), "k3s.lab");
    }
}
