//! Devices of every VM: debug port, general-purpose events, sleep states, firmware configuration device.

use super::super::aml::Access::Byte;
use super::super::aml::Serialization::NotSerialized;
use super::super::aml::{
    Aml, Space, Unit, arg, dereferenced, device, field, increment, index, int, less, local, method, name,
    package, path, ports, region, resources, scope, size_of, store, string, subtract, to_buffer,
    to_hex_string, while_,
};

pub(super) fn debug_port() -> Aml {
    scope(
        "\\",
        [
            region("DBG", Space::SystemIo, 0x402, 1),
            field("DBG", Byte, &[Unit::Named("DBGB", 8)]),
            method(
                "DBUG",
                1,
                NotSerialized,
                [
                    to_hex_string(arg(0), local(0)),
                    to_buffer(local(0), local(0)),
                    subtract(size_of(local(0)), int(1u8), local(1)),
                    store(int(0u8), local(2)),
                    while_(
                        less(local(2), local(1)),
                        [store(dereferenced(index(local(0), local(2))), path("DBGB")), increment(local(2))],
                    ),
                    store(int(0x0au8), path("DBGB")),
                ],
            ),
        ],
    )
}

pub(super) fn gpe_block() -> Aml {
    scope("_GPE", [name("_HID", string("ACPI0006"))])
}

/// S3, S4 and S5, each with the values for both control registers.
pub(super) fn sleep_states() -> Aml {
    let state = |state, value: u8| name(state, package([value, value, 0, 0].map(int)));
    scope("\\", [state("_S3", 1), state("_S4", 2), state("_S5", 0)])
}

pub(super) fn firmware_configuration() -> Aml {
    let device = device(
        "FWCF",
        [
            name("_HID", string("QEMU0002")),
            name("_STA", int(0x0bu8)),
            name("_CRS", resources([ports(0x510, 1, 12)])),
        ],
    );
    scope("\\_SB.PCI0", [device])
}
