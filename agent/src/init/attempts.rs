//! How often this boot tried an order, and when that is enough for a machine that has a system to go back to.

use crate::install::failed::Failed;
use muster_protocol::ids::Number;

/// For what may pass by itself: a network that comes back, a provisioner that is restarted.
const TRIES: u8 = 3;

#[derive(Debug, Default)]
pub(super) struct Attempts {
    order: Option<Number>,
    left: u8,
}

impl Attempts {
    /// An attempt at this order has failed; `None` where its thread died.
    pub(super) fn failed(&mut self, order: Number, why: Option<&Failed>) {
        if self.order != Some(order) {
            *self = Self { order: Some(order), left: TRIES };
        }
        let may_pass = why.is_some_and(|failed| failed.cause.may_pass());
        self.left = if may_pass { self.left.saturating_sub(1) } else { 0 };
    }

    pub(super) fn given_up(&self) -> Option<Number> {
        self.order.filter(|_| self.left == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::choose::Refusal;
    use crate::install::run::{Cause, Step};

    fn number(n: u64) -> Number {
        Number { delegation: 1, generation: 0, n }
    }

    #[test]
    fn what_may_pass_is_tried_three_times_and_what_may_not_once() {
        let lost = Failed { step: Step::Claim, cause: Cause::NoAnswer("timed out".into()) };
        let refused = Failed { step: Step::Choose, cause: Cause::Refused(Refusal::Nameless) };
        let mut attempts = Attempts::default();
        assert_eq!(attempts.given_up(), None);
        for left in [2, 1, 0] {
            attempts.failed(number(6), Some(&lost));
            assert_eq!(attempts.given_up().is_some(), left == 0);
        }
        attempts.failed(number(7), Some(&lost));
        assert_eq!(attempts.given_up(), None, "another order begins anew");
        attempts.failed(number(7), Some(&refused));
        assert_eq!(attempts.given_up(), Some(number(7)));
    }
}
