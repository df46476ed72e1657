//! A cursor over a byte string, the base of the readers of all encodings.

/// The bytes that are not read yet. It allocates nothing and never reads beyond the input.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// The bytes that are not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `length` bytes, if there are as many.
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(length)?;
        self.rest = tail;
        Some(head)
    }

    /// The next `N` bytes, if there are as many.
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.rest.split_first_chunk()?;
        self.rest = tail;
        Some(*head)
    }

    /// The next `width` bytes, at most eight, as a big-endian number.
    pub(super) fn big_endian(&mut self, width: usize) -> Option<u64> {
        Some(self.take(width)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// Consumes `byte` if it is next.
    pub(super) fn next_is(&mut self, byte: u8) -> bool {
        let is_next = self.rest.first() == Some(&byte);
        if is_next {
            self.rest = &self.rest[1..];
        }
        is_next
    }

    /// Whether `count` elements of at least one byte each can follow. Checked before anything is allocated or
    /// looped over.
    pub(super) fn has_room_for(&self, count: u64) -> bool {
        count <= self.rest.len() as u64
    }
}
