//! How many events that nothing waits for are recorded: a caller that is refused all day must not fill the disk.

use std::time::Instant;

/// How many events there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// Events at once.
    burst: f64,
    /// Events a second on average.
    rate: f64,
}

/// About callers whose evidence verifies.
pub(super) const VERIFIED: Allowance = Allowance { burst: 1000.0, rate: 10.0 };
/// About anyone.
pub(super) const STRANGERS: Allowance = Allowance { burst: 100.0, rate: 0.2 };

/// A bucket of tokens, and what found it empty.
#[derive(Debug)]
pub(super) struct Pace {
    allowance: Allowance,
    tokens: f64,
    filled: Instant,
    suppressed: u64,
}

/// Whether an event is recorded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Paced {
    /// It is, after saying how many were not.
    Record { suppressed: u64 },
    /// It is counted.
    Suppress,
}

impl Pace {
    pub(super) fn new(allowance: Allowance, now: Instant) -> Self {
        Self { allowance, tokens: allowance.burst, filled: now, suppressed: 0 }
    }

    pub(super) fn admit(&mut self, now: Instant) -> Paced {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.allowance.rate).min(self.allowance.burst);
        self.filled = now;
        if self.tokens < 1.0 {
            self.suppressed += 1;
            return Paced::Suppress;
        }
        self.tokens -= 1.0;
        Paced::Record { suppressed: std::mem::take(&mut self.suppressed) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_counted_and_the_count_is_told_once() {
        let start = Instant::now();
        let mut pace = Pace::new(VERIFIED, start);
        let recorded = (0..5000).filter(|_| pace.admit(start) != Paced::Suppress).count();
        assert_eq!(recorded, 1000);
        let later = start + Duration::from_millis(250);
        assert_eq!(pace.admit(later), Paced::Record { suppressed: 4000 });
        assert_eq!(pace.admit(later), Paced::Record { suppressed: 0 });
        assert_eq!(pace.admit(later), Paced::Suppress);
    }
}
