//! One start of `k3s server`, from the join table to its end.

use crate::api::store::{FileStore, Store};
use crate::base::faults::Faults;
use crate::base::http::Client;
use crate::base::paths::Paths;
use crate::base::pki::read;
use crate::base::settings::Settings;
use crate::base::tls::{self, Pair, Trust};
use crate::base::{log, version, web};
use crate::etcd::config::Initial;
use crate::etcd::gateway::Gateway;
use crate::etcd::{learners, locate};
use crate::kubelet::containerd::{self, ContainerdError};
use crate::kubelet::heartbeat::Kubelet;
use crate::kubelet::machine::Machine;
use crate::kubelet::{machine, node, password};
use crate::server::bootstrap::{self, Authorities, Secrets};
use crate::server::joining::{JoinRefused, join};
use crate::server::state::{End, K3s, Phase};
use crate::server::{controllers, datastore, readiness, reset, supervisor};
use anyhow::{Context, anyhow};
use k3s_model::config::Config;
use k3s_model::start::{Start, decide_start};
use k3s_model::texts;
use k3s_model::token::Token;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

/// Reply channel of the etcd watcher: send to it to have etcd stopped.
type StopEtcd = oneshot::Sender<oneshot::Sender<()>>;

pub async fn run(settings: Settings, paths: Paths, release: &str) -> End {
    if settings.cluster_reset && settings.server.is_some() {
        return End::Fatal(format!("Error: {}", texts::RESET_WITH_SERVER));
    }
    match start(settings, paths, release).await {
        Ok((_k3s, ends, stop_etcd)) => {
            let end = wait(ends).await;
            if let Some(stop) = stop_etcd.take() {
                let (reply, done) = oneshot::channel();
                if stop.send(reply).is_ok() {
                    let _ = done.await;
                }
            }
            end
        }
        Err(End::Fatal(text)) => End::Fatal(format!("Error: {text}")),
        Err(end) => end,
    }
}

async fn wait(mut ends: mpsc::UnboundedReceiver<End>) -> End {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return End::Fatal("cannot listen for signals".to_owned());
    };
    tokio::select! {
        end = ends.recv() => end.unwrap_or(End::Stopped),
        _ = term.recv() => End::Stopped,
        _ = int.recv() => End::Stopped,
    }
}

struct Begun {
    what: Start,
    etcd: PathBuf,
    node: String,
    ip: String,
    secrets: Secrets,
    authorities: Rc<Authorities>,
    /// Where a joiner asks.
    server: Option<Client>,
}

type Started = (Rc<K3s>, mpsc::UnboundedReceiver<End>, Rc<Cell<Option<StopEtcd>>>);

async fn start(settings: Settings, paths: Paths, release: &str) -> Result<Started, End> {
    let fatal = |e: anyhow::Error| End::Fatal(format!("{e:#}"));
    let begun = prepare(&settings, &paths).await?;
    let (ends, ended) = mpsc::unbounded_channel();
    let gateway = Rc::new(Gateway::open(&paths).context("opening etcd client").map_err(fatal)?);
    let sqlite = matches!(begun.what, Start::NewSqlite | Start::ExistingSqlite);
    let store = if sqlite {
        Store::File(FileStore::open(&paths.state_db()).context("opening state.db").map_err(fatal)?)
    } else {
        Store::Etcd(gateway.clone())
    };
    let k3s = Rc::new(K3s {
        faults: Faults::of(&paths.data),
        release: release.to_owned(),
        node: begun.node.clone(),
        ip: begun.ip.clone(),
        secrets: begun.secrets.clone(),
        member_name: RefCell::new(String::new()),
        gateway,
        store,
        phase: Cell::new(Phase::NotStarted),
        ready: Cell::new(false),
        listed: Cell::new(false),
        quorum_seen: Cell::new(Instant::now()),
        nudge: tokio::sync::Notify::new(),
        ends,
        settings,
        paths,
    });
    listen(&k3s, &begun.authorities).await.map_err(fatal)?;
    let kubelet = Rc::new(kubelet(&k3s, true)?);
    let stop_etcd = Rc::new(Cell::new(None));
    tokio::task::spawn_local(live(k3s.clone(), begun, kubelet, stop_etcd.clone()));
    Ok((k3s, ended, stop_etcd))
}

/// Everything before the port opens: the join table, tokens, CAs (a joiner fetches them here, whatever becomes of the join).
async fn prepare(settings: &Settings, paths: &Paths) -> Result<Begun, End> {
    let fatal = |e: anyhow::Error| End::Fatal(format!("{e:#}"));
    let etcd = locate::find(version::exe_dir().as_deref()).map_err(|e| End::Fatal(e.to_string()))?;
    if settings.datastore_endpoint.is_some() {
        return Err(End::Fatal("the stand-in has no external datastore".to_owned()));
    }
    let node = settings.node_name.clone().unwrap_or_else(machine::hostname);
    let ip = settings.node_ip.clone().or_else(|| machine::default_ip().map(|ip| ip.to_string()));
    let ip = ip.ok_or_else(|| End::Fatal("no default routes found in \"/proc/net/route\"".to_owned()))?;
    let (server_password, agent_password) =
        bootstrap::passwords(paths, settings).context("normalizing token").map_err(fatal)?;
    let token = match &settings.token {
        Some(text) => Some(Token::parse(text).context("normalizing token").map_err(fatal)?),
        None => None,
    };
    let config = Config {
        cluster_init: settings.cluster_init,
        server: settings.server.clone(),
        token: token.clone(),
        is_agent: false,
    };
    // a reset is etcd's, whatever lies on the disk: that is how a snapshot comes onto another machine
    let what = match settings.cluster_reset {
        true => Start::ExistingMember,
        false => decide_start(&paths.disk_facts(), &config),
    };
    let mut client = None;
    match &what {
        Start::Fatal(why) => return Err(End::Fatal(why.to_string())),
        Start::RejoinAfterTombstone { .. } => {
            log::info(texts::TOMBSTONE_REJOIN);
            datastore::move_aside(&paths.etcd_db()).context("moving db/etcd aside").map_err(fatal)?;
        }
        Start::Join { .. } => log::info("Managed etcd cluster not yet initialized"),
        Start::ExistingMember => log::info("Managed etcd cluster bootstrap already complete and initialized"),
        Start::NewEtcdCluster
        | Start::NewSqlite
        | Start::ExistingSqlite
        | Start::Migrate
        | Start::Agent { .. } => {}
    }
    if let (Start::Join { server } | Start::RejoinAfterTombstone { server }, Some(token)) = (&what, &token) {
        let fetched = bootstrap::fetch(server, token, paths, settings).await;
        let ca = fetched.context("preparing server: failed to bootstrap cluster data").map_err(fatal)?;
        log::info("Reconciling bootstrap data between datastore and disk");
        client = Some(Client::of_url(server, &Trust::Ca(&ca), None).map_err(|e| fatal(e.into()))?);
    }
    if let (Start::ExistingMember, Some(server), Some(token)) = (&what, &settings.server, &token) {
        // errors are ignored: three servers that name each other must be able to start cold
        if let Err(e) = bootstrap::trusted_ca(server, token).await {
            log::warn(&format!("Unable to reconcile with remote datastore: {e}"));
        }
        log::info("Successfully reconciled with local datastore");
    }
    let authorities = Authorities::ensure(paths).context("preparing server").map_err(fatal)?;
    authorities.write_leaves(paths, settings, &node, &ip).context("preparing server").map_err(fatal)?;
    let secrets =
        Secrets { server: server_password, agent: agent_password, ca_pem: authorities.server.pem.clone() };
    bootstrap::write_tokens(paths, &secrets).context("writing tokens").map_err(fatal)?;
    write_kubeconfig(paths, settings).context("writing kubeconfig").map_err(fatal)?;
    Ok(Begun { what, etcd, node, ip, secrets, authorities: Rc::new(authorities), server: client })
}

async fn listen(k3s: &Rc<K3s>, authorities: &Rc<Authorities>) -> anyhow::Result<()> {
    let tls_dir = k3s.paths.tls();
    let (crt, key) = (
        read(&tls_dir.join("serving-kube-apiserver.crt"))?,
        read(&tls_dir.join("serving-kube-apiserver.key"))?,
    );
    let config = tls::server(Pair { crt: &crt, key: &key }, &authorities.client.pem)?;
    let listener = TcpListener::bind(("0.0.0.0", k3s.settings.port))
        .await
        .with_context(|| format!("listen tcp :{}", k3s.settings.port))?;
    let handler = supervisor::handler(k3s.clone(), authorities.clone());
    tokio::task::spawn_local(web::run(listener, TlsAcceptor::from(Arc::new(config)), handler));
    Ok(())
}

/// The checks that end a real node's start, and the facts that its Node shows.
fn kubelet(k3s: &K3s, voter: bool) -> Result<Kubelet, End> {
    match password::own(&k3s.paths.node_password()) {
        Ok(_) => log::info(&format!("Password verified locally for node {}", k3s.node)),
        Err(e) => return Err(End::Fatal(format!("node password: {e}"))),
    }
    let handlers = containerd::prepare(&k3s.paths).map_err(|e| {
        log::error(&format!("containerd: {e}"));
        End::Shutdown(ContainerdError::shutdown_text().to_owned())
    })?;
    if let Some(label) = node::refused_label(&k3s.settings) {
        return Err(End::Shutdown(format!(
            "kubelet exited: failed to validate kubelet flags: unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{label}]"
        )));
    }
    Ok(Kubelet {
        name: k3s.node.clone(),
        ip: k3s.ip.clone(),
        release: k3s.release.clone(),
        settings: k3s.settings.clone(),
        machine: Machine::read(),
        handlers,
        voter,
    })
}

/// From the datastore to the end: everything that may take its time.
async fn live(k3s: Rc<K3s>, begun: Begun, kubelet: Rc<Kubelet>, stop_etcd: Rc<Cell<Option<StopEtcd>>>) {
    if let Err(end) = try_live(&k3s, begun, kubelet, &stop_etcd).await {
        k3s.end(end);
    }
}

async fn try_live(
    k3s: &Rc<K3s>,
    begun: Begun,
    kubelet: Rc<Kubelet>,
    stop_etcd: &Cell<Option<StopEtcd>>,
) -> Result<(), End> {
    let sqlite = matches!(begun.what, Start::NewSqlite | Start::ExistingSqlite);
    if sqlite {
        k3s.phase.set(Phase::Sqlite);
    } else {
        let initial = initial(k3s, &begun, &kubelet).await?;
        let stop = datastore::start(k3s, &begun.etcd, &initial)
            .map_err(|e| End::Fatal(format!("starting etcd {}: {e}", begun.etcd.display())))?;
        stop_etcd.set(Some(stop));
        tokio::task::spawn_local(learners::run(k3s.gateway.clone(), Faults::of(&k3s.paths.data)));
        if !readiness::wait_for_voter(k3s).await {
            return Ok(());
        }
        log::info("Connection to etcd is ready");
        if begun.what == Start::Migrate {
            migrate(k3s).await.map_err(|e| End::Fatal(format!("{e:#}")))?;
        }
        if k3s.settings.cluster_reset {
            // the real one reads the datastore's bundle here and puts it on the disk
            return reset::finish(k3s)
                .await
                .map_or_else(|e| Err(End::Fatal(format!("{e:#}"))), |()| Err(End::Reset));
        }
    }
    reset::keep_bundle(k3s).await.map_err(|e| End::Fatal(format!("{e:#}")))?;
    k3s.ready.set(true);
    k3s.quorum_seen.set(Instant::now());
    let api = admin_client(k3s, "127.0.0.1", k3s.settings.port).map_err(|e| End::Fatal(format!("{e:#}")))?;
    let member = k3s.member_name.borrow().clone();
    loop {
        let marked = match kubelet.register(&api).await {
            Ok(()) if sqlite => Ok(()),
            Ok(()) => kubelet.mark_server(&api, &member).await,
            Err(e) => Err(e),
        };
        match marked {
            Ok(()) => break,
            Err(e) => log::error(&format!("Unable to register node with API server: {e}")),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::task::spawn_local(controllers::run(k3s.clone()));
    readiness::announce(k3s);
    kubelet.beat(&api).await;
    Ok(())
}

/// How etcd is to start; for a joiner this is the join loop.
async fn initial(k3s: &Rc<K3s>, begun: &Begun, kubelet: &Rc<Kubelet>) -> Result<Initial, End> {
    if k3s.settings.cluster_reset {
        reset::prepare(k3s, &begun.etcd).map_err(|e| End::Fatal(format!("{e:#}")))?;
    }
    let name = datastore::own_name(&k3s.paths.name_file(), &k3s.node)
        .map_err(|e| End::Fatal(format!("db/etcd/name: {e}")))?;
    k3s.member_name.replace(name);
    if k3s.settings.cluster_reset {
        log::info("Starting etcd for new cluster, cluster-reset=true");
        return Ok(reset::initial(k3s));
    }
    match &begun.what {
        Start::NewEtcdCluster | Start::Migrate => {
            log::info("Starting etcd for new cluster, cluster-reset=false");
            Ok(Initial::New)
        }
        Start::Join { .. } | Start::RejoinAfterTombstone { .. } => {
            let Some(server) = &begun.server else { return Err(End::Fatal("no server to join".to_owned())) };
            match join(k3s, server).await {
                Ok(initial) => Ok(initial),
                Err(why) => {
                    if matches!(why, JoinRefused::Duplicate) {
                        let _ = std::fs::remove_file(k3s.paths.name_file());
                        register_elsewhere(k3s, kubelet).await;
                    }
                    Err(End::Shutdown(why.to_string()))
                }
            }
        }
        Start::ExistingMember
        | Start::NewSqlite
        | Start::ExistingSqlite
        | Start::Agent { .. }
        | Start::Fatal(_) => Ok(Initial::FromDisk),
    }
}

/// Seen on a real k3s: by the time a taken name is refused, the newcomer's kubelet has registered a Node.
async fn register_elsewhere(k3s: &K3s, kubelet: &Kubelet) {
    let Some(server) = &k3s.settings.server else { return };
    let host = k3s_model::config::url_host(server);
    let outcome = async {
        let api = admin_client(k3s, host, k3s.settings.port)?;
        kubelet.register(&api).await.map_err(|e| anyhow!(e))
    };
    if let Err(e) = outcome.await {
        log::error(&format!("Unable to register node with API server: {e:#}"));
    }
}

fn admin_client(k3s: &K3s, host: &str, port: u16) -> anyhow::Result<Client> {
    let dir = k3s.paths.tls();
    let (crt, key) = (read(&dir.join("client-admin.crt"))?, read(&dir.join("client-admin.key"))?);
    Ok(Client::new(host, port, &Trust::Ca(&k3s.secrets.ca_pem), Some(Pair { crt: &crt, key: &key }))?)
}

async fn migrate(k3s: &K3s) -> anyhow::Result<()> {
    log::info(texts::MIGRATING);
    let file = k3s.paths.state_db();
    for (key, value) in FileStore::open(&file)?.all() {
        k3s.store.put(&key, &value).await?;
    }
    std::fs::rename(&file, file.with_extension("db.migrated"))?;
    Ok(())
}

fn write_kubeconfig(paths: &Paths, settings: &Settings) -> anyhow::Result<()> {
    use crate::base::http::base64;
    let tls = paths.tls();
    let encoded = |file: &str| -> anyhow::Result<String> { Ok(base64(read(&tls.join(file))?.as_bytes())) };
    let text = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: https://127.0.0.1:{}\n  name: default\ncontexts:\n- context:\n    cluster: default\n    user: default\n  name: default\ncurrent-context: default\nkind: Config\npreferences: {{}}\nusers:\n- name: default\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        encoded("server-ca.crt")?,
        settings.port,
        encoded("client-admin.crt")?,
        encoded("client-admin.key")?,
    );
    let file = paths.kubeconfig();
    crate::base::paths::write(&file, settings.kubeconfig_mode, text.as_bytes())?;
    log::info(&format!("Wrote kubeconfig {}", file.display()));
    Ok(())
}
