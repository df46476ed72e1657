//! The header of all tables except the FACS.

/// A table under construction.
pub(super) struct Table(Vec<u8>);

const LENGTH: usize = 36;

impl Table {
    /// An empty table with QEMU's identifiers.
    pub(super) fn new(signature: &[u8; 4], revision: u8) -> Self {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend_from_slice(signature);
        // `finish` sets the length; the firmware sets the checksum.
        bytes.extend_from_slice(&[0, 0, 0, 0, revision, 0]);
        bytes.extend_from_slice(b"BOCHS BXPC    \x01\0\0\0BXPC\x01\0\0\0");
        Self(bytes)
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Pads the table with zeros to `length` and writes `parts` at their offsets.
    pub(super) fn fill(&mut self, length: usize, parts: &[(usize, &[u8])]) -> &mut Self {
        self.0.resize(length, 0);
        for (at, part) in parts {
            self.0[*at..*at + part.len()].copy_from_slice(part);
        }
        self
    }

    /// Sets the length and returns the table.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[4..8].copy_from_slice(&length.to_le_bytes());
        std::mem::take(&mut self.0)
    }
}
