//! One start of `k3s agent`: it waits for ever where a server may still come, and ends where the real one ends.

use crate::base::http::{Ask, Client, HttpError, basic};
use crate::base::paths::Paths;
use crate::base::pki::{read, store};
use crate::base::settings::Settings;
use crate::base::tls::{Pair, Trust};
use crate::base::{log, notify};
use crate::kubelet::containerd::{self, ContainerdError};
use crate::kubelet::heartbeat::Kubelet;
use crate::kubelet::machine::{self, Machine};
use crate::kubelet::{node, password};
use crate::server::bootstrap::{BootstrapError, trusted_ca};
use crate::server::state::End;
use crate::worker::balancer::Balancer;
use anyhow::Context;
use hyper::Method;
use hyper::body::Bytes;
use k3s_model::config::Config;
use k3s_model::start::{Start, decide_start};
use k3s_model::token::Token;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const LIMIT: Duration = Duration::from_secs(5);
const CA_RETRY: Duration = Duration::from_secs(2);
const CONFIG_RETRY: Duration = Duration::from_secs(8);
const LIST_EACH: Duration = Duration::from_secs(10);

pub async fn run(settings: Settings, paths: Paths, release: &str) -> End {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return End::Fatal("cannot listen for signals".to_owned());
    };
    tokio::select! {
        end = live(settings, paths, release) => end,
        _ = term.recv() => End::Stopped,
        _ = int.recv() => End::Stopped,
    }
}

async fn live(settings: Settings, paths: Paths, release: &str) -> End {
    match try_live(settings, paths, release).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

async fn try_live(settings: Settings, paths: Paths, release: &str) -> Result<std::convert::Infallible, End> {
    let fatal = |e: anyhow::Error| End::Fatal(format!("Error: {e:#}"));
    let token = settings.token.as_deref().map(Token::parse).transpose();
    let token = token.context("normalizing token").map_err(fatal)?;
    let config =
        Config { cluster_init: false, server: settings.server.clone(), token: token.clone(), is_agent: true };
    let server = match decide_start(&paths.disk_facts(), &config) {
        Start::Agent { server } => server,
        Start::Fatal(why) => return Err(End::Fatal(format!("Error: {why}"))),
        other @ (Start::ExistingMember
        | Start::NewEtcdCluster
        | Start::Join { .. }
        | Start::NewSqlite
        | Start::ExistingSqlite
        | Start::Migrate
        | Start::RejoinAfterTombstone { .. }) => {
            return Err(End::Fatal(format!("Error: an agent cannot start as {other:?}")));
        }
    };
    let Some(token) = token else { return Err(End::Fatal("Error: --token is required".to_owned())) };
    let name = settings.node_name.clone().unwrap_or_else(machine::hostname);
    let ip = settings.node_ip.clone().or_else(|| machine::default_ip().map(|ip| ip.to_string()));
    let ip =
        ip.ok_or_else(|| End::Fatal("Error: no default routes found in \"/proc/net/route\"".to_owned()))?;
    let secret = password::own(&paths.node_password()).context("node password").map_err(fatal)?;

    let balancer = Rc::new(Balancer::open(&paths.balancer_state(), &server));
    let local = format!("https://127.0.0.1:{}", settings.balancer_port);
    let listener = TcpListener::bind(("127.0.0.1", settings.balancer_port))
        .await
        .with_context(|| format!("listen tcp {local}"))
        .map_err(fatal)?;
    log::info(&format!("Running load balancer k3s-agent-load-balancer 127.0.0.1:{}", settings.balancer_port));
    tokio::task::spawn_local(balancer.clone().run(listener));

    certificates(&paths, &server, &token, &name, &ip, &secret).await;

    let handlers = containerd::prepare(&paths).map_err(|e| {
        log::error(&format!("containerd: {e}"));
        End::Shutdown(ContainerdError::shutdown_text().to_owned())
    })?;
    if let Some(label) = node::refused_label(&settings) {
        return Err(End::Shutdown(format!(
            "kubelet exited: failed to validate kubelet flags: unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{label}]"
        )));
    }
    let api = node_client(&paths, settings.balancer_port).map_err(fatal)?;
    let kubelet = Kubelet {
        name,
        ip,
        release: release.to_owned(),
        settings,
        machine: Machine::read(),
        handlers,
        voter: false,
    };
    loop {
        match kubelet.register(&api).await {
            Ok(()) => break,
            Err(e) => log::info(&format!("Waiting for API server to become available: {e}")),
        }
        tokio::time::sleep(CA_RETRY).await;
    }
    log::info("k3s agent is up and running");
    notify::ready();
    tokio::task::spawn_local(follow_servers(paths.clone(), balancer, kubelet.settings.balancer_port));
    kubelet.beat(&api).await;
    Err(End::Stopped)
}

/// Certificates from the server, tried again for ever. An agent that has its own goes on with a wrong or rotated token: the
/// certificate counts.
async fn certificates(paths: &Paths, server: &str, token: &Token, name: &str, ip: &str, secret: &str) {
    let have = ["client-kubelet.crt", "client-kubelet.key", "server-ca.crt"];
    if have.iter().all(|f| paths.agent().join(f).exists()) {
        return;
    }
    loop {
        match fetch(paths, server, token, name, ip, secret).await {
            Ok(()) => return,
            Err(NoCertificates::Ca(e)) => {
                let why = match e {
                    BootstrapError::Token(why) => why,
                    other => other.to_string(),
                };
                log::error(&format!("Failed to validate connection to cluster at {server}: {why}"));
                tokio::time::sleep(CA_RETRY).await;
            }
            Err(NoCertificates::Refused(why)) => {
                log::info(&format!("Waiting to retrieve agent configuration; server is not ready: {why}"));
                tokio::time::sleep(CONFIG_RETRY).await;
            }
        }
    }
}

enum NoCertificates {
    Ca(BootstrapError),
    Refused(String),
}

async fn fetch(
    paths: &Paths,
    server: &str,
    token: &Token,
    name: &str,
    ip: &str,
    secret: &str,
) -> Result<(), NoCertificates> {
    let ca = trusted_ca(server, token).await.map_err(NoCertificates::Ca)?;
    let refused = |file: &str, why: String| {
        NoCertificates::Refused(format!("{}: {why}", paths.agent().join(file).display()))
    };
    let client =
        Client::of_url(server, &Trust::Ca(&ca), None).map_err(|e| refused("server-ca.crt", e.to_string()))?;
    let credentials = basic("node", &token.password);
    let headers: &[(&str, &str)] = &[
        ("authorization", &credentials),
        ("k3s-node-name", name),
        ("k3s-node-password", secret),
        ("k3s-node-ip", ip),
    ];
    for file in ["serving-kubelet.crt", "client-kubelet.crt"] {
        let path = format!("/v1-k3s/{file}");
        let ask = Ask { method: Method::GET, path: &path, headers, body: Bytes::new() };
        let reply = client.send(&ask, LIMIT).await.map_err(|e: HttpError| refused(file, e.to_string()))?;
        if reply.status != 200 {
            return Err(refused(file, reply.message()));
        }
        let text = reply.text();
        let (crt, key) = text.split_at(text.find("-----BEGIN PRIVATE KEY-----").unwrap_or(text.len()));
        let target = paths.agent().join(file);
        let written =
            store(&target.with_extension("key"), 0o600, key).and_then(|()| store(&target, 0o644, crt));
        written.map_err(|e| refused(file, e.to_string()))?;
    }
    // last: its presence says that the other two are there
    store(&paths.agent().join("server-ca.crt"), 0o644, &ca)
        .map_err(|e| refused("server-ca.crt", e.to_string()))
}

fn node_client(paths: &Paths, port: u16) -> anyhow::Result<Client> {
    let dir = paths.agent();
    let ca = read(&dir.join("server-ca.crt"))?;
    let (crt, key) = (read(&dir.join("client-kubelet.crt"))?, read(&dir.join("client-kubelet.key"))?);
    Ok(Client::new("127.0.0.1", port, &Trust::Ca(&ca), Some(Pair { crt: &crt, key: &key }))?)
}

/// Keep the balancer's list as the API says it.
async fn follow_servers(paths: Paths, balancer: Rc<Balancer>, port: u16) {
    let client = match node_client(&paths, port) {
        Ok(client) => client,
        Err(e) => return log::error(&format!("load balancer: {e:#}")),
    };
    loop {
        if let Ok(reply) = client.get("/v1-k3s/apiservers", LIMIT).await
            && reply.status == 200
            && let Ok(addresses) = serde_json::from_slice::<Vec<String>>(&reply.body)
            && !addresses.is_empty()
            && let Err(e) = balancer.update(&addresses)
        {
            log::error(&format!("load balancer state: {e}"));
        }
        tokio::time::sleep(LIST_EACH).await;
    }
}
