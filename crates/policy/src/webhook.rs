//! The policy of an HTTP service, over the peer's webhook protocol.

mod backend;
mod bounds;
mod breaker;
mod client;
mod wire;

use std::sync::Arc;
use std::time::SystemTime;

use kms_attest::single_flight::{Answer, Latest};
use reqwest::RequestBuilder;
use sha2::{Digest as _, Sha256};

use self::backend::Backend;
use self::bounds::{BOUNDS, Bounds};
use self::wire::{BootRequest, BootResponse, InfoResponse};
use crate::decision::{Decision, PolicyError, Subject, SubjectKind};
use crate::error::SetupError;
use crate::info::Info;
use crate::observer::WebhookObserver;
use crate::queue::FairnessKey;
use crate::settings::{self, DecisionKey};
use crate::signed::{self, NONCE_HEADER, Nonce, SignedRequest};

/// Sends a request to `<base>/bootAuth/app` or `<base>/bootAuth/kms` for each decision.
pub struct Webhook {
    backend: Arc<Backend>,
    decision_key: Option<DecisionKey>,
    info: Latest<Arc<Info>>,
}

impl Webhook {
    /// A client for the service that `webhook` describes.
    ///
    /// # Errors
    /// [`SetupError`] names the key whose file cannot be used.
    pub fn new(webhook: &settings::Webhook) -> Result<Self, SetupError> {
        Self::with_bounds(webhook, BOUNDS.within(webhook.timeout))
    }

    fn with_bounds(webhook: &settings::Webhook, bounds: Bounds) -> Result<Self, SetupError> {
        Ok(Self {
            backend: Arc::new(Backend::new(webhook, bounds)?),
            decision_key: webhook.decision_key,
            info: Latest::default(),
        })
    }

    /// Reports the state of the breaker and shed requests to `observer`.
    pub(crate) fn report_to(&self, observer: Arc<dyn WebhookObserver>) {
        self.backend.report_to(observer);
    }

    /// SHA-256 of the key that signs its decisions, if one is configured.
    pub(crate) fn digest(&self) -> Option<[u8; 32]> {
        self.decision_key.map(|key| Sha256::digest(key.as_bytes()).into())
    }

    pub(crate) async fn decide(
        &self,
        subject: Subject<'_>,
        key: FairnessKey,
    ) -> Result<Decision, PolicyError> {
        let kind = subject.kind();
        let body = serde_json::to_vec(&BootRequest::from(subject.boot_info()))
            .map_err(|error| PolicyError::unavailable(error.to_string()))?;
        let response = match &self.decision_key {
            None => self.backend.send(key, self.post(kind).body(body)).await?,
            Some(decision_key) => self.signed_response(decision_key, key, kind, &body).await?,
        };
        if response.is_an_outage() {
            return Err(self
                .backend
                .unusable("the webhook answered that its own backend is unavailable".to_owned()));
        }
        Ok(response.into())
    }

    async fn signed_response(
        &self,
        decision_key: &DecisionKey,
        key: FairnessKey,
        kind: SubjectKind,
        body: &[u8],
    ) -> Result<BootResponse, PolicyError> {
        let nonce = Nonce::random().ok_or_else(|| {
            PolicyError::unavailable("the system random number generator failed".to_owned())
        })?;
        let post = self.post(kind).header(NONCE_HEADER, nonce.as_str()).body(body.to_vec());
        let response: BootResponse = self.backend.send(key, post).await?;
        let request = SignedRequest { kind, body, nonce: &nonce };
        signed::verify(
            decision_key,
            request,
            response.claims(),
            response.signature.as_ref(),
            SystemTime::now(),
        )
        .map_err(|error| self.backend.unusable(format!("the webhook's answer {error}")))?;
        Ok(response)
    }

    fn post(&self, kind: SubjectKind) -> RequestBuilder {
        self.backend.post(kind.path()).header("content-type", "application/json")
    }

    pub(crate) async fn info(&self) -> Result<Arc<Info>, PolicyError> {
        let is_fresh =
            |answer: &Arc<Answer<Arc<Info>>>| answer.answered.elapsed() < self.backend.bounds().fresh;
        let ask = async |_| {
            let answer: InfoResponse = self.backend.send(FairnessKey::Backend, self.backend.get()).await?;
            Ok(Arc::new(Info::from(answer)))
        };
        // The time-out also bounds the wait for a request of another caller.
        match tokio::time::timeout(self.backend.bounds().total, self.info.get(is_fresh, ask)).await {
            Ok(answer) => Ok(Arc::clone(&answer?.value)),
            Err(_) => Err(PolicyError::unavailable("the webhook did not answer in time".to_owned())),
        }
    }

    pub(crate) fn last_info(&self) -> Option<Arc<Info>> {
        self.info.last().map(|answer| Arc::clone(&answer.value))
    }

    /// Why the last request had no usable response; `None` after a usable one.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.backend.last_error()
    }
}

#[cfg(test)]
mod tests;
