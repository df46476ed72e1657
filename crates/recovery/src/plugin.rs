//! Plugins of age are programs that age starts and never ends. Here each has a time, after which it is killed.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// How long a plugin has to encrypt one share.
pub(crate) const MAX_PLUGIN_TIME: Duration = Duration::from_secs(30);
/// How long a plugin has to end once it has answered, or once it was killed.
const ENDING_TIME: Duration = Duration::from_secs(2);
/// How often it is looked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The plugin did not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimedOut;

/// What `work` gives, which waits for a plugin that it starts. At the end of the time the plugin is killed with all programs
/// that it has started, and so `work` ends too. The plugin does not stay behind as a zombie.
pub(crate) fn in_time<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedOut> {
    let (started, starts) = mpsc::sync_channel(1);
    let (done, ends) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let _ = started.send(rustix::thread::gettid());
        let value = work();
        // While this thread lives: then its children are known as its own.
        reap(rustix::thread::gettid());
        let _ = done.send(value);
    });
    let Ok(worker) = starts.recv() else { return Err(TimedOut) };
    match ends.recv_timeout(limit) {
        Ok(value) => return Ok(value),
        Err(RecvTimeoutError::Disconnected) => return Err(TimedOut),
        Err(RecvTimeoutError::Timeout) => {}
    }
    let until = Instant::now() + ENDING_TIME;
    loop {
        children(worker).into_iter().for_each(kill_with_children);
        match ends.recv_timeout(LOOK_EVERY) {
            Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
            // What came too late is dropped.
            Ok(_) | Err(_) => return Err(TimedOut),
        }
    }
}

/// Waits for the children of a thread, which have nothing left to do, and kills those that stay.
fn reap(thread: Pid) {
    let until = Instant::now() + ENDING_TIME;
    loop {
        let mut left = children(thread);
        left.retain(|child| matches!(waitpid(Some(*child), WaitOptions::NOHANG), Ok(None)));
        if left.is_empty() {
            return;
        }
        if Instant::now() > until {
            left.iter().copied().for_each(kill_with_children);
            for child in left {
                let _ = waitpid(Some(child), WaitOptions::empty());
            }
            return;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// A stopped program starts no others meanwhile.
fn kill_with_children(process: Pid) {
    let _ = kill_process(process, Signal::STOP);
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let tasks = tasks.filter_map(|task| pid(task.file_name().to_str()?));
    tasks.flat_map(|task| children_at(&format!("/proc/{process}/task/{task}"))).for_each(kill_with_children);
    let _ = kill_process(process, Signal::KILL);
}

/// The children that a thread of this process has started and that nobody has waited for: their numbers mean no other
/// program.
fn children(thread: Pid) -> Vec<Pid> {
    children_at(&format!("/proc/self/task/{thread}"))
}

fn children_at(task: &str) -> Vec<Pid> {
    let listed = fs::read_to_string(format!("{task}/children")).unwrap_or_default();
    listed.split_ascii_whitespace().filter_map(pid).collect()
}

fn pid(text: &str) -> Option<Pid> {
    Pid::from_raw(text.parse().ok()?)
}
