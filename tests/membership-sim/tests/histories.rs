//! Twenty thousand random histories of init and join, and a planted bug for each invariant.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

use membership_sim::faults::Menu;
use membership_sim::history::{History, Outcome, Plan};
use membership_sim::invariants::Violation;
use membership_sim::node::GateBug;
use membership_sim::provisioner::ProvisionerBug;

/// `MUSTER_HISTORIES` for long runs; the default is what `make test` promises.
fn count() -> u64 {
    std::env::var("MUSTER_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

fn run(plan: Plan) -> Result<Outcome, String> {
    History::new(plan).run().map_err(|broken| {
        format!(
            "seed {}: at {} ms {}\nfaults: {:?}",
            plan.seed, broken.at_ms, broken.violation, broken.faults
        )
    })
}

#[test]
fn no_history_breaks_an_invariant_and_calm_ones_end_with_three_voters() {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get) as u64;
    let unfinished: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut unfinished = Vec::new();
                    for seed in (thread..count()).step_by(threads as usize) {
                        let plan = Plan::of(seed);
                        match run(plan) {
                            Err(text) => panic!("{text}"),
                            Ok(o) if plan.calm_ms > 0 && (o.voters != 3 || !o.up || !o.lock_free) => {
                                unfinished.push(format!("seed {seed}: {o:?}"));
                            }
                            Ok(_) => {}
                        }
                    }
                    unfinished
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(
        unfinished.is_empty(),
        "{} histories did not heal, the first: {}",
        unfinished.len(),
        unfinished[0]
    );
}

/// Runs seeds until the planted bug shows; a bug that never shows means that the invariant looks away.
fn bites(alter: impl Fn(&mut Plan), expected: impl Fn(&Violation) -> bool) -> u64 {
    for seed in 0..4_000 {
        let mut plan = Plan::of(seed);
        plan.menu = Menu { disks: true, copies: true };
        alter(&mut plan);
        match History::new(plan).run() {
            Err(broken) if expected(&broken.violation) => return seed,
            Err(_) | Ok(_) => {}
        }
    }
    panic!("the planted bug never showed in 4,000 histories");
}

#[test]
fn a_gate_that_makes_a_cluster_by_itself_is_caught() {
    bites(|plan| plan.gate = GateBug::InitAgainAfterWipe, |v| matches!(v, Violation::TwoClusters { .. }));
}

#[test]
fn a_provisioner_that_grants_to_all_is_caught() {
    bites(
        |plan| plan.provisioner = ProvisionerBug::GrantsToAll,
        |v| matches!(v, Violation::TwoChanges { .. }),
    );
}

#[test]
fn a_lock_that_is_released_early_is_caught() {
    bites(
        |plan| plan.provisioner = ProvisionerBug::ReleasesEarly,
        |v| matches!(v, Violation::ReleasedEarly { .. }),
    );
}

#[test]
fn numbers_that_restart_are_caught() {
    bites(
        |plan| plan.provisioner = ProvisionerBug::NumbersRestart,
        |v| matches!(v, Violation::NumberFell { .. }),
    );
}
