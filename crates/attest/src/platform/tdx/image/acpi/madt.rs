//! APIC, the Multiple APIC Description Table: CPUs and interrupt controllers (ACPI 6.5, 5.2.12; revision 3).

use super::super::qemu::Pic;
use super::header::Table;
use super::shape::{Release, Shape};

/// CPUs with this APIC id and above have an x2APIC record.
pub(super) const X2APIC_FROM: u32 = 255;

/// A CPU's record: local APIC or x2APIC. The DSDT repeats it.
pub(super) fn cpu(id: u32) -> Vec<u8> {
    match u8::try_from(id) {
        Ok(id @ ..=254) => vec![0x00, 8, id, id, 1, 0, 0, 0],
        _ => {
            let id = id.to_le_bytes();
            [&[0x09, 16, 0, 0], &id[..], &[1, 0, 0, 0], &id].concat()
        }
    }
}

/// An ISA interrupt with another input or trigger mode than the default.
fn interrupt_override(irq: u8, flags: u8) -> [u8; 10] {
    // The timer is connected to input 2.
    let input = if irq == 0 { 2 } else { irq };
    [0x02, 10, 0, irq, input, 0, 0, 0, flags, 0]
}

/// Flags: as the bus; level-triggered, active high; edge-triggered, active high.
const BUS: u8 = 0;
const LEVEL: u8 = 13;
const EDGE: u8 = 5;

pub(super) fn madt(shape: &Shape) -> Vec<u8> {
    let mut table = Table::new(b"APIC", 3);
    table.u32(0xfee0_0000).u32(match shape.pic {
        Pic::On => 1,
        Pic::Off => 0,
    });
    for id in 0..shape.cpus {
        table.bytes(&cpu(id));
    }
    table.bytes(&[0x01, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    if shape.release < Release::V9_2 {
        (0..16).for_each(|irq| {
            table.bytes(&interrupt_override(irq, EDGE));
        });
    } else {
        for (irq, flags) in [(0, BUS), (5, LEVEL), (9, LEVEL), (10, LEVEL), (11, LEVEL)] {
            table.bytes(&interrupt_override(irq, flags));
        }
    }
    // LINT1 of all CPUs is connected to the NMI.
    if shape.cpus > X2APIC_FROM {
        table.bytes(&[0x0a, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    } else {
        table.bytes(&[0x04, 6, 0xff, 0, 0, 1]);
    }
    table.finish()
}
