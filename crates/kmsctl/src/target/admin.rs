//! The admin listener of a KMS, and calls on it.

use std::io::ErrorKind;
use std::time::Duration;

use clap::Args;
use kms_client::operator::{OperatorConnection, OperatorUrl};
use kms_client::resource::Document;
use kms_client::{CallError, ConnectError, Trust};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Belief, Credentials, Server, Service, unconnected};
use crate::exit::{Failure, Outcome};
use crate::output::{Terminal, printable};

/// By default a KMS cancels a request after 50 s.
pub(crate) const ADMIN_TIME: Duration = Duration::from_secs(60);

/// The code of a response that a second owner must approve what was asked for.
const APPROVAL_NEEDED: &str = "approval_needed";

/// A request that waits for a second owner, instead of what was asked for.
#[derive(Deserialize)]
struct Waiting {
    code: String,
    message: String,
    approval: Value,
}

/// The admin service of one KMS, or of several.
#[derive(Args, Debug)]
pub(crate) struct Administered {
    /// URL of the admin listener; for commands that take several KMSs: more than once, or with commas
    #[arg(
        long = "admin",
        value_name = "URL",
        env = "KMS_ADMIN_URL",
        hide_env_values = true,
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8001"
    )]
    urls: Vec<OperatorUrl>,
    #[command(flatten)]
    credentials: Credentials,
    #[command(flatten)]
    server: Server,
}

/// The admin service at one of the URLs.
#[derive(Clone, Copy)]
pub(crate) struct AdminService<'a> {
    pub(crate) url: &'a OperatorUrl,
    credentials: &'a Credentials,
    /// `None` where the URL proves nothing by itself.
    server: Option<&'a Server>,
}

/// What a command reads from a route of the admin listener.
#[derive(Clone, Copy)]
pub(crate) struct Reply {
    /// The most bytes.
    pub(crate) max_bytes: usize,
    /// What is said of a response that is something else; takes the URL of the listener.
    pub(crate) unreadable: fn(&OperatorUrl) -> Failure,
}

impl Reply {
    fn read<A: DeserializeOwned>(self, admin: AdminService<'_>, document: &Document) -> Outcome<A> {
        document.json().ok_or_else(|| (self.unreadable)(admin.url))
    }

    fn answer<A: DeserializeOwned>(
        self,
        admin: AdminService<'_>,
        answer: Result<Document, CallError>,
    ) -> Outcome<A> {
        match answer {
            Ok(document) => self.read(admin, &document),
            Err(error) => Err(admin.failure(error)?),
        }
    }
}

/// The admin listener of a KMS whose server is named by the options for its main listener.
#[derive(Args, Debug)]
pub(crate) struct AdminBeside {
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

impl AdminBeside {
    /// The admin service. `server` counts over https.
    pub(crate) fn service<'a>(&'a self, server: &'a Server) -> AdminService<'a> {
        let server = matches!(self.url, OperatorUrl::Tls(_)).then_some(server);
        AdminService { url: &self.url, credentials: &self.credentials, server }
    }
}

impl Administered {
    /// Each of them, in the given order.
    pub(crate) fn each(&self) -> impl Iterator<Item = AdminService<'_>> {
        let Self { urls, credentials, server } = self;
        urls.iter().map(move |url| AdminService { url, credentials, server: Some(server) })
    }

    /// Another one, with the same credentials.
    pub(crate) fn at<'a>(&'a self, url: &'a OperatorUrl) -> AdminService<'a> {
        AdminService { url, credentials: &self.credentials, server: Some(&self.server) }
    }

    /// The only one.
    pub(crate) fn one(&self) -> Outcome<AdminService<'_>> {
        let mut each = self.each();
        match (each.next(), each.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(Failure::usage(format_args!("this command takes one --admin, got {}", self.urls.len()))),
        }
    }

    /// Calls the only KMS, on a connection of its own.
    pub(crate) async fn call<Q, A>(&self, terminal: &Terminal, method: &str, request: &Q) -> Outcome<A>
    where
        Q: Serialize + Sync,
        A: Serialize + DeserializeOwned,
    {
        self.one()?.call(terminal, method, request).await
    }

    /// Reads `path` of the only KMS.
    pub(crate) async fn get<A: DeserializeOwned>(
        &self,
        terminal: &Terminal,
        path: &str,
        reply: Reply,
    ) -> Outcome<A> {
        let admin = self.one()?;
        let connection = admin.connect(terminal).await?;
        reply.read(admin, &admin.fetch_on(&connection, path, reply.max_bytes).await?)
    }

    /// Posts to `path` of the only one.
    pub(crate) async fn post<A: DeserializeOwned>(
        &self,
        terminal: &Terminal,
        path: &str,
        body: Vec<u8>,
        reply: Reply,
    ) -> Outcome<A> {
        let admin = self.one()?;
        let connection = admin.connect(terminal).await?;
        reply.read(admin, &admin.post_on(&connection, path, body, reply.max_bytes).await?)
    }

    /// Removes what is at `path` of the only one.
    pub(crate) async fn delete<A: DeserializeOwned>(
        &self,
        terminal: &Terminal,
        path: &str,
        reply: Reply,
    ) -> Outcome<A> {
        let admin = self.one()?;
        let connection = admin.connect(terminal).await?;
        reply.answer(admin, connection.delete(ADMIN_TIME, path, reply.max_bytes).await)
    }

    /// Changes what is at `path` of the only one.
    pub(crate) async fn patch<A: DeserializeOwned>(
        &self,
        terminal: &Terminal,
        path: &str,
        body: Vec<u8>,
        reply: Reply,
    ) -> Outcome<A> {
        let admin = self.one()?;
        let connection = admin.connect(terminal).await?;
        reply.answer(admin, connection.patch(ADMIN_TIME, path, body, reply.max_bytes).await)
    }
}

impl AdminService<'_> {
    /// Connects, with the token from a file or from `KMS_ADMIN_TOKEN`.
    pub(crate) async fn connect(&self, terminal: &Terminal) -> Outcome<OperatorConnection> {
        let token = self.credentials.token(Service::Admin)?;
        if token.is_some() && self.url.is_exposed() {
            terminal.warn(format_args!("the token goes to {} in clear", self.url));
        }
        let belief = self.server.map_or(Ok(Belief::Unsaid), |server| server.belief(self.url))?;
        if matches!((&belief, self.url), (Belief::Any, OperatorUrl::Tls(_))) {
            terminal.warn(format_args!("any server is believed to be {} (--dangerous-any-server)", self.url));
        }
        OperatorConnection::open(self.url, belief.trust(Trust::PublicRoots), token).await.map_err(|error| {
            let foreign = matches!((&error, &belief), (ConnectError::Tls(_), Belief::Unsaid));
            let refused = matches!(&error, ConnectError::Tcp(cause) if cause.kind() == ErrorKind::ConnectionRefused);
            let failure = unconnected(error, self.url);
            match foreign {
                false if refused => failure.hint(
                    "nobody listens there: is the admin listener enabled (core.admin.enabled), and is this its address \
                     (--admin, KMS_ADMIN_URL)?",
                ),
                true => failure.hint(
                    "nothing was sent; give --root-ca or --server-spki for a server without a public CA certificate",
                ),
                false => failure,
            }
        })
    }

    /// One call on its own connection.
    pub(crate) async fn call<Q, A>(&self, terminal: &Terminal, method: &str, request: &Q) -> Outcome<A>
    where
        Q: Serialize + Sync,
        A: Serialize + DeserializeOwned,
    {
        let connection = self.connect(terminal).await?;
        self.call_on(&connection, method, request).await
    }

    /// One call on an open connection.
    pub(crate) async fn call_on<Q, A>(
        &self,
        connection: &OperatorConnection,
        method: &str,
        request: &Q,
    ) -> Outcome<A>
    where
        Q: Serialize + Sync,
        A: Serialize + DeserializeOwned,
    {
        let answer = connection.call_complete(ADMIN_TIME, &format!("Admin.{method}"), request).await;
        match answer {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.failure(error)?),
        }
    }

    /// What is at `path` on the admin listener.
    pub(crate) async fn fetch_on(
        &self,
        connection: &OperatorConnection,
        path: &str,
        max_bytes: usize,
    ) -> Outcome<Document> {
        match connection.fetch(ADMIN_TIME, path, max_bytes).await {
            Ok(document) => Ok(document),
            Err(error) => Err(self.failure(error)?),
        }
    }

    /// Posts to a path of the admin listener.
    pub(crate) async fn post_on(
        &self,
        connection: &OperatorConnection,
        path: &str,
        body: Vec<u8>,
        max_bytes: usize,
    ) -> Outcome<Document> {
        match connection.post(ADMIN_TIME, path, body, max_bytes).await {
            Ok(document) => match document.json::<Waiting>() {
                Some(Waiting { code, message, approval }) if code == APPROVAL_NEEDED => {
                    Err(Failure::refused(printable(&message)).with("approval", approval))
                }
                _ => Ok(document),
            },
            Err(error) => Err(self.failure(error)?),
        }
    }

    /// Why the admin listener gave no answer, with what that means.
    pub(crate) fn failure(&self, error: CallError) -> Outcome<Failure> {
        let hint = match &error {
            CallError::Refused { status, .. } if status.as_u16() == 401 => {
                let asks = match self.credentials.token(Service::Admin)? {
                    Some(_) => "the token is wrong: it is not the one of this admin listener",
                    None => "the admin listener requires its token, in KMS_ADMIN_TOKEN or --token-file",
                };
                return Ok(Failure::from(error).about(format_args!("{}: {asks}", self.url)));
            }
            // An admin listener says what it does not have.
            CallError::Refused { status, code, .. }
                if status.as_u16() == 404 && code.as_deref().is_none_or(|code| code == "unknown_method") =>
            {
                Some(
                    "this is not an admin listener: it has an address of its own (core.admin), --admin or KMS_ADMIN_URL",
                )
            }
            CallError::Transport { .. } if matches!(self.url, OperatorUrl::Plain(_)) => {
                Some("is this the admin listener? It has an address of its own (core.admin)")
            }
            CallError::Refused { .. }
            | CallError::Method(_)
            | CallError::Encode { .. }
            | CallError::Transport { .. }
            | CallError::TooLarge { .. }
            | CallError::Decode { .. }
            | CallError::Incomplete { .. }
            | CallError::Timeout { .. } => None,
        };
        let failure = Failure::from(error).about(self.url);
        Ok(match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        })
    }
}
