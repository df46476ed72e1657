//! Verification of the chain of a whole log, or of some of its files. [`kms_ledger::verify`] also verifies its tree.

use std::path::{Path, PathBuf};

use kms_ledger::files::Directories;
use kms_ledger::walk::{Chain, WalkError, walk};

use super::AuditError;
use super::chain::LinkProblem;
use super::segments::segments;

/// The result of verifying a whole audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Number of records.
    pub records: u64,
    /// SHA-256 of the last record: if it is kept elsewhere, it shows later whether the end was cut off.
    pub head: [u8; 32],
}

/// Checks every link of the log at `path`, with the closed files beside it; the error names the first broken one.
pub fn verify_file(path: &Path) -> Result<Verified, AuditError> {
    let files = segments(path).map_err(|source| AuditError::Open { path: path.to_owned(), source })?;
    let chain = verify_files(&files)?;
    if !chain.is_whole() {
        return Err(AuditError::Broken { seq: chain.first, problem: LinkProblem::NoBeginning });
    }
    Ok(Verified { records: chain.records(), head: chain.head })
}

/// Checks every link of files that hold one log, or its end, in this order.
pub fn verify_files(files: &[PathBuf]) -> Result<Chain, AuditError> {
    walk(&Directories::default(), files, &mut |_| Ok(())).map_err(|error: WalkError| match error {
        WalkError::Read { file, source } => AuditError::Open { path: file, source },
        WalkError::Broken { seq, problem } => AuditError::Broken { seq, problem },
    })
}
