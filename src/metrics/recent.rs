//! The last durations of one kind of work, for percentiles that say how it is now.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

/// How many durations are kept.
const KEPT: usize = 256;

/// The last durations.
pub(super) struct Recent {
    /// Microseconds, plus one; 0 where there is none yet.
    kept: [AtomicU32; KEPT],
    next: AtomicUsize,
}

/// Percentiles of the last durations, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percentiles {
    /// Half of them were not longer.
    pub p50_ms: f64,
    /// 99 in a hundred were not longer.
    pub p99_ms: f64,
}

impl Default for Recent {
    fn default() -> Self {
        Self { kept: [const { AtomicU32::new(0) }; KEPT], next: AtomicUsize::new(0) }
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").finish_non_exhaustive()
    }
}

impl Recent {
    pub(super) fn note(&self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).saturating_add(1);
        let slot = self.next.fetch_add(1, Ordering::Relaxed) % KEPT;
        self.kept[slot].store(micros, Ordering::Relaxed);
    }

    /// `None` without any duration.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        let loaded = self.kept.iter().map(|kept| kept.load(Ordering::Relaxed));
        let mut micros: Vec<u32> = loaded.filter_map(|kept| kept.checked_sub(1)).collect();
        micros.sort_unstable();
        let last = micros.len().checked_sub(1)?;
        let at = |percent: usize| f64::from(micros[(last * percent).div_ceil(100)]) / 1000.0;
        Some(Percentiles { p50_ms: at(50), p99_ms: at(99) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_durations_only() {
        let recent = Recent::default();
        assert_eq!(recent.percentiles(), None);
        recent.note(Duration::ZERO);
        assert_eq!(recent.percentiles(), Some(Percentiles { p50_ms: 0.0, p99_ms: 0.0 }));
        for _ in 0..KEPT {
            recent.note(Duration::from_secs(9));
        }
        for millis in 1..=KEPT as u64 {
            recent.note(Duration::from_millis(millis));
        }
        assert_eq!(recent.percentiles(), Some(Percentiles { p50_ms: 129.0, p99_ms: 254.0 }));
    }
}
