//! The clock of a machine that may have none: never below the time when its image was composed. From then on NTP keeps
//! it, or the provisioner's signed time (`node::clock`).

use muster_protocol::signed::Trust;
use nix::time::{ClockId, clock_gettime};

/// Unix seconds to judge expiry by: the system's clock, but never below the image's own time.
pub fn now(trust: &Trust) -> u64 {
    system_secs().max(trust.build_epoch)
}

/// Lifts a clock that stands before the image was made.
pub(super) fn floor(trust: &Trust) -> anyhow::Result<()> {
    if system_secs() < trust.build_epoch {
        tracing::info!(
            to = trust.build_epoch,
            "the clock stood before this image was made; set to that time"
        );
        crate::clock::set(trust.build_epoch.saturating_mul(1000))?;
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

    #[test]
    fn no_time_is_below_the_images_own() {
        let root = SecretKey::from_seed([1; 32]).public().verify;
        let trust =
            Trust { cluster: ClusterId([9; 16]), cluster_name: "test".into(), root, build_epoch: u64::MAX };
        assert_eq!(now(&trust), u64::MAX);
    }
}
