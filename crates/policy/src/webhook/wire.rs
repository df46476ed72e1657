//! The messages of the webhook protocol.

use std::sync::Arc;

use kms_attest::identity::BootInfo;
use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bounds::printable;
use crate::decision::ReleaseStage;
use crate::decision::{Decision, Denial};
use crate::epochs::AppEpochs;
use crate::info::Info;
use crate::signed::{Claims, Signature};
use crate::{contract, rules};

/// The boot info, with `teeVariant` also under its name up to 0.5.11.
#[derive(Serialize)]
pub(super) struct BootRequest<'a> {
    #[serde(flatten)]
    boot_info: &'a BootInfo,
    #[serde(rename = "attestationMode")]
    attestation_mode: &'a str,
}

impl<'a> From<&'a BootInfo> for BootRequest<'a> {
    fn from(boot_info: &'a BootInfo) -> Self {
        Self { boot_info, attestation_mode: &boot_info.tee_variant }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BootResponse {
    is_allowed: bool,
    gateway_app_id: String,
    reason: String,
    /// A key of ours. A response with an unknown value is unusable, because keys could be released too late.
    #[serde(default, deserialize_with = "release_stage")]
    release_stage: Option<ReleaseStage>,
    #[serde(default, deserialize_with = "signature")]
    pub(super) signature: Option<Signature>,
    /// Keys of ours too, treated in the same way.
    #[serde(flatten, deserialize_with = "others")]
    epochs: Option<AppEpochs>,
}

/// The epochs of the app. Ignores all other keys, except misspelt ones of ours.
fn others<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<AppEpochs>, D::Error> {
    let others = serde_json::Value::deserialize(deserializer)?;
    if let Some((key, name)) = rules::misspelt(&others) {
        return Err(serde::de::Error::custom(format!("`{}` must be written {name}", printable(key))));
    }
    others.as_object().map_or(Ok(None), AppEpochs::parse).map_err(serde::de::Error::custom)
}

fn release_stage<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ReleaseStage>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    let stage = name.as_deref().map(ReleaseStage::parse).transpose();
    stage.map_err(|problem| serde::de::Error::custom(format!("releaseStage {problem}")))
}

/// A signature in another format counts as missing; whether one is required is decided elsewhere.
fn signature<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Signature>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

impl BootResponse {
    /// auth-eth denies every request while its node does not respond. That is not a decision.
    pub(super) fn is_an_outage(&self) -> bool {
        !self.is_allowed && self.reason == contract::OUTAGE
    }

    pub(super) fn claims(&self) -> Claims<'_> {
        Claims {
            is_allowed: self.is_allowed,
            gateway_app_id: &self.gateway_app_id,
            reason: &self.reason,
            release_stage: self.release_stage,
            epochs: self.epochs.as_ref(),
        }
    }
}

impl From<BootResponse> for Decision {
    fn from(response: BootResponse) -> Self {
        if response.is_allowed {
            let BootResponse { gateway_app_id, release_stage, epochs, .. } = response;
            return Self::Allowed { gateway_app_id, release_stage, epochs: epochs.map(Arc::new) };
        }
        let reason = printable(&response.reason);
        Self::Denied(Denial { code: contract::code_of(&reason), reason, expected: None, actual: None })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InfoResponse {
    #[serde(rename = "status")]
    _status: String,
    kms_contract_addr: String,
    gateway_app_id: String,
    chain_id: u64,
    app_implementation: String,
    #[serde(default)]
    eth_rpc_url: String,
}

impl From<InfoResponse> for Info {
    fn from(response: InfoResponse) -> Self {
        Self {
            gateway_app_id: Some(response.gateway_app_id),
            kms_contract_address: Some(response.kms_contract_addr),
            chain_id: Some(response.chain_id),
            app_auth_implementation: Some(response.app_implementation),
            eth_rpc_url: Some(response.eth_rpc_url),
        }
    }
}

/// The message in a response. The error quotes the body, so it is only for the log.
pub(super) fn decode<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, String> {
    if !status.is_success() {
        return Err(format!("returned {status}: {}", quote(body)));
    }
    // Serde would accept an array as an object.
    let object = if body.trim_ascii_start().starts_with(b"{") { body } else { b"" };
    kms_attest::json::from_utf8(object)
        .map_err(|error| format!("returned {status} but not the expected JSON, {error}: {}", quote(body)))
}

fn quote(body: &[u8]) -> String {
    printable(&String::from_utf8_lossy(body))
}
