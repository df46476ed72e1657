//! The devices on the root bus and behind the LPC bridge.

use super::super::aml::Access::Byte;
use super::super::aml::{
    Aml, Space, Unit, device, eisa_id, field, int, irq, level_irq, name, ports, region, resources, scope,
};
use super::super::shape::{Device, LPC, Release, Shape};
use super::pci_hotplug;
use super::pci_root::{name_of, name_of_function};

pub(super) fn slots(shape: &Shape) -> Aml {
    let mut devices = Vec::new();
    let count = shape.root_ports().count();
    let mut ports = 0;
    for (slot, kind) in &shape.slots {
        let mut parts = vec![address(*slot, 0)];
        if *kind == Device::RootPort {
            parts.push(pci_hotplug::device_behind_port());
            if shape.hotplug {
                parts.extend(pci_hotplug::slot_behind_port(pci_hotplug::port_number(ports, count)));
            }
            ports += 1;
        }
        devices.push(device(&name_of(*slot), parts));
    }
    devices.push(device(&name_of(LPC), lpc_bridge(shape.release)));
    // SATA and SMBus.
    for function in [2, 3] {
        devices.push(device(&name_of_function(LPC, function), [address(LPC, function)]));
    }
    scope("\\_SB", [scope("PCI0", devices)])
}

fn address(slot: u8, function: u8) -> Aml {
    name("_ADR", int(u32::from(slot) << 16 | u32::from(function)))
}

/// The LPC bridge: link registers of the PIC, keyboard, mouse, serial port, clock.
fn lpc_bridge(release: Release) -> Vec<Aml> {
    let links = |letters: [&'static str; 4]| letters.map(|letter| Unit::Named(letter, 8));
    let [first, last] = [links(["PRQA", "PRQB", "PRQC", "PRQD"]), links(["PRQE", "PRQF", "PRQG", "PRQH"])];
    let units = [&first[..], &[Unit::Reserved(32)], &last].concat();
    let present = || name("_STA", int(0x0fu8));
    let serial_irq = if release < Release::V11_1 { irq(4) } else { level_irq(4) };
    vec![
        address(LPC, 0),
        region("PIRQ", Space::PciConfig, 0x60, 12),
        scope("\\_SB", [field("PCI0.SF8.PIRQ", Byte, &units)]),
        device(
            "KBD",
            [
                name("_HID", eisa_id("PNP0303")),
                present(),
                name("_CRS", resources([ports(0x60, 1, 1), ports(0x64, 1, 1), irq(1)])),
            ],
        ),
        device("MOU", [name("_HID", eisa_id("PNP0F13")), present(), name("_CRS", resources([irq(12)]))]),
        device(
            "COM1",
            [
                name("_HID", eisa_id("PNP0501")),
                name("_UID", int(1u8)),
                present(),
                name("_CRS", resources([ports(0x3f8, 0, 8), serial_irq])),
            ],
        ),
        device(
            "RTC",
            [name("_HID", eisa_id("PNP0B00")), name("_CRS", resources([ports(0x70, 1, 8), irq(8)]))],
        ),
    ]
}
