//! The configuration of a VM as its host describes it: what the OS image and the registers are checked against.

use serde::{Deserialize, Serialize};

use crate::measurement::base64_text;

/// `vm_config`. It is a claim until the image and the registers are checked; unknown keys are ignored, and every key
/// may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VmConfig {
    /// SHA-256 of the image's `sha256sum.txt`; empty if the host did not say.
    #[serde(with = "hex::serde")]
    pub os_image_hash: Vec<u8>,
    /// Virtual CPUs.
    pub cpu_count: u32,
    /// Bytes.
    pub memory_size: u64,
    /// Inverted in effect: `true` stands for two passes. See `docs/compatibility.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu_single_pass_add_pages: Option<bool>,
    /// Whether QEMU has the legacy interrupt controller; by QEMU's version if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pic: Option<bool>,
    /// `major.minor.patch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu_version: Option<String>,
    /// Bytes.
    pub pci_hole64_size: u64,
    /// Whether memory is backed by huge pages.
    pub hugepages: bool,
    /// GPUs.
    pub num_gpus: u32,
    /// NVSwitches.
    pub num_nvswitches: u32,
    /// Network interfaces.
    #[serde(skip_serializing_if = "is_one")]
    pub num_nics: u32,
    /// Verity volumes.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_verity_volumes: u32,
    /// Whether there is a software TPM.
    #[serde(skip_serializing_if = "is_false")]
    pub swtpm: bool,
    /// Whether hot-plugging is off.
    pub hotplug_off: bool,
    /// Name of the image, such as `dstack-0.6.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How the host shares files: empty, `9p`, `vvfat` or `vhd`.
    pub host_share_mode: String,
    /// Variant of the firmware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ovmf_variant: Option<OvmfVariant>,
    /// How the registers are to be checked.
    #[serde(skip_serializing_if = "is_legacy")]
    pub tdx_attestation_variant: TdxAttestationVariant,
    /// The image's measurement for TDX, lite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tdx_measurement: Option<ImageMeasurement>,
    /// The image's measurement for GCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gcp_measurement: Option<ImageMeasurement>,
    /// The image's measurement for AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_measurement: Option<ImageMeasurement>,
}

/// Variants of the firmware that measure differently from the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OvmfVariant {
    /// Before edk2-stable202505.
    #[serde(rename = "pre202505")]
    Pre202505,
}

/// How a TDX guest's registers are checked against its image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TdxAttestationVariant {
    /// The image is downloaded and measured.
    #[default]
    Legacy,
    /// The measurement comes with the evidence, and events are named.
    Lite,
}

/// A file with checksums of an image, and the entry of it that says what the image measures to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMeasurement {
    /// `sha256sum.txt`.
    #[serde(with = "base64_text")]
    pub checksum_file: Vec<u8>,
    /// The measurement document.
    #[serde(with = "base64_text")]
    pub measurement: Vec<u8>,
}

/// Why text is not a configuration.
#[derive(Debug, thiserror::Error)]
#[error("vm_config does not parse: {0}")]
pub struct VmConfigError(#[from] serde_json::Error);

impl VmConfig {
    /// Reads a configuration, or one that is nested as text in the key `vm_config` of a guest's whole system
    /// configuration. The nested one counts only where the outer has no image hash.
    pub fn parse(text: &str) -> Result<Self, VmConfigError> {
        #[derive(Deserialize)]
        struct System {
            #[serde(default)]
            vm_config: serde_json::Value,
        }
        let outer: Self = serde_json::from_str(text)?;
        if !outer.os_image_hash.is_empty() {
            return Ok(outer);
        }
        let System { vm_config } = serde_json::from_str(text)?;
        match vm_config.as_str() {
            Some(nested) if !nested.is_empty() => Ok(serde_json::from_str(nested)?),
            _ => Ok(outer),
        }
    }

    /// The configuration that counts: the request's if it is not empty, else the one in the evidence, else none.
    pub fn effective(requested: &str, embedded: &str) -> Result<Self, VmConfigError> {
        let text = [requested, embedded].into_iter().find(|text| !text.is_empty());
        Self::parse(text.unwrap_or("{}"))
    }
}

impl Default for VmConfig {
    fn default() -> Self {
        Self {
            os_image_hash: Vec::new(),
            cpu_count: 0,
            memory_size: 0,
            qemu_single_pass_add_pages: None,
            pic: None,
            qemu_version: None,
            pci_hole64_size: 0,
            hugepages: false,
            num_gpus: 0,
            num_nvswitches: 0,
            num_nics: 1,
            num_verity_volumes: 0,
            swtpm: false,
            hotplug_off: false,
            image: None,
            host_share_mode: String::new(),
            ovmf_variant: None,
            tdx_attestation_variant: TdxAttestationVariant::Legacy,
            tdx_measurement: None,
            gcp_measurement: None,
            aws_measurement: None,
        }
    }
}

fn is_one(value: &u32) -> bool {
    *value == 1
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_legacy(value: &TdxAttestationVariant) -> bool {
    *value == TdxAttestationVariant::Legacy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_may_be_missing_and_unknown_ones_are_ignored() {
        assert_eq!(VmConfig::parse("{}").unwrap(), VmConfig::default());
        let config = VmConfig::parse(r#"{"spec_version":1,"cpu_count":2,"os_image_hash":"ABcd"}"#).unwrap();
        assert_eq!((config.cpu_count, config.os_image_hash), (2, vec![0xab, 0xcd]));
    }

    #[test]
    fn a_nested_configuration_counts_where_the_outer_has_no_image_hash() {
        let cases = [
            (r#"{"kms_urls":[],"vm_config":"{\"os_image_hash\":\"aa\"}"}"#, vec![0xaa]),
            (r#"{"os_image_hash":"bb","vm_config":"{\"os_image_hash\":\"aa\"}"}"#, vec![0xbb]),
            (r#"{"vm_config":""}"#, vec![]),
            (r#"{"vm_config":null}"#, vec![]),
            (r#"{"vm_config":{"os_image_hash":"aa"}}"#, vec![]),
            (r#"{"vm_config":7}"#, vec![]),
        ];
        for (text, hash) in cases {
            assert_eq!(VmConfig::parse(text).unwrap().os_image_hash, hash, "{text}");
        }
    }

    #[test]
    fn the_requests_configuration_comes_before_the_embedded_one() {
        let hash = |requested, embedded| VmConfig::effective(requested, embedded).unwrap().os_image_hash;
        let (aa, bb) = (r#"{"os_image_hash":"aa"}"#, r#"{"os_image_hash":"bb"}"#);
        assert_eq!(hash(aa, bb), [0xaa]);
        assert_eq!(hash("", bb), [0xbb]);
        assert!(hash("{}", bb).is_empty());
        assert!(hash("", "").is_empty());
    }

    #[test]
    fn text_that_is_not_a_configuration_is_refused() {
        let cases =
            ["not json", "7", r#"{"os_image_hash":"xy"}"#, r#"{"cpu_count":-1}"#, r#"{"vm_config":"oops"}"#];
        for text in cases {
            let error = VmConfig::parse(text).unwrap_err().to_string();
            assert!(error.starts_with("vm_config does not parse: "), "{error}");
        }
    }

    #[test]
    fn it_is_written_in_the_peers_order_without_what_goes_without_saying() {
        let written = serde_json::to_string(&VmConfig::default()).unwrap();
        assert_eq!(
            written,
            r#"{"os_image_hash":"","cpu_count":0,"memory_size":0,"pci_hole64_size":0,"hugepages":false,"num_gpus":0,"num_nvswitches":0,"hotplug_off":false,"host_share_mode":""}"#
        );
        let lite = VmConfig { tdx_attestation_variant: TdxAttestationVariant::Lite, ..VmConfig::default() };
        assert!(serde_json::to_string(&lite).unwrap().ends_with(r#","tdx_attestation_variant":"lite"}"#));
    }
}
