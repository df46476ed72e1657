//! DSDT, the Differentiated System Description Table: the devices of the VM, in QEMU's order.

mod cpus;
mod interrupts;
mod pci_hotplug;
mod pci_root;
mod slots;
mod system;

use super::header::Table;
use super::shape::Shape;

pub(super) fn dsdt(shape: &Shape) -> Vec<u8> {
    let mut table = Table::new(b"DSDT", 1);
    table.bytes(&system::debug_port()).bytes(&pci_root::bridge(shape));
    if shape.hotplug {
        table.bytes(&pci_hotplug::registers(shape));
    }
    table
        .bytes(&interrupts::mode())
        .bytes(&interrupts::routing(shape))
        .bytes(&system::gpe_block())
        .bytes(&cpus::cpus(shape))
        .bytes(&cpus::event());
    for (node, bus) in shape.expanders().rev() {
        table.bytes(&pci_root::expander(node, bus));
    }
    table
        .bytes(&pci_root::resources_of_root(shape))
        .bytes(&system::sleep_states())
        .bytes(&system::firmware_configuration())
        .bytes(&slots::slots(shape));
    if shape.hotplug {
        table.bytes(&pci_hotplug::counters(shape)).bytes(&pci_hotplug::event(shape));
    }
    table.finish()
}
