//! Behaviour of QEMU by version, and the call of the program that prints a VM's ACPI tables.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use crate::vm_config::VmConfig;

/// Maximum number of each kind of device. The peer has no limit.
pub const MAX_DEVICES: u32 = 64;
/// Maximum number of CPUs of QEMU's q35 machine.
pub const MAX_CPUS: u32 = 4096;

const MIB: u64 = 1 << 20;

/// A version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub(super) major: u32,
    pub(super) minor: u32,
    patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The order in which firmware pages are added and measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// Each page is added and measured, one after the other.
    Single,
    /// All pages of a section are added, then all are measured.
    Two,
}

/// Whether the VM has the legacy interrupt controller (PIC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pic {
    /// It is there.
    On,
    /// It is not there.
    Off,
}

/// The properties of QEMU that the registers depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// QEMU's version.
    pub version: Version,
    /// How firmware pages are added.
    pub passes: Passes,
    /// Whether the VM has the legacy interrupt controller.
    pub pic: Pic,
}

/// Why a VM's machine cannot be determined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// Not `major.minor.patch`.
    #[error("qemu_version must be major.minor.patch")]
    NotAVersion,
    /// Older than 8.0.0.
    #[error("Unsupported QEMU version: {0}")]
    Unsupported(Version),
    /// A software TPM, which changes the tables in an unknown way.
    #[error("swtpm measurement is not supported")]
    SoftwareTpm,
    /// The VM has no CPUs.
    #[error("cpuCount must be greater than 0")]
    NoCpus,
    /// More than the maximum.
    #[error("{what} must be at most {most}, got {got}")]
    TooMany {
        /// The quantity.
        what: &'static str,
        /// The maximum.
        most: u32,
        /// The configured number.
        got: u32,
    },
    /// A setting that the program for ACPI tables has no argument for.
    #[error("a program for ACPI tables cannot be told of {0}: core.image.acpi_tables must be empty")]
    ProgramLacks(&'static str),
    /// An unknown mode of sharing files.
    #[error("Invalid shared disk mode")]
    ShareMode,
}

impl Machine {
    /// The machine that `config` describes; version 9.1.0 if it states none.
    ///
    /// # Errors
    /// [`MachineError::NotAVersion`], [`MachineError::Unsupported`].
    pub fn of(config: &VmConfig) -> Result<Self, MachineError> {
        let version = match &config.qemu_version {
            Some(text) => version(text)?,
            None => Version { major: 9, minor: 1, patch: 0 },
        };
        let (passes, pic) = match version.major {
            ..8 => return Err(MachineError::Unsupported(version)),
            8 => (Passes::Two, Pic::On),
            _ => (Passes::Single, Pic::Off),
        };
        Ok(Self {
            version,
            // Inverted like in the peer: docs/compatibility.md.
            passes: match config.qemu_single_pass_add_pages {
                Some(true) => Passes::Two,
                Some(false) => Passes::Single,
                None => passes,
            },
            pic: match config.pic {
                Some(true) => Pic::On,
                Some(false) => Pic::Off,
                None => pic,
            },
        })
    }
}

fn version(text: &str) -> Result<Version, MachineError> {
    let mut parts = text.splitn(3, '.').map(|part| match part.bytes().all(|byte| byte.is_ascii_digit()) {
        true => part.parse().map_err(|_| MachineError::NotAVersion),
        false => Err(MachineError::NotAVersion),
    });
    let mut part = || parts.next().unwrap_or(Err(MachineError::NotAVersion));
    Ok(Version { major: part()?, minor: part()?, patch: part()? })
}

/// The command line of the program for ACPI tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiCall {
    /// Value of [`AcpiCall::VARIABLE`].
    pub version: String,
    /// The arguments.
    pub arguments: Vec<OsString>,
}

impl AcpiCall {
    /// An environment variable that the program needs.
    pub const VARIABLE: &'static str = "QEMU_ACPI_COMPAT_VER";

    /// The call for the VM that `config` describes, with the image's files at these paths.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn of(config: &VmConfig, firmware: &Path, kernel: &Path) -> Result<Self, MachineError> {
        let machine = Machine::of(config)?;
        check(config)?;
        let memory = config.memory_size / MIB;
        let mut call = Arguments(Vec::new());
        call.push(&format!("-cpu qemu64 -smp {} -m {memory}M", config.cpu_count));
        call.push("-nographic -nodefaults -serial stdio -bios");
        call.0.push(firmware.into());
        call.push("-kernel");
        call.0.push(kernel.into());
        call.push("-initrd /bin/sh");
        call.drive("hd1");
        (0..config.num_verity_volumes).for_each(|index| call.drive(&format!("vol{index}")));
        for index in 0..config.num_nics {
            call.push(&format!("-netdev user,id=net{index} -device virtio-net-pci,netdev=net{index}"));
        }
        call.push("-object tdx-guest,id=tdx -device vhost-vsock-pci,guest-cid=3");
        match config.host_share_mode.as_str() {
            "" | "9p" => call.push(
                "-virtfs local,path=/bin,mount_tag=host-shared,readonly=on,security_model=none,id=virtfs0",
            ),
            "vvfat" | "vhd" => call.drive("hd2"),
            _ => return Err(MachineError::ShareMode),
        }
        call.drive("hd0");
        let pic = match machine.pic {
            Pic::On => "on",
            Pic::Off => "off",
        };
        call.push(&format!(
            "-machine q35,kernel-irqchip=split,confidential-guest-support=tdx,hpet=off,smm=off,pic={pic}"
        ));
        call.hugepages(config, memory);
        call.passed_through(config);
        if config.hotplug_off {
            call.push("-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off");
        }
        if config.pci_hole64_size > 0 {
            call.push(&format!("-global q35-pcihost.pci-hole64-size={:#x}", config.pci_hole64_size));
        }
        Ok(Self { version: machine.version.to_string(), arguments: call.0 })
    }
}

fn check(config: &VmConfig) -> Result<(), MachineError> {
    if config.swtpm {
        return Err(MachineError::SoftwareTpm);
    }
    if config.cpu_count == 0 {
        return Err(MachineError::NoCpus);
    }
    if !config.numa_nodes.is_empty() {
        return Err(MachineError::ProgramLacks("numa_nodes"));
    }
    if !config.extra_root_devices.is_empty() {
        return Err(MachineError::ProgramLacks("extra_root_devices"));
    }
    for (what, most, got) in [
        ("cpu_count", MAX_CPUS, config.cpu_count),
        ("num_gpus", MAX_DEVICES, config.num_gpus),
        ("num_nvswitches", MAX_DEVICES, config.num_nvswitches),
        ("num_nics", MAX_DEVICES, config.num_nics),
        ("num_verity_volumes", MAX_DEVICES, config.num_verity_volumes),
    ] {
        if got > most {
            return Err(MachineError::TooMany { what, most, got });
        }
    }
    Ok(())
}

struct Arguments(Vec<OsString>);

impl Arguments {
    /// Appends the words of a text.
    fn push(&mut self, words: &str) {
        self.0.extend(words.split(' ').map(OsString::from));
    }

    fn drive(&mut self, id: &str) {
        self.push(&format!("-drive file=/bin/sh,if=none,id={id},format=raw,readonly=on"));
        self.push(&format!("-device virtio-blk-pci,drive={id}"));
    }

    fn hugepages(&mut self, config: &VmConfig, memory: u64) {
        if config.hugepages {
            let last = config.cpu_count.saturating_sub(1);
            self.push(&format!("-numa node,nodeid=0,cpus=0-{last},memdev=mem0"));
            self.push(&format!(
                "-object memory-backend-file,id=mem0,size={memory}M,mem-path=/dev/hugepages,share=on,prealloc=no,\
                 host-nodes=0,policy=bind"
            ));
        }
    }

    /// GPUs, then switches, each behind its own root port.
    fn passed_through(&mut self, config: &VmConfig) {
        let (gpus, switches) = (config.num_gpus, config.num_nvswitches);
        if gpus == 0 && switches == 0 {
            return;
        }
        self.push("-object iommufd,id=iommufd0");
        let gpu_bus = if config.hugepages {
            self.push("-device pxb-pcie,id=pcie.node0,bus=pcie.0,addr=10,numa_node=0,bus_nr=5");
            "pcie.node0"
        } else {
            "pcie.0"
        };
        for port in 0..gpus + switches {
            let bus = if port < gpus { gpu_bus } else { "pcie.0" };
            self.push(&format!("-device pcie-root-port,id=pci.{port},bus={bus},chassis={port}"));
            self.push(&format!("-device vfio-pci,host=00:00.0,bus=pci.{port},iommufd=iommufd0"));
        }
    }
}
