//! The TD hand-off block (TD HOB): the memory map that QEMU gives to the firmware.

use super::digest::{Digest, sha384};
use super::tdvf::{self, Section};

/// Why there is no hand-off block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TdHobError {
    /// The firmware has no section for it.
    #[error("the firmware has no section for the TD hand-off block")]
    NoSection,
    /// A memory range of the firmware that is empty, beyond the memory, or inside another one.
    #[error(
        "a memory range of the firmware at {0:#x} is empty, beyond {1} bytes of memory, or in another range"
    )]
    Range(u64, u64),
    /// A sum exceeds 64 bits.
    #[error("an address of the TD hand-off block is too large")]
    Overflow,
}

/// The firmware's part of the hand-off block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemoryLayout {
    /// Address of the hand-off block.
    pub(super) hob: u64,
    /// Memory accepted at launch, in the firmware's order.
    pub(super) accepted: Vec<Range>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) end: u64,
}

#[derive(Clone, Copy)]
enum Acceptance {
    Accepted = 0,
    Unaccepted = 7,
}

/// With at least this much memory, QEMU puts a part above 4 GiB.
pub(super) const SPLIT_FROM: u64 = 0xb000_0000;
/// Memory below 4 GiB of a VM with at least [`SPLIT_FROM`].
pub(super) const LOW_MEMORY: u64 = 0x8000_0000;
const FOUR_GIB: u64 = 0x1_0000_0000;

impl MemoryLayout {
    pub(super) fn of(sections: &[Section]) -> Result<Self, TdHobError> {
        let hob = sections.iter().find(|section| section.kind == tdvf::TD_HOB);
        let hob = hob.ok_or(TdHobError::NoSection)?.address;
        let accepted = sections
            .iter()
            .filter(|section| matches!(section.kind, tdvf::TD_HOB | tdvf::TEMPORARY_MEMORY))
            .map(|section| Range {
                start: section.address,
                end: section.address.saturating_add(section.memory_size),
            })
            .collect();
        Ok(Self { hob, accepted })
    }

    /// Digest of the hand-off block of a VM with `memory` bytes.
    pub(super) fn digest(&self, memory: u64) -> Result<Digest, TdHobError> {
        let mut ranges = vec![(Range { start: 0, end: memory }, Acceptance::Unaccepted)];
        for accepted in &self.accepted {
            accept(&mut ranges, *accepted).ok_or(TdHobError::Range(accepted.start, memory))?;
        }
        let (last, before) = ranges.split_last().ok_or(TdHobError::NoSection)?;
        let mut blocks = Vec::with_capacity(48 * (ranges.len() + 1));
        for (range, acceptance) in before {
            push(&mut blocks, *acceptance, range.start, range.end - range.start);
        }
        let Range { start, end } = last.0;
        if memory >= SPLIT_FROM {
            if start < LOW_MEMORY {
                push(&mut blocks, Acceptance::Unaccepted, start, LOW_MEMORY - start);
            }
            if end > LOW_MEMORY {
                push(&mut blocks, Acceptance::Unaccepted, FOUR_GIB, end - LOW_MEMORY);
            }
        } else {
            push(&mut blocks, Acceptance::Unaccepted, start, end - start);
        }
        let length = (HAND_OFF + blocks.len() + 8) as u64;
        let end = self.hob.checked_add(length).ok_or(TdHobError::Overflow)?;
        Ok(sha384(&[&hand_off(end), &blocks]))
    }
}

/// Splits the unaccepted range that contains `accepted`; `None` if there is none.
fn accept(ranges: &mut Vec<(Range, Acceptance)>, accepted: Range) -> Option<()> {
    let holds = |(range, acceptance): &(Range, Acceptance)| {
        matches!(acceptance, Acceptance::Unaccepted)
            && range.start <= accepted.start
            && accepted.end <= range.end
    };
    if accepted.start >= accepted.end {
        return None;
    }
    let index = ranges.iter().position(holds)?;
    let (whole, _) = ranges[index];
    let before = Range { start: whole.start, end: accepted.start };
    let after = Range { start: accepted.end, end: whole.end };
    let parts =
        [(before, Acceptance::Unaccepted), (accepted, Acceptance::Accepted), (after, Acceptance::Unaccepted)];
    ranges.splice(index..=index, parts.into_iter().filter(|(range, _)| range.start < range.end));
    Some(())
}

/// Length of the first block.
const HAND_OFF: usize = 56;

fn hand_off(end: u64) -> [u8; HAND_OFF] {
    let mut block = [0; HAND_OFF];
    block[..2].copy_from_slice(&1u16.to_le_bytes());
    block[2..4].copy_from_slice(&(HAND_OFF as u16).to_le_bytes());
    block[8..12].copy_from_slice(&9u32.to_le_bytes());
    block[48..].copy_from_slice(&end.to_le_bytes());
    block
}

/// Appends a resource block of 48 bytes.
fn push(blocks: &mut Vec<u8>, acceptance: Acceptance, start: u64, length: u64) {
    blocks.extend_from_slice(&3u16.to_le_bytes());
    blocks.extend_from_slice(&48u16.to_le_bytes());
    blocks.extend_from_slice(&[0; 20]);
    blocks.extend_from_slice(&[acceptance as u8, 0, 0, 0]);
    blocks.extend_from_slice(&7u32.to_le_bytes());
    blocks.extend_from_slice(&start.to_le_bytes());
    blocks.extend_from_slice(&length.to_le_bytes());
}
