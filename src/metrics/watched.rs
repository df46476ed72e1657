//! Queues and caches of other parts, which are looked at when somebody asks.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{Metrics, counters, raise, register};

/// A queue as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    /// What waits in it.
    pub waiting: u64,
    /// How much may wait; `None` where something else bounds it.
    pub limit: Option<u64>,
    /// How much was turned away since the start.
    pub shed: u64,
}

/// A cache as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheState {
    /// What is in it.
    pub entries: u64,
    /// How much fits in; `None` where something else bounds it.
    pub limit: Option<u64>,
    /// Look-ups that found something, since the start.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
}

type Look<T> = Box<dyn Fn() -> Option<T> + Send + Sync>;

struct Watch<T> {
    name: &'static str,
    look: Look<T>,
}

/// What is watched, under the metrics that show it.
pub(super) struct Watched {
    queues: Mutex<Vec<Watch<QueueState>>>,
    caches: Mutex<Vec<Watch<CacheState>>>,
    waiting: IntGaugeVec,
    queue_limit: IntGaugeVec,
    queue_shed: IntCounterVec,
    entries: IntGaugeVec,
    hits: IntCounterVec,
    misses: IntCounterVec,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

/// Looks at each; one whose owner is gone is forgotten.
fn look<T>(watched: &Mutex<Vec<Watch<T>>>) -> Vec<(&'static str, T)> {
    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    let mut seen = Vec::with_capacity(watched.len());
    watched.retain(|watch| match (watch.look)() {
        Some(state) => {
            seen.push((watch.name, state));
            true
        }
        None => false,
    });
    seen
}

fn watch<T>(watched: &Mutex<Vec<Watch<T>>>, name: &'static str, look: Look<T>) {
    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    // The next phase has its own.
    watched.retain(|old| old.name != name);
    watched.push(Watch { name, look });
}

impl Watched {
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        let gauges = |name, help, label| register(r, IntGaugeVec::new(Opts::new(name, help), &[label])?);
        Ok(Self {
            queues: Mutex::default(),
            caches: Mutex::default(),
            waiting: gauges("cvm_kms_queue_waiting", "What waits in each queue.", "queue")?,
            queue_limit: gauges("cvm_kms_queue_capacity", "How much may wait in each queue.", "queue")?,
            queue_shed: counters(
                r,
                "cvm_kms_queue_shed_total",
                "What was turned away or dropped by a full queue.",
                &["queue"],
            )?,
            entries: gauges("cvm_kms_cache_entries", "Entries of each cache.", "cache")?,
            hits: counters(
                r,
                "cvm_kms_cache_hits_total",
                "Look-ups that found an entry, by cache.",
                &["cache"],
            )?,
            misses: counters(
                r,
                "cvm_kms_cache_misses_total",
                "Look-ups that found none, by cache.",
                &["cache"],
            )?,
        })
    }
}

impl Metrics {
    /// Shows a queue under this name until `look` returns `None`.
    pub fn watch_queue(
        &self,
        name: &'static str,
        look: impl Fn() -> Option<QueueState> + Send + Sync + 'static,
    ) {
        watch(&self.watched.queues, name, Box::new(look));
    }

    /// Shows a queue of at most `limit` whose refusals are counted under the same name, until `waiting` returns `None`.
    pub fn watch_shedding_queue(
        &self,
        name: &'static str,
        limit: u64,
        waiting: impl Fn() -> Option<u64> + Send + Sync + 'static,
    ) {
        let shed = self.shed.with_label_values(&[name]);
        self.watch_queue(name, move || {
            Some(QueueState { waiting: waiting()?, limit: Some(limit), shed: shed.get() })
        });
    }

    /// Shows a cache under this name until `look` returns `None`.
    pub fn watch_cache(
        &self,
        name: &'static str,
        look: impl Fn() -> Option<CacheState> + Send + Sync + 'static,
    ) {
        watch(&self.watched.caches, name, Box::new(look));
    }

    /// Every queue that is watched.
    pub fn queues(&self) -> Vec<(&'static str, QueueState)> {
        look(&self.watched.queues)
    }

    /// Every cache that is watched.
    pub fn caches(&self) -> Vec<(&'static str, CacheState)> {
        look(&self.watched.caches)
    }

    pub(super) fn look_at_watched(&self) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let shown = &self.watched;
        for (name, state) in self.queues() {
            shown.waiting.with_label_values(&[name]).set(number(state.waiting));
            if let Some(limit) = state.limit {
                shown.queue_limit.with_label_values(&[name]).set(number(limit));
            }
            raise(&shown.queue_shed.with_label_values(&[name]), state.shed);
        }
        for (name, state) in self.caches() {
            shown.entries.with_label_values(&[name]).set(number(state.entries));
            raise(&shown.hits.with_label_values(&[name]), state.hits);
            raise(&shown.misses.with_label_values(&[name]), state.misses);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Weak};

    use super::*;

    #[test]
    fn what_is_watched_is_shown_until_its_owner_is_gone() {
        let metrics = Metrics::new([]);
        let owner = Arc::new(3);
        let weak: Weak<u64> = Arc::downgrade(&owner);
        metrics.watch_queue("passwords", move || {
            weak.upgrade().map(|waiting| QueueState { waiting: *waiting, limit: Some(64), shed: 5 })
        });
        metrics
            .watch_cache("collateral", || Some(CacheState { entries: 1, limit: None, hits: 9, misses: 4 }));
        let text = metrics.render();
        for line in [
            r#"cvm_kms_queue_waiting{queue="passwords"} 3"#,
            r#"cvm_kms_queue_capacity{queue="passwords"} 64"#,
            r#"cvm_kms_queue_shed_total{queue="passwords"} 5"#,
            r#"cvm_kms_cache_hits_total{cache="collateral"} 9"#,
            r#"cvm_kms_cache_misses_total{cache="collateral"} 4"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
        drop(owner);
        assert!(metrics.queues().is_empty());
        assert_eq!(metrics.caches().len(), 1);
    }
}
