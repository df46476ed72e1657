//! Logs why requests ended without a result, including the causes that callers are not told.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::error::{Code, Error};

/// Log lines a second; the rest is only counted, so that a flood of requests does not flood the log.
const LINES: NonZeroU32 = NonZeroU32::new(50).expect("not zero");

/// Logs refused and failed requests, up to a rate.
#[derive(Debug, Clone)]
pub struct RefusalLog(Arc<DefaultDirectRateLimiter>);

impl Default for RefusalLog {
    fn default() -> Self {
        Self(Arc::new(RateLimiter::direct(Quota::per_second(LINES))))
    }
}

impl RefusalLog {
    /// Writes one line with the whole chain of causes: a warning if the fault is ours or an upstream's,
    /// `info` if it is the caller's, and `debug` if anyone can cause it.
    pub(super) fn tell(&self, method: &str, remote: IpAddr, error: &Error) {
        if self.0.check().is_err() {
            return;
        }
        let (code, cause) = (error.code().name(), error.chain());
        let denial = error.denial().map(|denial| denial.id.as_str());
        match error.code() {
            Code::Internal => tracing::error!(method, %remote, code, cause, "request failed"),
            Code::Unavailable | Code::NotReady => {
                tracing::warn!(method, %remote, code, cause, "request failed")
            }
            Code::Denied | Code::Unauthenticated | Code::AlreadyOnboarded | Code::ApprovalNeeded => {
                tracing::info!(method, %remote, code, denial, cause, "request refused");
            }
            Code::InvalidRequest
            | Code::UnknownMethod
            | Code::Conflict
            | Code::TooLarge
            | Code::TooManyRequests => {
                tracing::debug!(method, %remote, code, denial, cause, "request refused");
            }
        }
    }
}
