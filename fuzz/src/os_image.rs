//! The sources of expected registers: an image's files, and the documents about it in evidence.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_attest::identity::mr_config::host_data;
use kms_attest::measurement::TdxEvent;
use kms_attest::platform::manifest::{Manifest, image_hash, is_plain};
use kms_attest::platform::sev_snp::image::{Claim, SevSnpError};
use kms_attest::platform::tdx::image::acpi::{AcpiDigests, Shape};
use kms_attest::platform::tdx::image::kernel::Header;
use kms_attest::platform::tdx::image::legacy::{self, AcpiTables, Image, Metadata};
use kms_attest::platform::tdx::image::lite;
use kms_attest::platform::tdx::image::qemu::AcpiCall;
use kms_attest::vm_config::{ImageMeasurement, VmConfig};

/// Length of every firmware; the input is its end.
const FIRMWARE: usize = 1 << 16;

/// Memory sizes on both sides of every limit.
const MEMORY: [u64; 8] = [1 << 31, 3 << 30, 0, u64::MAX, 0xafff_f000, 0xb000_0000, 1 << 20, 1 << 40];

/// The first byte chooses a measurement document, an image, texts, or SEV-SNP; the second the VM's memory.
///
/// The same bytes give the same registers; a manifest has only plain names.
pub fn os_image(data: &[u8]) {
    let [choice, memory, rest @ ..] = data else { return };
    let config = VmConfig {
        memory_size: MEMORY[usize::from(memory % 8)],
        cpu_count: 1,
        qemu_version: Some("9.2.1".to_owned()),
        qemu_single_pass_add_pages: Some(memory & 8 != 0),
        ..VmConfig::default()
    };
    match choice % 5 {
        0 => document(config, rest),
        1 | 2 => image(&config, rest),
        4 => sev_snp(rest),
        _ => texts(rest),
    }
}

/// Uses the bytes as a document that its image hash covers.
fn document(config: VmConfig, document: &[u8]) {
    let checksum_file = format!("{}  measurement.tdx.cbor\n", hex::encode(image_hash(document))).into_bytes();
    let config = VmConfig {
        os_image_hash: image_hash(&checksum_file).to_vec(),
        tdx_measurement: Some(ImageMeasurement { checksum_file, measurement: document.to_vec() }),
        ..config
    };
    let mut log = ["acpi-loader", "acpi-rsdp", "acpi-tables"].map(|name| TdxEvent {
        imr: 0,
        event_type: 10,
        digest: vec![7; 48],
        event: name.to_owned(),
        event_payload: b"ACPI DATA".to_vec(),
        version: Default::default(),
        preimage: None,
    });
    assert!(lite::boot_registers(&config, &log).is_err(), "invented tables are believed");
    // The log that QEMU makes of this VM.
    if let Ok(shape) = Shape::of(&config) {
        let AcpiDigests { loader, rsdp, tables } = AcpiDigests::of_vm(&shape);
        for (event, digest) in log.iter_mut().zip([loader, rsdp, tables]) {
            event.digest = digest.to_vec();
        }
    }
    let registers = lite::boot_registers(&config, &log).ok();
    assert_eq!(lite::boot_registers(&config, &log).ok(), registers);
    assert!(lite::boot_registers(&config, &log[1..]).is_err(), "an event is missing");
}

/// Uses the bytes as the measurement document of a SEV-SNP guest's image, or as its complete configuration.
fn sev_snp(data: &[u8]) {
    let list = format!("{}  measurement.snp.cbor\n", hex::encode(image_hash(data)));
    let measurement = serde_json::json!({
        "checksum_file": STANDARD.encode(&list), "measurement": STANDARD.encode(data),
        "vcpus": 2, "vcpu_type": "EPYC-Milan", "guest_features": 1,
    });
    let config = serde_json::json!({
        "os_image_hash": hex::encode(image_hash(list.as_bytes())),
        "mr_config": "{}", "sev_snp_measurement": measurement.to_string(),
    });
    for config in [config.to_string(), String::from_utf8_lossy(data).into_owned()] {
        let Ok(claim) = Claim::parse(&config) else { continue };
        // Measuring takes time per page; the limits are tested elsewhere.
        if claim.launch.image.sections.iter().fold(0u64, |sum, section| sum.saturating_add(section.size))
            > 1 << 20
        {
            continue;
        }
        if let Ok(measured) = claim.launch.measurement() {
            assert_eq!(claim.launch.measurement(), Ok(measured));
            assert_eq!(claim.compare(&measured, &host_data(&claim.mr_config)), Ok(()));
            assert_eq!(claim.compare(&[0; 48], &[0; 32]), Err(SevSnpError::Measurement));
        }
    }
}

/// Lengths of kernel and tables, then both, then the end of the firmware.
fn image(config: &VmConfig, data: &[u8]) {
    let Some((&[a, b, c, d], files)) = data.split_first_chunk() else { return };
    let (kernel, tables) = (usize::from(u16::from_le_bytes([a, b])), usize::from(u16::from_le_bytes([c, d])));
    let Some((kernel, files)) = files.split_at_checked(kernel) else { return };
    let Some((tables, end)) = files.split_at_checked(tables) else { return };
    let mut firmware = vec![0; FIRMWARE.saturating_sub(end.len())];
    firmware.extend_from_slice(end);
    for initrd_size in [0, 5003, u64::from(u32::MAX)] {
        let image = Image {
            firmware: &firmware,
            kernel: kernel.to_vec(),
            kernel_header: if initrd_size == 0 { Header::AsShipped } else { Header::FilledInByQemu },
            initrd_size,
            initrd_sha384: [0; 48],
            command_line: "console=hvc0",
        };
        let registers = legacy::boot_registers(config, image.clone(), AcpiTables::Given(tables));
        if initrd_size == 0 {
            assert_eq!(legacy::boot_registers(config, image, AcpiTables::Given(tables)), registers);
        }
    }
}

/// A manifest in both forms, image metadata, and a configuration for the program that prints ACPI tables.
fn texts(data: &[u8]) {
    if let Ok(manifest) = Manifest::parse(data) {
        for entry in manifest.entries() {
            assert!(is_plain(&entry.name) && Path::new(&entry.name).file_name().is_some(), "{entry:?}");
            assert_eq!(manifest.sha256(&entry.name), Some(&entry.sha256));
        }
    }
    if let Ok(strict) = Manifest::parse_strict(data) {
        assert_eq!(Manifest::parse(data).as_ref(), Ok(&strict), "the strict form is one of the lenient ones");
        let written: Vec<String> = strict
            .entries()
            .iter()
            .map(|entry| format!("{}  {}\n", hex::encode(entry.sha256), entry.name))
            .collect();
        assert_eq!(written.concat().as_bytes(), data, "there is one strict form");
    }
    if let Ok(Metadata { kernel, initrd, bios, .. }) = Metadata::parse(data) {
        assert!([kernel, initrd, bios].iter().all(|name| is_plain(name)));
    }
    let config = std::str::from_utf8(data).ok().and_then(|text| VmConfig::parse(text).ok());
    if let Some(Ok(call)) = config.map(|config| AcpiCall::of(&config, Path::new("/f"), Path::new("/k"))) {
        assert!(call.arguments.len() < 4096, "{} arguments", call.arguments.len());
    }
}
