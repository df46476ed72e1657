//! Events of the client of a webhook, for the server's metrics.

/// Why a request was not sent to the webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedBy {
    /// The webhook has stopped responding.
    Breaker,
    /// Too many requests wait for it.
    Queue,
}

/// Receives the events of the client of a webhook.
pub trait WebhookObserver: Send + Sync {
    /// A request was not sent.
    fn request_shed(&self, by: ShedBy);

    /// The webhook has stopped responding: requests fail at once.
    fn breaker_opened(&self);

    /// The webhook responds again.
    fn breaker_closed(&self);
}
