//! `kms audit`: proves which keys went to whom.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Subcommand;

use crate::audit::{self, Damage};

/// What to do with an audit log.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Check the hash chain from the first line to the last
    Verify {
        /// The log, by default `audit.jsonl` in the key directory; closed files beside it
        /// (`audit.1234.jsonl`) belong to
        /// it. Several files: these, in the order of their records
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The head that was kept when the files before these were verified
        #[arg(long, value_name = "HEAD")]
        after: Option<String>,
        /// Damage that has been looked into: the number of the last record before it
        #[arg(long, value_name = "NUMBER")]
        known_damage: Vec<u64>,
    },
}

impl Audit {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self::Verify { files, after, known_damage } = self;
        let files = match &files[..] {
            [file] => audit::segments(file).with_context(|| file.display().to_string())?,
            _ => files,
        };
        let named = || files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
        let chain = audit::verify_files(&files).with_context(named)?;
        say!("{} records, unbroken; head {}", chain.records(), hex::encode(chain.head));
        if files.len() > 1 {
            say!("in {} files", files.len());
        }
        if chain.unacknowledged > 0 {
            say!("{} more lines were never acknowledged; nothing was released on them", chain.unacknowledged);
        }
        let mut code = ExitCode::SUCCESS;
        for Damage { file, after, bytes } in &chain.damages {
            let file = file.display();
            if known_damage.contains(after) {
                say!("known damage: {bytes} bytes after record {after} in {file}");
                continue;
            }
            say!(
                "DAMAGED: {bytes} bytes after record {after} in {file} are no records. If records were there, they are lost: \
                 the log goes on without them. Look at them, then say --known-damage {after}"
            );
            code = ExitCode::FAILURE;
        }
        let before = hex::encode(chain.after);
        if chain.is_whole() || after.is_some_and(|after| after.eq_ignore_ascii_case(&before)) {
            return Ok(code);
        }
        say!(
            "INCOMPLETE: the first of them is number {}; the records before it, which end with head {before}, are in other \
             files. Name those too, or give the head that was kept of them with --after",
            chain.first
        );
        Ok(ExitCode::FAILURE)
    }
}
