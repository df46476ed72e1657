//! Why bytes are not evidence, or evidence cannot be used.

use super::legacy::LegacyError;
use super::parts::MAX_BYTES;
use crate::codec::FieldError;

/// Why bytes are not evidence, or evidence cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// Zero bytes.
    #[error("attestation is empty")]
    Empty,
    /// Longer than [`MAX_BYTES`].
    #[error("attestation must be at most {MAX_BYTES} bytes, got {0}")]
    TooLarge(usize),
    /// The first byte belongs to neither wire form.
    #[error("unknown attestation wire format: first byte is 0x{0:02x}")]
    UnknownWire(u8),
    /// V1 with another version number.
    #[error("unsupported attestation version: expected 1, got {0}")]
    UnsupportedVersion(u64),
    /// V0 that does not decode.
    #[error("attestation in SCALE form does not decode: {0}")]
    V0(#[source] FieldError),
    /// V1 that does not decode.
    #[error("attestation in MessagePack form does not decode: {0}")]
    V1(#[source] FieldError),
    /// Trailing bytes after the evidence.
    #[error("{0} trailing bytes after the attestation")]
    Trailing(usize),
    /// The stack's report data is not 64 bytes long.
    #[error("stack.report_data must be 64 bytes, got {0}")]
    ReportDataLength(usize),
    /// A quote and event log that are not valid legacy evidence.
    #[error(transparent)]
    Legacy(#[from] LegacyError),
}
