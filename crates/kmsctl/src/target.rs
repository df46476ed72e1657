//! The KMS that a command calls, and the operator's token for it.

mod admin;

use std::env;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use kms_client::operator::{OperatorConnection, OperatorToken, OperatorUrl, SetupStatus};
use kms_client::{CallError, ConnectError, Connection, KmsUrl, Trust};
use zeroize::Zeroizing;

pub(crate) use self::admin::{ADMIN_TIME, AdminBeside, AdminService, Administered, Reply};
use crate::exit::{Failure, Outcome};
use crate::output::Terminal;
use crate::pin::Pin;
use crate::trust::Verification;
use crate::{files, input};

const MAX_ROOT_BYTES: usize = 64 << 10;
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
    /// All of them, in the given order.
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
    #[command(flatten)]
    server: Server,
}

/// How the server is authenticated over https.
#[derive(Args, Debug)]
#[group(multiple = false)]
pub(crate) struct Server {
    /// Over https: root CA certificate (PEM) that must have issued the server's
    #[arg(long, value_name = "FILE")]
    root_ca: Option<PathBuf>,
    /// Over https: public key that the server must hold (SubjectPublicKeyInfo DER)
    #[arg(long, value_name = "HEX")]
    server_spki: Option<Spki>,
    /// Over https: send the token to any server, and trust its responses
    #[arg(long)]
    dangerous_any_server: bool,
}

/// A public key, SubjectPublicKeyInfo DER.
#[derive(Clone, Debug)]
struct Spki(Vec<u8>);

impl FromStr for Spki {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SEQUENCE: u8 = 0x30;
        let key = input::decode(text)?;
        match key.first() {
            Some(&SEQUENCE) if key.len() > 32 => Ok(Self(key)),
            _ => Err("must be SubjectPublicKeyInfo DER: it starts with 30, and is not a hash".to_owned()),
        }
    }
}

/// What the options say about the server.
pub(crate) enum Belief {
    /// Nothing.
    Unsaid,
    /// Any server.
    Any,
    /// Under this root CA, PEM.
    Root(Zeroizing<String>),
    /// The holder of this key.
    Key(Vec<u8>),
}

impl Server {
    /// Whether any option says something about it.
    pub(crate) fn is_given(&self) -> bool {
        self.root_ca.is_some() || self.server_spki.is_some() || self.dangerous_any_server
    }

    /// What the options say about the server at `url`.
    pub(crate) fn belief(&self, url: &OperatorUrl) -> Outcome<Belief> {
        if self.dangerous_any_server {
            return Ok(Belief::Any);
        }
        let belief = match (&self.root_ca, &self.server_spki) {
            (Some(path), _) => Belief::Root(files::read_text(path, MAX_ROOT_BYTES)?),
            (None, Some(Spki(key))) => Belief::Key(key.clone()),
            (None, None) => return Ok(Belief::Unsaid),
        };
        match url {
            OperatorUrl::Tls(_) => Ok(belief),
            OperatorUrl::Plain(_) => Err(Failure::usage(format_args!(
                "{url}: plain http proves no server; --root-ca and --server-spki are for https"
            ))),
        }
    }
}

impl Belief {
    /// The trust, or `otherwise` if the options say nothing.
    pub(crate) fn trust<'a>(&'a self, otherwise: Trust<'a>) -> Trust<'a> {
        match self {
            Self::Unsaid => otherwise,
            Self::Any => Trust::DangerousAnyServer,
            Self::Root(pem) => Trust::RootCa(pem.as_str()),
            Self::Key(spki) => Trust::PublicKey(spki),
        }
    }
}

/// Why a KMS does not respond like an operator's service, as far as that can be found out without
/// credentials: it serves keys, or it uses TLS. Some versions then close the connection, others do not have
/// the method.
pub(crate) async fn other_side(url: &OperatorUrl, error: &CallError) -> Option<String> {
    let is_plain = matches!(url, OperatorUrl::Plain(_));
    let may_be = match error {
        CallError::Transport { .. } => is_plain,
        CallError::Refused { status, .. } => error.is_unknown_method() || is_plain && status.as_u16() == 400,
        CallError::Method(_)
        | CallError::Encode { .. }
        | CallError::TooLarge { .. }
        | CallError::Decode { .. }
        | CallError::Incomplete { .. }
        | CallError::Timeout { .. } => false,
    };
    if !may_be {
        return None;
    }
    let address = url.once_serving(None).ok()?;
    let connection = Connection::open(&address, Trust::DangerousAnyServer, None).await.ok()?;
    match connection.meta().await {
        Ok(_) => Some(format!("this KMS serves already: onboarding is over. It is reached at {address}")),
        Err(_) if is_plain && matches!(error, CallError::Transport { .. }) => {
            Some(format!("TLS is spoken there: try {address}"))
        }
        Err(_) => None,
    }
}

/// Explains a failed connection: TLS with a listener that serves plain HTTP fails with an obscure error.
pub(crate) fn unconnected(error: ConnectError, url: &OperatorUrl) -> Failure {
    let is_plain_http = error.is_plain_http();
    let failure = Failure::from(error).about(url);
    match is_plain_http {
        true => failure.hint("plain HTTP is spoken there: try http://"),
        false => failure,
    }
}

/// The source of the operator's token: never the command line, which other users of the machine can see.
#[derive(Args, Debug)]
pub(crate) struct Credentials {
    /// File with the operator's token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// The service, which decides the environment variable of the token.
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

/// What a KMS without keys must prove, and the secrets for it besides its own token.
pub(crate) struct Pinned<'a> {
    pub(crate) pin: &'a Pin,
    pub(crate) verification: &'a Verification,
    pub(crate) source_token: Option<&'a OperatorToken>,
}

/// The operator's token from a file.
pub(crate) fn token_in(path: &Path) -> Outcome<OperatorToken> {
    let bytes = Zeroizing::new(files::read(path, MAX_TOKEN_BYTES)?);
    let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
    OperatorToken::new(text).map_err(|error| Failure::usage(format_args!("{}: {error}", path.display())))
}

impl Operated {
    /// Connects, with the token if there is one. The certificate of a KMS without keys is self-signed: over
    /// https it receives the token only if its key is known.
    pub(crate) async fn connect(&self, service: Service, terminal: &Terminal) -> Outcome<OperatorConnection> {
        let token = self.credentials.token(service)?;
        let has_secret = token.is_some();
        self.connect_with(token, has_secret, terminal).await
    }

    /// Like [`Operated::connect`], but the server must first prove the pinned values, if there are any.
    pub(crate) async fn connect_pinned(
        &self,
        pinned: Pinned<'_>,
        terminal: &Terminal,
    ) -> Outcome<OperatorConnection> {
        let Pinned { pin, verification, source_token } = pinned;
        let token = self.credentials.token(Service::Onboarding)?;
        if !pin.is_given() {
            let has_secret = token.is_some() || source_token.is_some();
            return self.connect_with(token, has_secret, terminal).await;
        }
        let connection = self.open(&Belief::Any, token).await?;
        let Some(server) = connection.tls() else {
            let text = "plain http proves no server; --pin is for https";
            return Err(Failure::usage(format_args!("{}: {text}", self.url)));
        };
        let progress = terminal.progress("verifying the KMS");
        pin.check(server, &verification.verifier(terminal)?).await?;
        drop(progress);
        Ok(connection)
    }

    async fn connect_with(
        &self,
        token: Option<OperatorToken>,
        has_secret: bool,
        terminal: &Terminal,
    ) -> Outcome<OperatorConnection> {
        if has_secret && self.url.is_exposed() {
            terminal.warn(format_args!("the token goes to {} in clear", self.url));
        }
        let belief = self.server.belief(&self.url)?;
        match (&self.url, &belief) {
            (OperatorUrl::Tls(_), Belief::Unsaid) if has_secret => {
                return Err(Failure::usage(format_args!(
                    "the token does not go to {}, which is not authenticated: give its key with --server-spki, \
                     or send it to any server with --dangerous-any-server",
                    self.url
                )));
            }
            (OperatorUrl::Tls(_), Belief::Unsaid | Belief::Any) => {
                terminal.warn(format_args!("{} is an unverified server", self.url));
            }
            (OperatorUrl::Tls(_), Belief::Root(_) | Belief::Key(_)) | (OperatorUrl::Plain(_), _) => {}
        }
        self.open(&belief, token).await
    }

    /// Why a call failed, and what the server is if it is not the expected service.
    pub(crate) async fn failure(&self, error: CallError) -> Failure {
        let is_unauthenticated =
            matches!(&error, CallError::Refused { status, .. } if status.as_u16() == 401);
        let other_side = other_side(&self.url, &error).await;
        let failure = Failure::from(error);
        match other_side {
            Some(other_side) => failure.hint(&other_side),
            // A server that distinguishes the two says so itself; others have one text.
            None if is_unauthenticated
                && matches!(self.credentials.token(Service::Onboarding), Ok(Some(_))) =>
            {
                failure.hint("the token that was sent is not the one of this KMS")
            }
            None => failure,
        }
    }

    /// The status from the setup service; `None` if there is none.
    pub(crate) async fn setup_status(&self, limit: Duration) -> Outcome<Option<SetupStatus>> {
        let token = self.credentials.token(Service::Onboarding)?;
        let belief = self.server.belief(&self.url)?;
        // After `connect`, which sends the token to identified servers only.
        let connection = self.open(&belief, token).await?;
        Ok(connection.setup_status(limit).await.ok())
    }

    async fn open(&self, belief: &Belief, token: Option<OperatorToken>) -> Outcome<OperatorConnection> {
        OperatorConnection::open(&self.url, belief.trust(Trust::DangerousAnyServer), token)
            .await
            .map_err(|error| unconnected(error, &self.url))
    }
}

impl Credentials {
    /// The token from the file, or else from the environment.
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
