//! The API server's part of port 6443: health checks and objects, for holders of a client certificate.

use crate::api::objects::{self, ObjectError, Patch};
use crate::api::status;
use crate::base::web::{Answer, Asked};
use crate::etcd::gateway::EtcdError;
use crate::server::state::K3s;
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(8);
/// Quorum checks older than this fail /readyz.
const FRESH: Duration = Duration::from_secs(6);

pub async fn answer(k3s: &K3s, asked: &Asked) -> Answer {
    let Some(name) = asked.name.as_deref() else {
        return status::unauthorized();
    };
    if !k3s.ready.get() {
        return status::not_ready();
    }
    match asked.path.as_str() {
        "/readyz" | "/healthz" => return health(k3s, asked, "readyz"),
        "/livez" => return health(k3s, asked, "livez"),
        "/version" => return Answer::json(200, &json!({"gitVersion": k3s.release, "platform": "stand-in"})),
        _ => {}
    }
    if !may(name, &asked.method, &asked.path) {
        let message = format!("User {name:?} cannot {} {}", asked.method, asked.path);
        return status::api(403, "Forbidden", &message);
    }
    match objects_at(k3s, asked).await {
        Ok(answer) => answer,
        Err(ObjectError::NotFound) => {
            let (collection, name) = asked.path.rsplit_once('/').unwrap_or_default();
            status::not_found(collection.rsplit('/').next().unwrap_or_default(), name)
        }
        Err(e @ (ObjectError::Exists | ObjectError::Conflict)) => {
            status::api(409, "Conflict", &e.to_string())
        }
        Err(ObjectError::Etcd(e @ EtcdError::Http(_))) => {
            status::api(504, "Timeout", &format!("Timeout: request did not complete: {e}"))
        }
        Err(ObjectError::Etcd(e)) => status::api(500, "InternalError", &e.to_string()),
    }
}

/// A node's certificate changes its own Node and its own Lease; every certificate reads.
fn may(name: &str, method: &Method, path: &str) -> bool {
    let Some(node) = name.strip_prefix("system:node:") else { return true };
    let own_node = format!("/api/v1/nodes/{node}");
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    *method == Method::GET
        || path == own_node
        || path == format!("{own_node}/status")
        || (*method == Method::POST && (path == "/api/v1/nodes" || path == leases))
        || path == format!("{leases}/{node}")
}

async fn objects_at(k3s: &K3s, asked: &Asked) -> Result<Answer, ObjectError> {
    let path = asked.path.strip_suffix("/status").unwrap_or(&asked.path).trim_end_matches('/');
    let body = || -> Result<Value, Answer> {
        serde_json::from_slice(&asked.body).map_err(|e| status::api(400, "BadRequest", &e.to_string()))
    };
    let store = &k3s.store;
    if asked.method == Method::GET {
        return if is_collection(path) {
            let items = objects::list(store, path, LIMIT).await?;
            let (api_version, kind) = list_of(path);
            let list = json!({"apiVersion": api_version, "kind": kind, "metadata": {"resourceVersion": ""}, "items": items});
            Ok(Answer::json(200, &list))
        } else {
            Ok(Answer::json(200, &objects::get(store, path).await?))
        };
    }
    if asked.method == Method::DELETE {
        let object = objects::delete(store, path).await?;
        k3s.nudge.notify_one();
        return Ok(Answer::json(200, &object));
    }
    let body = match body() {
        Ok(body) => body,
        Err(answer) => return Ok(answer),
    };
    if asked.method == Method::POST {
        let Some(name) = body["metadata"]["name"].as_str().map(str::to_owned) else {
            return Ok(status::api(422, "Invalid", "metadata.name is required"));
        };
        return Ok(Answer::json(201, &objects::create(store, &format!("{path}/{name}"), body).await?));
    }
    if asked.method == Method::PATCH {
        let kind = asked.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let patch = match kind.split(';').next().unwrap_or_default() {
            "application/merge-patch+json" => Patch::Merge,
            "application/apply-patch+yaml" => match query(&asked.query, "fieldManager") {
                Some(manager) => Patch::Apply { manager },
                None => {
                    return Ok(status::api(400, "BadRequest", "fieldManager is required for apply patch"));
                }
            },
            other => {
                let message = format!("the stand-in does not know patch type {other:?}");
                return Ok(status::api(415, "UnsupportedMediaType", &message));
            }
        };
        return Ok(Answer::json(200, &objects::patch(store, path, &patch, &body).await?));
    }
    Ok(status::api(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    ))
}

/// `/api/v1/nodes`, `/apis/g/v/ks`, `/api/v1/namespaces/n/ks`: the name part is missing.
fn is_collection(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let rest = match parts.first() {
        Some(&"api") => parts.len().saturating_sub(2),
        _ => parts.len().saturating_sub(3),
    };
    let namespaced = parts.iter().rev().nth(rest.saturating_sub(1)) == Some(&"namespaces") && rest > 2;
    if namespaced { rest == 3 } else { rest == 1 }
}

/// Version and kind of a collection's answer, for the collections that Muster asks for.
fn list_of(path: &str) -> (&'static str, &'static str) {
    match path {
        "/api/v1/nodes" => ("v1", "NodeList"),
        "/apis/node.k8s.io/v1/runtimeclasses" => ("node.k8s.io/v1", "RuntimeClassList"),
        _ => ("v1", "List"),
    }
}

fn query(query: &str, key: &str) -> Option<String> {
    query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
}

/// The recorded list of checks; only `etcd` and `etcd-readiness` are looked at here, and a line says so.
fn health(k3s: &K3s, asked: &Asked, check: &str) -> Answer {
    let well = k3s.quorum_seen.get().elapsed() < FRESH;
    if !asked.query.contains("verbose") && well {
        return Answer::text(200, "ok");
    }
    let recorded = include_str!("../../fixtures/readyz-verbose.txt");
    let mut text = String::new();
    for line in recorded.lines().filter(|l| l.starts_with("[+]")) {
        let failed = !well && (line == "[+]etcd ok" || line == "[+]etcd-readiness ok");
        let name = line.trim_start_matches("[+]").trim_end_matches(" ok");
        text += &if failed { format!("[-]{name} failed: reason withheld\n") } else { format!("{line}\n") };
    }
    text += "[+]stand-in: only etcd and etcd-readiness are looked at ok\n";
    if well {
        Answer::text(200, format!("{text}{check} check passed\n"))
    } else {
        Answer::text(500, format!("{text}{check} check failed\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_and_objects_are_told_apart() {
        for path in ["/api/v1/nodes", "/apis/node.k8s.io/v1/runtimeclasses", "/api/v1/namespaces/x/secrets"] {
            assert!(is_collection(path), "{path}");
        }
        for path in [
            "/api/v1/nodes/a",
            "/api/v1/namespaces/kube-system",
            "/apis/node.k8s.io/v1/runtimeclasses/kata",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a",
        ] {
            assert!(!is_collection(path), "{path}");
        }
    }

    #[test]
    fn a_node_s_certificate_changes_only_its_own_node() {
        let may = |method, path| may("system:node:a", &method, path);
        assert!(may(Method::GET, "/api/v1/nodes/b"));
        assert!(may(Method::PATCH, "/api/v1/nodes/a/status"));
        assert!(!may(Method::PATCH, "/api/v1/nodes/b"));
        assert!(!may(Method::DELETE, "/api/v1/nodes/ab"));
    }
}
