//! The time as the protocol and the files have it: whole seconds since 1970, in UTC.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Unix seconds now.
pub fn unix_now() -> u64 {
    unix(SystemTime::now())
}

/// Unix seconds of `time`; what is before 1970 is 0.
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How far, in seconds, the clock may be behind the newest date that is known to be past.
pub const MAX_BEHIND: u64 = 300;

/// The newest date that is known to be past: of the last audit record and of collateral. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Floor(Arc<AtomicU64>);

/// The clock is earlier than it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the clock is {seconds} seconds behind what is known to be past")]
pub struct ClockBehind {
    /// How far it is behind.
    pub seconds: u64,
}

impl Floor {
    /// Something was made at this time, in Unix seconds.
    pub fn raise(&self, unix: u64) {
        self.0.fetch_max(unix, Ordering::Relaxed);
    }

    /// Whether it can be this time.
    ///
    /// # Errors
    /// [`ClockBehind`], by more than [`MAX_BEHIND`].
    pub fn check(&self, now: u64) -> Result<(), ClockBehind> {
        match self.0.load(Ordering::Relaxed).saturating_sub(now) {
            0..=MAX_BEHIND => Ok(()),
            seconds => Err(ClockBehind { seconds }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_may_be_a_little_behind_and_no_more() {
        let floor = Floor::default();
        assert_eq!(floor.check(0), Ok(()));
        floor.raise(10_000);
        floor.raise(9_000);
        for (now, expected) in [
            (20_000, Ok(())),
            (10_000 - MAX_BEHIND, Ok(())),
            (10_000 - MAX_BEHIND - 1, Err(ClockBehind { seconds: MAX_BEHIND + 1 })),
            (0, Err(ClockBehind { seconds: 10_000 })),
        ] {
            assert_eq!(floor.clone().check(now), expected, "{now}");
        }
    }
}
