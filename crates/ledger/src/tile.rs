//! Tiles: a tree as static files (C2SP `tlog-tiles`).
//!
//! Hash i of tile (L, N) is the root of leaves `(256·N + i)·256^L` up to, not including, `(256·N + i +
//! 1)·256^L`. Only full subtrees are in tiles. A partial tile is the beginning of the full one.

use std::cell::RefCell;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::hash::Hash;
use crate::number::{Size, decimal};
use crate::proof::{HashReader, Node};

/// Hashes of a full tile, and entries of a full bundle.
pub const FULL_WIDTH: u16 = 256;

/// Levels of the tree in a level of tiles.
pub(crate) const TILE_HEIGHT: u8 = 8;

/// The longest path: a level of two digits, seven groups of digits, a width of three.
const MAX_PATH: usize = 64;

/// Highest level of a tile that has a path.
const MAX_LEVEL: u8 = 63;

/// Why a text is not the path of a tile or of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TilePathError {
    /// Not `tile/<L>/<N>[.p/<W>]`.
    #[error("a tile's path must be tile/<L>/<N>[.p/<W>]")]
    Shape,
    /// Not `entries` or a number up to 63.
    #[error("a tile's level must be `entries` or 0 to 63, without a leading zero")]
    Level,
    /// Not groups of three digits, all but the last with `x`, or too large.
    #[error("a tile's number must be groups of three digits, such as x001/x234/067")]
    Number,
    /// Not a number from 1 to 255.
    #[error("the width of a partial tile must be 1 to 255, without a leading zero")]
    Width,
}

/// How many hashes or entries a file has: 1 to 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Width(NonZeroU16);

impl Width {
    /// 256.
    pub const FULL: Self = match NonZeroU16::new(FULL_WIDTH) {
        Some(width) => Self(width),
        None => unreachable!(),
    };

    /// `None` if it is not 1 to 256.
    pub fn new(width: u64) -> Option<Self> {
        let width = u16::try_from(width).ok().filter(|width| *width <= FULL_WIDTH)?;
        NonZeroU16::new(width).map(Self)
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }

    /// Whether the width is 256.
    pub fn is_full(self) -> bool {
        self == Self::FULL
    }
}

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// Hashes of a level of tiles, from 0.
    Hashes(u8),
    /// The entries themselves.
    Entries,
}

impl Content {
    /// Levels of the tree below one hash, or one entry.
    fn height(self) -> u32 {
        match self {
            Self::Hashes(level) => u32::from(level) * u32::from(TILE_HEIGHT),
            Self::Entries => 0,
        }
    }

    /// How many hashes or entries of this kind a tree has.
    fn count(self, size: Size) -> u64 {
        size.get().checked_shr(self.height()).unwrap_or(0)
    }
}

/// A tile of hashes or a bundle of entries, full or partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    content: Content,
    number: u64,
    width: Width,
}

impl Tile {
    /// `None` if the level does not exist.
    pub fn new(content: Content, number: u64, width: Width) -> Option<Self> {
        match content {
            Content::Hashes(level) if level > MAX_LEVEL => None,
            Content::Hashes(_) | Content::Entries => Some(Self { content, number, width }),
        }
    }

    /// What is in the tile.
    pub fn content(&self) -> Content {
        self.content
    }

    /// Number of tiles of its level to the left of it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How many hashes or entries it has.
    pub fn width(&self) -> Width {
        self.width
    }

    /// The same with 256, whose beginning it is.
    pub fn full(&self) -> Self {
        Self { width: Width::FULL, ..*self }
    }

    /// Whether a log of this size has it. A log may serve it: the partial tiles of smaller trees are also in the tree.
    pub fn is_within(&self, size: Size) -> bool {
        let end = self.number.checked_mul(u64::from(FULL_WIDTH));
        let end = end.and_then(|start| start.checked_add(u64::from(self.width.get())));
        end.is_some_and(|end| end <= self.content.count(size))
    }

    /// The tile with this number as it is in a tree of this size; `None` if it has nothing.
    pub fn at(content: Content, number: u64, size: Size) -> Option<Self> {
        let start = number.checked_mul(u64::from(FULL_WIDTH))?;
        let rest = content.count(size).checked_sub(start)?;
        Self::new(content, number, Width::new(rest.min(u64::from(FULL_WIDTH)))?)
    }

    /// The files of this kind that a tree has and a smaller one did not, or not as wide.
    pub fn new_of(content: Content, old: Size, new: Size) -> impl Iterator<Item = Self> {
        let width = u64::from(FULL_WIDTH);
        let (old, count) = (content.count(old), content.count(new));
        let numbers = if old < count { old / width..count.div_ceil(width) } else { 0..0 };
        numbers.filter_map(move |number| Self::at(content, number, new))
    }

    /// The tiles of hashes that a tree has and a smaller one did not, or not as wide: level by level.
    pub fn new_hashes(old: Size, new: Size) -> impl Iterator<Item = Self> {
        (0..=MAX_LEVEL / TILE_HEIGHT).flat_map(move |level| Self::new_of(Content::Hashes(level), old, new))
    }
}

/// `tile/<L>/<N>[.p/<W>]`, without a slash in front.
impl fmt::Display for Tile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.content {
            Content::Hashes(level) => write!(formatter, "tile/{level}")?,
            Content::Entries => formatter.write_str("tile/entries")?,
        }
        let groups = (0..7).rev().map(|power| 1000_u64.pow(power));
        for group in groups.filter(|group| *group == 1 || self.number >= *group) {
            let mark = if group == 1 { "" } else { "x" };
            write!(formatter, "/{mark}{:03}", self.number / group % 1000)?;
        }
        if self.width.is_full() { Ok(()) } else { write!(formatter, ".p/{}", self.width.get()) }
    }
}

/// Reads exactly what [`fmt::Display`] writes.
impl FromStr for Tile {
    type Err = TilePathError;

    fn from_str(path: &str) -> Result<Self, TilePathError> {
        if path.len() > MAX_PATH {
            return Err(TilePathError::Shape);
        }
        let rest = path.strip_prefix("tile/").ok_or(TilePathError::Shape)?;
        let (level, rest) = rest.split_once('/').ok_or(TilePathError::Shape)?;
        let content = match level {
            "entries" => Content::Entries,
            _ => Content::Hashes(small(level, u64::from(MAX_LEVEL)).ok_or(TilePathError::Level)?),
        };
        let (number, width) = match rest.split_once(".p/") {
            None => (rest, Width::FULL),
            Some((number, width)) => {
                let width = small(width, u64::from(FULL_WIDTH) - 1).map(u64::from);
                (number, width.and_then(Width::new).ok_or(TilePathError::Width)?)
            }
        };
        let number = groups(number).ok_or(TilePathError::Number)?;
        Ok(Self { content, number, width })
    }
}

fn small(text: &str, max: u64) -> Option<u8> {
    let number = decimal(text).ok()?.filter(|number| *number <= max)?;
    u8::try_from(number).ok()
}

fn groups(text: &str) -> Option<u64> {
    let mut number: u64 = 0;
    let mut groups = text.split('/').peekable();
    while let Some(group) = groups.next() {
        let digits = if groups.peek().is_some() { group.strip_prefix('x')? } else { group };
        if digits.len() != 3 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        // A group of zeros is not written in front.
        if number == 0 && digits == "000" && groups.peek().is_some() {
            return None;
        }
        number = number.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
    }
    Some(number)
}

/// The content of a tile of hashes is not as long as its width says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tile of {width} hashes has {found} bytes")]
pub struct TileLength {
    /// How many hashes it should have.
    pub width: u16,
    /// How many bytes it has.
    pub found: usize,
}

/// Reads the content of a tile of hashes.
///
/// # Errors
/// [`TileLength`].
pub fn hashes(content: &[u8], width: Width) -> Result<Vec<Hash>, TileLength> {
    let wrong = TileLength { width: width.get(), found: content.len() };
    if content.len() != usize::from(width.get()) * Hash::LEN {
        return Err(wrong);
    }
    content.chunks_exact(Hash::LEN).map(|hash| Hash::try_from(hash).map_err(|_| wrong)).collect()
}

/// Where the tiles of a log are read: its disk, or its address.
pub trait TileReader {
    /// Why a tile cannot be read.
    type Error;

    /// The content of a tile, or of the full one that it is the beginning of.
    ///
    /// # Errors
    /// Those of the storage.
    fn read_tile(&self, tile: &Tile) -> Result<Vec<u8>, Self::Error>;
}

/// Why stored hashes cannot be read from tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TileReadError<E> {
    /// The tree is smaller.
    #[error("the tree does not have this hash yet")]
    Outside,
    /// The tile cannot be read.
    #[error("tile cannot be read")]
    Read(#[source] E),
    /// It has another length.
    #[error(transparent)]
    Length(#[from] TileLength),
}

/// The hashes of a tree of a known size, read from its tiles. Each tile is read once.
///
/// The tiles are trusted no more than their source: what is proven from them has to be verified against a signed root.
#[derive(Debug)]
pub struct TileHashes<R> {
    tiles: R,
    size: Size,
    read: RefCell<Vec<(Tile, Vec<Hash>)>>,
}

impl<R: TileReader> TileHashes<R> {
    /// Reads the tree of this size from `tiles`.
    pub fn new(tiles: R, size: Size) -> Self {
        Self { tiles, size, read: RefCell::default() }
    }

    fn node(&self, node: Node) -> Result<Hash, TileReadError<R::Error>> {
        // The hash of a node between two levels of tiles is computed from those below.
        let (level, above) = (node.level / TILE_HEIGHT, node.level % TILE_HEIGHT);
        let first = node.index.checked_mul(1 << above).ok_or(TileReadError::Outside)?;
        let (number, offset) = (first / u64::from(FULL_WIDTH), first % u64::from(FULL_WIDTH));
        let tile = Tile::at(Content::Hashes(level), number, self.size).ok_or(TileReadError::Outside)?;
        let mut read = self.read.borrow_mut();
        let position = match read.iter().position(|(known, _)| *known == tile) {
            Some(position) => position,
            None => {
                let mut content = self.tiles.read_tile(&tile).map_err(TileReadError::Read)?;
                // The full tile in place of a partial one.
                if content.len() == usize::from(FULL_WIDTH) * Hash::LEN {
                    content.truncate(usize::from(tile.width.get()) * Hash::LEN);
                }
                read.push((tile, hashes(&content, tile.width)?));
                read.len() - 1
            }
        };
        let offset = usize::try_from(offset).map_err(|_| TileReadError::Outside)?;
        let below = read[position].1.get(offset..offset + (1 << above)).ok_or(TileReadError::Outside)?;
        let mut row = below.to_vec();
        while row.len() > 1 {
            row = row.chunks_exact(2).map(|pair| Hash::node(&pair[0], &pair[1])).collect();
        }
        row.pop().ok_or(TileReadError::Outside)
    }
}

impl<R: TileReader> HashReader for TileHashes<R> {
    type Error = TileReadError<R::Error>;

    fn read(&self, nodes: &[Node]) -> Result<Vec<Hash>, Self::Error> {
        nodes.iter().map(|node| self.node(*node)).collect()
    }
}
