//! Reads MessagePack in every form that the peer accepts, bounded by the input.

use rmp::Marker;

use crate::codec::cursor::Cursor;
use crate::codec::{FieldError, Problem};

/// The text form in which a byte field is also accepted.
#[derive(Clone, Copy)]
pub(crate) enum TextForm {
    /// Text is not accepted.
    None,
    Hex,
    Base64,
}

/// Reads values from the front of a byte string. It never recurses and allocates at most a multiple of the
/// input, whatever depth or length the input claims.
pub(crate) struct Reader<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { cursor: Cursor::new(input) }
    }

    /// The input that is not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.cursor.rest()
    }

    fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], FieldError> {
        self.cursor.take(length).ok_or_else(|| Problem::Truncated.in_field(field))
    }

    fn marker(&mut self, field: &'static str) -> Result<Marker, FieldError> {
        Ok(Marker::from_u8(self.take(1, field)?[0]))
    }

    /// A big-endian number of `width` bytes.
    fn number(&mut self, width: usize, field: &'static str) -> Result<u64, FieldError> {
        self.cursor.big_endian(width).ok_or_else(|| Problem::Truncated.in_field(field))
    }

    fn count(&mut self, width: usize, field: &'static str) -> Result<usize, FieldError> {
        usize::try_from(self.number(width, field)?).map_err(|_| Problem::OutOfRange.in_field(field))
    }

    /// An unsigned number in any integer form, including signed forms of positive numbers.
    pub(crate) fn unsigned(&mut self, field: &'static str) -> Result<u64, FieldError> {
        let (width, signed) = match self.marker(field)? {
            Marker::FixPos(value) => return Ok(value.into()),
            Marker::U8 => (1, false),
            Marker::U16 => (2, false),
            Marker::U32 => (4, false),
            Marker::U64 => (8, false),
            Marker::I8 => (1, true),
            Marker::I16 => (2, true),
            Marker::I32 => (4, true),
            Marker::I64 => (8, true),
            Marker::FixNeg(_) => return Err(Problem::OutOfRange.in_field(field)),
            _ => return Err(Problem::WrongType { expected: "a number" }.in_field(field)),
        };
        let value = self.number(width, field)?;
        if signed && value >> (8 * width - 1) == 1 {
            return Err(Problem::OutOfRange.in_field(field));
        }
        Ok(value)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, FieldError> {
        u32::try_from(self.unsigned(field)?).map_err(|_| Problem::OutOfRange.in_field(field))
    }

    /// Consumes nil if it is next.
    pub(crate) fn nil(&mut self) -> bool {
        self.cursor.next_is(Marker::Null.to_u8())
    }

    /// Text, also if encoded as bin.
    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a str, FieldError> {
        let marker = self.marker(field)?;
        let bytes = match self.text_length(marker, field)?.or(self.bin_length(marker, field)?) {
            Some(length) => self.take(length, field)?,
            None => return Err(Problem::WrongType { expected: "text" }.in_field(field)),
        };
        std::str::from_utf8(bytes).map_err(|_| Problem::NotUtf8.in_field(field))
    }

    fn text_length(&mut self, marker: Marker, field: &'static str) -> Result<Option<usize>, FieldError> {
        match marker {
            Marker::FixStr(length) => Ok(Some(length.into())),
            Marker::Str8 => self.count(1, field).map(Some),
            Marker::Str16 => self.count(2, field).map(Some),
            Marker::Str32 => self.count(4, field).map(Some),
            _ => Ok(None),
        }
    }

    fn bin_length(&mut self, marker: Marker, field: &'static str) -> Result<Option<usize>, FieldError> {
        match marker {
            Marker::Bin8 => self.count(1, field).map(Some),
            Marker::Bin16 => self.count(2, field).map(Some),
            Marker::Bin32 => self.count(4, field).map(Some),
            _ => Ok(None),
        }
    }

    fn array_length(&mut self, marker: Marker, field: &'static str) -> Result<Option<usize>, FieldError> {
        match marker {
            Marker::FixArray(length) => Ok(Some(length.into())),
            Marker::Array16 => self.count(2, field).map(Some),
            Marker::Array32 => self.count(4, field).map(Some),
            _ => Ok(None),
        }
    }

    /// Bytes in any form that the peer accepts: bin, an array of small numbers, or text.
    pub(crate) fn bytes(&mut self, text: TextForm, field: &'static str) -> Result<Vec<u8>, FieldError> {
        let marker = self.marker(field)?;
        if let Some(length) = self.bin_length(marker, field)? {
            return Ok(self.take(length, field)?.to_vec());
        }
        if let Some(length) = self.array_length(marker, field)? {
            // Each number has at least one byte.
            if !self.cursor.has_room_for(length as u64) {
                return Err(Problem::Truncated.in_field(field));
            }
            return (0..length).map(|_| self.small_number(field)).collect();
        }
        match (text, self.text_length(marker, field)?) {
            (TextForm::None, _) | (_, None) => Err(Problem::WrongType { expected: "bytes" }.in_field(field)),
            (TextForm::Hex, Some(length)) => {
                hex::decode(self.take(length, field)?).map_err(|_| Problem::NotHex.in_field(field))
            }
            (TextForm::Base64, Some(length)) => {
                use base64::Engine;
                use base64::prelude::BASE64_STANDARD;
                let text = self.take(length, field)?;
                BASE64_STANDARD.decode(text).map_err(|_| Problem::NotBase64.in_field(field))
            }
        }
    }

    fn small_number(&mut self, field: &'static str) -> Result<u8, FieldError> {
        u8::try_from(self.unsigned(field)?).map_err(|_| Problem::OutOfRange.in_field(field))
    }

    /// Reads an array head; returns the number of elements, at most `limit`.
    pub(crate) fn array(&mut self, limit: usize, field: &'static str) -> Result<usize, FieldError> {
        let marker = self.marker(field)?;
        match self.array_length(marker, field)? {
            Some(count) if count > limit => Err(Problem::TooMany { limit }.in_field(field)),
            // Each element has at least one byte.
            Some(count) if !self.cursor.has_room_for(count as u64) => Err(Problem::Truncated.in_field(field)),
            Some(count) => Ok(count),
            None => Err(Problem::WrongType { expected: "an array" }.in_field(field)),
        }
    }

    /// An array of at most `limit` elements.
    pub(crate) fn sequence<T>(
        &mut self,
        limit: usize,
        field: &'static str,
        mut read: impl FnMut(&mut Self) -> Result<T, FieldError>,
    ) -> Result<Vec<T>, FieldError> {
        let count = self.array(limit, field)?;
        (0..count).map(|_| read(self)).collect()
    }

    /// A map with text keys. `read` is called with each key and reads its value, or returns [`Known::No`],
    /// and the value is skipped.
    pub(crate) fn map(
        &mut self,
        field: &'static str,
        mut read: impl FnMut(&mut Self, &'a str) -> Result<Known, FieldError>,
    ) -> Result<(), FieldError> {
        let count = match self.marker(field)? {
            Marker::FixMap(count) => count.into(),
            Marker::Map16 => self.count(2, field)?,
            Marker::Map32 => self.count(4, field)?,
            _ => return Err(Problem::WrongType { expected: "a map" }.in_field(field)),
        };
        for _ in 0..count {
            let key = self.text(field)?;
            if let Known::No = read(self, key)? {
                self.skip(field)?;
            }
        }
        Ok(())
    }

    /// Skips one value of any type, without recursion.
    fn skip(&mut self, field: &'static str) -> Result<(), FieldError> {
        let mut pending: u64 = 1;
        while pending > 0 {
            pending -= 1;
            let marker = self.marker(field)?;
            let (bytes, children) = match marker {
                Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => (0, 0),
                Marker::U8 | Marker::I8 => (1, 0),
                Marker::U16 | Marker::I16 | Marker::FixExt1 => (2, 0),
                Marker::FixExt2 => (3, 0),
                Marker::U32 | Marker::I32 | Marker::F32 => (4, 0),
                Marker::FixExt4 => (5, 0),
                Marker::U64 | Marker::I64 | Marker::F64 => (8, 0),
                Marker::FixExt8 => (9, 0),
                Marker::FixExt16 => (17, 0),
                Marker::Ext8 => (self.number(1, field)? + 1, 0),
                Marker::Ext16 => (self.number(2, field)? + 1, 0),
                Marker::Ext32 => (self.number(4, field)? + 1, 0),
                Marker::FixStr(length) => (length.into(), 0),
                Marker::Str8 | Marker::Bin8 => (self.number(1, field)?, 0),
                Marker::Str16 | Marker::Bin16 => (self.number(2, field)?, 0),
                Marker::Str32 | Marker::Bin32 => (self.number(4, field)?, 0),
                Marker::FixArray(count) => (0, count.into()),
                Marker::Array16 => (0, self.number(2, field)?),
                Marker::Array32 => (0, self.number(4, field)?),
                Marker::FixMap(count) => (0, 2 * u64::from(count)),
                Marker::Map16 => (0, 2 * self.number(2, field)?),
                Marker::Map32 => (0, 2 * self.number(4, field)?),
                Marker::Reserved => {
                    return Err(Problem::WrongType { expected: "a value" }.in_field(field));
                }
            };
            let bytes = usize::try_from(bytes).map_err(|_| Problem::OutOfRange.in_field(field))?;
            self.take(bytes, field)?;
            // Each pending value has at least one byte, so there cannot be more of them than bytes.
            pending += children;
            if !self.cursor.has_room_for(pending) {
                return Err(Problem::Truncated.in_field(field));
            }
        }
        Ok(())
    }
}

/// Whether `read` knew the key of a map.
pub(crate) enum Known {
    Yes,
    No,
}

/// Sets a field that may occur once.
pub(crate) fn set<T>(slot: &mut Option<T>, field: &'static str, value: T) -> Result<Known, FieldError> {
    match slot.replace(value) {
        None => Ok(Known::Yes),
        Some(_) => Err(Problem::Duplicate.in_field(field)),
    }
}

/// The value of a required field.
pub(crate) fn required<T>(slot: Option<T>, field: &'static str) -> Result<T, FieldError> {
    slot.ok_or_else(|| Problem::Missing.in_field(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_every_form_and_negative_ones_refused() {
        let cases: [(&[u8], Result<u64, Problem>); 9] = [
            (&[0x7f], Ok(127)),
            (&[0xcc, 0x05], Ok(5)),
            (&[0xcd, 0x01, 0x00], Ok(256)),
            (&[0xce, 0, 0, 0, 1], Ok(1)),
            (&[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Ok(u64::MAX)),
            (&[0xd0, 0x05], Ok(5)),
            (&[0xd0, 0xff], Err(Problem::OutOfRange)),
            (&[0xff], Err(Problem::OutOfRange)),
            (&[0xa1, 0x31], Err(Problem::WrongType { expected: "a number" })),
        ];
        for (input, expected) in cases {
            let read = Reader::new(input).unsigned("n").map_err(|error| error.problem);
            assert_eq!(read, expected, "{input:02x?}");
        }
    }

    #[test]
    fn skipping_is_bounded_by_the_input() {
        // A map of 2³²−1 pairs, and 100 000 nested arrays.
        let cases = [vec![0xdf, 0xff, 0xff, 0xff, 0xff], vec![0x91; 100_000]];
        for input in cases {
            assert_eq!(Reader::new(&input).skip("x"), Err(Problem::Truncated.in_field("x")));
        }
        let value = [0x93, 0xc0, 0x81, 0xa1, 0x61, 0xc7, 0x01, 0x05, 0xaa, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut reader = Reader::new(&value);
        assert_eq!(reader.skip("x"), Ok(()));
        assert!(reader.rest().is_empty());
    }
}
