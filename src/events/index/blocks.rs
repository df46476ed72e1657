//! Blocks of records with a set of offsets each, as streams that are joined in order.

use std::iter::Peekable;

use super::super::offsets::Offsets;
use super::{IndexError, Order};

/// Blocks with their sets, in some order.
pub(super) type Blocks<'a> = Peekable<Box<dyn Iterator<Item = Result<(u64, Offsets), IndexError>> + 'a>>;

pub(super) fn ordered<'a>(
    blocks: impl DoubleEndedIterator<Item = Result<(u64, Offsets), IndexError>> + 'a,
    order: Order,
) -> Blocks<'a> {
    let blocks: Box<dyn Iterator<Item = _> + 'a> = match order {
        Order::Newest => Box::new(blocks.rev()),
        Order::Oldest => Box::new(blocks),
    };
    blocks.peekable()
}

pub(super) fn in_order(offsets: Offsets, order: Order) -> Vec<u64> {
    match order {
        Order::Newest => offsets.ascending().rev().collect(),
        Order::Oldest => offsets.ascending().collect(),
    }
}

/// The blocks that at least one of the streams has, each with the union of its sets.
pub(super) fn either(mut streams: Vec<Blocks<'_>>, order: Order) -> Blocks<'_> {
    let next = move || {
        let mut at = None;
        for stream in &mut streams {
            match stream.peek() {
                None => {}
                Some(Err(_)) => return stream.next(),
                Some(Ok((block, _))) if at.is_none_or(|at| is_before(*block, at, order)) => at = Some(*block),
                Some(Ok(_)) => {}
            }
        }
        let at = at?;
        let mut offsets = Offsets::NONE;
        for stream in &mut streams {
            if let Some(Ok((_, of_stream))) =
                stream.next_if(|next| matches!(next, Ok((block, _)) if *block == at))
            {
                offsets = offsets.or(&of_stream);
            }
        }
        Some(Ok((at, offsets)))
    };
    let blocks: Box<dyn Iterator<Item = _> + '_> = Box::new(std::iter::from_fn(next));
    blocks.peekable()
}

fn is_before(one: u64, other: u64, order: Order) -> bool {
    match order {
        Order::Newest => one > other,
        Order::Oldest => one < other,
    }
}

/// The next block that all streams have, with the intersection of its sets; advances the streams past it.
pub(super) fn common(streams: &mut [Blocks<'_>], order: Order) -> Result<Option<(u64, Offsets)>, IndexError> {
    loop {
        let mut target: Option<u64> = None;
        for stream in &mut *streams {
            // Skips to the block of the others.
            while let (Some(target), Some(Ok((block, _)))) = (target, stream.peek())
                && is_before(*block, target, order)
            {
                stream.next();
            }
            match stream.peek() {
                None => return Ok(None),
                Some(Err(_)) => return stream.next().transpose(),
                Some(Ok((block, _))) => target = Some(*block),
            }
        }
        let Some(block) = target else { return Ok(None) };
        let is_common =
            streams.iter_mut().all(|stream| matches!(stream.peek(), Some(Ok((at, _))) if *at == block));
        let mut offsets = Offsets::ALL;
        for stream in &mut *streams {
            let is_due =
                matches!(stream.peek(), Some(Ok((at, _))) if is_common || is_before(*at, block, order));
            if is_due && let Some(Ok((_, of_stream))) = stream.next() {
                offsets = offsets.and(&of_stream);
            }
        }
        if is_common {
            return Ok(Some((block, offsets)));
        }
    }
}
