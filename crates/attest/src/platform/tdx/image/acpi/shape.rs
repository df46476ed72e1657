//! The properties of a VM that appear in its ACPI tables, and which VMs can be described.

use super::super::qemu::{Machine, MachineError, Pic, Version};
use super::super::td_hob::{LOW_MEMORY, SPLIT_FROM};
use crate::vm_config::VmConfig;

/// Maximum number of CPUs of QEMU's q35 machine.
pub const MAX_CPUS: u32 = 4096;
/// Maximum number of NUMA nodes of QEMU.
pub const MAX_NODES: usize = 128;
/// Maximum number of root ports behind one expander: its bus has 32 slots.
pub const MAX_EXPANDER_PORTS: u32 = 32;

/// First slot for expanders on the root bus: node n's is `FIRST_EXPANDER + n`.
const FIRST_EXPANDER: u8 = 0x10;
/// Slot of the LPC bridge, the last one.
pub(super) const LPC: u8 = 0x1f;
/// Number of devices of every VM: host bridge, two disks, vsock, shared files.
const FIXED_DEVICES: u32 = 5;
/// Bus of the implicit expander of a VM with huge pages and GPUs.
const IMPLIED_BUS: u8 = 5;
/// The size of the 64-bit PCI hole if `pci_hole64_size` is 0.
const DEFAULT_HOLE: u64 = 32 << 30;
/// The address at which the firmware puts the first 64-bit BAR.
const HOLE_START: u64 = 0x3800_0000_0000;
const GIB: u64 = 1 << 30;

/// Why the tables of a VM cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The configuration does not determine a machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The VM has no memory.
    #[error("memory_size must be greater than 0")]
    NoMemory,
    /// More than [`MAX_NODES`].
    #[error("numa_nodes must be at most {MAX_NODES}, got {0}")]
    TooManyNodes(usize),
    /// CPUs or memory cannot be divided evenly among the nodes.
    #[error("{what} must be a multiple of the {nodes} numa_nodes")]
    Uneven {
        /// The quantity.
        what: &'static str,
        /// The number of nodes.
        nodes: usize,
    },
    /// No slot on the root bus for an expander.
    #[error("a pxb_bus is possible for the first 15 numa_nodes only")]
    TooManyExpanders,
    /// A `pxb_bus` is 0 or occurs twice.
    #[error("each pxb_bus must differ from the others and from 0")]
    ExpanderBus,
    /// More GPUs than slots behind the expanders.
    #[error("num_gpus must be at most {most} behind PCI expanders, got {got}")]
    TooManyPorts {
        /// The maximum.
        most: u32,
        /// The configured number.
        got: u32,
    },
    /// More devices than slots before the first expander.
    #[error("num_nics and num_verity_volumes must be at most 11 together beside PCI expanders, got {0}")]
    BeforeExpanders(u64),
    /// More devices than slots on the root bus.
    #[error("the root bus has {free} free slots, {needed} devices are needed")]
    RootBusFull {
        /// Number of free slots.
        free: u64,
        /// Number of slots needed.
        needed: u64,
    },
    /// NVSwitches without GPUs: QEMU needs an object for pass-through that only GPUs add.
    #[error("num_nvswitches without num_gpus: such a machine does not start")]
    SwitchWithoutGpu,
    /// Devices whose ACPI description is unknown.
    #[error("ACPI tables of VMs with extra_root_devices are not known")]
    ExtraDevices,
    /// The PCI window ends beyond the address space.
    #[error("pci_hole64_size {0:#x} is too large")]
    Hole(u64),
}

/// QEMU releases with different tables; each applies from its version on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Release {
    /// 8.0 to 9.1, including the TDX trees of Intel and Canonical.
    V8_0,
    V9_2,
    V10_0,
    V11_0,
    V11_1,
}

/// A NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Bus behind the node's PCI expander bridge.
    pub(super) bus: Option<u8>,
}

/// The device in a slot of the root bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    Endpoint,
    /// A root port with one device behind it.
    RootPort,
}

/// The properties of a VM that appear in its ACPI tables. A value exists only for VMs that can be described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub(super) release: Release,
    pub(super) pic: Pic,
    pub(super) cpus: u32,
    pub(super) memory: u64,
    /// Last address of the 64-bit PCI window, which begins at [`Shape::hole_start`].
    pub(super) hole_end: u64,
    pub(super) hotplug: bool,
    pub(super) nodes: Vec<Node>,
    /// The devices on the root bus by slot, without those of the LPC slot.
    pub(super) slots: Vec<(u8, Device)>,
}

impl Release {
    fn of(version: Version) -> Self {
        match (version.major, version.minor) {
            (..=8, _) | (9, ..=1) => Self::V8_0,
            (9, _) => Self::V9_2,
            (10, _) => Self::V10_0,
            (11, 0) => Self::V11_0,
            // Newer versions are assumed to be the same; if they differ, their guests are refused.
            _ => Self::V11_1,
        }
    }
}

impl Shape {
    /// The VM that `config` describes.
    ///
    /// # Errors
    /// [`ShapeError`].
    pub fn of(config: &VmConfig) -> Result<Self, ShapeError> {
        let machine = Machine::of(config)?;
        machine_has(config)?;
        let nodes = nodes(config)?;
        let slots = slots(config, &nodes)?;
        let hole = match config.pci_hole64_size {
            0 => DEFAULT_HOLE,
            size => size,
        };
        // QEMU rounds the end up to a multiple of 1 GiB.
        let hole_end = HOLE_START.checked_add(hole).and_then(|end| end.checked_next_multiple_of(GIB));
        Ok(Self {
            release: Release::of(machine.version),
            pic: machine.pic,
            cpus: config.cpu_count,
            memory: config.memory_size,
            hole_end: hole_end.ok_or(ShapeError::Hole(hole))? - 1,
            hotplug: !config.hotplug_off,
            nodes,
            slots,
        })
    }

    /// Memory below 4 GiB.
    pub(super) fn low_memory(&self) -> u64 {
        if self.memory < SPLIT_FROM { self.memory } else { LOW_MEMORY }
    }

    /// First address of the 64-bit PCI window.
    pub(super) fn hole_start() -> u64 {
        HOLE_START
    }

    /// The node of a CPU, if there are nodes.
    pub(super) fn node_of_cpu(&self, cpu: u32) -> Option<u32> {
        let nodes = self.nodes.len() as u32;
        (nodes > 0).then(|| cpu / (self.cpus / nodes))
    }

    /// The nodes with an expander, each with its bus.
    pub(super) fn expanders(&self) -> impl DoubleEndedIterator<Item = (u8, u8)> {
        (0..)
            .zip(&self.nodes)
            .filter_map(|(node, Node { bus })| Some((node, (*bus)?)))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Slots of the root ports.
    pub(super) fn root_ports(&self) -> impl DoubleEndedIterator<Item = u8> {
        self.slots.iter().filter(|(_, device)| *device == Device::RootPort).map(|(slot, _)| *slot)
    }
}

fn machine_has(config: &VmConfig) -> Result<(), ShapeError> {
    if config.swtpm {
        return Err(MachineError::SoftwareTpm.into());
    }
    if !config.extra_root_devices.is_empty() {
        return Err(ShapeError::ExtraDevices);
    }
    // Each of these modes needs one slot.
    if !matches!(config.host_share_mode.as_str(), "" | "9p" | "vvfat" | "vhd") {
        return Err(MachineError::ShareMode.into());
    }
    match config.cpu_count {
        0 => return Err(MachineError::NoCpus.into()),
        1..=MAX_CPUS => {}
        got => return Err(MachineError::TooMany { what: "cpu_count", most: MAX_CPUS, got }.into()),
    }
    if config.memory_size == 0 {
        return Err(ShapeError::NoMemory);
    }
    Ok(())
}

fn nodes(config: &VmConfig) -> Result<Vec<Node>, ShapeError> {
    let listed = &config.numa_nodes;
    if listed.is_empty() {
        let bus = (config.num_gpus > 0).then_some(IMPLIED_BUS);
        return Ok(config.hugepages.then_some(Node { bus }).into_iter().collect());
    }
    if listed.len() > MAX_NODES {
        return Err(ShapeError::TooManyNodes(listed.len()));
    }
    for (what, amount) in [("cpu_count", config.cpu_count.into()), ("memory_size", config.memory_size)] {
        if amount % listed.len() as u64 != 0 {
            return Err(ShapeError::Uneven { what, nodes: listed.len() });
        }
    }
    let mut buses = Vec::new();
    for (index, bus) in listed.iter().enumerate().filter_map(|(index, node)| Some((index, node.pxb_bus?))) {
        if index >= usize::from(LPC - FIRST_EXPANDER) {
            return Err(ShapeError::TooManyExpanders);
        }
        if bus == 0 || buses.contains(&bus) {
            return Err(ShapeError::ExpanderBus);
        }
        buses.push(bus);
    }
    Ok(listed.iter().map(|node| Node { bus: node.pxb_bus }).collect())
}

/// Assigns slots like QEMU, each device the next free one: host bridge, disk, volumes, network, vsock, shared
/// files, disk, root ports. Expanders have fixed slots.
fn slots(config: &VmConfig, nodes: &[Node]) -> Result<Vec<(u8, Device)>, ShapeError> {
    let expanders: Vec<u8> = (FIRST_EXPANDER..)
        .zip(nodes)
        .filter_map(|(slot, Node { bus })| bus.is_some().then_some(slot))
        .collect();
    let behind = MAX_EXPANDER_PORTS * expanders.len() as u32;
    if !expanders.is_empty() && config.num_gpus > behind {
        return Err(ShapeError::TooManyPorts { most: behind, got: config.num_gpus });
    }
    let variable = u64::from(config.num_nics) + u64::from(config.num_verity_volumes);
    let endpoints = u64::from(FIXED_DEVICES) + variable;
    if !expanders.is_empty() && endpoints > u64::from(FIRST_EXPANDER) {
        return Err(ShapeError::BeforeExpanders(variable));
    }
    let gpus = if expanders.is_empty() { config.num_gpus } else { 0 };
    let ports = u64::from(gpus) + u64::from(config.num_nvswitches);
    let free = u64::from(LPC) - u64::from(FIXED_DEVICES) - expanders.len() as u64;
    if variable + ports > free {
        return Err(ShapeError::RootBusFull { free, needed: variable + ports });
    }
    if config.num_nvswitches > 0 && config.num_gpus == 0 {
        return Err(ShapeError::SwitchWithoutGpu);
    }
    let mut free_slots = (0..LPC).filter(|slot| !expanders.contains(slot));
    let mut taken: Vec<(u8, Device)> =
        free_slots.by_ref().take(endpoints as usize).map(|slot| (slot, Device::Endpoint)).collect();
    taken.extend(free_slots.take(ports as usize).map(|slot| (slot, Device::RootPort)));
    taken.extend(expanders.iter().map(|slot| (*slot, Device::Endpoint)));
    taken.sort_unstable_by_key(|(slot, _)| *slot);
    Ok(taken)
}
