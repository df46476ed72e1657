//! The one table of lifetimes: how long each certificate is valid, and when it is renewed.

use std::time::SystemTime;

use kms_attest::certificate::{LAST_SECOND, LONG_AGO, Validity};

use crate::clock::unix;

const DAY: u64 = 24 * 60 * 60;

/// How long a certificate is valid and when it is due for renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Days from issue to notAfter.
    days: u64,
    /// Days left at which it is renewed; `None` if a new one is issued for every request.
    renew_at_days_left: Option<u64>,
}

/// Renewal keeps key, name and serial: only the dates change, and old certificates stay valid.
pub const ROOT_CA: Lifetime = Lifetime { days: 3650, renew_at_days_left: Some(365) };
/// As the root CA.
pub const TEMP_CA: Lifetime = Lifetime { days: 3650, renew_at_days_left: Some(365) };
/// Issued at each start, and in the running process once a month.
///
/// The peer gives ten years, which is too long for a certificate that nobody can revoke. Ninety days with sixty left
/// at renewal means that a guest whose clock runs up to sixty days ahead still accepts it; a clock that runs behind is
/// no matter, because notBefore is 1975.
pub const RPC_LEAF: Lifetime = Lifetime { days: 90, renew_at_days_left: Some(60) };
/// Made for each request and not stored.
pub const APP_CA: Lifetime = Lifetime { days: 3650, renew_at_days_left: None };
/// The lifetime of a leaf whose request names no dates, and the longest that a request can ask for: that of its app CA.
pub const APP_LEAF: Lifetime = Lifetime { days: 3650, renew_at_days_left: None };

impl Lifetime {
    /// From 1975, since guests boot with wrong clocks, to this lifetime after `now`.
    pub fn from(self, now: SystemTime) -> Validity {
        Validity { not_before: LONG_AGO, not_after: self.end(now) }
    }

    /// Whether a certificate with this notAfter (Unix seconds) is to be renewed.
    pub fn is_due(self, not_after: u64, now: SystemTime) -> bool {
        self.renew_at_days_left.is_some_and(|days| not_after <= unix(now).saturating_add(days * DAY))
    }

    pub(super) fn end(self, now: SystemTime) -> u64 {
        unix(now).saturating_add(self.days * DAY).min(LAST_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(unix: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(unix)
    }

    #[test]
    fn authorities_are_renewed_when_a_year_or_less_is_left() {
        let end = ROOT_CA.from(at(0)).not_after;
        assert_eq!(end, 3650 * DAY);
        assert!(!ROOT_CA.is_due(end, at(end - 365 * DAY - 1)));
        assert!(ROOT_CA.is_due(end, at(end - 365 * DAY)));
        assert!(ROOT_CA.is_due(end, at(end + 1)));
    }

    #[test]
    fn the_rpc_leaf_always_has_two_months_left() {
        let end = RPC_LEAF.from(at(1_700_000_000)).not_after;
        assert!(!RPC_LEAF.is_due(end, at(1_700_000_000 + 30 * DAY - 1)));
        assert!(RPC_LEAF.is_due(end, at(1_700_000_000 + 30 * DAY)));
    }

    #[test]
    fn no_clock_makes_a_date_that_a_certificate_cannot_carry() {
        assert_eq!(APP_CA.from(at(LAST_SECOND)).not_after, LAST_SECOND);
        assert_eq!(APP_CA.from(UNIX_EPOCH - Duration::from_secs(1)).not_after, 3650 * DAY);
    }
}
