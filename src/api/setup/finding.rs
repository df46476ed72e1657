//! The result of a pre-flight check, in words for the operator.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;

/// The result of a check. No text contains a backend, path or address that the caller did not send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check.
    pub what: &'static str,
    /// Whether the real call would succeed now.
    pub ok: bool,
    /// Its duration in milliseconds.
    pub latency_ms: u64,
    /// What was found, or why the real call would fail.
    pub detail: String,
    /// What to do; empty if nothing has to be done.
    pub advice: String,
    /// Of a source: its root secp256k1 public key, compressed, in hexadecimal, if it shows one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k256_pubkey: Option<String>,
}

/// The most bytes of a detail, for display on one or two lines.
const MAX_DETAIL: usize = 600;

pub(super) enum Outcome {
    /// The real call would succeed.
    Passed(Passed),
    /// It would fail.
    Failed(Failure),
}

/// What was found by a check that passed.
pub(super) struct Passed {
    detail: String,
    k256_pubkey: Option<String>,
}

impl Passed {
    /// Adds the root public key that a source shows.
    pub(super) fn showing(self, k256_pubkey: Option<String>) -> Self {
        Self { k256_pubkey, ..self }
    }
}

impl From<String> for Passed {
    fn from(detail: String) -> Self {
        Self { detail, k256_pubkey: None }
    }
}

/// Why the real call would fail.
pub(super) struct Failure {
    /// For the caller.
    detail: String,
    advice: Cow<'static, str>,
    /// For the log, if it says more than `detail`.
    cause: Option<String>,
}

impl Failure {
    pub(super) fn new(detail: impl Into<String>, advice: impl Into<Cow<'static, str>>) -> Self {
        Self { detail: detail.into(), advice: advice.into(), cause: None }
    }

    /// Adds what the failure is part of.
    pub(super) fn within(self, context: &str) -> Self {
        Self { detail: format!("{context}{}", self.detail), ..self }
    }

    /// Adds what would mend it.
    pub(super) fn mended_by(self, sentence: &str) -> Self {
        Self { detail: format!("{} {sentence}", self.detail), ..self }
    }

    pub(super) fn caused_by(self, cause: impl Into<String>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }
}

impl<P: Into<Passed>> From<std::result::Result<P, Failure>> for Outcome {
    fn from(result: std::result::Result<P, Failure>) -> Self {
        match result {
            Ok(passed) => Self::Passed(passed.into()),
            Err(failure) => Self::Failed(failure),
        }
    }
}

impl Outcome {
    /// The finding; logs a failure.
    pub(super) fn found(self, what: &'static str, took: Duration) -> Finding {
        let latency_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match self {
            Self::Passed(Passed { detail, k256_pubkey }) => {
                let (detail, advice) = (bounded(detail), String::new());
                Finding { what, ok: true, latency_ms, detail, advice, k256_pubkey }
            }
            Self::Failed(Failure { detail, advice, cause }) => {
                let cause = cause.as_deref().unwrap_or(&detail);
                tracing::warn!(check = what, latency_ms, cause, "a check before setup fails");
                let (detail, advice) = (bounded(detail), advice.into_owned());
                Finding { what, ok: false, latency_ms, detail, advice, k256_pubkey: None }
            }
        }
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > MAX_DETAIL {
        text.truncate(text.floor_char_boundary(MAX_DETAIL));
        text.push('…');
    }
    text
}
