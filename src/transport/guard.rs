//! Before the admin listener: credentials, and the wait of those who show wrong ones.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method as Verb, Response, StatusCode, header};

use super::{
    front::{Answer, refusal},
    lockout::{Lockout, Verdict},
    prpc,
};
use crate::{
    error::{Code, Error},
    metrics::Metrics,
    operator::Credentials,
};

/// Why a request does not pass the guard.
pub(super) enum Refused {
    /// TRACE and the like: gRPC would serve any verb.
    Verb,
    /// None are shown, or wrong ones.
    Credentials,
    /// Too many wrong ones came from this address, which has to wait.
    Locked(Duration),
}

/// Asks every request for credentials.
#[derive(Debug)]
pub(super) struct Guard {
    credentials: Arc<Credentials>,
    lockout: Lockout,
}

impl Guard {
    pub(super) fn new(credentials: Arc<Credentials>) -> Self {
        Self { credentials, lockout: Lockout::default() }
    }

    /// Why a request may not pass.
    pub(super) async fn refuses(
        &self,
        verb: &Verb,
        headers: &HeaderMap,
        address: IpAddr,
        metrics: &Metrics,
    ) -> Option<Refused> {
        const GUARDED: [Verb; 7] =
            [Verb::GET, Verb::POST, Verb::PUT, Verb::PATCH, Verb::DELETE, Verb::OPTIONS, Verb::HEAD];
        if !GUARDED.contains(verb) {
            return Some(Refused::Verb);
        }
        if matches!(*self.credentials, Credentials::NoneNeeded) {
            return None;
        }
        if let Some(wait) = self.lockout.wait(address, Instant::now()) {
            return Some(Refused::Locked(wait));
        }
        if !Credentials::are_shown(headers) {
            return Some(Refused::Credentials);
        }
        let is_right = self.admits(headers.clone()).await;
        if !is_right {
            metrics.credentials_failed();
        }
        match self.lockout.settle(address, is_right, Instant::now()) {
            Verdict::Admitted => None,
            Verdict::Wrong => Some(Refused::Credentials),
            Verdict::Locked(wait) => Some(Refused::Locked(wait)),
        }
    }

    /// A password costs bcrypt's tenth of a second, which must not hold up a worker.
    async fn admits(&self, headers: HeaderMap) -> bool {
        let credentials = Arc::clone(&self.credentials);
        tokio::task::spawn_blocking(move || credentials.admit(&headers)).await.unwrap_or(false)
    }
}

impl Refused {
    /// 404; 401 without a body; 429 in the protocol of the request.
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
            Self::Locked(wait) => {
                let text = "too many wrong credentials from this address; try later";
                let mut answer = refusal(is_grpc, &Error::new(Code::TooManyRequests, text));
                let seconds = HeaderValue::from(wait.as_secs() + 1);
                answer.headers_mut().insert(header::RETRY_AFTER, seconds);
                answer
            }
        }
    }
}
