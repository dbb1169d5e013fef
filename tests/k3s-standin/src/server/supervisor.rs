//! Port 6443: k3s's own paths, and the API server's behind them.

use crate::api::{objects, routes, status};
use crate::base::pki::{Leaf, read};
use crate::base::web::{Answer, Asked, Handler};
use crate::etcd::gateway::EtcdError;
use crate::etcd::listed::DbInfo;
use crate::kubelet::password;
use crate::server::bootstrap::{Authorities, bundle};
use crate::server::state::{K3s, Phase};
use hyper::Method;
use k3s_model::texts;
use serde_json::{Value, json};
use std::rc::Rc;
use std::time::Duration;

/// How long /db/info waits for etcd.
const DB_INFO_WAIT: Duration = Duration::from_secs(2);
const MEMBER_ADD_WAIT: Duration = Duration::from_secs(18);

/// Whose password came with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Nobody,
    Node,
    Server,
}

pub fn handler(k3s: Rc<K3s>, authorities: Rc<Authorities>) -> Handler {
    Rc::new(move |asked| {
        let (k3s, authorities) = (k3s.clone(), authorities.clone());
        Box::pin(async move { answer(&k3s, &authorities, &asked).await })
    })
}

async fn answer(k3s: &K3s, authorities: &Authorities, asked: &Asked) -> Answer {
    let holder = holder(k3s, asked);
    let read_only = asked.method == Method::GET || asked.method == Method::HEAD;
    match asked.path.as_str() {
        "/cacerts" if read_only => Answer::text(200, k3s.secrets.ca_pem.clone()),
        "/ping" if read_only => Answer::text(200, "pong"),
        "/db/info" if asked.from.ip().is_loopback() || holder == Holder::Server => db_info(k3s).await,
        "/db/info" => status::forbidden(),
        path if path.starts_with("/v1-k3s/") => own(k3s, authorities, asked, path, holder).await,
        _ => routes::answer(k3s, asked).await,
    }
}

fn holder(k3s: &K3s, asked: &Asked) -> Holder {
    let Some((user, password)) = asked.credentials() else { return Holder::Nobody };
    let agent = k3s.secrets.agent.as_ref().unwrap_or(&k3s.secrets.server);
    match user.as_str() {
        "server" if password == k3s.secrets.server => Holder::Server,
        "node" if password == k3s.secrets.server || password == *agent => Holder::Node,
        _ => Holder::Nobody,
    }
}

async fn own(k3s: &K3s, authorities: &Authorities, asked: &Asked, path: &str, holder: Holder) -> Answer {
    let by_certificate = asked.name.as_deref().is_some_and(|n| n.starts_with("system:node:"));
    let needs = match path {
        "/v1-k3s/server-bootstrap" | "/v1-k3s/standin/member-add" => Holder::Server,
        _ => Holder::Node,
    };
    if holder < needs && !(by_certificate && needs == Holder::Node) {
        return status::forbidden();
    }
    match path {
        "/v1-k3s/server-bootstrap" => match bundle(&k3s.paths, &k3s.settings) {
            Ok(bundle) => Answer::json(200, &bundle),
            Err(e) => status::supervisor(500, "InternalError", &e.to_string(), None),
        },
        "/v1-k3s/standin/member-add" => member_add(k3s, asked).await,
        "/v1-k3s/client-ca.crt" => file(k3s, "client-ca.crt"),
        "/v1-k3s/server-ca.crt" => file(k3s, "server-ca.crt"),
        _ if !k3s.ready.get() => status::not_ready(),
        "/v1-k3s/readyz" => Answer::text(200, "ok"),
        "/v1-k3s/apiservers" => apiservers(k3s).await,
        "/v1-k3s/config" => Answer::json(200, &json!({"critical": k3s.settings.critical})),
        "/v1-k3s/client-kubelet.crt" | "/v1-k3s/serving-kubelet.crt" => {
            kubelet_certificate(k3s, authorities, asked, path.contains("client-")).await
        }
        _ => status::supervisor(404, "NotFound", "the server could not find the requested resource", None),
    }
}

/// A list means that the quorum was there; without one this waits, as the real one does, before it says so.
async fn db_info(k3s: &K3s) -> Answer {
    match k3s.phase.get() {
        Phase::Sqlite => return status::etcd_disabled(),
        Phase::NotStarted => return status::no_member_list(texts::ETCD_NOT_STARTED),
        Phase::Lingering => {
            tokio::time::sleep(DB_INFO_WAIT).await;
            return status::no_member_list(texts::DEADLINE);
        }
        Phase::Etcd => {}
    }
    let since = tokio::time::Instant::now();
    match k3s.gateway.members(DB_INFO_WAIT).await {
        Ok(members) => match serde_json::to_string(&DbInfo { members }) {
            Ok(text) => Answer::raw_json(200, text + "\n"),
            Err(e) => status::no_member_list(&e.to_string()),
        },
        Err(EtcdError::Refused { message, .. }) if message == texts::NOT_FOR_LEARNER => {
            status::no_member_list(texts::NOT_FOR_LEARNER)
        }
        Err(EtcdError::Refused { .. } | EtcdError::Http(_) | EtcdError::Pki(_) | EtcdError::Odd(_)) => {
            tokio::time::sleep_until(since + DB_INFO_WAIT).await;
            status::no_member_list(texts::DEADLINE)
        }
    }
}

async fn member_add(k3s: &K3s, asked: &Asked) -> Answer {
    let url = String::from_utf8_lossy(&asked.body).into_owned();
    match k3s.gateway.add_learner(&url, MEMBER_ADD_WAIT).await {
        Ok(()) => Answer::text(200, "added\n"),
        Err(e) => status::supervisor(500, "InternalError", &e.to_string(), None),
    }
}

fn file(k3s: &K3s, name: &str) -> Answer {
    match read(&k3s.paths.tls().join(name)) {
        Ok(text) => Answer::text(200, text),
        Err(e) => status::supervisor(500, "InternalError", &e.to_string(), None),
    }
}

/// `["10.99.0.12:6443", …]`: the addresses of the control-plane Nodes, this one first.
async fn apiservers(k3s: &K3s) -> Answer {
    let nodes = objects::list(&k3s.store, "/api/v1/nodes", Duration::from_secs(4)).await.unwrap_or_default();
    let mut addresses = vec![format!("{}:{}", k3s.ip, k3s.settings.port)];
    for node in &nodes {
        let labelled = node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] == "true";
        if let Some(ip) = internal_ip(node).filter(|_| labelled) {
            let address = format!("{ip}:{}", k3s.settings.port);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    Answer::json(200, &json!(addresses))
}

pub fn internal_ip(node: &Value) -> Option<&str> {
    let addresses = node["status"]["addresses"].as_array()?;
    addresses.iter().find(|a| a["type"] == "InternalIP")?["address"].as_str()
}

/// A worker's certificate, against its node password: the first one is remembered, any other is refused.
async fn kubelet_certificate(k3s: &K3s, authorities: &Authorities, asked: &Asked, client: bool) -> Answer {
    let (Some(node), Some(secret)) = (asked.header("k3s-node-name"), asked.header("k3s-node-password"))
    else {
        return status::supervisor(400, "BadRequest", "node name or password not set", None);
    };
    if let Err(e) = password::ensure(&k3s.store, node, secret).await {
        return match e {
            password::PasswordError::Rejected => {
                Answer::text(403, format!("{}\n", texts::NODE_PASSWORD_REJECTED))
            }
            password::PasswordError::Object(e) => {
                status::supervisor(500, "InternalError", &e.to_string(), None)
            }
        };
    }
    let ip = asked.header("k3s-node-ip").unwrap_or_default();
    let sans: Vec<String> =
        [node, ip, "127.0.0.1"].iter().filter(|s| !s.is_empty()).map(|s| (*s).to_owned()).collect();
    let name = format!("system:node:{node}");
    let made = if client {
        authorities.client.leaf(&Leaf { name: &name, group: Some("system:nodes"), sans: &[] })
    } else {
        authorities.server.leaf(&Leaf { name: node, group: None, sans: &sans })
    };
    match made {
        Ok((crt, key)) => Answer::text(200, format!("{crt}{key}")),
        Err(e) => status::supervisor(500, "InternalError", &e.to_string(), None),
    }
}
