//! The servers under load, each a separate process, so that CPU time and memory are its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io};

use axum::Router;
use axum::routing::any;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Pid, Signal, kill_process};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// The environment variable with the directory for the bare server.
const BARE: &str = "CVM_KMS_BENCH_BARE";
/// Clock ticks per second in `/proc/<pid>/stat` on Linux.
const TICKS: u64 = 100;
/// Length of the blocks of nginx's response.
const BLOCK: usize = 2048;

/// A running server, ended on drop.
pub(super) struct Server {
    process: Child,
    /// Listening address.
    pub(super) address: SocketAddr,
    /// Time of its start.
    pub(super) started: Instant,
}

impl Server {
    /// A `kms` with a configuration file, on `port`.
    pub(super) fn kms(program: &str, config: &Path, port: u16) -> Self {
        let mut command = Command::new(program);
        // Not in the current directory, where a `./kms.toml` would be read first.
        command.current_dir(config.parent().expect("a directory"));
        command.arg("-c").arg(config).env("RUST_LOG", "error");
        Self::spawn(command, port)
    }

    /// axum on rustls that returns the file `body` in `directory`, with the certificate there.
    pub(super) fn bare(directory: &Path) -> Self {
        let port = free_port();
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env(BARE, directory).arg(port.to_string());
        Self::spawn(command, port)
    }

    /// nginx with the same response and certificate; `None` if it is not installed.
    pub(super) fn nginx(directory: &Path) -> Option<Self> {
        let found = Command::new("nginx").arg("-v").stderr(Stdio::null()).status();
        found.ok().filter(std::process::ExitStatus::success)?;
        let port = free_port();
        let config = directory.join("nginx.conf");
        fs::write(&config, nginx_config(directory, port)).expect("nginx.conf");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(directory).arg("-c").arg(&config).args(["-e", "/dev/null"]);
        Some(Self::spawn(command, port))
    }

    fn spawn(mut command: Command, port: u16) -> Self {
        let started = Instant::now();
        let process = command.stdin(Stdio::null()).spawn().expect("a server process");
        Self { process, address: (Ipv4Addr::LOCALHOST, port).into(), started }
    }

    /// Waits until it accepts connections.
    pub(super) async fn accepts(&self) {
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            assert!(self.started.elapsed() < Duration::from_secs(20), "a server does not come up");
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }

    /// CPU time of the process and its children so far.
    pub(super) fn cpu(&self) -> Duration {
        let ticks: u64 = self.processes().iter().map(|pid| ticks(*pid)).sum();
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    /// Process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Resident memory, bytes.
    pub(super) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("/proc");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("kB") * 1024
    }

    fn processes(&self) -> Vec<u32> {
        let pid = self.process.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|child| child.parse().ok()).chain([pid]).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM, because a killed nginx leaves its workers behind.
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

/// User and system time of a process in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields are counted after the process name, which may contain spaces: state is the first, utime the
    // 12th.
    let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    behind_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// A free port.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

fn nginx_config(directory: &Path, port: u16) -> String {
    let directory = directory.display();
    let body = fs::read_to_string(format!("{directory}/body")).expect("body");
    // A parameter of nginx has at most 4 KiB, so the response is composed of blocks.
    let (block, rest) = body.split_at(body.len().min(BLOCK));
    let blocks = "${block}".repeat(body.len() / BLOCK);
    let rest = &rest[..body.len() % BLOCK];
    format!(
        "daemon off; worker_processes 2; pid {directory}/nginx.pid; user root; worker_rlimit_nofile 4096;
         events {{ worker_connections 1024; }}
         http {{
             access_log off; error_log /dev/null crit;
             keepalive_requests 100000000; default_type application/json;
             client_body_temp_path {directory}/body-temp; proxy_temp_path {directory}/proxy-temp;
             fastcgi_temp_path {directory}/fastcgi-temp; uwsgi_temp_path {directory}/uwsgi-temp;
             scgi_temp_path {directory}/scgi-temp;
             server {{
                 listen 127.0.0.1:{port} ssl;
                 ssl_certificate {directory}/tls.crt; ssl_certificate_key {directory}/tls.key;
                 ssl_protocols TLSv1.2 TLSv1.3;
                 set $block '{block}';
                 location / {{ return 200 '{blocks}{rest}'; }}
             }}
         }}"
    )
}

/// Runs the bare server until it is ended, if this process was started as one.
pub(super) async fn be_bare_if_asked() {
    let Some(directory) = std::env::var_os(BARE) else { return };
    let port: u16 = std::env::args().nth(1).and_then(|port| port.parse().ok()).expect("a port");
    // As a task, like the listener of the KMS: otherwise the thread of `block_on` would be a third one that
    // accepts.
    let serving = tokio::spawn(async move { bare(Path::new(&directory), port).await });
    serving.await.expect("no panic").expect("the bare server serves until it is ended");
}

/// Only axum, hyper and rustls with their defaults.
async fn bare(directory: &Path, port: u16) -> io::Result<()> {
    let body = bytes::Bytes::from(fs::read(directory.join("body"))?);
    let certificate = CertificateDer::from_pem_file(directory.join("tls.crt")).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(directory.join("tls.key")).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key))
        .map_err(io::Error::other)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let router = Router::new().fallback(any(move || {
        let body = body.clone();
        async move { ([(http::header::CONTENT_TYPE, "application/json")], body) }
    }));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = TowerToHyperService::new(router);
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
