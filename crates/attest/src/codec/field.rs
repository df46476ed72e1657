//! Decoding errors of a field of an attestation or CSR, for SCALE and MessagePack.

use std::fmt;

/// A field, by its path such as `platform.data.quote`, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FieldError {
    /// The field's path on the wire.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The input ends inside the field.
    Truncated,
    /// More elements than the reader accepts.
    TooMany {
        /// The maximum number.
        limit: usize,
    },
    /// A length, count or integer in a form that the encoding forbids.
    NotCanonical,
    /// Text that is not UTF-8.
    NotUtf8,
    /// A bool, option or enum index that does not exist.
    UnknownIndex(u8),
    /// A name that does not exist.
    UnknownName(String),
    /// A value of another type.
    WrongType {
        /// The expected type.
        expected: &'static str,
    },
    /// The field is not there.
    Missing,
    /// The field is there twice.
    Duplicate,
    /// `data` before `kind`, which the peer cannot read either.
    DataBeforeKind,
    /// Text that should be hex.
    NotHex,
    /// Text that should be base64.
    NotBase64,
    /// A number outside the range of the field.
    OutOfRange,
    /// An event version other than 1 and 2.
    UnknownEventVersion(u64),
}

impl Problem {
    /// The problem, found in `field`.
    pub(crate) fn in_field(self, field: &'static str) -> FieldError {
        FieldError { field, problem: self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the input ends inside it"),
            Self::TooMany { limit } => write!(f, "more than {limit} elements"),
            Self::NotCanonical => f.write_str("a length that is not in its shortest form"),
            Self::NotUtf8 => f.write_str("not UTF-8"),
            Self::UnknownIndex(index) => write!(f, "no variant has the index {index}"),
            Self::UnknownName(name) => write!(f, "unknown name {name:?}"),
            Self::WrongType { expected } => write!(f, "expected {expected}"),
            Self::Missing => f.write_str("missing"),
            Self::Duplicate => f.write_str("given twice"),
            Self::DataBeforeKind => f.write_str("`data` comes before `kind`"),
            Self::NotHex => f.write_str("not hex"),
            Self::NotBase64 => f.write_str("not base64"),
            Self::OutOfRange => f.write_str("number out of range"),
            Self::UnknownEventVersion(version) => write!(f, "event version must be 1 or 2, got {version}"),
        }
    }
}
