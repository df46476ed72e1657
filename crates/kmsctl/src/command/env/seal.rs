//! `kmsctl env seal`: seals a `.env` file to the app's key of one epoch, for guests of dstack 0.6.4 and later.

use std::path::{Path, PathBuf};

use clap::Args;
use kms_attest::identity::AppId;
use kms_client::KmsUrl;
use kms_client::environment::{Environment, Epochs, SealedEnv};
use serde_json::{Value, json};

use super::signer::Signers;
use super::source::{self, App, Wanted};
use crate::command::app_key::app_id_argument;
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::input;
use crate::output::{Audience, Terminal, Tone};

const MAX_KEY_BYTES: usize = 1024;

#[derive(Args, Debug)]
pub(crate) struct Seal {
    /// The .env file; - is standard input
    #[arg(value_name = "ENV-FILE")]
    file: PathBuf,
    /// URL of the KMS that signs the app's key, with or without /prpc; may be given more than once, or with commas
    #[arg(
        long = "kms",
        value_name = "URL",
        env = "KMS_URL",
        hide_env_values = true,
        value_delimiter = ',',
        required_unless_present = "public_key_file"
    )]
    urls: Vec<KmsUrl>,
    #[command(flatten)]
    recipient: Recipient,
    /// Epoch of the root keys [default: the app's, or 0 with --public-key-file]
    #[arg(long, value_name = "N")]
    root_epoch: Option<u32>,
    /// Epoch of the app below it [default: 0 with --root-epoch or --public-key-file, else the app's]
    #[arg(long, value_name = "N", requires = "root_epoch")]
    app_epoch: Option<u32>,
    #[command(flatten)]
    signers: Signers,
    /// File for the result; default: standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Overwrite the file
    #[arg(long)]
    force: bool,
}

/// Whose key the environment is sealed to.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Recipient {
    /// The app, 40 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = app_id_argument)]
    app_id: Option<AppId>,
    /// The app's compose file (app-compose.json): the app id is the start of its SHA-256
    #[arg(long, value_name = "FILE")]
    compose: Option<PathBuf>,
    /// File with the app's public key, hexadecimal or 32 raw bytes: no KMS is asked, and you have checked the key
    #[arg(long, value_name = "FILE")]
    public_key_file: Option<PathBuf>,
}

/// The key, and what is reported of it.
struct Key {
    public_key: [u8; 32],
    epochs: Epochs,
    report: Value,
    signer: Option<String>,
    origin: String,
}

impl Seal {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let existing = if self.force { Existing::Replaced } else { Existing::Kept };
        if let Some(path) = &self.out {
            files::check_writable(path, existing)?;
        }
        let environment = source::environment(&self.file, terminal)?;
        let key = match &self.recipient.public_key_file {
            Some(path) => self.key_in_file(path)?,
            None => self.key_of_kms(terminal, &environment).await?,
        };
        let sealed = SealedEnv::seal(&key.public_key, key.epochs, environment.to_json().as_bytes())
            .map_err(|error| Failure::unproven(format_args!("{}: {error}", key.origin)))?
            .to_json();
        if let Some(path) = &self.out {
            files::write(path, format!("{sealed}\n").as_bytes(), Readers::Everyone, existing)?;
        }
        let mut report = key.report;
        report["public_key"] = hex::encode(key.public_key).into();
        report["root_epoch"] = key.epochs.root.into();
        report["app_epoch"] = key.epochs.app.into();
        report["names"] = json!(environment.names().collect::<Vec<_>>());
        match &self.out {
            None if terminal.audience() == Audience::People => {
                terminal.write(format!("{sealed}\n").as_bytes())?
            }
            None => {
                report["sealed_env"] = serde_json::from_str(&sealed).map_err(Failure::failed)?;
                terminal.show(&report, |_| ())?;
            }
            Some(path) => {
                report["file"] = path.display().to_string().into();
                terminal.show(&report, |page| {
                    let done = page.toned(Tone::Good, "sealed");
                    page.line(format_args!("{done} {} for {}", source::counted(&environment), key.epochs));
                    if let Some(signer) = &key.signer {
                        page.field("signer", signer);
                    }
                    page.field("file", path.display());
                })?;
            }
        }
        Ok(Exit::Done)
    }

    async fn key_of_kms(&self, terminal: &Terminal, environment: &Environment) -> Outcome<Key> {
        let Self { urls, recipient, root_epoch, app_epoch, .. } = self;
        let app = App { app_id: recipient.app_id, compose: recipient.compose.clone() };
        let (app_id, compose) = app.read()?;
        for doubt in compose.iter().flat_map(|compose| compose.doubts(environment.names())) {
            terminal.warn(format_args!("{}: {doubt}", app.name()));
        }
        let wanted = Wanted { app_id, root_epoch: *root_epoch, app_epoch: *app_epoch };
        let (url, key) = source::public_key(urls, terminal, wanted).await?;
        // The app's own epoch counts unless one is named.
        let is_of_epoch = root_epoch.is_some() || key.epochs.root > 0;
        let signer = match is_of_epoch && !self.signers.know(url, key.signer)? {
            true => source::stating_signer(terminal, url, key.epochs.root, key.signer).await?,
            false => key.signer,
        };
        self.signers.require(terminal, url, urls, signer)?;
        let signer = key.signer.to_string();
        let report = json!({
            "app_id": app_id.to_string(),
            "kms_url": url.to_string(),
            "signer": signer,
            "timestamp": key.timestamp,
        });
        Ok(Key {
            public_key: key.public_key,
            epochs: key.epochs,
            report,
            signer: Some(signer),
            origin: url.to_string(),
        })
    }

    fn key_in_file(&self, path: &Path) -> Outcome<Key> {
        let origin = path.display().to_string();
        let wrong = |problem: String| Failure::usage(format_args!("{origin}: {problem}"));
        let bytes = files::read(path, MAX_KEY_BYTES)?;
        let public_key = match <[u8; 32]>::try_from(bytes.as_slice()) {
            Ok(raw) => raw,
            Err(_) => {
                let text = std::str::from_utf8(&bytes);
                let text = text.map_err(|_| wrong("must be hexadecimal or 32 raw bytes".to_owned()))?;
                text.parse::<input::Hex<32>>().map_err(wrong)?.0
            }
        };
        let epochs = Epochs { root: self.root_epoch.unwrap_or(0), app: self.app_epoch.unwrap_or(0) };
        Ok(Key { public_key, epochs, report: json!({}), signer: None, origin })
    }
}
