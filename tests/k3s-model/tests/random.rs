//! Random histories: whatever is done to the servers, the model keeps what etcd keeps.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use k3s_model::config::Config;
use k3s_model::numbers::{AddRule, Numbers};
use k3s_model::token::Token;
use k3s_model::world::{Server, World};

/// Deterministic luck, so that a failing seed can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn config(dice: &mut Dice) -> Config {
    let server = (dice.roll(4) > 0).then(|| format!("https://10.77.0.1{}:6443", dice.roll(5) + 1));
    Config { cluster_init: dice.roll(4) == 0, server, token: Token::parse("sekret").ok(), is_agent: false }
}

fn act(world: &mut World, dice: &mut Dice, now: u64) {
    let s = Server(dice.roll(5) as usize);
    let members = world.member_list_as_seen_by(s).unwrap_or_default();
    let one = members.get(dice.roll(5) as usize).map(|m| m.id);
    match dice.roll(16) {
        0..=5 => {
            let config = config(dice);
            world.start(s, config, now);
        }
        6 | 7 => world.kill(s, now),
        8 => world.wipe(s, now),
        9 => world.half_wipe(s, now),
        10 => world.partition(&[&[Server(0), Server(1)], &[Server(2), Server(3), Server(4)]], now),
        11 | 12 => world.heal(now),
        13 => {
            let name = format!("mini-pc-{}", dice.roll(5) + 1);
            let _ = world.delete_node(s, &name, now);
        }
        14 => {
            if let Some(id) = one {
                let _ = world.remove_member(s, id, now);
            }
        }
        _ => {
            if let Some(id) = one {
                let _ = world.transfer_leadership(s, id, now);
            }
            let _ = world.cluster_reset(s, now) && dice.roll(2) == 0;
        }
    }
}

fn check(world: &World) {
    for s in world.servers() {
        let Ok(members) = world.member_list_as_seen_by(s) else { continue };
        assert!(members.iter().filter(|m| m.learner).count() <= 1, "one learner at most");
        assert!(members.iter().any(|m| !m.learner), "a list without voters answers nothing");
        let mut ids: Vec<_> = members.iter().map(|m| m.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), members.len(), "ids are unique");
        let status = world.status(s);
        assert!(status.is_some_and(|st| st.leader.is_some()), "a linearizable list needs a leader");
        assert!(world.health(s).is_some_and(|h| h.healthy));
    }
}

#[test]
fn whatever_happens_the_list_stays_a_list_of_one_cluster() {
    for seed in 1..=150 {
        let mut dice = Dice(seed);
        let mut numbers = Numbers::SCALED;
        if seed % 2 == 0 {
            numbers.add_rule = AddRule::AllVoters;
        }
        let machines = [1, 2, 3, 4, 5].map(|n| (format!("mini-pc-{n}"), format!("10.77.0.1{n}")));
        let named: Vec<(&str, &str)> = machines.iter().map(|(n, a)| (n.as_str(), a.as_str())).collect();
        let mut world = World::new(numbers, seed, &named);
        let mut now = 0;
        for _ in 0..150 {
            now += dice.roll(20_000);
            act(&mut world, &mut dice, now);
            check(&world);
            world.tick(now + 500);
            now += 500;
            check(&world);
        }
    }
}
