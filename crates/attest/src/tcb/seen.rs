//! Recently verified platforms, each with one of its quotes; bounded, in memory only.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::PlatformTcb;

/// Maximum number of platforms with different security versions; the least recently seen is dropped first.
const CAPACITY: usize = 512;
/// Maximum length of a quote that is kept, bytes. Quotes have about 5 KiB.
const MAX_QUOTE: usize = 32 << 10;

/// The recently verified platforms, for which a verdict is forecast.
#[derive(Debug)]
pub struct SeenPlatforms {
    keep: Duration,
    platforms: Mutex<HashMap<PlatformTcb, Seen>>,
}

/// The latest verification of a platform.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) platform: PlatformTcb,
    /// One of its quotes that verified.
    pub(crate) quote: Vec<u8>,
    /// The PCK certificate chain, if the quote does not have it.
    pub(crate) pck_chain: Option<String>,
    /// Time of the verification, Unix seconds.
    pub(crate) at: u64,
}

impl SeenPlatforms {
    /// Remembers platforms for `keep` after their last verification.
    pub fn new(keep: Duration) -> Self {
        Self { keep, platforms: Mutex::default() }
    }

    /// Records that `quote` of `platform` was verified at `now`.
    pub(crate) fn note(&self, platform: PlatformTcb, quote: &[u8], pck_chain: Option<&str>, now: u64) {
        let mut platforms = self.lock();
        if let Some(seen) = platforms.get_mut(&platform) {
            seen.at = now;
            return;
        }
        if quote.len() > MAX_QUOTE {
            return;
        }
        if platforms.len() >= CAPACITY {
            let oldest = platforms.values().min_by_key(|seen| seen.at).map(|seen| seen.platform);
            oldest.map(|oldest| platforms.remove(&oldest));
        }
        let seen = Seen { platform, quote: quote.to_vec(), pck_chain: pck_chain.map(str::to_owned), at: now };
        platforms.insert(platform, seen);
    }

    /// The platforms seen within `keep`, in a stable order; forgets the others.
    pub(crate) fn recent(&self, now: u64) -> Vec<Seen> {
        let mut platforms = self.lock();
        platforms.retain(|_, seen| seen.at.saturating_add(self.keep.as_secs()) >= now);
        let mut seen: Vec<Seen> = platforms.values().cloned().collect();
        drop(platforms);
        seen.sort_by_key(|seen| seen.platform);
        seen
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PlatformTcb, Seen>> {
        self.platforms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collateral::{CaKind, PlatformKey};

    fn platform(number: u16) -> PlatformTcb {
        PlatformTcb {
            model: PlatformKey { fmspc: [0; 6], ca: CaKind::Platform },
            cpu_svn: [0; 16],
            pce_svn: number,
            tee_tcb_svn: [0; 16],
            tee_tcb_svn2: None,
            qe_isv_svn: 0,
        }
    }

    #[test]
    fn platforms_are_remembered_for_some_time_after_they_were_last_seen() {
        let seen = SeenPlatforms::new(Duration::from_secs(100));
        seen.note(platform(1), b"quote", None, 1000);
        seen.note(platform(2), b"quote", None, 1000);
        seen.note(platform(1), b"other", None, 1050);
        let recent = |now| seen.recent(now).iter().map(|seen| seen.platform.pce_svn).collect::<Vec<_>>();
        assert_eq!(recent(1100), [1, 2]);
        assert_eq!(recent(1101), [1]);
        assert_eq!(recent(1151), [0_u16; 0]);
    }

    #[test]
    fn they_are_bounded_in_number_and_size() {
        let seen = SeenPlatforms::new(Duration::from_secs(100_000));
        for number in 0..CAPACITY as u16 + 10 {
            seen.note(platform(number), b"quote", None, 1000 + u64::from(number));
        }
        let recent = seen.recent(2000);
        assert_eq!((recent.len(), recent[0].platform.pce_svn), (CAPACITY, 10));
        let seen = SeenPlatforms::new(Duration::from_secs(100));
        seen.note(platform(1), &vec![0; MAX_QUOTE + 1], None, 1000);
        assert!(seen.recent(1000).is_empty());
    }
}
