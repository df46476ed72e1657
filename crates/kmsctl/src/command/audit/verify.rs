//! `kmsctl audit verify`: whether a log is what it says, and still holds what it held.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use kms_client::operator::OperatorUrl;
use kms_ledger::key::VerifyingKey;
use kms_ledger::note::MAX_NOTE;
use kms_ledger::proof_file::{MAX_PROOF_FILE, ProofFile};

use super::local::Local;
use super::remote::Remote;
use super::source::{LogKey, Source};
use crate::exit::{Failure, Outcome};
use crate::files;
use crate::output::Terminal;
use crate::target::AdminBeside;

/// Arguments of `kmsctl audit verify`.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// URL of the KMS; or a directory with audit.jsonl, or that file
    #[arg(value_name = "URL|DIR")]
    target: Target,
    #[command(flatten)]
    known: Known,
    /// Of a URL: read every record too, through the admin listener (--admin, KMS_ADMIN_TOKEN)
    #[arg(long)]
    entries: bool,
    /// Of a URL: records that the KMS does not serve are as they should be, as they were moved away; else that is exit code 4
    #[arg(long, requires = "entries")]
    entries_may_be_archived: bool,
    /// Of a URL: verify only the tiles that the checkpoint, --pin and --receipt need
    #[arg(long, conflicts_with = "entries")]
    quick: bool,
    /// Of a URL: a witness that must have cosigned the checkpoint; may be given more than once
    #[arg(long = "witness", value_name = "KEY", value_parser = witness)]
    witnesses: Vec<VerifyingKey>,
    /// Of a URL: keep the verified checkpoint in this file, for a later --pin
    #[arg(long, value_name = "FILE")]
    save_checkpoint: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    admin: AdminBeside,
    #[command(flatten)]
    files: Files,
}

/// What is verified.
#[derive(Clone, Debug)]
enum Target {
    Url(OperatorUrl),
    Path(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_url = ["http://", "https://"]
            .iter()
            .any(|scheme| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
        match is_url {
            true => text.parse().map(Self::Url).map_err(|error: kms_client::url::UrlError| error.to_string()),
            false => Ok(Self::Path(text.into())),
        }
    }
}

/// What is known from elsewhere.
#[derive(Args, Debug)]
pub(super) struct Known {
    /// The log's key, as GetMeta shows it (log_key)
    #[arg(long, value_name = "KEY")]
    pub(super) log_key: Option<LogKey>,
    /// A signed checkpoint of this log that was kept: the log must begin with what it states
    #[arg(long, value_name = "CHECKPOINT")]
    pub(super) pin: Option<PathBuf>,
    /// A receipt (app-key --receipt) or another proof file: its record must be in the log
    #[arg(long, value_name = "FILE")]
    pub(super) receipt: Option<PathBuf>,
}

/// For the files of a log.
#[derive(Args, Debug)]
pub(super) struct Files {
    /// Of a directory: another one, to which closed files were moved
    #[arg(long, value_name = "DIR")]
    pub(super) archive: Vec<PathBuf>,
    /// Of a directory: damage that has been inspected, by the number of the last record before it
    #[arg(long, value_name = "NUMBER")]
    pub(super) known_damage: Vec<u64>,
}

fn witness(key: &str) -> Result<VerifyingKey, String> {
    key.trim().parse().map_err(|error| format!("{error}"))
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
        match &self.target {
            Target::Path(target) => {
                if self.entries || self.quick || !self.witnesses.is_empty() || self.save_checkpoint.is_some()
                {
                    return Err(Failure::usage(
                        "--entries, --quick, --witness and --save-checkpoint are for the URL of a KMS",
                    ));
                }
                if self.source.server().is_given() {
                    return Err(Failure::usage(
                        "--root-ca, --server-spki and --dangerous-any-server are for a URL",
                    ));
                }
                let root_key = self.source.root_key();
                Local { target, known: &self.known, root_key, files: &self.files }.verify(terminal)
            }
            Target::Url(url) => {
                if !self.files.archive.is_empty() || !self.files.known_damage.is_empty() {
                    return Err(Failure::usage("--archive and --known-damage are for a directory"));
                }
                let remote = Remote {
                    url,
                    known: &self.known,
                    source: &self.source,
                    admin: self.entries.then_some(&self.admin),
                    may_be_archived: self.entries_may_be_archived,
                    is_quick: self.quick,
                    witnesses: &self.witnesses,
                    save_checkpoint: self.save_checkpoint.as_deref(),
                };
                remote.verify(terminal).await
            }
        }
    }
}
