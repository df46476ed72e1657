//! The operator's program that replaces a node: without a shell, with a closed environment, and in bounded time.

use std::env;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::exit::{Failure, Outcome};

/// The program of an operator.
pub(super) struct Program {
    path: PathBuf,
    time: Duration,
}

/// What the program is told.
pub(super) struct Task<'a> {
    pub(super) rollout: &'a str,
    pub(super) image: &'a str,
    pub(super) node: &'a str,
    pub(super) id: &'a str,
    pub(super) attempt: u32,
}

/// A running program; killed with its children when dropped.
pub(super) struct Running {
    child: Child,
    deadline: Instant,
    time: Duration,
}

impl Program {
    /// The program at `path`, which may run for this time.
    pub(super) fn new(path: &Path, time: Duration) -> Outcome<Self> {
        // A name without a slash would be searched in PATH.
        let path = std::path::absolute(path).map_err(|error| Failure::file("the hook", path, &error))?;
        let found = path.metadata();
        let is_program = found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
        match is_program {
            true if time.as_secs() > 0 => Ok(Self { path, time }),
            true => Err(Failure::usage("--hook-timeout must be at least 1s")),
            false => Err(Failure::usage(format_args!("{} cannot be run as a program", path.display()))),
        }
    }

    /// For how many seconds it may run.
    pub(super) fn seconds(&self) -> u64 {
        self.time.as_secs()
    }

    /// Starts it. It writes to our standard error, because standard output is for results.
    pub(super) fn start(&self, task: &Task<'_>) -> io::Result<Running> {
        let ours = || io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
        let mut command = Command::new(&self.path);
        command.env_clear();
        if let Some(path) = env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
            .env("KMS_ROLLOUT_ID", task.rollout)
            .env("KMS_ROLLOUT_IMAGE", task.image)
            .env("KMS_ROLLOUT_NODE", task.node)
            .env("KMS_ROLLOUT_NODE_ID", task.id)
            .env("KMS_ROLLOUT_STEP", "replace")
            .env("KMS_ROLLOUT_ATTEMPT", task.attempt.to_string())
            .stdin(Stdio::null())
            .stdout(ours()?)
            .stderr(ours()?)
            // A process group of its own, so that its children can be killed with it.
            .process_group(0);
        let child = command.spawn()?;
        Ok(Running { child, deadline: Instant::now() + self.time, time: self.time })
    }
}

impl Running {
    /// How it ended, or why it was ended; `None` while it runs.
    pub(super) fn ended(&mut self) -> Option<Result<(), String>> {
        match self.child.try_wait() {
            Ok(Some(status)) if status.success() => Some(Ok(())),
            Ok(Some(status)) => Some(Err(match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => format!("killed by signal {signal}"),
                (None, None) => "it ended unexpectedly".to_owned(),
            })),
            Ok(None) if Instant::now() >= self.deadline => {
                self.kill();
                Some(Err(format!("it ran for longer than {} s and was ended", self.time.as_secs())))
            }
            Ok(None) => None,
            Err(error) => Some(Err(format!("it cannot be waited for: {error}"))),
        }
    }

    fn kill(&mut self) {
        // After the wait, the process id may belong to another process.
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Ok(Some(group)) = i32::try_from(self.child.id()).map(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, time: Duration) -> (Result<(), String>, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("hook");
        std::fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", directory.path().display()))
            .expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("rights");
        let program = Program::new(&path, time).expect("a program");
        let task = Task { rollout: "r", image: "i", node: "a node; rm x", id: "7", attempt: 2 };
        let mut running = program.start(&task).expect("it starts");
        let ended = loop {
            if let Some(ended) = running.ended() {
                break ended;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        (ended, directory)
    }

    #[test]
    fn its_environment_is_closed_and_its_exit_code_decides() {
        let long = Duration::from_secs(60);
        let (ended, directory) = run("env > seen", long);
        assert_eq!(ended, Ok(()));
        let seen = std::fs::read_to_string(directory.path().join("seen")).expect("what it saw");
        let mut names: Vec<&str> = seen.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        // What the shell sets itself.
        names.retain(|name| !["PWD", "SHLVL", "_", "OLDPWD"].contains(name));
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "KMS_ROLLOUT_ATTEMPT",
                "KMS_ROLLOUT_ID",
                "KMS_ROLLOUT_IMAGE",
                "KMS_ROLLOUT_NODE",
                "KMS_ROLLOUT_NODE_ID",
                "KMS_ROLLOUT_STEP",
                "PATH"
            ]
        );
        assert!(seen.contains("KMS_ROLLOUT_NODE=a node; rm x\n"), "{seen}");
        assert_eq!(run("exit 3", long).0, Err("exit code 3".to_owned()));
        assert_eq!(run("kill -9 $$", long).0, Err("killed by signal 9".to_owned()));
    }

    #[test]
    fn what_takes_too_long_is_killed_with_its_children() {
        let (ended, directory) = run("sleep 600 & echo $! > child; wait", Duration::from_secs(1));
        assert_eq!(ended, Err("it ran for longer than 1 s and was ended".to_owned()));
        let child = std::fs::read_to_string(directory.path().join("child")).expect("its child");
        let state = format!("/proc/{}/stat", child.trim());
        let is_gone = || match std::fs::read_to_string(&state) {
            // A zombie waits for its new parent.
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !is_gone() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_before_anything_starts() {
        let directory = tempfile::tempdir().expect("a directory");
        for path in [directory.path().join("nothing"), directory.path().to_owned()] {
            let refused = Program::new(&path, Duration::from_secs(9)).err().expect("no program");
            assert!(refused.message.contains("cannot be run as a program"), "{}", refused.message);
        }
        assert!(Program::new(Path::new("/bin/true"), Duration::ZERO).is_err());
    }
}
