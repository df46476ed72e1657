//! Bounds of the requests to a webhook, and of what is repeated of its responses.

use std::time::Duration;

/// Bounds of one request and of all together.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) connect: Duration,
    /// From the request to the decoded response, waiting for a slot included.
    pub(super) total: Duration,
    pub(super) body: usize,
    pub(super) concurrent: usize,
    pub(super) queued: usize,
    /// Of `concurrent` and of `queued`, what one app can have, or all KMS together.
    pub(super) concurrent_each: usize,
    pub(super) queued_each: usize,
    /// For a slot; what is left of `total` then is enough for a response.
    pub(super) queue_timeout: Duration,
    /// A request that is cancelled after this long counts as one without a response.
    pub(super) slow: Duration,
    /// An info answer this young serves every caller.
    pub(super) fresh: Duration,
}

impl Bounds {
    /// The same with another `total`; the waits within it keep their share.
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

/// How much of a backend's words reaches the log or the caller, in characters.
const MAX_QUOTE: usize = 512;

/// The first characters, never bytes: a cut inside of a character once killed a KMS.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_QUOTE)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}
