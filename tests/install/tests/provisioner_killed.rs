//! The provisioner is killed (SIGKILL) at every step of an install and started again on its store: before it hears the
//! step's exchange, after it has answered while the answer is lost, and after the answer has arrived. Each time there
//! is exactly one install: one order, one claim, one marker `installed`, the right root, and the next boot is the disk's.
//!
//! Steps without a question of their own are told: their exchange is the report that they are done.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

mod lab;

use lab::cut::{Exchange, Moment};

fn killed_in(exchange: Exchange) {
    if !lab::able() {
        return;
    }
    // Side by side: each has a LAN of its own, and waits most of the time.
    std::thread::scope(|scope| {
        for moment in [Moment::Unheard, Moment::Unanswered, Moment::Answered] {
            let exchange = exchange.clone();
            scope.spawn(move || lab::killed_in(exchange, moment));
        }
    });
}

fn told(step: &str) -> Exchange {
    Exchange::Told(step.into())
}

#[test]
fn killed_when_it_makes_the_order() {
    killed_in(Exchange::Order);
}

#[test]
fn killed_at_claim() {
    killed_in(Exchange::Claim);
}

#[test]
fn killed_at_choose() {
    killed_in(Exchange::Fetch("index"));
}

#[test]
fn killed_at_wipe() {
    killed_in(told("wipe"));
}

#[test]
fn killed_at_partition() {
    killed_in(told("partition"));
}

#[test]
fn killed_at_write() {
    killed_in(Exchange::Fetch("blob"));
}

#[test]
fn killed_at_verify() {
    killed_in(told("verify"));
}

#[test]
fn killed_at_esp() {
    killed_in(Exchange::Fetch("uki"));
}

#[test]
fn killed_at_seed() {
    killed_in(told("seed"));
}

#[test]
fn killed_at_bootentry() {
    killed_in(told("bootentry"));
}

#[test]
fn killed_at_mark() {
    killed_in(told("mark"));
}

#[test]
fn killed_at_reboot() {
    killed_in(Exchange::Installed);
}
