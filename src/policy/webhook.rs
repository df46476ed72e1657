//! The policy of an HTTP service, in the peer's protocol.

mod breaker;
mod client;
mod queue;
mod wire;

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use self::breaker::{Breaker, Change};
use self::queue::{Queue, Shed};
use self::wire::{BootRequest, BootResponse, InfoResponse};
use super::signed::{self, Kind, NONCE_HEADER, Nonce, Question};
use super::{Decision, Info, PolicyError, SetupError, Subject};
use crate::config::{self, DecisionKey, Endpoint};
use crate::metrics::Metrics;

/// Bounds of one question and of all together.
#[derive(Clone, Copy)]
struct Bounds {
    connect: Duration,
    /// From the question to the decoded answer, waiting for a turn included.
    total: Duration,
    body: usize,
    concurrent: usize,
    waiting: usize,
    /// For a turn; what is left of `total` then is enough for an answer.
    patience: Duration,
    /// An asker that leaves after this long has seen a service that does not answer.
    slow: Duration,
}

const BOUNDS: Bounds = Bounds {
    connect: Duration::from_secs(3),
    total: Duration::from_secs(10),
    body: 64 << 10,
    concurrent: 256,
    waiting: 4096,
    patience: Duration::from_secs(5),
    slow: Duration::from_secs(3),
};

/// How much of a backend's words reaches the log or the caller, in characters.
const MAX_QUOTE: usize = 512;

/// An info answer this young serves everyone who asks.
const FRESH: Duration = Duration::from_secs(1);

/// Asks `<base>/bootAuth/app` and `<base>/bootAuth/kms`, each time anew.
pub struct Webhook {
    line: Arc<Line>,
    decision_key: Option<DecisionKey>,
    /// One asks for the info, the others wait and find the answer.
    asking: Mutex<()>,
    info: ArcSwapOption<Answered>,
}

struct Answered {
    info: Arc<Info>,
    at: Instant,
}

/// The way to the service: what is shared by all questions.
struct Line {
    base: Endpoint,
    client: Client,
    bounds: Bounds,
    queue: Queue,
    breaker: Breaker,
    last_error: ArcSwapOption<String>,
    metrics: OnceLock<Arc<Metrics>>,
}

impl Webhook {
    /// A client for the service that `webhook` describes.
    ///
    /// # Errors
    /// [`SetupError`] names the key whose file cannot be used.
    pub fn new(webhook: &config::Webhook) -> Result<Self, SetupError> {
        Self::with_bounds(webhook, BOUNDS)
    }

    fn with_bounds(webhook: &config::Webhook, bounds: Bounds) -> Result<Self, SetupError> {
        let line = Line {
            base: webhook.url.clone(),
            client: client::build(webhook, &bounds)?,
            bounds,
            queue: Queue::new(bounds.concurrent, bounds.waiting, bounds.patience),
            breaker: Breaker::closed(Instant::now()),
            last_error: ArcSwapOption::empty(),
            metrics: OnceLock::new(),
        };
        Ok(Self {
            line: Arc::new(line),
            decision_key: webhook.decision_key,
            asking: Mutex::new(()),
            info: ArcSwapOption::empty(),
        })
    }

    /// Shows the breaker and what is shed in `metrics` from now on.
    pub(super) fn show_in(&self, metrics: &Arc<Metrics>) {
        let _ = self.line.metrics.set(Arc::clone(metrics));
    }

    pub(super) async fn decide(&self, subject: Subject<'_>) -> Result<Decision, PolicyError> {
        let kind = match subject {
            Subject::App(_) => Kind::App,
            Subject::Kms(_) => Kind::Kms,
        };
        let body = serde_json::to_vec(&BootRequest::of(subject.boot_info()))
            .map_err(|error| unavailable(error.to_string()))?;
        let post =
            self.line.client.post(self.line.url(kind.path())).header("content-type", "application/json");
        let Some(key) = &self.decision_key else {
            return Ok(self.line.ask::<BootResponse>(post.body(body)).await?.into());
        };
        let nonce =
            Nonce::random().ok_or_else(|| unavailable("no random numbers are to be had".to_owned()))?;
        let post = post.header(NONCE_HEADER, nonce.as_str()).body(body.clone());
        let answer: BootResponse = self.line.ask(post).await?;
        let question = Question { kind, body: &body, nonce: &nonce };
        signed::verify(key, question, answer.answer(), answer.signature.as_ref(), SystemTime::now())
            .map_err(|error| self.line.unusable(format!("the webhook's answer {error}")))?;
        Ok(answer.into())
    }

    pub(super) async fn info(&self) -> Result<Arc<Info>, PolicyError> {
        if let Some(info) = self.fresh_info() {
            return Ok(info);
        }
        // Nobody waits for one asker after the other.
        match tokio::time::timeout(self.line.bounds.total, self.ask_info()).await {
            Ok(info) => info,
            Err(_) => Err(unavailable("the webhook did not answer in time".to_owned())),
        }
    }

    async fn ask_info(&self) -> Result<Arc<Info>, PolicyError> {
        let _asking = self.asking.lock().await;
        if let Some(info) = self.fresh_info() {
            return Ok(info);
        }
        let answer: InfoResponse = self.line.ask(self.line.client.get(self.line.base.as_str())).await?;
        let info = Arc::new(Info::from(answer));
        self.info.store(Some(Arc::new(Answered { info: info.clone(), at: Instant::now() })));
        Ok(info)
    }

    pub(super) fn last_info(&self) -> Option<Arc<Info>> {
        self.info.load().as_ref().map(|answered| answered.info.clone())
    }

    /// Why the last question was not answered; `None` once one is.
    pub(super) fn last_error(&self) -> Option<String> {
        self.line.last_error.load_full().map(Arc::unwrap_or_clone)
    }

    fn fresh_info(&self) -> Option<Arc<Info>> {
        let answered = self.info.load();
        answered
            .as_ref()
            .filter(|answered| answered.at.elapsed() < FRESH)
            .map(|answered| answered.info.clone())
    }
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

impl Line {
    /// Plain joining, as the peer does it.
    fn url(&self, path: &str) -> String {
        let base = self.base.as_str();
        let slash = if base.ends_with('/') { "" } else { "/" };
        format!("{base}{slash}{path}")
    }

    async fn ask<T: DeserializeOwned>(self: &Arc<Self>, request: RequestBuilder) -> Result<T, PolicyError> {
        let came = Instant::now();
        if !self.breaker.admits(came) {
            self.count_shed("webhook_breaker");
            let last = self.last_error.load();
            let last = last.as_deref().map_or("it did not answer", String::as_str);
            return Err(unavailable(format!("the webhook is not asked for a moment, {last}")));
        }
        let turn = self.queue.turn().await.map_err(|Shed| {
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
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| broken("reading from", error))? {
            if body.len() + chunk.len() > self.bounds.body {
                let large =
                    format!("the webhook answered {status} with more than {} bytes", self.bounds.body);
                return Ok((status, Err(large)));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, Ok(body)))
    }

    fn unusable(&self, detail: String) -> PolicyError {
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
                let error = self.last_error();
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

    fn last_error(&self) -> String {
        self.last_error.load_full().map(Arc::unwrap_or_clone).unwrap_or_default()
    }
}

/// What a service behind a gateway does not say itself.
fn is_down(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Asks a service that has stopped answering about itself until anyone gets an answer. Callers choose what a question
/// is about, and with that perhaps how long it takes; nobody chooses this one.
async fn probe(line: Weak<Line>, nth: u64) {
    loop {
        tokio::time::sleep(breaker::RETRY).await;
        let Some(line) = line.upgrade().filter(|line| line.breaker.is_open_since(nth)) else { return };
        let question = line.fetch(line.client.get(line.base.as_str()));
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
    line: &'a Arc<Line>,
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

fn unavailable(detail: String) -> PolicyError {
    PolicyError::Unavailable { detail }
}

/// The first characters, never bytes: a cut inside of a character once killed a KMS.
fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_QUOTE)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

#[cfg(test)]
mod tests;
