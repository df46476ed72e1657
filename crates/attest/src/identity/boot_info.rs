//! Boot info: the question that an authorization backend is asked.

use serde::{Deserialize, Serialize};

use super::AppInfo;

/// A verified identity as the backend sees it: one JSON object, its keys in this order, bytes in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootInfo {
    /// The platform, such as `dstack-tdx`.
    pub tee_variant: String,
    /// Everything that is measured.
    #[serde(with = "hex::serde")]
    pub mr_aggregated: Vec<u8>,
    /// The OS image that the configuration claims; not verified when the backend is asked.
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
    /// SHA-256 of the device's raw id.
    #[serde(with = "hex::serde")]
    pub device_id: Vec<u8>,
    /// JSON: who gave the guest its keys; may be empty.
    #[serde(with = "hex::serde")]
    pub key_provider_info: Vec<u8>,
    /// Intel's word for the state of the platform, such as `UpToDate`.
    pub tcb_status: String,
    /// Security advisories that apply to the platform.
    pub advisory_ids: Vec<String>,
}

impl BootInfo {
    /// The boot info of an identity on a platform in this state.
    pub fn new(
        app_info: AppInfo,
        tee_variant: impl Into<String>,
        tcb_status: impl Into<String>,
        advisory_ids: impl Into<Vec<String>>,
    ) -> Self {
        Self {
            tee_variant: tee_variant.into(),
            mr_aggregated: app_info.mr_aggregated.to_vec(),
            os_image_hash: app_info.os_image_hash,
            mr_system: app_info.mr_system.to_vec(),
            app_id: app_info.app_id,
            compose_hash: app_info.compose_hash,
            instance_id: app_info.instance_id,
            device_id: app_info.device_id,
            key_provider_info: app_info.key_provider_info,
            tcb_status: tcb_status.into(),
            advisory_ids: advisory_ids.into(),
        }
    }
}
