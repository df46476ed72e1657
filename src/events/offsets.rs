//! A set of events in one block, in a compact encoding.

/// How many events share an index entry for each property.
pub(super) const BLOCK: u64 = 1024;

const WORDS: usize = (BLOCK / 64) as usize;
/// Sets from this size on are stored as a bit map.
const MANY: u32 = 64;

/// A set of events of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offsets([u64; WORDS]);

impl Offsets {
    pub(super) const NONE: Self = Self([0; WORDS]);
    pub(super) const ALL: Self = Self([u64::MAX; WORDS]);

    pub(super) fn insert(&mut self, offset: u64) {
        let offset = (offset % BLOCK) as usize;
        self.0[offset / 64] |= 1 << (offset % 64);
    }

    /// The intersection.
    #[must_use]
    pub(super) fn and(mut self, other: &Self) -> Self {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word &= other;
        }
        self
    }

    /// The union.
    #[must_use]
    pub(super) fn or(mut self, other: &Self) -> Self {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
        self
    }

    pub(super) fn ascending(&self) -> impl DoubleEndedIterator<Item = u64> {
        (0..BLOCK).filter(|offset| self.0[(offset / 64) as usize] >> (offset % 64) & 1 == 1)
    }

    /// Two bytes for each event, or a bit map, whichever is shorter. The length tells which.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let count: u32 = self.0.iter().map(|word| word.count_ones()).sum();
        match count < MANY {
            true => self.ascending().flat_map(|offset| (offset as u16).to_be_bytes()).collect(),
            false => self.0.iter().flat_map(|word| word.to_be_bytes()).collect(),
        }
    }

    /// Decodes any bytes to some set.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut offsets = Self::NONE;
        if bytes.len() >= WORDS * 8 {
            for (word, bytes) in offsets.0.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_be_bytes(*bytes);
            }
            return offsets;
        }
        for bytes in bytes.as_chunks::<2>().0 {
            offsets.insert(u64::from(u16::from_be_bytes(*bytes)));
        }
        offsets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_any_size_comes_back() {
        for step in [1, 2, 15, 16, 17, 100, 1023] {
            let mut offsets = Offsets::NONE;
            (0..BLOCK).step_by(step).for_each(|offset| offsets.insert(offset));
            let bytes = offsets.to_bytes();
            assert!(bytes.len() <= 128, "{step}: {} bytes", bytes.len());
            assert_eq!(Offsets::from_bytes(&bytes), offsets, "{step}");
            assert_eq!(offsets.ascending().count(), BLOCK.div_ceil(step as u64) as usize);
        }
        assert_eq!(Offsets::from_bytes(&Offsets::ALL.to_bytes()), Offsets::ALL);
        assert!(Offsets::NONE.to_bytes().is_empty());
    }
}
