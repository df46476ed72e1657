//! The way to a webhook: turns, a breaker, one HTTP client, and what came of the last question.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use kms_attest::outgoing::{self, BodyError};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;

use super::breaker::{self, Breaker, Change};
use super::{Bounds, client, unavailable, wire};
use crate::config::{self, Endpoint};
use crate::metrics::Metrics;
use crate::policy::queue::{ConcurrencyLimits, FairnessKey, Queue, Shed};
use crate::policy::{PolicyError, SetupError};

/// The way to the service: what is shared by all questions.
pub(super) struct Backend {
    base: Endpoint,
    client: Client,
    bounds: Bounds,
    queue: Queue,
    pub(super) breaker: Breaker,
    last_error: ArcSwapOption<String>,
    metrics: OnceLock<Arc<Metrics>>,
}

/// What came back: whether the service lives, and what it said.
enum Exchange<T> {
    /// It answered what it should.
    Good(T),
    /// It answered something else.
    Nonsense(String),
    /// It did not answer.
    Nothing(String),
}

impl Backend {
    pub(super) fn new(webhook: &config::Webhook, bounds: Bounds) -> Result<Self, SetupError> {
        Ok(Self {
            base: webhook.url.clone(),
            client: client::build(webhook, &bounds)?,
            bounds,
            queue: Queue::new(ConcurrencyLimits {
                turns: bounds.concurrent,
                waiting: bounds.waiting,
                turns_each: bounds.concurrent_each,
                waiting_each: bounds.waiting_each,
                queue_timeout: bounds.queue_timeout,
            }),
            breaker: Breaker::closed(Instant::now()),
            last_error: ArcSwapOption::empty(),
            metrics: OnceLock::new(),
        })
    }

    pub(super) fn show_in(&self, metrics: &Arc<Metrics>) {
        let _ = self.metrics.set(Arc::clone(metrics));
    }

    /// The bounds of its requests.
    pub(super) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// A question about the service itself.
    pub(super) fn get(&self) -> RequestBuilder {
        self.client.get(self.base.as_str())
    }

    /// A question below the base URL.
    pub(super) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    /// Why the last question was not answered; `None` once one is.
    pub(super) fn last_error(&self) -> Option<String> {
        self.last_error.load_full().map(Arc::unwrap_or_clone)
    }

    /// Plain joining, as the peer does it.
    fn url(&self, path: &str) -> String {
        let base = self.base.as_str();
        let slash = if base.ends_with('/') { "" } else { "/" };
        format!("{base}{slash}{path}")
    }

    /// The decoded answer to `request`, which is about `topic`, within all bounds.
    pub(super) async fn ask<T: DeserializeOwned>(
        self: &Arc<Self>,
        topic: FairnessKey,
        request: RequestBuilder,
    ) -> Result<T, PolicyError> {
        let came = Instant::now();
        if !self.breaker.admits(came) {
            self.count_shed("webhook_breaker");
            let last = self.last_error.load();
            let last = last.as_deref().map_or("it did not answer", String::as_str);
            return Err(unavailable(format!("the webhook is not asked for a moment, {last}")));
        }
        let turn = self.queue.turn(topic).await.map_err(|Shed| {
            self.count_shed("webhook_queue");
            unavailable("too many questions wait for the webhook".to_owned())
        })?;
        let mut attempt = Attempt { line: self, asked: Instant::now(), is_open: true };
        let left = self.bounds.total.saturating_sub(came.elapsed());
        let exchange = tokio::time::timeout(left, self.exchange(request)).await;
        drop(turn);
        match exchange {
            Ok(Exchange::Good(answer)) => {
                attempt.is_answered();
                self.last_error.store(None);
                Ok(answer)
            }
            Ok(Exchange::Nonsense(detail)) => {
                attempt.is_answered();
                Err(self.unusable(detail))
            }
            Ok(Exchange::Nothing(detail)) => {
                let error = self.unusable(detail);
                attempt.has_failed();
                Err(error)
            }
            Err(_) => {
                let error = self.unusable("the webhook did not answer in time".to_owned());
                attempt.has_failed();
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
                Ok(answer) => Exchange::Good(answer),
                Err(problem) if is_down(status) => Exchange::Nothing(format!("the webhook {problem}")),
                Err(problem) => Exchange::Nonsense(format!("the webhook {problem}")),
            },
        }
    }

    /// Status and body of an answer; the body is an error where it is too large.
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

    /// An answer that is none; remembered as the last error.
    pub(super) fn unusable(&self, detail: String) -> PolicyError {
        self.last_error.store(Some(Arc::new(detail.clone())));
        unavailable(detail)
    }

    fn count_shed(&self, limit: &'static str) {
        if let Some(metrics) = self.metrics.get() {
            metrics.question_shed(limit);
        }
    }

    fn note(self: &Arc<Self>, change: Option<Change>) {
        let Some(change) = change else { return };
        let metrics = self.metrics.get();
        match change {
            Change::Opened(nth) => {
                metrics.inspect(|metrics| metrics.webhook_breaker_opened());
                let error = self.last_error().unwrap_or_default();
                tracing::warn!(
                    error,
                    "the webhook does not answer: until it does, questions are refused at once"
                );
                tokio::spawn(probe(Arc::downgrade(self), nth));
            }
            Change::Closed => {
                metrics.inspect(|metrics| metrics.webhook_breaker_closed());
                tracing::info!("the webhook answers again");
            }
        }
    }
}

/// What a service behind a gateway does not say itself.
fn is_down(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Asks a service that has stopped answering about itself until anyone gets an answer. Callers choose what a question
/// is about, and with that perhaps how long it takes; nobody chooses this one.
async fn probe(line: Weak<Backend>, nth: u64) {
    loop {
        tokio::time::sleep(breaker::RETRY).await;
        let Some(line) = line.upgrade().filter(|line| line.breaker.is_open_since(nth)) else { return };
        let question = line.fetch(line.get());
        let answer = tokio::time::timeout(line.bounds.slow, question).await;
        if let Ok(Ok((status, _))) = answer
            && !is_down(status)
        {
            line.note(line.breaker.answered(Instant::now()));
        }
    }
}

/// A question on its way. If the asker leaves before the end, a long wait still tells something.
struct Attempt<'a> {
    line: &'a Arc<Backend>,
    asked: Instant,
    is_open: bool,
}

impl Attempt<'_> {
    fn is_answered(&mut self) {
        self.is_open = false;
        self.line.note(self.line.breaker.answered(Instant::now()));
    }

    fn has_failed(&mut self) {
        self.is_open = false;
        self.line.note(self.line.breaker.failed(self.asked, Instant::now()));
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.is_open && self.asked.elapsed() >= self.line.bounds.slow {
            let gone = "the webhook did not answer before its askers left".to_owned();
            self.line.last_error.store(Some(Arc::new(gone)));
            self.has_failed();
        }
    }
}
