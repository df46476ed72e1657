//! The KMS under attack, and the honest client.

use std::fs;
use std::io::{self, PipeReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Case;
use crate::support::program::{Program, Setting, Stderr};
use crate::support::{Caller, DOMAIN, eventually};

/// Clock ticks per second in `/proc/<pid>/stat` on Linux.
const TICKS: u64 = 100;
/// Last byte of the honest client's address; attackers use other loopback addresses.
const HONEST: u8 = 200;
/// Pause between two honest calls.
const PAUSE: Duration = Duration::from_millis(50);

/// A larger process is killed to protect the machine, KiB.
const MAX_MEMORY: u64 = 2_500 * 1024;

/// The setting for a case with the given `kms`, or why it cannot run.
pub(crate) async fn setting(case: &Case, program: &str) -> Result<Setting, &'static str> {
    let mut setting = Setting::with(&format!("core.onboard.auto_bootstrap_domain = \"{DOMAIN}\"")).await;
    setting.launcher = vec![program.to_owned()];
    for line in case.config.lines() {
        let before = setting.world.config.clone();
        setting.configure(line);
        // Other configuration errors are reported at the start.
        if setting.run(&["check"]).await.text().contains("unknown key") {
            setting.world.config = before;
            setting.configure("");
        }
    }
    (case.prepare)(&mut setting)?;
    Ok(setting)
}

/// A running KMS with keys.
pub(crate) struct Target {
    pub(crate) setting: Setting,
    program: Program,
    /// Not read, but kept open until it is taken.
    log: Mutex<Option<PipeReader>>,
}

impl Target {
    /// Starts a new KMS and waits until it serves keys.
    pub(crate) async fn start(setting: Setting, stderr: Option<Stderr>) -> Self {
        let (program, log) = match stderr {
            None => (setting.spawn(), None),
            Some(stderr) => {
                fs::write(setting.world.path("log"), "").expect("an empty log");
                let (stdio, reader) = stderr.open();
                (setting.spawn_with_stderr(stdio), reader)
            }
        };
        let program = setting.awaited(program).await;
        eventually("keys are served", async || {
            let answer = setting.caller().try_json("GetMeta", json!({})).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        Self { setting, program, log: Mutex::new(log) }
    }

    /// Closes the reading end of its log.
    pub(crate) fn close_log(&self) {
        drop(self.log.lock().expect("no panic").take());
    }

    /// Process id.
    pub(crate) fn pid(&self) -> Pid {
        self.program.pid()
    }

    /// Listening address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.setting.address
    }

    /// A client of the KMS.
    pub(crate) fn caller(&self) -> Caller {
        self.setting.caller()
    }

    /// A TCP connection from `127.0.0.<last>`.
    pub(crate) async fn tcp(&self, last: u8) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into())?;
        let stream = socket.connect(self.address()).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A TLS connection from `127.0.0.<last>` with the settings of `caller`.
    pub(crate) async fn tls(&self, last: u8, caller: &Caller) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(DOMAIN).expect("a name");
        TlsConnector::from(Arc::new(caller.tls())).connect(name, self.tcp(last).await?).await
    }

    /// CPU time of the process so far.
    pub(crate) fn cpu(&self) -> Duration {
        let pid = self.pid().as_raw_nonzero();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Fields are counted after the process name, which may contain spaces: state is the first, utime the
        // 12th.
        let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let fields = behind_name.split(' ').skip(11).take(2);
        Duration::from_millis(
            fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 1000 / TICKS,
        )
    }

    /// Peak memory, MiB; 0 after the process has ended.
    pub(crate) fn peak_memory(&self) -> u64 {
        status(self.pid(), "VmHWM:") / 1024
    }

    /// Current memory, KiB.
    pub(crate) fn memory(&self) -> u64 {
        status(self.pid(), "VmRSS:")
    }

    /// Number of open files and sockets.
    pub(crate) fn descriptors(&self) -> usize {
        let pid = self.pid().as_raw_nonzero();
        fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
    }

    /// Ends the KMS, which must shut down cleanly.
    pub(crate) async fn end(self) -> Result<(), String> {
        let answer = timeout(Duration::from_secs(12), self.caller().try_json("GetMeta", json!({}))).await;
        match answer {
            Ok(Ok(answer)) if answer.status == 200 => {}
            other => return Err(format!("afterwards GetMeta gives {other:?}: {}", self.program.log())),
        }
        let log = self.program.log();
        if log.contains("panic") {
            return Err(format!("something panicked: {log}"));
        }
        match timeout(Duration::from_secs(12), self.program.stop(Signal::TERM)).await {
            Ok(Some(0)) => Ok(()),
            Ok(status) => Err(format!("it ends with {status:?}")),
            Err(_) => Err("SIGTERM does not end it within 12 s".to_owned()),
        }
    }
}

/// A number in `/proc/<pid>/status`; 0 for a process that has ended.
fn status(pid: Pid, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}

/// Watches the size of a process and kills it at [`MAX_MEMORY`].
pub(crate) struct Watch {
    task: JoinHandle<()>,
    most: Arc<AtomicU64>,
}

impl Watch {
    pub(crate) fn over(target: &Target) -> Self {
        let (pid, most) = (target.pid(), Arc::new(AtomicU64::new(0)));
        let seen = Arc::clone(&most);
        let task = tokio::spawn(async move {
            loop {
                let memory = status(pid, "VmRSS:");
                seen.fetch_max(memory, Ordering::Relaxed);
                if memory > MAX_MEMORY {
                    // The process has not been waited for, so the id is still its own.
                    let _ = kill_process(pid, Signal::KILL);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { task, most }
    }

    /// The largest size seen, MiB.
    pub(crate) fn end(self) -> u64 {
        self.most.load(Ordering::Relaxed) / 1024
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client that requests `GetMeta` on new connections, one after the other.
pub(crate) struct Honest(JoinHandle<Report>);

/// The results of the honest calls.
pub(crate) struct Report {
    pub(crate) answered: usize,
    pub(crate) failures: Vec<String>,
    /// `None` if more than one in a hundred calls failed.
    pub(crate) p99: Option<Duration>,
}

impl Honest {
    /// Calls until the time is over.
    pub(crate) fn start(target: &Target, until: Instant) -> Self {
        let (address, caller) = (target.address(), target.caller().http1());
        Self(tokio::spawn(async move {
            let (mut times, mut failures) = (Vec::new(), Vec::new());
            while Instant::now() < until {
                let began = Instant::now();
                match timeout(Duration::from_secs(10), call(address, &caller)).await {
                    Ok(Ok(())) => times.push(began.elapsed()),
                    Ok(Err(error)) => failures.push(error.to_string()),
                    Err(_) => failures.push("no answer within ten seconds".to_owned()),
                }
                tokio::time::sleep(PAUSE).await;
            }
            times.sort_unstable();
            // Failed calls count as the slowest.
            let p99 = times.get((times.len() + failures.len()) * 99 / 100).copied();
            Report { answered: times.len(), failures, p99 }
        }))
    }

    pub(crate) async fn result(self) -> Report {
        self.0.await.expect("the honest caller does not panic")
    }
}

async fn call(address: SocketAddr, caller: &Caller) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, HONEST), 0).into())?;
    let tcp = socket.connect(address).await?;
    let name = ServerName::try_from(DOMAIN).expect("a name");
    let mut stream = TlsConnector::from(Arc::new(caller.tls())).connect(name, tcp).await?;
    stream.write_all(b"GET /prpc/GetMeta HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    match answer.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned())),
    }
}
