//! Why requests ended without a result: the log has the cause that the caller does not see.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::error::{Code, Error};

/// Lines a second; further ones are left out, so that a flood of requests is no flood of lines.
const LINES: NonZeroU32 = NonZeroU32::new(50).expect("not zero");

/// Tells the log about refused and failed requests.
#[derive(Debug, Clone)]
pub struct RefusalLog(Arc<DefaultDirectRateLimiter>);

impl Default for RefusalLog {
    fn default() -> Self {
        Self(Arc::new(RateLimiter::direct(Quota::per_second(LINES))))
    }
}

impl RefusalLog {
    /// One line, with the whole chain of causes. What is our fault or an upstream's is a warning; what is the
    /// caller's is information, or debugging where anyone can cause it.
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
            Code::Denied | Code::Unauthenticated | Code::AlreadyOnboarded => {
                tracing::info!(method, %remote, code, denial, cause, "request refused");
            }
            Code::InvalidRequest | Code::UnknownMethod | Code::TooLarge | Code::TooManyRequests => {
                tracing::debug!(method, %remote, code, denial, cause, "request refused");
            }
        }
    }
}
