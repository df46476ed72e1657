//! The text of all metrics for scrapes: rendered a bounded number of times a second, however many callers ask.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Metrics;

/// How often the text is rendered within [`WINDOW`]; further scrapes get the last one. Anyone may scrape.
const RENDERS: u32 = 200;
const WINDOW: Duration = Duration::from_secs(1);

/// The last text.
#[derive(Debug, Default)]
pub(super) struct Exposition(Mutex<Option<Rendered>>);

#[derive(Debug)]
struct Rendered {
    text: Bytes,
    /// The start of the window, and how often the text was rendered in it.
    since: Instant,
    count: u32,
}

impl Metrics {
    /// All metrics in the text format, as of now or, while many ask, of this second.
    pub fn exposition(&self) -> Bytes {
        self.exposition_at(Instant::now())
    }

    fn exposition_at(&self, now: Instant) -> Bytes {
        let mut last = self.exposition.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = match &*last {
            Some(Rendered { since, count, .. }) if now.saturating_duration_since(*since) < WINDOW => {
                (*since, *count)
            }
            Some(_) | None => (now, 0),
        };
        if count >= RENDERS
            && let Some(Rendered { text, .. }) = &*last
        {
            return text.clone();
        }
        let text = Bytes::from(self.render());
        *last = Some(Rendered { text: text.clone(), since, count: count + 1 });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_scrapes_renders_a_bounded_number_of_times() {
        let metrics = Metrics::new([]);
        let now = Instant::now();
        let mut texts = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            metrics.audit_recorded();
            texts.insert(metrics.exposition_at(now));
        }
        assert_eq!(texts.len(), RENDERS as usize);
        metrics.audit_recorded();
        let later = metrics.exposition_at(now + WINDOW);
        let later = std::str::from_utf8(&later).unwrap();
        assert!(later.lines().any(|line| line == "cvm_kms_audit_records_total 1001"), "{later}");
    }
}
