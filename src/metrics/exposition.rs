//! The text of all metrics for scrapes: callers that ask at the same time share one rendering.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use super::Metrics;

/// The last text.
#[derive(Debug, Default)]
pub(super) struct Exposition(Mutex<Option<Rendered>>);

#[derive(Debug)]
struct Rendered {
    text: Bytes,
    began: Instant,
}

impl Metrics {
    /// All metrics in the text format, never as of before the call.
    pub fn exposition(&self) -> Bytes {
        self.exposition_since(Instant::now())
    }

    fn exposition_since(&self, asked: Instant) -> Bytes {
        let mut last = self.exposition.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Rendered { text, began }) = &*last
            && *began >= asked
        {
            return text.clone();
        }
        let began = Instant::now();
        let text = Bytes::from(self.render());
        *last = Some(Rendered { text: text.clone(), began });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_that_ask_at_the_same_time_share_a_text_and_nobody_gets_an_older_one() {
        let metrics = Metrics::new([]);
        let asked = Instant::now();
        let first = metrics.exposition_since(asked);
        metrics.audit_recorded();
        assert_eq!(metrics.exposition_since(asked), first, "rendered after both had asked");
        let later = metrics.exposition();
        let later = std::str::from_utf8(&later).unwrap();
        assert!(later.lines().any(|line| line == "cvm_kms_audit_records_total 1"), "{later}");
    }
}
