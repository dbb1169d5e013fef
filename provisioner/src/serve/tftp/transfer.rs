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
    /// How often the timer ran out since something was answered that had been sent once (Karn): what was sent again
    /// says nothing of the round trip, and a timer that has shown itself too short must not be short again.
    repeats: u32,
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
    /// Blocks behind this one went out for the first time: their answer measures the round trip.
    fresh: u64,
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
            round: Round { end, at: now, fresh: 0 },
            highest: end,
            trip: RoundTrip::default(),
            echoes_until: now,
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

    fn acknowledged(&mut self, now: Instant, number_: u16) {
        // Numbers roll over; what is under way is at most a window of 64, so the distance says which block is meant.
        let ahead = u64::from(number_.wrapping_sub(number(self.arrived)));
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
                // Once more what we knew. RFC 7440 §4: in a window that is how a client tells of a gap at its start.
                // But EDK2 also says it for each block that it had already: without the time of quiet after a
                // repetition, one needless repetition brings the next, for the rest of the file.
                let late = waited >= self.trip.too_soon() && now >= self.echoes_until;
                if self.terms.window > 1 && late && self.stage == Stage::Proven {
                    self.send_window(now);
                }
            }
            (Stage::Unproven | Stage::Proven, ahead) if ahead <= under_way => {
                self.arrived += ahead;
                self.progress = now;
                if self.stage == Stage::Unproven {
                    self.prove(now, waited);
                } else if self.arrived > self.round.fresh {
                    self.repeats = 0;
                    // From inside a window it would make the timer too short for a whole one.
                    if ahead == under_way {
                        self.trip.sample(waited);
                    }
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

    /// An acknowledgement from inside the window: the client found a gap and counts a new window from there. While
    /// echoes of our own repetitions come in there may be no gap at all: then the blocks under way are not sent once
    /// more, only those that complete the client's window. If there was one after all, the timer mends it.
    fn inside(&mut self, now: Instant) {
        if now >= self.echoes_until {
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
        self.round = Round { end, at: now, fresh: self.highest };
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
const LONGEST_SILENCE: Duration = Duration::from_secs(30);
/// Within this, a repeated request is a copy of one that was answered; a client that restarts takes longer.
const LIVELY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
