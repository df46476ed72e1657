//! What a pre-flight check found, in words for whoever may run it.

use std::time::Duration;

use serde::Serialize;

/// What a check found. No text here names a back end, a path or an address that the caller did not send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check.
    pub what: &'static str,
    /// Whether the real call would succeed now.
    pub ok: bool,
    /// How long it took, in milliseconds.
    pub latency_ms: u64,
    /// What was found, or why it would not succeed.
    pub detail: String,
    /// What to do about it; empty where nothing is to be done.
    pub advice: String,
}

/// Details are shown on a line or two.
const LONGEST_DETAIL: usize = 600;

/// How a check ended.
pub(super) enum Outcome {
    /// The real call succeeds, with what was found.
    Passed(String),
    /// It does not.
    Failed(Failure),
}

/// Why the real call would not succeed.
pub(super) struct Failure {
    /// For the caller.
    detail: String,
    /// What the caller can do.
    advice: &'static str,
    /// For the log, where it says more than `detail`.
    cause: Option<String>,
}

impl Failure {
    pub(super) fn new(detail: impl Into<String>, advice: &'static str) -> Self {
        Self { detail: detail.into(), advice, cause: None }
    }

    /// The same, told as a part of something larger.
    pub(super) fn within(self, context: &str) -> Self {
        Self { detail: format!("{context}{}", self.detail), ..self }
    }

    pub(super) fn caused_by(self, cause: impl Into<String>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }
}

impl From<std::result::Result<String, Failure>> for Outcome {
    fn from(result: std::result::Result<String, Failure>) -> Self {
        match result {
            Ok(detail) => Self::Passed(detail),
            Err(failure) => Self::Failed(failure),
        }
    }
}

impl Outcome {
    /// The finding, and a line in the log where something is wrong.
    pub(super) fn found(self, what: &'static str, took: Duration) -> Finding {
        let latency_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match self {
            Self::Passed(detail) => {
                Finding { what, ok: true, latency_ms, detail: bounded(detail), advice: String::new() }
            }
            Self::Failed(Failure { detail, advice, cause }) => {
                let cause = cause.as_deref().unwrap_or(&detail);
                tracing::warn!(check = what, latency_ms, cause, "a check before setup fails");
                Finding { what, ok: false, latency_ms, detail: bounded(detail), advice: advice.to_owned() }
            }
        }
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > LONGEST_DETAIL {
        text.truncate(text.floor_char_boundary(LONGEST_DETAIL));
        text.push('…');
    }
    text
}
