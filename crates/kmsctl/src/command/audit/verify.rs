//! `kmsctl audit verify`: is a log what it says, and does it still hold what it held?

use std::path::PathBuf;

use clap::Args;
use kms_ledger::key::VerifyingKey;
use kms_ledger::log::Log;
use kms_ledger::note::MAX_NOTE;
use kms_ledger::proof_file::{MAX_PROOF_FILE, ProofFile};

use super::local::Local;
use crate::exit::{Failure, Outcome};
use crate::files;
use crate::output::Terminal;

/// Arguments of `kmsctl audit verify`.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// Directory with audit.jsonl, or the file itself
    #[arg(value_name = "DIR")]
    target: PathBuf,
    #[command(flatten)]
    known: Known,
    #[command(flatten)]
    files: Files,
}

/// What is known from elsewhere.
#[derive(Args, Debug)]
pub(super) struct Known {
    /// The log's key, as GetMeta shows it (log_key)
    #[arg(long, value_name = "KEY", value_parser = log_of)]
    pub(super) log_key: Option<Log>,
    /// A signed checkpoint of this log that was kept: the log must begin with what it states
    #[arg(long, value_name = "CHECKPOINT")]
    pub(super) pin: Option<PathBuf>,
    /// A receipt (app-key --receipt) or a proof file: its record must be in the log
    #[arg(long, value_name = "FILE")]
    pub(super) receipt: Option<PathBuf>,
}

/// For the files of a log.
#[derive(Args, Debug)]
pub(super) struct Files {
    /// A directory to which closed files were moved
    #[arg(long, value_name = "DIR")]
    pub(super) archive: Vec<PathBuf>,
    /// Damage that has been looked into: the number of the last record before it
    #[arg(long, value_name = "NUMBER")]
    pub(super) known_damage: Vec<u64>,
}

/// The log of a key as `GetMeta` shows it.
fn log_of(key: &str) -> Result<Log, String> {
    let key: VerifyingKey = key.trim().parse().map_err(|error| format!("{error}"))?;
    Log::of_key(key).map_err(|error| error.to_string())
}

impl Known {
    /// The content of the pinned checkpoint.
    pub(super) fn read_pin(&self) -> Outcome<Option<Vec<u8>>> {
        let read = |path: &PathBuf| files::read(path, MAX_NOTE).map(|mut note| std::mem::take(&mut *note));
        self.pin.as_ref().map(read).transpose()
    }

    /// The receipt.
    pub(super) fn read_receipt(&self) -> Outcome<Option<ProofFile>> {
        let Some(path) = &self.receipt else { return Ok(None) };
        let file = ProofFile::parse(&files::read(path, MAX_PROOF_FILE)?);
        file.map(Some).map_err(|error| Failure::usage(format_args!("{}: {error}", path.display())))
    }
}

impl Verify {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        Local { target: &self.target, known: &self.known, files: &self.files }.verify(terminal)
    }
}
