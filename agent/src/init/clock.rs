//! The clock of a machine that may have none: never below the time when its image was composed, and moved forward
//! only by a provisioner that signed our own nonce.

use muster_protocol::signed::{By, Clock, Listener, Refused, Signed, Trust};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// Why a signed time is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTime {
    #[error("it is not to be believed")]
    Refused(#[from] Refused),
    #[error("it answers another question")]
    OtherNonce,
    #[error("it is before the image was composed")]
    BeforeBuild,
}

/// Unix seconds to judge expiry by: the system's clock, but never below the image's own time.
pub fn now(trust: &Trust) -> u64 {
    system_secs().max(trust.build_epoch)
}

/// Where the system clock has to be set to, given what a provisioner says; `None`: it is good enough.
pub fn correction(
    signed: &Signed<Clock>,
    trust: &Trust,
    nonce: &[u8; 16],
    system_ms: u64,
) -> Result<Option<u64>, NoTime> {
    let clock = signed.verify(By::Online(trust), &Listener::default())?;
    let clock = clock.get();
    if clock.nonce != *nonce {
        return Err(NoTime::OtherNonce);
    }
    if clock.unix_ms < trust.build_epoch.saturating_mul(1000) {
        return Err(NoTime::BeforeBuild);
    }
    // Forward only, and only when it matters: small steps are chrony's, and going back would confuse etcd.
    Ok((system_ms.saturating_add(1000) < clock.unix_ms).then_some(clock.unix_ms))
}

/// Sets the system clock.
pub fn set(unix_ms: u64) -> std::io::Result<()> {
    let secs = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    let nanos = i64::try_from(unix_ms % 1000 * 1_000_000).unwrap_or(0);
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(secs, nanos)).map_err(Into::into)
}

/// Lifts a clock that stands before the image was made.
pub(super) fn floor(trust: &Trust) -> anyhow::Result<()> {
    if system_secs() < trust.build_epoch {
        tracing::info!(
            to = trust.build_epoch,
            "the clock stood before this image was made; set to that time"
        );
        set(trust.build_epoch.saturating_mul(1000))?;
    }
    Ok(())
}

fn system_secs() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |now| u64::try_from(now.tv_sec()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_protocol::ids::ClusterId;
    use muster_protocol::keys::SecretKey;
    use muster_protocol::signed::{Delegation, OnlineKey};

    const CLUSTER: ClusterId = ClusterId([9; 16]);
    const NONCE: [u8; 16] = [5; 16];

    fn trust() -> Trust {
        let root = SecretKey::from_seed([1; 32]).public().verify;
        Trust { cluster: CLUSTER, cluster_name: "test".into(), root, build_epoch: 1000 }
    }

    fn said(unix_ms: u64, nonce: [u8; 16]) -> Signed<Clock> {
        let secret = SecretKey::from_seed([2; 32]);
        let delegation = Delegation { number: 1, online: secret.public().verify };
        let delegation = Signed::by_key(CLUSTER, &SecretKey::from_seed([1; 32]), &delegation);
        Signed::by_online(CLUSTER, &OnlineKey { secret, delegation, number: 1 }, &Clock { unix_ms, nonce })
    }

    #[test]
    fn a_clock_that_is_behind_is_set_and_one_that_is_ahead_is_not() {
        let said = said(5_000_000, NONCE);
        assert_eq!(correction(&said, &trust(), &NONCE, 1_000_000), Ok(Some(5_000_000)));
        assert_eq!(correction(&said, &trust(), &NONCE, 4_999_500), Ok(None));
        assert_eq!(correction(&said, &trust(), &NONCE, 9_000_000), Ok(None));
    }

    #[test]
    fn a_time_for_another_nonce_or_before_the_build_is_refused() {
        assert_eq!(correction(&said(5_000_000, [6; 16]), &trust(), &NONCE, 0), Err(NoTime::OtherNonce));
        assert_eq!(correction(&said(999_999, NONCE), &trust(), &NONCE, 0), Err(NoTime::BeforeBuild));
    }

    #[test]
    fn no_time_is_below_the_images_own() {
        assert_eq!(now(&Trust { build_epoch: u64::MAX, ..trust() }), u64::MAX);
    }
}
