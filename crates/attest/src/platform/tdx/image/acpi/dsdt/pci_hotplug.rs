//! ACPI hot-plugging of PCI devices: QEMU's registers, and the events of root ports.

use super::super::aml::Access::DWordZeros;
use super::super::aml::Serialization::{NotSerialized, Serialized};
use super::super::aml::{
    Aml, Space, Unit, acquire, and, arg, call, device, either, empty_package, equal, field, if_, index, int,
    local, method, mutex, name, not, notify, nowhere, or, package, path, region, release, return_, scope,
    shift_left, store, string,
};
use super::super::shape::{Release, Shape};
use super::pci_root::{element, name_of, without_labels};

/// PCST, SEJ and BNMR, and the methods that use them.
pub(super) fn registers(shape: &Shape) -> Aml {
    let bit = |register| store(shift_left(int(1u8), arg(1)), path(register));
    scope(
        "_SB.PCI0",
        [
            region("PCST", Space::SystemIo, 0xcc0, 8),
            field("PCST", DWordZeros, &[Unit::Named("PCIU", 32), Unit::Named("PCID", 32)]),
            region("SEJ", Space::SystemIo, 0xcc8, 4),
            field("SEJ", DWordZeros, &[Unit::Named("B0EJ", 32)]),
            region("BNMR", Space::SystemIo, 0xcd0, 8),
            field("BNMR", DWordZeros, &[Unit::Named("BNUM", 32), Unit::Named("PIDX", 32)]),
            mutex("BLCK"),
            method(
                "PCEJ",
                2,
                NotSerialized,
                [
                    acquire("BLCK"),
                    store(arg(0), path("BNUM")),
                    bit("B0EJ"),
                    release("BLCK"),
                    return_(int(0u8)),
                ],
            ),
            method(
                "AIDX",
                2,
                NotSerialized,
                [
                    acquire("BLCK"),
                    store(arg(0), path("BNUM")),
                    bit("PIDX"),
                    store(path("PIDX"), local(0)),
                    release("BLCK"),
                    return_(local(0)),
                ],
            ),
            device_labels(shape.release),
        ],
    )
}

/// `PDSM`: the index of a hot-pluggable device, read from QEMU.
fn device_labels(release: Release) -> Aml {
    let ask = || store(call("AIDX", [element(0), element(1)]), local(2));
    let unknown = || [equal(local(2), int(0u8)), equal(local(2), int(0xffff_ffff_u32))];
    let [is_zero, is_ones] = unknown();
    let functions = without_labels().into_iter().chain([
        store(int(0u8), local(1)),
        ask(),
        if_(
            not(or(is_zero, is_ones, nowhere())),
            [or(local(1), int(1u8), local(1)), or(local(1), shift_left(int(1u8), int(7u8)), local(1))],
        ),
        store(local(1), index(local(0), int(0u8))),
        return_(local(0)),
    ]);
    let into = |value, at: u8| store(value, index(local(0), int(at)));
    let mut label = if release < Release::V9_2 {
        vec![store(package([int(0u8), string("")]), local(0)), ask(), into(local(2), 0)]
    } else {
        let [is_zero, is_ones] = unknown();
        vec![
            ask(),
            store(empty_package(2), local(0)),
            if_(not(either(is_zero, is_ones)), [into(local(2), 0), into(string(""), 1)]),
        ]
    };
    label.push(return_(local(0)));
    method(
        "PDSM",
        5,
        Serialized,
        [if_(equal(arg(2), int(0u8)), functions), if_(equal(arg(2), int(7u8)), label)],
    )
}

/// The objects of a root port for the slot behind it: number, labels, ejection, notification.
pub(super) fn slot_behind_port(number: u8) -> Vec<Aml> {
    let into = |value, at: u8| store(path(value), index(local(0), int(at)));
    vec![
        name("BSEL", int(number)),
        scope(
            "S00",
            [
                name("ASUN", int(0u8)),
                method(
                    "_DSM",
                    4,
                    Serialized,
                    [
                        store(package([int(0u8), int(0u8)]), local(0)),
                        into("BSEL", 0),
                        into("ASUN", 1),
                        return_(call("PDSM", [arg(0), arg(1), arg(2), arg(3), local(0)])),
                    ],
                ),
                name("_SUN", int(0u8)),
                method("_EJ0", 1, NotSerialized, [call("PCEJ", [path("BSEL"), path("_SUN")])]),
            ],
        ),
        method("DVNT", 2, NotSerialized, [if_(and(arg(0), int(1u8), nowhere()), [notify("S00", arg(1))])]),
    ]
}

/// The number of a port: the last slot has number 0.
pub(super) fn port_number(position: usize, ports: usize) -> u8 {
    (ports - 1 - position) as u8
}

/// `PCNT` of each root port, the last first, and of the root bus, which calls them; empty without root ports.
pub(super) fn counters(shape: &Shape) -> Aml {
    let ports: Vec<String> = shape.root_ports().rev().map(name_of).collect();
    if ports.is_empty() {
        return Aml::new();
    }
    let mut parts: Vec<Aml> = (0u8..)
        .zip(&ports)
        .map(|(number, port)| {
            let tell = |changes, event: u8| call("DVNT", [path(changes), int(event)]);
            let counter = [store(int(number), path("BNUM")), tell("PCIU", 1), tell("PCID", 3)];
            scope(port, [method("PCNT", 0, NotSerialized, counter)])
        })
        .collect();
    let all = ports.iter().map(|port| call(&format!("^{port}.PCNT"), []));
    parts.push(method("PCNT", 0, NotSerialized, all));
    scope("\\_SB.PCI0", parts)
}

/// The event for changed PCI devices; its method is empty without root ports.
pub(super) fn event(shape: &Shape) -> Aml {
    let lock = "\\_SB.PCI0.BLCK";
    let count = [acquire(lock), call("\\_SB.PCI0.PCNT", []), release(lock)];
    let body = if shape.root_ports().next().is_some() { &count[..] } else { &[] };
    scope("_GPE", [method("_E01", 0, NotSerialized, body.iter().cloned())])
}

/// The device behind a root port.
pub(super) fn device_behind_port() -> Aml {
    device("S00", [name("_ADR", int(0u8))])
}
