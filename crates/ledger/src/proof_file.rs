//! The proof file: all that is needed to verify an entry without a network (C2SP `tlog-proof`).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::hash::Hash;
use crate::key::VerifyingKey;
use crate::log::{Log, OpenCheckpointError, SignedCheckpoint};
use crate::note::{MAX_NOTE, NoteError, plain_text};
use crate::number::{Index, NumberError};
use crate::proof::{InclusionProof, MAX_PROOF_HASHES, ProofError};

/// The first line.
pub const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Maximum length of a proof file, bytes: a checkpoint, a proof, and as extra data at least an entry of the
/// maximum length.
pub const MAX_PROOF_FILE: usize = MAX_NOTE + (256 << 10);

/// Why a text is not a proof file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofFileError {
    /// More than [`MAX_PROOF_FILE`] bytes.
    #[error("a proof file has at most {MAX_PROOF_FILE} bytes")]
    TooLong,
    /// Characters that it cannot have.
    #[error("a proof file must be UTF-8 without control characters other than newline")]
    Characters,
    /// Another first line.
    #[error("a proof file must start with the line {HEADER}")]
    Header,
    /// The extra data are not canonical padded base64.
    #[error("extra data must be in padded base64")]
    Extra,
    /// No line `index <decimal>` where it must be.
    #[error("a proof file must have a line `index <decimal>`")]
    NoIndex,
    /// The index is not a number.
    #[error("index of the leaf: {0}")]
    Index(#[from] NumberError),
    /// A line of the proof is not a hash.
    #[error("line {line} of the proof must be 32 bytes in padded base64")]
    Hash {
        /// Which one, from 1.
        line: usize,
    },
    /// More than [`MAX_PROOF_HASHES`] hashes.
    #[error("a proof has at most {MAX_PROOF_HASHES} hashes")]
    TooManyHashes,
    /// No empty line before the checkpoint.
    #[error("a proof file must have an empty line before the checkpoint")]
    NoCheckpoint,
}

/// Why a proof file does not prove that an entry is in a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The checkpoint is not the log's.
    #[error(transparent)]
    Checkpoint(#[from] OpenCheckpointError),
    /// The proof does not lead from the entry to the checkpoint.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// A well-formed proof file. It is not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofFile {
    /// Data that nothing authenticates, such as what the entry is made from.
    pub extra: Option<Vec<u8>>,
    /// Place of the leaf.
    pub index: Index,
    /// From the leaf to the root.
    pub proof: InclusionProof,
    /// The signed checkpoint with all of its lines.
    pub checkpoint: String,
}

impl ProofFile {
    /// Reads a proof file.
    ///
    /// # Errors
    /// [`ProofFileError`].
    pub fn parse(file: &[u8]) -> Result<Self, ProofFileError> {
        if file.len() > MAX_PROOF_FILE {
            return Err(ProofFileError::TooLong);
        }
        let file = plain_text(file).map_err(|_: NoteError| ProofFileError::Characters)?;
        let lines = file.strip_prefix(HEADER).and_then(|rest| rest.strip_prefix('\n'));
        let lines = lines.ok_or(ProofFileError::Header)?;
        let (head, checkpoint) = lines.split_once("\n\n").ok_or(ProofFileError::NoCheckpoint)?;
        let mut lines = head.split('\n').peekable();
        let extra = match lines.next_if(|line| line.starts_with("extra ")) {
            Some(line) => {
                let extra = STANDARD.decode(&line["extra ".len()..]);
                Some(extra.map_err(|_| ProofFileError::Extra)?)
            }
            None => None,
        };
        let index =
            lines.next().and_then(|line| line.strip_prefix("index ")).ok_or(ProofFileError::NoIndex)?;
        let index = index.parse()?;
        let mut hashes = Vec::new();
        for (line, text) in lines.enumerate() {
            if hashes.len() == MAX_PROOF_HASHES {
                return Err(ProofFileError::TooManyHashes);
            }
            let hash = Hash::from_base64(text);
            hashes.push(hash.map_err(|_| ProofFileError::Hash { line: line + 1 })?);
        }
        let proof = InclusionProof::from_hashes(hashes);
        Ok(Self { extra, index, proof, checkpoint: checkpoint.to_owned() })
    }

    /// Verifies that `entry` is in `log`; returns the checkpoint that proves it, with the `witnesses` that cosigned it.
    ///
    /// The entry has to come from elsewhere, or to be the caller's own from the extra data.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn verify(
        &self,
        entry: &[u8],
        log: &Log,
        witnesses: &[VerifyingKey],
    ) -> Result<SignedCheckpoint, VerifyError> {
        let signed = log.open(self.checkpoint.as_bytes(), witnesses)?;
        let tree = signed.checkpoint();
        self.proof.verify(entry, self.index, tree.size, &tree.root)?;
        Ok(signed)
    }
}

impl fmt::Display for ProofFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(formatter, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(formatter, "index {}", self.index)?;
        self.proof.hashes().iter().try_for_each(|hash| writeln!(formatter, "{}", hash.to_base64()))?;
        write!(formatter, "\n{}", self.checkpoint)
    }
}
