//! The contents of the cache: collateral by platform, and the platforms whose last fetch failed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use crate::collateral::cache::EntryStats;
use crate::collateral::{
    CacheOptions, Collateral, CollateralError, FetchFailure, Numbers, PlatformKey, TcbSet,
};

/// Maximum number of failed platforms remembered.
pub(super) const MAX_REFUSALS: usize = 256;

#[derive(Default)]
pub(super) struct Entries {
    entries: HashMap<PlatformKey, Entry>,
    refusals: HashMap<PlatformKey, Refusal>,
    /// When the collateral of models expired that have none now.
    expired: BTreeMap<PlatformKey, u64>,
    uses: u64,
}

struct Entry {
    collateral: Arc<Collateral>,
    fetched_at: u64,
    refresh_at: u64,
    last_use: u64,
}

struct Refusal {
    error: CollateralError,
    until: Instant,
}

impl Entries {
    /// Collateral valid at `now`, counted as a use.
    pub(super) fn take(&mut self, platform: PlatformKey, now: u64) -> Option<Arc<Collateral>> {
        self.uses += 1;
        let entry = self.entries.get_mut(&platform).filter(|entry| entry.collateral.expires() >= now)?;
        entry.last_use = self.uses;
        Some(Arc::clone(&entry.collateral))
    }

    /// Like [`Entries::take`], but not counted as a use.
    pub(super) fn look(&self, platform: PlatformKey, now: u64) -> Option<Arc<Collateral>> {
        let entry = self.entries.get(&platform).filter(|entry| entry.collateral.expires() >= now)?;
        Some(Arc::clone(&entry.collateral))
    }

    /// Whether [`Entries::place`] would store `collateral`. An entry that is still valid is not replaced by an
    /// earlier issue, unless the entry has fallen below the floors: Intel sometimes issues lower numbers
    /// after higher ones.
    pub(super) fn replaces(&self, collateral: &Collateral, now: u64, options: &CacheOptions) -> bool {
        self.later(collateral.model(), collateral, now, options).is_none()
    }

    /// What is held for `platform` and stays instead of `collateral`.
    fn later(
        &self,
        platform: PlatformKey,
        collateral: &Collateral,
        now: u64,
        options: &CacheOptions,
    ) -> Option<&Arc<Collateral>> {
        let held = &self.entries.get(&platform)?.collateral;
        let is_later = held.expires() >= now
            && held.issued() > collateral.issued()
            && !options.floors.is_below(held, TcbSet::Standard);
        is_later.then_some(held)
    }

    /// Stores `collateral`, which was sent at `fetched` (Unix seconds), unless what is held is later, and returns what is stored
    /// now.
    pub(super) fn place(
        &mut self,
        platform: PlatformKey,
        collateral: Collateral,
        fetched: u64,
        now: u64,
        options: &CacheOptions,
    ) -> Arc<Collateral> {
        let later = self.later(platform, &collateral, now, options).map(Arc::clone);
        let collateral = later.unwrap_or_else(|| Arc::new(collateral));
        let held = self.entries.get(&platform);
        let half_life = collateral.expires().saturating_sub(now) / 2;
        let entry = Entry {
            collateral: Arc::clone(&collateral),
            fetched_at: fetched,
            refresh_at: fetched.saturating_add(jittered(options.refresh_after.as_secs().min(half_life))),
            last_use: held.map_or(self.uses, |entry| entry.last_use),
        };
        self.entries.insert(platform, entry);
        self.refusals.remove(&platform);
        self.expired.remove(&platform);
        self.shrink(options.capacity.max(1), platform);
        collateral
    }

    fn shrink(&mut self, capacity: usize, newest: PlatformKey) {
        while self.entries.len() > capacity {
            let others = self.entries.iter().filter(|(platform, _)| **platform != newest);
            let oldest = others.min_by_key(|(_, entry)| entry.last_use).map(|(platform, _)| *platform);
            let Some(oldest) = oldest else { return };
            self.entries.remove(&oldest);
        }
    }

    /// The error of the last fetch, while no new fetch is allowed.
    pub(super) fn refusal(&self, platform: PlatformKey, now: Instant) -> Option<CollateralError> {
        let refusal = self.refusals.get(&platform).filter(|refusal| refusal.until > now)?;
        Some(refusal.error.clone())
    }

    /// Remembers a failed fetch.
    pub(super) fn refuse(
        &mut self,
        platform: PlatformKey,
        error: &CollateralError,
        now: Instant,
        options: &CacheOptions,
    ) {
        let is_unknown = match error {
            CollateralError::Unavailable { failures } => {
                !failures.is_empty() && failures.iter().all(FetchFailure::is_unknown_platform)
            }
            CollateralError::Quote(_)
            | CollateralError::PckChain(_)
            | CollateralError::NotATd
            | CollateralError::UntrustedPlatform
            | CollateralError::Malformed(_) => false,
        };
        let pause = if is_unknown { options.unknown_for } else { options.retry_after };
        self.refusals.retain(|_, refusal| refusal.until > now);
        if self.refusals.len() < MAX_REFUSALS || self.refusals.contains_key(&platform) {
            self.refusals.insert(platform, Refusal { error: error.clone(), until: now + pause });
        }
    }

    /// Drops expired entries; returns the platforms to refresh.
    pub(super) fn due(&mut self, now: u64) -> Vec<PlatformKey> {
        let over = self.expired(now);
        self.entries.retain(|_, entry| entry.collateral.expires() >= now);
        over.into_iter().for_each(|(platform, end)| self.note_expired(platform, end));
        let due = self.entries.iter().filter(|(_, entry)| entry.refresh_at <= now);
        due.map(|(platform, _)| *platform).collect()
    }

    /// Makes entries due at `now` whose collateral `is_old`.
    pub(super) fn hasten(&mut self, is_old: impl Fn(&Collateral) -> bool, now: u64) {
        for entry in self.entries.values_mut().filter(|entry| is_old(&entry.collateral)) {
            entry.refresh_at = entry.refresh_at.min(now);
        }
    }

    /// Each platform's version numbers, sorted by platform.
    pub(super) fn held(&self) -> Vec<(PlatformKey, Numbers)> {
        let mut held: Vec<_> =
            self.entries.iter().map(|(platform, entry)| (*platform, entry.collateral.numbers())).collect();
        held.sort_by_key(|(platform, _)| *platform);
        held
    }

    /// As if this time had passed since each failure.
    #[cfg(test)]
    pub(super) fn pass(&mut self, time: std::time::Duration) {
        self.refusals.values_mut().for_each(|refusal| refusal.until -= time);
    }

    /// Forgets failures, so that each platform can be fetched again.
    pub(super) fn forget_refusals(&mut self) {
        self.refusals.clear();
    }

    /// Postpones the next refresh.
    pub(super) fn postpone(&mut self, platform: PlatformKey, until: u64) {
        if let Some(entry) = self.entries.get_mut(&platform) {
            entry.refresh_at = until;
        }
    }

    /// Notes that the collateral of a model expired, as a file says.
    pub(super) fn note_expired(&mut self, platform: PlatformKey, end: u64) {
        if !self.entries.contains_key(&platform) && self.expired.len() < MAX_REFUSALS {
            self.expired.insert(platform, end);
        }
    }

    /// The models without valid collateral that had some, with its end.
    pub(super) fn expired(&self, now: u64) -> Vec<(PlatformKey, u64)> {
        let held = self.entries.iter().map(|(platform, entry)| (*platform, entry.collateral.expires()));
        let mut expired = self.expired.clone();
        expired.extend(held.filter(|(_, end)| *end < now));
        expired.into_iter().collect()
    }

    /// Makes the entry that was fetched longest ago due at `now`: whether a service responds shows only when one is asked.
    pub(super) fn probe(&mut self, now: u64) {
        if let Some(oldest) = self.entries.values_mut().min_by_key(|entry| entry.fetched_at) {
            oldest.refresh_at = oldest.refresh_at.min(now);
        }
    }

    /// Figures for each entry, sorted by platform.
    pub(super) fn stats(&self, now: u64) -> Vec<EntryStats> {
        let entry_stats = |(platform, entry): (&PlatformKey, &Entry)| EntryStats {
            platform: *platform,
            age: now.saturating_sub(entry.fetched_at),
            issued: entry.collateral.issued(),
            expires: entry.collateral.expires(),
            numbers: entry.collateral.numbers(),
        };
        let mut stats: Vec<EntryStats> = self.entries.iter().map(entry_stats).collect();
        stats.sort_by_key(|entry| entry.platform);
        stats
    }
}

/// Between nine tenths of `seconds` and all of it, so that nodes started together do not send requests
/// together.
fn jittered(seconds: u64) -> u64 {
    let mut random = [0; 2];
    // If the random number generator fails there is no jitter.
    let _ = aws_lc_rs::rand::fill(&mut random);
    seconds - seconds / 10 * u64::from(u16::from_le_bytes(random)) / 65_536
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::collateral::testing::{NOW, collateral_set, numbered};
    use crate::collateral::{CaKind, Resource};

    const MOCK: PlatformKey = PlatformKey { fmspc: [0; 6], ca: CaKind::Platform };

    fn key(n: u64) -> PlatformKey {
        let mut fmspc = [0; 6];
        fmspc.copy_from_slice(&n.to_be_bytes()[2..]);
        PlatformKey { fmspc, ca: CaKind::Platform }
    }

    #[test]
    fn a_higher_number_replaces_a_lower_one_that_was_issued_later() {
        let with_number = |set, tcb_info| {
            let collateral = collateral_set(set);
            let numbers = Numbers { tcb_info, ..collateral.numbers() };
            numbered(collateral, numbers)
        };
        let (higher, lower) = (with_number("good", 20), with_number("short-validity", 17));
        assert!(lower.issued() > higher.issued());
        let (options, mut entries) = (CacheOptions::default(), Entries::default());
        let now = lower.issued();
        entries.place(MOCK, lower, now, now, &options);
        assert_eq!(options.floors.admit(&higher, TcbSet::Standard), Ok(true));
        assert_eq!(*entries.place(MOCK, higher.clone(), now, now, &options), higher);
    }

    #[test]
    fn an_older_issue_does_not_replace_one_that_is_still_valid() {
        let (older, newer) = (collateral_set("good"), collateral_set("short-validity"));
        assert!(newer.issued() > older.issued());
        let options = CacheOptions::default();
        for (now, kept) in [(newer.expires(), &newer), (newer.expires() + 1, &older)] {
            let mut entries = Entries::default();
            entries.place(MOCK, newer.clone(), newer.issued(), newer.issued(), &options);
            assert_eq!(*entries.place(MOCK, older.clone(), now, now, &options), *kept);
            assert_eq!(*entries.take(MOCK, now).unwrap(), *kept);
        }
    }

    #[test]
    fn the_least_recently_used_platform_goes_first() {
        let options = CacheOptions { capacity: 3, ..CacheOptions::default() };
        let mut entries = Entries::default();
        for n in 0..3 {
            entries.take(key(n), NOW);
            entries.place(key(n), collateral_set("good"), NOW, NOW, &options);
        }
        assert!(entries.take(key(0), NOW).is_some());
        // A refresh is not a use.
        entries.place(key(1), collateral_set("good"), NOW, NOW, &options);
        entries.place(key(3), collateral_set("good"), NOW, NOW, &options);
        let held: Vec<bool> = (0..4).map(|n| entries.take(key(n), NOW).is_some()).collect();
        assert_eq!(held, [true, false, true, true]);
    }

    #[test]
    fn remembered_failures_are_bounded() {
        let (mut entries, options, now) = (Entries::default(), CacheOptions::default(), Instant::now());
        let error = CollateralError::unavailable(FetchFailure::Deadline);
        for n in 0..2 * MAX_REFUSALS as u64 {
            entries.refuse(key(n), &error, now, &options);
        }
        assert_eq!(entries.refusals.len(), MAX_REFUSALS);
        assert_eq!(entries.refusal(key(0), now), Some(error));
        assert_eq!(entries.refusal(key(MAX_REFUSALS as u64), now), None);
    }

    #[test]
    fn a_failure_is_remembered_for_its_time_and_not_longer() {
        let (now, options) = (Instant::now(), CacheOptions::default());
        for (failure, pause) in [
            (FetchFailure::Deadline, options.retry_after),
            (FetchFailure::Status { resource: Resource::TcbInfo, status: 404 }, options.unknown_for),
        ] {
            let (mut entries, error) = (Entries::default(), CollateralError::unavailable(failure));
            entries.refuse(MOCK, &error, now, &options);
            assert_eq!(entries.refusal(MOCK, now + pause - Duration::from_nanos(1)), Some(error));
            assert_eq!(entries.refusal(MOCK, now + pause), None);
        }
    }

    #[test]
    fn an_entry_is_due_within_a_day_or_half_its_life() {
        let options = CacheOptions::default();
        let day = options.refresh_after.as_secs();
        let short = collateral_set("short-validity");
        let hour_before = short.expires() - 3600;
        for (collateral, now, wait) in [(collateral_set("good"), NOW, day), (short, hour_before, 1800)] {
            let mut entries = Entries::default();
            entries.place(MOCK, collateral, now, now, &options);
            assert!(entries.due(now + wait - wait / 10 - 1).is_empty());
            assert_eq!(entries.due(now + wait), [MOCK]);
            entries.postpone(MOCK, now + wait + 1);
            assert!(entries.due(now + wait).is_empty());
        }
    }

    #[test]
    fn jitter_takes_off_a_tenth_at_most() {
        for seconds in [0, 1, 9, 100, 86_400] {
            for _ in 0..100 {
                let jittered = jittered(seconds);
                assert!((seconds - seconds / 10..=seconds).contains(&jittered), "{seconds}: {jittered}");
            }
        }
    }
}
