//! A double of k3s for machines on which the real one cannot run: real etcd under the join table, texts and traps of k3s.
//!
//! It is honest: `--version` and the Node objects say what it is, `docs/stand-in.md` lists what it does not imitate. No pod ever
//! runs here. Everything lives in one thread.
#![forbid(unsafe_code)]

pub mod api; // the small Kubernetes API: objects in etcd's key-value store
pub mod base; // paths, settings, log lines, certificates, HTTPS: what everything leans on
pub mod cli; // what was asked: server, agent, kubectl, etcd-snapshot, --version
pub mod etcd; // the real etcd as a child, its JSON gateway, learners, removal
pub mod kubectl; // the verbs that Muster calls
pub mod kubelet; // the Node's part that both roles have: registration, heartbeat, containerd's config
pub mod server; // k3s server: bootstrap, join, supervisor port, readiness, controllers
pub mod snapshot; // k3s etcd-snapshot
pub mod supervisor;
pub mod worker; // k3s agent: bootstrap, load balancer // lab-supervisor: runs a unit file as shipped
