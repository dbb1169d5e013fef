//! Which declared machine a caller is, and whether its key counts. A key is admitted by a person or, once, by an open
//! window; MAC addresses and serials only name a machine.

use crate::config::meant::{Machine, Os};
use muster_protocol::class::{Class, WrongClass, fits};
use muster_protocol::hello::{Wait, wait};
use muster_protocol::ids::{Mac, NodeName};
use muster_protocol::keys::Fingerprint;
use std::collections::BTreeMap;

/// Two keys heard within this time are two live machines.
pub const LIVE_MS: u64 = 30_000;
/// Keys remembered per machine: a flood of made-up keys must not push out memory, nor the real one quickly.
const CLAIMS: usize = 16;

/// What a caller says of itself; the key alone is proven.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    pub key: Fingerprint,
    pub macs: &'a [Mac],
    pub serial: Option<&'a str>,
    pub detected: Class,
}

/// What is known when it calls.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    pub machines: &'a [Machine],
    pub admitted: &'a BTreeMap<NodeName, Fingerprint>,
    /// An open window, with the machines whose first key it has already taken.
    pub window: Option<&'a [NodeName]>,
}

/// Who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Its key was admitted for this machine.
    Admitted(NodeName),
    /// The open window takes this key: save it, then it is admitted.
    Taken(NodeName),
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("none of its MAC addresses ({}) is declared in cluster.toml", list(.macs))]
    NotDeclared { macs: Vec<Mac> },
    #[error("its MAC addresses belong to more than one declared machine ({})", list(.names))]
    Ambiguous { names: Vec<NodeName> },
    #[error("`{name}` keeps its own system: nothing is installed on it")]
    KeepsItsSystem { name: NodeName },
    #[error("`{name}` is declared with serial `{declared}`, this machine says `{reported}`")]
    OtherSerial { name: NodeName, declared: String, reported: String },
    #[error("{wrong}")]
    WrongClass { name: NodeName, wrong: WrongClass },
    #[error("waiting for approval (hint: muster node approve {name} {key})")]
    Pending { name: NodeName, key: Fingerprint },
    #[error("`{name}` was admitted with key {admitted}, this machine has key {key}")]
    OtherKey { name: NodeName, key: Fingerprint, admitted: Fingerprint },
    #[error("this key is admitted as `{name}`, but its MAC addresses belong to `{other}`")]
    OtherMachine { name: NodeName, other: NodeName },
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Refusal {
    /// The declared machine it is about.
    pub fn name(&self) -> Option<&NodeName> {
        match self {
            Self::NotDeclared { .. } | Self::Ambiguous { .. } => None,
            Self::KeepsItsSystem { name }
            | Self::OtherSerial { name, .. }
            | Self::WrongClass { name, .. }
            | Self::Pending { name, .. }
            | Self::OtherKey { name, .. }
            | Self::OtherMachine { name, .. } => Some(name),
        }
    }

    /// As told to the machine.
    pub fn wait(&self) -> Wait {
        let code = match self {
            Self::NotDeclared { .. } => wait::NOT_DECLARED,
            Self::Ambiguous { .. } => wait::TWO_MACHINES,
            Self::KeepsItsSystem { .. } => wait::INSTALL_BY_HAND,
            Self::OtherSerial { .. } | Self::OtherMachine { .. } => wait::OTHER_MACHINE,
            Self::WrongClass { .. } => wait::WRONG_CLASS,
            Self::Pending { .. } => wait::NOT_ADMITTED,
            Self::OtherKey { .. } => wait::OTHER_KEY,
        };
        Wait { code, reason: self.to_string() }
    }
}

pub fn recognise(caller: &Caller<'_>, known: &Known<'_>) -> Who {
    let by_key = known.admitted.iter().find(|(_, key)| **key == caller.key).map(|(name, _)| name);
    let mut by_mac =
        known.machines.iter().filter(|machine| machine.macs.iter().any(|mac| caller.macs.contains(mac)));
    let machine = match (by_mac.next(), by_mac.next()) {
        (Some(one), Some(other)) => {
            let names =
                [one.name.clone(), other.name.clone()].into_iter().chain(by_mac.map(|m| m.name.clone()));
            return Who::Refused(Refusal::Ambiguous { names: names.collect() });
        }
        (Some(one), None) => Some(one),
        (None, _) => None,
    };
    match (by_key, machine) {
        // The key decides; a network card may be exchanged, but not for another declared machine's.
        (Some(name), None) => Who::Admitted(name.clone()),
        (Some(name), Some(machine)) if machine.name == *name => match own_hardware(caller, machine) {
            Some(refusal) => Who::Refused(refusal),
            None => Who::Admitted(name.clone()),
        },
        (Some(name), Some(machine)) => {
            Who::Refused(Refusal::OtherMachine { name: name.clone(), other: machine.name.clone() })
        }
        (None, None) => Who::Refused(Refusal::NotDeclared { macs: caller.macs.to_vec() }),
        (None, Some(machine)) => newcomer(caller, machine, known),
    }
}

fn newcomer(caller: &Caller<'_>, machine: &Machine, known: &Known<'_>) -> Who {
    let name = machine.name.clone();
    if let Some(admitted) = known.admitted.get(&name) {
        return Who::Refused(Refusal::OtherKey { name, key: caller.key, admitted: *admitted });
    }
    if let Some(refusal) = own_hardware(caller, machine) {
        return Who::Refused(refusal);
    }
    match known.window {
        Some(taken) if !taken.contains(&name) => Who::Taken(name),
        Some(_) | None => Who::Refused(Refusal::Pending { name, key: caller.key }),
    }
}

/// What the hardware says against the declaration.
fn own_hardware(caller: &Caller<'_>, machine: &Machine) -> Option<Refusal> {
    let name = machine.name.clone();
    if machine.os == Os::Keep {
        return Some(Refusal::KeepsItsSystem { name });
    }
    if let (Some(declared), Some(reported)) = (&machine.serial, caller.serial)
        && declared != reported
    {
        return Some(Refusal::OtherSerial { name, declared: declared.clone(), reported: reported.into() });
    }
    fits(machine.class, caller.detected).err().map(|wrong| Refusal::WrongClass { name, wrong })
}

/// Which keys claim which machine, and since when. In memory: it only has to tell who is alive now.
#[derive(Debug, Default)]
pub struct Claims(BTreeMap<NodeName, Vec<Claim>>);

#[derive(Debug, Clone, Copy)]
struct Claim {
    key: Fingerprint,
    first_ms: u64,
    last_ms: u64,
}

impl Claims {
    pub fn note(&mut self, now_ms: u64, name: &NodeName, key: Fingerprint) {
        let claims = self.0.entry(name.clone()).or_default();
        if let Some(known) = claims.iter_mut().find(|claim| claim.key == key) {
            // After a pause it is another life of the same machine.
            if now_ms.saturating_sub(known.last_ms) > LIVE_MS {
                known.first_ms = now_ms;
            }
            known.last_ms = now_ms;
        } else {
            if claims.len() >= CLAIMS {
                claims.remove(0);
            }
            claims.push(Claim { key, first_ms: now_ms, last_ms: now_ms });
        }
    }

    /// Two machines that are both alive: each was heard after the other had first been heard. A machine that restarted
    /// with a new key is none: its old key falls silent.
    pub fn two_live(&self, now_ms: u64, name: &NodeName) -> Option<(Fingerprint, Fingerprint)> {
        let live = |claim: &&Claim| now_ms.saturating_sub(claim.last_ms) <= LIVE_MS;
        let claims: Vec<&Claim> = self.0.get(name)?.iter().filter(live).collect();
        claims.iter().enumerate().find_map(|(at, a)| {
            let b = claims[at + 1..].iter().find(|b| a.last_ms > b.first_ms && b.last_ms > a.first_ms)?;
            Some((a.key, b.key))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const TOML: &str = r#"
        [cluster]
        name = "t"
        topology = "single"
        [provisioner]
        interface = "lo"
        [k3s]
        version = "v1.36.3+k3s1"
        [[machine]]
        name = "a"
        class = "mini-pc"
        role = "server"
        address = "10.0.0.1/24"
        mac = ["02:00:00:00:00:01", "02:00:00:00:00:02"]
        serial = "S1"
        [[machine]]
        name = "b"
        class = "rtx-host"
        role = "worker"
        mac = ["02:00:00:00:00:03"]
        [[machine]]
        name = "spark"
        class = "dgx-spark"
        role = "worker"
        mac = ["02:00:00:00:00:04"]
    "#;

    fn key(n: u8) -> Fingerprint {
        Fingerprint([n; 10])
    }

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    struct World {
        machines: Vec<Machine>,
        admitted: BTreeMap<NodeName, Fingerprint>,
        window: Option<Vec<NodeName>>,
    }

    impl World {
        fn new() -> Self {
            let machines = config::parse("t", TOML).unwrap().machines;
            Self { machines, admitted: BTreeMap::new(), window: None }
        }

        fn ask(&self, key: Fingerprint, macs: &[Mac], serial: Option<&str>, detected: Class) -> Who {
            let known =
                Known { machines: &self.machines, admitted: &self.admitted, window: self.window.as_deref() };
            recognise(&Caller { key, macs, serial, detected }, &known)
        }
    }

    fn code(who: Who) -> u16 {
        match who {
            Who::Refused(refusal) => refusal.wait().code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stranger_is_told_that_it_is_not_declared() {
        assert_eq!(code(World::new().ask(key(1), &[mac(9)], None, Class::Generic)), wait::NOT_DECLARED);
    }

    #[test]
    fn any_of_several_macs_names_the_machine() {
        for n in [1, 2] {
            assert_eq!(
                code(World::new().ask(key(1), &[mac(9), mac(n)], None, Class::MiniPc)),
                wait::NOT_ADMITTED
            );
        }
    }

    #[test]
    fn a_window_takes_the_first_key_and_no_second() {
        let mut world = World::new();
        world.window = Some(Vec::new());
        assert_eq!(world.ask(key(1), &[mac(1)], None, Class::MiniPc), Who::Taken(name("a")));
        world.admitted.insert(name("a"), key(1));
        world.window = Some(vec![name("a")]);
        assert_eq!(world.ask(key(1), &[mac(1)], None, Class::MiniPc), Who::Admitted(name("a")));
        assert_eq!(code(world.ask(key(2), &[mac(1)], None, Class::MiniPc)), wait::OTHER_KEY);
    }

    #[test]
    fn a_window_takes_a_machines_key_once_even_when_it_was_removed_again() {
        let mut world = World::new();
        world.window = Some(vec![name("a")]);
        assert_eq!(code(world.ask(key(2), &[mac(1)], None, Class::MiniPc)), wait::NOT_ADMITTED);
    }

    #[test]
    fn another_named_class_is_refused_and_a_generic_one_is_not() {
        let mut world = World::new();
        world.window = Some(Vec::new());
        assert_eq!(code(world.ask(key(1), &[mac(3)], None, Class::MiniPc)), wait::WRONG_CLASS);
        assert_eq!(world.ask(key(1), &[mac(3)], None, Class::Generic), Who::Taken(name("b")));
    }

    #[test]
    fn another_serial_is_refused_and_an_absent_one_is_not() {
        let mut world = World::new();
        world.window = Some(Vec::new());
        assert_eq!(code(world.ask(key(1), &[mac(1)], Some("S2"), Class::MiniPc)), wait::OTHER_MACHINE);
        assert_eq!(world.ask(key(1), &[mac(1)], None, Class::MiniPc), Who::Taken(name("a")));
    }

    #[test]
    fn macs_of_two_machines_are_ambiguous() {
        assert_eq!(
            code(World::new().ask(key(1), &[mac(1), mac(3)], None, Class::Generic)),
            wait::TWO_MACHINES
        );
    }

    #[test]
    fn a_machine_that_keeps_its_system_gets_nothing() {
        let mut world = World::new();
        world.window = Some(Vec::new());
        assert_eq!(code(world.ask(key(1), &[mac(4)], None, Class::DgxSpark)), wait::INSTALL_BY_HAND);
    }

    #[test]
    fn an_admitted_key_on_another_machines_macs_is_refused() {
        let mut world = World::new();
        world.admitted.insert(name("a"), key(1));
        assert_eq!(world.ask(key(1), &[mac(9)], None, Class::MiniPc), Who::Admitted(name("a")));
        assert_eq!(code(world.ask(key(1), &[mac(3)], None, Class::Generic)), wait::OTHER_MACHINE);
    }

    #[test]
    fn two_keys_that_take_turns_are_two_machines_and_a_restart_is_none() {
        let (mut claims, a) = (Claims::default(), name("a"));
        claims.note(0, &a, key(1));
        claims.note(5_000, &a, key(1));
        claims.note(9_000, &a, key(2));
        claims.note(14_000, &a, key(2));
        assert_eq!(claims.two_live(14_000, &a), None, "the old key is silent");
        claims.note(15_000, &a, key(1));
        assert_eq!(claims.two_live(15_000, &a), Some((key(1), key(2))));
        assert_eq!(claims.two_live(15_001 + LIVE_MS, &a), None, "both went away");
    }
}
