//! Which apps received keys or certificates in the last day: what a freeze of everything would stop.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kms_attest::identity::AppId;

use crate::clock::unix_now;

const DAY: Duration = Duration::from_secs(86_400);
/// The most apps that are remembered; beyond that the number is a lower bound.
const MAX_APPS: usize = 16_384;

/// The apps by the time of their last release. In memory only, so it starts empty with the process.
#[derive(Debug)]
pub(super) struct Recent {
    since: u64,
    apps: Mutex<HashMap<AppId, Instant>>,
}

/// How many apps had a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecentApps {
    /// Apps with a release in the last day.
    pub apps: usize,
    /// Since when they are counted (Unix seconds), at most a day ago.
    pub since: u64,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self { since: unix_now(), apps: Mutex::default() }
    }

    /// Notes a release to an app.
    pub(super) fn note(&self, app_id: AppId, now: Instant) {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = apps.get_mut(&app_id) {
            *last = now;
            return;
        }
        if apps.len() >= MAX_APPS {
            apps.retain(|_, last| now.duration_since(*last) < DAY);
        }
        if apps.len() < MAX_APPS {
            apps.insert(app_id, now);
        }
    }

    pub(super) fn count(&self, now: Instant) -> RecentApps {
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let apps = apps.values().filter(|last| now.duration_since(**last) < DAY).count();
        RecentApps { apps, since: self.since.max(unix_now().saturating_sub(DAY.as_secs())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(number: usize) -> AppId {
        let mut id = [0; 20];
        id[12..].copy_from_slice(&number.to_be_bytes());
        AppId(id)
    }

    #[test]
    fn apps_of_the_last_day_count_once_each_and_a_bounded_number_is_kept() {
        let recent = Recent::new();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        recent.note(app(usize::MAX), start);
        recent.note(app(usize::MAX), later(10));
        recent.note(app(usize::MAX - 1), later(20));
        assert_eq!(recent.count(later(30)).apps, 2);
        assert_eq!(recent.count(later(86_400 + 15)).apps, 1, "the first was a day ago");
        assert_eq!(recent.count(later(2 * 86_400)).apps, 0);
        for number in 0..MAX_APPS + 10 {
            recent.note(app(number), later(100));
        }
        assert_eq!(recent.count(later(101)).apps, MAX_APPS);
        recent.note(app(usize::MAX - 2), later(3 * 86_400));
        assert_eq!(recent.count(later(3 * 86_400)).apps, 1, "what is a day old gives way");
    }
}
