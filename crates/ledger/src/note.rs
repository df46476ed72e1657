//! Signed notes: a text with signature lines below it (C2SP `signed-note`).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::key::{KeyId, KeyName, VerifyingKey};
use crate::signature::{SignatureError, Signed};

/// A note is not longer, in bytes. `signed-note` has no bound; this is that of other implementations.
pub const MAX_NOTE: usize = 1_000_000;

/// A note does not have more signature lines. 16 must be accepted; this is the bound of other implementations.
pub const MAX_SIGNATURES: usize = 100;

/// U+2014 and a space.
const LINE_START: &str = "\u{2014} ";

/// Why bytes are not a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// More than [`MAX_NOTE`] bytes.
    #[error("a note has at most {MAX_NOTE} bytes")]
    TooLong,
    /// Not UTF-8, or a control character other than newline.
    #[error("a note must be UTF-8 without control characters other than newline")]
    Characters,
    /// No empty line, or nothing below it.
    #[error("a note must have signature lines below an empty line, the last with a newline")]
    Unsigned,
    /// More than [`MAX_SIGNATURES`] lines below the text.
    #[error("a note has at most {MAX_SIGNATURES} signature lines")]
    TooManyLines,
    /// A line below the text is not `— <name> <base64>`, or has no byte behind the key id.
    #[error("signature line {line} of the note is malformed")]
    Line {
        /// Which one, from 1.
        line: usize,
    },
}

/// Why a note is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A signature of a known key does not hold, on whichever line.
    #[error("signature of {name}: {problem}")]
    Signature {
        /// Whose.
        name: KeyName,
        /// What is wrong with it.
        problem: SignatureError,
    },
    /// Two of the known keys have the same name and id.
    #[error("two known keys are called {name} and have the same id")]
    AmbiguousKey {
        /// Whose.
        name: KeyName,
    },
}

/// A signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLine {
    name: KeyName,
    id: KeyId,
    signature: Vec<u8>,
}

impl SignatureLine {
    /// The name of the key.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The id of the key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The bytes after the id.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// Reads a line without its newline.
    fn read(line: &str) -> Option<Self> {
        let (name, signature) = line.strip_prefix(LINE_START)?.split_once(' ')?;
        let signature = STANDARD.decode(signature).ok()?;
        let (id, signature) = signature.split_first_chunk().filter(|(_, rest)| !rest.is_empty())?;
        Some(Self { name: name.parse().ok()?, id: KeyId::from(*id), signature: signature.to_vec() })
    }
}

/// The line with its newline.
impl fmt::Display for SignatureLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signature = [&self.id.as_bytes()[..], &self.signature].concat();
        writeln!(formatter, "{LINE_START}{} {}", self.name, STANDARD.encode(signature))
    }
}

/// Reads one or more signature lines, each with its newline.
pub(crate) fn signature_lines(text: &str) -> Result<Vec<SignatureLine>, NoteError> {
    let lines = text.strip_suffix('\n').ok_or(NoteError::Unsigned)?;
    if lines.split('\n').count() > MAX_SIGNATURES {
        return Err(NoteError::TooManyLines);
    }
    let read = |(index, line)| SignatureLine::read(line).ok_or(NoteError::Line { line: index + 1 });
    lines.split('\n').enumerate().map(read).collect()
}

/// The text of a note in bytes as they came: UTF-8, and no control character but newline.
pub(crate) fn plain_text(bytes: &[u8]) -> Result<&str, NoteError> {
    let text = std::str::from_utf8(bytes).map_err(|_| NoteError::Characters)?;
    if text.contains(|c: char| c < ' ' && c != '\n') { Err(NoteError::Characters) } else { Ok(text) }
}

/// A note that is well formed. Nothing is known about its signatures yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<SignatureLine>,
}

/// A known key under a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedSignature<'k> {
    /// The key.
    pub key: &'k VerifyingKey,
    /// What it says.
    pub signed: Signed,
}

impl Note {
    /// Reads text ‖ LF ‖ signature lines. Text and signatures are separated by the last empty line.
    ///
    /// # Errors
    /// [`NoteError`].
    pub fn parse(note: &[u8]) -> Result<Self, NoteError> {
        Self::parse_within(note, MAX_NOTE)
    }

    /// As [`Note::parse`], with another bound than [`MAX_NOTE`]: for texts that hold a document.
    ///
    /// # Errors
    /// [`NoteError`].
    pub fn parse_within(note: &[u8], limit: usize) -> Result<Self, NoteError> {
        if note.len() > limit {
            return Err(NoteError::TooLong);
        }
        let note = plain_text(note)?;
        let blank = note.rfind("\n\n").ok_or(NoteError::Unsigned)?;
        let (text, lines) = (&note[..=blank], &note[blank + 2..]);
        Ok(Self { text: text.to_owned(), signatures: signature_lines(lines)? })
    }

    /// The text, which ends in a newline. The empty line is not part of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines.
    pub fn signatures(&self) -> &[SignatureLine] {
        &self.signatures
    }

    /// Verifies each line whose key is among `keys` by name and id, and gives these keys once each. Lines of
    /// other keys are ignored. The result is empty if there is none: the caller decides what is enough.
    ///
    /// Stricter than some implementations: a second line of the same key is verified too.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn verify<'k>(&self, keys: &'k [VerifyingKey]) -> Result<Vec<VerifiedSignature<'k>>, OpenError> {
        verify_lines(&self.text, &self.signatures, keys)
    }
}

/// As [`Note::verify`], for lines that came apart from the text.
pub(crate) fn verify_lines<'k>(
    text: &str,
    lines: &[SignatureLine],
    keys: &'k [VerifyingKey],
) -> Result<Vec<VerifiedSignature<'k>>, OpenError> {
    let mut verified: Vec<VerifiedSignature<'k>> = Vec::new();
    for line in lines {
        let mut known = keys.iter().filter(|key| *key.name() == line.name && key.id() == line.id);
        let Some(key) = known.next() else { continue };
        if known.any(|other| other != key) {
            return Err(OpenError::AmbiguousKey { name: line.name.clone() });
        }
        let signed = key
            .verify(text, &line.signature)
            .map_err(|problem| OpenError::Signature { name: line.name.clone(), problem })?;
        if verified.iter().all(|known| known.key != key) {
            verified.push(VerifiedSignature { key, signed });
        }
    }
    Ok(verified)
}
