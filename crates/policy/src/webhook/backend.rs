//! The client of a webhook: a queue, a circuit breaker, an HTTP client, and the last error.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use kms_attest::outgoing::{self, BodyError, Endpoint};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;

use super::bounds::Bounds;
use super::breaker::{self, Breaker, Change};
use super::{client, wire};
use crate::decision::PolicyError;
use crate::error::SetupError;
use crate::observer::{ShedBy, WebhookObserver};
use crate::queue::{ConcurrencyLimits, FairnessKey, Queue, Shed};
use crate::settings;

/// The state that all requests to the service share.
pub(super) struct Backend {
    base: Endpoint,
    client: Client,
    bounds: Bounds,
    queue: Queue,
    pub(super) breaker: Breaker,
    last_error: ArcSwapOption<String>,
    observer: OnceLock<Arc<dyn WebhookObserver>>,
}

/// The outcome of a request.
enum Exchange<T> {
    /// A response of the protocol.
    Good(T),
    /// A response that is not of the protocol.
    Nonsense(String),
    /// No response.
    Nothing(String),
}

impl Backend {
    pub(super) fn new(webhook: &settings::Webhook, bounds: Bounds) -> Result<Self, SetupError> {
        Ok(Self {
            base: webhook.url.clone(),
            client: client::build(webhook, &bounds)?,
            bounds,
            queue: Queue::new(ConcurrencyLimits {
                slots: bounds.concurrent,
                queued: bounds.queued,
                slots_each: bounds.concurrent_each,
                queued_each: bounds.queued_each,
                queue_timeout: bounds.queue_timeout,
            }),
            breaker: Breaker::closed(Instant::now()),
            last_error: ArcSwapOption::empty(),
            observer: OnceLock::new(),
        })
    }

    pub(super) fn report_to(&self, observer: Arc<dyn WebhookObserver>) {
        let _ = self.observer.set(observer);
    }

    /// The limits of its requests.
    pub(super) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// A request about the service itself.
    pub(super) fn get(&self) -> RequestBuilder {
        self.client.get(self.base.as_str())
    }

    /// A request below the base URL.
    pub(super) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    /// Why the last request had no usable response; `None` after a usable one.
    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.load_full().map(Arc::unwrap_or_clone)
    }

    /// Joins base and path as the peer does.
    fn url(&self, path: &str) -> String {
        let base = self.base.as_str();
        let slash = if base.ends_with('/') { "" } else { "/" };
        format!("{base}{slash}{path}")
    }

    /// Sends `request`, which counts for `key`, within all limits, and decodes the response.
    pub(super) async fn send<T: DeserializeOwned>(
        self: &Arc<Self>,
        key: FairnessKey,
        request: RequestBuilder,
    ) -> Result<T, PolicyError> {
        let came = Instant::now();
        if !self.breaker.admits(came) {
            self.count_shed(ShedBy::Breaker);
            let last = self.last_error.load();
            let last = last.as_deref().map_or("it did not answer", String::as_str);
            return Err(PolicyError::unavailable(format!("requests to the webhook are paused, {last}")));
        }
        let slot = self.queue.slot(key).await.map_err(|Shed| {
            self.count_shed(ShedBy::Queue);
            PolicyError::unavailable("too many requests wait for the webhook".to_owned())
        })?;
        let mut in_flight = InFlight { backend: self, began: Instant::now(), is_open: true };
        let left = self.bounds.total.saturating_sub(came.elapsed());
        let exchange = tokio::time::timeout(left, self.exchange(request)).await;
        drop(slot);
        match exchange {
            Ok(Exchange::Good(response)) => {
                in_flight.has_response();
                self.last_error.store(None);
                Ok(response)
            }
            Ok(Exchange::Nonsense(detail)) => {
                in_flight.has_response();
                Err(self.unusable(detail))
            }
            Ok(Exchange::Nothing(detail)) => {
                let error = self.unusable(detail);
                in_flight.has_failed();
                Err(error)
            }
            Err(_) => {
                let error = self.unusable("the webhook did not answer in time".to_owned());
                in_flight.has_failed();
                Err(error)
            }
        }
    }

    async fn exchange<T: DeserializeOwned>(&self, request: RequestBuilder) -> Exchange<T> {
        match self.fetch(request).await {
            Err(detail) => Exchange::Nothing(detail),
            Ok((status, Err(detail))) if is_down(status) => Exchange::Nothing(detail),
            Ok((_, Err(detail))) => Exchange::Nonsense(detail),
            Ok((status, Ok(body))) => match wire::decode(status, &body) {
                Ok(response) => Exchange::Good(response),
                Err(problem) if is_down(status) => Exchange::Nothing(format!("the webhook {problem}")),
                Err(problem) => Exchange::Nonsense(format!("the webhook {problem}")),
            },
        }
    }

    /// The status and the body of a response; the body is an error if it is too large.
    async fn fetch(&self, request: RequestBuilder) -> Result<(StatusCode, Result<Vec<u8>, String>), String> {
        let broken = |what, error| format!("error {what} the webhook: {}", client::causes(error));
        let mut response =
            client::send(request).await.map_err(|error| broken("sending request to", error))?;
        let status = response.status();
        match outgoing::read_at_most(&mut response, self.bounds.body).await {
            Ok(body) => Ok((status, Ok(body))),
            Err(BodyError::TooLarge) => {
                let large =
                    format!("the webhook answered {status} with more than {} bytes", self.bounds.body);
                Ok((status, Err(large)))
            }
            Err(BodyError::Connection(error)) => Err(broken("reading from", error)),
        }
    }

    /// Records an unusable response as the last error.
    pub(super) fn unusable(&self, detail: String) -> PolicyError {
        self.last_error.store(Some(Arc::new(detail.clone())));
        PolicyError::unavailable(detail)
    }

    fn count_shed(&self, by: ShedBy) {
        if let Some(observer) = self.observer.get() {
            observer.request_shed(by);
        }
    }

    fn note(self: &Arc<Self>, change: Option<Change>) {
        let Some(change) = change else { return };
        let observer = self.observer.get();
        match change {
            Change::Opened(nth) => {
                observer.inspect(|observer| observer.breaker_opened());
                let error = self.last_error().unwrap_or_default();
                tracing::warn!(
                    error,
                    "the webhook does not respond: requests are refused at once until it does"
                );
                tokio::spawn(probe(Arc::downgrade(self), nth));
            }
            Change::Closed => {
                observer.inspect(|observer| observer.breaker_closed());
                tracing::info!("the webhook responds again");
            }
        }
    }
}

/// Whether the status means that a gateway gets no response from the service.
fn is_down(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Sends info requests until there is a response. A caller can influence how long the service takes for a
/// boot request, but not for an info request.
async fn probe(backend: Weak<Backend>, nth: u64) {
    loop {
        tokio::time::sleep(breaker::RETRY).await;
        let Some(backend) = backend.upgrade().filter(|backend| backend.breaker.is_open_since(nth)) else {
            return;
        };
        let request = backend.fetch(backend.get());
        let response = tokio::time::timeout(backend.bounds.slow, request).await;
        if let Ok(Ok((status, _))) = response
            && !is_down(status)
        {
            backend.note(backend.breaker.answered(Instant::now()));
        }
    }
}

/// An in-flight request. If it is cancelled after `slow`, it counts as a failure.
struct InFlight<'a> {
    backend: &'a Arc<Backend>,
    began: Instant,
    is_open: bool,
}

impl InFlight<'_> {
    fn has_response(&mut self) {
        self.is_open = false;
        self.backend.note(self.backend.breaker.answered(Instant::now()));
    }

    fn has_failed(&mut self) {
        self.is_open = false;
        self.backend.note(self.backend.breaker.failed(self.began, Instant::now()));
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if self.is_open && self.began.elapsed() >= self.backend.bounds.slow {
            let gone = "the webhook did not answer before the request was cancelled".to_owned();
            self.backend.last_error.store(Some(Arc::new(gone)));
            self.has_failed();
        }
    }
}
