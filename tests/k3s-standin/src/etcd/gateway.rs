//! etcd's JSON gateway on https://127.0.0.1:2382, with the client certificate that k3s keeps beside its server's.

use crate::base::http::{Ask, Client, HttpError, base64, unbase64};
use crate::base::paths::Paths;
use crate::base::pki::{PkiError, read};
use crate::base::tls::{Pair, Trust};
use crate::etcd::listed::Listed;
use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;

const USUAL: Duration = Duration::from_secs(8);

#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// etcd's own words.
    #[error("{message}")]
    Refused { code: i64, message: String },
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("unexpected answer of etcd's gateway: {0}")]
    Odd(String),
}

/// What maintenance/status says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub cluster: u64,
    pub member: u64,
    pub leader: Option<u64>,
    pub learner: bool,
    pub version: String,
}

/// A stored value with the revision that a conditional write names.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    pub revision: u64,
}

pub struct Gateway {
    client: Client,
}

impl Gateway {
    pub fn open(paths: &Paths) -> Result<Self, EtcdError> {
        let dir = paths.etcd_tls();
        let (ca, crt, key) = (
            read(&dir.join("server-ca.crt"))?,
            read(&dir.join("client.crt"))?,
            read(&dir.join("client.key"))?,
        );
        let pair = Pair { crt: &crt, key: &key };
        Ok(Self { client: Client::new("127.0.0.1", 2382, &Trust::Ca(&ca), Some(pair))? })
    }

    pub async fn post(&self, path: &str, body: &Value, limit: Duration) -> Result<Value, EtcdError> {
        let ask = Ask {
            method: Method::POST,
            path,
            headers: &[("content-type", "application/json")],
            body: body.to_string().into(),
        };
        let reply = self.client.send(&ask, limit).await?;
        if reply.status == 200 {
            return serde_json::from_slice(&reply.body).map_err(|e| EtcdError::Odd(e.to_string()));
        }
        let json = reply.json();
        match json["message"].as_str() {
            Some(message) => Err(EtcdError::Refused {
                code: json["code"].as_i64().unwrap_or(0),
                message: message.to_owned(),
            }),
            None => Err(EtcdError::Odd(format!("HTTP {}: {}", reply.status, reply.text()))),
        }
    }

    pub async fn status(&self) -> Result<Status, EtcdError> {
        let v = self.post("/v3/maintenance/status", &json!({}), USUAL).await?;
        Ok(Status {
            cluster: number(&v["header"]["cluster_id"]).unwrap_or(0),
            member: number(&v["header"]["member_id"]).unwrap_or(0),
            leader: number(&v["leader"]).filter(|l| *l != 0),
            learner: v["isLearner"].as_bool().unwrap_or(false),
            version: v["version"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// Linearizable: an answer means that the quorum was there.
    pub async fn members(&self, limit: Duration) -> Result<Vec<Listed>, EtcdError> {
        let v = self.post("/v3/cluster/member/list", &json!({"linearizable": true}), limit).await?;
        let members = v["members"].as_array().ok_or_else(|| EtcdError::Odd(v.to_string()))?;
        Ok(members.iter().filter_map(Listed::from_gateway).collect())
    }

    pub async fn add_learner(&self, peer_url: &str, limit: Duration) -> Result<(), EtcdError> {
        let body = json!({"peerURLs": [peer_url], "isLearner": true});
        self.post("/v3/cluster/member/add", &body, limit).await.map(drop)
    }

    pub async fn promote(&self, id: u64) -> Result<(), EtcdError> {
        self.post("/v3/cluster/member/promote", &json!({"ID": id.to_string()}), USUAL).await.map(drop)
    }

    pub async fn remove(&self, id: u64) -> Result<(), EtcdError> {
        self.post("/v3/cluster/member/remove", &json!({"ID": id.to_string()}), USUAL).await.map(drop)
    }

    pub async fn transfer_leadership(&self, to: u64) -> Result<(), EtcdError> {
        let body = json!({"targetID": to.to_string()});
        self.post("/v3/maintenance/transfer-leadership", &body, USUAL).await.map(drop)
    }

    pub async fn get(&self, key: &str, limit: Duration) -> Result<Option<Entry>, EtcdError> {
        let v = self.post("/v3/kv/range", &json!({"key": base64(key.as_bytes())}), limit).await?;
        Ok(entries(&v).into_iter().next())
    }

    pub async fn list(&self, prefix: &str, limit: Duration) -> Result<Vec<Entry>, EtcdError> {
        let body = json!({"key": base64(prefix.as_bytes()), "range_end": base64(&past(prefix))});
        Ok(entries(&self.post("/v3/kv/range", &body, limit).await?))
    }

    /// Write if the key still has this revision (0: does not exist); false if it has another.
    pub async fn put_if(&self, key: &str, value: &[u8], revision: u64) -> Result<bool, EtcdError> {
        let key = base64(key.as_bytes());
        let body = json!({
            "compare": [{"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string()}],
            "success": [{"request_put": {"key": key, "value": base64(value)}}],
        });
        let v = self.post("/v3/kv/txn", &body, USUAL).await?;
        Ok(v["succeeded"].as_bool().unwrap_or(false))
    }

    pub async fn put(&self, key: &str, value: &[u8]) -> Result<(), EtcdError> {
        let body = json!({"key": base64(key.as_bytes()), "value": base64(value)});
        self.post("/v3/kv/put", &body, USUAL).await.map(drop)
    }

    pub async fn delete(&self, key: &str) -> Result<bool, EtcdError> {
        let v = self.post("/v3/kv/deleterange", &json!({"key": base64(key.as_bytes())}), USUAL).await?;
        Ok(number(&v["deleted"]).unwrap_or(0) > 0)
    }

    /// The whole datastore, as a stream of JSON objects with base64 blobs.
    pub async fn snapshot(&self) -> Result<Vec<u8>, EtcdError> {
        let ask = Ask {
            method: Method::POST,
            path: "/v3/maintenance/snapshot",
            headers: &[("content-type", "application/json")],
            body: "{}".into(),
        };
        let reply = self.client.send(&ask, Duration::from_secs(60)).await?;
        let mut out = Vec::new();
        for chunk in serde_json::Deserializer::from_slice(&reply.body).into_iter::<Value>() {
            let chunk = chunk.map_err(|e| EtcdError::Odd(e.to_string()))?;
            let blob = chunk["result"]["blob"].as_str().and_then(unbase64);
            out.extend(blob.ok_or_else(|| EtcdError::Odd(chunk["error"].to_string()))?);
        }
        Ok(out)
    }
}

impl EtcdError {
    /// No answer in time, in whichever layer: the quorum may be gone.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Http(HttpError::TimedOut) => true,
            Self::Refused { message, .. } => message.contains("timed out") || message.contains("no leader"),
            Self::Http(_) | Self::Pki(_) | Self::Odd(_) => false,
        }
    }
}

fn entries(v: &Value) -> Vec<Entry> {
    let kvs = v["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let entry = |kv: &Value| {
        Some(Entry {
            key: String::from_utf8(unbase64(kv["key"].as_str()?)?).ok()?,
            value: unbase64(kv["value"].as_str().unwrap_or_default())?,
            revision: number(&kv["mod_revision"])?,
        })
    };
    kvs.iter().filter_map(entry).collect()
}

/// 64-bit numbers are strings in the gateway's JSON.
fn number(v: &Value) -> Option<u64> {
    v.as_str()?.parse().ok()
}

/// The first key behind all keys with this prefix.
fn past(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}
