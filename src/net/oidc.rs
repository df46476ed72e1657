//! Operators who sign in with OpenID Connect: the issuer's keys are fetched, kept, and fetched again when they change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use kms_attest::outgoing::{self, Endpoint, GetError, RequestError, ResponseTimeout, Timeouts};
use kms_attest::single_flight::{InFlight, SingleFlight, Unfinished};
use reqwest::{Client, StatusCode, redirect};
use serde::Deserialize;
use url::Url;

use crate::config::{FileError, Oidc};
use crate::operator::Operator;
use crate::operator::oidc::{Holder, KeySet, KeySetError, Rules, Token, TokenError};

/// The longest document of the issuer about itself, in bytes.
const MAX_DISCOVERY: usize = 64 << 10;
/// The longest set of keys.
const MAX_KEYS: usize = 256 << 10;

/// The times of a client of an issuer.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of a request.
    pub request: Duration,
    /// From when on keys are fetched again, while they are still used.
    pub refresh: Duration,
    /// How long keys are used while the issuer cannot be reached.
    pub keep: Duration,
    /// At most one attempt in this time, whatever tokens say.
    pub pause: Duration,
}

impl Bounds {
    /// The bounds that a KMS uses.
    pub const USUAL: Self = Self {
        request: Duration::from_secs(5),
        refresh: Duration::from_secs(600),
        keep: Duration::from_secs(24 * 3600),
        pause: Duration::from_secs(10),
    };
}

/// Why the issuer's keys are not there. It names no host.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// A file of the configuration cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// No client can be made.
    #[error("the HTTP client cannot be made")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It cannot be reached.
    #[error("it {0}")]
    Unreachable(String),
    /// Its document is not what OpenID Connect Discovery says.
    #[error("its document .well-known/openid-configuration is not valid: {0}")]
    Discovery(&'static str),
    /// Its keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

/// Why a token identifies nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody whom the issuer knows has made it.
    Wrong,
    /// The issuer has signed it, but it is not valid here.
    Outdated,
    /// The issuer's keys are not known.
    Unreachable,
}

/// The issuer of tokens.
#[derive(Debug)]
pub struct Issuer {
    discovery: Url,
    rules: Rules,
    may_be_exposed: Exposure,
    client: Client,
    bounds: Bounds,
    /// The last attempt to fetch the keys.
    last: ArcSwapOption<Attempt>,
    /// The attempt that is running, for all callers that need one.
    running: SingleFlight<(), Outcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exposure {
    Refused,
    Accepted,
}

/// An attempt to fetch the keys. A failed one is kept too, so that the next one waits.
#[derive(Debug)]
struct Attempt {
    began: Instant,
    outcome: Outcome,
    /// The keys of the last attempt that fetched some.
    keys: Option<Arc<Fetched>>,
}

#[derive(Debug)]
struct Fetched {
    keys: KeySet,
    at: Instant,
}

/// What is read of the issuer's document about itself.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Issuer {
    /// The issuer of a configuration. Nothing is fetched before the first token.
    ///
    /// # Errors
    /// [`IssuerError::File`] and [`IssuerError::Client`].
    pub fn new(config: &Oidc, bounds: Bounds) -> Result<Self, IssuerError> {
        let unusable = |error: Box<dyn std::error::Error + Send + Sync>| IssuerError::Client(error);
        let tls = outgoing::client_config(&config.certificates()?).map_err(|error| unusable(error.into()))?;
        let timeouts = Timeouts { connect: bounds.request, response: ResponseTimeout::Total(bounds.request) };
        let client = outgoing::client(&config.issuer, tls, timeouts, redirect::Policy::none());
        Ok(Self {
            discovery: config.discovery(),
            rules: config.rules.clone(),
            may_be_exposed: if config.insecure_plain_http { Exposure::Accepted } else { Exposure::Refused },
            client: client.pool_max_idle_per_host(1).build().map_err(|error| unusable(error.into()))?,
            bounds,
            last: ArcSwapOption::empty(),
            running: SingleFlight::new(1),
        })
    }

    /// Fetches the keys, and says whether that works.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn check(&self) -> Result<(), IssuerError> {
        self.fetched().await.map(drop)
    }

    /// The operator that a token identifies at `now`, in Unix seconds.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn identify(self: &Arc<Self>, text: &str, now: u64) -> Result<Operator, Refusal> {
        let token = Token::parse(text).map_err(refused)?;
        let mut fetched = self.usable();
        if fetched.as_ref().is_none_or(|fetched| !token.is_signed_with_one_of(&fetched.keys)) {
            let outcome = match self.recent() {
                Some(attempt) => attempt.outcome,
                None => self.refreshed().await.unwrap_or(Outcome::Failed),
            };
            fetched = self.usable();
            let is_known = fetched.as_ref().is_some_and(|fetched| token.is_signed_with_one_of(&fetched.keys));
            if !is_known && outcome == Outcome::Failed {
                return Err(Refusal::Unreachable);
            }
        }
        let fetched = fetched.ok_or(Refusal::Unreachable)?;
        let holder = token.verify(&fetched.keys, &self.rules, now).map_err(refused)?;
        if fetched.at.elapsed() >= self.bounds.refresh && self.recent().is_none() {
            // Nobody waits for it.
            let _ = self.refresh();
        }
        let Holder { subject, name, role, expires_at } = holder;
        Ok(Operator::Oidc { subject, name, role, expires_at })
    }

    /// The keys, unless they are too old.
    fn usable(&self) -> Option<Arc<Fetched>> {
        self.last.load().as_ref()?.keys.clone().filter(|fetched| fetched.at.elapsed() < self.bounds.keep)
    }

    /// The last attempt, unless there may be another now.
    fn recent(&self) -> Option<Arc<Attempt>> {
        self.last.load_full().filter(|attempt| attempt.began.elapsed() < self.bounds.pause)
    }

    /// What becomes of the attempt that is running, or of a new one. A caller that hangs up does not end it, because only an attempt
    /// that has ended delays the next.
    async fn refreshed(self: &Arc<Self>) -> Result<Outcome, Unfinished> {
        self.refresh()?.result().await
    }

    fn refresh(self: &Arc<Self>) -> Result<InFlight<Outcome>, Unfinished> {
        let issuer = Arc::clone(self);
        self.running.join((), || async move { issuer.attempt().await })
    }

    /// Fetches the keys, unless an attempt has just ended.
    async fn attempt(&self) -> Outcome {
        if let Some(attempt) = self.recent() {
            return attempt.outcome;
        }
        let began = Instant::now();
        let (outcome, keys) = match self.fetched().await {
            Ok(keys) => (Outcome::Fetched, Some(Arc::new(Fetched { keys, at: Instant::now() }))),
            Err(error) => {
                tracing::warn!(%error, "the issuer of core.admin.oidc gives no keys");
                (Outcome::Failed, self.last.load().as_ref().and_then(|last| last.keys.clone()))
            }
        };
        self.last.store(Some(Arc::new(Attempt { began, outcome, keys })));
        outcome
    }

    async fn fetched(&self) -> Result<KeySet, IssuerError> {
        let body = self.get(self.discovery.clone(), MAX_DISCOVERY).await?;
        let discovery: Discovery = kms_attest::json::from_utf8(&body)
            .map_err(|_| IssuerError::Discovery("issuer and jwks_uri are expected in a JSON object"))?;
        if discovery.issuer != self.rules.issuer {
            return Err(IssuerError::Discovery("it names another issuer than core.admin.oidc.issuer"));
        }
        let keys = Endpoint::parse(&discovery.jwks_uri)
            .map_err(|_| IssuerError::Discovery("jwks_uri is not an http or https URL"))?;
        if keys.is_exposed() && self.may_be_exposed == Exposure::Refused {
            return Err(IssuerError::Discovery("jwks_uri is not an https URL"));
        }
        Ok(KeySet::parse(&self.get(keys.url().clone(), MAX_KEYS).await?)?)
    }

    async fn get(&self, url: Url, limit: usize) -> Result<Vec<u8>, IssuerError> {
        let document = outgoing::get(&self.client, url, limit, StatusCode::is_success).await;
        document.map_err(|error| {
            IssuerError::Unreachable(match error {
                GetError::Request(RequestError::Timeout) => "did not answer in time".to_owned(),
                GetError::Request(RequestError::Connection(cause)) => format!("cannot be used: {cause}"),
                GetError::Status(status) => {
                    format!("answered {}; redirects are not followed", status.as_u16())
                }
                GetError::TooLarge => "answered with too long a document".to_owned(),
            })
        })
    }
}

/// How fetching the keys ended, now or just before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Fetched,
    Failed,
}

fn refused(error: TokenError) -> Refusal {
    tracing::debug!(%error, "a token of OpenID Connect was refused");
    match error {
        TokenError::Malformed(_) | TokenError::Algorithm | TokenError::UnknownKey | TokenError::Signature => {
            Refusal::Wrong
        }
        TokenError::Claim(_) => Refusal::Outdated,
    }
}
