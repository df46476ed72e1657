//! Settings of the policy that an HTTP service decides.

use std::path::PathBuf;
use std::time::Duration;

use kms_attest::outgoing::Endpoint;

use super::{DecisionKey, Secret};

/// `[core.auth_api.webhook]`
pub struct Webhook {
    /// Base URL.
    pub url: Endpoint,
    /// Sent with every question. From the key, else from `KMS_WEBHOOK_TOKEN`; printable ASCII, never empty.
    pub bearer_token: Option<Secret>,
    /// PEM: what the service's certificate must lead to, in place of the public roots.
    pub ca_file: Option<PathBuf>,
    /// The client certificate for mutual TLS.
    pub client: Option<ClientFiles>,
    /// Decisions count only when they are signed by this key.
    pub decision_key: Option<DecisionKey>,
    /// From a question to its answer, waiting for a turn included.
    pub timeout: Duration,
}

/// A certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// PEM: the leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl Webhook {
    /// The default of `timeout`.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

    /// The service at `url`, authenticated by its TLS certificate only.
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
