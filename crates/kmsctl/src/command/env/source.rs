//! What is needed to encrypt an environment for an app: the variables, the app, and its public key.

use std::path::{Path, PathBuf};

use clap::Args;
use kms_attest::identity::AppId;
use kms_client::environment::{AppCompose, EnvKey, Environment, Epochs, app_compose, dotenv};
use kms_client::proto::PublicKeyResponse;
use kms_client::root_epochs::stated_epoch;
use kms_client::statement::Signer;
use kms_client::{Connection, KmsUrl, Trust};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::command::app_key::app_id_argument;
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::output::Terminal;
use crate::when::now;

/// The app.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct App {
    /// The app, 40 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = app_id_argument)]
    pub(super) app_id: Option<AppId>,
    /// The app's compose file (app-compose.json): the app id is the start of its SHA-256
    #[arg(long, value_name = "FILE")]
    pub(super) compose: Option<PathBuf>,
}

impl App {
    /// The app, and its compose file if that was given.
    pub(super) fn read(&self) -> Outcome<(AppId, Option<AppCompose>)> {
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

    /// The file, for messages.
    pub(super) fn name(&self) -> String {
        self.compose.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

/// The variables of a `.env` file, of which there is at least one. Doubtful lines are warned of.
pub(super) fn environment(file: &Path, terminal: &Terminal) -> Outcome<Environment> {
    let text = files::read_text(file, dotenv::MAX_BYTES)?;
    let name = file.display();
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

/// The key that is requested.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) app_id: AppId,
    /// Those of the app, as the KMS knows them, unless one is named.
    pub(super) root_epoch: Option<u32>,
    pub(super) app_epoch: Option<u32>,
}

impl Wanted {
    /// The key of the app as the KMS gives it to those who name no epoch.
    pub(super) fn of(app_id: AppId) -> Self {
        Self { app_id, root_epoch: None, app_epoch: None }
    }

    fn message(&self) -> kms_client::proto::AppId {
        let Self { app_id, root_epoch, app_epoch } = *self;
        kms_client::proto::AppId {
            app_id: app_id.as_ref().to_vec(),
            root_epoch,
            app_epoch,
            ..Default::default()
        }
    }

    /// The epochs that the response must have, if they are all named.
    fn epochs(&self) -> Option<Epochs> {
        self.root_epoch.map(|root| Epochs { root, app: self.app_epoch.unwrap_or(0) })
    }
}

/// The key from the first KMS that responds. A response that does not verify ends the search, because it
/// is not an outage.
pub(super) async fn public_key<'a>(
    urls: &'a [KmsUrl],
    terminal: &Terminal,
    wanted: Wanted,
) -> Outcome<(&'a KmsUrl, EnvKey)> {
    let progress = terminal.progress("requesting the app's public key");
    let mut failures: Vec<Failure> = Vec::new();
    for url in urls {
        let attempt = async {
            let connection = Connection::open(url, Trust::DangerousAnyServer, None).await?;
            Ok::<PublicKeyResponse, Failure>(
                connection.call("GetAppEnvEncryptPubKey", &wanted.message()).await?,
            )
        };
        match attempt.await {
            Ok(answer) => {
                drop(progress);
                for failure in failures {
                    terminal.warn(failure.message);
                }
                let key = EnvKey::verify(&answer, wanted.app_id, now())
                    .map_err(|error| Failure::unproven(format_args!("{url}: {error}")))?;
                if let Some(epochs) = wanted.epochs()
                    && epochs != key.epochs
                {
                    return Err(Failure::unproven(format_args!(
                        "{url}: the key of {epochs} was requested, and this is the key of {}: the KMS knows no epochs, or \
                         its response was changed",
                        key.epochs
                    )));
                }
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

/// The signer that vouches for the key of an epoch: the root key of the KMS, if it states that `signer` is the root key
/// of that epoch; otherwise `signer` itself.
///
/// # Errors
/// The KMS does not respond, or states something else of this epoch.
pub(super) async fn stating_signer(
    terminal: &Terminal,
    url: &KmsUrl,
    root_epoch: u32,
    signer: Signer,
) -> Outcome<Signer> {
    let meta = Connection::open(url, Trust::DangerousAnyServer, None).await?.meta().await?;
    if meta.epochs.is_empty() {
        return Ok(signer);
    }
    let unproven = |error: &dyn std::fmt::Display| Failure::unproven(format_args!("{url}: {error}"));
    let stated = stated_epoch(&meta, root_epoch).map_err(|error| unproven(&error))?;
    if stated.signer != signer {
        return Err(unproven(&format_args!(
            "the key is signed by {signer}, and the root key of epoch {root_epoch} is {}",
            stated.signer
        )));
    }
    if stated.stated_by != signer {
        terminal.note(format_args!("root epoch {root_epoch} is stated by the root key {}", stated.stated_by));
    }
    Ok(stated.stated_by)
}

/// The number of variables, for people.
pub(super) fn counted(environment: &Environment) -> String {
    match environment.names().count() {
        1 => "1 variable".to_owned(),
        count => format!("{count} variables"),
    }
}
