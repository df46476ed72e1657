//! FACP, the Fixed ACPI Description Table: power management registers of the ICH9 (ACPI 6.5, 5.2.9; revision 3).

use super::header::Table;
use super::shape::Shape;

const LENGTH: usize = 244;
/// Flags: WBINVD, C1, SLP_BUTTON, RTC wake, reset register, ….
const FLAGS: u32 = 0x84a5;
/// Set with many CPUs: physical destination mode of the APIC (FORCE_APIC_PHYSICAL_DESTINATION_MODE).
const FORCE_PHYSICAL_DESTINATION: u32 = 1 << 18;
/// Maximum number of CPUs in flat logical mode.
const FLAT_MODE: u32 = 8;

/// A generic address: I/O space, width in bits, port.
fn port(bits: u8, port: u16) -> [u8; 12] {
    let [low, high] = port.to_le_bytes();
    [1, bits, 0, 0, low, high, 0, 0, 0, 0, 0, 0]
}

pub(super) fn facp(shape: &Shape, dsdt: u32) -> Vec<u8> {
    let flags = if shape.cpus > FLAT_MODE { FLAGS | FORCE_PHYSICAL_DESTINATION } else { FLAGS };
    Table::new(b"FACP", 3)
        .fill(
            LENGTH,
            &[
                (40, &dsdt.to_le_bytes()),
                // INT_MODEL, and the SCI interrupt.
                (44, &[1]),
                (46, &9u16.to_le_bytes()),
                // PM1a event and control blocks, timer, GPE0, and their lengths.
                (56, &0x600u32.to_le_bytes()),
                (64, &0x604u32.to_le_bytes()),
                (76, &0x608u32.to_le_bytes()),
                (80, &0x620u32.to_le_bytes()),
                (88, &[4, 2, 0, 4, 16]),
                // No C2 and C3 states.
                (96, &0xfffu16.to_le_bytes()),
                (98, &0xfffu16.to_le_bytes()),
                // CMOS century; legacy devices and an 8042 are present.
                (108, &[0x32]),
                (109, &2u16.to_le_bytes()),
                (112, &flags.to_le_bytes()),
                // Reset register and value.
                (116, &port(8, 0xcf9)),
                (128, &[0x0f]),
                (140, &u64::from(dsdt).to_le_bytes()),
                (148, &port(32, 0x600)),
                (172, &port(16, 0x604)),
                (208, &port(32, 0x608)),
                (220, &port(128, 0x620)),
            ],
        )
        .finish()
}
