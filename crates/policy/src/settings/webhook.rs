//! Settings of a webhook: the policy of an HTTP service.

use std::path::PathBuf;
use std::time::Duration;

use kms_attest::outgoing::Endpoint;

use super::{DecisionKey, Secret};

/// `[core.auth_api.webhook]`
pub struct Webhook {
    /// Base URL.
    pub url: Endpoint,
    /// Sent with every request. From the key or from `KMS_WEBHOOK_TOKEN`; printable ASCII, never empty.
    pub bearer_token: Option<Secret>,
    /// PEM: the roots for the service's certificate, instead of the public roots.
    pub ca_file: Option<PathBuf>,
    /// The client certificate for mutual TLS.
    pub client: Option<ClientFiles>,
    /// The key that must have signed a decision.
    pub decision_key: Option<DecisionKey>,
    /// The time-out of a request, including the wait for a slot.
    pub timeout: Duration,
}

/// A certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// PEM, with the leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl Webhook {
    /// The default of `timeout`.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

    /// The service at `url`, authenticated only by its TLS certificate.
    pub fn at(url: Endpoint) -> Self {
        Self {
            url,
            bearer_token: None,
            ca_file: None,
            client: None,
            decision_key: None,
            timeout: Self::DEFAULT_TIMEOUT,
        }
    }

    /// Whether a man in the middle could decide.
    pub fn is_exposed(&self) -> bool {
        self.url.is_exposed() && self.decision_key.is_none()
    }
}
