//! Legacy verification: computes the registers from the image's files.

use serde::Deserialize;

use super::acpi::{AcpiDigests, AcpiError, Shape, ShapeError};
use super::kernel::{self, Header, KernelError};
use super::mrtd::mrtd;
use super::qemu::{Machine, MachineError};
use super::registers::{self, BootRegisters};
use super::td_hob::MemoryLayout;
use super::tdvf::{self, TdvfError};
use super::{MrtdError, TdHobError};
use crate::platform::manifest::is_plain;
use crate::vm_config::VmConfig;

/// File name of the image's metadata.
pub const METADATA: &str = "metadata.json";

/// `metadata.json`: the names of the image's files. Unknown keys are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Metadata {
    /// Kernel command line.
    pub cmdline: String,
    /// File name of the kernel.
    pub kernel: String,
    /// File name of the initrd.
    pub initrd: String,
    /// File name of the firmware.
    pub bios: String,
    /// The image's version.
    #[serde(default)]
    pub version: String,
    /// Whether the kernel's setup header is measured as in the file.
    #[serde(default)]
    pub kernel_header_normalized: bool,
    /// Whether the image is for development.
    #[serde(default)]
    pub is_dev: bool,
}

/// Why metadata is refused.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The JSON is invalid or lacks a key.
    #[error("metadata.json does not parse: {0}")]
    Json(#[from] serde_json::Error),
    /// A file name with a directory.
    #[error("metadata.json names a {0} with an unsafe path")]
    UnsafePath(&'static str),
}

impl Metadata {
    /// Which form of the kernel's setup header is measured.
    pub fn kernel_header(&self) -> Header {
        if self.kernel_header_normalized { Header::AsShipped } else { Header::FilledInByQemu }
    }

    /// Parses `metadata.json`.
    ///
    /// # Errors
    /// [`MetadataError`].
    pub fn parse(text: &[u8]) -> Result<Self, MetadataError> {
        let metadata: Self = crate::json::from_utf8(text)?;
        let names = [("bios", &metadata.bios), ("kernel", &metadata.kernel), ("initrd", &metadata.initrd)];
        if let Some((what, _)) = names.into_iter().find(|(_, name)| !is_plain(name)) {
            return Err(MetadataError::UnsafePath(what));
        }
        Ok(metadata)
    }
}

/// The measured parts of an image.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    /// The firmware.
    pub firmware: &'a [u8],
    /// The kernel; measuring changes it.
    pub kernel: Vec<u8>,
    /// Which form of the kernel's setup header is measured.
    pub kernel_header: Header,
    /// Length of the initrd, bytes.
    pub initrd_size: u64,
    /// SHA-384 of the initrd.
    pub initrd_sha384: [u8; 48],
    /// Kernel command line.
    pub command_line: &'a str,
}

/// Why the registers of an image cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LegacyError {
    /// The configuration does not determine a machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The firmware is not a TDX firmware.
    #[error(transparent)]
    Tdvf(#[from] TdvfError),
    /// The firmware cannot be measured.
    #[error(transparent)]
    Mrtd(#[from] MrtdError),
    /// The firmware's memory ranges do not fit the VM's memory.
    #[error(transparent)]
    TdHob(#[from] TdHobError),
    /// The ACPI tables of the VM are unknown.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The given bytes are not ACPI tables.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// The kernel cannot be measured.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// The source of the ACPI tables.
#[derive(Clone, Copy, Debug)]
pub enum AcpiTables<'a> {
    /// Computed for the VM.
    OfVm,
    /// Printed by a program.
    Given(&'a [u8]),
}

/// The registers of the VM that `config` describes, with this image and these ACPI tables.
///
/// # Errors
/// [`LegacyError`].
pub fn boot_registers(
    config: &VmConfig,
    image: Image<'_>,
    acpi_tables: AcpiTables<'_>,
) -> Result<BootRegisters, LegacyError> {
    let machine = Machine::of(config)?;
    let sections = tdvf::sections(image.firmware)?;
    let memory = config.memory_size;
    let td_hob = MemoryLayout::of(&sections)?.digest(memory)?;
    let acpi = match acpi_tables {
        AcpiTables::OfVm => AcpiDigests::of_vm(&Shape::of(config)?),
        AcpiTables::Given(tables) => AcpiDigests::of_tables(tables)?,
    };
    let kernel = match image.kernel_header {
        Header::FilledInByQemu => kernel::digest_filled_in(image.kernel, image.initrd_size, memory)?,
        Header::AsShipped => kernel::digest_as_shipped(&image.kernel)?,
    };
    Ok(BootRegisters {
        mrtd: mrtd(image.firmware, &sections, machine.passes)?,
        rtmr0: registers::rtmr0(td_hob, &acpi),
        rtmr1: registers::rtmr1(kernel),
        rtmr2: registers::rtmr2(registers::command_line(image.command_line), image.initrd_sha384),
    })
}
