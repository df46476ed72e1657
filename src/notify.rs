//! Notifications: webhooks that receive events of the audit log, and the start and end of conditions of this
//! KMS.
//!
//! A thread follows the files of the log, and a task checks its state; each target has a bounded queue and one
//! request at a time. Releases never wait for it, because the writer of the log does not depend on it.

mod conditions;
mod delivery;
mod follow;
mod memory;
mod notification;
mod storm;
mod target;
mod watch;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch as channel;
use tokio::task::JoinSet;

use self::conditions::{Change, Conditions};
use self::delivery::{Bounds, Delivery};
use self::follow::Follower;
use self::memory::Memory;
use self::notification::{Notification, Sender, State};
use self::target::Target;
use self::watch::Watcher;
use crate::audit::Audit;
use crate::config::{self, DenialStorm, NotifyError, NotifyTarget};
use crate::event_type::{Condition, Topic};
use crate::metrics::Metrics;

/// How long a shutdown waits for the thread.
const MAX_END: Duration = Duration::from_secs(2);
/// How long a process that ends waits for its targets, and how often it looks at them.
const MAX_LAST_WORDS: Duration = Duration::from_secs(5);
const LAST_LOOK: Duration = Duration::from_millis(20);

/// The paths for notifications, and the definition of a storm.
#[derive(Debug)]
pub struct Settings {
    /// The file of the audit log that is being written.
    pub log: PathBuf,
    /// The file with the progress of each target.
    pub memory: PathBuf,
    /// How many refusals are reported as one storm.
    pub storm: DenialStorm,
}

impl From<&config::Core> for Settings {
    fn from(core: &config::Core) -> Self {
        Self {
            log: core.audit.file.clone(),
            memory: core.cert_dir.join(config::NOTIFIED),
            storm: core.events.denial_storm,
        }
    }
}

/// Why notifications cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file in the configuration is unusable.
    #[error("core.notify: {0}")]
    Target(#[from] NotifyError),
    /// The HTTP client cannot be set up.
    #[error("core.notify: requests cannot be made")]
    Client(#[source] reqwest::Error),
    /// TLS cannot be set up.
    #[error("core.notify: TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The thread cannot be started.
    #[error("core.notify: the audit log cannot be followed")]
    Thread(#[source] io::Error),
}

/// Whether this target could be set up: reads its files, and sends nothing.
///
/// # Errors
/// [`SetupError`].
pub fn check(target: &NotifyTarget) -> Result<(), SetupError> {
    Delivery::new(target, Bounds::USUAL).map(drop)
}

/// Why a test notification failed.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// The target cannot be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// It was not accepted: the cause, without host and address.
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

/// Sends notifications. Dropping it ends its thread and its requests.
pub struct Notifier {
    shared: Arc<Shared>,
    /// What counts as a storm of refusals.
    storm: channel::Sender<DenialStorm>,
    _deliveries: JoinSet<()>,
    follower: Option<(JoinHandle<()>, Mutex<mpsc::Receiver<()>>)>,
}

/// The state shared by the thread, the requests and the rest of the process.
struct Shared {
    targets: Vec<Arc<Target>>,
    conditions: Mutex<Conditions>,
    sender: Sender,
    /// Whether there is a storm of refusals, so that they are not reported one by one.
    is_in_storm: AtomicBool,
    is_over: AtomicBool,
}

impl Notifier {
    /// Notifies the targets of the records after those they have received, and of conditions. Must be called
    /// in a runtime.
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
            is_in_storm: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            targets,
        });
        let storm = channel::Sender::new(settings.storm);
        let mut running = JoinSet::new();
        for (delivery, target) in deliveries.into_iter().zip(&shared.targets) {
            running.spawn(delivery.run(Arc::clone(target), Arc::clone(&shared)));
        }
        let follower = match shared.targets.is_empty() {
            true => None,
            false => {
                let (alive, ended) = mpsc::sync_channel(1);
                let (log, metrics) = (&settings.log, Arc::clone(metrics));
                let follower = Follower::new(log, progress.clone(), Arc::clone(&shared), memory);
                running.spawn(Watcher::new(storm.subscribe(), progress, Arc::clone(&shared), metrics).run());
                let thread = std::thread::Builder::new().name("notify".to_owned()).spawn(move || {
                    let _alive: mpsc::SyncSender<()> = alive;
                    follower.run();
                });
                Some((thread.map_err(SetupError::Thread)?, Mutex::new(ended)))
            }
        };
        Ok(Self { shared, storm, _deliveries: running, follower })
    }

    /// From now on this counts as a storm of refusals.
    pub fn change_storm(&self, storm: DenialStorm) {
        self.storm.send_if_modified(|known| std::mem::replace(known, storm) != storm);
    }

    /// Whether there are no targets.
    pub fn is_idle(&self) -> bool {
        self.shared.targets.is_empty()
    }

    /// The names of the targets in the configuration.
    pub fn names(&self) -> Vec<&str> {
        self.shared.targets.iter().map(|target| target.name()).collect()
    }

    /// Sets the origin of the log, once it is known.
    pub fn name_origin(&self, origin: &str) {
        let _ = self.shared.sender.origin.set(origin.to_owned());
    }

    /// Reports whether a condition holds: `Some` with a sentence. A notification is sent when that has lasted
    /// for a moment.
    pub fn look(&self, condition: Condition, sentence: Option<String>) {
        self.shared.look(condition, sentence, Instant::now());
    }

    /// Reports a condition because of which this process ends, and waits a few seconds for the targets to receive it.
    pub async fn last_words(&self, condition: Condition, sentence: String) {
        self.shared.raise(condition, sentence);
        let received = async {
            while self.shared.targets.iter().any(|target| !target.is_idle()) {
                tokio::time::sleep(LAST_LOOK).await;
            }
        };
        let _ = tokio::time::timeout(MAX_LAST_WORDS, received).await;
    }
}

impl Shared {
    fn raise(&self, condition: Condition, sentence: String) {
        let change = self.conditions().raise(condition, sentence);
        if let Some(Change { state, sentence }) = change {
            self.tell(&Arc::new(Notification::of_condition(condition, state, sentence)));
        }
    }

    fn look(&self, condition: Condition, sentence: Option<String>, now: Instant) {
        if self.targets.is_empty() {
            return;
        }
        let change = self.conditions().look(condition, sentence, now);
        let Some(Change { state, sentence }) = change else { return };
        self.tell(&Arc::new(Notification::of_condition(condition, state, sentence)));
    }

    /// Adds it to the queue of each target that wants it.
    fn tell(&self, notification: &Arc<Notification>) {
        let wanting = |target: &&Arc<Target>| target.wants(notification.topic, notification.severity);
        self.targets.iter().filter(wanting).for_each(|target| target.push(notification));
    }

    /// The conditions that every target was told to hold, without notifications that are not delivered yet.
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
        // Does not wait for a disk that hangs.
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
