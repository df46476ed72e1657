//! Lite verification: computes the registers from digests that the image hash covers, without the image.

mod witness;

pub use self::witness::WitnessError;
use self::witness::witness;
use super::TdHobError;
use super::acpi::{AcpiDigests, Shape, ShapeError};
use super::digest::Digest;
use super::kernel::Header;
use super::qemu::{Machine, MachineError, Passes};
use super::registers::{self, BootRegisters};
use super::td_hob::{LOW_MEMORY, SPLIT_FROM};
use crate::codec::cbor::{CborError, Reader};
use crate::measurement::TdxEvent;
use crate::platform::command_line::{self, RootfsHashError};
use crate::platform::manifest::{self, UnvouchedError};
use crate::vm_config::{OvmfVariant, VmConfig};

/// File name of the measurement document in the manifest.
const DOCUMENT: &str = "measurement.tdx.cbor";
/// Maximum length of the kernel command line: COMMAND_LINE_SIZE of x86-64.
const MAX_COMMAND_LINE: usize = 2048;

/// The names that guests give to the events of the ACPI tables.
const ACPI_EVENT_NAMES: [&str; 3] = ["acpi-loader", "acpi-rsdp", "acpi-tables"];
const ACPI_EVENT_TYPE: u32 = 10;
const ACPI_PAYLOAD: &[u8] = b"ACPI DATA";

/// Why the registers cannot be computed. Messages are the peer's where callers may match them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LiteError {
    /// The configuration has no measurement document.
    #[error("tdx lite attestation requires vm_config.tdx_measurement")]
    NoDocument,
    /// The image hash does not cover the document.
    #[error(transparent)]
    Unvouched(#[from] UnvouchedError),
    /// The document does not decode.
    #[error("{DOCUMENT}: failed to decode CBOR: {0}")]
    Cbor(#[from] CborError),
    /// An unknown version of the document.
    #[error("{DOCUMENT}: unsupported version {0}, expected 4 (or 3)")]
    Version(u64),
    /// A field is missing or repeated.
    #[error("{DOCUMENT} must have exactly one {0}")]
    Field(&'static str),
    /// The command line is longer than the kernel accepts.
    #[error(
        "{DOCUMENT}: kernel command line is {0} bytes, over the {MAX_COMMAND_LINE} byte x86_64 COMMAND_LINE_SIZE"
    )]
    CommandLine(usize),
    /// A digest of the wrong length.
    #[error("tdx.measurement.{name} has invalid length {length}, expected 48")]
    Digest {
        /// Name of the field.
        name: &'static str,
        /// Length found.
        length: usize,
    },
    /// The memory layout (TD HOB witness) does not decode.
    #[error("TD HOB witness of {DOCUMENT} does not decode: {0}")]
    Witness(#[from] WitnessError),
    /// An unknown firmware variant.
    #[error("{DOCUMENT}: failed to decode CBOR: unknown ovmf {0:?}")]
    Ovmf(String),
    /// The document has another firmware variant than the configuration.
    #[error("tdx measurement ovmf_variant mismatch with {DOCUMENT}")]
    OvmfVariant,
    /// The log does not have exactly three ACPI events.
    #[error("TDX lite attestation requires exactly 3 RTMR0 ACPI DATA events; found {0}")]
    AcpiEvents(usize),
    /// An ACPI event without its name.
    #[error("TDX lite attestation requires exactly one RTMR0 ACPI DATA event named {0}")]
    AcpiEventName(&'static str),
    /// An ACPI event whose digest is not a SHA-384 value.
    #[error("TDX RTMR0 ACPI DATA event has invalid digest length {0}, expected 48")]
    AcpiDigest(usize),
    /// The ACPI tables of the VM are unknown.
    #[error("failed to recompute expected TDX lite ACPI table digests: {0}")]
    Shape(#[from] ShapeError),
    /// The firmware measured other ACPI tables than QEMU gives to the VM.
    #[error("TDX lite {name} digest mismatch: expected {expected}, reported {reported}")]
    AcpiMismatch {
        /// Which of the three files.
        name: &'static str,
        /// The computed digest, hex.
        expected: String,
        /// The digest in the log, hex.
        reported: String,
    },
    /// A memory size for which the kernel's measurement depends on the size.
    #[error(
        "TDX lite attestation without image download requires memory_size == 2147483648 bytes (2048 MiB) or \
         >= 2952790016 bytes (2816 MiB); got {0} bytes"
    )]
    Memory(u64),
    /// The command line does not determine the root file system.
    #[error("failed to parse dstack.rootfs_hash from tdx.measurement.image.base_cmdline: {0}")]
    RootfsHash(#[from] RootfsHashError),
    /// The configuration does not determine a machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The firmware's memory ranges do not fit the VM's memory.
    #[error(transparent)]
    TdHob(#[from] TdHobError),
}

/// The registers of the VM that `config` describes. Nothing is taken from the event log: its digests of the
/// ACPI tables must equal those computed here.
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
    if config.ovmf_variant.is_some_and(|variant| variant != document.ovmf) {
        return Err(LiteError::OvmfVariant);
    }
    let reported = logged_acpi(event_log)?;
    let acpi = AcpiDigests::of_vm(&Shape::of(config)?);
    same_acpi(&acpi, &reported)?;
    let memory = config.memory_size;
    if document.kernel_header == Header::FilledInByQemu && memory != LOW_MEMORY && memory < SPLIT_FROM {
        return Err(LiteError::Memory(memory));
    }
    let single_pass = digest("tdvf.mrtd.single_pass", document.single_pass)?;
    let two_pass = digest("tdvf.mrtd.two_pass", document.two_pass)?;
    let layout = witness(document.td_hob)?;
    let kernel = digest("image.kernel_authenticode", document.kernel)?;
    let initrd = digest("image.initrd_sha384", document.initrd)?;
    let command_line = document.command_line.digest()?;
    Ok(BootRegisters {
        mrtd: match Machine::of(config)?.passes {
            Passes::Single => single_pass,
            Passes::Two => two_pass,
        },
        rtmr0: registers::rtmr0(layout.digest(memory)?, &acpi),
        rtmr1: registers::rtmr1(kernel),
        rtmr2: registers::rtmr2(command_line, initrd),
    })
}

/// The digests of the ACPI tables in a guest's event log: three events of RTMR0, named by the guest.
fn logged_acpi(event_log: &[TdxEvent]) -> Result<AcpiDigests, LiteError> {
    let is_acpi = |event: &&TdxEvent| {
        event.imr == 0 && event.event_type == ACPI_EVENT_TYPE && event.event_payload == ACPI_PAYLOAD
    };
    let events: Vec<&TdxEvent> = event_log.iter().filter(is_acpi).take(ACPI_EVENT_NAMES.len() + 1).collect();
    if events.len() != ACPI_EVENT_NAMES.len() {
        return Err(LiteError::AcpiEvents(events.len()));
    }
    let digest = |name: &'static str| {
        let mut named = events.iter().filter(|event| event.event == name);
        match (named.next(), named.next()) {
            (Some(event), None) => {
                event.digest.as_slice().try_into().map_err(|_| LiteError::AcpiDigest(event.digest.len()))
            }
            _ => Err(LiteError::AcpiEventName(name)),
        }
    };
    let [loader, rsdp, tables] = ACPI_EVENT_NAMES;
    Ok(AcpiDigests { loader: digest(loader)?, rsdp: digest(rsdp)?, tables: digest(tables)? })
}

fn same_acpi(expected: &AcpiDigests, reported: &AcpiDigests) -> Result<(), LiteError> {
    let pairs = [
        (&expected.loader, &reported.loader),
        (&expected.rsdp, &reported.rsdp),
        (&expected.tables, &reported.tables),
    ];
    match ACPI_EVENT_NAMES.into_iter().zip(pairs).find(|(_, (expected, reported))| expected != reported) {
        None => Ok(()),
        Some((name, (expected, reported))) => Err(LiteError::AcpiMismatch {
            name,
            expected: hex::encode(expected),
            reported: hex::encode(reported),
        }),
    }
}

fn digest(name: &'static str, bytes: &[u8]) -> Result<Digest, LiteError> {
    bytes.try_into().map_err(|_| LiteError::Digest { name, length: bytes.len() })
}

/// `measurement.tdx.cbor`, version 3 or 4.
#[derive(Debug)]
struct Document<'a> {
    command_line: CommandLine<'a>,
    kernel: &'a [u8],
    kernel_header: Header,
    initrd: &'a [u8],
    ovmf: OvmfVariant,
    single_pass: &'a [u8],
    two_pass: &'a [u8],
    td_hob: &'a [u8],
}

/// The kernel command line, by document version.
#[derive(Debug)]
enum CommandLine<'a> {
    /// Version 3: its digest. The root file system is unknown, but the image hash covers the digest.
    Digest(&'a [u8]),
    /// Version 4: the text.
    Text(&'a str),
}

impl CommandLine<'_> {
    fn digest(&self) -> Result<Digest, LiteError> {
        match self {
            Self::Digest(bytes) => digest("image.cmdline_sha384", bytes),
            Self::Text(text) => {
                command_line::rootfs_hash(text)?;
                Ok(registers::command_line(text))
            }
        }
    }
}

/// The fields found in a document; each must occur once.
#[derive(Default)]
struct Parts<'a> {
    version: Vec<u64>,
    ovmf: Vec<&'a str>,
    command_line: Vec<&'a str>,
    normalized: Vec<bool>,
    /// Byte fields with their names.
    bytes: Vec<(&'static str, &'a [u8])>,
    /// Maps found at least once.
    maps: Vec<&'static str>,
}

const IMAGE: [&str; 3] = ["cmdline_sha384", "kernel_authenticode", "initrd_sha384"];
const MRTD: [&str; 2] = ["single_pass", "two_pass"];
const TD_HOB: &str = "td_hob";
/// Maximum number of values kept per kind; each field occurs once.
const MAX_PARTS: usize = 16;

/// Appends up to the limit. A field beyond it occurs twice, which is refused when the field is taken.
fn push<T>(parts: &mut Vec<T>, part: T) {
    if parts.len() < MAX_PARTS {
        parts.push(part);
    }
}

impl<'a> Parts<'a> {
    fn read(&mut self, document: &'a [u8]) -> Result<(), CborError> {
        let mut reader = Reader::new(document);
        reader.map(|reader| match reader.text()? {
            "version" => reader.unsigned().map(|version| push(&mut self.version, version)),
            "image" => {
                push(&mut self.maps, "image");
                reader.map(|reader| self.image(reader))
            }
            "tdvf" => {
                push(&mut self.maps, "tdvf");
                reader.map(|reader| self.tdvf(reader))
            }
            _ => reader.skip(),
        })?;
        reader.end()
    }

    fn image(&mut self, reader: &mut Reader<'a>) -> Result<(), CborError> {
        match reader.text()? {
            "cmdline" => reader.text().map(|text| push(&mut self.command_line, text)),
            "kernel_header_normalized" => reader.boolean().map(|is| push(&mut self.normalized, is)),
            name => self.bytes(reader, name, &IMAGE),
        }
    }

    fn tdvf(&mut self, reader: &mut Reader<'a>) -> Result<(), CborError> {
        match reader.text()? {
            "ovmf" => reader.text().map(|ovmf| push(&mut self.ovmf, ovmf)),
            "mrtd" => {
                push(&mut self.maps, "mrtd");
                reader.map(|reader| {
                    let name = reader.text()?;
                    self.bytes(reader, name, &MRTD)
                })
            }
            TD_HOB => reader.bytes().map(|bytes| push(&mut self.bytes, (TD_HOB, bytes))),
            _ => reader.skip(),
        }
    }

    fn bytes(
        &mut self,
        reader: &mut Reader<'a>,
        name: &str,
        names: &[&'static str],
    ) -> Result<(), CborError> {
        match names.iter().find(|known| **known == name) {
            Some(known) => reader.bytes().map(|bytes| push(&mut self.bytes, (known, bytes))),
            None => reader.skip(),
        }
    }

    fn take(&self, name: &'static str) -> Result<&'a [u8], LiteError> {
        let mut named = self.bytes.iter().filter(|(known, _)| *known == name);
        match (named.next(), named.next()) {
            (Some((_, bytes)), None) => Ok(bytes),
            _ => Err(LiteError::Field(name)),
        }
    }
}

fn once<T: Copy>(parts: &[T], name: &'static str) -> Result<T, LiteError> {
    match parts {
        [part] => Ok(*part),
        _ => Err(LiteError::Field(name)),
    }
}

impl<'a> Document<'a> {
    fn parse(document: &'a [u8]) -> Result<Self, LiteError> {
        let mut parts = Parts::default();
        parts.read(document)?;
        for name in ["image", "tdvf", "mrtd"] {
            let met: Vec<_> = parts.maps.iter().filter(|map| **map == name).collect();
            once(&met, name)?;
        }
        let command_line = match once(&parts.version, "version")? {
            3 => CommandLine::Digest(parts.take("cmdline_sha384")?),
            4 => CommandLine::Text(once(&parts.command_line, "cmdline")?),
            other => return Err(LiteError::Version(other)),
        };
        let ovmf = match once(&parts.ovmf, "ovmf")? {
            "pre202505" => OvmfVariant::Pre202505,
            other => return Err(LiteError::Ovmf(other.to_owned())),
        };
        let document = Self {
            command_line,
            kernel: parts.take("kernel_authenticode")?,
            kernel_header: match parts.normalized.as_slice() {
                [] | [false] => Header::FilledInByQemu,
                [true] => Header::AsShipped,
                _ => return Err(LiteError::Field("kernel_header_normalized")),
            },
            initrd: parts.take("initrd_sha384")?,
            ovmf,
            single_pass: parts.take("single_pass")?,
            two_pass: parts.take("two_pass")?,
            td_hob: parts.take(TD_HOB)?,
        };
        match document.command_line {
            CommandLine::Text(text) if text.len() > MAX_COMMAND_LINE => {
                Err(LiteError::CommandLine(text.len()))
            }
            CommandLine::Text(_) | CommandLine::Digest(_) => Ok(document),
        }
    }
}
