//! The PCI root: host bridge, configuration space, expander bridges, and their resources.

use super::super::aml::Serialization::{NotSerialized, Serialized};
use super::super::aml::{
    Aml, Caching, and, arg, buffer, bus_numbers, dereferenced, device, dword_field, eisa_id, else_, equal,
    if_, index, int, io_window, less, local, memory_window, method, name, not, or, package, path, ports,
    resources, return_, scope, store, string, uuid, wide_memory_window,
};
use super::super::shape::Shape;
use super::interrupts;

/// The name of the device in a slot of the root bus: the slot number, then three bits for the function.
pub(super) fn name_of(slot: u8) -> String {
    name_of_function(slot, 0)
}

pub(super) fn name_of_function(slot: u8, function: u8) -> String {
    format!("S{:02X}", slot << 3 | function)
}

/// PCI0 without its resources, and the configuration space area.
pub(super) fn bridge(shape: &Shape) -> Aml {
    scope(
        "_SB",
        [
            device(
                "PCI0",
                [
                    name("_HID", eisa_id("PNP0A08")),
                    name("_CID", eisa_id("PNP0A03")),
                    name("_UID", int(0u8)),
                    // Native hot-plugging is not granted if QEMU uses ACPI hot-plugging.
                    operating_system_capabilities(if shape.hotplug { 0x1e } else { 0x1f }),
                    device_labels(),
                ],
            ),
            device(
                "DRAC",
                [
                    name("_HID", string("PNP0C01")),
                    name("_CRS", resources([memory_window(Caching::NonCacheable, 0xe000_0000, 0xefff_ffff)])),
                ],
            ),
        ],
    )
}

/// An expander bridge, a root bus of its own. It has no windows, because the firmware assigns them after it
/// read the table.
pub(super) fn expander(node: u8, bus: u8) -> Aml {
    let bridge = device(
        &format!("PC{bus:02X}"),
        [
            name("_UID", int(bus)),
            name("_BBN", int(bus)),
            name("_HID", eisa_id("PNP0A08")),
            name("_CID", eisa_id("PNP0A03")),
            operating_system_capabilities(0x1f),
            name("_PXM", int(node)),
            method("_PRT", 0, NotSerialized, [return_(interrupts::routes_behind_expander())]),
            name("_CRS", resources([bus_numbers(bus, bus)])),
        ],
    );
    scope("\\_SB", [bridge])
}

/// Buses, ports and memory of PCI0, and the ports that the platform reserves.
pub(super) fn resources_of_root(shape: &Shape) -> Aml {
    let windows = resources([
        bus_numbers(0, last_bus(shape)),
        ports(0xcf8, 1, 8),
        io_window(0, 0xcf7),
        io_window(0xd00, 0xffff),
        memory_window(Caching::Cacheable, 0xa_0000, 0xb_ffff),
        memory_window(Caching::NonCacheable, shape.low_memory() as u32, 0xdfff_ffff),
        memory_window(Caching::NonCacheable, 0xf000_0000, 0xfebf_ffff),
        wide_memory_window(Shape::hole_start(), shape.hole_end),
    ]);
    let reserved = |device_name, uid, first, length| {
        device(
            device_name,
            [
                name("_HID", string("PNP0A06")),
                name("_UID", string(uid)),
                name("_STA", int(0x0bu8)),
                name("_CRS", resources([ports(first, 1, length)])),
            ],
        )
    };
    let mut parts = vec![name("_CRS", windows), reserved("GPE0", "GPE0 resources", 0x620, 16)];
    if shape.hotplug {
        parts.push(reserved("PHPR", "PCI Hotplug resources", 0xcc0, 24));
    }
    scope("\\_SB.PCI0", parts)
}

/// The last bus of PCI0. Like QEMU, goes from the last expander to the first and keeps the bus below each
/// lower one.
fn last_bus(shape: &Shape) -> u8 {
    shape.expanders().rev().fold(255, |last, (_, bus)| if bus < last { bus - 1 } else { last })
}

/// `_OSC`: the PCI Express features that the guest may control.
fn operating_system_capabilities(granted: u8) -> Aml {
    // 33db4d5b-1ff7-401c-9657-7441c03dd766
    let host_bridge = uuid(0x33db_4d5b, 0x1ff7, 0x401c, [0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66]);
    let complain = |bit: u8| or(path("CDW1"), int(bit), path("CDW1"));
    method(
        "_OSC",
        4,
        NotSerialized,
        [
            dword_field(arg(3), 0, "CDW1"),
            if_(
                equal(arg(0), host_bridge),
                [
                    dword_field(arg(3), 4, "CDW2"),
                    dword_field(arg(3), 8, "CDW3"),
                    store(path("CDW3"), local(0)),
                    and(local(0), int(granted), local(0)),
                    if_(not(equal(arg(1), int(1u8))), [complain(0x08)]),
                    if_(not(equal(path("CDW3"), local(0))), [complain(0x10)]),
                    store(local(0), path("CDW3")),
                ],
            ),
            else_([complain(0x04)]),
            return_(arg(3)),
        ],
    )
}

/// The start of `_DSM` for device labels: returns an empty buffer unless called with their UUID and revision
/// 2 or later.
pub(super) fn without_labels() -> [Aml; 3] {
    // e5c937d0-3553-4d7a-9117-ea4d19c3434d
    let labels = uuid(0xe5c9_37d0, 0x3553, 0x4d7a, [0x91, 0x17, 0xea, 0x4d, 0x19, 0xc3, 0x43, 0x4d]);
    [
        store(buffer(&[0]), local(0)),
        if_(not(equal(arg(0), labels)), [return_(local(0))]),
        if_(less(arg(1), int(2u8)), [return_(local(0))]),
    ]
}

/// Element `at` of the package in `Arg4`.
pub(super) fn element(at: u8) -> Aml {
    dereferenced(index(arg(4), int(at)))
}

/// `EDSM`: the index of a device that is not hot-pluggable.
fn device_labels() -> Aml {
    let functions = without_labels()
        .into_iter()
        .chain([store(int(0x81u8), index(local(0), int(0u8))), return_(local(0))]);
    method(
        "EDSM",
        5,
        Serialized,
        [
            if_(equal(arg(2), int(0u8)), functions),
            if_(
                equal(arg(2), int(7u8)),
                [
                    store(package([int(0u8), string("")]), local(0)),
                    store(element(0), local(1)),
                    store(local(1), index(local(0), int(0u8))),
                    return_(local(0)),
                ],
            ),
        ],
    )
}
