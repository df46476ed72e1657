//! The connection to the database, and its errors in words: none of them names a host, a user or a password.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::schema::{self, Fate};
use crate::config::{Database, Postgres, PostgresError};

/// The channel on which nodes say that they wrote something.
pub(super) const CHANNEL: &str = "cvm_kms_state";
/// How long one statement may take on the server.
const STATEMENT: &str =
    "SET statement_timeout = '8s'; SET idle_in_transaction_session_timeout = '8s'; SET lock_timeout = '3s'";
/// How long a check may take.
const CHECK: Duration = Duration::from_secs(8);

/// Why the database cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// It does not answer.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// It does not accept the user or the password.
    #[error("the database refuses the user or the password")]
    Credentials,
    /// There is no such database.
    #[error("there is no database of that name")]
    NoDatabase,
    /// The TLS handshake fails.
    #[error("the TLS handshake with the database fails: {0}")]
    Tls(String),
    /// The user may not do what is needed.
    #[error("the database user lacks the right to create or to use the tables kms_*")]
    NoRights,
    /// It is a standby.
    #[error("the database is read-only: it is a standby")]
    ReadOnly,
    /// A newer version of this program has changed the tables.
    #[error(
        "the tables are of a newer version: they need a program that knows version {needs}, this one knows {knows}"
    )]
    TooNew {
        /// The version that is needed.
        needs: i32,
        /// The version that is known here.
        knows: i32,
    },
    /// They are not as a migration leaves them.
    #[error("the table kms_schema is empty: restore the database, or drop the tables kms_*")]
    Schema,
    /// It took too long.
    #[error("the database does not answer in time")]
    Slow,
    /// Something else, by its SQLSTATE.
    #[error("the database refuses a statement (SQLSTATE {0})")]
    Refused(String),
    /// The configuration cannot be used.
    #[error("{0}")]
    Settings(String),
}

impl From<tokio_postgres::Error> for DatabaseError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(state) = error.code() {
            return match state {
                state
                    if *state == SqlState::INVALID_PASSWORD
                        || *state == SqlState::INVALID_AUTHORIZATION_SPECIFICATION =>
                {
                    Self::Credentials
                }
                state if *state == SqlState::INVALID_CATALOG_NAME => Self::NoDatabase,
                state if *state == SqlState::INSUFFICIENT_PRIVILEGE => Self::NoRights,
                state if *state == SqlState::READ_ONLY_SQL_TRANSACTION => Self::ReadOnly,
                state if *state == SqlState::QUERY_CANCELED || *state == SqlState::LOCK_NOT_AVAILABLE => {
                    Self::Slow
                }
                state if *state == SqlState::CANNOT_CONNECT_NOW || *state == SqlState::ADMIN_SHUTDOWN => {
                    Self::Unreachable("it starts or stops".to_owned())
                }
                other => Self::Refused(other.code().to_owned()),
            };
        }
        let mut cause = error.source();
        while let Some(inner) = cause {
            if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
                return Self::Tls(tls.to_string());
            }
            if let Some(io) = inner.downcast_ref::<io::Error>() {
                if let Some(tls) = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                    return Self::Tls(tls.to_string());
                }
                return Self::Unreachable(io.kind().to_string());
            }
            cause = inner.source();
        }
        match error.is_closed() {
            true => Self::Unreachable("the connection was closed".to_owned()),
            // Such as a missing password. The words of the library name no value.
            false => Self::Unreachable(error.to_string()),
        }
    }
}

impl From<PostgresError> for DatabaseError {
    fn from(error: PostgresError) -> Self {
        Self::Settings(error.to_string())
    }
}

/// A connection with its task.
pub(super) struct Session {
    pub(super) client: Client,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects, brings the tables up to date, and listens to what other nodes say: `woken` is notified then, and when the
/// connection ends.
pub(super) async fn connect(
    database: &Database,
    fate: Fate,
    woken: &Arc<Notify>,
) -> Result<Session, DatabaseError> {
    let mut session = match &database.tls {
        Some(tls) => open(database, MakeRustlsConnect::new(tls.clone()), woken).await?,
        None => open(database, NoTls, woken).await?,
    };
    session.client.batch_execute(STATEMENT).await?;
    schema::migrate(&mut session.client, fate).await?;
    session.client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
    Ok(session)
}

async fn open<T>(database: &Database, tls: T, woken: &Arc<Notify>) -> Result<Session, DatabaseError>
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: Send + 'static,
{
    let (client, connection) = database.config.connect(tls).await?;
    let task = tokio::spawn(attend(connection, Arc::clone(woken)));
    Ok(Session { client, task })
}

async fn attend<S>(mut connection: Connection<Socket, S>, woken: Arc<Notify>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
    while let Some(message) = messages.next().await {
        match message {
            Ok(AsyncMessage::Notification(_)) => woken.notify_one(),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    woken.notify_one();
}

/// Whether the database can be used, for a check: nothing is changed.
///
/// # Errors
/// [`DatabaseError`].
pub async fn examine(settings: &Postgres) -> Result<(), DatabaseError> {
    let (database, woken) = (settings.database()?, Arc::default());
    let connected = connect(&database, Fate::TakenBack, &woken);
    tokio::time::timeout(CHECK, connected).await.map_err(|_| DatabaseError::Slow)?.map(drop)
}
