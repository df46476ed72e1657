//! Tells people of what happens: webhooks that get events of the audit log, and conditions of this KMS while they begin and end.
//!
//! A thread follows the files of the log and looks at its state; each target has a bounded queue and one request at a time. The
//! writer of the log, hence a release, knows nothing of it and waits for nothing here.

mod conditions;
mod delivery;
mod follow;
mod memory;
mod notification;
mod storm;
mod target;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use self::conditions::{Change, Conditions};
use self::delivery::{Bounds, Delivery};
use self::follow::Follower;
use self::memory::Memory;
use self::notification::{Notification, Sender, State};
use self::target::Target;
use crate::audit::Audit;
use crate::config::{self, DenialStorm, NotifyError, NotifyTarget};
use crate::event_type::{Condition, Topic};
use crate::metrics::Metrics;

/// How long the end waits for the thread.
const MAX_END: Duration = Duration::from_secs(2);

/// Whom to tell, and what of.
#[derive(Debug)]
pub struct Settings {
    /// The file of the audit log that grows.
    pub log: PathBuf,
    /// Where it is kept what each target has got.
    pub memory: PathBuf,
    /// How many refusals are told of as one.
    pub storm: DenialStorm,
}

impl From<&config::Core> for Settings {
    fn from(core: &config::Core) -> Self {
        Self {
            log: core.audit.file.clone(),
            memory: core.cert_dir.join("notified.json"),
            storm: core.events.denial_storm,
        }
    }
}

/// Why nobody can be notified.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file that the configuration names.
    #[error("core.notify: {0}")]
    Target(#[from] NotifyError),
    /// Requests cannot be made.
    #[error("core.notify: requests cannot be made")]
    Client(#[source] reqwest::Error),
    /// There is no TLS for them.
    #[error("core.notify: TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// There is no thread.
    #[error("core.notify: the audit log cannot be followed")]
    Thread(#[source] io::Error),
}

/// Whether this target could be notified: its files are read, and nothing is sent.
///
/// # Errors
/// [`SetupError`].
pub fn check(target: &NotifyTarget) -> Result<(), SetupError> {
    Delivery::new(target, Bounds::USUAL).map(drop)
}

/// Why a test did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// Nothing can be sent.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// It was not taken: why, without host and address.
    #[error("{0}")]
    NotTaken(String),
}

/// Sends a notification of type `test` to this target, once.
///
/// # Errors
/// [`TestError`].
pub async fn test(target: &NotifyTarget) -> Result<(), TestError> {
    let delivery = Delivery::new(target, Bounds::USUAL)?;
    let sender = Sender::default();
    let sent = delivery.send(&Notification::test(), &sender, 0).await;
    sent.map_err(|(failure, _)| TestError::NotTaken(failure.to_string()))
}

/// Tells the targets. Dropping it ends its thread and its requests.
pub struct Notifier {
    shared: Arc<Shared>,
    _deliveries: JoinSet<()>,
    follower: Option<(JoinHandle<()>, Mutex<mpsc::Receiver<()>>)>,
}

/// What the thread, the requests and the rest of the process share.
struct Shared {
    targets: Vec<Arc<Target>>,
    conditions: Mutex<Conditions>,
    sender: Sender,
    is_over: AtomicBool,
}

impl Notifier {
    /// Notifies the targets of what is in the log after what they have got, and of conditions. Must be called inside a runtime.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn start(
        settings: Settings,
        targets: &[NotifyTarget],
        audit: &Audit,
        metrics: &Arc<Metrics>,
        boot_id: String,
    ) -> Result<Self, SetupError> {
        Self::within(settings, targets, audit, metrics, boot_id, Bounds::USUAL)
    }

    fn within(
        settings: Settings,
        targets: &[NotifyTarget],
        audit: &Audit,
        metrics: &Arc<Metrics>,
        boot_id: String,
        bounds: Bounds,
    ) -> Result<Self, SetupError> {
        let deliveries = targets.iter().map(|target| Delivery::new(target, bounds));
        let deliveries = deliveries.collect::<Result<Vec<_>, _>>()?;
        let memory = Memory::read(settings.memory);
        let progress = audit.progress();
        let acknowledged = progress.acknowledged();
        let target = |target: &NotifyTarget| {
            let (known, metrics) = (memory.of(&target.name), Arc::clone(metrics));
            Arc::new(Target::new(&target.name, target.filter.clone(), known, acknowledged, metrics))
        };
        let targets: Vec<_> = targets.iter().map(target).collect();
        let shared = Arc::new(Shared {
            conditions: Mutex::new(Conditions::raised(memory.raised())),
            sender: Sender { boot_id, origin: OnceLock::new() },
            is_over: AtomicBool::new(false),
            targets,
        });
        let mut running = JoinSet::new();
        for (delivery, target) in deliveries.into_iter().zip(&shared.targets) {
            running.spawn(delivery.run(Arc::clone(target), Arc::clone(&shared)));
        }
        let follower = match shared.targets.is_empty() {
            true => None,
            false => {
                let (alive, ended) = mpsc::sync_channel(1);
                let follower =
                    Follower::new(&settings.log, settings.storm, progress, Arc::clone(&shared), memory);
                let thread = std::thread::Builder::new().name("notify".to_owned()).spawn(move || {
                    let _alive: mpsc::SyncSender<()> = alive;
                    follower.run();
                });
                Some((thread.map_err(SetupError::Thread)?, Mutex::new(ended)))
            }
        };
        Ok(Self { shared, _deliveries: running, follower })
    }

    /// Whether there is anybody to tell.
    pub fn is_idle(&self) -> bool {
        self.shared.targets.is_empty()
    }

    /// What the configuration calls the targets.
    pub fn names(&self) -> Vec<&str> {
        self.shared.targets.iter().map(|target| target.name()).collect()
    }

    /// Says which log the events are of, once that is known.
    pub fn name_origin(&self, origin: &str) {
        let _ = self.shared.sender.origin.set(origin.to_owned());
    }

    /// Says whether a condition holds: `Some` with a sentence. It is told when that has lasted for a moment.
    pub fn look(&self, condition: Condition, sentence: Option<String>) {
        self.shared.look(condition, sentence, Instant::now());
    }
}

impl Shared {
    fn look(&self, condition: Condition, sentence: Option<String>, now: Instant) {
        if self.targets.is_empty() {
            return;
        }
        let change = self.conditions().look(condition, sentence, now);
        let Some(Change { state, sentence }) = change else { return };
        self.tell(&Arc::new(Notification::of_condition(condition, state, sentence)));
    }

    /// Puts it into the queue of each target that wants it.
    fn tell(&self, notification: &Arc<Notification>) {
        let wanting = |target: &&Arc<Target>| target.wants(notification.topic, notification.severity);
        self.targets.iter().filter(wanting).for_each(|target| target.push(notification));
    }

    /// The conditions that every target knows to hold: what is not delivered yet does not count.
    fn known_conditions(&self) -> BTreeSet<Condition> {
        let mut known = self.conditions().all_raised();
        for pending in self.targets.iter().flat_map(|target| target.pending()) {
            if let (Topic::Condition(condition), Some(state)) = (pending.topic, pending.state) {
                match state {
                    State::Raised => known.remove(&condition),
                    State::Resolved => known.insert(condition),
                };
            }
        }
        known
    }

    fn conditions(&self) -> MutexGuard<'_, Conditions> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let Some((thread, ended)) = self.follower.take() else { return };
        thread.thread().unpark();
        let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        // A disk that does not answer is not waited for.
        if ended.recv_timeout(MAX_END) != Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").field("targets", &self.names()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
