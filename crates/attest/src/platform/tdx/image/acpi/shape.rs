//! What of a VM shows in its ACPI tables, and which VMs can be described.

use super::super::qemu::{Machine, MachineError, Pic, Version};
use super::super::td_hob::{LOW_MEMORY, SPLIT_FROM};
use crate::vm_config::VmConfig;

/// Most CPUs of QEMU's q35 machine.
pub const MAX_CPUS: u32 = 4096;
/// Most NUMA nodes of QEMU.
pub const MAX_NODES: usize = 128;
/// Most root ports behind one expander: its bus has 32 slots.
pub const MAX_EXPANDER_PORTS: u32 = 32;

/// First slot of the root bus for an expander: that of node n is at `FIRST_EXPANDER + n`.
const FIRST_EXPANDER: u8 = 0x10;
/// Slot of the LPC bridge, behind all others.
pub(super) const LPC: u8 = 0x1f;
/// Devices that each VM has: host bridge, two disks, vsock, shared files.
const FIXED_DEVICES: u32 = 5;
/// Bus of the expander that huge pages with GPUs imply.
const IMPLIED_BUS: u8 = 5;
/// `pci_hole64_size` where it is 0.
const DEFAULT_HOLE: u64 = 32 << 30;
/// Where the firmware puts the first 64-bit BAR.
const HOLE_START: u64 = 0x3800_0000_0000;
const GIB: u64 = 1 << 30;

/// Why the tables of a VM cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The configuration names no machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A VM without memory.
    #[error("memory_size must be greater than 0")]
    NoMemory,
    /// More NUMA nodes than QEMU has.
    #[error("numa_nodes must be at most {MAX_NODES}, got {0}")]
    TooManyNodes(usize),
    /// CPUs or memory that nodes cannot share evenly.
    #[error("{what} must be a multiple of the {nodes} numa_nodes")]
    Uneven {
        /// Of what.
        what: &'static str,
        /// Among how many.
        nodes: usize,
    },
    /// An expander has no place on the root bus.
    #[error("a pxb_bus is possible for the first 15 numa_nodes only")]
    TooManyExpanders,
    /// Bus 0, or one that is there twice.
    #[error("each pxb_bus must differ from the others and from 0")]
    ExpanderBus,
    /// More GPUs than the expanders have slots.
    #[error("num_gpus must be at most {most} behind PCI expanders, got {got}")]
    TooManyPorts {
        /// How many may be.
        most: u32,
        /// How many there are said to be.
        got: u32,
    },
    /// Devices where the first expander has to be.
    #[error("num_nics and num_verity_volumes must be at most 11 together beside PCI expanders, got {0}")]
    BeforeExpanders(u64),
    /// More devices than the root bus has slots.
    #[error("the root bus has {free} free slots, {needed} devices are needed")]
    RootBusFull {
        /// How many are free.
        free: u64,
        /// How many are needed.
        needed: u64,
    },
    /// A switch is passed through by an object that only GPUs bring along.
    #[error("num_nvswitches without num_gpus is no machine that starts")]
    SwitchWithoutGpu,
    /// Devices whose description is not known.
    #[error("ACPI tables of VMs with extra_root_devices are not known")]
    ExtraDevices,
    /// A window beyond the address space.
    #[error("pci_hole64_size {0:#x} is too large")]
    Hole(u64),
}

/// Releases of QEMU that describe a VM differently, each from the version in its name on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Release {
    /// 8.0 to 9.1: the TDX trees of Intel and Canonical.
    V8_0,
    V9_2,
    V10_0,
    V11_0,
    V11_1,
}

/// A NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Bus behind its PCI expander bridge.
    pub(super) bus: Option<u8>,
}

/// What is in a slot of the root bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    Endpoint,
    /// A root port with one device behind it.
    RootPort,
}

/// A VM, as far as its ACPI tables tell. Only shapes that can be described exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub(super) release: Release,
    pub(super) pic: Pic,
    pub(super) cpus: u32,
    pub(super) memory: u64,
    /// Last address of the 64-bit window for PCI, which begins at [`Shape::hole_start`].
    pub(super) hole_end: u64,
    pub(super) hotplug: bool,
    pub(super) nodes: Vec<Node>,
    /// The root bus by slot, without the devices of the LPC slot.
    pub(super) slots: Vec<(u8, Device)>,
}

impl Release {
    fn of(version: Version) -> Self {
        match (version.major, version.minor) {
            (..=8, _) | (9, ..=1) => Self::V8_0,
            (9, _) => Self::V9_2,
            (10, _) => Self::V10_0,
            (11, 0) => Self::V11_0,
            // Newer ones are not known: if they differ, their guests are refused.
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
        // QEMU rounds the end up to whole GiB.
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

    /// First address of the 64-bit window for PCI.
    pub(super) fn hole_start() -> u64 {
        HOLE_START
    }

    /// The node of a CPU, if there are nodes.
    pub(super) fn node_of_cpu(&self, cpu: u32) -> Option<u32> {
        let nodes = self.nodes.len() as u32;
        (nodes > 0).then(|| cpu / (self.cpus / nodes))
    }

    /// Nodes with an expander, with its bus.
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
    // Any of them takes one slot.
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

/// QEMU gives each device the next free slot: host bridge, disk, volumes, network, vsock, shared files, disk, then the
/// root ports. Expanders have slots of their own.
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
