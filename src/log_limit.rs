//! Limits lines in the process log, so that a flood of requests does not become a flood of lines.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// A rate of lines, and how many lines were left out.
pub struct LogLimit {
    lines: DefaultDirectRateLimiter,
    omitted: AtomicU64,
}

impl LogLimit {
    /// At most this many lines a second.
    pub fn per_second(lines: NonZeroU32) -> Self {
        Self { lines: RateLimiter::direct(Quota::per_second(lines)), omitted: AtomicU64::new(0) }
    }

    /// Whether a line may be written, and if so, how many were left out since the last one.
    pub fn admit(&self) -> Option<u64> {
        match self.lines.check() {
            Ok(()) => Some(self.omitted.swap(0, Ordering::Relaxed)),
            Err(_) => {
                self.omitted.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

impl fmt::Debug for LogLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLimit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted_and_told_once() {
        let limit = LogLimit::per_second(NonZeroU32::new(3).expect("not zero"));
        let admitted: Vec<_> = (0..10).map(|_| limit.admit()).collect();
        assert_eq!(admitted[..3], [Some(0); 3]);
        let omitted = admitted.iter().filter(|line| line.is_none()).count() as u64;
        assert!(omitted >= 6, "{admitted:?}");
        limit.omitted.store(7, Ordering::Relaxed);
        let told = std::iter::repeat_with(|| limit.admit()).find_map(|line| line).expect("a line");
        assert!(told >= 7, "{told}");
    }
}
