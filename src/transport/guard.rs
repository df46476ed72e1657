//! Before the admin listener: credentials, and the wait of those who show wrong ones.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method as Verb, Response, StatusCode, Uri, header};

use super::{
    front::{Answer, refusal},
    lockout::{Lockout, Verdict},
    prpc, same_site,
};
use crate::{
    error::{Code, Error},
    metrics::Metrics,
    operator::{Credentials, Operator},
};

/// Why a request does not pass the guard.
pub(super) enum Refused {
    /// TRACE and the like: gRPC would serve any verb.
    Verb,
    /// None are shown, or wrong ones.
    Credentials,
    /// Too many wrong ones came from this address, which has to wait.
    Locked(Duration),
    /// A page of another site has made a browser send it, with the credentials that the browser keeps.
    OtherSite,
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
        if matches!(*self.credentials, Credentials::NoneNeeded) {
            return Ok(Operator::Anyone);
        }
        if let Some(wait) = self.lockout.wait(address, Instant::now()) {
            return Err(Refused::Locked(wait));
        }
        if !Credentials::are_shown(headers) {
            return Err(Refused::Credentials);
        }
        let operator = self.shown_by(headers.clone()).await;
        if operator.is_none() {
            metrics.credentials_failed();
        }
        match (self.lockout.settle(address, operator.is_some(), Instant::now()), operator) {
            (Verdict::Admitted, Some(operator)) => Ok(operator),
            (Verdict::Locked(wait), _) => Err(Refused::Locked(wait)),
            (Verdict::Admitted | Verdict::Wrong, _) => Err(Refused::Credentials),
        }
    }

    /// A password costs bcrypt's tenth of a second, which must not hold up a worker.
    async fn shown_by(&self, headers: HeaderMap) -> Option<Operator> {
        let credentials = Arc::clone(&self.credentials);
        tokio::task::spawn_blocking(move || credentials.identify(&headers)).await.ok().flatten()
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
                let text = "too many wrong credentials from this address; try later";
                let mut answer = refusal(is_grpc, &Error::new(Code::TooManyRequests, text));
                let seconds = HeaderValue::from(wait.as_secs() + 1);
                answer.headers_mut().insert(header::RETRY_AFTER, seconds);
                answer
            }
        }
    }
}
