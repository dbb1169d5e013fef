//! What a machine does with an answer, or with none: the one decision of design §4, without a socket or a disk.
//!
//! An installed machine boots on every answer and on none. The one exception is an install order that is verified, is
//! for this key, and has a higher number than the marker's.

use muster_protocol::class::{Class, fits};
use muster_protocol::hello::{Answer, wait};
use muster_protocol::ids::Number;
use muster_protocol::keys::Fingerprint;
use muster_protocol::marker::{Marker, MarkerState};
use muster_protocol::order::Order;
use muster_protocol::signed::{By, Listener, Refused, Signed, Trust, Verified};

/// What this machine knows of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Me<'a> {
    pub trust: &'a Trust,
    pub key: Fingerprint,
    pub detected: Class,
    /// The marker of this cluster, if a disk has one.
    pub marker: Option<&'a Marker>,
    /// Why the installed disk cannot be booted although its marker says so, such as a data partition that is damaged.
    pub unbootable: Option<&'a str>,
    /// The running kernel's release: a slot with other modules cannot be booted by it.
    pub kernel: &'a str,
    /// An order that this boot tried and that came to nothing.
    pub given_up: Option<Number>,
    /// The newest delegation that this machine has accepted.
    pub delegation: u32,
    /// Unix seconds, never below the image's own time.
    pub now: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Switch into the first of these slots that can be mounted.
    Boot {
        slots: Vec<usize>,
    },
    Install(Box<Verified<Order>>),
    /// Keep asking. The code is one of `hello::wait`; 0 where the reason is this machine's own.
    Wait {
        code: u16,
        reason: String,
    },
}

/// Why an order does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoOrder {
    #[error("the install order is not to be believed: {0}")]
    Refused(#[from] Refused),
    #[error("the install order has number {order}, the disk remembers {marker}")]
    Spent { order: Number, marker: Number },
    #[error("install order {order} was tried and cannot be carried out now; the disk is as it was")]
    GivenUp { order: Number },
    #[error("the install order is for another class: {0}")]
    WrongClass(#[from] muster_protocol::class::WrongClass),
}

/// `None` for the answer means: nobody answered in the time there was.
pub(super) fn next(me: &Me<'_>, answer: Option<&Answer>) -> Next {
    let refused = match answer {
        Some(Answer::Install(signed)) => match accept(me, signed) {
            Ok(order) => return Next::Install(Box::new(order)),
            Err(why) => Some(why.to_string()),
        },
        Some(Answer::Boot | Answer::Wait(_) | Answer::FetchUki(_)) | None => None,
    };
    let here = |reason: String| Next::Wait { code: 0, reason };
    let installed = me.marker.filter(|marker| marker.state == MarkerState::Installed);
    if let Some(marker) = installed {
        let slots = slots(marker, me.kernel);
        return match me.unbootable {
            Some(why) => here(format!("the disk is installed but cannot be booted: {why}")),
            None if slots.is_empty() => here(no_slot(marker, me.kernel)),
            None => Next::Boot { slots },
        };
    }
    match answer {
        None => here("no provisioner of this cluster answers".into()),
        Some(Answer::Boot) => here("the provisioner says boot, but no disk here is installed".into()),
        Some(Answer::Wait(said)) => Next::Wait { code: said.code, reason: said.reason.clone() },
        // Kexec of another UKI is not written yet: say so instead of trying halfway.
        Some(Answer::FetchUki(uki)) => here(format!(
            "the provisioner wants UKI {} to be started, which this agent does not support yet; netboot that UKI",
            &uki.to_string()[..12]
        )),
        Some(Answer::Install(_)) => here(refused.unwrap_or_default()),
    }
}

/// Codes with which the provisioner has not said yes to this machine's key.
pub(super) fn is_admitted(answer: &Answer) -> bool {
    match answer {
        Answer::Boot | Answer::Install(_) | Answer::FetchUki(_) => true,
        Answer::Wait(said) => !matches!(
            said.code,
            wait::NOT_DECLARED | wait::NOT_ADMITTED | wait::OTHER_KEY | wait::TWO_MACHINES
        ),
    }
}

/// Slots that may be tried with this kernel, the newest first.
pub(super) fn slots(marker: &Marker, kernel: &str) -> Vec<usize> {
    let mut left = marker.clone();
    let mut slots = Vec::new();
    while let Some(at) = left.slot_to_boot(kernel) {
        left.slots[at] = None;
        slots.push(at);
    }
    slots
}

fn no_slot(marker: &Marker, kernel: &str) -> String {
    let releases: Vec<&str> =
        marker.slots.iter().flatten().map(|slot| slot.kernel_release.as_str()).collect();
    if releases.contains(&kernel) {
        return "every slot has used up its tries without coming up".into();
    }
    format!("no slot has modules for this kernel {kernel} (they are for {})", releases.join(" and "))
}

fn accept(me: &Me<'_>, signed: &Signed<Order>) -> Result<Verified<Order>, NoOrder> {
    // The name is the order's to give: a fresh machine does not know its own. What binds it is the key.
    let listener = Listener { delegation: me.delegation, now: Some(me.now), ..Listener::default() };
    let verified = signed.verify(By::Online(me.trust), &listener)?;
    let order = verified.get();
    if order.key != me.key {
        return Err(Refused::OtherKey { intended: order.key }.into());
    }
    fits(order.class, me.detected)?;
    if let Some(marker) = me.marker {
        let spent = match marker.state {
            MarkerState::Installed => order.number <= marker.order,
            // The same order may go on with what it began.
            MarkerState::Installing => order.number < marker.order,
        };
        // What is installed goes on working; a half installed disk has nothing better to do than to try again.
        if marker.state == MarkerState::Installed && me.given_up == Some(order.number) {
            return Err(NoOrder::GivenUp { order: order.number });
        }
        if spent {
            return Err(NoOrder::Spent { order: order.number, marker: marker.order });
        }
    }
    Ok(verified)
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::hello::Wait;
    use muster_protocol::ids::{ClusterId, Digest};
    use muster_protocol::inventory::DiskId;
    use muster_protocol::keys::SecretKey;
    use muster_protocol::marker::Slot;
    use muster_protocol::order::Wipe;
    use muster_protocol::signed::{Delegation, OnlineKey};
    use proptest::prelude::*;

    const CLUSTER: ClusterId = ClusterId([9; 16]);
    const KEY: Fingerprint = Fingerprint([7; 10]);
    const KERNEL: &str = "6.12.48+deb13-amd64";

    fn trust() -> Trust {
        let root = SecretKey::from_seed([1; 32]).public().verify;
        Trust { cluster: CLUSTER, cluster_name: "test".into(), root, build_epoch: 0 }
    }

    fn number(n: u64) -> Number {
        Number { delegation: 1, generation: 0, n }
    }

    fn order(n: u64) -> Order {
        Order {
            number: number(n),
            node: "mini-pc-1".parse().unwrap(),
            key: KEY,
            class: Class::MiniPc,
            disk: DiskId { wwn: None, serial: Some("x".into()), size_bytes: 1 },
            wipe: Wipe::OnlyEmpty,
            image: Digest([0; 32]),
            uki: Digest([0; 32]),
            uki_bytes: 0,
            loader: Digest([0; 32]),
            loader_bytes: 0,
            expires_at: 100,
        }
    }

    fn signed(order: &Order, root: u8) -> Answer {
        let secret = SecretKey::from_seed([2; 32]);
        let delegation = Delegation { number: 1, online: secret.public().verify };
        let delegation = Signed::by_key(CLUSTER, &SecretKey::from_seed([root; 32]), &delegation);
        Answer::Install(Signed::by_online(CLUSTER, &OnlineKey { secret, delegation, number: 1 }, order))
    }

    fn slot(written: u64, kernel: &str, tries_left: u8) -> Slot {
        Slot {
            image: Digest([1; 32]),
            uki: Digest([2; 32]),
            uki_name: "u".into(),
            kernel_release: kernel.into(),
            written,
            tries_left,
            good: false,
        }
    }

    fn marker(state: MarkerState, n: u64) -> Marker {
        Marker {
            sequence: 1,
            cluster: CLUSTER,
            node: "mini-pc-1".parse().unwrap(),
            key: KEY,
            order: number(n),
            state,
            slots: [Some(slot(1, KERNEL, 3)), None],
            reinstall_pending: false,
            fetched: vec![],
        }
    }

    fn me<'a>(trust: &'a Trust, marker: Option<&'a Marker>) -> Me<'a> {
        Me {
            trust,
            key: KEY,
            detected: Class::MiniPc,
            marker,
            unbootable: None,
            kernel: KERNEL,
            given_up: None,
            delegation: 1,
            now: 50,
        }
    }

    fn answers() -> Vec<Option<Answer>> {
        vec![
            None,
            Some(Answer::Boot),
            Some(Answer::Wait(Wait { code: 2, reason: "not admitted".into() })),
            Some(Answer::FetchUki(Digest([3; 32]))),
            Some(signed(&order(9), 66)),
            Some(signed(&order(5), 1)),
            Some(signed(&order(4), 1)),
            Some(signed(&Order { key: Fingerprint([8; 10]), ..order(9) }, 1)),
            Some(signed(&Order { class: Class::RtxHost, ..order(9) }, 1)),
            Some(signed(&Order { expires_at: 49, ..order(9) }, 1)),
        ]
    }

    #[test]
    fn an_installed_machine_boots_on_every_answer_and_on_none() {
        let (trust, marker) = (trust(), marker(MarkerState::Installed, 5));
        for answer in answers() {
            let next = next(&me(&trust, Some(&marker)), answer.as_ref());
            assert_eq!(next, Next::Boot { slots: vec![0] }, "{answer:?}");
        }
    }

    #[test]
    fn only_a_verified_higher_order_reinstalls_an_installed_machine() {
        let (trust, marker) = (trust(), marker(MarkerState::Installed, 5));
        let next = next(&me(&trust, Some(&marker)), Some(&signed(&order(6), 1)));
        assert!(matches!(next, Next::Install(order) if order.get().number == number(6)));
    }

    #[test]
    fn an_order_that_came_to_nothing_does_not_keep_an_installed_machine_from_its_disk() {
        let (trust, installed, half) =
            (trust(), marker(MarkerState::Installed, 5), marker(MarkerState::Installing, 6));
        let me = |marker| Me { given_up: Some(number(6)), ..me(&trust, marker) };
        assert_eq!(next(&me(Some(&installed)), Some(&signed(&order(6), 1))), Next::Boot { slots: vec![0] });
        assert!(matches!(next(&me(Some(&installed)), Some(&signed(&order(7), 1))), Next::Install(_)));
        for others in [Some(&half), None] {
            assert!(matches!(next(&me(others), Some(&signed(&order(6), 1))), Next::Install(_)));
        }
    }

    #[test]
    fn a_half_installed_machine_resumes_its_order_and_takes_no_older_one() {
        let (trust, marker) = (trust(), marker(MarkerState::Installing, 5));
        let me = me(&trust, Some(&marker));
        assert!(matches!(next(&me, Some(&signed(&order(5), 1))), Next::Install(_)));
        assert!(matches!(next(&me, Some(&signed(&order(4), 1))), Next::Wait { .. }));
        assert!(matches!(next(&me, Some(&Answer::Boot)), Next::Wait { .. }));
        assert!(matches!(next(&me, None), Next::Wait { .. }));
    }

    #[test]
    fn a_blank_machine_waits_with_a_reason_unless_it_gets_its_order() {
        let trust = trust();
        for answer in answers() {
            match next(&me(&trust, None), answer.as_ref()) {
                Next::Wait { reason, .. } => assert!(!reason.is_empty(), "{answer:?}"),
                Next::Install(order) => assert!(order.get().number >= number(4)),
                Next::Boot { .. } => panic!("nothing to boot: {answer:?}"),
            }
        }
    }

    #[test]
    fn an_order_for_another_key_class_cluster_or_time_is_refused_in_words() {
        let trust = trust();
        for (at, word) in
            [(4, "delegation"), (7, "another key"), (8, "rtx-host"), (9, "could be accepted until")]
        {
            let Next::Wait { reason, .. } = next(&me(&trust, None), answers()[at].as_ref()) else {
                panic!("{at}")
            };
            assert!(reason.contains(word), "{reason}");
        }
    }

    #[test]
    fn slots_are_tried_newest_first_and_only_with_this_kernel() {
        let mut marker = marker(MarkerState::Installed, 5);
        marker.slots = [Some(slot(1, KERNEL, 1)), Some(slot(2, KERNEL, 1))];
        assert_eq!(slots(&marker, KERNEL), [1, 0]);
        marker.slots[1] = Some(slot(2, KERNEL, 0));
        assert_eq!(slots(&marker, KERNEL), [0]);
        assert_eq!(slots(&marker, "6.1.0"), Vec::<usize>::new());
    }

    #[test]
    fn an_installed_machine_without_a_fitting_slot_says_why_it_waits() {
        let (trust, marker) = (trust(), marker(MarkerState::Installed, 5));
        let other = Me { kernel: "6.1.0", ..me(&trust, Some(&marker)) };
        let Next::Wait { reason, .. } = next(&other, None) else { panic!() };
        assert!(reason.contains("6.1.0") && reason.contains(KERNEL), "{reason}");
        let broken = Me { unbootable: Some("vda4 is not ext4"), ..me(&trust, Some(&marker)) };
        assert!(matches!(next(&broken, Some(&Answer::Boot)), Next::Wait { .. }));
        assert!(matches!(next(&broken, Some(&signed(&order(6), 1))), Next::Install(_)));
    }

    proptest! {
        /// Whatever the numbers: an installed disk is never written under an order that is not newer.
        #[test]
        fn no_order_up_to_the_markers_is_ever_accepted(have in 0_u64..20, offered in 0_u64..20, installed in any::<bool>()) {
            let state = if installed { MarkerState::Installed } else { MarkerState::Installing };
            let (trust, marker) = (trust(), marker(state, have));
            let next = next(&me(&trust, Some(&marker)), Some(&signed(&order(offered), 1)));
            let allowed = offered > have || (!installed && offered == have);
            prop_assert_eq!(matches!(next, Next::Install(_)), allowed);
        }
    }
}
