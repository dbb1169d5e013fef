//! All of it together: open the ports, make sure to be alone, give up rights, serve, end cleanly.

use super::beacon::{self, BeaconError, Voice};
use super::notify::Notify;
use super::ports::{Kind, PortError, explain};
use super::shared::Shared;
use super::{api, boot_http, dhcp, privileges, tftp};
use crate::boot::event::BootEvent;
use crate::boot::published::Published;
use crate::boot::table::BootTable;
use crate::config::meant::{Config, Dhcp};
use crate::core::boot_table::Served;
use crate::core::{Core, CoreError, Parts};
use crate::store::Store;
use crate::store::keys::{read_online, read_trust};
use crate::store::state_dir::StateDir;
use anyhow::Context;
use muster_identity::{Identity, server_config};
use muster_protocol::ids::InstanceId;
use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// After this the end is no longer waited for.
const DRAIN: Duration = Duration::from_secs(8);

/// Opens store and keys.
pub fn core(config: Config, state: &StateDir) -> anyhow::Result<Core> {
    let trust = read_trust(&state.trust())?;
    let online = read_online(state, &trust)?;
    let store = Store::open(&state.store())?;
    Ok(Core::open(Parts { store, config, trust, online, artifacts: state.artifacts() })?)
}

/// Ports that were opened while the process may.
struct Ports {
    api: TcpListener,
    beacon: beacon::Socket,
    dhcp: Option<dhcp::Sockets>,
    tftp: tftp::Listener,
    http: boot_http::Listener,
}

fn opened<T>(kind: Kind, port: u16, result: io::Result<T>) -> Result<T, PortError> {
    result.map_err(|error| explain(kind, port, error))
}

/// `main` and `files` are entered where their sockets are made: each runs on its own thread.
fn open(config: &Config, main: &Runtime, files: &Runtime) -> anyhow::Result<Ports> {
    let provisioner = &config.provisioner;
    let interface = provisioner.interface.as_str();
    let api = opened(Kind::Tcp, provisioner.api_port, api::open(provisioner.api_port))?;
    let http = {
        let _inside = files.enter();
        opened(Kind::Tcp, 80, boot_http::open(interface))?
    };
    let _inside = main.enter();
    let beacon = opened(Kind::Udp, muster_protocol::beacon::PORT, beacon::open(interface))?;
    let dhcp = match provisioner.dhcp {
        Dhcp::Proxy => Some(opened(Kind::Udp, 67, dhcp::open(interface))?),
        Dhcp::Authoritative => anyhow::bail!(
            "dhcp = \"authoritative\" is not served by this version\nhint: run a DHCP server on the LAN and write dhcp = \"proxy\""
        ),
        Dhcp::Off => None,
    };
    let tftp = opened(Kind::Udp, 69, tftp::open(interface))?;
    Ok(Ports { api, beacon, dhcp, tftp, http })
}

fn runtime() -> io::Result<Runtime> {
    // One thread each: what takes time (the store, the files) is on others, and a small box is enough.
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Runs until SIGTERM or SIGINT.
pub fn run(config: Config, state: &StateDir) -> anyhow::Result<()> {
    let core = core(config.clone(), state)?;
    let identity = Identity::provisioner(core.trust().cluster, core.online())?;
    let tls = server_config(&identity, core.trust())?;
    let (main, files) = (runtime()?, runtime()?);
    let ports = open(&config, &main, &files)?;
    let voice = main.block_on(find_voice(&core, &ports, &config))?;
    let what = privileges::drop_to(config.provisioner.user.as_deref(), state.path())?;
    tracing::info!("{what}");
    let trust = core.trust().clone();
    let shared = Shared::new(core)?;
    let (events, heard) = mpsc::unbounded_channel();
    let (tell_stop, stop) = watch::channel(false);
    let published = Published::default();
    let http = files_thread(files, ports.http, published.clone(), events.clone(), stop.clone())?;
    main.block_on(async move {
        let (tables, table) = watch::channel(BootTable::default());
        let mut house =
            House { shared: shared.clone(), published: published.clone(), tables, offered: BTreeSet::new() };
        // Before the first answer: a machine that asked meanwhile waits in the socket, and a ROM asks four times only.
        house.refresh().await?;
        let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
        let (api_shared, api_stop) = (shared.clone(), stop.clone());
        tasks.spawn(async move { Ok(api::run(ports.api, tls, trust, api_shared, api_stop).await?) });
        let beacon_shared = shared.clone();
        tasks.spawn(async move { Ok(beacon::run(ports.beacon, voice, beacon_shared).await?) });
        tasks.spawn(house.run(heard));
        if let Some(sockets) = ports.dhcp {
            let (table, events) = (table.clone(), events.clone());
            tasks.spawn(async move { dhcp::run(sockets, table, events).await.context("DHCP") });
        }
        tasks.spawn(async move { tftp::run(ports.tftp, published, events).await.context("TFTP") });
        until_told(&config, tasks, tell_stop).await
    })?;
    // It was told to stop together with the others.
    http.join().map_err(|_| anyhow::anyhow!("the file server's thread panicked"))??;
    Ok(())
}

async fn find_voice(core: &Core, ports: &Ports, config: &Config) -> anyhow::Result<Voice> {
    let mut instance = [0; 8];
    getrandom::fill(&mut instance).map_err(|_| CoreError::Random)?;
    let (trust, online) = (core.trust().clone(), core.online().clone());
    let mut voice = Voice::new(trust, online, InstanceId(instance), config.provisioner.api_port);
    match beacon::alone(&ports.beacon, &mut voice).await {
        Ok(()) => {}
        // No carrier yet is no reason not to start; the beacon goes on asking.
        Err(BeaconError::Io(error)) => tracing::warn!(%error, "cannot ask for other provisioners yet"),
        Err(
            other
            @ (BeaconError::Second(_) | BeaconError::Random | BeaconError::Store(_) | BeaconError::Core),
        ) => {
            return Err(other.into());
        }
    }
    voice.reserve(core.store())?;
    Ok(voice)
}

/// Files are sent from a thread of their own: sendfile(2) waits for the disk.
fn files_thread(
    runtime: Runtime,
    listener: boot_http::Listener,
    published: Published,
    events: UnboundedSender<BootEvent>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<std::thread::JoinHandle<io::Result<()>>> {
    std::thread::Builder::new().name("http".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                ended = boot_http::run(listener, published, events) => ended,
                _ = stop.wait_for(|stop| *stop) => Ok(()),
            }
        })
    })
}

async fn until_told(
    config: &Config,
    mut tasks: JoinSet<anyhow::Result<()>>,
    tell_stop: watch::Sender<bool>,
) -> anyhow::Result<()> {
    let notify = Notify::from_env();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let interface = &config.provisioner.interface;
    tracing::info!(interface, port = config.provisioner.api_port, "serving cluster {}", config.name);
    notify.tell(&format!("READY=1\nSTATUS=serving cluster {} on {interface}", config.name));
    let mut watchdog = tokio::time::interval(notify.watchdog.unwrap_or(Duration::from_secs(3600)));
    let ended = loop {
        tokio::select! {
            _ = term.recv() => break Ok(()),
            _ = int.recv() => break Ok(()),
            _ = watchdog.tick() => notify.tell("WATCHDOG=1"),
            Some(ended) = tasks.join_next() => {
                // None of them ends by itself; a panic is told the same way.
                break ended.context("a server panicked").and_then(|ended| ended)
                    .and_then(|()| Err(anyhow::anyhow!("a server ended by itself")));
            }
        }
    };
    notify.tell("STOPPING=1");
    tracing::info!("ending");
    // Nobody may be listening any more.
    let _told = tell_stop.send(true);
    let drained = tokio::time::timeout(DRAIN, drain(&mut tasks)).await;
    if drained.is_err() {
        tracing::warn!("connections were still open after {} s", DRAIN.as_secs());
    }
    ended
}

/// The API ends by itself once it is told to; the others have nothing to finish.
async fn drain(tasks: &mut JoinSet<anyhow::Result<()>>) {
    if tasks.join_next().await.is_some() {
        tasks.shutdown().await;
    }
}

/// Once a second: what the core knows becomes boot answers and files; what the edges saw becomes known to the core.
struct House {
    shared: Shared,
    published: Published,
    tables: watch::Sender<BootTable>,
    offered: BTreeSet<Served>,
}

impl House {
    async fn run(mut self, mut heard: UnboundedReceiver<BootEvent>) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let mut events = Vec::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => self.refresh().await?,
                count = heard.recv_many(&mut events, 256) => {
                    if count == 0 {
                        anyhow::bail!("nobody tells of boots any more");
                    }
                    let batch = std::mem::take(&mut events);
                    self.shared.ask(move |core, _| batch.iter().for_each(|event| core.note_boot(event))).await?;
                }
            }
        }
    }

    async fn refresh(&mut self) -> anyhow::Result<()> {
        let (table, served) = self
            .shared
            .ask(|core, now| {
                core.tick(now)?;
                Ok::<_, CoreError>((core.boot_table()?, core.served()?))
            })
            .await??;
        let served: BTreeSet<Served> = served.into_iter().collect();
        for gone in self.offered.difference(&served) {
            self.published.withdraw(&gone.name);
        }
        for new in served.difference(&self.offered) {
            self.published.publish(&new.name, &new.path, new.bytes, new.digest);
        }
        self.offered = served;
        self.tables.send_if_modified(|known| {
            let changed = *known != table;
            *known = table;
            changed
        });
        Ok(())
    }
}
