//! The configuration of a VM as its host describes it: what the OS image and the registers are checked against.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

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
    /// NUMA nodes of the guest, in their order. Empty: what `hugepages` alone implies, one node or none.
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
    /// Devices that the host adds behind those above. Their ACPI description is not known here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_root_devices: Vec<serde_json::Value>,
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

/// A NUMA node of a guest. CPUs and memory are split evenly among the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NumaNode {
    /// Bus number of the node's PCI expander bridge, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pxb_bus: Option<u8>,
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
    /// Reads a configuration, or one that is nested as text in a guest's whole system configuration ([`layout`]).
    ///
    /// # Errors
    /// [`VmConfigError`].
    pub fn parse(text: &str) -> Result<Self, VmConfigError> {
        match layout(text)? {
            Layout::Plain => Ok(serde_json::from_str(text)?),
            Layout::Nested(nested) => Ok(serde_json::from_str(&nested)?),
        }
    }

    /// The configuration that counts: the request's if it is not empty, else the one in the evidence, else none.
    pub fn effective(requested: &str, embedded: &str) -> Result<Self, VmConfigError> {
        let text = [requested, embedded].into_iter().find(|text| !text.is_empty());
        Self::parse(text.unwrap_or("{}"))
    }
}

/// Where in a text the configuration of the VM stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The text is the configuration.
    Plain,
    /// The text is the system configuration of a guest, whose key `vm_config` holds this text.
    Nested(String),
}

/// The one layout of a configuration. Everything that reads a configuration starts here, so that two readers cannot
/// find different configurations in one text.
///
/// It is an object in which no key is repeated. A key `vm_config` that is not empty makes it a system configuration, in
/// which the keys of a VM may not stand as well; the nested text is plain.
///
/// # Errors
/// [`VmConfigError`].
pub fn layout(text: &str) -> Result<Layout, VmConfigError> {
    let Object { nested, of_vm } = serde_json::from_str(text)?;
    let Some(nested) = nested else { return Ok(Layout::Plain) };
    if let Some(key) = of_vm {
        let why = format!("{key} stands beside a nested vm_config");
        return Err(<serde_json::Error as de::Error>::custom(why).into());
    }
    let Object { nested: None, .. } = serde_json::from_str(&nested)? else {
        return Err(<serde_json::Error as de::Error>::custom("vm_config is nested twice").into());
    };
    Ok(Layout::Nested(nested))
}

/// Keys that only the configuration of a VM has.
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

/// The keys of an object, as far as they tell its layout.
struct Object {
    /// `vm_config`, unless it is missing, null or empty.
    nested: Option<String>,
    /// The first key of [`KEYS_OF_A_VM`].
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
            // Which one counts?
            r#"{"os_image_hash":"bb","vm_config":"{\"os_image_hash\":\"aa\"}"}"#,
            r#"{"os_image_hash":"","vm_config":"{\"os_image_hash\":\"aa\"}"}"#,
            r#"{"vm_config":"{\"os_image_hash\":\"aa\"}","cpu_count":1}"#,
            r#"{"vm_config":"{\"os_image_hash\":\"aa\"}","sev_snp_measurement":""}"#,
            r#"{"vm_config":"{\"vm_config\":\"{}\"}"}"#,
            // The first, or the last?
            r#"{"os_image_hash":"aa","os_image_hash":"bb"}"#,
            r#"{"os_image_hash":"aa","os_image_hash":"aa"}"#,
            r#"{"unknown":1,"unknown":1}"#,
            r#"{"vm_config":"","vm_config":"{}"}"#,
            r#"{"vm_config":"{\"cpu_count\":1,\"cpu_count\":2}"}"#,
            r#"{"cpu_count":1,"cpu_\u0063ount":2}"#,
            // Neither.
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
