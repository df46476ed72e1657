//! The CPUs and their hot-plugging.

use super::super::aml::Access::{ByteZeros, DWord};
use super::super::aml::Serialization::{NotSerialized, Serialized};
use super::super::aml::{
    Aml, Space, Unit, acquire, arg, both, break_, call, debug, dereferenced, device, eisa_id, either, else_,
    empty_package, equal, field, if_, increment, index, int, less, local, method, mutex, name, path, ports,
    put_arg, put_buffer, put_device, put_equal, put_if, put_int, put_method, put_name, put_notify, put_path,
    put_processor, put_return, put_string, region, release, resources, return_, scope, store, string, while_,
};
use super::super::madt::{self, X2APIC_FROM};
use super::super::shape::{Release, Shape};

/// Maximum number of CPUs in one run of a scan.
const QUEUE: u8 = 255;
const LOCK: &str = "\\_SB.PCI0.PRES.CPLK";

/// A register of the CPU hot-plug device.
fn register(name: &str) -> Aml {
    path(&format!("\\_SB.PCI0.PRES.{name}"))
}

fn select(cpu: Aml) -> Aml {
    store(cpu, register("CSEL"))
}

pub(super) fn cpus(shape: &Shape) -> Aml {
    let mut parts = vec![
        name("_HID", string("ACPI0010")),
        name("_CID", eisa_id("PNP0A05")),
        notification(shape.cpus),
        status(),
        ejection(),
        scan(shape),
        report(),
    ];
    let mut cpus = Aml::new();
    (0..shape.cpus).for_each(|id| put_cpu(&mut cpus, id, shape.node_of_cpu(id)));
    parts.push(cpus);
    scope("_SB", [hotplug_device(shape.release), device("\\_SB.CPUS", parts)])
}

/// The general-purpose event for changed CPUs.
pub(super) fn event() -> Aml {
    method("\\_GPE._E02", 0, NotSerialized, [call("\\_SB.CPUS.CSCN", [])])
}

/// `PRES`: the registers of the hot-plug device.
fn hotplug_device(release: Release) -> Aml {
    let mut parts = vec![
        name("_HID", eisa_id("PNP0A06")),
        name("_UID", string("CPU Hotplug resources")),
        mutex("CPLK"),
        name("_CRS", resources([ports(0xcd8, 1, 12)])),
        region("PRST", Space::SystemIo, 0xcd8, 12),
        field(
            "PRST",
            ByteZeros,
            &[
                Unit::Reserved(32),
                Unit::Named("CPEN", 1),
                Unit::Named("CINS", 1),
                Unit::Named("CRMV", 1),
                Unit::Named("CEJ0", 1),
                Unit::Named("CEJF", 1),
                Unit::Reserved(3),
                Unit::Named("CCMD", 8),
            ],
        ),
        field("PRST", DWord, &[Unit::Named("CSEL", 32), Unit::Reserved(32), Unit::Named("CDAT", 32)]),
    ];
    if release < Release::V11_0 {
        parts.push(method("_INI", 0, Serialized, [store(int(0u8), path("CSEL"))]));
    }
    device("\\_SB.PCI0.PRES", parts)
}

/// `C000` to `CFFF`.
struct CpuName([u8; 4]);

impl CpuName {
    fn of(cpu: u32) -> Self {
        let digit = |shift: u32| b"0123456789ABCDEF"[(cpu >> shift & 0x0f) as usize];
        Self([b'C', digit(8), digit(4), digit(0)])
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.0).expect("ASCII")
    }
}

/// `CTFY`: notifies the guest about a CPU.
fn notification(cpus: u32) -> Aml {
    let mut each = Aml::new();
    for cpu in 0..cpus {
        let is_it = |aml: &mut Aml| put_equal(aml, |aml| put_arg(aml, 0), |aml| put_int(aml, cpu));
        put_if(&mut each, is_it, |aml| put_notify(aml, CpuName::of(cpu).text(), |aml| put_arg(aml, 1)));
    }
    method("CTFY", 2, NotSerialized, [each])
}

/// `CSTA`: whether a CPU is present.
fn status() -> Aml {
    method(
        "CSTA",
        1,
        Serialized,
        [
            acquire(LOCK),
            select(arg(0)),
            store(int(0u8), local(0)),
            if_(equal(register("CPEN"), int(1u8)), [store(int(0x0fu8), local(0))]),
            release(LOCK),
            return_(local(0)),
        ],
    )
}

/// `CEJ0`: ejects a CPU.
fn ejection() -> Aml {
    method(
        "CEJ0",
        1,
        Serialized,
        [acquire(LOCK), select(arg(0)), store(int(1u8), register("CEJ0")), release(LOCK)],
    )
}

/// `COST`: passes the guest's status report on to QEMU.
fn report() -> Aml {
    let command = |command: u8, argument| {
        [store(int(command), register("CCMD")), store(arg(argument), register("CDAT"))].concat()
    };
    method(
        "COST",
        4,
        Serialized,
        [acquire(LOCK), select(arg(0)), command(1, 1), command(2, 2), release(LOCK)],
    )
}

/// `CSCN`: scans for added and removed CPUs. Local 0: an event was found. 1 and 5: numbers of added and
/// removed CPUs. 2: position in their lists. 3: the CPU. 4: the lists were full, scan again. Since 10.0
/// removed CPUs are notified at the end.
fn scan(shape: &Shape) -> Aml {
    let [event, came, position, cpu, again, go] = [0, 1, 2, 3, 4, 5].map(|index| move || local(index));
    let queued = shape.release >= Release::V10_0;
    let yes = || int(1u8);
    let zero = || int(0u8);
    let is_full = |count: Aml| equal(count, int(QUEUE));
    let remember =
        |list, count: Aml| [store(cpu(), index(path(list), count.clone())), increment(count)].concat();
    let inserted = if_(equal(register("CINS"), yes()), [remember("CNEW", came()), store(yes(), event())]);
    let removed = |body: [Aml; 2]| if_(equal(register("CRMV"), yes()), body);
    let removed = if queued {
        removed([remember("CEJL", go()), store(yes(), event())])
    } else {
        let tell = [call("CTFY", [cpu(), int(3u8)]), store(yes(), register("CRMV"))].concat();
        else_([removed([tell, store(yes(), event())])])
    };
    let full = if queued { either(is_full(came()), is_full(go())) } else { is_full(came()) };
    let look = while_(
        both(equal(event(), yes()), less(cpu(), int(shape.cpus))),
        [
            store(zero(), event()),
            select(cpu()),
            store(zero(), register("CCMD")),
            if_(less(register("CDAT"), cpu()), [break_()]),
            if_(full, [store(yes(), again()), break_()]),
            store(register("CDAT"), cpu()),
            inserted,
            removed,
            increment(cpu()),
        ],
    );
    let tell = |list, count: Aml, kind: u8, note: Aml, acknowledge: &str| {
        while_(
            less(position(), count),
            [
                store(dereferenced(index(path(list), position())), cpu()),
                call("CTFY", [cpu(), int(kind)]),
                note,
                select(cpu()),
                store(yes(), register(acknowledge)),
                increment(position()),
            ],
        )
    };
    let mut round = vec![store(zero(), again()), store(yes(), event()), store(zero(), came())];
    if queued {
        round.push(store(zero(), go()));
    }
    round.extend([look, store(zero(), position()), tell("CNEW", came(), 1, store(cpu(), debug()), "CINS")]);
    if queued {
        round.extend([store(zero(), position()), tell("CEJL", go(), 3, Aml::new(), "CRMV")]);
    }
    let mut body = vec![acquire(LOCK), name("CNEW", empty_package(QUEUE))];
    if queued {
        body.push(name("CEJL", empty_package(QUEUE)));
    }
    body.extend([
        store(zero(), cpu()),
        store(yes(), again()),
        while_(equal(again(), yes()), round),
        release(LOCK),
    ]);
    method("CSCN", 0, Serialized, body)
}

fn put_cpu(aml: &mut Aml, id: u32, node: Option<u32>) {
    let calls = |aml: &mut Aml, method: &str| {
        put_path(aml, method);
        put_int(aml, id);
    };
    let parts = |aml: &mut Aml| {
        put_method(aml, "_STA", 0, Serialized, |aml| put_return(aml, |aml| calls(aml, "CSTA")));
        put_name(aml, "_MAT", |aml| put_buffer(aml, &madt::cpu(id)));
        // The first CPU cannot be ejected.
        if id != 0 {
            put_method(aml, "_EJ0", 1, NotSerialized, |aml| calls(aml, "CEJ0"));
        }
        put_method(aml, "_OST", 3, Serialized, |aml| {
            calls(aml, "COST");
            (0..3).for_each(|index| put_arg(aml, index));
        });
        if let Some(node) = node {
            put_name(aml, "_PXM", |aml| put_int(aml, node));
        }
    };
    let name_of = CpuName::of(id);
    match u8::try_from(id) {
        Ok(short) if id < X2APIC_FROM => put_processor(aml, name_of.text(), short, parts),
        _ => put_device(aml, name_of.text(), |aml| {
            put_name(aml, "_HID", |aml| put_string(aml, "ACPI0007"));
            put_name(aml, "_UID", |aml| put_int(aml, id));
            parts(aml);
        }),
    }
}
