//! The ACPI files of VMs of any shape, and the loader commands of any tables.

use kms_attest::platform::tdx::image::acpi::{AcpiFiles, MAX_CPUS, Shape};
use kms_attest::vm_config::{NumaNode, VmConfig};

/// Maximum length of any VM's tables, bytes.
const MAX_TABLES: usize = 1 << 20;
const VERSIONS: [&str; 6] = ["8.2.2", "9.1.0", "9.2.1", "10.0.13", "11.0.3", "11.1.3"];

/// Uses the bytes as a `vm_config`, as numbers of one, and as tables.
///
/// The same VM has the same files; its tables are complete, in QEMU's order, and listed in the root table.
pub fn acpi(data: &[u8]) {
    let text = std::str::from_utf8(data).ok();
    for config in text.and_then(|text| VmConfig::parse(text).ok()).into_iter().chain(config_of(data)) {
        let Ok(shape) = Shape::of(&config) else { continue };
        assert!(config.cpu_count <= MAX_CPUS);
        let files = AcpiFiles::of_vm(&shape);
        assert_eq!(AcpiFiles::of_vm(&shape), files);
        assert_eq!(AcpiFiles::of_tables(files.tables.clone()).as_ref(), Ok(&files));
        check(&files, !config.numa_nodes.is_empty() || config.hugepages);
    }
    if let Ok(files) = AcpiFiles::of_tables(data.to_vec()) {
        assert_eq!((files.loader.len(), files.rsdp.len()), (4096, 20));
    }
}

/// One byte for each number.
fn config_of(data: &[u8]) -> Option<VmConfig> {
    let [version, cpus, cpus_high, memory, gpus, switches, nics, volumes, flags, hole, nodes @ ..] = data
    else {
        return None;
    };
    let flag = |bit: u8| flags >> bit & 1 != 0;
    Some(VmConfig {
        qemu_version: Some(VERSIONS[usize::from(*version) % VERSIONS.len()].to_owned()),
        // Many CPUs take time, so only some inputs have them.
        cpu_count: u32::from(*cpus) + if *cpus_high == 255 { 3840 } else { 256 * u32::from(cpus_high % 2) },
        memory_size: u64::from(*memory) << 28,
        num_gpus: u32::from(*gpus),
        num_nvswitches: u32::from(*switches),
        num_nics: u32::from(*nics),
        num_verity_volumes: u32::from(*volumes),
        hugepages: flag(0),
        hotplug_off: flag(1),
        pic: flag(2).then(|| flag(3)),
        pci_hole64_size: u64::from(*hole) << (flags >> 4 << 2),
        numa_nodes: nodes.iter().map(|bus| NumaNode { pxb_bus: (bus % 2 == 1).then_some(*bus) }).collect(),
        ..VmConfig::default()
    })
}

fn check(files: &AcpiFiles, has_nodes: bool) {
    let tables = &files.tables;
    assert!(tables.len() <= MAX_TABLES && tables.len().is_multiple_of(128 << 10), "{} bytes", tables.len());
    let mut expected = vec!["FACS", "DSDT", "FACP", "APIC", "SRAT", "MCFG", "WAET", "RSDT"];
    expected.retain(|name| *name != "SRAT" || has_nodes);
    let (mut at, mut places) = (0, Vec::new());
    for name in expected {
        assert_eq!(&tables[at..at + 4], name.as_bytes());
        places.push(at as u32);
        at += u32_at(tables, at + 4) as usize;
    }
    assert!(tables[at..].iter().all(|byte| *byte == 0), "something stands behind the tables");
    let root = places.pop().expect("the root table is the last");
    assert_eq!(u32_at(&files.rsdp, 16), root);
    for (index, place) in places[2..].iter().enumerate() {
        assert_eq!(u32_at(tables, root as usize + 36 + 4 * index), *place);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}
