//! How long an answer takes, and so how long to wait for one (RFC 6298, with a LAN's bounds).

use std::time::Duration;

/// A running estimate; before the first sample it knows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundTrip {
    smooth: Option<Duration>,
    varies: Duration,
    /// The slowest answer, slowly forgotten: firmware looks at its network card by a timer of its own, and a mean says
    /// little of a client that mostly answers at once and sometimes after 15 ms.
    slowest: Duration,
}

impl RoundTrip {
    /// Takes a measurement of something that was sent once (Karn: of a repeated one nobody knows which was answered).
    pub fn sample(&mut self, took: Duration) {
        self.slowest = took.max(self.slowest - self.slowest / 64);
        match self.smooth {
            None => (self.smooth, self.varies) = (Some(took), took / 2),
            Some(smooth) => {
                self.varies = (self.varies * 3 + smooth.abs_diff(took)) / 4;
                self.smooth = Some((smooth * 7 + took) / 8);
            }
        }
    }

    /// An answer that came after we had given it up took this long.
    pub fn at_least(&mut self, took: Duration) {
        self.slowest = self.slowest.max(took);
    }

    /// How long to wait before sending again, the `repeats`th time in a row.
    pub fn patience(&self, repeats: u32) -> Duration {
        let first = self.smooth.map_or(UNKNOWN, |smooth| smooth + (self.varies * 4).max(GRAIN));
        let first = first.max(self.slowest + self.slowest / 2);
        (first.max(LEAST) * 2u32.saturating_pow(repeats.min(10))).min(MOST)
    }

    /// An answer sooner than this cannot be about what was just sent.
    pub fn too_soon(&self) -> Duration {
        self.smooth.unwrap_or_default() / 4
    }
}

/// A machine on the LAN that has just answered will do it again within this.
const UNKNOWN: Duration = Duration::from_millis(100);
/// Timers are kept to a millisecond.
const GRAIN: Duration = Duration::from_millis(1);
/// Below this, a scheduler's hiccup on either side looks like a loss.
const LEAST: Duration = Duration::from_millis(2);
/// At 20 % loss a doubling without end would give up on one 40 MiB transfer in two.
const MOST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn patience_follows_the_network() {
        let mut trip = RoundTrip::default();
        assert_eq!(trip.patience(0), UNKNOWN);
        trip.sample(us(60_000));
        assert_eq!(trip.patience(0), us(180_000));
        for _ in 0..600 {
            trip.sample(us(60));
        }
        assert_eq!(trip.patience(0), LEAST);
        assert_eq!((trip.patience(3), trip.patience(40)), (LEAST * 8, MOST));
    }
}
