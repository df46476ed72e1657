//! The KMS under attack, and the honest caller beside it.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    Caller, DOMAIN, eventually,
    program::{Program, Setting},
};

/// Clock ticks a second in `/proc/<pid>/stat` on Linux.
const TICKS: u64 = 100;
/// From where the honest caller calls; attackers come from other addresses of loopback.
const HONEST: u8 = 200;
/// Between two honest calls.
const PAUSE: Duration = Duration::from_millis(50);

/// A running KMS with keys.
pub(crate) struct Target {
    pub(crate) setting: Setting,
    program: Program,
}

impl Target {
    /// A new KMS that serves keys.
    pub(crate) async fn start(config: &str) -> Self {
        let setting =
            Setting::with(&format!("core.onboard.auto_bootstrap_domain = \"{DOMAIN}\"\n{config}")).await;
        let program = setting.start().await;
        eventually("keys are served", async || {
            let answer = setting.caller().try_json("GetMeta", json!({})).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        Self { setting, program }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.setting.address
    }

    /// Someone who calls it.
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

    /// A TLS connection from `127.0.0.<last>`, as `caller` makes it.
    pub(crate) async fn tls(&self, last: u8, caller: &Caller) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(DOMAIN).expect("a name");
        TlsConnector::from(Arc::new(caller.tls())).connect(name, self.tcp(last).await?).await
    }

    /// CPU time of the process so far.
    pub(crate) fn cpu(&self) -> Duration {
        let pid = self.program.pid().as_raw_nonzero();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Fields are counted behind the name, which may hold spaces: state is the first, utime the 12th.
        let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let fields = behind_name.split(' ').skip(11).take(2);
        Duration::from_millis(
            fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 1000 / TICKS,
        )
    }

    /// The most memory that it has ever had, in MiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let pid = self.program.pid().as_raw_nonzero();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().map_or(u64::MAX, |kib| kib / 1024)
    }

    /// Ends it, which must happen in order.
    pub(crate) async fn end(self) -> Result<(), String> {
        let answer = self.caller().try_json("GetMeta", json!({})).await;
        match answer {
            Ok(answer) if answer.status == 200 => {}
            other => return Err(format!("afterwards GetMeta gives {other:?}: {}", self.program.log())),
        }
        let log = self.program.log();
        if log.contains("panic") {
            return Err(format!("something panicked: {log}"));
        }
        match self.program.stop(Signal::TERM).await {
            Some(0) => Ok(()),
            status => Err(format!("it ends with {status:?}")),
        }
    }
}

/// A stranger who asks for `GetMeta` on a new connection, again and again.
pub(crate) struct Honest(JoinHandle<Report>);

/// What became of the honest calls.
pub(crate) struct Report {
    pub(crate) answered: usize,
    pub(crate) failures: Vec<String>,
    pub(crate) p99: Duration,
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
            let p99 = times.get(times.len() * 99 / 100).or(times.last()).copied().unwrap_or_default();
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
