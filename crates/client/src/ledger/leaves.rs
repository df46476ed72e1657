//! Every leaf of a tree, tile by tile: the signed root follows from them, and so does every tile above; with an operator's
//! connection also each entry. Memory does not grow with the tree.

use kms_ledger::bundle;
use kms_ledger::edge::Edge;
use kms_ledger::hash::Hash;
use kms_ledger::number::Size;
use kms_ledger::tile::{Content, FULL_WIDTH, Tile};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{LedgerError, RemoteLog, Tree};

/// Levels of the tree in a level of tiles.
const TILE_HEIGHT: u8 = 8;

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Read {
    /// Leaves whose hashes lead to the root.
    pub leaves: u64,
    /// Up to which leaf.
    pub end: u64,
    /// Leaves whose entries were read too.
    pub entries: u64,
    /// Leaves whose entries are not kept there any more.
    pub elsewhere: u64,
}

impl Tree<'_> {
    /// Verifies every leaf from the tile on that has leaf `from`, and the tiles above them. With `entries`, a connection of an
    /// operator, each entry has the hash of its leaf and follows from the one before. `progress` is told of leaves that are done.
    /// It ends after about `most` leaves, at the end of a tile; [`Read::end`] says where.
    ///
    /// # Errors
    /// [`LedgerError`]: the first thing that does not hold.
    pub async fn check_leaves(
        &self,
        from: u64,
        most: u64,
        entries: Option<&RemoteLog>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Read, LedgerError> {
        let width = u64::from(FULL_WIDTH);
        let first = from.min(self.size.get()) / width;
        let start = Size::try_from(first * width).map_err(|_| LedgerError::Tiles(self.size))?;
        let mut above = Above { tree: self, edge: self.edge(start).await?, tiles: Vec::new() };
        let mut read = Read::default();
        let mut chain = Chain::default();
        let all = self.size.get().div_ceil(width);
        let last = all.min(from.saturating_add(most).div_ceil(width).max(first + 1));
        let end = self.size.get().min(last * width);
        for number in first..last {
            let tile = self.tile_at(Content::Hashes(0), number)?;
            let leaves = self.hashes_of(&tile).await?;
            if let Some(log) = entries {
                let bundle = self.tile_at(Content::Entries, number)?;
                match log.entries(&bundle).await {
                    Ok(content) => {
                        chain.check(number * width, &bundle, &content, &leaves)?;
                        read.entries += leaves.len() as u64;
                    }
                    Err(LedgerError::Missing(_)) => {
                        chain = Chain::default();
                        read.elsewhere += leaves.len() as u64;
                    }
                    Err(error) => return Err(error),
                }
            }
            for leaf in &leaves {
                above.append(*leaf).await?;
            }
            read.leaves += leaves.len() as u64;
            progress(read.leaves);
        }
        read.end = end;
        let end = Size::try_from(end).map_err(|_| LedgerError::Tiles(self.size))?;
        let root = if end < self.size { self.root_of(end).await? } else { self.root };
        if above.edge.root() == root { Ok(read) } else { Err(LedgerError::Tiles(self.size)) }
    }
}

/// The tree that grows over the leaves, and one tile of each level above them.
struct Above<'a> {
    tree: &'a Tree<'a>,
    edge: Edge,
    tiles: Vec<Option<(Tile, Vec<Hash>)>>,
}

impl Above<'_> {
    async fn append(&mut self, leaf: Hash) -> Result<(), LedgerError> {
        let completed = self.edge.append(leaf).map_err(|_| LedgerError::Tiles(self.tree.size))?;
        for (node, hash) in completed {
            if node.level == 0 || !node.level.is_multiple_of(TILE_HEIGHT) {
                continue;
            }
            let level = node.level / TILE_HEIGHT;
            let width = u64::from(FULL_WIDTH);
            let tile = self.tree.tile_at(Content::Hashes(level), node.index / width)?;
            let place = usize::from(level);
            if self.tiles.len() <= place {
                self.tiles.resize(place + 1, None);
            }
            let known = self.tiles[place].take().filter(|(known, _)| *known == tile);
            let (tile, hashes) = match known {
                Some(known) => known,
                None => (tile, self.tree.hashes_of(&tile).await?),
            };
            let offset = usize::try_from(node.index % width).map_err(|_| LedgerError::Altered(tile))?;
            if hashes.get(offset) != Some(&hash) {
                return Err(LedgerError::Altered(tile));
            }
            self.tiles[place] = Some((tile, hashes));
        }
        Ok(())
    }
}

/// The record before, if it is known: its number and the hash of its entry.
#[derive(Default)]
struct Chain {
    last: Option<(u64, Option<[u8; 32]>)>,
}

/// What an entry says of its place.
#[derive(Deserialize)]
struct Place {
    seq: u64,
    /// Records from before the ledger have none here: their entries stand for their lines.
    prev: Option<String>,
}

impl Chain {
    /// Checks the entries of a bundle whose first is leaf `first`.
    fn check(&mut self, first: u64, tile: &Tile, content: &[u8], leaves: &[Hash]) -> Result<(), LedgerError> {
        let entries = bundle::verified_entries(content, leaves)
            .map_err(|problem| LedgerError::Entries { tile: *tile, problem })?;
        for (index, entry) in (first..).zip(entries) {
            self.follow(entry).ok_or(LedgerError::Chain(index))?;
        }
        Ok(())
    }

    /// `None` if the entry does not follow.
    fn follow(&mut self, entry: &[u8]) -> Option<()> {
        let place: Place = kms_attest::json::from_utf8(entry).ok()?;
        if let Some((seq, hash)) = self.last {
            let is_next = seq.checked_add(1) == Some(place.seq);
            let is_linked = match (hash, &place.prev) {
                (Some(hash), Some(prev)) => *prev == hex::encode(hash),
                // What a record from before the ledger hashes to is not in its entry, and none comes after the ledger began.
                (None, _) => true,
                (Some(_), None) => false,
            };
            if !is_next || !is_linked {
                return None;
            }
        }
        let hash = place.prev.is_some().then(|| Sha256::digest(entry).into());
        self.last = Some((place.seq, hash));
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64, prev: &[u8]) -> Vec<u8> {
        let prev = hex::encode(Sha256::digest(prev));
        format!(r#"{{"seq":{seq},"prev":"{prev}","salt":"x"}}"#).into_bytes()
    }

    #[test]
    fn entries_follow_from_one_another() {
        let legacy = br#"{"line_sha256":"00","salt":"x","seq":4,"type":"legacy"}"#;
        let (first, second) = (entry(5, b"an old line"), entry(6, &entry(5, b"an old line")));
        let mut chain = Chain::default();
        for entry in [&legacy[..], &first, &second] {
            assert!(chain.follow(entry).is_some());
        }
        for (wrong, name) in [
            (entry(7, b"another"), "another predecessor"),
            (entry(8, &second), "a number left out"),
            (second.clone(), "the same again"),
            (br#"{"seq":7,"salt":"x","type":"legacy"}"#.to_vec(), "an old record behind a new one"),
            (b"{}".to_vec(), "no number"),
            (b"\xff".to_vec(), "no text"),
        ] {
            let last = chain.last;
            assert!(chain.follow(&wrong).is_none(), "{name}");
            chain.last = last;
        }
        assert!(chain.follow(&entry(7, &second)).is_some());
    }
}
