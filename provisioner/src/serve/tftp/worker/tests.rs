use super::*;
use crate::serve::tftp::{clients::Clients, inbox::inbox};
use nix::{
    poll::poll,
    time::{ClockId, clock_gettime},
};
use std::{thread, time::Duration};
use tokio::sync::mpsc::unbounded_channel;

#[test]
fn a_worker_without_transfers_costs_nothing() {
    let (post, inbox) = inbox().unwrap();
    let (events, _heard) = unbounded_channel();
    let mine = Clients::default().part();
    let mut worker = Worker::new("lo".into(), Published::default(), events, mine, 1).unwrap();
    // What a transfer leaves behind that ended before its time was up.
    worker.deadlines.promise(Instant::now() + Duration::from_millis(20), FIRST_KEY);
    let working = thread::spawn(move || {
        worker.run(&inbox).unwrap();
        Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
    });
    poll(&mut [], 500u16).unwrap();
    drop(post);
    let took = working.join().unwrap();
    assert!(took < Duration::from_millis(50), "{took:?} of 500 ms");
}
