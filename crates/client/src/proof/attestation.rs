//! `/attestation.json`: the document by which a KMS proves to outsiders what it runs. The quote in it covers a
//! statement; nothing that the KMS says beside the quote counts. The format and the order of the checks are in
//! `docs/decisions/0042-a-document-proves-a-kms-to-outsiders.md`, known answers in `tests/vectors/attestation`.

mod answer;
mod error;
mod fetch;
mod pins;
mod statement;
mod verify;

pub use answer::{Answer, MAX_BYTES, RootSignature};
pub use error::{Code, Refusal};
pub use fetch::{Fetched, PATH, fetch};
pub use pins::{Pin, Pins};
pub use statement::{EpochRoot, Hex, Log, Policy, Root, Statement};
pub use verify::{MAX_AGE, MAX_AHEAD, Proved, Rules};
