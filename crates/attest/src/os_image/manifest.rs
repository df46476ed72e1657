//! `sha256sum.txt`: the list of an image's files, whose own SHA-256 is the image hash.

use sha2::{Digest as _, Sha256};

/// The name of the list.
pub const NAME: &str = "sha256sum.txt";
/// Longest list in bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// A list of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
}

/// A file and its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// A plain name: no directory.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
}

/// Why text is not a list of files. The words are the peer's where it has some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MAX_BYTES`].
    #[error("image manifest is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("image manifest is not text")]
    NotText,
    /// Not a digest, white space and a name.
    #[error("image manifest line {0} has no SHA-256 and file name")]
    Malformed(usize),
    /// A name with a directory.
    #[error("image manifest line {0} has an unsafe path")]
    UnsafePath(usize),
    /// More than two fields.
    #[error("image manifest line {0} has extra fields")]
    ExtraFields(usize),
    /// The list lists itself.
    #[error("image manifest must not recursively list sha256sum.txt")]
    ListsItself,
    /// A name twice.
    #[error("image manifest line {0} repeats a file")]
    Repeated(usize),
}

/// Why an image hash does not vouch for a document. The words are the peer's where a caller may look for them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnvouchedError {
    /// The list is not the one that the image hash names.
    #[error("os_image_hash mismatch: expected sha256(sha256sum.txt)={expected}, actual={actual}")]
    ImageHash {
        /// What is claimed.
        expected: String,
        /// What the list hashes to.
        actual: String,
    },
    /// The list does not parse.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The list does not have the document.
    #[error("sha256sum.txt does not list {0}")]
    NotListed(&'static str),
    /// The document is another one than the listed.
    #[error("{0} does not match sha256sum.txt")]
    DocumentHash(&'static str),
}

/// The `document`, once `image_hash` is known to be that of `list`, and `list` to have it under `name`.
///
/// # Errors
/// [`UnvouchedError`].
pub fn vouched<'a>(
    image_hash: &[u8],
    list: &[u8],
    name: &'static str,
    document: &'a [u8],
) -> Result<&'a [u8], UnvouchedError> {
    let actual = self::image_hash(list);
    if image_hash != actual {
        let expected = hex::encode(image_hash);
        return Err(UnvouchedError::ImageHash { expected, actual: hex::encode(actual) });
    }
    let list = Manifest::parse(list)?;
    let listed = list.sha256(name).ok_or(UnvouchedError::NotListed(name))?;
    if Sha256::digest(document).as_slice() != listed {
        return Err(UnvouchedError::DocumentHash(name));
    }
    Ok(document)
}

/// SHA-256 of a list: the image hash.
pub fn image_hash(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Whether `name` stays in its directory.
pub fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

impl Manifest {
    /// Reads a list. Empty lines are skipped.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        if text.len() > MAX_BYTES {
            return Err(ManifestError::TooLong);
        }
        let text = std::str::from_utf8(text).map_err(|_| ManifestError::NotText)?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut names = std::collections::HashSet::new();
        for (number, line) in (1..).zip(text.lines()) {
            let mut fields = line.split_whitespace();
            let Some(digest) = fields.next() else { continue };
            let name = fields.next().ok_or(ManifestError::Malformed(number))?;
            if fields.next().is_some() {
                return Err(ManifestError::ExtraFields(number));
            }
            let mut sha256 = [0; 32];
            hex::decode_to_slice(digest, &mut sha256).map_err(|_| ManifestError::Malformed(number))?;
            if !is_plain(name) {
                return Err(ManifestError::UnsafePath(number));
            }
            if name == NAME {
                return Err(ManifestError::ListsItself);
            }
            if !names.insert(name) {
                return Err(ManifestError::Repeated(number));
            }
            entries.push(Entry { name: name.to_owned(), sha256 });
        }
        Ok(Self { entries })
    }

    /// The files, in the order of the list.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The SHA-256 of a file, if it is listed.
    pub fn sha256(&self, name: &str) -> Option<&[u8; 32]> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| &entry.sha256)
    }
}
