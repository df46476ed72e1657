//! Lite verification: the registers are computed from digests that the image hash vouches for, without the image.

use super::{
    TdHobError,
    manifest::{self, UnvouchedError},
    qemu::{Machine, MachineError, Passes},
    registers::{self, BootRegisters, Digest},
    td_hob::{LOW_MEMORY, MemoryLayout, Range, SPLIT_FROM},
    tdvf::{MAX_SECTIONS, PAGE},
};
use crate::{
    identity::cbor::{CborError, Reader},
    measurement::TdxEvent,
    vm_config::{OvmfVariant, VmConfig},
};

/// The entry of the image's list that the measurement is.
const DOCUMENT: &str = "measurement.tdx.cbor";
/// The version of it that is known.
const VERSION: u64 = 3;

/// What guests name the events of the ACPI tables.
pub(super) const ACPI_EVENT_NAMES: [&str; 3] = ["acpi-loader", "acpi-rsdp", "acpi-tables"];

/// Why there are no registers to compare with. The words are the peer's where a caller may look for them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LiteError {
    /// No measurement came along.
    #[error("tdx lite attestation requires vm_config.tdx_measurement")]
    NoDocument,
    /// The image hash does not vouch for the measurement.
    #[error(transparent)]
    Unvouched(#[from] UnvouchedError),
    /// The measurement does not decode.
    #[error("{DOCUMENT} does not decode: {0}")]
    Cbor(#[from] CborError),
    /// Another version.
    #[error("{DOCUMENT} must be of version {VERSION}, got {0}")]
    Version(u64),
    /// A part is missing, twice there, or of another length.
    #[error("{DOCUMENT} must have exactly one {0} of the right length")]
    Field(&'static str),
    /// The description of the memory does not decode.
    #[error("the td_hob of {DOCUMENT} does not decode")]
    Witness,
    /// The image has another firmware than the configuration says.
    #[error("ovmf_variant does not match {DOCUMENT}")]
    OvmfVariant,
    /// Not three events.
    #[error("TDX lite attestation requires exactly 3 RTMR0 ACPI DATA events; found {0}")]
    AcpiEvents(usize),
    /// An event without its name.
    #[error("TDX lite attestation requires exactly one RTMR0 ACPI DATA event named {0}")]
    AcpiEventName(&'static str),
    /// An event whose digest is no SHA-384.
    #[error("the digest of an ACPI DATA event must be 48 bytes, got {0}")]
    AcpiDigest(usize),
    /// The kernel measures differently by memory size, except for these.
    #[error(
        "TDX lite attestation without image download requires memory_size == 2147483648 bytes (2048 MiB) or \
         >= 2952790016 bytes (2816 MiB); got {0} bytes"
    )]
    Memory(u64),
    /// The configuration names no machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The image does not fit the VM's memory.
    #[error(transparent)]
    TdHob(#[from] TdHobError),
}

/// The registers of the VM that `config` describes, whose firmware logged these events.
///
/// # Errors
/// [`LiteError`].
pub fn boot_registers(config: &VmConfig, event_log: &[TdxEvent]) -> Result<BootRegisters, LiteError> {
    let measurement = config.tdx_measurement.as_ref().ok_or(LiteError::NoDocument)?;
    let document = manifest::vouched(
        &config.os_image_hash,
        &measurement.checksum_file,
        DOCUMENT,
        &measurement.measurement,
    )?;
    let document = Document::parse(document)?;
    if config.ovmf_variant.is_some_and(|variant| name(variant) != document.ovmf) {
        return Err(LiteError::OvmfVariant);
    }
    let acpi = registers::logged_acpi(event_log)?;
    let memory = config.memory_size;
    if memory != LOW_MEMORY && memory < SPLIT_FROM {
        return Err(LiteError::Memory(memory));
    }
    Ok(BootRegisters {
        mrtd: match Machine::of(config)?.passes {
            Passes::Single => document.single_pass,
            Passes::Two => document.two_pass,
        },
        rtmr0: registers::rtmr0(document.layout.digest(memory)?, &acpi),
        rtmr1: registers::rtmr1(document.kernel),
        rtmr2: registers::rtmr2(document.command_line, document.initrd),
    })
}

fn name(variant: OvmfVariant) -> &'static str {
    match variant {
        OvmfVariant::Pre202505 => "pre202505",
    }
}

/// `measurement.tdx.cbor`.
#[derive(Debug)]
struct Document {
    command_line: Digest,
    kernel: Digest,
    initrd: Digest,
    ovmf: String,
    single_pass: Digest,
    two_pass: Digest,
    layout: MemoryLayout,
}

/// The parts of a document as they are met.
#[derive(Default)]
struct Parts<'a> {
    version: Vec<u64>,
    ovmf: Vec<&'a str>,
    /// Names with what they name.
    bytes: Vec<(&'static str, &'a [u8])>,
}

const IMAGE: [&str; 3] = ["cmdline_sha384", "kernel_authenticode", "initrd_sha384"];
const MRTD: [&str; 2] = ["single_pass", "two_pass"];
const TD_HOB: &str = "td_hob";
/// Longest list of parts: each is there once.
const MAX_PARTS: usize = 16;

impl<'a> Parts<'a> {
    fn read(&mut self, document: &'a [u8]) -> Result<(), CborError> {
        let mut reader = Reader::new(document);
        reader.map(|reader| match reader.text()? {
            "version" => reader.unsigned().map(|version| self.version.push(version)),
            "image" => reader.map(|reader| self.digest(reader, &IMAGE)),
            "tdvf" => reader.map(|reader| match reader.text()? {
                "ovmf" => reader.text().map(|ovmf| self.ovmf.push(ovmf)),
                "mrtd" => reader.map(|reader| self.digest(reader, &MRTD)),
                TD_HOB => reader.bytes().map(|bytes| self.push(TD_HOB, bytes)),
                _ => reader.skip(),
            }),
            _ => reader.skip(),
        })
    }

    fn digest(&mut self, reader: &mut Reader<'a>, names: &[&'static str]) -> Result<(), CborError> {
        let name = reader.text()?;
        match names.iter().find(|known| **known == name) {
            Some(known) => reader.bytes().map(|bytes| self.push(known, bytes)),
            None => reader.skip(),
        }
    }

    fn push(&mut self, name: &'static str, bytes: &'a [u8]) {
        // Beyond this a name is there twice, which is refused when it is taken.
        if self.bytes.len() < MAX_PARTS {
            self.bytes.push((name, bytes));
        }
    }

    fn take(&self, name: &'static str) -> Result<&'a [u8], LiteError> {
        let mut named = self.bytes.iter().filter(|(known, _)| *known == name);
        match (named.next(), named.next()) {
            (Some((_, bytes)), None) => Ok(bytes),
            _ => Err(LiteError::Field(name)),
        }
    }

    fn take_digest(&self, name: &'static str) -> Result<Digest, LiteError> {
        self.take(name)?.try_into().map_err(|_| LiteError::Field(name))
    }
}

impl Document {
    fn parse(document: &[u8]) -> Result<Self, LiteError> {
        let mut parts = Parts::default();
        parts.read(document)?;
        match parts.version.as_slice() {
            [VERSION] => {}
            [other] => return Err(LiteError::Version(*other)),
            _ => return Err(LiteError::Field("version")),
        }
        let [ovmf] = parts.ovmf.as_slice() else { return Err(LiteError::Field("ovmf")) };
        Ok(Self {
            command_line: parts.take_digest("cmdline_sha384")?,
            kernel: parts.take_digest("kernel_authenticode")?,
            initrd: parts.take_digest("initrd_sha384")?,
            ovmf: (*ovmf).to_owned(),
            single_pass: parts.take_digest("single_pass")?,
            two_pass: parts.take_digest("two_pass")?,
            layout: witness(parts.take(TD_HOB)?).ok_or(LiteError::Witness)?,
        })
    }
}

/// Numbers of pages: base, hand-off block from there, count, then for each range its start from there and its length.
fn witness(mut bytes: &[u8]) -> Option<MemoryLayout> {
    let base = leb128(&mut bytes)?;
    let address = |page: u64| base.checked_add(page)?.checked_mul(PAGE);
    let hob = address(leb128(&mut bytes)?)?;
    let count = leb128(&mut bytes)?;
    if count > u64::from(MAX_SECTIONS) {
        return None;
    }
    let mut accepted = Vec::new();
    for _ in 0..count {
        let (start, pages) = (address(leb128(&mut bytes)?)?, leb128(&mut bytes)?);
        let end = start.checked_add(pages.checked_mul(PAGE)?)?;
        accepted.push(Range { start, end });
    }
    bytes.is_empty().then_some(MemoryLayout { hob, accepted })
}

fn leb128(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let group = u64::from(byte & 0x7f);
        if group << shift >> shift != group {
            return None;
        }
        value |= group << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
