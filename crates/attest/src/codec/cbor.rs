//! The part of CBOR that Nitro documents and image measurements use: a reader bounded by its input and in
//! depth.

use super::cursor::Cursor;

/// Maximum nesting of a skipped value.
const MAX_DEPTH: u8 = 16;

/// Why CBOR does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// The input ends inside a value.
    #[error("the input ends inside a value")]
    Truncated,
    /// A reserved form.
    #[error("a reserved form of value")]
    Reserved,
    /// Deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// A value of another type.
    #[error("expected {0}")]
    Expected(&'static str),
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// Trailing bytes after the value.
    #[error("{0} trailing byte(s) after the CBOR document")]
    Trailing(usize),
}

/// The head of a value: its type, and its length or number (`None` for an indefinite length).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    major: u8,
    argument: Option<u64>,
}

const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;

/// Reads values from the front of a byte string.
pub(crate) struct Reader<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { cursor: Cursor::new(input) }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], CborError> {
        let length = usize::try_from(length).map_err(|_| CborError::Truncated)?;
        self.cursor.take(length).ok_or(CborError::Truncated)
    }

    fn head(&mut self) -> Result<Head, CborError> {
        let initial = self.take(1)?[0];
        let argument = match initial & 0x1f {
            small @ 0..24 => Some(u64::from(small)),
            width @ 24..28 => Some(self.cursor.big_endian(1 << (width - 24)).ok_or(CborError::Truncated)?),
            31 => None,
            _ => return Err(CborError::Reserved),
        };
        Ok(Head { major: initial >> 5, argument })
    }

    /// Reads the break that ends an indefinite-length value, if it is next.
    fn at_break(&mut self) -> bool {
        self.cursor.next_is(0xff)
    }

    pub(crate) fn unsigned(&mut self) -> Result<u64, CborError> {
        match self.head()? {
            Head { major: 0, argument: Some(value) } => Ok(value),
            _ => Err(CborError::Expected("an unsigned number")),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], CborError> {
        match self.head()? {
            Head { major: BYTES, argument: Some(length) } => self.take(length),
            _ => Err(CborError::Expected("bytes")),
        }
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, CborError> {
        match self.head()? {
            Head { major: TEXT, argument: Some(length) } => {
                std::str::from_utf8(self.take(length)?).map_err(|_| CborError::NotUtf8)
            }
            _ => Err(CborError::Expected("text")),
        }
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, CborError> {
        match self.head()? {
            Head { major: SIMPLE, argument: Some(value @ (20 | 21)) } => Ok(value == 21),
            _ => Err(CborError::Expected("true or false")),
        }
    }

    /// Refuses trailing bytes.
    pub(crate) fn end(self) -> Result<(), CborError> {
        match self.cursor.rest().len() {
            0 => Ok(()),
            left => Err(CborError::Trailing(left)),
        }
    }

    /// Reads the head of a COSE_Sign1 structure (RFC 9052): an array of four after an optional tag.
    pub(crate) fn cose_sign1(&mut self) -> Result<(), CborError> {
        let mut head = self.head()?;
        if head == (Head { major: TAG, argument: Some(18) }) {
            head = self.head()?;
        }
        if head == (Head { major: ARRAY, argument: Some(4) }) {
            Ok(())
        } else {
            Err(CborError::Expected("a COSE_Sign1 document"))
        }
    }

    /// Reads a map; `read` reads a key and its value.
    pub(crate) fn map(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<(), CborError>,
    ) -> Result<(), CborError> {
        match self.head()? {
            Head { major: MAP, argument: Some(count) } => (0..count).try_for_each(|_| read(self)),
            Head { major: MAP, argument: None } => {
                while !self.at_break() {
                    read(self)?;
                }
                Ok(())
            }
            _ => Err(CborError::Expected("a map")),
        }
    }

    /// Reads an array (only in the SEV-SNP document); `read` reads an element.
    #[cfg(any(test, feature = "sev-snp-image"))]
    pub(crate) fn array(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<(), CborError>,
    ) -> Result<(), CborError> {
        match self.head()? {
            Head { major: ARRAY, argument: Some(count) } => (0..count).try_for_each(|_| read(self)),
            Head { major: ARRAY, argument: None } => {
                while !self.at_break() {
                    read(self)?;
                }
                Ok(())
            }
            _ => Err(CborError::Expected("an array")),
        }
    }

    pub(crate) fn skip(&mut self) -> Result<(), CborError> {
        self.skip_within(MAX_DEPTH)
    }

    fn skip_within(&mut self, depth: u8) -> Result<(), CborError> {
        let deeper = depth.checked_sub(1).ok_or(CborError::TooDeep)?;
        let Head { major, argument } = self.head()?;
        let children = match (major, argument) {
            (BYTES | TEXT, Some(length)) => return self.take(length).map(drop),
            (ARRAY, Some(count)) => count,
            (MAP, Some(count)) => count.checked_mul(2).ok_or(CborError::Truncated)?,
            (TAG, Some(_)) => 1,
            (BYTES | TEXT | ARRAY | MAP, None) => {
                while !self.at_break() {
                    self.skip_within(deeper)?;
                }
                return Ok(());
            }
            (0 | 1 | SIMPLE, Some(_)) => return Ok(()),
            _ => return Err(CborError::Reserved),
        };
        (0..children).try_for_each(|_| self.skip_within(deeper))
    }
}
