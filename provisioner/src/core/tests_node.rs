//! Facts about running nodes and about what people see, with simulated machines.

use super::sim::{Sim, World, ready_node};
use muster_protocol::etcd::ServerReport;
use muster_protocol::grant::Start;
use muster_protocol::ids::Number;
use muster_protocol::sealed::{SealedBox, Secret};
use muster_protocol::signed::{By, Listener, Signed};
use muster_protocol::status::{Stage, State};
use muster_protocol::sync::Report;

#[test]
fn a_manifest_gets_a_new_number_only_when_its_content_changes() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let mut machine = Sim::new(1, 1);
    let order = world.order(&machine);
    world.claim(&machine, &order);
    machine.install(&world.trust.clone(), order.number);
    let first = world.sync(&machine, &machine.request("s1", 1)).manifest.unwrap();
    let accepted = first.verify(By::Online(&world.trust), &Listener::default()).unwrap();
    machine.seen.manifest = accepted.accepted().unwrap().number;
    assert!(world.sync(&machine, &machine.request("s1", 2)).manifest.is_none(), "it has it");
    let mut world = world.restart().with_artifacts();
    assert!(world.sync(&machine, &machine.request("s1", 3)).manifest.is_none(), "the same content again");
    world.pass(8 * 86_400_000);
    assert!(
        world.sync(&machine, &machine.request("s1", 4)).manifest.is_none(),
        "an accepted one stays in force"
    );
    machine.seen.manifest = Number::default();
    let renewed = world.sync(&machine, &machine.request("s1", 5)).manifest.unwrap();
    let listener = Listener { now: Some(world.now.unix()), ..Listener::default() };
    assert!(renewed.verify(By::Online(&world.trust), &listener).is_ok(), "whoever has none gets a fresh one");
}

#[test]
fn no_time_is_signed_without_a_sane_clock() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let machine = Sim::new(1, 1);
    world.hello(&machine);
    let mut request = machine.request("s1", 1);
    request.clock_nonce = Some([5; 16]);
    let clock = world.sync(&machine, &request).clock.unwrap();
    assert_eq!(clock.verify(By::Online(&world.trust), &Listener::default()).unwrap().get().nonce, [5; 16]);
    world.now.clock = false;
    assert!(world.sync(&machine, &request).clock.is_none());
}

#[test]
fn only_the_first_server_gets_the_init_grant_and_only_after_all_have_answered() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let servers: Vec<Sim> = (1..=3).map(|n| Sim::new(n, n)).collect();
    for server in &servers {
        world.hello(server);
    }
    let request = |server: &Sim, n: usize, sequence| {
        let mut request = server.request(&format!("s{n}"), sequence);
        request.server = Some(ServerReport::blank());
        request.wants_grant = true;
        request
    };
    assert!(world.sync(&servers[0], &request(&servers[0], 1, 1)).grant.is_none());
    assert!(world.sync(&servers[1], &request(&servers[1], 2, 1)).grant.is_none());
    assert!(world.sync(&servers[2], &request(&servers[2], 3, 1)).grant.is_none());
    let grant = world.sync(&servers[0], &request(&servers[0], 1, 2)).grant.unwrap();
    let grant = grant.verify(By::Online(&world.trust), &Listener::default()).unwrap().into_inner();
    assert!(matches!(grant.start, Start::Init { .. }));
    assert!(world.sync(&servers[1], &request(&servers[1], 2, 2)).grant.is_none());
    // The record was saved before the grant: after a kill the same grant is given, not another one.
    let mut world = world.restart();
    let again = world.sync(&servers[0], &request(&servers[0], 1, 3)).grant.unwrap();
    assert_eq!(again.verify(By::Online(&world.trust), &Listener::default()).unwrap().into_inner(), grant);
}

#[test]
fn boxes_are_relayed_to_whom_they_are_for_and_no_secret_is_in_the_store() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let (server, other, worker) = (Sim::new(1, 1), Sim::new(2, 2), Sim::new(4, 4));
    for machine in [&server, &other, &worker] {
        world.hello(machine);
    }
    let canary = b"K10canary::server:hunter2";
    let seal = |to: &Sim, secret| {
        let cluster = world.trust.cluster;
        let mut rng = Counter(1);
        let from = server.key.public().fingerprint();
        let sealed = SealedBox::seal(cluster, secret, canary, from, &to.key.public(), &mut rng).unwrap();
        Signed::by_key(cluster, &server.key, &sealed)
    };
    let mut request = server.request("s1", 1);
    request.boxes = vec![
        seal(&other, Secret::ServerToken),
        seal(&worker, Secret::ServerToken),
        seal(&worker, Secret::AgentToken),
    ];
    world.sync(&server, &request);
    let to_other = world.sync(&other, &other.request("s2", 1)).boxes;
    assert_eq!(to_other, [request.boxes[0].clone()]);
    let to_worker = world.sync(&worker, &worker.request("w", 1)).boxes;
    assert_eq!(to_worker, [request.boxes[2].clone()], "a worker gets no server token");
    let mut forged = other.request("s2", 2);
    forged.boxes = vec![request.boxes[2].clone()];
    world.sync(&other, &forged);
    let rows = crate::store::dump(&world.core.store().view().unwrap()).unwrap();
    let file = std::fs::read(world.state.store()).unwrap();
    for needle in [&canary[..], b"hunter2"] {
        for haystack in [&rows, &file] {
            assert!(!haystack.windows(needle.len()).any(|window| window == needle));
        }
    }
    let seed: String = server.key.seed().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!String::from_utf8_lossy(&rows).contains(&seed));
}

/// Not random, but enough to seal for a test.
struct Counter(u64);

impl rand_core::TryRng for Counter {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.0 += 1;
        Ok(u32::try_from(self.0 & 0xffff_ffff).unwrap_or(7).wrapping_mul(2_654_435_761))
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from(self.try_next_u32()?) << 32 | u64::from(self.try_next_u32()?))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for byte in bytes {
            *byte = self.try_next_u32()?.to_le_bytes()[3];
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Counter {}

#[test]
fn the_picture_shows_states_stages_and_silence() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let machine = Sim::new(1, 1);
    world.order(&machine);
    let mut status = machine.status("s1", 1, State::Installing);
    status.image = None;
    status.stages = vec![Stage { step: "claim".into(), started_ms: 9_500, ms: 20, bytes: None }];
    let report = Report { status, installed: None, log: Vec::new() };
    world.core.report(world.now, &machine.asker(), &report).unwrap();
    let picture = world.core.picture(world.now).unwrap();
    let part = picture.machines.iter().find(|part| part.name == "s1").unwrap();
    assert_eq!(part.state, "installing");
    assert!(part.stages.iter().any(|stage| stage.step == "claim" && stage.ms == 20), "{:?}", part.stages);
    assert_eq!(picture.machines[1].state, "unseen");
    let later = world.pass(40_000);
    let picture = world.core.picture(later).unwrap();
    assert_eq!(picture.machines[0].state, "silent");
    let json = serde_json::to_string(&picture).unwrap();
    assert!(json.contains("\"apiVersion\":\"muster/v1\""), "{json}");
    assert_eq!(serde_json::from_str::<super::picture::Picture>(&json).unwrap(), picture);
}

/// A server's Node may be ready in the eyes of the others before its own agent has seen that it is a member.
#[test]
fn a_stage_is_dated_by_the_agent_that_measured_it_however_early_its_result_is_seen() {
    let mut world = World::new().with_artifacts();
    world.open_window();
    let machine = Sim::new(1, 1);
    world.order(&machine);
    let mut joined = |sequence, stages| {
        let mut status = machine.status("s1", sequence, State::Joining);
        status.evidence.node = Some(ready_node("s1"));
        status.stages = stages;
        let report = Report { status, installed: None, log: Vec::new() };
        world.core.report(world.now, &machine.asker(), &report).unwrap();
        let picture = world.core.picture(world.now).unwrap();
        let stages = picture.machines.into_iter().find(|part| part.name == "s1").unwrap().stages;
        stages.into_iter().find(|stage| stage.step == "joined")
    };
    assert_eq!(joined(1, vec![]), None);
    let measured = Stage { step: "joined".into(), started_ms: 9_500, ms: 70_000, bytes: None };
    assert_eq!(joined(2, vec![measured]).map(|stage| stage.ms), Some(70_000));
}
