//! SCALE, as used by evidence V0 and CSRs: a reader that allocates no more than its input, and a writer.

use crate::codec::cursor::Cursor;
use crate::codec::{FieldError, Problem};

/// Reads values from the front of a byte string. Each length is checked against the remaining input before
/// anything is allocated. Only the shortest form of a length is accepted, so encoding a decoded value gives
/// the same bytes.
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

    pub(crate) fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], FieldError> {
        self.cursor.take(length).ok_or_else(|| Problem::Truncated.in_field(field))
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FieldError> {
        self.cursor.array().ok_or_else(|| Problem::Truncated.in_field(field))
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, FieldError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, FieldError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, FieldError> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub(crate) fn bool(&mut self, field: &'static str) -> Result<bool, FieldError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Problem::UnknownIndex(other).in_field(field)),
        }
    }

    pub(crate) fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, FieldError>,
    ) -> Result<Option<T>, FieldError> {
        if self.bool(field)? { read(self).map(Some) } else { Ok(None) }
    }

    /// A compact length. The form for 2³⁰ and more is refused: no input here is that long.
    fn length(&mut self, field: &'static str) -> Result<usize, FieldError> {
        let first = self.u8(field)?;
        let (value, least) = match first & 3 {
            0 => (u32::from(first), 0),
            1 => (u32::from(u16::from_le_bytes([first, self.u8(field)?])), 1 << 6),
            2 => {
                let [second, third, fourth] = self.array(field)?;
                (u32::from_le_bytes([first, second, third, fourth]), 1 << 14)
            }
            _ => return Err(Problem::Truncated.in_field(field)),
        };
        let value = value >> 2;
        if value < least {
            return Err(Problem::NotCanonical.in_field(field));
        }
        usize::try_from(value).map_err(|_| Problem::OutOfRange.in_field(field))
    }

    pub(crate) fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], FieldError> {
        let length = self.length(field)?;
        self.take(length, field)
    }

    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a str, FieldError> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| Problem::NotUtf8.in_field(field))
    }

    /// A sequence of at most `limit` elements.
    pub(crate) fn sequence<T>(
        &mut self,
        limit: usize,
        field: &'static str,
        mut read: impl FnMut(&mut Self) -> Result<T, FieldError>,
    ) -> Result<Vec<T>, FieldError> {
        let count = self.length(field)?;
        if count > limit {
            return Err(Problem::TooMany { limit }.in_field(field));
        }
        // Each element has at least one byte, so a count beyond the input fails before anything is allocated.
        if !self.cursor.has_room_for(count as u64) {
            return Err(Problem::Truncated.in_field(field));
        }
        (0..count).map(|_| read(self)).collect()
    }
}

/// Writes values one after another.
#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(value.into())
    }

    pub(crate) fn option<T>(
        &mut self,
        value: Option<T>,
        write: impl FnOnce(&mut Self, T) -> &mut Self,
    ) -> &mut Self {
        match value {
            None => self.u8(0),
            Some(value) => write(self.u8(1), value),
        }
    }

    /// A compact length, including the form for 2³⁰ and more, which the reader refuses.
    fn length(&mut self, length: usize) -> &mut Self {
        let value = length as u64;
        match value {
            0..0x40 => self.raw(&((value << 2) as u8).to_le_bytes()),
            0x40..0x4000 => self.raw(&((value << 2 | 1) as u16).to_le_bytes()),
            0x4000..0x4000_0000 => self.raw(&((value << 2 | 2) as u32).to_le_bytes()),
            _ => {
                let significant = 8 - value.leading_zeros() as usize / 8;
                self.u8((((significant - 4) as u8) << 2) | 3).raw(&value.to_le_bytes()[..significant])
            }
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.length(bytes.len()).raw(bytes)
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn sequence<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) -> &mut Self {
        self.length(items.len());
        for item in items {
            write(self, item);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_and_read_in_their_shortest_form() {
        let cases: [(usize, &[u8]); 6] = [
            (0, &[0x00]),
            (63, &[0xfc]),
            (64, &[0x01, 0x01]),
            (16_383, &[0xfd, 0xff]),
            (16_384, &[0x02, 0x00, 0x01, 0x00]),
            ((1 << 30) - 1, &[0xfe, 0xff, 0xff, 0xff]),
        ];
        for (length, encoded) in cases {
            let mut writer = Writer::default();
            writer.length(length);
            assert_eq!(writer.into_bytes(), encoded, "{length}");
            assert_eq!(Reader::new(encoded).length("n"), Ok(length));
        }
        let mut huge = Writer::default();
        huge.length(1 << 30);
        assert_eq!(huge.into_bytes(), [0x03, 0, 0, 0, 0x40]);
    }

    #[test]
    fn malformed_values_are_refused_with_their_field() {
        let cases: [(&[u8], Problem); 4] = [
            (&[0x01, 0x00], Problem::NotCanonical),
            (&[0x02, 0x00, 0x00, 0x00], Problem::NotCanonical),
            (&[0x08, 0x61], Problem::Truncated),
            (&[0x03, 0xff, 0xff, 0xff, 0xff], Problem::Truncated),
        ];
        for (input, problem) in cases {
            assert_eq!(Reader::new(input).bytes("x"), Err(problem.in_field("x")), "{input:02x?}");
        }
        assert_eq!(Reader::new(&[2]).bool("b"), Err(Problem::UnknownIndex(2).in_field("b")));
        assert_eq!(Reader::new(&[0x04, 0xff]).text("t"), Err(Problem::NotUtf8.in_field("t")));
    }

    #[test]
    fn a_count_beyond_the_input_is_refused_before_anything_is_read() {
        let many = [0xfe, 0xff, 0xff, 0xff];
        let read = |limit| Reader::new(&many).sequence(limit, "s", |reader| reader.u8("s"));
        assert_eq!(read(10), Err(Problem::TooMany { limit: 10 }.in_field("s")));
        assert_eq!(read(usize::MAX), Err(Problem::Truncated.in_field("s")));
    }
}
