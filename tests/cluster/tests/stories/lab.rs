//! The whole: a provisioner, machines that are installed and off, a watch over etcd; and the words in which stories are told.

use crate::home::{Home, role};
use crate::lan::{Lan, address};
use crate::machine::{Machine, name};
use crate::parts::Parts;
use crate::watch::{Watch, is_changing};
use muster_agent::node::STATUS;
use muster_agent::node::probe::Prober;
use muster_protocol::etcd::{EtcdMember, GateRecord, OwnMember};
use muster_protocol::ids::Role;
use muster_protocol::status::{State, Status};
use netns::Netns;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For any one thing to become so: many times of what it takes here.
const LIMIT: Duration = Duration::from_secs(300);

/// Everything ends in the order of its fields.
pub(crate) struct Lab {
    watch: Watch,
    machines: BTreeMap<u8, Machine>,
    pub(crate) home: Home,
    lan: Lan,
    folder: TempDir,
    story: char,
    began: Instant,
}

impl Lab {
    /// The provisioner serves, every machine is installed and off. `None` where it cannot run, which was said.
    pub(crate) fn new(story: char, machines: u8) -> Option<Self> {
        let parts = Parts::found()?;
        let began = Instant::now();
        let lan = Lan::new(machines);
        let folder = tempfile::Builder::new().prefix("muster-cluster-").tempdir().unwrap();
        let mut home = Home::founded(folder.path().join("muster"), &parts, lan.hub().clone(), machines);
        home.register(&parts);
        home.serve();
        home.must(&["admission", "open", "--for", "30m"]);
        let installed = |n: u8| {
            let root = folder.path().join(name(n).as_str());
            (n, Machine::installed(n, root, lan.machine(n).clone(), &parts, &home))
        };
        let machines: BTreeMap<u8, Machine> = (1..=machines).map(installed).collect();
        let servers = machines.iter().filter(|(n, _)| role(**n) == Role::Server);
        let watch = Watch::start(servers.map(|(n, machine)| (*n, machine)));
        let lab = Self { watch, machines, home, lan, folder, story, began };
        lab.note("installed");
        Some(lab)
    }

    pub(crate) fn machine(&self, n: u8) -> &Machine {
        &self.machines[&n]
    }

    pub(crate) fn hub(&self) -> &Netns {
        self.lan.hub()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn power_on(&mut self, n: u8) {
        self.machines.get_mut(&n).unwrap().power_on();
    }

    pub(crate) fn power_off(&mut self, n: u8) {
        self.machines.get_mut(&n).unwrap().power_off();
    }

    /// One line per chapter, for whoever runs it with `--nocapture`.
    pub(crate) fn note(&self, what: &str) {
        println!("{} {:>5.1} s  {what}", self.story, self.began.elapsed().as_secs_f32());
    }

    /// Asks after each look at etcd until it is so.
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !is_so(self) {
            assert!(Instant::now() < end, "waited {LIMIT:?} for {what}");
            self.watch.next_look();
        }
        self.note(what);
    }

    /// What etcd on this server says of itself.
    pub(crate) fn own(&self, n: u8) -> Option<OwnMember> {
        self.watch.with(|seen| seen.own.get(&n).cloned())
    }

    /// The member list as this server's etcd gives it.
    pub(crate) fn list(&self, by: u8) -> Vec<EtcdMember> {
        self.own(by).and_then(|own| own.members.ok()).unwrap_or_default()
    }

    /// How `by` lists this server.
    pub(crate) fn listed(&self, by: u8, n: u8) -> Option<EtcdMember> {
        self.list(by).into_iter().find(|member| member.peer == Some(address(n)))
    }

    /// These servers, and no others, are voters in the list of each of them, and serve.
    pub(crate) fn voters(&self, servers: &[u8]) -> bool {
        servers.iter().all(|n| {
            let Some(own) = self.own(*n) else { return false };
            let list = self.list(*n);
            let there = |n: &u8| list.iter().any(|member| member.node() == Some(name(*n).as_str()));
            let all = list.len() == servers.len() && servers.iter().all(there);
            all && own.healthy && own.ready && !list.iter().any(is_changing)
        })
    }

    /// Each of these votes and serves, whoever else is listed.
    pub(crate) fn carry_on(&self, servers: &[u8]) -> bool {
        servers.iter().all(|n| self.own(*n).is_some_and(|own| own.healthy && own.ready && !own.learner))
    }

    pub(crate) fn three_voters(&self) -> bool {
        self.voters(&[1, 2, 3])
    }

    /// What the agent says of its machine.
    pub(crate) fn status(&self, n: u8) -> Option<Status> {
        let file = self.machine(n).path(STATUS);
        let read = || Some(serde_json::from_slice(&std::fs::read(&file).ok()?));
        // It may be half written: then the rest follows at once.
        (0..1000).map_while(|_| read()).find_map(Result::ok)
    }

    pub(crate) fn is_ready(&self, n: u8) -> bool {
        self.status(n).is_some_and(|status| status.state == State::Ready)
    }

    /// Its agent gives this reason.
    pub(crate) fn says(&self, n: u8, what: &str) -> bool {
        self.status(n).is_some_and(|status| status.reasons.iter().any(|reason| reason.contains(what)))
    }

    pub(crate) fn starts(&self, n: u8) -> usize {
        self.machine(n).starts()
    }

    /// The same trap on several servers: which of them leads is etcd's business.
    pub(crate) fn trap(&self, servers: &[u8], fault: Option<&str>) {
        servers.iter().for_each(|n| self.machine(*n).trap(fault));
    }

    /// As `etcdctl member remove` on a server. Asked again until etcd has a leader and does it.
    pub(crate) fn remove_member(&self, via: u8, n: u8) {
        self.remove_address(via, address(n));
    }

    pub(crate) fn remove_address(&self, via: u8, peer: Ipv4Addr) {
        self.ask_etcd(via, "remove", |list| {
            let member = list.iter().find(|member| member.peer == Some(peer))?;
            Some(format!("{{\"ID\":\"{}\"}}", member.id))
        });
    }

    /// As `etcdctl member add --learner` on a server, for a machine that is not there.
    pub(crate) fn add_stranger(&self, via: u8, peer: Ipv4Addr) {
        self.ask_etcd(via, "add", |list| {
            let there = list.iter().any(|member| member.peer == Some(peer));
            (!there).then(|| format!("{{\"peerURLs\":[\"https://{peer}:2380\"],\"isLearner\":true}}"))
        });
    }

    /// Asks for a change of the member list until the list shows that there is nothing left to ask for.
    fn ask_etcd(&self, via: u8, verb: &str, missing: impl Fn(&[EtcdMember]) -> Option<String>) {
        let (end, path) = (Instant::now() + LIMIT, format!("/v3/cluster/member/{verb}"));
        loop {
            assert!(Instant::now() < end, "etcd does not {verb} a member: {:?}", self.list(via));
            let list = self.list(via);
            match missing(&list) {
                Some(ask) if !list.is_empty() => {
                    let (root, path) = (self.machine(via).root(), path.clone());
                    let asked = self.machine(via).netns.run(move || {
                        let runtime =
                            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                        let prober = Prober::new(root).unwrap();
                        let asked = runtime.block_on(prober.gateway(&path, &ask));
                        asked.is_ok_and(|answer| answer.status == 200)
                    });
                    let _again_if_refused = asked.join().unwrap();
                }
                None if !list.is_empty() => return,
                Some(_) | None => {}
            }
            self.watch.next_look();
        }
    }

    /// What must hold whenever a story is over: one cluster ever, one change at a time, numbers that only rise.
    pub(crate) fn nothing_went_wrong(&self) {
        self.watch.with(|seen| {
            assert_eq!(seen.identities.len(), 1, "one cluster, ever: {:?}", seen.identities);
            assert!(seen.doubled.is_empty(), "two changes at once: {:?}", seen.doubled);
        });
        let events = self.home.events();
        one_change_at_a_time(&events);
        let gone = events.iter().filter(|event| event.contains("is gone from every list")).count();
        let evictions: usize = self.machines.values().map(|machine| machine.said("Removed learner ")).sum();
        assert!(gone <= evictions, "{evictions} learners were evicted: {events:#?}");
        self.wait("every server knows itself as a member of the one cluster", |lab| {
            let known = (1..=3).map(|n| match lab.machine(n).kept().record {
                GateRecord::Member { identity, .. } => Some(format!("{identity:?}")),
                GateRecord::Fresh | GateRecord::Initialising { .. } | GateRecord::Joining { .. } => None,
            });
            let known: BTreeSet<Option<String>> = known.collect();
            known.len() == 1 && !known.contains(&None)
        });
        for n in 1..=3 {
            let asked_too_early = self.machine(n).said(k3s_model::texts::TOO_MANY_LEARNERS);
            assert_eq!(asked_too_early, 0, "{} asked while another was a learner", name(n));
        }
    }

    fn picture(&self) -> String {
        let mut text = String::new();
        for (n, machine) in &self.machines {
            let reasons = self.status(*n).map(|status| (status.state, status.reasons));
            let member = self.own(*n);
            text += &format!("{}: {reasons:?}, started {} times\n  {member:?}\n", name(*n), machine.starts());
            text += &machine.logs();
        }
        text + &self.home.log()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.picture());
            self.folder.disable_cleanup(true);
            eprintln!("kept: {}", self.folder.path().display());
        }
    }
}

/// `X may join (fence N)` and what ends it take turns, and each fence is higher than the one before.
fn one_change_at_a_time(events: &[String]) {
    let (mut joining, mut newest) = (None, Vec::new());
    for event in events {
        if let Some((who, fence)) = event.split_once(" may join (fence ") {
            assert_eq!(joining.replace(who.to_owned()), None, "{who} may join too: {events:#?}");
            let fence: Vec<u64> =
                fence.trim_end_matches(')').split('.').map(|part| part.parse().unwrap()).collect();
            assert!(fence > newest, "{events:#?}");
            newest = fence;
        } else if let Some((who, _)) = event.split_once("; the lock is released") {
            let who = who.split(' ').next().map(str::to_owned);
            assert!(joining.is_some() && joining == who, "{events:#?}");
            joining = None;
        }
    }
}
