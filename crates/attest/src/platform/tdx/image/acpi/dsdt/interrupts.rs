//! Interrupt routing of PCI slots: to link devices of the PIC, or to inputs of the I/O APIC.

use super::super::aml::Serialization::{NotSerialized, Serialized};
use super::super::aml::{
    Aml, Trigger, and, arg, call, device, dword_field, eisa_id, else_, equal, if_, int, interrupts, method,
    name, or, package, path, resources, return_, scope, store,
};
use super::super::shape::{Release, Shape};

const LINKS: [char; 8] = ['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H'];
const PINS: u8 = 4;
const SLOTS: u8 = 32;

/// `_PIC`: the guest sets the interrupt controllers that it uses.
pub(super) fn mode() -> Aml {
    let set = method("_PIC", 1, NotSerialized, [store(arg(0), path("PICF"))]);
    [name("PICF", int(0u8)), set].concat()
}

/// The routing table of the root bus, and the link devices.
pub(super) fn routing(shape: &Shape) -> Aml {
    let trigger = if shape.release < Release::V9_2 { Trigger::Edge } else { Trigger::Level };
    let choice = method(
        "_PRT",
        0,
        NotSerialized,
        [if_(equal(path("PICF"), int(0u8)), [return_(path("PRTP"))]), else_([return_(path("PRTA"))])],
    );
    let routes = |kind| routes(move |slot, pin| format!("{kind}{}", LINKS[link(slot, pin)]));
    let root = scope("PCI0", [name("PRTP", routes("LNK")), name("PRTA", routes("GSI")), choice]);
    let mut parts = vec![root, link_status(), link_resources(trigger)];
    parts.extend((0u8..).zip(LINKS).map(|(index, letter)| pic_link(index, letter, trigger)));
    parts.extend((16u8..).zip(LINKS).map(|(input, letter)| apic_link(input, letter, trigger)));
    scope("_SB", parts)
}

/// The link of a pin on the root bus: E to H, rotated by slot; A to D for the chipset's own devices.
fn link(slot: u8, pin: u8) -> usize {
    usize::from(match slot {
        25..=29 | 31 => pin,
        // The DMI bridge starts at E, like slot 0.
        30 => 4 + pin,
        _ => 4 + ((slot + pin) & 3),
    })
}

pub(super) fn routes_behind_expander() -> Aml {
    routes(|slot, pin| format!("LNK{}", LINKS[usize::from((slot + pin + 3) & 3)]))
}

/// For each pin of each slot: address, pin, link, and source index 0.
fn routes(link: impl Fn(u8, u8) -> String) -> Aml {
    let pins = (0..SLOTS).flat_map(|slot| (0..PINS).map(move |pin| (slot, pin)));
    package(pins.map(|(slot, pin)| {
        let address = u32::from(slot) << 16 | 0xffff;
        package([int(address), int(pin), path(&link(slot, pin)), int(0u8)])
    }))
}

/// `IQST`: the status of a link.
fn link_status() -> Aml {
    let disabled = and(int(0x80u8), arg(0), vec![0]);
    method("IQST", 1, NotSerialized, [if_(disabled, [return_(int(0x09u8))]), return_(int(0x0bu8))])
}

/// `IQCR`: the interrupt of a link, as resources.
fn link_resources(trigger: Trigger) -> Aml {
    method(
        "IQCR",
        1,
        Serialized,
        [
            name("PRR0", resources([interrupts(trigger, &[0])])),
            dword_field(path("PRR0"), 5, "PRRI"),
            store(and(arg(0), int(0x0fu8), vec![0]), path("PRRI")),
            return_(path("PRR0")),
        ],
    )
}

/// A link of the PIC, for which the guest chooses one of three interrupts.
fn pic_link(index: u8, letter: char, trigger: Trigger) -> Aml {
    let register = format!("PRQ{letter}");
    device(
        &format!("LNK{letter}"),
        [
            name("_HID", eisa_id("PNP0C0F")),
            name("_UID", int(index)),
            name("_PRS", resources([interrupts(trigger, &[5, 10, 11])])),
            method("_STA", 0, NotSerialized, [return_(call("IQST", [path(&register)]))]),
            method("_DIS", 0, NotSerialized, [or(path(&register), int(0x80u8), path(&register))]),
            method("_CRS", 0, NotSerialized, [return_(call("IQCR", [path(&register)]))]),
            method(
                "_SRS",
                1,
                NotSerialized,
                [dword_field(arg(0), 5, "PRRI"), store(path("PRRI"), path(&register))],
            ),
        ],
    )
}

/// A link to a fixed input of the I/O APIC.
fn apic_link(input: u8, letter: char, trigger: Trigger) -> Aml {
    let fixed = resources([interrupts(trigger, &[input.into()])]);
    device(
        &format!("GSI{letter}"),
        [
            name("_HID", eisa_id("PNP0C0F")),
            name("_UID", int(input)),
            name("_PRS", fixed.clone()),
            name("_CRS", fixed),
            method("_DIS", 0, NotSerialized, []),
            method("_SRS", 1, NotSerialized, []),
        ],
    )
}
