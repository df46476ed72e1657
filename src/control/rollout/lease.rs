//! The right of one driver to act. It ends when it was not renewed for some time, by the clock of each node itself: what the clocks of
//! drivers and of other nodes say does not matter.

use std::time::{Duration, Instant};

use crate::state::rollout::RolloutLease;

/// How long a driver may be silent.
pub const LEASE: Duration = Duration::from_secs(30);
/// After how long a lease is renewed.
const RENEW: Duration = Duration::from_secs(8);

/// When this node first saw the lease that there is, as it was renewed last.
#[derive(Debug, Default)]
pub(super) struct LeaseSeen(Option<(String, u64, Instant)>);

impl LeaseSeen {
    /// Notes a lease.
    pub(super) fn note(&mut self, lease: Option<&RolloutLease>) {
        self.note_at(lease, Instant::now());
    }

    fn note_at(&mut self, lease: Option<&RolloutLease>, now: Instant) {
        match lease {
            None => self.0 = None,
            Some(lease) if self.is(lease) => {}
            Some(lease) => self.0 = Some((lease.driver.clone(), lease.serial, now)),
        }
    }

    fn is(&self, lease: &RolloutLease) -> bool {
        self.0.as_ref().is_some_and(|(driver, serial, _)| (driver, *serial) == (&lease.driver, lease.serial))
    }

    /// Whether the lease is in force. A lease that was not seen before was just renewed.
    pub(super) fn holds(&self, lease: &RolloutLease) -> bool {
        self.holds_at(lease, Instant::now())
    }

    fn holds_at(&self, lease: &RolloutLease, now: Instant) -> bool {
        self.age(lease, now).is_none_or(|age| age.as_secs() <= lease.ttl)
    }

    /// Whether the lease should be renewed.
    pub(super) fn is_due(&self, lease: &RolloutLease) -> bool {
        self.age(lease, Instant::now()).is_some_and(|age| age >= RENEW)
    }

    fn age(&self, lease: &RolloutLease, now: Instant) -> Option<Duration> {
        let (_, _, at) = self.0.as_ref().filter(|_| self.is(lease))?;
        Some(now.saturating_duration_since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_until_it_was_not_renewed_for_its_time_by_the_own_clock() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let lease = |serial| RolloutLease { driver: "a".repeat(32), by: "zoe".to_owned(), serial, ttl: 30 };
        let mut seen = LeaseSeen::default();
        assert!(seen.holds_at(&lease(1), at(0)), "it is not known how old it is");
        seen.note_at(Some(&lease(1)), at(0));
        seen.note_at(Some(&lease(1)), at(20));
        assert!(seen.holds_at(&lease(1), at(30)) && !seen.holds_at(&lease(1), at(31)));
        seen.note_at(Some(&lease(2)), at(29));
        assert!(seen.holds_at(&lease(2), at(59)) && !seen.holds_at(&lease(2), at(60)));
        seen.note_at(None, at(61));
        assert!(seen.holds_at(&lease(2), at(100)), "unknown again");
    }
}
