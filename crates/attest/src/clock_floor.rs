//! The earliest time that the clock can have. A host controls its guest's clock; set back, it would make
//! expired collateral valid again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tolerated lag of the clock behind the latest date known to be past, seconds.
pub const MAX_BEHIND: u64 = 300;

/// The latest date known to be past. Clones share it.
///
/// A date signed by others is proof. A record of our own only proves what our clock said then, and an
/// operator can declare that it was wrong.
#[derive(Debug, Clone, Default)]
pub struct Floor(Arc<Dates>);

#[derive(Debug, Default)]
struct Dates {
    signed: AtomicU64,
    recorded: AtomicU64,
}

/// The clock is earlier than possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the clock is {seconds} seconds behind what is known to be past")]
pub struct ClockBehind {
    /// The lag, seconds.
    pub seconds: u64,
}

impl Floor {
    /// Records that a trusted key signed something at `unix`, Unix seconds.
    pub fn raise(&self, unix: u64) {
        self.0.signed.fetch_max(unix, Ordering::Relaxed);
    }

    /// Records that this program recorded something at `unix`, Unix seconds.
    pub fn raise_by_record(&self, unix: u64) {
        self.0.recorded.fetch_max(unix, Ordering::Relaxed);
    }

    /// Replaces the latest date of our own records by `unix` and returns the previous one. Signed dates stay.
    pub fn lower_records(&self, unix: u64) -> u64 {
        self.0.recorded.swap(unix, Ordering::Relaxed)
    }

    /// The latest date known to be past, Unix seconds.
    pub fn newest(&self) -> u64 {
        self.signed().max(self.0.recorded.load(Ordering::Relaxed))
    }

    /// The latest date that others have signed, Unix seconds.
    pub fn signed(&self) -> u64 {
        self.0.signed.load(Ordering::Relaxed)
    }

    /// Checks `now` against the floor.
    ///
    /// # Errors
    /// [`ClockBehind`] by more than [`MAX_BEHIND`].
    pub fn check(&self, now: u64) -> Result<(), ClockBehind> {
        check(self.newest(), now)
    }

    /// Checks `now` against the signed dates only.
    ///
    /// # Errors
    /// As [`Floor::check`].
    pub fn check_signed(&self, now: u64) -> Result<(), ClockBehind> {
        check(self.signed(), now)
    }
}

fn check(newest: u64, now: u64) -> Result<(), ClockBehind> {
    match newest.saturating_sub(now) {
        0..=MAX_BEHIND => Ok(()),
        seconds => Err(ClockBehind { seconds }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_may_be_a_little_behind_and_no_more() {
        for raise in [Floor::raise, Floor::raise_by_record] {
            let floor = Floor::default();
            assert_eq!(floor.check(0), Ok(()));
            raise(&floor, 10_000);
            raise(&floor, 9_000);
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

    #[test]
    fn what_is_signed_is_not_taken_back() {
        let floor = Floor::default();
        floor.raise(5_000);
        floor.raise_by_record(90_000);
        assert!(floor.check(6_000).is_err());
        assert_eq!(floor.check_signed(6_000), Ok(()));
        assert_eq!(floor.lower_records(1_000), 90_000);
        assert_eq!(floor.newest(), 5_000);
        assert_eq!(floor.check(6_000), Ok(()));
        assert!(floor.check(1_000).is_err());
    }
}
