//! The program that prints a VM's ACPI tables: found, called with limits, and killed when it takes too long.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{env, thread};

use kms_attest::platform::tdx::image::qemu::AcpiCall;
use rustix::process::{Pid, Signal, kill_process_group};
use sha2::{Digest as _, Sha256};

use super::origin::WatchedDigest;

/// The time limit of one call.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest output. A VM's tables have about 10 KiB.
const MAX_OUTPUT: u64 = 1 << 20;
/// How much of the program's standard error is logged.
const MAX_COMPLAINT: u64 = 2048;
/// The part of our environment that is passed to the program; the rest may contain tokens.
const ENVIRONMENT: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "TMPDIR"];

/// Why there are no tables. The texts contain no path.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProgramError {
    /// Not installed.
    #[error("the ACPI program of this KMS (core.image.acpi_tables) is not installed")]
    Missing,
    /// It cannot be started or read.
    #[error("the ACPI program cannot be run")]
    Run(#[source] Arc<io::Error>),
    /// It ended with an error.
    #[error("the ACPI program failed")]
    Failed,
    /// It took longer than 30 seconds.
    #[error("the ACPI program took too long")]
    Timeout,
    /// It printed too much, or nothing.
    #[error("the ACPI program did not print tables")]
    Output,
}

/// `core.image.acpi_tables`, if it names a program.
#[derive(Debug, Clone)]
pub(super) struct AcpiProgram {
    path: PathBuf,
    timeout: Duration,
    digest: Arc<WatchedDigest>,
}

/// Whether there is a program at `path`, or in `PATH` if it is only a name.
pub fn is_installed(path: &Path) -> bool {
    installed(path).is_some()
}

/// The file that runs for `path`.
fn installed(path: &Path) -> Option<PathBuf> {
    let runs = |path: &Path| {
        path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if path.components().count() > 1 {
        return runs(path).then(|| path.to_owned());
    }
    let search = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&search).map(|directory| directory.join(path)).find(|path| runs(path))
}

impl AcpiProgram {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, timeout: TIMEOUT, digest: Arc::default() }
    }

    #[cfg(test)]
    pub(super) fn with_timeout(path: PathBuf, timeout: Duration) -> Self {
        Self { path, timeout, digest: Arc::default() }
    }

    /// Identifies what its tables depend on: the file, its content, and the environment passed to it. `None`
    /// if there is no such file. Blocks.
    pub(super) fn identity(&self) -> Option<[u8; 32]> {
        let path = installed(&self.path)?;
        let digest = self.digest.of(&path).ok()?;
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(path.as_os_str().as_encoded_bytes());
        add(&digest);
        for name in ENVIRONMENT {
            // An unset variable is not an empty one.
            let value = env::var_os(name).map(|value| [b"=", value.as_encoded_bytes()].concat());
            add(&value.unwrap_or_default());
        }
        Some(hash.finalize().into())
    }

    /// Runs the program for its tables; blocks.
    pub(super) fn tables(&self, call: &AcpiCall) -> Result<Vec<u8>, ProgramError> {
        let deadline = Instant::now() + self.timeout;
        let mut running = Running::start(self.command(call))?;
        let output = running.output(deadline)?;
        if output.len() as u64 > MAX_OUTPUT {
            return Err(ProgramError::Output);
        }
        match (running.succeeds(deadline)?, output.is_empty()) {
            (false, _) => Err(ProgramError::Failed),
            (true, true) => Err(ProgramError::Output),
            (true, false) => Ok(output),
        }
    }

    fn command(&self, call: &AcpiCall) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(&call.arguments)
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, env::var_os(name)?))))
            .env(AcpiCall::VARIABLE, &call.version)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A process group of its own, so that its children can be killed with it.
            .process_group(0);
        command
    }
}

/// A running program; killed with its children when dropped.
struct Running {
    child: Child,
    output: mpsc::Receiver<io::Result<Vec<u8>>>,
}

fn failed(error: io::Error) -> ProgramError {
    ProgramError::Run(Arc::new(error))
}

impl Running {
    fn start(mut command: Command) -> Result<Self, ProgramError> {
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => ProgramError::Missing,
            _ => failed(error),
        })?;
        let (sender, output) = mpsc::sync_channel(1);
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let running = Self { child, output };
        thread::spawn(move || {
            let _ = sender.send(stdout.map_or_else(|| Ok(Vec::new()), |stdout| read(stdout, MAX_OUTPUT + 1)));
        });
        thread::spawn(move || {
            let complaint = stderr.map_or_else(|| Ok(Vec::new()), complaint);
            if let Ok(complaint) = complaint
                && !complaint.is_empty()
            {
                tracing::debug!(stderr = %String::from_utf8_lossy(&complaint), "the ACPI program wrote to standard error");
            }
        });
        Ok(running)
    }

    fn output(&mut self, deadline: Instant) -> Result<Vec<u8>, ProgramError> {
        let output = self.output.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        output.map_err(|_| ProgramError::Timeout)?.map_err(failed)
    }

    fn succeeds(&mut self, deadline: Instant) -> Result<bool, ProgramError> {
        loop {
            if let Some(status) = self.child.try_wait().map_err(failed)? {
                return Ok(status.success());
            }
            if Instant::now() >= deadline {
                return Err(ProgramError::Timeout);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After the wait, the process id may belong to another process.
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Ok(Some(group)) = i32::try_from(self.child.id()).map(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read(pipe: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first bytes; the rest is read too, so that the program is not blocked.
fn complaint(mut pipe: impl Read) -> io::Result<Vec<u8>> {
    let words = read(&mut pipe, MAX_COMPLAINT)?;
    io::copy(&mut pipe, &mut io::sink())?;
    Ok(words)
}
