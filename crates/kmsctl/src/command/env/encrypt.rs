//! `kmsctl env encrypt`: encrypts a `.env` file so that only the app can read it, like `vmm-cli.py`.

use std::path::PathBuf;

use clap::Args;
use kms_client::Epochs;
use kms_client::environment::envelope;
use serde_json::json;

use super::signer::Signers;
use super::source::{self, App, Wanted};
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::output::{Audience, Terminal, Tone};
use crate::target::Kms;

#[derive(Args, Debug)]
pub(crate) struct Encrypt {
    /// The .env file; - is standard input
    #[arg(value_name = "ENV-FILE")]
    file: PathBuf,
    #[command(flatten)]
    kms: Kms,
    #[command(flatten)]
    app: App,
    /// Epochs of the app's key [default: those of the app, as the KMS knows them]
    #[arg(long, value_name = "ROOT[.APP]")]
    epoch: Option<Epochs>,
    #[command(flatten)]
    signers: Signers,
    /// File for the result; default: standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Overwrite the file
    #[arg(long)]
    force: bool,
}

impl Encrypt {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let existing = if self.force { Existing::Replaced } else { Existing::Kept };
        if let Some(path) = &self.out {
            files::check_writable(path, existing)?;
        }
        let (app_id, compose) = self.app.read()?;
        let environment = source::environment(&self.file, terminal)?;
        for doubt in compose.iter().flat_map(|compose| compose.doubts(environment.names())) {
            terminal.warn(format_args!("{}: {doubt}", self.app.name()));
        }
        let wanted = match self.epoch {
            Some(epochs) => Wanted { app_id, root_epoch: Some(epochs.root), app_epoch: Some(epochs.app) },
            None => Wanted::of(app_id),
        };
        let (url, key) = source::public_key(self.kms.all(), terminal, wanted).await?;
        let signer = match self.epoch {
            Some(epochs) if !self.signers.know(url, key.signer)? => {
                source::stating_signer(terminal, url, epochs.root, key.signer).await?
            }
            Some(_) | None => key.signer,
        };
        self.signers.require(terminal, url, self.kms.all(), signer)?;
        let sealed = envelope::seal(&key.public_key, environment.to_json().as_bytes())
            .map_err(|error| Failure::unproven(format_args!("{url}: {error}")))?;
        let hex = hex::encode(sealed);
        if let Some(path) = &self.out {
            files::write(path, hex.as_bytes(), Readers::Everyone, existing)?;
        }
        let mut report = json!({
            "app_id": app_id.to_string(),
            "kms_url": url.to_string(),
            "public_key": hex::encode(key.public_key),
            "signer": key.signer.to_string(),
            "timestamp": key.timestamp,
            "epoch": key.epochs.dotted(),
            "names": environment.names().collect::<Vec<_>>(),
        });
        match &self.out {
            None if terminal.audience() == Audience::People => {
                terminal.write(format!("{hex}\n").as_bytes())?
            }
            None => {
                report["encrypted_env"] = hex.into();
                terminal.show(&report, |_| ())?;
            }
            Some(path) => {
                report["file"] = path.display().to_string().into();
                terminal.show(&report, |page| {
                    let count = source::counted(&environment);
                    let done = page.toned(Tone::Good, "encrypted");
                    page.line(format_args!("{done} {count} for app {app_id}"));
                    page.field("signer", key.signer);
                    if key.epochs != Epochs::default() {
                        page.field("epoch", key.epochs.dotted());
                    }
                    page.field("file", path.display());
                })?;
            }
        }
        Ok(Exit::Done)
    }
}
