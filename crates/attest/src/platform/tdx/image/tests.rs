//! The known answers of `os_image.json`, and one refusal of each kind.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::acpi::{AcpiDigests, AcpiError, Shape};
use super::digest::sha384;
use super::kernel::{Header, KernelError};
use super::legacy::{self, AcpiTables, Image, LegacyError, Metadata, MetadataError};
use super::lite::{self, LiteError};
use super::qemu::{AcpiCall, Machine, MachineError, Passes, Pic};
use super::tdvf::{self, TdvfError};
use super::{BootRegisters, Register};
use crate::codec::cbor::CborError;
use crate::evidence::{Evidence, Platform};
use crate::measurement::TdxEvent;
use crate::platform::manifest::{Manifest, ManifestError, StrictError, UnvouchedError, image_hash};
use crate::platform::tdx::Quoted;
use crate::test_vectors;
use crate::vm_config::{NumaNode, VmConfig};

/// `os_image.json`.
pub(super) struct Vectors(Value);

impl Vectors {
    pub(super) fn load() -> Self {
        Self(test_vectors::json("os_image.json"))
    }

    fn list(&self, name: &str) -> &Vec<Value> {
        self.0[name].as_array().unwrap()
    }

    pub(super) fn acpi_tables(&self) -> Vec<u8> {
        hex::decode(text(&self.0["acpi_tables"])).unwrap()
    }

    fn image(&self, hash: &[u8]) -> &Value {
        let hash = hex::encode(hash);
        self.list("images").iter().find(|image| image["os_image_hash"] == hash.as_str()).unwrap()
    }

    pub(super) fn file(&self, hash: &[u8], name: &str) -> Vec<u8> {
        STANDARD.decode(text(&self.image(hash)["files_base64"][name])).unwrap()
    }

    fn metadata(&self, hash: &[u8]) -> Metadata {
        Metadata::parse(&self.file(hash, legacy::METADATA)).unwrap()
    }

    pub(super) fn measure(&self, config: &VmConfig) -> Result<BootRegisters, LegacyError> {
        let hash = &config.os_image_hash;
        let metadata = self.metadata(hash);
        let initrd = self.file(hash, &metadata.initrd);
        let image = Image {
            firmware: &self.file(hash, &metadata.bios),
            kernel: self.file(hash, &metadata.kernel),
            kernel_header: metadata.kernel_header(),
            initrd_size: initrd.len() as u64,
            initrd_sha384: sha384(&[&initrd]),
            command_line: &metadata.cmdline,
        };
        legacy::boot_registers(config, image, AcpiTables::Given(&self.acpi_tables()))
    }

    /// The configuration of the first case, with the first image.
    pub(super) fn plain(&self) -> VmConfig {
        config(&self.list("legacy")[0])
    }

    /// The first lite case, with the event log of such a VM.
    fn lite(&self) -> (VmConfig, Vec<TdxEvent>) {
        let case = &self.list("lite")[0];
        let config = config(case);
        let mut log = events(case);
        log_acpi_of(&config, &mut log);
        (config, log)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn config(case: &Value) -> VmConfig {
    VmConfig::parse(text(&case["vm_config"])).unwrap()
}

fn events(case: &Value) -> Vec<TdxEvent> {
    serde_json::from_value(case["event_log"].clone()).unwrap()
}

/// Sets the digests of the ACPI files that QEMU gives to the VM in the events named for them.
fn log_acpi_of(config: &VmConfig, log: &mut [TdxEvent]) {
    let AcpiDigests { loader, rsdp, tables } = AcpiDigests::of_vm(&Shape::of(config).unwrap());
    for (name, digest) in [("acpi-loader", loader), ("acpi-rsdp", rsdp), ("acpi-tables", tables)] {
        for event in log.iter_mut().filter(|event| event.event == name) {
            event.digest = digest.to_vec();
        }
    }
}

fn registers(case: &Value) -> Option<BootRegisters> {
    serde_json::from_value(case["expected"].clone()).ok()
}

#[test]
fn the_first_register_that_differs_is_named() {
    let vectors = Vectors::load();
    for case in vectors.list("legacy").iter().filter(|case| registers(case).is_some()) {
        let expected = registers(case).unwrap();
        let mut actual = Quoted::of(&expected);
        assert_eq!(expected.compare(&actual), Ok(()));
        actual.rt_mr1[0] ^= 1;
        let mismatch = expected.compare(&actual).unwrap_err();
        assert_eq!(mismatch.to_string(), text(&case["verify_rtmr1_differs"]["error"]));
        for (register, change) in [
            (Register::Rtmr0, (|quoted: &mut Quoted| quoted.rt_mr0[47] ^= 0x80) as fn(&mut Quoted)),
            (Register::Mrtd, |quoted: &mut Quoted| quoted.mr_td[20] ^= 1),
        ] {
            change(&mut actual);
            assert_eq!(expected.compare(&actual).unwrap_err().register, register);
        }
    }
    let expected = vectors.measure(&vectors.plain()).unwrap();
    let mut actual = Quoted::of(&expected);
    actual.rt_mr2[0] ^= 1;
    assert_eq!(expected.compare(&actual).unwrap_err().register, Register::Rtmr2);
}

#[test]
fn a_real_machine_passes_lite_verification() {
    let fixture = test_vectors::json("fixtures/dstack/tdx-lite-attestation.json");
    let evidence = Evidence::decode(&hex::decode(text(&fixture["attestation"])).unwrap()).unwrap();
    for evidence in [evidence.stripped(), evidence] {
        let Platform::Tdx(tdx) = &evidence.platform else { panic!("TDX") };
        let config = VmConfig::parse(&evidence.stack.config).unwrap();
        let registers = lite::boot_registers(&config, &tdx.event_log).unwrap();
        registers.compare(&Quoted::parse(&tdx.quote).unwrap()).unwrap();
        // The ACPI tables do not depend on this difference in memory, but RTMR0 does.
        let larger = VmConfig { memory_size: 4 << 30, ..config };
        let other = lite::boot_registers(&larger, &tdx.event_log).unwrap();
        let mismatch = other.compare(&Quoted::parse(&tdx.quote).unwrap()).unwrap_err();
        assert_eq!(mismatch.register, Register::Rtmr0);
    }
}

#[test]
fn lite_refuses_what_the_image_hash_does_not_cover() {
    let vectors = Vectors::load();
    let (good, log) = vectors.lite();
    let with = |list: &[u8], document: &[u8]| {
        let mut config = good.clone();
        config.os_image_hash = image_hash(list).to_vec();
        let measurement = config.tdx_measurement.as_mut().unwrap();
        (measurement.checksum_file, measurement.measurement) = (list.to_vec(), document.to_vec());
        lite::boot_registers(&config, &log).unwrap_err()
    };
    let document = good.tdx_measurement.as_ref().unwrap().measurement.clone();
    let line = |document: &[u8]| format!("{}  measurement.tdx.cbor\n", hex::encode(image_hash(document)));
    let other = line(b"other").replace("tdx", "snp");
    let unlisted = UnvouchedError::NotListed("measurement.tdx.cbor");
    assert_eq!(with(other.as_bytes(), &document), LiteError::Unvouched(unlisted));
    let not_text = UnvouchedError::Manifest(StrictError::NotText);
    assert_eq!(with(b"", &document), LiteError::Unvouched(not_text));
    let twice = line(&document).repeat(2);
    assert_eq!(
        with(twice.as_bytes(), &document),
        LiteError::Unvouched(UnvouchedError::Manifest(StrictError::Repeated(
            2,
            "measurement.tdx.cbor".to_owned()
        )))
    );
    assert!(matches!(
        with(line(b"other").as_bytes(), &document),
        LiteError::Unvouched(UnvouchedError::DocumentHash { .. })
    ));
    let changed = |from: &[u8], to: &[u8]| {
        let at = document.windows(from.len()).position(|window| window == from).unwrap();
        let mut changed = document.clone();
        changed.splice(at..at + from.len(), to.iter().copied());
        with(line(&changed).as_bytes(), &changed)
    };
    assert_eq!(changed(b"version\x03", b"version\x05"), LiteError::Version(5));
    assert_eq!(changed(b"version\x03", b"version\x04"), LiteError::Field("cmdline"));
    assert_eq!(changed(b"gversion\x03", b"gVersion\x03"), LiteError::Field("version"));
    assert_eq!(changed(b"two_pass", b"two_Pass"), LiteError::Field("two_pass"));
    assert_eq!(changed(b"htwo_pass", b"ksingle_pass"), LiteError::Field("single_pass"));
    assert_eq!(changed(b"ipre202505", b"ipre202506"), LiteError::Ovmf("pre202506".to_owned()));
    assert!(matches!(changed(b"\x80\x10\x09", b"\x80\x90\x09"), LiteError::Witness(_)));
    assert!(matches!(with(line(b"\xa1").as_bytes(), b"\xa1"), LiteError::Cbor(_)));
    let longer = [&document[..], &[0]].concat();
    assert_eq!(with(line(&longer).as_bytes(), &longer), LiteError::Cbor(CborError::Trailing(1)));
}

#[test]
fn lite_refuses_a_log_that_qemu_does_not_make_by_the_name_of_the_event() {
    let (config, log) = Vectors::load().lite();
    assert!(lite::boot_registers(&config, &log).is_ok());
    for (index, event) in log.iter().enumerate() {
        let mut altered = log.clone();
        altered[index].digest[0] ^= 1;
        let error = lite::boot_registers(&config, &altered).unwrap_err();
        let LiteError::AcpiMismatch { name, expected, reported } = error else { panic!("{error}") };
        assert_eq!((name, expected), (event.event.as_str(), hex::encode(&event.digest)));
        assert_eq!(reported, hex::encode(&altered[index].digest));
    }
    for (shape, name) in [
        (VmConfig { cpu_count: 3, ..config.clone() }, "acpi-loader"),
        (VmConfig { num_nics: 2, ..config.clone() }, "acpi-loader"),
        (VmConfig { pic: Some(true), ..config.clone() }, "acpi-tables"),
        (VmConfig { memory_size: 1 << 30, ..config.clone() }, "acpi-tables"),
        (VmConfig { pci_hole64_size: 1 << 40, ..config.clone() }, "acpi-tables"),
    ] {
        let refusal = lite::boot_registers(&shape, &log).unwrap_err();
        assert!(matches!(refusal, LiteError::AcpiMismatch { name: first, .. } if first == name), "{refusal}");
    }
    let none = VmConfig { swtpm: true, ..config };
    assert_eq!(lite::boot_registers(&none, &log), Err(LiteError::Shape(MachineError::SoftwareTpm.into())));
}

#[test]
fn lite_needs_three_events_each_with_its_name_and_a_digest() {
    let (config, log) = Vectors::load().lite();
    let refusal = |change: &dyn Fn(&mut Vec<TdxEvent>)| {
        let mut log = log.clone();
        change(&mut log);
        lite::boot_registers(&config, &log).unwrap_err()
    };
    assert_eq!(refusal(&|log| log.extend(log.clone())), LiteError::AcpiEvents(4));
    assert_eq!(refusal(&|log| log[0].imr = 1), LiteError::AcpiEvents(2));
    assert_eq!(refusal(&|log| log[0].event_type = 11), LiteError::AcpiEvents(2));
    assert_eq!(refusal(&|log| log[0].event_payload.push(0)), LiteError::AcpiEvents(2));
    assert_eq!(refusal(&|log| log[0].event = log[1].event.clone()), LiteError::AcpiEventName("acpi-loader"));
    assert_eq!(refusal(&|log| log[0].digest.truncate(47)), LiteError::AcpiDigest(47));
}

#[test]
fn machines_follow_the_version_unless_the_configuration_overrides_it() {
    let machine = |version: Option<&str>, single: Option<bool>, pic: Option<bool>| {
        let config = VmConfig {
            qemu_version: version.map(str::to_owned),
            qemu_single_pass_add_pages: single,
            pic,
            ..VmConfig::default()
        };
        Machine::of(&config).map(|machine| (machine.passes, machine.pic))
    };
    for (version, single, pic, expected) in [
        (None, None, None, (Passes::Single, Pic::Off)),
        (Some("8.0.0"), None, None, (Passes::Two, Pic::On)),
        (Some("8.2.99"), None, None, (Passes::Two, Pic::On)),
        (Some("9.0.0"), None, None, (Passes::Single, Pic::Off)),
        (Some("10.1.2"), None, None, (Passes::Single, Pic::Off)),
        (Some("9.1.0"), Some(true), Some(true), (Passes::Two, Pic::On)),
        (Some("8.2.2"), Some(false), Some(false), (Passes::Single, Pic::Off)),
    ] {
        assert_eq!(machine(version, single, pic), Ok(expected), "{version:?}");
    }
    for version in
        ["", "9", "9.1", "9.1.0.1", "9.1.x", "9.1.-1", "+9.1.0", "9..0", "99999999999.0.0", "9.1.0 "]
    {
        assert_eq!(machine(Some(version), None, None), Err(MachineError::NotAVersion), "{version}");
    }
    let error = machine(Some("7.2.0"), None, None).unwrap_err();
    assert_eq!(error.to_string(), "Unsupported QEMU version: 7.2.0");
}

#[test]
fn counts_of_devices_have_a_limit() {
    let path = Path::new("x");
    let good = VmConfig { cpu_count: 1, ..VmConfig::default() };
    assert!(AcpiCall::of(&good, path, path).is_ok());
    for config in [
        VmConfig { cpu_count: u32::MAX, ..good.clone() },
        VmConfig { num_gpus: 65, ..good.clone() },
        VmConfig { num_nvswitches: u32::MAX, ..good.clone() },
        VmConfig { num_nics: 65, ..good.clone() },
        VmConfig { num_verity_volumes: 65, ..good.clone() },
    ] {
        let refused = AcpiCall::of(&config, path, path);
        assert!(matches!(refused, Err(MachineError::TooMany { .. })), "{refused:?}");
    }
    let nodes = VmConfig { numa_nodes: vec![NumaNode::default()], ..good.clone() };
    let devices = VmConfig { extra_root_devices: vec![Value::Null], ..good };
    for (config, lacking) in [(nodes, "numa_nodes"), (devices, "extra_root_devices")] {
        assert_eq!(AcpiCall::of(&config, path, path), Err(MachineError::ProgramLacks(lacking)));
    }
}

#[test]
fn lists_of_files_that_are_unsafe_or_ambiguous_are_refused() {
    let digest = "00".repeat(32);
    let lines =
        |names: &[&str]| -> String { names.iter().map(|name| format!("{digest}  {name}\n")).collect() };
    let good = Manifest::parse(lines(&["a", "b.c"]).as_bytes()).unwrap();
    assert_eq!(good.entries().len(), 2);
    assert!(good.sha256("b.c").is_some() && good.sha256("c").is_none());
    assert_eq!(Manifest::parse(b"\n \n").unwrap().entries(), []);
    for (text, error) in [
        (lines(&["a", "../b"]), ManifestError::UnsafePath(2)),
        (lines(&["a/b"]), ManifestError::UnsafePath(1)),
        (lines(&[".."]), ManifestError::UnsafePath(1)),
        (lines(&["a\\b"]), ManifestError::UnsafePath(1)),
        (lines(&["a b"]), ManifestError::ExtraFields(1)),
        (lines(&["sha256sum.txt"]), ManifestError::ListsItself),
        (lines(&["a", "a"]), ManifestError::Repeated(2)),
        (digest.clone(), ManifestError::Malformed(1)),
        (format!("{}  a", &digest[1..]), ManifestError::Malformed(1)),
        ("\n".repeat(64 * 1024 + 1), ManifestError::TooLong),
    ] {
        assert_eq!(Manifest::parse(text.as_bytes()), Err(error));
    }
    assert_eq!(Manifest::parse(b"\xff"), Err(ManifestError::NotText));
}

#[test]
fn descriptions_name_plain_files_only() {
    for (name, good) in [("ovmf.fd", true), ("../ovmf.fd", false), ("/etc/passwd", false), ("", false)] {
        let text = format!(r#"{{"cmdline":"","kernel":"k","initrd":"i","bios":"{name}","other":1}}"#);
        let parsed = Metadata::parse(text.as_bytes());
        assert_eq!(parsed.is_ok(), good, "{name}");
        if let Err(error) = parsed {
            assert!(matches!(error, MetadataError::UnsafePath("bios")));
        }
    }
    assert!(matches!(Metadata::parse(b"{}"), Err(MetadataError::Json(_))));
}

#[test]
fn tables_without_a_table_or_with_a_wrong_length_are_refused() {
    let tables = Vectors::load().acpi_tables();
    assert!(AcpiDigests::of_tables(&tables).is_ok());
    assert_eq!(AcpiDigests::of_tables(&[]), Err(AcpiError::Missing("DSDT")));
    assert_eq!(AcpiDigests::of_tables(&tables[..tables.len() - 52]), Err(AcpiError::Missing("RSDT")));
    assert_eq!(
        AcpiDigests::of_tables(&tables[..tables.len() - 1]),
        Err(AcpiError::Malformed(tables.len() - 52))
    );
    assert_eq!(AcpiDigests::of_tables(b"FACS\x00\x00\x00\x00"), Err(AcpiError::Malformed(0)));
    assert_eq!(AcpiDigests::of_tables(b"FACS"), Err(AcpiError::Malformed(0)));
}

#[test]
fn invalid_firmware_and_kernels_are_refused() {
    let vectors = Vectors::load();
    let config = vectors.plain();
    let firmware = vectors.file(&config.os_image_hash, "ovmf.fd");
    assert_eq!(tdvf::sections(&[]), Err(TdvfError::NoMetadata));
    assert_eq!(tdvf::sections(&[0; 4096]), Err(TdvfError::NoMetadata));
    assert!(matches!(tdvf::sections(&firmware[firmware.len() - 200..]), Err(TdvfError::NoMetadata)));
    let measure = |firmware: &[u8], kernel: Vec<u8>, initrd_size: u64| {
        let image = Image {
            firmware,
            kernel,
            kernel_header: Header::FilledInByQemu,
            initrd_size,
            initrd_sha384: [0; 48],
            command_line: "",
        };
        legacy::boot_registers(&config, image, AcpiTables::OfVm).unwrap_err()
    };
    let kernel = vectors.file(&config.os_image_hash, "bzImage");
    assert!(matches!(measure(&firmware, vec![0; 0x205], 0), LegacyError::Kernel(KernelError::Truncated(_))));
    assert!(matches!(
        measure(&firmware, vec![0; 0x400], 0),
        LegacyError::Kernel(KernelError::Authenticode(_))
    ));
    assert!(matches!(
        measure(&firmware, kernel.clone(), 1 << 40),
        LegacyError::Kernel(KernelError::InitrdTooLarge { .. })
    ));
    assert!(matches!(measure(&firmware, vec![0; 0x400], 1), LegacyError::Kernel(KernelError::Protocol)));
    let tiny = VmConfig { memory_size: 4096, ..config.clone() };
    assert!(matches!(vectors.measure(&tiny), Err(LegacyError::TdHob(_))));
}
