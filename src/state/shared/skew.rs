//! How far the clock of another node is ahead of ours: its beat was written after it saw our challenge and before we read the beat,
//! so its clock is compared with ours at both moments.

use std::time::{Duration, Instant};

/// How long narrow bounds count before wider ones replace them: clocks drift.
const KEPT: Duration = Duration::from_secs(60);

/// What is known of another clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Skew {
    min_ms: i64,
    max_ms: i64,
    at: Instant,
}

impl Skew {
    /// From one beat: the other clock showed `theirs` between the moment at which our challenge was made, `age` ago, and now,
    /// when ours shows `ours`. Both in Unix milliseconds.
    pub(super) fn of(theirs: u64, ours: u64, age: Duration, now: Instant) -> Self {
        let millis = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let min_ms = millis(theirs).saturating_sub(millis(ours));
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        // Both times are cut to whole milliseconds.
        Self {
            min_ms: min_ms.saturating_sub(1),
            max_ms: min_ms.saturating_add(age).saturating_add(2),
            at: now,
        }
    }

    /// The bounds.
    pub(super) fn bounds(self) -> (i64, i64) {
        (self.min_ms, self.max_ms)
    }

    /// The narrower of these bounds and newer ones; the newer ones if these are old or contradict them, as when a clock was set.
    pub(super) fn or(self, newer: Self) -> Self {
        let is_old = newer.at.saturating_duration_since(self.at) > KEPT;
        let is_narrower =
            self.max_ms.saturating_sub(self.min_ms) <= newer.max_ms.saturating_sub(newer.min_ms);
        let agree = self.min_ms <= newer.max_ms && newer.min_ms <= self.max_ms;
        match is_narrower && agree && !is_old {
            true => self,
            false => newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_hold_the_true_difference_and_the_narrower_ones_stay() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        // A clock that is 300 ms ahead: its beat was written at our 1,500, our challenge is of 1,000, and we read at 2,200.
        let wide = Skew::of(1_800, 2_200, Duration::from_millis(1_200), at(0));
        assert_eq!(wide.bounds(), (-401, 802));
        let narrow = Skew::of(5_300, 5_040, Duration::from_millis(90), at(4));
        assert_eq!(narrow.bounds(), (259, 352));
        assert_eq!((wide.or(narrow), narrow.or(Skew { at: at(9), ..wide })), (narrow, narrow));
        let late = Skew { at: at(100), ..wide };
        assert_eq!(narrow.or(late), late, "it may have drifted");
        let set = Skew { min_ms: 9_000, max_ms: 12_000, at: at(5) };
        assert_eq!(narrow.or(set), set, "the clock was set");
        let absurd = Skew::of(u64::MAX, 0, Duration::MAX, at(0));
        assert_eq!(absurd.bounds(), (i64::MAX - 1, i64::MAX));
    }
}
