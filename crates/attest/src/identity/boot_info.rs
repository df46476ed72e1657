//! Boot info: an identity as policies and authorization backends get it.

use serde::{Deserialize, Serialize};

use super::Identity;

/// The wire form of an identity in the webhook protocol: one JSON object with its keys in this order, and
/// bytes in hex.
///
/// Its fields have any width, because `kms auth serve` receives it from other programs and decides about what
/// it says, as the peer's backends do. Policies take this form, so that live requests and `kms auth serve`
/// have one set of rules, which compare bytes. A live request makes it once, where policy is asked: the TCB
/// status and the advisories that policy is told can differ from the measured ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootInfo {
    /// The platform, such as `dstack-tdx`.
    pub tee_variant: String,
    /// Everything that is measured.
    #[serde(with = "hex::serde")]
    pub mr_aggregated: Vec<u8>,
    /// The OS image that the configuration claims. It is not verified yet when policy is asked.
    #[serde(with = "hex::serde")]
    pub os_image_hash: Vec<u8>,
    /// Hardware, firmware, system and key provider.
    #[serde(with = "hex::serde")]
    pub mr_system: Vec<u8>,
    /// The app; see [`super::AppId`].
    #[serde(with = "hex::serde")]
    pub app_id: Vec<u8>,
    /// SHA-256 of the compose file.
    #[serde(with = "hex::serde")]
    pub compose_hash: Vec<u8>,
    /// The instance; may be empty.
    #[serde(with = "hex::serde")]
    pub instance_id: Vec<u8>,
    /// SHA-256 of the raw device id.
    #[serde(with = "hex::serde")]
    pub device_id: Vec<u8>,
    /// The key provider as JSON; may be empty.
    #[serde(with = "hex::serde")]
    pub key_provider_info: Vec<u8>,
    /// Intel's name for the state of the platform, such as `UpToDate`.
    pub tcb_status: String,
    /// The security advisories that apply to the platform.
    pub advisory_ids: Vec<String>,
}

impl From<&Identity> for BootInfo {
    fn from(identity: &Identity) -> Self {
        Self {
            tee_variant: identity.tee_variant.to_owned(),
            mr_aggregated: identity.mr_aggregated.0.to_vec(),
            os_image_hash: identity.os_image_bytes().to_vec(),
            mr_system: identity.mr_system.0.to_vec(),
            app_id: identity.app_id.0.to_vec(),
            compose_hash: identity.compose_hash.0.to_vec(),
            instance_id: identity.instance_bytes().to_vec(),
            device_id: identity.device_id.0.to_vec(),
            key_provider_info: identity.key_provider_info.clone(),
            tcb_status: identity.tcb_status.to_string(),
            advisory_ids: identity.advisory_ids.clone(),
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl BootInfo {
    /// The wire form of [`Identity::example`].
    pub fn example() -> Self {
        Self::from(&Identity::example())
    }
}
