//! `kms audit`: for whoever has to prove which keys went to whom.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Subcommand;

use crate::audit;

/// What to do with an audit log.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Check the hash chain from the first line to the last
    Verify {
        /// The log, by default `audit.jsonl` in the key directory
        file: PathBuf,
    },
}

impl Audit {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self::Verify { file } = self;
        let verified = audit::verify_file(&file).with_context(|| file.display().to_string())?;
        println!("{} records, unbroken; head {}", verified.records, hex::encode(verified.head));
        Ok(ExitCode::SUCCESS)
    }
}
