//! Requests of a log to a witness, their evaluation by the witness, and its responses (C2SP `tlog-witness`).

use std::fmt;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::hash::Hash;
use crate::key::VerifyingKey;
use crate::log::{Cosignature, Log, OpenCheckpointError, cosignatures};
use crate::note::{MAX_NOTE, Note, NoteError, OpenError, plain_text, signature_lines, verify_lines};
use crate::number::{NumberError, Size};
use crate::proof::{ConsistencyProof, MAX_PROOF_HASHES, ProofError};

/// The path of the only method, below the witness's address.
pub const ADD_CHECKPOINT: &str = "/add-checkpoint";

/// The type of a body that is a size.
pub const SIZE_TYPE: &str = "text/x.tlog.size";

/// Maximum length of a request body, bytes: a size, a proof, a note.
pub const MAX_REQUEST: usize = MAX_NOTE + (8 << 10);

/// Why a body is not a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More than [`MAX_REQUEST`] bytes.
    #[error("a request has at most {MAX_REQUEST} bytes")]
    TooLong,
    /// The first line is not `old <size>`.
    #[error("the first line must be `old <size>`")]
    Old,
    /// The size in it is invalid.
    #[error("old size: {0}")]
    OldSize(#[from] NumberError),
    /// A line of the proof is not a hash.
    #[error("line {line} of the proof must be 32 bytes in padded base64")]
    Hash {
        /// Which one, from 1.
        line: usize,
    },
    /// More than 63 hashes.
    #[error("a proof has at most {MAX_PROOF_HASHES} hashes")]
    TooManyHashes,
    /// No empty line before the checkpoint.
    #[error("an empty line must stand before the checkpoint")]
    NoCheckpoint,
    /// The rest is not a note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The note is not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// The body of `POST <prefix>/add-checkpoint`: a checkpoint, and that it continues the one that the witness knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    old: Size,
    proof: ConsistencyProof,
    signed: String,
    note: Note,
    checkpoint: Checkpoint,
}

impl Request {
    /// A request with the size that the witness is assumed to know, and the proof from there. The first may state 0.
    ///
    /// # Errors
    /// [`RequestError`]: the checkpoint is invalid.
    pub fn new(old: Size, proof: ConsistencyProof, signed: &str) -> Result<Self, RequestError> {
        if proof.hashes().len() > MAX_PROOF_HASHES {
            return Err(RequestError::TooManyHashes);
        }
        let note = Note::parse(signed.as_bytes())?;
        let checkpoint = Checkpoint::read(note.text())?;
        Ok(Self { old, proof, signed: signed.to_owned(), note, checkpoint })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        if body.len() > MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        let (head, signed) = plain_text(body)?.split_once("\n\n").ok_or(RequestError::NoCheckpoint)?;
        let mut lines = head.split('\n');
        let old =
            lines.next().and_then(|line| line.strip_prefix("old ")).ok_or(RequestError::Old)?.parse()?;
        let mut hashes = Vec::new();
        for (line, text) in lines.enumerate() {
            if hashes.len() == MAX_PROOF_HASHES {
                return Err(RequestError::TooManyHashes);
            }
            let hash = Hash::from_base64(text);
            hashes.push(hash.map_err(|_| RequestError::Hash { line: line + 1 })?);
        }
        Self::new(old, ConsistencyProof::from_hashes(hashes), signed)
    }

    /// The size from which the proof starts.
    pub fn old(&self) -> Size {
        self.old
    }

    /// What the log states.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The text that a witness cosigns.
    pub fn text(&self) -> &str {
        self.note.text()
    }

    /// The witness's evaluation of the request, in the order of `tlog-witness`. `last` is the size and root
    /// that it cosigned last for this origin, or the empty tree. The new one must be on disk before the
    /// response, and `last` must not change in between.
    ///
    /// # Errors
    /// [`Rejection`].
    pub fn judge(&self, log: &Log, last: (Size, &Hash)) -> Result<(), Rejection> {
        let tree = &self.checkpoint;
        if tree.origin != *log.origin() {
            return Err(Rejection::UnknownOrigin);
        }
        log.check_signature(&self.note).map_err(Rejection::Signature)?;
        if self.old > tree.size {
            return Err(Rejection::OldAboveNew);
        }
        if self.old != last.0 {
            return Err(Rejection::Conflict { known: last.0 });
        }
        self.proof.verify(last, (tree.size, &tree.root)).map_err(Rejection::Proof)
    }

    /// The log's evaluation of the response. `keys` are those of the witness.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn read_answer(
        &self,
        answer: &Answer<'_>,
        keys: &[VerifyingKey],
    ) -> Result<Vec<Cosignature>, AnswerError> {
        match answer.status {
            200 => {
                if answer.body.len() > MAX_NOTE {
                    return Err(NoteError::TooLong.into());
                }
                let lines = signature_lines(plain_text(answer.body)?)?;
                let cosignatures = cosignatures(&verify_lines(self.text(), &lines, keys)?);
                if cosignatures.is_empty() { Err(AnswerError::NotCosigned) } else { Ok(cosignatures) }
            }
            409 => Err(self.read_conflict(answer)),
            422 => Err(AnswerError::Inconsistent),
            status => Err(AnswerError::Status(status)),
        }
    }

    fn read_conflict(&self, answer: &Answer<'_>) -> AnswerError {
        // Parameters, which servers add to any text, and case say nothing (RFC 9110, section 8.3.1).
        let media_type = answer.content_type.map(|value| value.split(';').next().unwrap_or_default().trim());
        if !media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case(SIZE_TYPE)) {
            // In earlier versions of the protocol, 409 meant that the witness knows another root of this size.
            return AnswerError::Inconsistent;
        }
        let size = std::str::from_utf8(answer.body).ok().and_then(|body| body.strip_suffix('\n'));
        let Some(Ok(known)) = size.map(str::parse::<Size>) else { return AnswerError::Size };
        if known > self.checkpoint.size {
            return AnswerError::Ahead { known };
        }
        match known == self.old {
            true if known == self.checkpoint.size => AnswerError::Inconsistent,
            true => AnswerError::Size,
            false => AnswerError::Conflict { known },
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "old {}", self.old)?;
        self.proof.hashes().iter().try_for_each(|hash| writeln!(formatter, "{}", hash.to_base64()))?;
        write!(formatter, "\n{}", self.signed)
    }
}

/// Why a witness does not cosign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The witness does not know the log.
    #[error("the witness does not know this log")]
    UnknownOrigin,
    /// The log did not sign.
    #[error(transparent)]
    Signature(OpenCheckpointError),
    /// The proof would start above the checkpoint.
    #[error("the old size is above the size of the checkpoint")]
    OldAboveNew,
    /// The witness has cosigned another size.
    #[error("the witness has cosigned size {known} last")]
    Conflict {
        /// Which one.
        known: Size,
    },
    /// The checkpoint does not continue the one that was cosigned last.
    #[error(transparent)]
    Proof(ProofError),
}

impl Rejection {
    /// The HTTP status of the response.
    pub fn status(&self) -> u16 {
        match self {
            Self::UnknownOrigin => 404,
            Self::Signature(_) => 403,
            Self::OldAboveNew => 400,
            Self::Conflict { .. } => 409,
            Self::Proof(_) => 422,
        }
    }
}

/// The response of a witness.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: Option<&'a str>,
    /// Body.
    pub body: &'a [u8],
}

/// Why a response has no cosignature for us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The witness knows an older size: retry with a proof from there.
    #[error("the witness has cosigned size {known} last")]
    Conflict {
        /// Which one.
        known: Size,
    },
    /// The witness knows a size above ours: the log was rolled back or forked. Final.
    #[error(
        "the witness has cosigned size {known}, which is above that of the log: the log was rolled back or forked"
    )]
    Ahead {
        /// Which one.
        known: Size,
    },
    /// The witness says that the checkpoint does not continue the one it knows. Final.
    #[error("the witness says that the log is inconsistent with an earlier checkpoint")]
    Inconsistent,
    /// 409 with a body that is not a size, or is the size that was sent.
    #[error("the witness does not say which size it has cosigned last")]
    Size,
    /// Another status.
    #[error("the witness answers with status {0}")]
    Status(u16),
    /// The body is not signature lines.
    #[error("answer of the witness: {0}")]
    Lines(#[from] NoteError),
    /// A line of a known key is invalid.
    #[error(transparent)]
    Signature(#[from] OpenError),
    /// No line is of a known key.
    #[error("the answer has no cosignature of a known key")]
    NotCosigned,
}
