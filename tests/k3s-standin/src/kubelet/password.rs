//! Node passwords: a file on the node, a secret in the cluster; the first one counts until the Node is deleted.
//!
//! The real secret holds scrypt; here it is salted SHA-256.

use crate::api::objects::{self, ObjectError, uuid};
use crate::api::store::Store;
use crate::base::paths::write;
use crate::base::pki::sha256_hex;
use serde_json::json;
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("node password rejected")]
    Rejected,
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// /etc/rancher/node/password: read if it is there, else 32 hexadecimal digits are made.
pub fn own(file: &Path) -> std::io::Result<String> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let made = uuid().replace('-', "");
            write(file, 0o600, made.as_bytes())?;
            Ok(made)
        }
        Err(e) => Err(e),
    }
}

pub fn path(node: &str) -> String {
    format!("/api/v1/namespaces/kube-system/secrets/{node}.node-password.k3s")
}

/// Remember the first password of a node; refuse another one.
pub async fn ensure(store: &Store, node: &str, password: &str) -> Result<(), PasswordError> {
    let salt = uuid();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "k3s.cattle.io/node-password", "immutable": true,
        "metadata": {"name": format!("{node}.node-password.k3s"), "namespace": "kube-system"},
        "data": {"salt": salt, "hash": sha256_hex(format!("{salt}{password}").as_bytes())},
    });
    match objects::create(store, &path(node), secret).await {
        Ok(_) => Ok(()),
        Err(ObjectError::Exists) => {
            let kept = objects::get(store, &path(node)).await?;
            let salt = kept["data"]["salt"].as_str().unwrap_or_default();
            let same = kept["data"]["hash"] == sha256_hex(format!("{salt}{password}").as_bytes());
            if same { Ok(()) } else { Err(PasswordError::Rejected) }
        }
        Err(e) => Err(e.into()),
    }
}
