//! Limits of requests to a webhook, and of quotes from its responses.

use std::time::Duration;

/// Limits of one request and of all requests together.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) connect: Duration,
    /// The time from the request to the decoded response, including the wait for a slot.
    pub(super) total: Duration,
    pub(super) body: usize,
    pub(super) concurrent: usize,
    pub(super) queued: usize,
    /// The parts of `concurrent` and `queued` that one app can use, or all KMSs together.
    pub(super) concurrent_each: usize,
    pub(super) queued_each: usize,
    /// The wait for a slot; the rest of `total` is enough for a response.
    pub(super) queue_timeout: Duration,
    /// A request that is cancelled after this time counts as a failure.
    pub(super) slow: Duration,
    /// An info response younger than this serves all callers.
    pub(super) fresh: Duration,
}

impl Bounds {
    /// The same limits with another `total`; the parts of it are scaled.
    pub(super) fn within(self, total: Duration) -> Self {
        Self {
            connect: self.connect.min(total),
            total,
            queue_timeout: total / 2,
            slow: self.slow.min(total / 2),
            ..self
        }
    }
}

pub(super) const BOUNDS: Bounds = Bounds {
    connect: Duration::from_secs(3),
    total: Duration::from_secs(10),
    body: 64 << 10,
    concurrent: 256,
    queued: 4096,
    concurrent_each: 32,
    queued_each: 1024,
    queue_timeout: Duration::from_secs(5),
    slow: Duration::from_secs(3),
    fresh: Duration::from_secs(1),
};

/// Maximum length of a quote from a backend for the log or the caller, in characters.
const MAX_QUOTE: usize = 512;

/// The first characters of `text`, without control characters. Cutting at a byte could split a character and
/// panic.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_QUOTE)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}
