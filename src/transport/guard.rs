//! Before the admin listener: credentials, and the wait of those who show wrong ones.
//!
//! The token is compared first, at once and in constant time: a caller that shows it is admitted, whatever others do at the same
//! address. Wrong ones are slowed down.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method as Verb, Response, StatusCode, Uri, header};
use tokio::sync::Semaphore;

use super::{
    front::{Answer, refusal},
    lockout::{Guess, Guesser, Lockout},
    passwords::{Passwords, Verdict},
    prpc, same_site,
};
use crate::{
    audit::{Audit, Event},
    error::{Code, Error},
    log_limit::LogLimit,
    metrics::Metrics,
    operator::{Credentials, Operator, Password, Shown},
};

/// What somebody who is locked out waits for an answer that says so: a program that tries again at once is slowed down.
const SLOWED: Duration = Duration::from_secs(1);
/// As many are slowed down at a time; further ones are answered at once, so that they hold nothing.
const MAX_SLOWED: usize = 64;
/// Lines a second about wrong credentials.
const LINES: NonZeroU32 = NonZeroU32::new(5).expect("not zero");
/// When a password is to be tried again that could not be looked at.
const BUSY: Duration = Duration::from_secs(2);

/// Why a request does not pass the guard.
#[derive(Debug)]
pub(super) enum Refused {
    /// TRACE and the like: gRPC would serve any verb.
    Verb,
    /// None are shown, or wrong ones.
    Credentials,
    /// Too many wrong ones came from this address, which has to wait.
    Locked(Duration),
    /// Too many others show passwords.
    Busy,
    /// A page of another site has made a browser send it, with the credentials that the browser keeps.
    OtherSite,
}

/// Asks every request for credentials.
#[derive(Debug)]
pub(super) struct Guard {
    credentials: Arc<Credentials>,
    passwords: Passwords,
    lockout: Arc<Lockout>,
    slowed: Semaphore,
    audit: Arc<Audit>,
    log: LogLimit,
}

impl Guard {
    pub(super) fn new(credentials: Arc<Credentials>, audit: Arc<Audit>) -> Self {
        let lockout = Arc::<Lockout>::default();
        Self {
            passwords: Passwords::new(Arc::clone(&credentials), Arc::clone(&lockout)),
            credentials,
            lockout,
            slowed: Semaphore::new(MAX_SLOWED),
            audit,
            log: LogLimit::per_second(LINES),
        }
    }

    /// Whether these headers show the token, or none is needed: what is known without hashing a password.
    pub(super) fn knows_at_once(&self, headers: &HeaderMap) -> bool {
        matches!(self.credentials.shown(headers), Shown::Right(_))
    }

    /// Who asks, or why the request may not pass.
    pub(super) async fn identify(
        &self,
        verb: &Verb,
        uri: &Uri,
        headers: &HeaderMap,
        address: IpAddr,
        metrics: &Metrics,
    ) -> Result<Operator, Refused> {
        const GUARDED: [Verb; 7] =
            [Verb::GET, Verb::POST, Verb::PUT, Verb::PATCH, Verb::DELETE, Verb::OPTIONS, Verb::HEAD];
        if !GUARDED.contains(verb) {
            return Err(Refused::Verb);
        }
        if same_site::is_of_another_site(verb, uri, headers) {
            return Err(Refused::OtherSite);
        }
        match self.credentials.shown(headers) {
            Shown::Nothing => Err(Refused::Credentials),
            Shown::Right(operator) => {
                if operator == Operator::Token {
                    self.lockout.succeeded(Guesser::new(address, Guess::Token));
                    self.passwords.knows(address);
                }
                Ok(operator)
            }
            Shown::Wrong => Err(self.wrong_token(address, metrics).await),
            Shown::Password(shown) => self.password(shown, address, metrics).await,
        }
    }

    async fn wrong_token(&self, address: IpAddr, metrics: &Metrics) -> Refused {
        self.tell("token", address, metrics);
        match self.lockout.begin(Guesser::new(address, Guess::Token), Instant::now()) {
            Ok(lock) => {
                tell_lock(address, lock);
                Refused::Credentials
            }
            Err(wait) => self.slowed(wait).await,
        }
    }

    async fn password(
        &self,
        shown: Password,
        address: IpAddr,
        metrics: &Metrics,
    ) -> Result<Operator, Refused> {
        let user = shown.user().to_owned();
        match self.passwords.check(shown, address).await {
            Verdict::Right => Ok(Operator::User(user)),
            Verdict::Wrong(lock) => {
                self.tell("password", address, metrics);
                tell_lock(address, lock);
                Err(Refused::Credentials)
            }
            Verdict::Locked(wait) => Err(self.slowed(wait).await),
            Verdict::Busy => {
                metrics.password_shed();
                Err(Refused::Busy)
            }
        }
    }

    /// The answer to somebody who is locked out comes late.
    async fn slowed(&self, wait: Duration) -> Refused {
        if let Ok(_slot) = self.slowed.try_acquire() {
            tokio::time::sleep(wait.min(SLOWED)).await;
        }
        Refused::Locked(wait)
    }

    /// Counts, logs and records wrong credentials: what was shown, never what it said. A name may be a password that was
    /// typed into the wrong field.
    fn tell(&self, shown: &'static str, remote: IpAddr, metrics: &Metrics) {
        metrics.credentials_failed();
        if let Some(omitted) = self.log.admit() {
            tracing::warn!(%remote, shown, omitted, "wrong credentials on the admin listener");
        }
        self.audit.note_of_strangers(Event::CredentialsRefused { listener: "admin", shown, remote });
    }
}

fn tell_lock(address: IpAddr, lock: Option<Duration>) {
    if let Some(lock) = lock {
        tracing::warn!(%address, seconds = lock.as_secs(), "an address is locked out: too many wrong credentials");
    }
}

impl Refused {
    /// 404; 401 without a body; 403 and 429 in the protocol of the request.
    pub(super) fn answer(self, is_grpc: bool) -> Answer {
        match self {
            Self::Verb => prpc::plain(StatusCode::NOT_FOUND, "not found").map(Body::new),
            Self::Credentials => {
                let mut answer = Response::new(Body::empty());
                *answer.status_mut() = StatusCode::UNAUTHORIZED;
                let challenge = HeaderValue::from_static("Basic realm=\"dstack-kms admin\"");
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                answer
            }
            Self::OtherSite => {
                let text = "a page of another site may not do this; use kmsctl, or curl";
                refusal(is_grpc, &Error::new(Code::Denied, text))
            }
            Self::Locked(wait) => {
                too_many(is_grpc, wait, "too many wrong credentials from this address; try later")
            }
            Self::Busy => too_many(is_grpc, BUSY, "too many passwords are being checked; try again"),
        }
    }
}

fn too_many(is_grpc: bool, wait: Duration, text: &'static str) -> Answer {
    let mut answer = refusal(is_grpc, &Error::new(Code::TooManyRequests, text));
    let seconds = HeaderValue::from(wait.as_secs() + 1);
    answer.headers_mut().insert(header::RETRY_AFTER, seconds);
    answer
}
