//! The model, looked at as the recorder looked at k3s; and the lines of a timeline.

use k3s_model::config::Config;
use k3s_model::ids::MemberId;
use k3s_model::names::node_of;
use k3s_model::numbers::Numbers;
use k3s_model::texts;
use k3s_model::token::Token;
use k3s_model::world::{Event, ListRefused, Server, World};
use std::collections::BTreeMap;

pub(crate) const A: Server = Server(0);
pub(crate) const B: Server = Server(1);
pub(crate) const C: Server = Server(2);
pub(crate) const ALL: [Server; 3] = [A, B, C];

/// Poll like the recorder did: each server's /db/info, kept when it changes.
pub(crate) struct Recorder {
    pub(crate) world: World,
    seen: BTreeMap<Server, Vec<String>>,
    pub(crate) events: Vec<Event>,
    /// Play the service manager: start again 5 s after an exit.
    pub(crate) restarts: bool,
    configs: BTreeMap<Server, Config>,
    due: BTreeMap<Server, u64>,
}

impl Recorder {
    pub(crate) fn new(numbers: Numbers, seed: u64) -> Self {
        let machines =
            [("mini-pc-1", "10.99.0.11"), ("mini-pc-2", "10.99.0.12"), ("mini-pc-3", "10.99.0.13")];
        Self {
            world: World::new(numbers, seed, &machines),
            seen: BTreeMap::new(),
            events: Vec::new(),
            restarts: true,
            configs: BTreeMap::new(),
            due: BTreeMap::new(),
        }
    }

    /// Three voters, as most timelines begin.
    pub(crate) fn three(numbers: Numbers, seed: u64) -> Self {
        let mut r = Self::new(numbers, seed);
        r.start(A, init());
        r.run(20_000);
        r.start(B, server(A));
        r.start(C, server(A));
        r.run(120_000);
        assert_eq!(r.voters(A), 3);
        r.forget();
        r
    }

    pub(crate) fn start(&mut self, s: Server, config: Config) {
        self.configs.insert(s, config.clone());
        let now = self.world.now();
        self.world.start(s, config, now);
    }

    pub(crate) fn kill(&mut self, s: Server) {
        self.configs.remove(&s);
        self.due.remove(&s);
        self.world.kill(s, self.world.now());
        self.look();
    }

    pub(crate) fn run(&mut self, ms: u64) {
        let end = self.world.now() + ms;
        while self.world.now() < end {
            let now = self.world.now() + 250;
            for event in self.world.tick(now) {
                if let Event::Exited { server, at, .. } = &event {
                    self.due.insert(*server, at + 5_000);
                }
                self.events.push(event);
            }
            for s in ALL {
                if self.restarts
                    && self.due.get(&s).is_some_and(|due| *due <= now)
                    && let Some(config) = self.configs.get(&s).cloned()
                {
                    self.due.remove(&s);
                    self.world.start(s, config, now);
                }
            }
            self.look();
        }
    }

    pub(crate) fn look(&mut self) {
        for s in ALL {
            let line = self.db_info(s);
            let seen = self.seen.entry(s).or_default();
            if seen.last() != Some(&line) {
                seen.push(line);
            }
        }
    }

    pub(crate) fn db_info(&self, s: Server) -> String {
        match self.world.member_list_as_seen_by(s) {
            Ok(members) => {
                let mut names: Vec<String> = members
                    .iter()
                    .map(|m| {
                        let name = match &m.name {
                            Some(name) => node_of(name).to_string(),
                            None => m.peer_url.replace("https://", "unstarted-"),
                        };
                        if m.learner { format!("{name}[learner]") } else { name }
                    })
                    .collect();
                names.sort();
                format!("200: {}", names.join(" "))
            }
            Err(ListRefused::Down) => String::from("000"),
            Err(ListRefused::Sqlite) => String::from("400"),
            Err(refused @ (ListRefused::NotStarted | ListRefused::Learner | ListRefused::NoQuorum)) => {
                format!("500: {}", refused.text())
            }
        }
    }

    pub(crate) fn forget(&mut self) {
        self.seen.clear();
        self.events.clear();
    }

    pub(crate) fn voters(&self, s: Server) -> usize {
        self.world.member_list_as_seen_by(s).map_or(0, |l| l.iter().filter(|m| !m.learner).count())
    }

    pub(crate) fn member_of(&self, asked: Server, s: Server) -> MemberId {
        let list = self.world.member_list_as_seen_by(asked).unwrap();
        let name = self.world.name(s);
        list.iter().find(|m| m.name.as_deref().is_some_and(|n| node_of(n) == name)).unwrap().id
    }

    pub(crate) fn exits(&self, s: Server) -> Vec<&str> {
        let of = |e| match e {
            &Event::Exited { server, ref text, .. } if server == s => Some(text.as_str()),
            _ => None,
        };
        self.events.iter().filter_map(of).collect()
    }

    /// Everything that the timeline shows of each server appears in the model's history, in order.
    pub(crate) fn assert_shows(&self, timeline: &str) {
        for s in ALL {
            let wanted = of_server(timeline, self.world.name(s));
            let mut history = self.seen[&s].iter();
            for line in &wanted {
                assert!(
                    history.any(|have| have == line),
                    "{}: `{line}` is missing or out of order\nwanted {wanted:#?}\nmodel {:#?}",
                    self.world.name(s),
                    self.seen[&s]
                );
            }
        }
    }
}

/// The lines of one server in a timeline, in the recorder's words and without doubles.
fn of_server(timeline: &str, name: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in timeline.lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.split_whitespace().skip(1);
        if words.next() != Some(name) {
            continue;
        }
        let rest: Vec<&str> = words.collect();
        let shown = match rest.first() {
            Some(&"000:") => String::from("000"),
            Some(&"500:") => {
                let text = rest.join(" ");
                let (_, why) = text.split_once("MemberList: ").unwrap();
                // the same want of an answer, in the transport's words
                format!("500: {}", why.replace(texts::STREAM_CANCELLED, texts::DEADLINE))
            }
            _ => format!("200: {}", members_of(&rest[1..].join(" "))),
        };
        if lines.last() != Some(&shown) {
            lines.push(shown);
        }
    }
    lines
}

fn members_of(text: &str) -> String {
    let text = text.replace("(unstarted ", "unstarted-").replace(')', "");
    let mut names: Vec<String> = text
        .split_whitespace()
        .map(|word| {
            let (name, learner) = word.strip_suffix("[learner]").map_or((word, ""), |n| (n, "[learner]"));
            format!("{}{learner}", if name.starts_with("unstarted") { name } else { node_of(name) })
        })
        .collect();
    names.sort();
    names.join(" ")
}

pub(crate) fn init() -> Config {
    Config { cluster_init: true, server: None, token: Token::parse("sekret").ok(), is_agent: false }
}

pub(crate) fn server(via: Server) -> Config {
    let server = Some(format!("https://10.99.0.1{}:6443", via.0 + 1));
    Config { cluster_init: false, server, ..init() }
}

pub(crate) fn timeline(name: &str) -> String {
    let path = format!("{}/../k3s-standin/fixtures/timelines/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}
