//! Which KMS a command talks to, and the operator's token for it.

use std::{env, path::PathBuf, time::Duration};

use clap::Args;
use kms_client::{
    CallError, KmsUrl,
    operator::{OperatorConnection, OperatorToken, OperatorUrl},
};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{
    exit::{Failure, Outcome},
    files,
    output::Terminal,
};

/// A token is short.
const MAX_TOKEN_BYTES: usize = 4096;

/// One KMS or several.
#[derive(Args, Debug)]
pub(crate) struct Kms {
    /// URL of the KMS, with or without /prpc; may be given more than once, or with commas
    #[arg(
        long = "kms",
        value_name = "URL",
        env = "KMS_URL",
        hide_env_values = true,
        value_delimiter = ',',
        required = true
    )]
    urls: Vec<KmsUrl>,
}

impl Kms {
    /// All of them, in the order given.
    pub(crate) fn all(&self) -> &[KmsUrl] {
        &self.urls
    }

    /// The only one.
    pub(crate) fn one(&self) -> Outcome<&KmsUrl> {
        match &self.urls[..] {
            [url] => Ok(url),
            urls => Err(Failure::usage(format_args!("this command takes one --kms, got {}", urls.len()))),
        }
    }
}

/// The onboarding or admin service of one KMS.
#[derive(Args, Debug)]
pub(crate) struct Operated {
    /// URL of the service, http:// or https://
    #[arg(long = "kms", value_name = "URL", env = "KMS_URL", hide_env_values = true)]
    pub(crate) url: OperatorUrl,
    #[command(flatten)]
    credentials: Credentials,
}

/// The admin service of one KMS.
#[derive(Args, Debug)]
pub(crate) struct Administered {
    /// URL of the admin listener
    #[arg(
        long = "admin",
        value_name = "URL",
        env = "KMS_ADMIN_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8001"
    )]
    url: OperatorUrl,
    #[command(flatten)]
    credentials: Credentials,
}

/// A KMS gives up a request after 50 s unless it is configured otherwise.
const ADMIN_TIME: Duration = Duration::from_secs(60);

impl Administered {
    /// Connects, with the token of `KMS_ADMIN_TOKEN` unless a file has it.
    pub(crate) async fn connect(&self, terminal: &Terminal) -> Outcome<OperatorConnection> {
        let token = self.credentials.token(Service::Admin)?;
        if token.is_some() && self.url.is_exposed() {
            terminal.warn(format_args!("the token goes to {} in clear", self.url));
        }
        OperatorConnection::open(&self.url, token)
            .await
            .map_err(|error| Failure::from(error).about(&self.url))
    }

    /// One call on a connection of its own.
    pub(crate) async fn call<Q, A>(&self, terminal: &Terminal, method: &str, request: &Q) -> Outcome<A>
    where
        Q: Serialize + Sync,
        A: DeserializeOwned,
    {
        let connection = self.connect(terminal).await?;
        self.call_on(&connection, method, request).await
    }

    /// One call of several.
    pub(crate) async fn call_on<Q, A>(
        &self,
        connection: &OperatorConnection,
        method: &str,
        request: &Q,
    ) -> Outcome<A>
    where
        Q: Serialize + Sync,
        A: DeserializeOwned,
    {
        let answer = connection.call(ADMIN_TIME, &format!("Admin.{method}"), request).await;
        answer.map_err(|error| match &error {
            CallError::Refused { status, .. } if status.as_u16() == 401 => {
                Failure::from(error).about(format_args!(
                    "{}: the admin listener asks for its token, in KMS_ADMIN_TOKEN or --token-file",
                    self.url
                ))
            }
            _ => Failure::from(error).about(&self.url),
        })
    }
}

/// Where the operator's token comes from: never the command line, which other users of the machine can see.
#[derive(Args, Debug)]
pub(crate) struct Credentials {
    /// File with the operator's token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Which service is meant, hence which environment variable holds its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// `KMS_ONBOARD_TOKEN`
    Onboarding,
    /// `KMS_ADMIN_TOKEN`
    Admin,
}

impl Service {
    fn variable(self) -> &'static str {
        match self {
            Self::Onboarding => "KMS_ONBOARD_TOKEN",
            Self::Admin => "KMS_ADMIN_TOKEN",
        }
    }
}

impl Operated {
    /// Connects, with the token if there is one.
    pub(crate) async fn connect(&self, service: Service, terminal: &Terminal) -> Outcome<OperatorConnection> {
        let token = self.credentials.token(service)?;
        if token.is_some() && self.url.is_exposed() {
            terminal.warn(format_args!("the token goes to {} in clear", self.url));
        }
        OperatorConnection::open(&self.url, token)
            .await
            .map_err(|error| Failure::from(error).about(&self.url))
    }
}

impl Credentials {
    /// The token of the file, else of the environment, if there is one.
    pub(crate) fn token(&self, service: Service) -> Outcome<Option<OperatorToken>> {
        let variable = service.variable();
        let (text, origin) = if let Some(path) = &self.token_file {
            let bytes = files::read(path, MAX_TOKEN_BYTES)?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            (Zeroizing::new(text), path.display().to_string())
        } else {
            match env::var(variable) {
                Ok(text) if !text.trim().is_empty() => (Zeroizing::new(text), variable.to_owned()),
                _ => return Ok(None),
            }
        };
        OperatorToken::new(text).map(Some).map_err(|error| Failure::usage(format_args!("{origin}: {error}")))
    }
}
