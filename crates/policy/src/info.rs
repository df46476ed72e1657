//! What a policy knows about its backend.

use std::time::{Duration, SystemTime};

/// The rules that decide now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InForce {
    /// What identifies them, where something does: SHA-256 of an allowlist's bytes, or of a webhook's decision key.
    pub digest: Option<[u8; 32]>,
    /// When an allowlist was first read with this content.
    pub since: Option<SystemTime>,
}

/// What the backend reports about itself; `GetMeta` shows it. With `dev`, only the configured gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// `gateway_app_id`
    pub gateway_app_id: Option<String>,
    /// `kms_contract_address`
    pub kms_contract_address: Option<String>,
    /// `chain_id`
    pub chain_id: Option<u64>,
    /// `app_auth_implementation`, from the backend's `appImplementation`.
    pub app_auth_implementation: Option<String>,
    /// Shown by `GetAttestationInfo` only.
    pub eth_rpc_url: Option<String>,
}

/// The state of the chain that decides, at the time of a scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ChainState {
    /// The block that decides; `None` if none is known yet.
    pub block: Option<u64>,
    /// The age of that block.
    pub block_age: Option<Duration>,
    /// Endpoints that worked at the last attempt.
    pub endpoints: u64,
    /// How often endpoints have contradicted each other.
    pub disagreements: u64,
}
