//! `kms run`: serves until SIGINT or SIGTERM.

use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app;
use crate::config::Config;
use crate::log::ProcessLog;

/// Extra time for the shutdown, after the time for running requests.
const AFTER_GRACE: Duration = Duration::from_secs(3);

/// The exit code after which a supervisor is to start this program again: `EX_TEMPFAIL` of sysexits.h.
const RESTART: u8 = 75;

/// How long the process waits for its last log lines.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Sent when a file exceeds its size limit. The write fails too, which is enough.
const SIGXFSZ: i32 = 25;

/// Serves with the layered configuration, overridden by `explicit`.
pub(super) fn run(explicit: Option<&Path>) -> anyhow::Result<ExitCode> {
    let log = ProcessLog::to_stderr().context("the process log cannot be started")?;
    log.install();
    // Reported here and not in `main`, because stderr may block.
    let code = lived(explicit, &log).unwrap_or_else(|error| {
        log.say(&format!("Error: {error:#}"));
        ExitCode::FAILURE
    });
    log.flush(LAST_LINES);
    Ok(code)
}

fn lived(explicit: Option<&Path>, log: &ProcessLog) -> anyhow::Result<ExitCode> {
    keep_memory_in()?;
    lock_memory();
    let (mut config, notices) = Config::load(explicit)?;
    for notice in notices {
        // Without the file name: `kms check` shows it, and paths do not belong in a log.
        tracing::warn!("{}: {}", notice.key, notice.message);
    }
    fit_descriptors(&mut config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(config, log));
    // A task that waits for a disk must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

async fn serve(config: Config, log: &ProcessLog) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let grace = config.core.limits.shutdown_grace;
    let start = app::start_logging_to(config, Some(log.clone()));
    tokio::pin!(start);
    let mut kms = tokio::select! {
        started = &mut start => started?,
        () = signals.stop.asked() => {
            // A commit of keys may be in progress, so shut down in order, but never wait for the start.
            end_by_force_after(grace + AFTER_GRACE, log.clone())?;
            if let Ok(started) = tokio::time::timeout(grace, start).await {
                started?.stop().await?;
            }
            return Ok(ExitCode::SUCCESS);
        }
    };
    let code = loop {
        // Apart from `stopped`, which needs the service for itself.
        let restart = kms.restart_requested();
        tokio::select! {
            ended = kms.stopped() => {
                ended?;
                return Ok(ExitCode::SUCCESS);
            }
            () = restart => break ExitCode::from(RESTART),
            () = signals.stop.asked() => break ExitCode::SUCCESS,
            _ = signals.reload.recv() => kms.reload(),
        }
    };
    tracing::info!("stopping");
    end_by_force_after(grace + AFTER_GRACE, log.clone())?;
    kms.stop().await?;
    Ok(code)
}

struct Signals {
    stop: Stop,
    reload: Signal,
    _ignored: [Signal; 3],
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            stop: Stop {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
            reload: signal(SignalKind::hangup())?,
            _ignored: ignored_signals()?,
        })
    }
}

/// Ignores signals that log rotation, monitoring and file size limits send, and that would end the process.
pub(super) fn ignored_signals() -> std::io::Result<[Signal; 3]> {
    Ok([
        signal(SignalKind::user_defined1())?,
        signal(SignalKind::user_defined2())?,
        signal(SignalKind::from_raw(SIGXFSZ))?,
    ])
}

/// The signals that shut this process down.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ends the process if it has not ended by then: a disk can block a thread forever.
#[expect(
    clippy::disallowed_methods,
    reason = "a thread that hangs would keep the process, and its secrets, forever"
)]
fn end_by_force_after(time: Duration, log: ProcessLog) -> anyhow::Result<()> {
    thread::Builder::new().name("end".to_owned()).spawn(move || {
        thread::sleep(time);
        tracing::error!("the shutdown takes too long: the process ends without completing it");
        log.flush(LAST_LINES);
        std::process::exit(1);
    })?;
    Ok(())
}

/// Disables core files and debuggers of the same user, because this memory holds the root of every key.
fn keep_memory_in() -> anyhow::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .context("core dumps cannot be switched off")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("this process cannot be made undumpable")
}

/// Keeps keys off the swap device. Locks all memory or none, because pages with keys and copies cannot be
/// told apart.
fn lock_memory() {
    let limit = getrlimit(Resource::Memlock);
    let _ = setrlimit(Resource::Memlock, Rlimit { current: limit.maximum, ..limit });
    let authority = Authority {
        has_ipc_lock: capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::IPC_LOCK)),
        uid_map: std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default(),
    };
    match may_lock(getrlimit(Resource::Memlock).current, &authority) {
        // Only pages in use: the stacks of all threads would be much more.
        Ok(()) => match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
            Ok(()) => tracing::info!("memory is locked: no page is written to a swap device"),
            Err(error) => warn_unlocked(&error.to_string()),
        },
        Err(reason) => warn_unlocked(&reason),
    }
}

fn warn_unlocked(reason: &str) {
    tracing::warn!(reason, "memory cannot be locked: keys could be written to a swap device");
}

/// What lets a process lock more memory than `RLIMIT_MEMLOCK`.
struct Authority {
    has_ipc_lock: bool,
    /// `/proc/self/uid_map`.
    uid_map: String,
}

/// Whether all memory can be locked. Under a limit it must not be: the lock would succeed now, and
/// allocations fail once the limit is reached. `CAP_IPC_LOCK` lifts the limit only in the first user
/// namespace, even if another namespace shows the capability.
fn may_lock(limit: Option<u64>, authority: &Authority) -> Result<(), String> {
    let Some(limit) = limit else { return Ok(()) };
    let is_first_namespace = authority.uid_map.split_whitespace().eq(["0", "0", "4294967295"]);
    match (authority.has_ipc_lock, is_first_namespace) {
        (true, true) => Ok(()),
        (true, false) => Err(format!(
            "RLIMIT_MEMLOCK is {limit} bytes, and CAP_IPC_LOCK does not lift it in a user namespace; set it \
             to unlimited"
        )),
        (false, _) => {
            Err(format!("RLIMIT_MEMLOCK is {limit} bytes; set it to unlimited, or give CAP_IPC_LOCK"))
        }
    }
}

/// Descriptors for files, backends and the listeners themselves.
const OTHER_DESCRIPTORS: u64 = 256;

/// Raises the limit of file descriptors as far as the system allows: each connection needs one, and so does
/// each request to a backend. If they do not suffice for `core.limits.max_connections`, the number of
/// connections is reduced, because without descriptors the listener could not accept and the policy could not
/// be asked.
fn fit_descriptors(config: &mut Config) {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let listeners = if config.core.admin.enabled { 2 } else { 1 };
    let connections = config.core.limits.max_connections;
    let fitting = fitting(getrlimit(Resource::Nofile).current, listeners);
    if fitting < connections {
        tracing::warn!(
            "the limit of open files (ulimit -Hn) allows {fitting} connections of each listener, not the \
             {connections} of core.limits.max_connections"
        );
        config.core.limits.max_connections = fitting;
    }
}

/// The connections of each listener that the descriptors allow; `None` is no limit.
fn fitting(descriptors: Option<u64>, listeners: u64) -> usize {
    let Some(descriptors) = descriptors else { return usize::MAX };
    let connections = descriptors.saturating_sub(OTHER_DESCRIPTORS) / listeners;
    usize::try_from(connections).unwrap_or(usize::MAX).max(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_locked_only_where_no_limit_can_be_reached_later() {
        const FIRST: &str = "         0          0 4294967295\n";
        const ROOTLESS: &str = "         0       1000          1\n         1     100000      65536\n";
        for (limit, has_ipc_lock, uid_map, expected) in [
            (None, false, FIRST, true),
            (None, false, ROOTLESS, true),
            (None, true, "", true),
            (Some(8 << 20), true, FIRST, true),
            (Some(8 << 20), false, FIRST, false),
            (Some(8 << 20), true, ROOTLESS, false),
            (Some(u64::MAX >> 1), true, ROOTLESS, false),
            // Without /proc the capability cannot be relied on.
            (Some(8 << 20), true, "", false),
            (Some(0), false, ROOTLESS, false),
        ] {
            let authority = Authority { has_ipc_lock, uid_map: uid_map.to_owned() };
            let outcome = may_lock(limit, &authority);
            assert_eq!(outcome.is_ok(), expected, "{limit:?}, {has_ipc_lock}, {uid_map:?}");
            assert!(outcome.is_ok() || outcome.unwrap_err().contains("RLIMIT_MEMLOCK"));
        }
    }

    #[test]
    fn connections_fit_the_descriptors() {
        for (descriptors, listeners, expected) in [
            (None, 2, usize::MAX),
            (Some(1_048_576), 1, 1_048_320),
            (Some(1024), 2, 384),
            (Some(1024), 1, 768),
            (Some(64), 2, 16),
        ] {
            assert_eq!(fitting(descriptors, listeners), expected, "{descriptors:?}");
        }
    }
}
