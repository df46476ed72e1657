//! `kmsctl collateral`: what a running KMS keeps of Intel's collateral, and files of it. `kmsctl refresh-collateral`: has it
//! fetched again now.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kms_client::proto::{RefreshCollateralResponse, RefreshedCollateral};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::{Administered, Reply};
use crate::when;

const KEPT: &str = "/api/v1/collateral";
const BUNDLE: &str = "/api/v1/collateral/bundle";
const UPLOAD: &str = "/api/v1/file-upload/collateral-bundle";
/// Models in one file.
const MODELS: usize = 64;
/// More models than a KMS keeps.
const MAX_FILES: usize = 64;
/// The largest file that a KMS takes.
const MAX_FILE: usize = 8 << 20;
const REPLY: Reply = Reply {
    max_bytes: 2 * MAX_FILE,
    unreadable: |_| Failure::failed("the response is not what a KMS sends about collateral"),
};

/// The commands of `kmsctl collateral`.
#[derive(Debug, Subcommand)]
pub(crate) enum Collateral {
    /// Show the models whose collateral is kept, and until when it is valid; exit code 1 if a file is not used
    Show(Show),
    /// Write what is kept and valid to a file for another KMS
    Export(Export),
    /// Have a KMS check files as if a service had sent them, and keep what is in them
    Import(Import),
}

/// Arguments of `kmsctl collateral show`.
#[derive(Args, Debug)]
pub(crate) struct Show {
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl collateral export`.
#[derive(Args, Debug)]
pub(crate) struct Export {
    /// The file; FILE-2 and so on follow if there are more than 64 models
    file: PathBuf,
    /// Overwrite the file
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl collateral import`.
#[derive(Args, Debug)]
pub(crate) struct Import {
    /// Files of an export, of this program or of `kms collateral export`
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Only check them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: Administered,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    offline: bool,
    models: Vec<Model>,
    refused: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Model {
    fmspc: String,
    ca: String,
    fetched_at: String,
    issued_at: String,
    next_update: String,
    tcb_evaluation_number: u32,
    qe_evaluation_number: u32,
    root_crl_number: u64,
    pck_crl_number: u64,
}

/// What a KMS says of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Placed {
    sha256: String,
    changed: bool,
    message: String,
}

impl Collateral {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self {
            Self::Show(Show { admin }) => {
                let kept: Kept = admin.get(terminal, KEPT, REPLY).await?;
                terminal.show(&kept, |page| kept.write(page))?;
                Ok(if kept.refused.is_empty() { Exit::Done } else { Exit::Failed })
            }
            Self::Export(command) => command.run(terminal).await,
            Self::Import(command) => command.run(terminal).await,
        }
    }
}

impl Kept {
    fn write(&self, page: &mut Page) {
        if self.offline {
            page.line("No collateral service is asked (core.attestation.offline).");
        }
        for model in &self.models {
            page.line(format_args!(
                "{} ({} CA): valid until {}; TCB evaluation number {}, of the QE identity {}; CRL numbers {} (root), {} (CA)",
                printable(&model.fmspc),
                printable(&model.ca),
                printable(&model.next_update),
                model.tcb_evaluation_number,
                model.qe_evaluation_number,
                model.root_crl_number,
                model.pck_crl_number,
            ));
        }
        for file in &self.refused {
            page.line(page.toned(Tone::Bad, &format!("not used: {}", printable(file))));
        }
        if self.models.is_empty() {
            page.line(page.toned(Tone::Doubtful, "No valid collateral is kept."));
        }
    }
}

impl Export {
    async fn run(self, terminal: &Terminal) -> Outcome {
        let existing = if self.force { Existing::Replaced } else { Existing::Kept };
        files::check_writable(&self.file, existing)?;
        let mut written = Vec::new();
        for number in 1..=MAX_FILES {
            let sets: Vec<Value> =
                self.admin.get(terminal, &format!("{BUNDLE}?page={number}"), REPLY).await?;
            let (count, path) = (sets.len(), numbered(&self.file, number));
            if count > 0 {
                let content = serde_json::to_vec(&sets).map_err(Failure::failed)?;
                files::write(&path, &content, Readers::Everyone, existing)?;
                written.push(json!({ "file": path, "models": count }));
            }
            if count < MODELS {
                break;
            }
        }
        if written.is_empty() {
            return Err(Failure::failed("no valid collateral is kept there; nothing was written"));
        }
        terminal.show(&written, |page| {
            for file in &written {
                page.line(format_args!(
                    "{}: {} models",
                    file["file"].as_str().unwrap_or_default(),
                    file["models"]
                ));
            }
        })?;
        Ok(Exit::Done)
    }
}

/// The name of a file of an export.
fn numbered(file: &Path, number: usize) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    if number > 1 {
        name.push(format!("-{number}"));
    }
    name.into()
}

impl Import {
    async fn run(self, terminal: &Terminal) -> Outcome {
        let Self { files: paths, dry_run, admin } = self;
        let read = |path: &PathBuf| files::read(path, MAX_FILE).map(|content| content.to_vec());
        // All are read, and all are checked, before one is kept.
        let contents = paths.iter().map(read).collect::<Outcome<Vec<_>>>()?;
        let mut placed: Vec<Placed> = Vec::new();
        for dry_run in if dry_run { vec![true] } else { vec![true, false] } {
            placed.clear();
            let path = if dry_run { format!("{UPLOAD}?dry_run=true") } else { UPLOAD.to_owned() };
            for (file, content) in paths.iter().zip(&contents) {
                let answer = admin.post(terminal, &path, content.clone(), REPLY).await;
                placed.push(answer.map_err(|failure| failure.about(file.display()))?);
            }
        }
        let report: Vec<Value> = paths
            .iter()
            .zip(&placed)
            .map(|(path, placed)| json!({ "file": path, "dry_run": dry_run, "answer": placed }))
            .collect();
        terminal.show(&report, |page| {
            for (path, placed) in paths.iter().zip(&placed) {
                page.line(format_args!("{}: {}.", path.display(), printable(&placed.message)));
            }
        })?;
        Ok(Exit::Done)
    }
}

#[derive(Args, Debug)]
pub(crate) struct RefreshCollateral {
    #[command(flatten)]
    admin: Administered,
}

impl RefreshCollateral {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let answer: RefreshCollateralResponse = self.admin.call(terminal, "RefreshCollateral", &()).await?;
        terminal.show(&answer, |page| {
            if answer.models.is_empty() {
                page.line("No collateral is cached yet: it is fetched for the first CVM.");
                return;
            }
            answer.models.iter().for_each(|model| entry(page, model));
            page.line("Every CVM is verified again by this collateral.");
        })?;
        let has_failed = answer.models.iter().any(|model| !model.failure.is_empty());
        Ok(if has_failed { Exit::Failed } else { Exit::Done })
    }
}

fn entry(page: &mut Page, model: &RefreshedCollateral) {
    let name = format!("{} ({} CA)", hex::encode(&model.fmspc), printable(&model.ca));
    if !model.failure.is_empty() {
        page.line(
            page.toned(Tone::Bad, &format!("{name}: not refreshed, the cached collateral stays in use")),
        );
        page.line(format!("  {}", printable(&model.failure)));
        return;
    }
    let news = if model.is_newer { "newer than before" } else { "the same as before" };
    page.line(page.toned(Tone::Good, &format!("{name}: {news}")));
    page.line(format!(
        "  TCB evaluation number {}, of the QE identity {}; CRL numbers {} (root), {} (CA); valid until {}",
        model.tcb_evaluation_number,
        model.qe_evaluation_number,
        model.root_crl_number,
        model.pck_crl_number,
        when::at(model.expires),
    ));
}
