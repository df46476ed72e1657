//! The connection to the database.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::net::lookup_host;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, LoadBalanceHosts};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::DatabaseError;
use super::history;
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
/// The time for a connection to one address to be there, with TLS and the password.
const OPEN: Duration = Duration::from_secs(5);
/// The time for all migrations on it.
const PREPARE: Duration = Duration::from_secs(15);
/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// The port of a URL that names none.
const DEFAULT_PORT: u16 = 5432;
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
/// connection ends. The hosts are tried in turn, each for a time of its own, so that one that accepts connections and never answers
/// is passed over.
pub(super) async fn connect(
    database: &Database,
    fate: Fate,
    woken: &Arc<Notify>,
) -> Result<Session, DatabaseError> {
    let mut failed = Vec::new();
    let mut hosts = database.hosts();
    if database.config.get_load_balance_hosts() == LoadBalanceHosts::Random {
        let mut random = [0];
        let _ = aws_lc_rs::rand::fill(&mut random);
        let first = usize::from(random[0]) % hosts.len().max(1);
        hosts.rotate_left(first);
    }
    for host in hosts {
        let addresses = match within(OPEN, addresses(host)).await {
            Ok(addresses) => addresses,
            Err(error) => {
                failed.push(error);
                continue;
            }
        };
        for address in addresses {
            let mut session = match within(OPEN, open(&address, database.tls.as_ref(), woken)).await {
                Ok(session) => session,
                Err(error) => {
                    failed.push(error);
                    continue;
                }
            };
            match within(PREPARE, prepare(&mut session, fate)).await {
                Ok(()) => return Ok(session),
                // At another address there may be the primary.
                Err(
                    error @ (DatabaseError::Slow | DatabaseError::Unreachable(_) | DatabaseError::ReadOnly),
                ) => failed.push(error),
                Err(error) => return Err(error),
            }
        }
    }
    let none = || DatabaseError::Unreachable("its host has no address".to_owned());
    // The first of the most telling ones.
    Err(failed.into_iter().min_by_key(tells_little).unwrap_or_else(none))
}

/// How little the error of one host says of several: others are there for one that is away, or that is a standby.
fn tells_little(error: &DatabaseError) -> u8 {
    match error {
        DatabaseError::ReadOnly => 2,
        DatabaseError::Slow | DatabaseError::Unreachable(_) => 1,
        DatabaseError::Credentials
        | DatabaseError::NoDatabase
        | DatabaseError::Tls(..)
        | DatabaseError::NoRights
        | DatabaseError::TooNew { .. }
        | DatabaseError::Schema
        | DatabaseError::Ignored
        | DatabaseError::TooMuch
        | DatabaseError::Full
        | DatabaseError::NoConnection
        | DatabaseError::Unconfirmed
        | DatabaseError::Locked
        | DatabaseError::Refused(_)
        | DatabaseError::Settings(_) => 0,
    }
}

/// A host at each of its addresses.
async fn addresses(host: Config) -> Result<Vec<Config>, DatabaseError> {
    let ([Host::Tcp(name)], []) = (host.get_hosts(), host.get_hostaddrs()) else { return Ok(vec![host]) };
    let port = host.get_ports().first().copied().unwrap_or(DEFAULT_PORT);
    let found = lookup_host((&**name, port)).await.map_err(|error| DatabaseError::of_lookup(&error))?;
    let at = |address: SocketAddr| host.clone().hostaddr(address.ip()).clone();
    Ok(found.take(MAX_ADDRESSES).map(at).collect())
}

async fn prepare(session: &mut Session, fate: Fate) -> Result<(), DatabaseError> {
    session.client.batch_execute(STATEMENT).await?;
    session.past = schema::migrate(&mut session.client, fate).await?;
    session.client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
    Ok(())
}

async fn open(
    address: &Config,
    tls: Option<&rustls::ClientConfig>,
    woken: &Arc<Notify>,
) -> Result<Session, DatabaseError> {
    let received = Received::default();
    match tls {
        Some(tls) => {
            let tls = LimitedTls(MakeRustlsConnect::new(tls.clone()), received.clone());
            open_with(address, tls, received, woken).await
        }
        None => open_with(address, NoTls, received, woken).await,
    }
}

async fn open_with<T>(
    address: &Config,
    tls: T,
    received: Received,
    woken: &Arc<Notify>,
) -> Result<Session, DatabaseError>
where
    T: MakeTlsConnect<Socket> + Send,
    T::Stream: Send + 'static,
{
    let (client, connection) = address.connect(tls).await?;
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

/// Whether the database can be used, for a check, and what a node would go on without, for operators: nothing is changed.
///
/// # Errors
/// [`DatabaseError`].
pub async fn examine(settings: &Postgres) -> Result<Option<&'static str>, DatabaseError> {
    let (database, woken) = (settings.database()?, Arc::default());
    let connected = connect(&database, Fate::TakenBack, &woken);
    let session = within(CHECK, connected).await?;
    Ok((session.past == Past::Unkept).then_some(history::LACKS))
}

/// Ends what the database does not do in time.
pub(super) async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, DatabaseError>>,
) -> Result<T, DatabaseError> {
    timeout(time, work).await.unwrap_or(Err(DatabaseError::Slow))
}
