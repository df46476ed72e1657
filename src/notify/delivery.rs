//! Delivers notifications to one target, one request at a time, until each is accepted or abandoned.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, StatusCode, header};
use kms_attest::outgoing::{self, RequestError, ResponseTimeout, Timeouts};
use reqwest::{Client, redirect};

use super::notification::{Notification, Sender};
use super::target::{Attempts, Target};
use super::{SetupError, Shared};
use crate::clock::unix_now;
use crate::config::{NotifyKey, NotifyTarget};
use crate::metrics::Upstream;

/// The headers of Standard Webhooks, and the id of the signing key.
const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const KEY_ID: HeaderName = HeaderName::from_static("x-kms-key-id");

/// The limits of requests and retries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) connect: Duration,
    /// From the request to the headers of the response.
    pub(super) total: Duration,
    /// The pause before the second attempt; doubled each time.
    pub(super) first_pause: Duration,
    pub(super) max_pause: Duration,
    /// How long delivery of a notification is tried.
    pub(super) give_up: Duration,
    /// After how many attempts a notification is abandoned that the target rejects as invalid.
    pub(super) max_refusals: u32,
    /// After how many failures by status a notification is put behind the others: they may be its fault.
    pub(super) max_in_front: u32,
}

impl Bounds {
    pub(super) const USUAL: Self = Self {
        connect: Duration::from_secs(5),
        total: Duration::from_secs(10),
        first_pause: Duration::from_secs(1),
        max_pause: Duration::from_secs(300),
        give_up: Duration::from_secs(24 * 60 * 60),
        max_refusals: 3,
        max_in_front: 3,
    };
}

/// Delivers the queue of one target.
pub(super) struct Delivery {
    name: String,
    url: url::Url,
    key: NotifyKey,
    key_id: String,
    client: Client,
    bounds: Bounds,
}

/// Why an attempt failed, in words that contain no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The status was not 2xx.
    Status(StatusCode),
    /// There was no response in time, it could not be reached, or it closed the connection.
    Request(RequestError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) if status.is_redirection() => {
                write!(f, "it answered {}: redirects are not followed", status.as_u16())
            }
            Self::Status(status) => write!(f, "it answered {}", status.as_u16()),
            Self::Request(RequestError::Timeout) => f.write_str("it did not answer in time"),
            Self::Request(RequestError::Connection(cause)) => cause.fmt(f),
        }
    }
}

impl Delivery {
    /// # Errors
    /// [`SetupError`]: a file cannot be used, or requests cannot be made.
    pub(super) fn new(target: &NotifyTarget, bounds: Bounds) -> Result<Self, SetupError> {
        let key = target.key()?;
        let tls = outgoing::client_config(&target.certificates()?).map_err(SetupError::Tls)?;
        let timeouts = Timeouts { connect: bounds.connect, response: ResponseTimeout::Total(bounds.total) };
        let client = outgoing::client(&target.url, tls, timeouts, redirect::Policy::none());
        let key_id = hex::encode(&key.sign(&[b"cvm-kms notify key id"])[..4]);
        Ok(Self {
            name: target.name.clone(),
            url: target.url.url().clone(),
            key,
            key_id,
            client: client.pool_max_idle_per_host(1).build().map_err(SetupError::Client)?,
            bounds,
        })
    }

    /// Delivers the queue of `target`, without end.
    pub(super) async fn run(self, target: Arc<Target>, shared: Arc<Shared>) {
        let mut pause = Duration::ZERO;
        loop {
            let (notification, mut attempts) = target.next().await;
            let begin = *attempts.begin.get_or_insert_with(Instant::now);
            loop {
                let lost = target.lost();
                let sent = self.send(&notification, &shared.sender, lost);
                let cause = |(failure, _): &(Failure, Duration)| failure.to_string();
                let (failure, wait) = match target.metrics().ask(Upstream::Notification, sent, cause).await {
                    Ok(()) => {
                        if !pause.is_zero() {
                            tracing::info!(target = self.name, "notifications are taken again");
                        }
                        pause = Duration::ZERO;
                        target.delivered(lost);
                        break;
                    }
                    Err(failed) => failed,
                };
                target.failed();
                if pause.is_zero() {
                    tracing::warn!(target = self.name, %failure, "a notification is not taken; it is sent again");
                }
                attempts.count(failure);
                if begin.elapsed() >= self.bounds.give_up || attempts.refusals >= self.bounds.max_refusals {
                    tracing::warn!(target = self.name, %failure, "a notification is given up");
                    target.gave_up();
                    break;
                }
                pause = (pause * 2).clamp(self.bounds.first_pause, self.bounds.max_pause);
                let rest = tokio::time::sleep(jittered(pause).max(wait));
                // One that was put behind is sent once a turn.
                if attempts.by_status < self.bounds.max_in_front && !attempts.were_put_behind() {
                    rest.await;
                    continue;
                }
                target.put_behind(notification, attempts);
                // A target that asked for a pause gets all of it.
                if wait.is_zero() {
                    tokio::select! {
                        () = rest => {}
                        () = target.fresh() => {}
                    }
                } else {
                    rest.await;
                }
                break;
            }
        }
    }

    /// Sends once; on failure returns the cause, and how long the target wants to be left alone.
    pub(super) async fn send(
        &self,
        notification: &Notification,
        sender: &Sender,
        lost: u64,
    ) -> Result<(), (Failure, Duration)> {
        let body = notification.body(sender, lost);
        let headers = self.headers(&notification.id, unix_now(), body.as_bytes());
        let post = self.client.post(self.url.clone()).headers(headers).body(body);
        let answer = post.send().await.map_err(|error| (Failure::Request(error.into()), Duration::ZERO))?;
        // The body of the response is not read.
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err((Failure::Status(status), self.retry_after(answer.headers()))),
        }
    }

    /// The signature over id, timestamp and body, joined by full stops, by Standard Webhooks.
    fn headers(&self, id: &str, now: u64, body: &[u8]) -> HeaderMap {
        let signed = self.key.sign(&[id.as_bytes(), format!(".{now}.").as_bytes(), body]);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::CONTENT_TYPE, "application/json".to_owned()),
            (ID, id.to_owned()),
            (TIMESTAMP, now.to_string()),
            (SIGNATURE, format!("v1,{}", STANDARD.encode(signed))),
            (KEY_ID, self.key_id.clone()),
        ] {
            headers.insert(name, value.try_into().expect("digits and letters are a header"));
        }
        headers
    }

    /// `Retry-After` in seconds, within our own limits.
    fn retry_after(&self, headers: &HeaderMap) -> Duration {
        let seconds =
            headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        seconds.map_or(Duration::ZERO, Duration::from_secs).min(self.bounds.max_pause)
    }
}

impl Attempts {
    fn count(&mut self, failure: Failure) {
        self.by_status += u32::from(matches!(failure, Failure::Status(_)));
        self.refusals += u32::from(failure.is_of_the_body());
    }
}

impl Failure {
    /// Whether the target rejects this notification itself, and not its sender, its path or the moment.
    fn is_of_the_body(self) -> bool {
        match self {
            Self::Status(status) => {
                status.is_client_error()
                    && !matches!(status.as_u16(), 401 | 403..=405 | 407 | 408 | 410 | 423 | 425 | 429)
            }
            Self::Request(_) => false,
        }
    }
}

/// Between half of `pause` and all of it, so that many KMSs do not send to a recovered target all at once.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness it is the whole pause.
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        return pause;
    }
    let share = f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX);
    pause.mul_f64(0.5 + share / 2.0)
}
