//! The small tables: FACS, MCFG, WAET and RSDT.

use super::header::Table;

/// Firmware ACPI Control Structure: only its signature and length are set.
pub(super) fn facs() -> Vec<u8> {
    let mut table = vec![0; 64];
    table[..8].copy_from_slice(b"FACS\x40\0\0\0");
    table
}

/// MCFG: PCI configuration space is at 0xe0000000, for buses 0 to 255.
pub(super) fn mcfg() -> Vec<u8> {
    Table::new(b"MCFG", 1).u64(0).u64(0xe000_0000).u16(0).u8(0).u8(255).u32(0).finish()
}

/// Windows ACPI Emulated Devices Table: the ACPI PM timer is reliable.
pub(super) fn waet() -> Vec<u8> {
    Table::new(b"WAET", 1).u32(2).finish()
}

/// Root System Description Table: the offsets of the others.
pub(super) fn rsdt(offsets: &[u32]) -> Vec<u8> {
    let mut table = Table::new(b"RSDT", 1);
    offsets.iter().for_each(|offset| {
        table.u32(*offset);
    });
    table.finish()
}
