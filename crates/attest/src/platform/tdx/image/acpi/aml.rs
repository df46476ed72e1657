//! An encoder of the part of AML (ACPI 6.5, chapter 20) that QEMU's DSDT uses. There is one function per ASL
//! operator, so that the code reads like the ASL of a disassembler.

/// Encoded terms.
pub(super) type Aml = Vec<u8>;

/// SerializeRule of a method.
#[derive(Clone, Copy)]
pub(super) enum Serialization {
    Serialized,
    NotSerialized,
}

/// Access, lock and update rules of a field (ACPI 6.5, 19.6.48).
#[derive(Clone, Copy)]
pub(super) enum Access {
    /// ByteAcc, NoLock, Preserve.
    Byte = 0x01,
    /// DWordAcc, NoLock, Preserve.
    DWord = 0x03,
    /// ByteAcc, NoLock, WriteAsZeros.
    ByteZeros = 0x41,
    /// DWordAcc, NoLock, WriteAsZeros.
    DWordZeros = 0x43,
}

/// A unit of a field, with its length in bits.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Named(&'static str, u8),
    Reserved(u8),
}

/// Address spaces of operation regions.
#[derive(Clone, Copy)]
pub(super) enum Space {
    SystemIo = 1,
    PciConfig = 2,
}

// Names and constants.

/// A name path: leading `\` or `^`, then segments of at most four characters.
pub(super) fn path(text: &str) -> Aml {
    let mut aml = Aml::with_capacity(text.len() + 8);
    put_path(&mut aml, text);
    aml
}

/// Appends a [`path`].
pub(super) fn put_path(aml: &mut Aml, text: &str) {
    let names = text.trim_start_matches(['\\', '^']);
    aml.extend_from_slice(&text.as_bytes()[..text.len() - names.len()]);
    let segments = names.as_bytes().split(|byte| *byte == b'.').filter(|segment| !segment.is_empty());
    match names.bytes().filter(|byte| *byte == b'.').count() {
        0 if names.is_empty() => aml.push(0),
        0 => {}
        1 => aml.push(0x2e),
        dots => aml.extend_from_slice(&[0x2f, dots as u8 + 1]),
    }
    for segment in segments {
        let mut padded = *b"____";
        padded[..segment.len()].copy_from_slice(segment);
        aml.extend_from_slice(&padded);
    }
}

/// An integer in its shortest form.
pub(super) fn int(value: impl Into<u64>) -> Aml {
    let mut aml = Aml::new();
    put_int(&mut aml, value);
    aml
}

/// Appends an [`int`].
pub(super) fn put_int(aml: &mut Aml, value: impl Into<u64>) {
    let value = value.into();
    let (op, width) = match value {
        0 | 1 => return aml.push(value as u8),
        2..=0xff => (0x0a, 1),
        0x100..=0xffff => (0x0b, 2),
        0x1_0000..=0xffff_ffff => (0x0c, 4),
        _ => (0x0e, 8),
    };
    aml.push(op);
    aml.extend_from_slice(&value.to_le_bytes()[..width]);
}

pub(super) fn string(text: &str) -> Aml {
    let mut aml = Aml::new();
    put_string(&mut aml, text);
    aml
}

/// Appends a [`string`].
pub(super) fn put_string(aml: &mut Aml, text: &str) {
    aml.push(0x0d);
    aml.extend_from_slice(text.as_bytes());
    aml.push(0);
}

pub(super) fn buffer(bytes: &[u8]) -> Aml {
    block(&[0x11], int(bytes.len() as u64), [bytes])
}

/// A package with these elements, at most 255.
pub(super) fn package(elements: impl IntoIterator<Item = Aml>) -> Aml {
    let elements: Vec<Aml> = elements.into_iter().collect();
    block(&[0x12], vec![elements.len() as u8], elements)
}

/// An empty package for `room` elements.
pub(super) fn empty_package(room: u8) -> Aml {
    block(&[0x12], vec![room], None::<Aml>)
}

/// A compressed EISA identifier such as `PNP0A08`: three letters of five bits each, then hex digits,
/// big-endian.
pub(super) fn eisa_id(text: &str) -> Aml {
    let (letters, digits) = text.split_at(3);
    let vendor = letters.bytes().fold(0u32, |id, letter| id << 5 | u32::from(letter - b'@'));
    let product = digits.chars().filter_map(|digit| digit.to_digit(16)).fold(0, |id, digit| id << 4 | digit);
    [&[0x0c], &(vendor << 16 | product).to_be_bytes()[..]].concat()
}

/// `ToUUID`: the first three groups are little-endian.
pub(super) fn uuid(first: u32, second: u16, third: u16, rest: [u8; 8]) -> Aml {
    buffer(&super::super::bytes::guid(first, second, third, rest))
}

pub(super) fn local(index: u8) -> Aml {
    vec![0x60 + index]
}

pub(super) fn arg(index: u8) -> Aml {
    vec![0x68 + index]
}

// Objects.

pub(super) fn name(name: &str, value: Aml) -> Aml {
    [&[0x08], &path(name)[..], &value].concat()
}

pub(super) fn scope(name: &str, body: impl IntoIterator<Item = Aml>) -> Aml {
    block(&[0x10], path(name), body)
}

pub(super) fn device(name: &str, body: impl IntoIterator<Item = Aml>) -> Aml {
    block(&[0x5b, 0x82], path(name), body)
}

pub(super) fn method(
    name: &str,
    arguments: u8,
    serialization: Serialization,
    body: impl IntoIterator<Item = Aml>,
) -> Aml {
    let mut head = path(name);
    head.push(method_flags(arguments, serialization));
    block(&[0x14], head, body)
}

fn method_flags(arguments: u8, serialization: Serialization) -> u8 {
    match serialization {
        Serialization::Serialized => arguments | 0x08,
        Serialization::NotSerialized => arguments,
    }
}

pub(super) fn region(name: &str, space: Space, offset: u16, length: u8) -> Aml {
    [vec![0x5b, 0x80], path(name), vec![space as u8], int(offset), int(length)].concat()
}

pub(super) fn field(region: &str, access: Access, units: &[Unit]) -> Aml {
    let units = units.iter().map(|unit| match unit {
        Unit::Named(name, bits) => [path(name), vec![*bits]].concat(),
        Unit::Reserved(bits) => vec![0, *bits],
    });
    block(&[0x5b, 0x81], [path(region), vec![access as u8]].concat(), units)
}

pub(super) fn mutex(name: &str) -> Aml {
    [vec![0x5b, 0x01], path(name), vec![0]].concat()
}

pub(super) fn dword_field(buffer: Aml, at: u8, name: &str) -> Aml {
    [vec![0x8a], buffer, int(at), path(name)].concat()
}

// Statements.

pub(super) fn store(value: Aml, target: Aml) -> Aml {
    binary(0x70, value, target)
}

pub(super) fn if_(condition: Aml, body: impl IntoIterator<Item = Aml>) -> Aml {
    block(&[0xa0], condition, body)
}

pub(super) fn else_(body: impl IntoIterator<Item = Aml>) -> Aml {
    block(&[0xa1], Aml::new(), body)
}

pub(super) fn while_(condition: Aml, body: impl IntoIterator<Item = Aml>) -> Aml {
    block(&[0xa2], condition, body)
}

pub(super) fn break_() -> Aml {
    vec![0xa5]
}

pub(super) fn return_(value: Aml) -> Aml {
    unary(0xa4, value)
}

pub(super) fn increment(target: Aml) -> Aml {
    unary(0x75, target)
}

pub(super) fn notify(object: &str, value: Aml) -> Aml {
    binary(0x86, path(object), value)
}

/// Acquires a mutex without a time-out.
pub(super) fn acquire(mutex: &str) -> Aml {
    [vec![0x5b, 0x23], path(mutex), vec![0xff, 0xff]].concat()
}

pub(super) fn release(mutex: &str) -> Aml {
    [vec![0x5b, 0x27], path(mutex)].concat()
}

pub(super) fn call(method: &str, arguments: impl IntoIterator<Item = Aml>) -> Aml {
    let mut aml = path(method);
    arguments.into_iter().for_each(|argument| aml.extend_from_slice(&argument));
    aml
}

pub(super) fn debug() -> Aml {
    vec![0x5b, 0x31]
}

// Expressions. `nowhere` is the null target, if a result is only used in place.

pub(super) fn nowhere() -> Aml {
    vec![0]
}

pub(super) fn equal(left: Aml, right: Aml) -> Aml {
    binary(0x93, left, right)
}

pub(super) fn less(left: Aml, right: Aml) -> Aml {
    binary(0x95, left, right)
}

pub(super) fn both(left: Aml, right: Aml) -> Aml {
    binary(0x90, left, right)
}

pub(super) fn either(left: Aml, right: Aml) -> Aml {
    binary(0x91, left, right)
}

pub(super) fn not(value: Aml) -> Aml {
    unary(0x92, value)
}

pub(super) fn and(left: Aml, right: Aml, target: Aml) -> Aml {
    ternary(0x7b, left, right, target)
}

pub(super) fn or(left: Aml, right: Aml, target: Aml) -> Aml {
    ternary(0x7d, left, right, target)
}

pub(super) fn subtract(left: Aml, right: Aml, target: Aml) -> Aml {
    ternary(0x74, left, right, target)
}

pub(super) fn shift_left(value: Aml, by: Aml) -> Aml {
    ternary(0x79, value, by, nowhere())
}

pub(super) fn index(of: Aml, at: Aml) -> Aml {
    ternary(0x88, of, at, nowhere())
}

pub(super) fn dereferenced(reference: Aml) -> Aml {
    unary(0x83, reference)
}

pub(super) fn size_of(object: Aml) -> Aml {
    unary(0x87, object)
}

pub(super) fn to_hex_string(value: Aml, target: Aml) -> Aml {
    binary(0x98, value, target)
}

pub(super) fn to_buffer(value: Aml, target: Aml) -> Aml {
    binary(0x96, value, target)
}

fn unary(op: u8, operand: Aml) -> Aml {
    [&[op], &operand[..]].concat()
}

fn binary(op: u8, first: Aml, second: Aml) -> Aml {
    [&[op], &first[..], &second].concat()
}

fn ternary(op: u8, first: Aml, second: Aml, third: Aml) -> Aml {
    [&[op], &first[..], &second, &third].concat()
}

/// An operator, the length of the rest, and the rest.
fn block(op: &[u8], head: Aml, body: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Aml {
    let mut aml = Aml::new();
    put_block(&mut aml, op, |aml| {
        aml.extend_from_slice(&head);
        body.into_iter().for_each(|part| aml.extend_from_slice(part.as_ref()));
    });
    aml
}

/// Appends a [`block`]. The length is inserted before the content when it is known.
fn put_block(aml: &mut Aml, op: &[u8], content: impl FnOnce(&mut Aml)) {
    aml.extend_from_slice(op);
    let start = aml.len();
    content(aml);
    let end = aml.len();
    let (length, own) = length(end - start);
    aml.resize(end + own, 0);
    aml.copy_within(start..end, start + own);
    aml[start..start + own].copy_from_slice(&length[..own]);
}

/// PkgLength (ACPI 6.5, 20.2.4) and its number of bytes. It counts itself; its first byte has the number of
/// bytes that follow.
fn length(content: usize) -> ([u8; 4], usize) {
    let length = (1..=4).map(|own| (own, content + own)).find(|(own, length)| match own {
        1 => *length < 0x40,
        own => *length < 1 << (8 * own - 4),
    });
    let (own, length) = length.expect("a table of 4096 CPUs has less than 1 MiB");
    let mut bytes = [0; 4];
    bytes[0] = match own {
        1 => length as u8,
        own => ((own - 1) << 6 | length & 0x0f) as u8,
    };
    (1..own).for_each(|byte| bytes[byte] = (length >> (8 * byte - 4)) as u8);
    (bytes, own)
}

// The same, in place, for terms that occur thousands of times: each term is written once, not copied into
// each enclosing one.

pub(super) fn put_name(aml: &mut Aml, name: &str, value: impl FnOnce(&mut Aml)) {
    aml.push(0x08);
    put_path(aml, name);
    value(aml);
}

pub(super) fn put_buffer(aml: &mut Aml, bytes: &[u8]) {
    put_block(aml, &[0x11], |aml| {
        put_int(aml, bytes.len() as u64);
        aml.extend_from_slice(bytes);
    });
}

pub(super) fn put_device(aml: &mut Aml, name: &str, body: impl FnOnce(&mut Aml)) {
    put_block(aml, &[0x5b, 0x82], |aml| {
        put_path(aml, name);
        body(aml);
    });
}

/// A processor object without a register block.
pub(super) fn put_processor(aml: &mut Aml, name: &str, id: u8, body: impl FnOnce(&mut Aml)) {
    put_block(aml, &[0x5b, 0x83], |aml| {
        put_path(aml, name);
        aml.extend_from_slice(&[id, 0, 0, 0, 0, 0]);
        body(aml);
    });
}

pub(super) fn put_method(
    aml: &mut Aml,
    name: &str,
    arguments: u8,
    serialization: Serialization,
    body: impl FnOnce(&mut Aml),
) {
    put_block(aml, &[0x14], |aml| {
        put_path(aml, name);
        aml.push(method_flags(arguments, serialization));
        body(aml);
    });
}

pub(super) fn put_if(aml: &mut Aml, condition: impl FnOnce(&mut Aml), body: impl FnOnce(&mut Aml)) {
    put_block(aml, &[0xa0], |aml| {
        condition(aml);
        body(aml);
    });
}

pub(super) fn put_equal(aml: &mut Aml, left: impl FnOnce(&mut Aml), right: impl FnOnce(&mut Aml)) {
    aml.push(0x93);
    left(aml);
    right(aml);
}

pub(super) fn put_arg(aml: &mut Aml, index: u8) {
    aml.push(0x68 + index);
}

pub(super) fn put_notify(aml: &mut Aml, object: &str, value: impl FnOnce(&mut Aml)) {
    aml.push(0x86);
    put_path(aml, object);
    value(aml);
}

pub(super) fn put_return(aml: &mut Aml, value: impl FnOnce(&mut Aml)) {
    aml.push(0xa4);
    value(aml);
}

// Resources (ACPI 6.5, 6.4).

/// `ResourceTemplate`: descriptors and the end tag with a zero checksum, as QEMU writes it.
pub(super) fn resources(descriptors: impl IntoIterator<Item = Aml>) -> Aml {
    let mut bytes = descriptors.into_iter().collect::<Vec<_>>().concat();
    bytes.extend_from_slice(&[0x79, 0x00]);
    buffer(&bytes)
}

/// A range of I/O ports with 16-bit decoding.
pub(super) fn ports(first: u16, alignment: u8, length: u8) -> Aml {
    let [low, high] = first.to_le_bytes();
    vec![0x47, 0x01, low, high, low, high, alignment, length]
}

/// `IRQNoFlags`: edge-triggered, active high, exclusive.
pub(super) fn irq(number: u8) -> Aml {
    let [low, high] = (1u16 << number).to_le_bytes();
    vec![0x22, low, high]
}

/// `IRQ`: level-triggered, active low, shared.
pub(super) fn level_irq(number: u8) -> Aml {
    let [low, high] = (1u16 << number).to_le_bytes();
    vec![0x23, low, high, 0x18]
}

/// Interrupt flags of link devices: consumer, active high, shared.
#[derive(Clone, Copy)]
pub(super) enum Trigger {
    Level = 0x09,
    Edge = 0x0b,
}

pub(super) fn interrupts(trigger: Trigger, numbers: &[u32]) -> Aml {
    let length = 2 + 4 * numbers.len() as u16;
    let mut aml = [&[0x89], &length.to_le_bytes()[..], &[trigger as u8, numbers.len() as u8]].concat();
    numbers.iter().for_each(|number| aml.extend_from_slice(&number.to_le_bytes()));
    aml
}

pub(super) fn bus_numbers(first: u8, last: u8) -> Aml {
    window(0x88, 2, [0x02, 0x0c, 0x00], first.into(), last.into())
}

pub(super) fn io_window(first: u16, last: u16) -> Aml {
    window(0x88, 2, [0x01, 0x0c, 0x03], first.into(), last.into())
}

/// Cacheability of a read-write memory window.
#[derive(Clone, Copy)]
pub(super) enum Caching {
    NonCacheable = 0x01,
    Cacheable = 0x03,
}

pub(super) fn memory_window(caching: Caching, first: u32, last: u32) -> Aml {
    window(0x87, 4, [0x00, 0x0c, caching as u8], first.into(), last.into())
}

pub(super) fn wide_memory_window(first: u64, last: u64) -> Aml {
    window(0x8a, 8, [0x00, 0x0c, Caching::Cacheable as u8], first, last)
}

/// An address space descriptor: granularity 0, first, last, translation 0, length, each `width` bytes.
fn window(tag: u8, width: usize, flags: [u8; 3], first: u64, last: u64) -> Aml {
    let length = (3 + 5 * width) as u16;
    let mut aml = [&[tag], &length.to_le_bytes()[..], &flags].concat();
    for value in [0, first, last, 0, last.wrapping_sub(first).wrapping_add(1)] {
        aml.extend_from_slice(&value.to_le_bytes()[..width]);
    }
    aml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_a_prefix_and_segments_of_four() {
        for (text, aml) in [
            ("\\", &b"\\\0"[..]),
            ("PICF", b"PICF"),
            ("_SB", b"_SB_"),
            ("\\_SB.PCI0", b"\\\x2e_SB_PCI0"),
            ("^S30.PCNT", b"^\x2eS30_PCNT"),
            ("\\_SB.PCI0.PRES.CPLK", b"\\\x2f\x04_SB_PCI0PRESCPLK"),
        ] {
            assert_eq!(path(text), aml, "{text}");
        }
    }

    #[test]
    fn numbers_have_their_shortest_form() {
        for (value, aml) in [
            (0u64, &[0x00][..]),
            (1, &[0x01]),
            (2, &[0x0a, 2]),
            (0xff, &[0x0a, 0xff]),
            (0x100, &[0x0b, 0, 1]),
            (0xffff, &[0x0b, 0xff, 0xff]),
            (0x1_0000, &[0x0c, 0, 0, 1, 0]),
            (0xffff_ffff, &[0x0c, 0xff, 0xff, 0xff, 0xff]),
            (1 << 32, &[0x0e, 0, 0, 0, 0, 1, 0, 0, 0]),
        ] {
            assert_eq!(int(value), aml, "{value:#x}");
        }
    }

    #[test]
    fn lengths_count_themselves() {
        for (content, head) in [
            (0, &[0x01][..]),
            (0x3e, &[0x3f]),
            (0x3f, &[0x41, 0x04]),
            (0xffd, &[0x4f, 0xff]),
            (0xffe, &[0x81, 0x00, 0x01]),
            (0xf_fffc, &[0x8f, 0xff, 0xff]),
            (0xf_fffd, &[0xc1, 0x00, 0x00, 0x01]),
        ] {
            let (bytes, own) = length(content);
            assert_eq!(&bytes[..own], head, "{content:#x}");
        }
    }
}
