//! `muster-agent node`: one loop that looks, goes one step on, tells, and takes what came back.
//!
//! Everything slow (files, commands, the provisioner) runs beside the loop, one of each at a time, and is joined here.

use crate::console;
use crate::detect;
use crate::net::find::{Beacons, Found};
use crate::node::accept::may_replace;
use crate::node::clock::Samples;
use crate::node::commands::{self, Ledger};
use crate::node::gate::Papers;
use crate::node::health::Still;
use crate::node::lan::{Board, tls, udp};
use crate::node::notify::notify;
use crate::node::prepare::{Meter, PrepareError, Prepared, prepare};
use crate::node::probe::Prober;
use crate::node::round::Last;
use crate::node::sync::{Sent, Uplink};
use crate::node::timeline::{Timeline, begins};
use crate::node::waits::Waits;
use crate::node::{bless, files, kata};
use crate::state::{BOOT, Boot, Root, uptime_ms};
use crate::talk::TalkError;
use anyhow::Context;
use muster_protocol::class::classify;
use muster_protocol::ids::{InstanceId, Number};
use muster_protocol::roster::Roster;
use muster_protocol::signed::Trust;
use muster_protocol::sync::SyncReply;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What the command line may change; everything else comes from the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub root: Root,
    pub boot: Option<PathBuf>,
    /// A provisioner to try before any is heard; for networks without broadcast, and for the lab.
    pub provisioner: Option<SocketAddr>,
}

/// A provisioner that did not answer this often is looked for anew.
const MAX_FAILURES: u32 = 3;
const LAN_AGAIN: Duration = Duration::from_secs(30);

pub(super) struct Service {
    pub(super) root: Root,
    pub(super) papers: Papers,
    pub(super) roster: Option<Roster>,
    pub(super) still: Still,
    pub(super) board: Arc<Board>,
    pub(super) prober: Prober,
    pub(super) ledger: Ledger,
    pub(super) timeline: Timeline,
    pub(super) uplink: Uplink,
    pub(super) last: Last,
    /// What hinders, by what it is about; told in the status until it is over.
    pub(super) troubles: BTreeMap<&'static str, String>,
    pub(super) clocks: Samples,
    /// With the provisioner's, once in this boot.
    pub(super) clock_agrees: bool,
    pub(super) meter: Meter,
    pub(super) prepared: Option<Prepared>,
    pub(super) preparing: Option<JoinHandle<Result<Prepared, PrepareError>>>,
    /// For which manifest.
    preparing_for: Number,
    pub(super) prepare_at: Instant,
    pub(super) waits: Waits,
    pub(super) syncing: Option<JoinHandle<Synced>>,
    pub(super) running: Option<JoinHandle<(Number, Result<String, String>)>>,
    pub(super) started_ms: u64,
}

/// A finished exchange; the connection comes back with it.
pub(super) struct Synced {
    pub(super) talk: crate::talk::Provisioner,
    pub(super) sent: Sent,
    pub(super) round_trip: Duration,
    /// Our clock when the reply was there.
    pub(super) received_ms: u64,
    pub(super) reply: Result<SyncReply, TalkError>,
}

/// Runs until the service is stopped.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let (mut service, trust) = start(&options).await?;
    let mut heard = listen_for_beacons(trust);
    let (tell_lan, lan) = watch::channel(None);
    let lan_task = tokio::spawn(serve_lan(service.board.clone(), tell_lan));
    let mut stop = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut blessing = None;
    let mut told_ready = false;
    let mut next = Instant::now();
    loop {
        tokio::select! {
            _ = stop.recv() => break,
            () = tokio::time::sleep_until(next) => {
                let unheard: Option<String> = lan.borrow().clone();
                match unheard {
                    Some(why) => service.trouble_text("lan", why),
                    None => drop(service.troubles.remove("lan")),
                }
                let pause = service.round().await;
                next = Instant::now() + pause;
                if !told_ready {
                    told_ready = true;
                    service.timeline.add(&service.root, "node", service.started_ms, uptime_ms());
                    notify("READY=1\n");
                    blessing = service.bless();
                }
                notify(&format!("STATUS={}\nWATCHDOG=1\n", service.headline()));
            }
            Some(found) = heard.recv() => service.heard(&found),
            synced = ended(&mut service.syncing) => {
                if let Some(synced) = synced {
                    next = next.min(service.take(synced));
                }
            }
            done = ended(&mut service.preparing) => {
                if let Some(done) = done {
                    service.prepared(done);
                    next = Instant::now();
                }
            }
            done = ended(&mut service.running) => {
                if let Some((fence, outcome)) = done {
                    service.ledger.ended(fence, outcome);
                    next = Instant::now();
                }
            }
            done = ended(&mut blessing) => {
                if let Some(Err(error)) = done {
                    service.trouble("slot", &error);
                }
            }
        }
    }
    notify("STOPPING=1\n");
    lan_task.abort();
    Ok(())
}

/// The task's value once it is there; for ever pending without a task. A task that panicked gives `None`: it is said,
/// and its next run is another chance.
async fn ended<T>(task: &mut Option<JoinHandle<T>>) -> Option<T> {
    let Some(handle) = task else { return std::future::pending().await };
    let value = handle.await;
    *task = None;
    value.inspect_err(|error| tracing::error!(%error, "a task of the service failed")).ok()
}

async fn start(options: &Options) -> anyhow::Result<(Service, Trust)> {
    let started_ms = uptime_ms();
    let root = options.root.clone();
    begins(&root, "node");
    let inventory = detect::inventory(root.as_path());
    let path = options.boot.clone().unwrap_or_else(|| root.path(BOOT));
    let boot = match root.boot(&path).context("reading what PID 1 left")? {
        Some(boot) => boot,
        None => unknown_boot(classify(&inventory, &[])),
    };
    let papers = Papers::read(&root).context("reading this node's papers")?;
    let roster = root.roster(&papers.trust).context("reading the roster")?.map(|roster| roster.into_inner());
    files::write(&root, papers.manifest.get(), boot.address.map(|cidr| cidr.address))
        .context("writing hosts and keys")?;
    if papers.manifest.get().kata.is_some() {
        kata::load_modules(&root).await;
    }
    let still = Still { key: papers.key.public().fingerprint(), arch: inventory.arch, boot };
    let board = Arc::new(Board::new(papers.trust.clone(), papers.key.clone(), inventory));
    if let Some(roster) = &roster {
        board.trust_roster(roster.clone());
    }
    let trust = papers.trust.clone();
    let provisioner = options.provisioner.or(still.boot.provisioner);
    let http_port = still.boot.http_port;
    tracing::info!(node = %papers.manifest.get().node, role = %papers.manifest.get().role, "node service starts");
    let service = Service {
        timeline: Timeline::go_on(&root, &still.boot),
        prober: Prober::new(root.clone()).context("setting up probes")?,
        uplink: Uplink::new(provisioner, http_port),
        root,
        papers,
        roster,
        still,
        board,
        ledger: Ledger::default(),
        last: Last::default(),
        troubles: BTreeMap::new(),
        clocks: Samples::default(),
        clock_agrees: false,
        meter: Meter::default(),
        prepared: None,
        preparing: None,
        preparing_for: Number::default(),
        prepare_at: Instant::now(),
        waits: Waits::default(),
        syncing: None,
        running: None,
        started_ms,
    };
    Ok((service, trust))
}

/// Where no PID 1 of ours was: an adopted machine, the lab.
fn unknown_boot(detected: muster_protocol::class::Class) -> Boot {
    let mut boot = [0; 8];
    // Zeros would only make two boots look like one.
    let _random = getrandom::fill(&mut boot);
    let kernel = nix::sys::utsname::uname().map(|uname| uname.release().to_string_lossy().into_owned());
    Boot {
        boot: InstanceId(boot),
        stages: Vec::new(),
        interface: None,
        mac: None,
        address: None,
        gateway: None,
        dns: Vec::new(),
        provisioner: None,
        http_port: 80,
        detected,
        order: None,
        slot: None,
        kernel_release: kernel.unwrap_or_default(),
    }
}

/// Listens on both ports, and again after a while when one of them failed.
async fn serve_lan(board: Arc<Board>, tell: watch::Sender<Option<String>>) {
    loop {
        let why = tokio::select! {
            why = serve_udp(&board) => format!("the LAN is not answered on 7481/udp: {why}"),
            why = serve_tcp(&board) => format!("the LAN is not answered on 7481/tcp: {why}"),
        };
        tell.send_replace(Some(why));
        tokio::time::sleep(LAN_AGAIN).await;
        tell.send_replace(None);
    }
}

async fn serve_udp(board: &Arc<Board>) -> String {
    match udp::listen(Ipv4Addr::UNSPECIFIED) {
        Ok(socket) => udp::run(socket, board.clone()).await.to_string(),
        Err(error) => error.to_string(),
    }
}

async fn serve_tcp(board: &Arc<Board>) -> String {
    let acceptor = match tls::acceptor(board) {
        Ok(acceptor) => acceptor,
        Err(error) => return error.to_string(),
    };
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, muster_protocol::lan::PORT)).await {
        Ok(listener) => tls::run(listener, acceptor, board.clone()).await.to_string(),
        Err(error) => error.to_string(),
    }
}

/// Calls of provisioners, heard in the background. Without the port there is still the one PID 1 found.
fn listen_for_beacons(trust: Trust) -> mpsc::Receiver<Found> {
    let (tell, heard) = mpsc::channel(4);
    let beacons = match Beacons::listen(Ipv4Addr::UNSPECIFIED) {
        Ok(beacons) => beacons,
        Err(error) => {
            tracing::warn!(%error, "cannot listen for a provisioner on 7480/udp");
            return heard;
        }
    };
    tokio::spawn(async move {
        // Ends with the service, whose receiver is then gone.
        while let Ok(found) = beacons.next(&trust, 0).await {
            if tell.send(found).await.is_err() {
                return;
            }
        }
    });
    heard
}

impl Service {
    fn heard(&mut self, found: &Found) {
        if self.uplink.failures >= MAX_FAILURES || self.uplink.at.is_none() {
            if self.uplink.at != Some(found.api) {
                tracing::info!(at = %found.api, "found a provisioner");
                self.try_again_now();
            }
            self.uplink.turn_to(found.api, found.http.port());
        }
    }

    pub(super) fn prepare_if_due(&mut self) {
        let due = self.prepared.is_none() && self.preparing.is_none();
        if !due || Instant::now() < self.prepare_at {
            return;
        }
        let (root, manifest) = (self.root.clone(), self.papers.manifest.get().clone());
        let artifacts = self.uplink.artifacts();
        let (may_replace, meter) = (may_replace(&self.papers.kept), self.meter.clone());
        let work = move || prepare(&root, &manifest, artifacts, may_replace, &meter);
        self.preparing = Some(tokio::task::spawn_blocking(work));
        self.preparing_for = self.papers.manifest.get().number;
    }

    /// A provisioner is heard that was away, or wants something else.
    pub(super) fn try_again_now(&mut self) {
        if self.waits.heard() {
            self.prepare_at = Instant::now();
        }
    }

    fn prepared(&mut self, done: Result<Prepared, PrepareError>) {
        if self.preparing_for != self.papers.manifest.get().number {
            tracing::info!("another manifest came meanwhile: its files are prepared now");
            self.prepare_at = Instant::now();
            return;
        }
        match done {
            Ok(prepared) => {
                self.troubles.remove("files");
                self.waits = Waits::default();
                if let Some(kata) = prepared.kata {
                    self.timeline.add(&self.root, "kata", kata.started_ms, kata.ended_ms);
                    self.last.kata_files = true;
                }
                self.timeline.add(&self.root, "k3s", prepared.k3s.started_ms, prepared.k3s.ended_ms);
                match prepared.waiting.first() {
                    Some(waiting) => drop(self.troubles.insert("version", waiting.clone())),
                    None => drop(self.troubles.remove("version")),
                }
                self.prepared = Some(prepared);
            }
            Err(error) => {
                let wait = self.waits.failed(error.step(), &chain(&error));
                if let Some(line) = wait.line {
                    console::say(self.root.as_path(), &line);
                }
                self.trouble("files", &error);
                self.prepare_at = Instant::now() + wait.pause;
            }
        }
    }

    fn bless(&self) -> Option<JoinHandle<Result<(), bless::BlessError>>> {
        let slot = self.still.boot.slot.clone()?;
        let cluster = self.papers.trust.cluster;
        Some(tokio::task::spawn_blocking(move || bless::bless(cluster, &slot)))
    }

    /// Told once in the log, and in every status until it is over.
    pub(super) fn trouble(&mut self, about: &'static str, error: &(dyn std::error::Error + 'static)) {
        self.trouble_text(about, chain(error).join(": "));
    }

    pub(super) fn trouble_text(&mut self, about: &'static str, text: String) {
        if self.troubles.get(about) != Some(&text) {
            tracing::warn!(about, trouble = text.replace('\n', "; "), "not well");
            self.troubles.insert(about, text);
        }
    }

    /// For systemctl status.
    fn headline(&self) -> String {
        let status = self.board.status();
        let line = status.map(|status| match status.reasons.first() {
            Some(reason) => format!("{}: {reason}", status.state),
            None => status.state.to_string(),
        });
        line.unwrap_or_else(|| "starting".into()).replace('\n', " ")
    }

    pub(super) async fn k3s_version(&self) -> Option<String> {
        commands::version(&self.k3s()).await
    }

    pub(super) fn k3s(&self) -> PathBuf {
        self.root.path("/var/lib/muster/k3s/current/k3s")
    }
}

/// The error and its causes, each in its own words.
fn chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
