//! Shapes that are refused. `tests/vectors.rs` compares the files with those of real QEMU releases.

use super::{AcpiFiles, Shape, ShapeError};
use crate::platform::tdx::image::qemu::MachineError;
use crate::vm_config::{NumaNode, VmConfig};

#[test]
fn shapes_that_cannot_be_described_are_refused_by_what_is_wrong() {
    let node = |pxb_bus| NumaNode { pxb_bus };
    let good = VmConfig { cpu_count: 4, memory_size: 4 << 30, hotplug_off: true, ..VmConfig::default() };
    let nodes = |buses: &[Option<u8>]| VmConfig {
        numa_nodes: buses.iter().copied().map(node).collect(),
        ..good.clone()
    };
    let most_cpus = MachineError::TooMany { what: "cpu_count", most: 4096, got: 4097 };
    let cases = [
        (VmConfig { cpu_count: 0, ..good.clone() }, MachineError::NoCpus.into()),
        (VmConfig { cpu_count: 4097, ..good.clone() }, most_cpus.into()),
        (VmConfig { swtpm: true, ..good.clone() }, MachineError::SoftwareTpm.into()),
        (VmConfig { host_share_mode: "nfs".into(), ..good.clone() }, MachineError::ShareMode.into()),
        (VmConfig { qemu_version: Some("10".into()), ..good.clone() }, MachineError::NotAVersion.into()),
        (VmConfig { memory_size: 0, ..good.clone() }, ShapeError::NoMemory),
        (VmConfig { extra_root_devices: vec!["endpoint".into()], ..good.clone() }, ShapeError::ExtraDevices),
        (VmConfig { numa_nodes: vec![node(None); 129], ..good.clone() }, ShapeError::TooManyNodes(129)),
        (nodes(&[None; 3]), ShapeError::Uneven { what: "cpu_count", nodes: 3 }),
        (
            VmConfig { memory_size: (4 << 30) + 1, ..nodes(&[None; 2]) },
            ShapeError::Uneven { what: "memory_size", nodes: 2 },
        ),
        (nodes(&[Some(5), Some(5)]), ShapeError::ExpanderBus),
        (nodes(&[Some(5), Some(0)]), ShapeError::ExpanderBus),
        (
            VmConfig { cpu_count: 16, ..nodes(&(1..=16).map(Some).collect::<Vec<_>>()) },
            ShapeError::TooManyExpanders,
        ),
        (
            VmConfig { hugepages: true, num_gpus: 33, ..good.clone() },
            ShapeError::TooManyPorts { most: 32, got: 33 },
        ),
        (
            VmConfig { num_gpus: 65, ..nodes(&[Some(5), Some(6)]) },
            ShapeError::TooManyPorts { most: 64, got: 65 },
        ),
        (
            VmConfig { hugepages: true, num_gpus: 1, num_nics: 8, num_verity_volumes: 4, ..good.clone() },
            ShapeError::BeforeExpanders(12),
        ),
        (VmConfig { num_nics: 27, ..good.clone() }, ShapeError::RootBusFull { free: 26, needed: 27 }),
        (
            VmConfig { num_nics: u32::MAX, num_verity_volumes: u32::MAX, num_gpus: u32::MAX, ..good.clone() },
            ShapeError::RootBusFull { free: 26, needed: 3 * u64::from(u32::MAX) },
        ),
        (
            VmConfig { num_gpus: 20, num_nvswitches: 6, ..good.clone() },
            ShapeError::RootBusFull { free: 26, needed: 27 },
        ),
        (
            VmConfig { num_gpus: 1, num_nvswitches: 25, ..nodes(&[Some(5), Some(9)]) },
            ShapeError::RootBusFull { free: 24, needed: 26 },
        ),
        (VmConfig { num_nvswitches: 1, ..good.clone() }, ShapeError::SwitchWithoutGpu),
        (VmConfig { pci_hole64_size: u64::MAX, ..good.clone() }, ShapeError::Hole(u64::MAX)),
    ];
    for (config, refusal) in cases {
        assert_eq!(Shape::of(&config).unwrap_err(), refusal, "{config:?}");
    }
    for config in [
        VmConfig { num_nics: 26, ..good.clone() },
        VmConfig { num_gpus: 20, num_nvswitches: 5, hotplug_off: false, ..good.clone() },
        VmConfig { num_gpus: 1, num_nvswitches: 23, ..nodes(&[Some(5), Some(9)]) },
        VmConfig { cpu_count: 128, numa_nodes: vec![node(None); 128], ..good.clone() },
        VmConfig { pci_hole64_size: 1 << 62, ..good },
    ] {
        AcpiFiles::of_vm(&Shape::of(&config).unwrap());
    }
}
