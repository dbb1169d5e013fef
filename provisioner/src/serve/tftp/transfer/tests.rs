use super::*;

mod world;

fn terms(block: u16, window: u16, oack: bool) -> Terms {
    Terms { block, window, oack: oack.then(Vec::new) }
}

fn blocks(first: u64, count: u16) -> Option<Output> {
    Some(Output::Blocks { first, count })
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn lockstep_sends_one_block_for_each_acknowledgement() {
    let now = Instant::now();
    let mut transfer = Transfer::new(now, 1024, terms(512, 1, false));
    assert_eq!(transfer.poll_output(), blocks(1, 1));
    for (ack, next) in [(1, blocks(2, 1)), (2, blocks(3, 1)), (3, Some(Output::End(End::Complete)))] {
        transfer.handle(now + MS, Input::Ack(ack));
        assert_eq!(transfer.poll_output(), next);
        assert_eq!(transfer.poll_output(), None);
    }
}

#[test]
fn an_empty_file_is_one_empty_block() {
    let now = Instant::now();
    let mut transfer = Transfer::new(now, 0, terms(512, 1, false));
    assert_eq!(transfer.poll_output(), blocks(1, 1));
    transfer.handle(now, Input::Ack(1));
    assert_eq!(transfer.poll_output(), Some(Output::End(End::Complete)));
}

#[test]
fn a_size_probe_is_a_success() {
    let now = Instant::now();
    let mut transfer = Transfer::new(now, 99, terms(1468, 4, true));
    assert_eq!(transfer.poll_output(), Some(Output::Oack));
    transfer.handle(now, Input::Error { code: 8 });
    assert_eq!(transfer.poll_output(), Some(Output::End(End::Probe)));
    transfer.handle(now, Input::Ack(0));
    transfer.expire(now + Duration::from_secs(60));
    assert_eq!(transfer.poll_output(), None, "nothing after the end");
}

#[test]
fn a_forged_request_draws_six_packets_at_most() {
    for oack in [false, true] {
        let mut now = Instant::now();
        let mut transfer = Transfer::new(now, 1 << 20, terms(1468, 64, oack));
        let (mut packets, mut ended) = (0, None);
        for _ in 0..100 {
            match transfer.poll_output() {
                Some(Output::Oack | Output::Blocks { count: 1, .. }) => packets += 1,
                Some(Output::Blocks { .. }) => panic!("a stream before the first acknowledgement"),
                Some(Output::End(end)) => ended = Some(end),
                None => {}
            }
            now = transfer.next_deadline().max(now + MS);
            transfer.expire(now);
        }
        assert_eq!((packets, ended), (6, Some(End::NeverAnswered)));
    }
}

#[test]
fn thirty_seconds_without_progress_end_it() {
    let start = Instant::now();
    let mut now = start;
    let mut transfer = Transfer::new(now, 1 << 20, terms(512, 1, false));
    transfer.handle(now, Input::Ack(1));
    let mut end = None;
    while end.is_none() {
        if let Some(Output::End(why)) = transfer.poll_output() {
            end = Some(why);
        }
        let next = transfer.next_deadline();
        assert!(next - now <= Duration::from_secs(1), "the back-off is capped at a second");
        now = next;
        transfer.expire(now);
        // What a client says without getting on keeps nothing alive.
        transfer.handle(now, Input::Ack(1));
    }
    assert_eq!(end, Some(End::Silent { arrived: 1, of: 2049 }));
    let took = now - start;
    assert!((30..=32).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn a_repeated_acknowledgement_means_nothing_in_lockstep() {
    let now = Instant::now();
    let mut transfer = Transfer::new(now, 5000, terms(512, 1, false));
    transfer.poll_output();
    transfer.handle(now + MS, Input::Ack(1));
    assert_eq!(transfer.poll_output(), blocks(2, 1));
    for late in 1..50 {
        transfer.handle(now + MS * late, Input::Ack(1));
        assert_eq!(transfer.poll_output(), None);
    }
}

#[test]
fn a_timer_that_was_too_short_learns_it() {
    let start = Instant::now();
    let mut transfer = Transfer::new(start, 1 << 20, terms(512, 1, false));
    transfer.poll_output();
    transfer.handle(start + MS, Input::Ack(1));
    // The client suddenly takes 20 ms: needless repetitions, and each brings an acknowledgement of its own.
    let mut now = start + MS;
    let mut needless = 0;
    for block in 2..=40 {
        let answered = now + MS * 20;
        let mut copies = 0;
        while transfer.next_deadline() < answered {
            now = transfer.next_deadline();
            transfer.expire(now);
            copies += 1;
        }
        needless += copies;
        now = answered;
        transfer.handle(now, Input::Ack(block));
        for _ in 0..copies {
            transfer.handle(now, Input::Ack(block));
        }
    }
    assert!(needless <= 6, "{needless} needless repetitions in 40 blocks");
}

#[test]
fn acknowledgements_of_other_blocks_mean_nothing() {
    let now = Instant::now();
    let mut transfer = Transfer::new(now, 1 << 20, terms(512, 4, true));
    transfer.poll_output();
    for stray in [1, 4, 65535] {
        transfer.handle(now, Input::Ack(stray));
        assert_eq!(transfer.poll_output(), None);
    }
    transfer.handle(now, Input::Ack(0));
    assert_eq!(transfer.poll_output(), blocks(1, 4));
    for stray in [5, 100, 65535] {
        transfer.handle(now + MS, Input::Ack(stray));
        assert_eq!(transfer.poll_output(), None);
    }
}

#[test]
fn a_gap_in_a_window_is_mended_once() {
    let now = Instant::now();
    let mut transfer = Transfer::new(now, 1 << 20, terms(512, 8, true));
    transfer.poll_output();
    transfer.handle(now + MS * 4, Input::Ack(0));
    assert_eq!(transfer.poll_output(), blocks(1, 8));
    // Block 4 was lost: the client says so for each block behind it, as EDK2 does.
    transfer.handle(now + MS * 8, Input::Ack(3));
    assert_eq!(transfer.poll_output(), blocks(4, 8));
    for _ in 0..4 {
        transfer.handle(now + MS * 8, Input::Ack(3));
        assert_eq!(transfer.poll_output(), None);
    }
}

#[test]
fn a_client_that_acknowledges_each_block_is_not_flooded() {
    let now = Instant::now();
    let mut transfer = Transfer::new(now, 1 << 20, terms(512, 8, true));
    transfer.poll_output();
    transfer.handle(now + MS * 4, Input::Ack(0));
    transfer.poll_output();
    let mut sent = 0;
    for block in 1..=100 {
        transfer.handle(now + MS * 5, Input::Ack(block));
        if let Some(Output::Blocks { count, .. }) = transfer.poll_output() {
            sent += u32::from(count);
        }
    }
    // Eight gaps believed, then only what completes the client's window.
    assert!(sent <= 100 + 8 * 8, "{sent} blocks for 100");
}

#[test]
fn a_gap_at_the_start_of_a_window_is_mended_without_the_timer() {
    let now = Instant::now();
    let mut transfer = Transfer::new(now, 1 << 20, terms(512, 8, true));
    transfer.poll_output();
    transfer.handle(now + MS * 4, Input::Ack(0));
    transfer.poll_output();
    // A copy of the first acknowledgement made by the network comes at once, the tale of a gap a round trip later.
    transfer.handle(now + MS * 4, Input::Ack(0));
    assert_eq!(transfer.poll_output(), None);
    transfer.handle(now + MS * 8, Input::Ack(0));
    assert_eq!(transfer.poll_output(), blocks(1, 8));
}

#[test]
fn numbers_roll_over_behind_65535() {
    let now = Instant::now();
    let size = 70_000 * 8;
    let mut transfer = Transfer::new(now, size, terms(8, 64, true));
    transfer.poll_output();
    transfer.handle(now, Input::Ack(0));
    let mut got = 0;
    while let Some(Output::Blocks { first, count }) = transfer.poll_output() {
        assert_eq!(first, got + 1);
        got += u64::from(count);
        transfer.handle(now, Input::Ack(number(got)));
        if got == 70_001 {
            break;
        }
    }
    assert_eq!(transfer.poll_output(), Some(Output::End(End::Complete)));
}

#[test]
fn only_a_client_that_gets_on_is_lively() {
    let now = Instant::now();
    let mut transfer = Transfer::new(now, 1 << 20, terms(512, 1, false));
    assert!(!transfer.lively(now));
    transfer.handle(now, Input::Ack(1));
    assert!(transfer.lively(now + MS * 900));
    assert!(!transfer.lively(now + MS * 1100));
}
