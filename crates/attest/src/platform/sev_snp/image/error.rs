//! Why the launch of a SEV-SNP guest cannot be computed, or is not that of a report.

use crate::codec::cbor::CborError;
use crate::platform::command_line::RootfsHashError;
use crate::platform::manifest::UnvouchedError;

/// Maximum number of vCPUs.
pub const MAX_VCPUS: u32 = 512;
/// Maximum number of firmware sections.
pub const MAX_SECTIONS: usize = 64;
/// Maximum number of measured pages: 64 GiB.
pub const MAX_PAGES: u64 = 16_777_216;

/// File name of the measurement document in the manifest.
pub(super) const DOCUMENT: &str = "measurement.snp.cbor";
/// The supported version of the document.
pub(super) const VERSION: u64 = 3;

/// Why a report does not prove that its guest booted its image. Messages are the peer's where callers may
/// match them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SevSnpError {
    /// The configuration does not parse or lacks a key of a SEV-SNP guest.
    #[error("vm_config of a SEV-SNP guest must have {0}")]
    Config(&'static str),
    /// The image hash does not cover the document.
    #[error(transparent)]
    Unvouched(#[from] UnvouchedError),
    /// The document does not decode.
    #[error("{DOCUMENT} does not decode: {0}")]
    Cbor(#[from] CborError),
    /// An unknown version of the document.
    #[error("{DOCUMENT} must be of version {VERSION}, got {0}")]
    Version(u64),
    /// A field is missing, repeated, or out of range.
    #[error("{DOCUMENT} must have exactly one {0}, in its range")]
    Field(&'static str),
    /// No guest can be launched like this.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The report's measurement is not the image's.
    #[error("amd sev-snp measurement mismatch")]
    Measurement,
    /// The report's HOST_DATA is not the configuration's.
    #[error("amd sev-snp host_data mismatch")]
    HostData,
}

/// Why a launch is impossible. Messages are the peer's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// Zero vCPUs.
    #[error("vcpus must be greater than zero")]
    NoVcpus,
    /// More than [`MAX_VCPUS`].
    #[error("vcpus must not exceed {MAX_VCPUS}")]
    TooManyVcpus,
    /// An unknown CPU model.
    #[error("unknown vcpu_type {0:?}")]
    Cpu(String),
    /// A field that must not be zero.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// Too few or too many sections.
    #[error("ovmf_sections must be 1 to {MAX_SECTIONS}, got {0}")]
    Sections(usize),
    /// A section of unknown type.
    #[error("unknown type {0:#x} of an ovmf section")]
    SectionType(u64),
    /// A section beyond the end of the address space.
    #[error("an ovmf section ends beyond all memory")]
    SectionEnd,
    /// More than [`MAX_PAGES`].
    #[error("ovmf_sections must not exceed {MAX_PAGES} pages")]
    TooManyPages,
    /// No section for the kernel hashes.
    #[error("ovmf_sections must have one for the kernel hashes")]
    NoHashes,
    /// The table of kernel hashes crosses a page boundary.
    #[error("the kernel hashes do not fit into their page")]
    HashesAcrossPages,
    /// The command line does not determine the root file system.
    #[error(transparent)]
    RootfsHash(#[from] RootfsHashError),
}
