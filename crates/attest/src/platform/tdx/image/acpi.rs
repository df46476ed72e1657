//! The ACPI tables that QEMU gives to a guest, computed byte for byte from the VM's shape.
//!
//! The firmware measures three files from QEMU into RTMR0: the tables, the root pointer (RSDP), and the
//! loader commands that place and link them. [`AcpiDigests::of_vm`] computes all three without QEMU, so their
//! contents need not be taken from the host or the guest.
//!
//! | File | What |
//! |---|---|
//! | `shape.rs` | the VMs that can be described, and their properties that appear in the tables |
//! | `aml.rs` | encoder of AML, the language of the DSDT |
//! | `dsdt/` | DSDT: the devices, a file for each part |
//! | `facp.rs`, `madt.rs`, `srat.rs`, `fixed.rs` | the other tables |
//! | `blobs.rs` | root pointer and loader commands for given tables |
//!
//! To see why a byte has its value, compare the functions here with the disassembly of a table (`iasl -d`).

mod aml;
mod blobs;
mod dsdt;
mod facp;
mod fixed;
mod header;
mod madt;
mod shape;
mod srat;
#[cfg(test)]
mod tests;

pub use self::blobs::AcpiError;
pub use self::shape::{MAX_CPUS, MAX_EXPANDER_PORTS, MAX_NODES, Shape, ShapeError};
use super::digest::sha384;

/// QEMU pads the tables to a multiple of this.
const UNIT: usize = 128 << 10;

/// The measurements of the three files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiDigests {
    /// Of the loader commands.
    pub loader: [u8; 48],
    /// Of the root system description pointer.
    pub rsdp: [u8; 48],
    /// Of the tables.
    pub tables: [u8; 48],
}

/// The three files that the firmware measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiFiles {
    /// `etc/table-loader`.
    pub loader: Vec<u8>,
    /// `etc/acpi/rsdp`.
    pub rsdp: Vec<u8>,
    /// `etc/acpi/tables`.
    pub tables: Vec<u8>,
}

impl AcpiDigests {
    /// The measurements of the files that QEMU gives to the guest.
    pub fn of_vm(shape: &Shape) -> Self {
        AcpiFiles::of_vm(shape).digests()
    }

    /// The measurements of the given tables, with the root pointer and loader commands that QEMU makes for
    /// them.
    ///
    /// # Errors
    /// [`AcpiError`].
    pub fn of_tables(tables: &[u8]) -> Result<Self, AcpiError> {
        Ok(AcpiFiles::of_tables(tables.to_vec())?.digests())
    }
}

impl AcpiFiles {
    /// The files that QEMU gives to the guest.
    pub fn of_vm(shape: &Shape) -> Self {
        Self::of_tables(tables(shape)).expect("the tables that are made here are well-formed")
    }

    /// The given tables, with the root pointer and loader commands that QEMU makes for them.
    ///
    /// # Errors
    /// [`AcpiError`].
    pub fn of_tables(tables: Vec<u8>) -> Result<Self, AcpiError> {
        Ok(Self { loader: blobs::loader(&tables)?, rsdp: blobs::rsdp(&tables)?, tables })
    }

    fn digests(&self) -> AcpiDigests {
        AcpiDigests {
            loader: sha384(&[&self.loader]),
            rsdp: sha384(&[&self.rsdp]),
            tables: sha384(&[&self.tables]),
        }
    }
}

/// `etc/acpi/tables`.
fn tables(shape: &Shape) -> Vec<u8> {
    let mut tables = fixed::facs();
    let dsdt = tables.len() as u32;
    tables.extend(dsdt::dsdt(shape));
    let mut listed = Vec::new();
    let described = [Some(facp::facp(shape, dsdt)), Some(madt::madt(shape)), srat::srat(shape)];
    for table in described.into_iter().flatten().chain([fixed::mcfg(), fixed::waet()]) {
        listed.push(tables.len() as u32);
        tables.extend(table);
    }
    tables.extend(fixed::rsdt(&listed));
    tables.resize(tables.len().next_multiple_of(UNIT), 0);
    tables
}
