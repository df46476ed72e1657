//! `kmsctl env encrypt`: encrypts a `.env` file so that only the app can read it, like `vmm-cli.py`.

use std::path::PathBuf;

use clap::Args;
use kms_attest::identity::AppId;
use kms_client::environment::{AppCompose, EnvKey, Environment, app_compose, dotenv, envelope};
use kms_client::{Connection, KmsUrl, Trust};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::signer::Signers;
use crate::command::app_key::app_id_argument;
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::output::{Audience, Terminal, Tone};
use crate::target::Kms;
use crate::when::now;

#[derive(Args, Debug)]
pub(crate) struct Encrypt {
    /// The .env file; - is standard input
    #[arg(value_name = "ENV-FILE")]
    file: PathBuf,
    #[command(flatten)]
    kms: Kms,
    #[command(flatten)]
    app: App,
    #[command(flatten)]
    signers: Signers,
    /// File for the result; default: standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Overwrite the file
    #[arg(long)]
    force: bool,
}

/// The app.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct App {
    /// The app, 40 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = app_id_argument)]
    app_id: Option<AppId>,
    /// The app's compose file (app-compose.json): the app id is the start of its SHA-256
    #[arg(long, value_name = "FILE")]
    compose: Option<PathBuf>,
}

impl Encrypt {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let existing = if self.force { Existing::Replaced } else { Existing::Kept };
        if let Some(path) = &self.out {
            files::check_writable(path, existing)?;
        }
        let (app_id, compose) = self.app.read()?;
        let environment = self.environment(terminal)?;
        for doubt in compose.iter().flat_map(|compose| compose.doubts(environment.names())) {
            terminal.warn(format_args!("{}: {doubt}", self.app.name()));
        }
        let (url, key) = self.key(terminal, app_id).await?;
        self.signers.require(terminal, url, self.kms.all(), key.signer)?;
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
                    let count = match environment.names().count() {
                        1 => "1 variable".to_owned(),
                        count => format!("{count} variables"),
                    };
                    let done = page.toned(Tone::Good, "encrypted");
                    page.line(format_args!("{done} {count} for app {app_id}"));
                    page.field("signer", key.signer);
                    page.field("file", path.display());
                })?;
            }
        }
        Ok(Exit::Done)
    }

    fn environment(&self, terminal: &Terminal) -> Outcome<Environment> {
        let text = files::read_text(&self.file, dotenv::MAX_BYTES)?;
        let name = self.file.display();
        let reading =
            Environment::parse(&text).map_err(|error| Failure::usage(format_args!("{name}: {error}")))?;
        for doubt in &reading.doubts {
            terminal.warn(format_args!("{name}: {doubt}"));
        }
        if reading.environment.names().next().is_none() {
            return Err(Failure::usage(format_args!("{name}: there is no variable in it")));
        }
        Ok(reading.environment)
    }

    /// The key from the first KMS that responds. A response that does not verify ends the search, because it
    /// is not an outage.
    async fn key(&self, terminal: &Terminal, app_id: AppId) -> Outcome<(&KmsUrl, EnvKey)> {
        let progress = terminal.progress("requesting the app's public key");
        let mut failures: Vec<Failure> = Vec::new();
        for url in self.kms.all() {
            let attempt = async {
                let connection = Connection::open(url, Trust::DangerousAnyServer, None).await?;
                Ok::<_, Failure>(connection.app_env_encrypt_pub_key(app_id.as_ref()).await?)
            };
            match attempt.await {
                Ok(answer) => {
                    drop(progress);
                    for failure in failures {
                        terminal.warn(failure.message);
                    }
                    let key = EnvKey::verify(&answer, app_id, now())
                        .map_err(|error| Failure::unproven(format_args!("{url}: {error}")))?;
                    return Ok((url, key));
                }
                Err(failure) => failures.push(failure.about(url)),
            }
        }
        let exit = failures.iter().map(|failure| failure.exit).max().unwrap_or(Exit::Failed);
        let reasons: Vec<String> = failures.into_iter().map(|failure| failure.message).collect();
        let attempts = json!(reasons);
        Err(Failure { exit, message: reasons.join("; "), details: Some(("attempts", attempts)) })
    }
}

impl App {
    /// The app, and its compose file if that was given.
    fn read(&self) -> Outcome<(AppId, Option<AppCompose>)> {
        if let Some(app_id) = self.app_id {
            return Ok((app_id, None));
        }
        let path = self.compose.as_ref().ok_or_else(|| Failure::usage("--app-id or --compose is needed"))?;
        let file = files::read(path, app_compose::MAX_BYTES)?;
        let compose = AppCompose::parse(&file)
            .map_err(|error| Failure::usage(format_args!("{}: {error}", path.display())))?;
        let digest = Sha256::digest(file.as_slice());
        Ok((AppId::try_from(&digest[..20]).map_err(Failure::usage)?, Some(compose)))
    }

    fn name(&self) -> String {
        self.compose.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}
