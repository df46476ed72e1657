//! The connection to the database.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::DatabaseError;
use super::limited::{LimitedTls, Received};
use super::schema::{self, Fate, Past};
use crate::config::{Database, Postgres};

/// The channel on which nodes say that they wrote something.
pub(super) const CHANNEL: &str = "cvm_kms_state";
/// How long one statement may take on the server, and how long a node that is cut off in the middle of a change keeps the others from
/// theirs: a freeze reaches all in two seconds even then.
const STATEMENT: &str = "SET statement_timeout = '8s'; SET idle_in_transaction_session_timeout = '1500ms'; SET lock_timeout = '3s'";
/// The end of one exchange with the database.
pub(super) const EXCHANGE: Duration = Duration::from_secs(5);
/// How long a check may take.
const CHECK: Duration = Duration::from_secs(8);

/// A connection with its task.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) past: Past,
    task: JoinHandle<()>,
    end: Arc<OnceLock<DatabaseError>>,
    received: Received,
}

impl Session {
    /// How many bytes it has read, with TLS.
    pub(super) fn received(&self) -> Received {
        self.received.clone()
    }

    /// Why it ended, if that is known better than by the error of a statement.
    pub(super) fn end(&self) -> Option<DatabaseError> {
        self.end.get().cloned()
    }
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
    let received = Received::default();
    let mut session = match &database.tls {
        Some(tls) => {
            let tls = LimitedTls(MakeRustlsConnect::new(tls.clone()), received.clone());
            open(database, tls, received, woken).await?
        }
        None => open(database, NoTls, received, woken).await?,
    };
    session.client.batch_execute(STATEMENT).await?;
    session.past = schema::migrate(&mut session.client, fate).await?;
    session.client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
    Ok(session)
}

async fn open<T>(
    database: &Database,
    tls: T,
    received: Received,
    woken: &Arc<Notify>,
) -> Result<Session, DatabaseError>
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: Send + 'static,
{
    let (client, connection) = database.config.connect(tls).await?;
    let end = Arc::default();
    let task = tokio::spawn(attend(connection, Arc::clone(woken), Arc::clone(&end)));
    Ok(Session { client, past: Past::Unkept, task, end, received })
}

async fn attend<S>(
    mut connection: Connection<Socket, S>,
    woken: Arc<Notify>,
    end: Arc<OnceLock<DatabaseError>>,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
    while let Some(message) = messages.next().await {
        match message {
            Ok(AsyncMessage::Notification(_)) => woken.notify_one(),
            Ok(_) => {}
            Err(error) => {
                let _ = end.set(error.into());
                break;
            }
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
    within(CHECK, connected).await.map(drop)
}

/// Ends what the database does not do in time.
pub(super) async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, DatabaseError>>,
) -> Result<T, DatabaseError> {
    timeout(time, work).await.unwrap_or(Err(DatabaseError::Slow))
}
