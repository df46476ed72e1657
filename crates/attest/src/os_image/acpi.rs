//! ACPI: from the tables that the ACPI program prints to the three things that the firmware measures.

use super::{
    bytes::{OutOfBounds, u32_at},
    registers::{Digest, sha384},
};

/// The measurements of the loader commands, of the root pointer and of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiDigests {
    /// Of the loader commands.
    pub loader: [u8; 48],
    /// Of the root system description pointer.
    pub rsdp: [u8; 48],
    /// Of the tables.
    pub tables: [u8; 48],
}

/// Why bytes are not the tables of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcpiError {
    /// A table that is shorter than its header, or longer than what is there.
    #[error("the ACPI tables are malformed at byte {0}")]
    Malformed(usize),
    /// A table that every VM has is not there.
    #[error("the ACPI tables have no {0}")]
    Missing(&'static str),
}

impl From<OutOfBounds> for AcpiError {
    fn from(OutOfBounds(at): OutOfBounds) -> Self {
        Self::Malformed(at)
    }
}

/// A table's place among the others.
#[derive(Clone, Copy)]
struct Table {
    offset: u32,
    length: u32,
}

/// Signature and length.
const HEADER: u32 = 8;
const TABLES_FILE: &str = "etc/acpi/tables";
const RSDP_FILE: &str = "etc/acpi/rsdp";
const LOADER: usize = 4096;

impl AcpiDigests {
    /// Measures the tables, and what QEMU makes for them.
    ///
    /// # Errors
    /// [`AcpiError`].
    pub fn of(tables: &[u8]) -> Result<Self, AcpiError> {
        let digest = |bytes: &[u8]| -> Digest { sha384(&[bytes]) };
        Ok(Self { loader: digest(&loader(tables)?), rsdp: digest(&rsdp(tables)?), tables: digest(tables) })
    }
}

/// The first table of a signature.
fn find(tables: &[u8], signature: &'static str) -> Result<Table, AcpiError> {
    let mut offset = 0usize;
    while let Some(rest) = tables.get(offset..).filter(|rest| !rest.is_empty()) {
        let length = u32_at(rest, 4).map_err(|_| AcpiError::Malformed(offset))?;
        if length < HEADER || rest.len() < length as usize {
            return Err(AcpiError::Malformed(offset));
        }
        if rest.starts_with(signature.as_bytes()) {
            let offset = u32::try_from(offset).map_err(|_| AcpiError::Malformed(offset))?;
            return Ok(Table { offset, length });
        }
        offset += length as usize;
    }
    Err(AcpiError::Missing(signature))
}

fn rsdp(tables: &[u8]) -> Result<Vec<u8>, AcpiError> {
    let root = find(tables, "RSDT")?;
    Ok([&b"RSD PTR \0BOCHS \0"[..], &root.offset.to_le_bytes()].concat())
}

/// The commands by which the firmware places and links the tables.
fn loader(tables: &[u8]) -> Result<Vec<u8>, AcpiError> {
    let table = |signature| find(tables, signature);
    let mut commands = Commands(Vec::with_capacity(LOADER));
    commands.allocate(RSDP_FILE, 16, Zone::FirmwareSegment);
    commands.allocate(TABLES_FILE, 64, Zone::High);
    commands.checksum_table(table("DSDT")?);
    let facp = table("FACP")?;
    for (field, size) in [(36, 4), (40, 4), (140, 8)] {
        commands.point(TABLES_FILE, facp.offset.saturating_add(field), size);
    }
    commands.checksum_table(facp);
    for signature in ["APIC", "MCFG", "WAET"] {
        commands.checksum_table(table(signature)?);
    }
    let rsdt = table("RSDT")?;
    for field in [36, 40, 44, 48] {
        commands.point(TABLES_FILE, rsdt.offset.saturating_add(field), 4);
    }
    commands.checksum_table(rsdt);
    commands.point(RSDP_FILE, 16, 4);
    commands.checksum(RSDP_FILE, 8, 0, 20);
    let mut bytes = commands.0;
    bytes.resize(LOADER, 0);
    Ok(bytes)
}

#[derive(Clone, Copy)]
enum Zone {
    High = 1,
    FirmwareSegment = 2,
}

/// Commands of 128 bytes each.
struct Commands(Vec<u8>);

impl Commands {
    fn push(&mut self, number: u32, files: &[&str], rest: &[&[u8]]) {
        let end = self.0.len() + 128;
        self.0.extend_from_slice(&number.to_le_bytes());
        for file in files {
            let mut name = [0; 56];
            name[..file.len()].copy_from_slice(file.as_bytes());
            self.0.extend_from_slice(&name);
        }
        rest.iter().for_each(|part| self.0.extend_from_slice(part));
        self.0.resize(end, 0);
    }

    fn allocate(&mut self, file: &str, alignment: u32, zone: Zone) {
        self.push(1, &[file], &[&alignment.to_le_bytes(), &[zone as u8]]);
    }

    /// A pointer in `file` to the tables.
    fn point(&mut self, file: &str, offset: u32, size: u8) {
        self.push(2, &[file, TABLES_FILE], &[&offset.to_le_bytes(), &[size]]);
    }

    fn checksum(&mut self, file: &str, result: u32, start: u32, length: u32) {
        self.push(3, &[file], &[&result.to_le_bytes(), &start.to_le_bytes(), &length.to_le_bytes()]);
    }

    fn checksum_table(&mut self, Table { offset, length }: Table) {
        self.checksum(TABLES_FILE, offset.saturating_add(9), offset, length);
    }
}
