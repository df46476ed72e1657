//! The files that QEMU makes for given tables: root pointer and loader commands.

use super::super::bytes::{OutOfBounds, u32_at};

/// Why bytes are not a VM's ACPI tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcpiError {
    /// A table that is shorter than its header or longer than the rest of the bytes.
    #[error("the ACPI tables are malformed at byte {0}")]
    Malformed(usize),
    /// A table that every VM has is missing.
    #[error("the ACPI tables have no {0}")]
    Missing(&'static str),
}

impl From<OutOfBounds> for AcpiError {
    fn from(OutOfBounds(at): OutOfBounds) -> Self {
        Self::Malformed(at)
    }
}

/// Position of a table.
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
/// Length of the root table without its entries.
const RSDT_HEADER: u32 = 36;
/// Maximum number of entries of the root table; the commands for them fit into [`LOADER`].
const MAX_ENTRIES: u32 = 8;

/// The first table with this signature. Zero bytes end the list.
fn find(tables: &[u8], signature: &'static str) -> Result<Table, AcpiError> {
    let mut offset = 0usize;
    while let Some(rest) = tables.get(offset..).filter(|rest| rest.iter().take(4).any(|byte| *byte != 0)) {
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

pub(super) fn rsdp(tables: &[u8]) -> Result<Vec<u8>, AcpiError> {
    let root = find(tables, "RSDT")?;
    Ok([&b"RSD PTR \0BOCHS \0"[..], &root.offset.to_le_bytes()].concat())
}

/// The commands that make the firmware place and link the tables.
pub(super) fn loader(tables: &[u8]) -> Result<Vec<u8>, AcpiError> {
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
    commands.checksum_table(table("APIC")?);
    // Only VMs with NUMA nodes have an SRAT.
    match table("SRAT") {
        Ok(srat) => commands.checksum_table(srat),
        Err(AcpiError::Missing(_)) => {}
        Err(error) => return Err(error),
    }
    for signature in ["MCFG", "WAET"] {
        commands.checksum_table(table(signature)?);
    }
    let rsdt = table("RSDT")?;
    let entries = rsdt.length.saturating_sub(RSDT_HEADER) / 4;
    if entries > MAX_ENTRIES {
        return Err(AcpiError::Malformed(rsdt.offset as usize));
    }
    for entry in 0..entries {
        commands.point(TABLES_FILE, rsdt.offset.saturating_add(RSDT_HEADER + 4 * entry), 4);
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

/// Loader commands, 128 bytes each.
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

    /// Adds a pointer to the tables into `file`.
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
