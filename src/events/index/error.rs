//! Why the index is unavailable.

use std::io;

/// Why the index is unavailable.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Its file cannot be opened, read or written.
    #[error("the index of events cannot be used")]
    Database(#[source] Box<redb::Error>),
    /// Its content is damaged.
    #[error("the index of events is damaged")]
    Damaged,
    /// An I/O error.
    #[error("the index of events cannot be used")]
    Io(#[from] io::Error),
}

/// Wraps any error of the library.
pub(super) fn unusable<E: Into<redb::Error>>(error: E) -> IndexError {
    IndexError::Database(Box::new(error.into()))
}

impl IndexError {
    /// Whether its content is damaged.
    pub(in crate::events) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged => true,
            Self::Database(error) => matches!(**error, redb::Error::Corrupted(_)),
            Self::Io(_) => false,
        }
    }

    /// Whether the system failed to open the file, which says nothing about its content.
    pub(in crate::events) fn is_of_the_system(&self) -> bool {
        let is_content = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        };
        match self {
            Self::Damaged => false,
            Self::Database(error) => matches!(&**error, redb::Error::Io(error) if !is_content(error)),
            Self::Io(error) => !is_content(error),
        }
    }

    /// Whether another process, or an earlier index of this one, still has it open.
    pub(in crate::events) fn is_in_use(&self) -> bool {
        matches!(self, Self::Database(error) if matches!(**error, redb::Error::DatabaseAlreadyOpen))
    }
}
