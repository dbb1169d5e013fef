//! Several threads at work on a row of items, results taken in the row's order, never more than a window in memory.

use std::collections::BTreeMap;
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

/// `feed` makes items on a thread of its own, `work` is done by `workers` threads, `take` gets the results here, in
/// order. The first error of any of them ends the row and is returned; no thread outlives the call. With no workers
/// everything happens here, one item after the other.
pub(crate) fn ordered<I: Send, O: Send, E: Send>(
    workers: usize,
    mut feed: impl FnMut() -> Option<Result<I, E>> + Send,
    work: impl Fn(I) -> Result<O, E> + Sync,
    mut take: impl FnMut(O) -> Result<(), E>,
) -> Result<(), E> {
    if workers == 0 {
        while let Some(item) = feed() {
            take(work(item?)?)?;
        }
        return Ok(());
    }
    // One item for each worker, one being fed, one being taken.
    let window = workers + 2;
    let work = &work;
    thread::scope(|scope| {
        let (permits, permitted) = sync_channel(window);
        let (items, waiting) = sync_channel(window);
        let (results, finished) = channel();
        for _ in 0..window {
            // There is room for all of them, and the receiver is alive below.
            permits.send(()).unwrap_or_default();
        }
        scope.spawn(move || {
            let mut at = 0_u64;
            while permitted.recv().is_ok() {
                let Some(item) = feed() else { break };
                if items.send((at, item)).is_err() {
                    break;
                }
                at += 1;
            }
        });
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..workers {
            let (waiting, results) = (Arc::clone(&waiting), results.clone());
            scope.spawn(move || {
                // A poisoned lock means that a worker panicked; the scope then passes the panic on.
                while let Ok(Ok((at, item))) = waiting.lock().map(|waiting| waiting.recv()) {
                    if results.send((at, item.and_then(work))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(results);
        let mut early = BTreeMap::new();
        let mut next = 0_u64;
        let outcome = loop {
            let Ok((at, result)) = finished.recv() else { break Ok(()) };
            early.insert(at, result);
            let mut taken = Ok(());
            while let Some(result) = early.remove(&next) {
                taken = result.and_then(&mut take);
                if taken.is_err() {
                    break;
                }
                next += 1;
                // The feeder has gone when the row is at its end: then nobody needs the permit.
                permits.send(()).unwrap_or_default();
            }
            if taken.is_err() {
                break taken;
            }
        };
        // Closing both ends wakes the feeder (no more permits) and the workers (nobody takes results).
        drop(permits);
        drop(finished);
        outcome
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_whoever_is_faster() {
        for workers in [0, 1, 2, 5] {
            let mut items = 0..200_u32;
            let mut taken = Vec::new();
            let outcome: Result<(), ()> = ordered(
                workers,
                || items.next().map(Ok),
                |item| {
                    // Uneven work, so that workers overtake each other.
                    Ok((0..(item % 7) * 1000).fold(item, |sum, x| std::hint::black_box(sum ^ x ^ x)))
                },
                |result| {
                    taken.push(result);
                    Ok(())
                },
            );
            assert_eq!(outcome, Ok(()));
            assert_eq!(taken, (0..200).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_anywhere_ends_the_row_after_what_came_before_it() {
        for (workers, place) in [(0, "feed"), (0, "work"), (0, "take"), (3, "feed"), (3, "work"), (3, "take")]
        {
            let mut items = 0..100_u32;
            let mut taken = Vec::new();
            let outcome = ordered(
                workers,
                || {
                    items
                        .next()
                        .map(|item| if place == "feed" && item == 10 { Err("feed") } else { Ok(item) })
                },
                |item| if place == "work" && item == 10 { Err("work") } else { Ok(item) },
                |item| {
                    if place == "take" && item == 10 {
                        return Err("take");
                    }
                    taken.push(item);
                    Ok(())
                },
            );
            assert_eq!(outcome, Err(place));
            assert_eq!(taken, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_more_than_the_window_is_in_flight() {
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        let (alive, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut items = 0..100_u32;
        let outcome: Result<(), ()> = ordered(
            4,
            || {
                let item = items.next()?;
                most.fetch_max(alive.fetch_add(1, SeqCst) + 1, SeqCst);
                Some(Ok(item))
            },
            Ok,
            |_item| {
                alive.fetch_sub(1, SeqCst);
                Ok(())
            },
        );
        assert_eq!(outcome, Ok(()));
        assert!(most.load(SeqCst) <= 6, "{}", most.load(SeqCst));
    }

    #[test]
    fn an_empty_row_ends_at_once() {
        let outcome: Result<(), ()> = ordered(2, || None::<Result<(), ()>>, Ok, |()| Ok(()));
        assert_eq!(outcome, Ok(()));
    }
}
