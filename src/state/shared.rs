//! The state that the nodes of a fleet share, in PostgreSQL. The database is not trusted: everything in it is authenticated, and
//! each node remembers the newest state that it has seen. So the database can delay what operators change, and allow nothing.
//!
//! Each second, and when another node has written something, a node writes its beat with a new challenge, and reads the head, the
//! documents that changed, and the beats of all nodes. What it has then is as new as that challenge. No request waits for that.

mod alarm;
mod beat;
mod client;
mod document;
mod error;
mod forget;
mod head;
mod history;
mod judge;
mod keeper;
mod limited;
mod lists;
mod memory;
mod schema;
mod seal;
mod skew;
mod split;
mod table;
#[cfg(test)]
mod tests;
mod view;
mod write;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};

pub use self::alarm::Alarm;
use self::beat::Beat;
pub use self::client::examine;
pub use self::document::{AdoptError, Arrival, Document, Edit, Format, MAX_DOCUMENT, Provenance};
pub use self::error::{DatabaseError, TlsFault};
use self::head::Head;
pub use self::keeper::{Keeping, MAX_STATUS, Reporter, Roots};
pub use self::lists::{ListKind, Lists, MAX_LIST};
use self::memory::Memory;
pub use self::memory::{MemoryError, check_memory};
pub use self::seal::{FleetId, NodeId};
use self::split::status;
pub use self::split::{Split, SplitKind, signed_tree};
pub use self::view::{NodeSeen, Stale, Standing, View};
use crate::config::Postgres;
use crate::metrics::Metrics;

/// Reads bytes as each of what nodes write into rows, for tests with arbitrary bytes: what can be read is written the same again.
///
/// # Errors
/// They are none of it.
pub fn check_rows(bytes: &[u8]) -> Result<(), String> {
    let head = Head::parse(bytes).map(|head| assert_eq!(Head::parse(&head.encode()), Ok(head)));
    let checkpoint = status(bytes).and_then(|status| signed_tree(&status.checkpoint?));
    assert!(
        checkpoint.is_none_or(|tree| tree.to_string().parse() == Ok(tree)),
        "a checkpoint is written as it is read"
    );
    let beat = Beat::parse(bytes).map(|beat| assert_eq!(Beat::parse(&beat.encode()), Ok(beat)));
    head.or(beat)
}

/// How long a change waits for the database.
const PATIENCE: Duration = Duration::from_secs(8);
/// The most changes that wait.
const QUEUE: usize = 256;

/// The shared state, as the parts of `control` use it.
#[derive(Debug)]
pub struct Shared {
    view: Arc<View>,
    requests: mpsc::Sender<Request>,
    woken: Arc<Notify>,
    node: NodeId,
}

/// Why a change is not in the shared state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unshared {
    /// The database does not answer.
    #[error("{0}")]
    Database(#[from] DatabaseError),
    /// What it shows is not believed.
    #[error("{0}")]
    Alarm(Alarm),
    /// Other nodes changed it all the time.
    #[error("another node changed it meanwhile, nothing was changed: try again")]
    Conflict,
    /// What was to be written over is newer than what this node knew, and follows it.
    #[error(
        "the database has a newer state, which follows the one of this node and was taken over: look at kmsctl fleet status, and \
         repair it only if a node still does not believe it"
    )]
    Behind,
    /// The new document is too large, or the shared one cannot be read.
    #[error("{0}")]
    Unusable(String),
    /// The keys are not there yet, or the process ends.
    #[error("this node does not share its state now")]
    NotRunning,
}

/// Makes the new bytes of a document from those that are there; none if nothing is to be written.
type EditBytes<'a> = dyn FnMut(Option<&[u8]>) -> Option<Vec<u8>> + Send + 'a;

struct Request {
    what: Wanted,
    asked: Asked,
}

/// Who waits for a change.
#[derive(Debug)]
struct Asked {
    reply: oneshot::Sender<Result<(), Unshared>>,
    stage: Arc<Mutex<Stage>>,
}

/// How far a change has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing is in the database.
    Open,
    /// It is being committed: what becomes of it is known only at the end.
    Committing,
    /// It took too long, and the caller was told that nothing was changed, so it is no longer committed.
    GivenUp,
}

enum Wanted {
    /// What a part of `control` has to say, see [`Document::merge`].
    Push(String),
    Change {
        document: &'static str,
        operator: String,
        edit: Box<EditBytes<'static>>,
    },
    /// The state of this node over whatever is there.
    Repair {
        operator: String,
    },
    /// No reports of this node any more.
    Forget(NodeId),
}

impl Asked {
    /// Begins to commit it, unless nobody waits for it any more.
    fn commit(&self) -> Result<(), DatabaseError> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if *stage == Stage::GivenUp || self.reply.is_closed() {
            return Err(DatabaseError::Slow);
        }
        *stage = Stage::Committing;
        Ok(())
    }

    /// Gives up a change that takes too long: what is so then.
    fn given_up(stage: &Mutex<Stage>) -> DatabaseError {
        let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
        match *stage {
            Stage::Committing => DatabaseError::Unconfirmed,
            Stage::Open | Stage::GivenUp => {
                *stage = Stage::GivenUp;
                DatabaseError::Slow
            }
        }
    }
}

impl Unshared {
    /// For operators: what is so because the change was not made, with the reason; the reason only where that is not known.
    pub fn after(&self, what: &str) -> String {
        match self {
            Self::Database(DatabaseError::Unconfirmed) => self.to_string(),
            Self::Database(_)
            | Self::Alarm(_)
            | Self::Conflict
            | Self::Behind
            | Self::Unusable(_)
            | Self::NotRunning => format!("{what}: {self}"),
        }
    }
}

impl Shared {
    /// Opens what this node remembers, the file at `memory`. Nothing is shared before [`Keeping::run`].
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn open(
        settings: Arc<Postgres>,
        memory: PathBuf,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<Self>, Keeping), MemoryError> {
        let memory = Memory::open(memory)?;
        let view = Arc::new(View::new(Arc::clone(&settings)));
        let (sender, requests) = mpsc::channel(QUEUE);
        let woken = Arc::new(Notify::new());
        let node = memory.node();
        let shared =
            Arc::new(Self { view: Arc::clone(&view), requests: sender, woken: Arc::clone(&woken), node });
        Ok((shared, Keeping { settings, view, memory, metrics, requests, woken }))
    }

    /// The id of this node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// How old what this node knows is.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Says that a document has changed here, and is to be written soon.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Waits, up to a bound, until what a document has to say is in the database.
    ///
    /// # Errors
    /// [`Unshared`]: the shared state does not have it yet; it is written as soon as possible.
    pub async fn push(&self, document: &str) -> Result<(), Unshared> {
        self.ask(Wanted::Push(document.to_owned())).await
    }

    /// Changes a document for all nodes: `edit` makes its new bytes from those that are there, more than once if others change it
    /// meanwhile. When this returns, it is in the database, and adopted here. Gives what the last call of `edit` gave beside the bytes.
    ///
    /// # Errors
    /// [`Unshared`]; within, what `edit` refused. Nothing was changed, unless the database does not answer any more.
    pub async fn change<T: Send + 'static, E: Send + 'static>(
        &self,
        document: &'static str,
        operator: &str,
        mut edit: impl FnMut(Option<&[u8]>) -> Result<(Option<Vec<u8>>, T), E> + Send + 'static,
    ) -> Result<Result<T, E>, Unshared> {
        let last = Arc::new(Mutex::new(None));
        let kept = Arc::clone(&last);
        let edit = Box::new(move |there: Option<&[u8]>| {
            let (bytes, outcome) = match edit(there) {
                Ok((bytes, value)) => (bytes, Ok(value)),
                Err(error) => (None, Err(error)),
            };
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            bytes
        });
        let operator = operator.to_owned();
        self.ask(Wanted::Change { document, operator, edit }).await?;
        // `edit` has been called when there is an answer.
        last.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(Unshared::NotRunning)
    }

    /// [`Shared::change`] of what a document says, in its [`Format`]. Gives what the last call of `edit` did.
    ///
    /// # Errors
    /// Those of the format and of `edit`. Nothing was changed, unless the database does not answer any more.
    pub async fn edit<F: Format>(
        &self,
        document: &'static str,
        operator: &str,
        format: F,
        mut edit: impl FnMut(&mut F::Content) -> Result<Edit, F::Error> + Send + 'static,
    ) -> Result<Edit, F::Error> {
        let edit = move |there: Option<&[u8]>| {
            let mut content = there.map_or_else(|| Ok(F::Content::default()), |there| format.parse(there))?;
            Ok(match edit(&mut content)? {
                Edit::Changed => (Some(format.encode(&content)?), Edit::Changed),
                Edit::Unchanged => (None, Edit::Unchanged),
            })
        };
        self.change(document, operator, edit).await?
    }

    /// Writes the state of this node over whatever is in the database, for all nodes.
    ///
    /// # Errors
    /// [`Unshared`]; [`Unshared::Behind`] where this node would have believed the shared state.
    pub async fn repair(&self, operator: &str) -> Result<(), Unshared> {
        self.ask(Wanted::Repair { operator: operator.to_owned() }).await
    }

    /// Removes what a node said of itself. One that still runs is there again with its next beat.
    ///
    /// # Errors
    /// [`Unshared`].
    pub async fn forget(&self, node: NodeId) -> Result<(), Unshared> {
        self.ask(Wanted::Forget(node)).await
    }

    async fn ask(&self, what: Wanted) -> Result<(), Unshared> {
        let (reply, answer) = oneshot::channel();
        let stage = Arc::new(Mutex::new(Stage::Open));
        let asked = Asked { reply, stage: Arc::clone(&stage) };
        let answered = async {
            self.requests.send(Request { what, asked }).await.map_err(|_| Unshared::NotRunning)?;
            answer.await.map_err(|_| Unshared::NotRunning)?
        };
        let answered = tokio::time::timeout(PATIENCE, answered).await;
        answered.unwrap_or_else(|_| Err(Unshared::Database(Asked::given_up(&stage))))
    }
}
