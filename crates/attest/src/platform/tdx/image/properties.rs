//! For arbitrary bytes the measurements do not panic, terminate, and are deterministic.

use proptest::prelude::*;

use super::acpi::AcpiDigests;
use super::kernel::{self, Header};
use super::legacy::{self, AcpiTables, Image, Metadata};
use super::qemu::Machine;
use super::tests::Vectors;
use super::{authenticode, lite, tdvf};
use crate::platform::manifest::{Manifest, image_hash};
use crate::vm_config::{ImageMeasurement, VmConfig};

/// Overwrites some bytes.
fn overwrite(bytes: &mut [u8], changes: &[(prop::sample::Index, u8)]) {
    for (at, value) in changes {
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..2048), initrd: u64, memory: u64) {
        let _ = tdvf::sections(&bytes);
        let _ = AcpiDigests::of_tables(&bytes);
        let _ = authenticode::sha384(&bytes);
        let _ = kernel::digest_filled_in(bytes.clone(), initrd, memory);
        let _ = kernel::digest_as_shipped(&bytes);
        let _ = Manifest::parse(&bytes);
        let _ = Manifest::parse_strict(&bytes);
        let _ = Metadata::parse(&bytes);
    }

    #[test]
    fn damaged_images_do_no_harm(
        firmware_changes in changes(),
        tail_changes in changes(),
        kernel_changes in changes(),
        header_changes in changes(),
        table_changes in changes(),
        memory in prop_oneof![any::<u64>(), Just(1u64 << 31), 0u64..(1 << 34)],
        initrd_size: u64,
    ) {
        let vectors = Vectors::load();
        let config = VmConfig { memory_size: memory, ..vectors.plain() };
        let mut firmware = vectors.file(&config.os_image_hash, "ovmf.fd");
        let tail = firmware.len() - 512;
        overwrite(&mut firmware[tail..], &tail_changes);
        overwrite(&mut firmware, &firmware_changes);
        let mut kernel = vectors.file(&config.os_image_hash, "bzImage");
        overwrite(&mut kernel[..0x400], &header_changes);
        overwrite(&mut kernel, &kernel_changes);
        let mut tables = vectors.acpi_tables();
        overwrite(&mut tables, &table_changes);
        let image = Image {
            firmware: &firmware,
            kernel,
            kernel_header: Header::FilledInByQemu,
            initrd_size,
            initrd_sha384: [0; 48],
            command_line: "x",
        };
        let _ = legacy::boot_registers(&config, image, AcpiTables::Given(&tables));
    }

    #[test]
    fn damaged_measurements_do_no_harm(document_changes in changes(), cut: prop::sample::Index, memory: u64) {
        let vectors = Vectors::load();
        let plain = vectors.plain();
        let mut document = vectors.file(&plain.os_image_hash, "measurement.tdx.cbor");
        overwrite(&mut document, &document_changes);
        document.truncate(cut.index(document.len()) + 1);
        let list = format!("{}  measurement.tdx.cbor\n", hex::encode(image_hash(&document))).into_bytes();
        let config = VmConfig {
            os_image_hash: image_hash(&list).to_vec(),
            memory_size: memory,
            tdx_measurement: Some(ImageMeasurement { checksum_file: list, measurement: document }),
            ..plain
        };
        let _ = lite::boot_registers(&config, &[]);
    }

    #[test]
    fn versions_are_read_or_refused(text in ".{0,24}") {
        let config = VmConfig { qemu_version: Some(text.clone()), ..VmConfig::default() };
        if let Ok(machine) = Machine::of(&config) {
            let version = machine.version.to_string();
            prop_assert!(text.len() >= version.len());
        }
    }
}
