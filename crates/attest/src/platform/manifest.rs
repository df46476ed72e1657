//! `sha256sum.txt`, the manifest of an image's files. Its SHA-256 is the image hash.

use sha2::{Digest as _, Sha256};

/// File name of the manifest.
pub const NAME: &str = "sha256sum.txt";
/// Maximum length of a manifest, bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
}

/// A file and its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// A plain file name without a directory.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
}

/// Why a text is not a manifest. Messages are the peer's where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MAX_BYTES`].
    #[error("image manifest is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("image manifest is not text")]
    NotText,
    /// A line without a digest, white space and a name.
    #[error("image manifest line {0} has no SHA-256 and file name")]
    Malformed(usize),
    /// A name with a directory.
    #[error("image manifest line {0} has an unsafe path")]
    UnsafePath(usize),
    /// More than two fields.
    #[error("image manifest line {0} has extra fields")]
    ExtraFields(usize),
    /// The manifest lists itself.
    #[error("image manifest must not recursively list sha256sum.txt")]
    ListsItself,
    /// A name occurs twice.
    #[error("image manifest line {0} repeats a file")]
    Repeated(usize),
}

/// Why a text is not a manifest in the strict form. Messages are the peer's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrictError {
    /// Longer than [`MAX_BYTES`].
    #[error("sha256sum.txt is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Not UTF-8, or no line feed at the end.
    #[error("sha256sum.txt is not newline-terminated text")]
    NotText,
    /// A line other than digest, two spaces and name.
    #[error("sha256sum.txt line {0} is not 64 lower-case hex digits, two spaces and a plain file name")]
    Line(usize),
    /// A name occurs twice.
    #[error("sha256sum.txt line {0} repeats {1}")]
    Repeated(usize, String),
}

/// Why an image hash does not cover a document. Messages are the peer's where callers may match them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnvouchedError {
    /// The SHA-256 of the manifest is not the image hash.
    #[error("os_image_hash mismatch: expected sha256(sha256sum.txt)={expected}, actual={actual}")]
    ImageHash {
        /// The claimed image hash.
        expected: String,
        /// SHA-256 of the manifest.
        actual: String,
    },
    /// The manifest does not parse.
    #[error(transparent)]
    Manifest(#[from] StrictError),
    /// The manifest does not list the document.
    #[error("sha256sum.txt is missing {0}")]
    NotListed(&'static str),
    /// The document's SHA-256 is not the listed one.
    #[error("{name} hash mismatch: sha256sum.txt={listed}, actual={actual}")]
    DocumentHash {
        /// Name of the document.
        name: &'static str,
        /// SHA-256 in the manifest.
        listed: String,
        /// SHA-256 of the document.
        actual: String,
    },
}

/// Returns `document` after checking that `image_hash` is the SHA-256 of `list` and that `list` has the
/// document's SHA-256 under `name`. The manifest must be in the strict form of [`Manifest::parse_strict`].
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
    let list = Manifest::parse_strict(list)?;
    let listed = list.sha256(name).ok_or(UnvouchedError::NotListed(name))?;
    let actual: [u8; 32] = Sha256::digest(document).into();
    if actual != *listed {
        let (listed, actual) = (hex::encode(listed), hex::encode(actual));
        return Err(UnvouchedError::DocumentHash { name, listed, actual });
    }
    Ok(document)
}

/// The image hash: SHA-256 of a manifest.
pub fn image_hash(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Whether `name` is a file name without a directory.
pub fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

impl Manifest {
    /// Parses the manifest of a downloaded image in any form that the peer accepts. Empty lines are skipped.
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

    /// Parses a manifest in the strict form, which is unique for a list of files. Each line is 64 lower-case
    /// hex digits, two spaces, a name of letters, digits, `.`, `_` and `-` that begins with a letter or
    /// digit, and a line feed.
    ///
    /// # Errors
    /// [`StrictError`].
    pub fn parse_strict(text: &[u8]) -> Result<Self, StrictError> {
        if text.len() > MAX_BYTES {
            return Err(StrictError::TooLong);
        }
        let text = std::str::from_utf8(text).ok().and_then(|text| text.strip_suffix('\n'));
        let mut entries: Vec<Entry> = Vec::new();
        let mut names = std::collections::HashSet::new();
        for (number, line) in (1..).zip(text.ok_or(StrictError::NotText)?.split('\n')) {
            let entry = strict_entry(line).ok_or(StrictError::Line(number))?;
            if !names.insert(entry.name.clone()) {
                return Err(StrictError::Repeated(number, entry.name));
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// The files, in the order of the manifest.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The SHA-256 of a file, if listed.
    pub fn sha256(&self, name: &str) -> Option<&[u8; 32]> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| &entry.sha256)
    }
}

fn strict_entry(line: &str) -> Option<Entry> {
    let (digest, name) = line.split_once("  ")?;
    let is_lower = digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_name = name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let mut sha256 = [0; 32];
    hex::decode_to_slice(digest, &mut sha256).ok()?;
    (is_lower && is_name && name != NAME).then(|| Entry { name: name.to_owned(), sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_strict_form_covers_a_document() {
        let digest = "0123456789abcdef".repeat(4);
        let line = |name: &str| format!("{digest}  {name}\n");
        let good = Manifest::parse_strict((line("ovmf.fd") + &line("a-b_c.9")).as_bytes()).unwrap();
        assert_eq!(good.entries().len(), 2);
        for (text, error) in [
            (String::new(), StrictError::NotText),
            (line("a").trim_end().to_owned(), StrictError::NotText),
            ("\n".to_owned(), StrictError::Line(1)),
            (line("a") + "\n", StrictError::Line(2)),
            (format!("\n{}", line("a")), StrictError::Line(1)),
            (line("a").replace('\n', "\r\n"), StrictError::Line(1)),
            (line("a").to_uppercase(), StrictError::Line(1)),
            (line("a").replace("  ", " "), StrictError::Line(1)),
            (line("a").replace("  ", " *"), StrictError::Line(1)),
            (line("a").replace("  ", "\t"), StrictError::Line(1)),
            (line(" a"), StrictError::Line(1)),
            (line("a "), StrictError::Line(1)),
            (line("a b"), StrictError::Line(1)),
            (line("a/b"), StrictError::Line(1)),
            (line(".a"), StrictError::Line(1)),
            (line("-a"), StrictError::Line(1)),
            (line("\u{e9}"), StrictError::Line(1)),
            (line(""), StrictError::Line(1)),
            (line(NAME), StrictError::Line(1)),
            (line("a")[1..].to_owned(), StrictError::Line(1)),
            (format!("0{}", line("a")), StrictError::Line(1)),
            (line("a") + &line("b") + &line("a"), StrictError::Repeated(3, "a".to_owned())),
            (line("a").repeat(1000), StrictError::TooLong),
        ] {
            assert_eq!(Manifest::parse_strict(text.as_bytes()), Err(error), "{text:?}");
        }
        assert_eq!(Manifest::parse_strict(b"\xff\n"), Err(StrictError::NotText));
    }
}
