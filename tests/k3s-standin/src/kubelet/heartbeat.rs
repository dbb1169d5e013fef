//! Registration of the Node and its heartbeat, through whatever API server this node reaches.

use crate::base::clock::rfc3339_now;
use crate::base::http::{Ask, Client, HttpError, Reply};
use crate::base::log;
use crate::base::settings::Settings;
use crate::kubelet::machine::Machine;
use crate::kubelet::node::{self, Who};
use crate::server::controllers::{ready_status, set_condition};
use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(5);
/// A kubelet's own: a fourth of the lease.
const BEAT: Duration = Duration::from_secs(10);
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// A kubelet of this node.
pub struct Kubelet {
    pub name: String,
    pub ip: String,
    pub release: String,
    pub settings: Settings,
    pub machine: Machine,
    pub handlers: Vec<String>,
    /// A server's Node says that it is a voter.
    pub voter: bool,
}

impl Kubelet {
    fn who(&self) -> Who<'_> {
        Who { name: &self.name, ip: &self.ip, release: &self.release }
    }

    fn path(&self) -> String {
        format!("/api/v1/nodes/{}", self.name)
    }

    /// Register, or report anew on the Node that is there: its labels and taints stay as they are.
    pub async fn register(&self, api: &Client) -> Result<(), HttpError> {
        let now = rfc3339_now();
        let node = node::registration(&self.who(), &self.settings, &self.machine, &self.handlers, &now);
        let reply = send(api, Method::POST, "/api/v1/nodes", "application/json", &node).await?;
        if reply.status == 409 {
            let status = json!({"status": node::status(&self.who(), &self.machine, &self.handlers, &now)});
            let reply = merge(api, &format!("{}/status", self.path()), &status).await?;
            return accepted(&reply);
        }
        accepted(&reply)
    }

    /// Labels and annotations of a server, set when its own API is up.
    pub async fn mark_server(&self, api: &Client, member: &str) -> Result<(), HttpError> {
        accepted(&merge(api, &self.path(), &node::server_patch(member, &self.ip)).await?)?;
        self.report(api).await
    }

    /// Beat for ever.
    pub async fn beat(&self, api: &Client) {
        loop {
            let outcome = async {
                self.renew(api).await?;
                self.report(api).await
            };
            if let Err(e) = outcome.await {
                log::error(&format!("Error updating node status, will retry: {e}"));
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    async fn renew(&self, api: &Client) -> Result<(), HttpError> {
        let spec =
            json!({"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": rfc3339_now()});
        let reply = merge(api, &format!("{LEASES}/{}", self.name), &json!({"spec": spec})).await?;
        if reply.status != 404 {
            return accepted(&reply);
        }
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": self.name, "namespace": "kube-node-lease"}, "spec": spec,
        });
        accepted(&send(api, Method::POST, LEASES, "application/json", &lease).await?)
    }

    /// Ready (again), and for a server: a voter. A Node that was deleted is not made again: a kubelet registers at its start only.
    async fn report(&self, api: &Client) -> Result<(), HttpError> {
        let reply = api.get(&self.path(), LIMIT).await?;
        if reply.status == 404 {
            return Ok(());
        }
        accepted(&reply)?;
        let mut node = reply.json();
        let now = rfc3339_now();
        let voter_shown = node["status"]["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c["type"] == "EtcdIsVoter" && c["status"] == "True"));
        if ready_status(&node) == Some("True") && (voter_shown || !self.voter) {
            return Ok(());
        }
        if ready_status(&node) != Some("True") {
            set_condition(&mut node, &node::ready(&now));
        }
        if self.voter {
            set_condition(&mut node, &node::voter_condition(&now));
        }
        let conditions = json!({"status": {"conditions": node["status"]["conditions"]}});
        accepted(&merge(api, &format!("{}/status", self.path()), &conditions).await?)
    }
}

async fn merge(api: &Client, path: &str, patch: &Value) -> Result<Reply, HttpError> {
    send(api, Method::PATCH, path, "application/merge-patch+json", patch).await
}

async fn send(
    api: &Client,
    method: Method,
    path: &str,
    kind: &str,
    body: &Value,
) -> Result<Reply, HttpError> {
    let ask = Ask { method, path, headers: &[("content-type", kind)], body: body.to_string().into() };
    api.send(&ask, LIMIT).await
}

fn accepted(reply: &Reply) -> Result<(), HttpError> {
    match reply.status {
        200..=299 => Ok(()),
        status => Err(HttpError::Protocol(format!("{status}: {}", reply.message()))),
    }
}
