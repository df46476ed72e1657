//! Entry bundles: the entries of a log as static files (C2SP `tlog-tiles`).

use crate::hash::Hash;
use crate::tile::Width;

/// Maximum length of an entry, whose length has two bytes in a bundle.
pub const MAX_ENTRY: usize = u16::MAX as usize;

/// Bytes of an entry's length.
const LENGTH: usize = 2;

/// Why bytes are not a bundle of so many entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// It ends within an entry, or has too few.
    #[error("the bundle ends in entry {entry} of {width}")]
    Short {
        /// Entries before it in the bundle.
        entry: usize,
        /// How many entries there should be.
        width: u16,
    },
    /// Trailing bytes after the last entry.
    #[error("{bytes} bytes follow the last entry of the bundle")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The tile does not have 1 to 256 hashes.
    #[error("a bundle has 1 to 256 entries")]
    Width,
    /// An entry does not have the hash that the tile says.
    #[error("entry {entry} of the bundle is not the one in the tree")]
    Altered {
        /// Entries before it in the bundle.
        entry: usize,
    },
}

/// An entry does not fit into a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry has at most {MAX_ENTRY} bytes, this has {bytes}")]
pub struct EntryTooLong {
    /// Its length.
    pub bytes: usize,
}

/// Reads a bundle: for each entry u16be(length) ‖ entry, without trailing bytes.
///
/// # Errors
/// [`BundleError`].
pub fn entries(bundle: &[u8], width: Width) -> Result<Vec<&[u8]>, BundleError> {
    let mut rest = bundle;
    let mut entries = Vec::with_capacity(width.get().into());
    for entry in 0..usize::from(width.get()) {
        let short = BundleError::Short { entry, width: width.get() };
        let (length, content) = rest.split_first_chunk::<LENGTH>().ok_or(short)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (content, others) = content.split_at_checked(length).ok_or(short)?;
        entries.push(content);
        rest = others;
    }
    if rest.is_empty() { Ok(entries) } else { Err(BundleError::Trailing { bytes: rest.len() }) }
}

/// Reads a bundle and compares each entry with its hash in the tile of level 0: the whole bundle or nothing.
///
/// # Errors
/// [`BundleError`].
pub fn verified_entries<'a>(bundle: &'a [u8], tile: &[Hash]) -> Result<Vec<&'a [u8]>, BundleError> {
    let width = u64::try_from(tile.len()).ok().and_then(Width::new).ok_or(BundleError::Width)?;
    let entries = entries(bundle, width)?;
    let altered = entries.iter().zip(tile).position(|(entry, hash)| Hash::leaf(entry) != *hash);
    altered.map_or(Ok(entries), |entry| Err(BundleError::Altered { entry }))
}

/// Appends an entry to a bundle.
///
/// # Errors
/// [`EntryTooLong`]; the bundle is unchanged then.
pub fn append(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), EntryTooLong> {
    let length = u16::try_from(entry.len()).map_err(|_| EntryTooLong { bytes: entry.len() })?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}
