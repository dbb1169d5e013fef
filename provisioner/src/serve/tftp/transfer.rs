//! One file to one client: what to send, when to send it again, when it is over. Pure; bytes and sockets are the
//! edge's.
//!
//! Rules beyond RFC 1350 and 7440: before the client has acknowledged anything it gets one packet at a time, six at
//! most, so that a forged request draws no stream. Afterwards the timers follow the measured round trip, and a
//! transfer ends after 30 s without progress. A repeated acknowledgement never doubles the data (the Sorcerer's
//! Apprentice): in lockstep it means nothing; in a window it can mean a gap, and then only if it comes late enough to
//! be about what was sent last.

use super::{packet::number, roundtrip::RoundTrip, terms::Terms};
use std::time::{Duration, Instant};

/// A transfer under way.
#[derive(Debug)]
pub struct Transfer {
    terms: Terms,
    /// Number of the last block; the first is 1.
    last: u64,
    /// All blocks up to this one have arrived.
    arrived: u64,
    stage: Stage,
    round: Round,
    trip: RoundTrip,
    /// Until then a repeated acknowledgement is the answer to a block that we sent twice ourselves.
    echoes_until: Instant,
    /// The last block that ever went out.
    highest: u64,
    /// How often the timer ran out, counted down as answers come in.
    repeats: u32,
    /// How often a gap was mended since a window last arrived whole, and when.
    mends: (u32, Instant),
    /// In lockstep: how long the block took that was acknowledged after it had been sent again.
    doubtful: Option<Duration>,
    progress: Instant,
    deadline: Instant,
    output: Option<Output>,
    over: bool,
}

/// How far the client has shown itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The option acknowledgement is out, the client has not answered.
    Offered,
    /// The first block is out, the client has not answered.
    Unproven,
    /// The client has acknowledged something.
    Proven,
}

/// What was sent last, in one go.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// The last block of it.
    end: u64,
    at: Instant,
    /// When its first block went out for the first time.
    began: Instant,
    /// Blocks behind this one went out for the first time: their answer measures the round trip.
    fresh: u64,
    /// It began with blocks that had gone out before.
    again: bool,
}

/// What a client says to its transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    Ack(u16),
    Error { code: u16 },
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Oack,
    /// Blocks `first` to `first + count - 1`.
    Blocks {
        first: u64,
        count: u16,
    },
    /// Nothing more will come.
    End(End),
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Complete,
    /// The client took the size from the option acknowledgement and hung up: a success.
    Probe,
    /// It never acknowledged anything.
    NeverAnswered,
    /// It stopped answering; so many blocks of so many had arrived.
    Silent {
        arrived: u64,
        of: u64,
    },
    /// Everything was sent and all but the last window acknowledged: most likely it has the file.
    LastAckMissing,
    /// It sent an error.
    Aborted {
        code: u16,
    },
}

impl Transfer {
    /// Starts sending a file of `size` bytes.
    pub fn new(now: Instant, size: u64, terms: Terms) -> Self {
        // A file of an exact number of blocks ends with an empty one.
        let last = size / u64::from(terms.block.max(1)) + 1;
        let (stage, end, output) = match terms.oack {
            Some(_) => (Stage::Offered, 0, Output::Oack),
            None => (Stage::Unproven, 1, Output::Blocks { first: 1, count: 1 }),
        };
        Self {
            terms,
            last,
            arrived: 0,
            stage,
            round: Round { end, at: now, began: now, fresh: 0, again: false },
            highest: end,
            trip: RoundTrip::default(),
            echoes_until: now,
            mends: (0, now),
            doubtful: None,
            repeats: 0,
            progress: now,
            deadline: now + FIRST_PATIENCE,
            output: Some(output),
            over: false,
        }
    }

    /// What was agreed.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Whether the client is there and getting on: then a second request from its port is a late copy of the first.
    pub fn lively(&self, now: Instant) -> bool {
        self.stage == Stage::Proven && !self.over && now.duration_since(self.progress) < LIVELY
    }

    /// Whether the client has acknowledged anything.
    pub fn proven(&self) -> bool {
        self.stage == Stage::Proven
    }

    pub fn handle(&mut self, now: Instant, input: Input) {
        if self.over {
            return;
        }
        match input {
            Input::Error { code } if self.stage == Stage::Offered => {
                // EDK2 sends 8 here; other ROMs 0. After an option acknowledgement all mean "thank you, that was it".
                let _ = code;
                self.end(End::Probe);
            }
            Input::Error { code } => self.end(End::Aborted { code }),
            Input::Ack(number) => self.acknowledged(now, number),
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.take()
    }

    pub fn next_deadline(&self) -> Instant {
        self.deadline
    }

    pub fn expire(&mut self, now: Instant) {
        if self.over || now < self.deadline {
            return;
        }
        self.repeats += 1;
        match self.stage {
            Stage::Offered | Stage::Unproven => {
                if self.repeats >= MOST_UNPROVEN {
                    return self.end(End::NeverAnswered);
                }
                self.deadline = now + FIRST_PATIENCE * 2u32.saturating_pow(self.repeats);
                self.output = Some(match self.stage {
                    Stage::Offered => Output::Oack,
                    Stage::Unproven | Stage::Proven => Output::Blocks { first: 1, count: 1 },
                });
            }
            Stage::Proven if now.duration_since(self.progress) >= LONGEST_SILENCE => {
                let all_sent = self.round.end == self.last;
                self.end(if all_sent {
                    End::LastAckMissing
                } else {
                    End::Silent { arrived: self.arrived, of: self.last }
                });
            }
            Stage::Proven => self.send_window(now),
        }
    }

    fn acknowledged(&mut self, now: Instant, ack: u16) {
        // Numbers roll over; what is under way is at most a window of 64, so the distance says which block is meant.
        let ahead = u64::from(ack.wrapping_sub(number(self.arrived)));
        let under_way = self.round.end - self.arrived;
        let waited = now.duration_since(self.round.at);
        match (self.stage, ahead) {
            // The answer to the option acknowledgement.
            (Stage::Offered, 0) => {
                self.prove(now, waited);
                self.send_window(now);
            }
            (Stage::Offered, _) => {}
            (Stage::Unproven | Stage::Proven, 0) => {
                if self.stage == Stage::Proven {
                    self.repeated(now, waited);
                }
            }
            (Stage::Unproven | Stage::Proven, ahead) if ahead <= under_way => {
                self.arrived += ahead;
                self.progress = now;
                if self.stage == Stage::Unproven {
                    self.prove(now, waited);
                } else {
                    self.measure(now, ahead, under_way);
                }
                if self.arrived == self.last {
                    self.end(End::Complete);
                } else if ahead == under_way {
                    self.send_window(now);
                } else {
                    self.inside(now);
                }
            }
            // Older than what we know, or about blocks never sent.
            (Stage::Unproven | Stage::Proven, _) => {}
        }
    }

    fn prove(&mut self, now: Instant, waited: Duration) {
        if self.repeats == 0 {
            self.trip.sample(waited);
        }
        self.stage = Stage::Proven;
        (self.progress, self.repeats) = (now, 0);
    }

    /// Learns from progress by `ahead` of `of` blocks. What the timer sent again measures nothing (Karn): the answer may
    /// be one to the first copy. Nor may a timer that has shown itself too short be as short at once again.
    fn measure(&mut self, now: Instant, ahead: u64, of: u64) {
        let waited = now.duration_since(self.round.at);
        self.doubtful = None;
        if self.arrived > self.round.fresh {
            self.repeats = 0;
            if ahead == of {
                self.mends.0 = 0;
            }
        } else if self.terms.window == 1 {
            self.repeats = 0;
            self.doubtful = Some(now - self.round.began);
            return;
        } else if ahead == of {
            self.repeats = self.repeats.min(LASTING_REPEATS);
            return;
        } else {
            self.repeats = self.repeats.min(LASTING_REPEATS).saturating_sub(1);
        }
        if self.repeats == 0 {
            // From inside a window it is scaled, or the timer would be too short for a whole one.
            let scale = u32::try_from(of / ahead.max(1)).unwrap_or(1);
            self.trip.sample(waited * scale);
        }
    }

    /// The same acknowledgement once more.
    fn repeated(&mut self, now: Instant, waited: Duration) {
        if self.terms.window == 1 {
            // Both copies of a block arrived: the second was needless, the timer too short.
            if let Some(took) = self.doubtful.take() {
                self.trip.at_least(took);
            }
            return;
        }
        // RFC 7440 §4: in a window that is how a client tells of a gap at its start. But EDK2 also says it for each block
        // that it had already: without the time of quiet after a repetition, one needless repetition brings the next, for
        // the rest of the file.
        if waited >= self.trip.too_soon() && now >= self.echoes_until {
            self.send_window(now);
        }
    }

    /// An acknowledgement from inside the window: the client found a gap and counts a new window from there. Or it
    /// counted from a late stray, and there is no gap: then sending the rest again would bring more such
    /// acknowledgements, and only the blocks that complete the client's window are sent; if there was a gap after all,
    /// the timer mends it.
    fn inside(&mut self, now: Instant) {
        // All that had gone out before the last repetition is there, so that was needless.
        let echo = self.round.again && self.arrived == self.round.fresh;
        // A client that acknowledges each block whatever was agreed would get a window for each.
        let (mends, last) = self.mends;
        let flood = mends >= MOST_MENDS && now.duration_since(last) < MEND_PAUSE;
        if !echo && !flood {
            self.mends = (mends + 1, now);
            return self.send_window(now);
        }
        let first = self.round.end + 1;
        let end = (self.arrived + u64::from(self.terms.window)).min(self.last);
        if first <= end {
            self.send(now, first, end);
        }
        self.deadline = now + self.trip.patience(self.repeats);
    }

    fn send_window(&mut self, now: Instant) {
        let first = self.arrived + 1;
        if first <= self.highest {
            self.echoes_until = now + self.trip.patience(self.repeats);
        }
        self.send(now, first, (self.arrived + u64::from(self.terms.window)).min(self.last));
    }

    fn send(&mut self, now: Instant, first: u64, end: u64) {
        let again = first <= self.highest;
        let began = if again { self.round.began } else { now };
        self.round = Round { end, at: now, began, fresh: self.highest, again };
        self.highest = self.highest.max(end);
        self.deadline = now + self.trip.patience(self.repeats);
        let count = u16::try_from(end + 1 - first).unwrap_or(self.terms.window);
        self.output = Some(Output::Blocks { first, count });
    }

    fn end(&mut self, end: End) {
        self.over = true;
        self.output = Some(Output::End(end));
    }
}

/// Before the first acknowledgement: 0.25, 0.5, 1, 2, 4, 8 s.
const FIRST_PATIENCE: Duration = Duration::from_millis(250);
/// Packets to a client that has not acknowledged anything.
const MOST_UNPROVEN: u32 = 6;
/// Doublings of the timer that outlast an acknowledgement, until something fresh was answered.
const LASTING_REPEATS: u32 = 4;
/// Gaps in a row that are mended at once; more of them at most one in a pause.
const MOST_MENDS: u32 = 8;
const MEND_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_SILENCE: Duration = Duration::from_secs(30);
/// Within this, a repeated request is a copy of one that was answered; a client that restarts takes longer.
const LIVELY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
