//! What makes a cluster: CAs, tokens, and the settings that must be equal. Made new, found on disk, or fetched with the token.

use crate::base::http::{Ask, Client, HttpError, basic};
use crate::base::paths::Paths;
use crate::base::pki::{Authority, Leaf, PkiError, ca_hash, read, store};
use crate::base::settings::Settings;
use crate::base::tls::Trust;
use crate::base::{log, pki};
use hyper::Method;
use hyper::body::Bytes;
use k3s_model::ids::CaHash;
use k3s_model::texts;
use k3s_model::token::{BadToken, Token};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// CA stems under server/tls and the names in their certificates.
const CAS: [(&str, &str); 5] = [
    ("server-ca", "k3s-server-ca"),
    ("client-ca", "k3s-client-ca"),
    ("request-header-ca", "k3s-request-header-ca"),
    ("etcd/server-ca", "etcd-server-ca"),
    ("etcd/peer-ca", "etcd-peer-ca"),
];

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Names the text that k3s prints for an unreachable server and for a differing CA hash alike.
    #[error("{text}: {0}", text = texts::TOKEN_NOT_VALIDATED)]
    Token(String),
    #[error("Get \"{server}/v1-k3s/server-bootstrap\": {why}")]
    Fetch { server: String, why: String },
    #[error("no {0} in the bootstrap data")]
    Incomplete(String),
    #[error("failed to validate server configuration: {}", texts::CRITICAL_MISMATCH)]
    Mismatch,
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// Passwords without their K10 prefix. `Debug` shows nothing of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    pub server: String,
    pub agent: Option<String>,
    pub ca_pem: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

/// All authorities of one server; made where they are missing.
pub struct Authorities {
    pub server: Authority,
    pub client: Authority,
    etcd_server: Authority,
    etcd_peer: Authority,
}

impl Authorities {
    pub fn ensure(paths: &Paths) -> Result<Self, PkiError> {
        let one = |index: usize| {
            let (stem, name) = CAS[index];
            Authority::ensure(&paths.tls().join(stem), name)
        };
        one(2)?;
        let service_key = paths.tls().join("service.key");
        if !service_key.exists() {
            let key = rcgen::KeyPair::generate()
                .map_err(|source| PkiError::Certificate { file: service_key.clone(), source })?;
            store(&service_key, 0o600, &key.serialize_pem())?;
        }
        Ok(Self { server: one(0)?, client: one(1)?, etcd_server: one(3)?, etcd_peer: one(4)? })
    }

    /// This server's own leaves, new at each start.
    pub fn write_leaves(
        &self,
        paths: &Paths,
        settings: &Settings,
        node: &str,
        ip: &str,
    ) -> Result<(), PkiError> {
        let (tls, etcd) = (paths.tls(), paths.etcd_tls());
        let local = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
        let mut sans = local.to_vec();
        sans.extend([ip, node, "kubernetes", "kubernetes.default", "10.43.0.1"].map(str::to_owned));
        sans.extend(settings.tls_san.iter().cloned());
        let mut etcd_sans = local.to_vec();
        etcd_sans.extend([ip.to_owned(), node.to_owned()]);
        let none: &[String] = &[];
        let leaf = |name, group, sans| Leaf { name, group, sans };
        self.server.write_leaf(&tls.join("serving-kube-apiserver"), &leaf("kube-apiserver", None, &sans))?;
        self.client
            .write_leaf(&tls.join("client-admin"), &leaf("system:admin", Some("system:masters"), none))?;
        self.etcd_server.write_leaf(&etcd.join("server-client"), &leaf("etcd-server", None, &etcd_sans))?;
        self.etcd_server.write_leaf(&etcd.join("client"), &leaf("etcd-client", None, none))?;
        self.etcd_peer.write_leaf(&etcd.join("peer-server-client"), &leaf("etcd-peer", None, &etcd_sans))
    }
}

/// Passwords from config, or from the files of an earlier start, or (a first start without one) new.
pub fn passwords(paths: &Paths, settings: &Settings) -> Result<(String, Option<String>), BadToken> {
    let kept = |file: &str| std::fs::read_to_string(paths.server().join(file)).ok();
    let server = match settings.token.clone().or_else(|| kept("token")) {
        Some(text) => Token::parse(&text)?.password,
        None => crate::api::objects::uuid().replace('-', ""),
    };
    let agent = settings.agent_token.as_deref().map(Token::parse).transpose()?.map(|t| t.password);
    Ok((server, agent))
}

/// server/token, server/agent-token, server/node-token: full K10 forms. Without an agent token of its own, the agent's file is
/// a link to the server's.
pub fn write_tokens(paths: &Paths, secrets: &Secrets) -> std::io::Result<()> {
    let hash = CaHash(ca_hash(secrets.ca_pem.as_bytes())).hex();
    let dir = paths.server();
    let file = |name: &str| dir.join(name);
    let full = |user: &str, password: &str| format!("K10{hash}::{user}:{password}\n");
    crate::base::paths::write(&file("token"), 0o600, full("server", &secrets.server).as_bytes())?;
    relink(&file("node-token"))?;
    match &secrets.agent {
        Some(agent) => crate::base::paths::write(&file("agent-token"), 0o600, full("node", agent).as_bytes()),
        None => relink(&file("agent-token")),
    }
}

fn relink(link: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(link) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    symlink("token", link)
}

/// What a joiner gets: CA files and the settings that must be equal.
pub fn bundle(paths: &Paths, settings: &Settings) -> Result<Value, PkiError> {
    let mut files = Map::new();
    for name in files_of_a_cluster() {
        files.insert(name.clone(), json!(read(&paths.tls().join(&name))?));
    }
    Ok(json!({"files": files, "critical": settings.critical}))
}

fn files_of_a_cluster() -> Vec<String> {
    let pairs = CAS.iter().flat_map(|(stem, _)| [format!("{stem}.crt"), format!("{stem}.key")]);
    pairs.chain(["service.key".to_owned()]).collect()
}

/// The CA of the server at `url`, checked against the token: a bare password pins nothing and is only warned about.
pub async fn trusted_ca(url: &str, token: &Token) -> Result<String, BootstrapError> {
    let path = "/cacerts";
    let told =
        |e: HttpError| BootstrapError::Token(format!("failed to get CA certs: Get \"{url}{path}\": {e}"));
    let client = Client::of_url(url, &Trust::Anybody, None).map_err(told)?;
    let reply = client.get(path, LIMIT).await.map_err(told)?;
    let found = CaHash(ca_hash(&reply.body));
    match token.ca {
        Some(pinned) if pinned != found => {
            return Err(BootstrapError::Token(format!(
                "token CA hash does not match the Cluster CA certificate hash: {} != {}",
                pinned.hex(),
                found.hex()
            )));
        }
        Some(_) => {}
        None => log::warn(texts::NO_CA_HASH),
    }
    Ok(reply.text())
}

/// Fetch a cluster's files with the server token and put them on disk; that is done before anybody agreed to the join.
pub async fn fetch(
    url: &str,
    token: &Token,
    paths: &Paths,
    settings: &Settings,
) -> Result<String, BootstrapError> {
    let ca = trusted_ca(url, token).await?;
    let failed = |why: String| BootstrapError::Fetch { server: url.to_owned(), why };
    let client = Client::of_url(url, &Trust::Ca(&ca), None).map_err(|e| failed(e.to_string()))?;
    let credentials = basic("server", &token.password);
    let ask = Ask {
        method: Method::GET,
        path: "/v1-k3s/server-bootstrap",
        headers: &[("authorization", &credentials)],
        body: Bytes::new(),
    };
    let reply = client.send(&ask, LIMIT).await.map_err(|e| failed(e.to_string()))?;
    if reply.status != 200 {
        return Err(failed(format!("{}: {}", reply.status, reply.message())));
    }
    let bundle = reply.json();
    let theirs: BTreeMap<String, String> =
        serde_json::from_value(bundle["critical"].clone()).unwrap_or_default();
    check_critical(&theirs, &settings.critical)?;
    unpack(&bundle, paths)?;
    Ok(ca)
}

/// Put a bundle's files under server/tls.
pub fn unpack(bundle: &Value, paths: &Paths) -> Result<(), BootstrapError> {
    for name in files_of_a_cluster() {
        let text = bundle["files"][&name].as_str().ok_or_else(|| BootstrapError::Incomplete(name.clone()))?;
        let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
        store(&paths.tls().join(&name), mode, text)?;
    }
    Ok(())
}

/// Where the datastore keeps the bundle: under a hash of the token's password, so that a snapshot is worth nothing without it.
/// The real one encrypts the bundle with the password; here it lies there in clear.
pub fn datastore_key(password: &str) -> String {
    format!("/bootstrap/{}", &pki::sha256_hex(password.as_bytes())[..12])
}

fn check_critical(
    theirs: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
) -> Result<(), BootstrapError> {
    let differing: Vec<&String> = theirs.keys().filter(|key| theirs.get(*key) != ours.get(*key)).collect();
    for key in &differing {
        log::warn(&format!("critical configuration mismatched: {key}"));
    }
    if differing.is_empty() { Ok(()) } else { Err(BootstrapError::Mismatch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_differing_shared_block_is_refused_with_the_recorded_text() {
        let theirs = BTreeMap::from([("secrets-encryption".to_owned(), "true".to_owned())]);
        let ours = BTreeMap::from([("secrets-encryption".to_owned(), "false".to_owned())]);
        let why = check_critical(&theirs, &ours).unwrap_err();
        let recorded = include_str!("../../fixtures/logs/texts.txt");
        assert!(recorded.contains(&format!("failed to bootstrap cluster data: {why}")));
        assert!(check_critical(&theirs, &theirs).is_ok());
    }

    #[test]
    fn without_an_agent_token_the_agent_s_file_is_a_link() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path(), None);
        let mut secrets = Secrets { server: "s".into(), agent: None, ca_pem: "x".into() };
        write_tokens(&paths, &secrets).unwrap();
        let agent = paths.server().join("agent-token");
        assert!(agent.is_symlink());
        secrets.agent = Some("a".into());
        write_tokens(&paths, &secrets).unwrap();
        assert!(!agent.is_symlink() && std::fs::read_to_string(agent).unwrap().ends_with("::node:a\n"));
    }
}
