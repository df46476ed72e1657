//! A log as its verifiers know it: origin and keys, which open checkpoints.

use crate::checkpoint::{Checkpoint, CheckpointError, Origin};
use crate::key::{PublicKey, VerifyingKey};
use crate::note::{Note, NoteError, OpenError, SignatureLine, VerifiedSignature};
use crate::signature::{Signed, SigningKey, Timestamp};

/// Why a signed checkpoint is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenCheckpointError {
    /// Not a note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// A note with another text.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint of another log.
    #[error("the checkpoint is of the log {found}, not of {expected}")]
    Origin {
        /// The requested log.
        expected: Origin,
        /// The log that signed.
        found: Origin,
    },
    /// A known key did not sign it.
    #[error(transparent)]
    Signature(#[from] OpenError),
    /// No key of the log signed it. A cosignature of a witness does not replace that.
    #[error("no known key of the log has signed the checkpoint")]
    NotSigned,
}

/// A cosignature that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosignature {
    /// The key of the witness.
    pub key: VerifyingKey,
    /// When it saw the checkpoint.
    pub time: Timestamp,
}

/// A checkpoint that a key of its log has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    cosignatures: Vec<Cosignature>,
}

impl SignedCheckpoint {
    /// What the log states.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The signatures of witnesses that have seen the checkpoint, each key once.
    pub fn cosignatures(&self) -> &[Cosignature] {
        &self.cosignatures
    }
}

/// A log: what it is called, and the keys that are known to be its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    origin: Origin,
    keys: Vec<VerifyingKey>,
}

impl Log {
    /// A log with these keys. Only keys of type 01 sign for a log.
    pub fn new(origin: Origin, keys: Vec<VerifyingKey>) -> Self {
        Self { origin, keys }
    }

    /// A log whose origin is the name of its key, as it should be.
    ///
    /// # Errors
    /// [`CheckpointError::Origin`].
    pub fn of_key(key: VerifyingKey) -> Result<Self, CheckpointError> {
        Ok(Self { origin: key.name().as_str().parse()?, keys: vec![key] })
    }

    /// The name of the log.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Opens a signed checkpoint of this log. Lines of `witnesses` are verified too, and the result says which there are; how many are
    /// enough, the caller decides.
    ///
    /// # Errors
    /// [`OpenCheckpointError`], also for an invalid line of any known key.
    pub fn open(
        &self,
        note: &[u8],
        witnesses: &[VerifyingKey],
    ) -> Result<SignedCheckpoint, OpenCheckpointError> {
        let note = Note::parse(note)?;
        let checkpoint: Checkpoint = note.text().parse()?;
        if checkpoint.origin != self.origin {
            let expected = self.origin.clone();
            return Err(OpenCheckpointError::Origin { expected, found: checkpoint.origin });
        }
        self.check_signature(&note)?;
        let cosignatures = cosignatures(&note.verify(witnesses)?);
        Ok(SignedCheckpoint { checkpoint, cosignatures })
    }

    /// A signed checkpoint without the lines of other keys; `None` if the log has not signed it. Anybody can add lines to a note, so
    /// this is what is worth keeping.
    pub fn own_note(&self, note: &[u8]) -> Option<String> {
        self.open(note, &[]).ok()?;
        let note = Note::parse(note).ok()?;
        let mut own = format!("{}\n", note.text());
        for key in &self.keys {
            let is_own = |line: &&SignatureLine| line.name() == key.name() && line.id() == key.id();
            if let Some(line) = note.signatures().iter().find(is_own) {
                own.push_str(&line.to_string());
            }
        }
        Some(own)
    }

    /// Checks that a key of the log has signed the note, and that no line of one of its keys is invalid.
    pub(crate) fn check_signature(&self, note: &Note) -> Result<(), OpenCheckpointError> {
        let verified = note.verify(&self.keys)?;
        let is_signed = verified.iter().any(|by| matches!(by.key.key(), PublicKey::Ed25519(_)));
        if is_signed { Ok(()) } else { Err(OpenCheckpointError::NotSigned) }
    }
}

pub(crate) fn cosignatures(verified: &[VerifiedSignature<'_>]) -> Vec<Cosignature> {
    let cosignature = |by: &VerifiedSignature<'_>| match by.signed {
        Signed::Cosigned(time) => Some(Cosignature { key: by.key.clone(), time }),
        Signed::Text => None,
    };
    verified.iter().filter_map(cosignature).collect()
}

impl SigningKey {
    /// The signed checkpoint: text, empty line, and the line of this key.
    ///
    /// A log must have every leaf on disk before it signs, and must never sign a checkpoint that an earlier one contradicts.
    pub fn sign_checkpoint(&self, checkpoint: &Checkpoint) -> String {
        let text = checkpoint.to_string();
        format!("{text}\n{}", self.sign(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;

    #[test]
    fn only_lines_of_the_log_are_worth_keeping() {
        let origin: Origin = "kms.example/cvm-kms/1".parse().unwrap();
        let key = SigningKey::from_seed("kms.example/cvm-kms/1".parse().unwrap(), &[1; 32]).unwrap();
        let other = SigningKey::from_seed("kms.example/cvm-kms/1".parse().unwrap(), &[2; 32]).unwrap();
        let log = Log::of_key(key.verifying_key().clone()).unwrap();
        let checkpoint = Checkpoint::new(origin, 5.try_into().unwrap(), Hash::leaf(b"x"));
        let note = key.sign_checkpoint(&checkpoint);
        let own = key.sign(&checkpoint.to_string());
        let padded = format!("{}{own}{note_end}", note, note_end = other.sign(&checkpoint.to_string()));
        assert!(log.open(padded.as_bytes(), &[]).is_ok());
        assert_eq!(log.own_note(padded.as_bytes()), Some(note.clone()));
        assert_eq!(log.own_note(note.as_bytes()), Some(note));
        assert_eq!(log.own_note(other.sign_checkpoint(&checkpoint).as_bytes()), None);
    }
}
