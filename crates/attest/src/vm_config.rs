//! `vm_config`: the host's description of a VM, from which the expected measurements follow.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::measurement::base64_text;

/// `vm_config`. All of it is a claim until image and registers are checked. Unknown keys are ignored, and
/// every key may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VmConfig {
    /// SHA-256 of the image's `sha256sum.txt`; empty if not given.
    #[serde(with = "hex::serde")]
    pub os_image_hash: Vec<u8>,
    /// Virtual CPUs.
    pub cpu_count: u32,
    /// Memory size, bytes.
    pub memory_size: u64,
    /// The meaning is inverted: `true` means two passes. See `docs/compatibility.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu_single_pass_add_pages: Option<bool>,
    /// Whether QEMU has the legacy interrupt controller. If absent, QEMU's version decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pic: Option<bool>,
    /// `major.minor.patch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu_version: Option<String>,
    /// Size of the 64-bit PCI hole, bytes.
    pub pci_hole64_size: u64,
    /// Whether memory is backed by huge pages.
    pub hugepages: bool,
    /// NUMA nodes of the guest, in order. If empty, `hugepages` decides: one node with it, otherwise none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub numa_nodes: Vec<NumaNode>,
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
    /// Devices that the host adds after those above. Their ACPI description is unknown here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_root_devices: Vec<serde_json::Value>,
    /// Whether there is a software TPM.
    #[serde(skip_serializing_if = "is_false")]
    pub swtpm: bool,
    /// Whether hot-plugging is disabled.
    pub hotplug_off: bool,
    /// Name of the image, such as `dstack-0.6.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How the host shares files: empty, `9p`, `vvfat` or `vhd`.
    pub host_share_mode: String,
    /// Variant of the firmware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ovmf_variant: Option<OvmfVariant>,
    /// How the registers are checked.
    #[serde(skip_serializing_if = "is_legacy")]
    pub tdx_attestation_variant: TdxAttestationVariant,
    /// The image's measurement for TDX lite attestation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tdx_measurement: Option<ImageMeasurement>,
    /// The image's measurement for GCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gcp_measurement: Option<ImageMeasurement>,
    /// The image's measurement for AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_measurement: Option<ImageMeasurement>,
}

/// A NUMA node of a guest. CPUs and memory are divided evenly among the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NumaNode {
    /// Bus number of the node's PCI expander bridge, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pxb_bus: Option<u8>,
}

/// Firmware variants that are measured differently from the current one.
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
    /// The evidence contains the image's measurement, and the event log names its events.
    Lite,
}

/// An image's checksum file, and the measurement document listed in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMeasurement {
    /// `sha256sum.txt`.
    #[serde(with = "base64_text")]
    pub checksum_file: Vec<u8>,
    /// The measurement document.
    #[serde(with = "base64_text")]
    pub measurement: Vec<u8>,
}

/// Why a text is not a VM configuration.
#[derive(Debug, thiserror::Error)]
#[error("vm_config does not parse: {0}")]
pub struct VmConfigError(#[from] serde_json::Error);

impl VmConfig {
    /// Parses a configuration, or one nested as text in a guest's system configuration ([`layout`]).
    ///
    /// # Errors
    /// [`VmConfigError`].
    pub fn parse(text: &str) -> Result<Self, VmConfigError> {
        match layout(text)? {
            Layout::Plain => Ok(serde_json::from_str(text)?),
            Layout::Nested(nested) => Ok(serde_json::from_str(&nested)?),
        }
    }

    /// The effective configuration: the request's if it is not empty, otherwise the evidence's, otherwise the
    /// default.
    pub fn effective(requested: &str, embedded: &str) -> Result<Self, VmConfigError> {
        let text = [requested, embedded].into_iter().find(|text| !text.is_empty());
        Self::parse(text.unwrap_or("{}"))
    }
}

/// Where a text has the VM configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The text is the configuration.
    Plain,
    /// The text is a guest's system configuration, whose key `vm_config` has this text.
    Nested(String),
}

/// Determines the layout of a configuration. Every reader of a configuration starts here, so that two readers
/// cannot find different configurations in one text.
///
/// The text is an object without repeated keys. A non-empty key `vm_config` makes it a system configuration,
/// which must not have keys of a VM configuration; the nested text must be plain.
///
/// # Errors
/// [`VmConfigError`].
pub fn layout(text: &str) -> Result<Layout, VmConfigError> {
    let Object { nested, of_vm } = serde_json::from_str(text)?;
    let Some(nested) = nested else { return Ok(Layout::Plain) };
    if let Some(key) = of_vm {
        let why = format!("{key} is beside a nested vm_config");
        return Err(<serde_json::Error as de::Error>::custom(why).into());
    }
    let Object { nested: None, .. } = serde_json::from_str(&nested)? else {
        return Err(<serde_json::Error as de::Error>::custom("vm_config is nested twice").into());
    };
    Ok(Layout::Nested(nested))
}

/// Keys that only a VM configuration has.
const KEYS_OF_A_VM: [&str; 24] = [
    "os_image_hash",
    "cpu_count",
    "memory_size",
    "qemu_single_pass_add_pages",
    "pic",
    "qemu_version",
    "pci_hole64_size",
    "hugepages",
    "numa_nodes",
    "num_gpus",
    "num_nvswitches",
    "num_nics",
    "num_verity_volumes",
    "extra_root_devices",
    "swtpm",
    "hotplug_off",
    "image",
    "host_share_mode",
    "ovmf_variant",
    "tdx_attestation_variant",
    "tdx_measurement",
    "gcp_measurement",
    "aws_measurement",
    "sev_snp_measurement",
];

/// The keys of an object that determine its layout.
struct Object {
    /// `vm_config`, unless missing, null or empty.
    nested: Option<String>,
    /// The first key that is one of [`KEYS_OF_A_VM`].
    of_vm: Option<&'static str>,
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Object, A::Error> {
        let mut object = Object { nested: None, of_vm: None };
        let mut keys = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if key == "vm_config" {
                object.nested = entries.next_value::<Option<String>>()?.filter(|text| !text.is_empty());
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
            object.of_vm = object.of_vm.or_else(|| KEYS_OF_A_VM.into_iter().find(|known| *known == key));
            if !keys.insert(key) {
                return Err(de::Error::custom("a key is repeated"));
            }
        }
        Ok(object)
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
            numa_nodes: Vec::new(),
            num_gpus: 0,
            num_nvswitches: 0,
            num_nics: 1,
            num_verity_volumes: 0,
            extra_root_devices: Vec::new(),
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
    fn a_nested_configuration_counts_in_a_system_configuration() {
        let cases = [
            (r#"{"kms_urls":[],"vm_config":"{\"os_image_hash\":\"aa\"}"}"#, vec![0xaa]),
            (r#"{"os_image_hash":"bb","vm_config":""}"#, vec![0xbb]),
            (r#"{"vm_config":""}"#, vec![]),
            (r#"{"vm_config":null}"#, vec![]),
            (r#"{"vm_config":"{\"vm_config\":null,\"os_image_hash\":\"aa\"}"}"#, vec![0xaa]),
        ];
        for (text, hash) in cases {
            assert_eq!(VmConfig::parse(text).unwrap().os_image_hash, hash, "{text}");
        }
    }

    #[test]
    fn a_configuration_has_one_layout() {
        let cases = [
            // It is ambiguous which one counts.
            r#"{"os_image_hash":"bb","vm_config":"{\"os_image_hash\":\"aa\"}"}"#,
            r#"{"os_image_hash":"","vm_config":"{\"os_image_hash\":\"aa\"}"}"#,
            r#"{"vm_config":"{\"os_image_hash\":\"aa\"}","cpu_count":1}"#,
            r#"{"vm_config":"{\"os_image_hash\":\"aa\"}","sev_snp_measurement":""}"#,
            r#"{"vm_config":"{\"vm_config\":\"{}\"}"}"#,
            // The first or the last one?
            r#"{"os_image_hash":"aa","os_image_hash":"bb"}"#,
            r#"{"os_image_hash":"aa","os_image_hash":"aa"}"#,
            r#"{"unknown":1,"unknown":1}"#,
            r#"{"vm_config":"","vm_config":"{}"}"#,
            r#"{"vm_config":"{\"cpu_count\":1,\"cpu_count\":2}"}"#,
            r#"{"cpu_count":1,"cpu_\u0063ount":2}"#,
            // Not text.
            r#"{"vm_config":{"os_image_hash":"aa"}}"#,
            r#"{"vm_config":7}"#,
            r#"["aa",1,2]"#,
            r#"{"vm_config":"[\"aa\",1]"}"#,
            "[]",
            "null",
            r#"{} {}"#,
        ];
        for text in cases {
            let error = VmConfig::parse(text).unwrap_err().to_string();
            assert!(error.starts_with("vm_config does not parse: "), "{text}: {error}");
            assert!(layout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_key_of_a_vm_tells_the_layout() {
        let full = VmConfig {
            qemu_single_pass_add_pages: Some(true),
            pic: Some(true),
            qemu_version: Some(String::new()),
            numa_nodes: vec![NumaNode::default()],
            num_nics: 2,
            num_verity_volumes: 1,
            extra_root_devices: vec![serde_json::Value::Null],
            swtpm: true,
            image: Some(String::new()),
            ovmf_variant: Some(OvmfVariant::Pre202505),
            tdx_attestation_variant: TdxAttestationVariant::Lite,
            tdx_measurement: Some(ImageMeasurement { checksum_file: vec![], measurement: vec![] }),
            gcp_measurement: Some(ImageMeasurement { checksum_file: vec![], measurement: vec![] }),
            aws_measurement: Some(ImageMeasurement { checksum_file: vec![], measurement: vec![] }),
            ..VmConfig::default()
        };
        let written = serde_json::to_value(&full).unwrap();
        let mut known: HashSet<&str> = KEYS_OF_A_VM.into_iter().collect();
        for key in written.as_object().unwrap().keys() {
            assert!(known.remove(key.as_str()), "{key}");
        }
        assert_eq!(known, HashSet::from(["sev_snp_measurement"]), "read with the evidence of SEV-SNP");
    }

    #[test]
    fn nodes_are_read_with_and_without_an_expander_and_written_only_where_there_are_some() {
        let text = r#"{"hugepages":true,"numa_nodes":[{"pxb_bus":5},{},{"pxb_bus":null,"cpus":4}]}"#;
        let config = VmConfig::parse(text).unwrap();
        let nodes = [Some(5), None, None].map(|pxb_bus| NumaNode { pxb_bus });
        assert_eq!(config.numa_nodes, nodes);
        let written = serde_json::to_string(&config).unwrap();
        let expected = r#""hugepages":true,"numa_nodes":[{"pxb_bus":5},{},{}],"num_gpus":0"#;
        assert!(written.contains(expected), "{written}");
        assert_eq!(VmConfig::parse(&written).unwrap(), config);
        for text in [r#"{"numa_nodes":[{"pxb_bus":256}]}"#, r#"{"numa_nodes":{}}"#, r#"{"numa_nodes":2}"#] {
            VmConfig::parse(text).unwrap_err();
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
