//! `kms audit`: verifies the audit log, proves records, and archives closed files.

mod archive;
mod prove;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use kms_attest::small_file::small_input;
use kms_attest::state_file;
use kms_ledger::files::{Directories, Names};
use kms_ledger::log::Log;
use kms_ledger::note::MAX_NOTE;
use kms_ledger::verify::{KeyChange, Known, TreeState, Verified, verify};

use crate::audit::{self, Damage};
use crate::keys::statement::log_key_signer;

/// What to do with an audit log.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Check the hash chain from the first line to the last, and the signed tree over it
    Verify(Verify),
    /// Print a proof that a record is in the signed tree (`c2sp.org/tlog-proof@v1`)
    Prove(prove::Prove),
    /// Move closed files to another directory: the tree still proves what is in them
    Archive(archive::Archive),
}

impl Audit {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Verify(verify) => verify.run(),
            Self::Prove(prove) => prove.run(),
            Self::Archive(archive) => archive.run(),
        }
    }
}

/// A log, and the directories of its closed files.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The log, by default `audit.jsonl` in the key directory; its tree and closed files are beside it
    file: PathBuf,
    /// A directory to which closed files were moved
    #[arg(long, value_name = "DIR")]
    archive: Vec<PathBuf>,
}

impl Place {
    fn names(&self) -> anyhow::Result<Names> {
        Names::of(&self.file).context("the name of the log is not valid UTF-8")
    }

    fn directories(&self) -> Directories {
        let own = state_file::directory(&self.file).to_owned();
        Directories { directories: [own].into_iter().chain(self.archive.iter().cloned()).collect() }
    }
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The log, by default `audit.jsonl` in the key directory; closed files beside it (`audit.1234.jsonl`) belong to
    /// it. Several files: the chain of these, in the order of their records
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The head from an earlier verification of the preceding files
    #[arg(long, value_name = "HEAD")]
    after: Option<String>,
    /// Damage that was already investigated: the number of the last record before it
    #[arg(long, value_name = "NUMBER")]
    known_damage: Vec<u64>,
    /// A directory to which closed files were moved
    #[arg(long, value_name = "DIR")]
    archive: Vec<PathBuf>,
    /// The log's key, as GetMeta shows it (`log_key`); by default the one beside the log is trusted
    #[arg(long, value_name = "KEY")]
    log_key: Option<String>,
    /// A signed checkpoint of this log that was kept elsewhere: the log must contain what it signs
    #[arg(long, value_name = "CHECKPOINT")]
    pin: Option<PathBuf>,
}

impl Verify {
    fn run(self) -> anyhow::Result<ExitCode> {
        let verified = match &self.files[..] {
            [file] => self.verify_log(file)?,
            files => {
                let named =
                    || files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
                Verified {
                    chain: audit::verify_files(files).with_context(named)?,
                    sealed: 0,
                    archived: 0,
                    key_changes: Vec::new(),
                    tree: None,
                }
            }
        };
        Ok(self.tell(&verified))
    }

    fn verify_log(&self, file: &Path) -> anyhow::Result<Verified> {
        let place = Place { file: file.to_owned(), archive: self.archive.clone() };
        let log = match &self.log_key {
            Some(key) => Some(Log::of_key(key.parse().context("--log-key")?).context("--log-key")?),
            None => None,
        };
        let pin = match &self.pin {
            Some(pin) => Some(small_input(pin, MAX_NOTE as u64).with_context(|| pin.display().to_string())?),
            None => None,
        };
        let known = Known { log: log.as_ref(), pin: pin.as_deref() };
        verify(&place.directories(), &place.names()?, known).with_context(|| file.display().to_string())
    }

    fn tell(self, verified: &Verified) -> ExitCode {
        let chain = &verified.chain;
        say!("{} records, unbroken; head {}", chain.records(), hex::encode(chain.head));
        if self.files.len() > 1 {
            say!("in {} files", self.files.len());
        }
        if chain.unacknowledged > 0 {
            say!("{} more lines were never acknowledged; nothing was released on them", chain.unacknowledged);
        }
        if let Some(tree) = &verified.tree {
            tell_tree(tree, self.log_key.is_some());
        }
        let mut code = ExitCode::SUCCESS;
        for change in &verified.key_changes {
            if !tell_key_change(change) {
                code = ExitCode::FAILURE;
            }
        }
        for Damage { file, after, bytes } in &chain.damages {
            let file = file.display();
            if self.known_damage.contains(after) {
                say!("known damage: {bytes} bytes after record {after} in {file}");
                continue;
            }
            say!(
                "DAMAGED: {bytes} bytes after record {after} in {file} are not records. If records were \
                 there, they are lost: the log goes on without them. Investigate them, then pass \
                 --known-damage {after}"
            );
            code = ExitCode::FAILURE;
        }
        let before = hex::encode(chain.after);
        if chain.is_whole() || self.after.is_some_and(|after| after.eq_ignore_ascii_case(&before)) {
            return code;
        }
        if verified.archived + 1 >= chain.first {
            say!("the records before number {} were moved away, as the log says", chain.first);
            return code;
        }
        say!(
            "INCOMPLETE: the first of them is number {}; the records before it, which end with head \
             {before}, are in other files. Name those too, or pass the head of their last verification with \
             --after",
            chain.first
        );
        ExitCode::FAILURE
    }
}

/// Says which root keys speak for a new key of the log. Whether all that is said to be a signature is one.
fn tell_key_change(change: &KeyChange) -> bool {
    let seq = change.seq;
    let signer =
        |key: &str, statement: &str| log_key_signer(key, &hex::decode(statement).ok()?).map(hex::encode);
    let before = signer(&change.previous, &change.previous_statement);
    let after = signer(&change.key, &change.statement);
    let endorser = change.endorsement.as_ref().map(|statement| signer(&change.key, statement));
    let (Some(before), Some(after)) = (before, after) else {
        say!(
            "WRONG KEY: record {seq} says that the key of the log has changed, and a statement in it is no signature"
        );
        return false;
    };
    match endorser {
        Some(Some(endorser)) if endorser == before => say!(
            "record {seq}: the key of the log has changed; the new one is signed by the root key {after}, and by {before}, \
             which signed the old one"
        ),
        None => say!(
            "record {seq}: the key of the log has changed; the new one is signed by the root key {after} only, and the old \
             one was by {before}: check that this was meant"
        ),
        Some(_) => {
            say!(
                "WRONG KEY: record {seq} says that {before} has signed the new key of the log, and it has not"
            );
            return false;
        }
    }
    true
}

fn tell_tree(tree: &TreeState, is_key_known: bool) {
    let whose = if is_key_known { "" } else { ", by the key beside the log (--log-key checks it)" };
    say!(
        "{} leaves, {} signed by {}{whose}; root {}",
        tree.leaves,
        tree.checkpoint.size,
        tree.checkpoint.origin,
        tree.checkpoint.root
    );
    if tree.stale > 0 {
        say!(
            "{} hashes of the tree are not those of the records yet: they are computed at the next start",
            tree.stale
        );
    }
}
