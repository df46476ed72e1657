//! `kms auth serve`: the allowlist as an authorization backend for other KMSs.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use kms_attest::small_file::small_input;
use kms_policy::Policy;
use kms_policy::signed::DecisionSigner;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::run::ignored_signals;
use crate::config::{AuthApi, EmptyDevices};
use crate::log::ProcessLog;
use crate::metrics::{Kind, Metrics};
use crate::net::auth_backend::{self, AuthBackend};
use crate::net::handshake::Handshakes;
use crate::net::listener::{self, Bounds, Phase, PlainHttp};
use crate::net::memory::RequestMemory;
use crate::net::middleware::Middleware;
use crate::operator::OperatorToken;

/// The environment variable with the token that callers must send.
const TOKEN: &str = "KMS_WEBHOOK_TOKEN";

/// The largest file of a signing key, in bytes.
const MAX_KEY: u64 = 64 * 1024;

const BOUNDS: Bounds = Bounds {
    connections: 1024,
    handshake: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    request: Duration::from_secs(10),
    grace: Duration::from_secs(5),
};

/// Subcommands of the authorization backend.
#[derive(Debug, Subcommand)]
pub(super) enum Auth {
    /// Decide requests of KMS nodes by an auth-config.json, as auth-simple does
    Serve(Serve),
}

impl Auth {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self::Serve(serve) = self;
        serve.run()
    }
}

/// The backend and its address.
#[derive(Debug, Args)]
#[command(
    about = "Decide requests of KMS nodes by an auth-config.json, as auth-simple does",
    after_help = "Serves GET /, POST /bootAuth/app, POST /bootAuth/kms and GET /health over plain HTTP until SIGTERM. \
                  With KMS_WEBHOOK_TOKEN in the environment, callers must send it as a bearer token."
)]
pub(super) struct Serve {
    /// The allowlist; read again when it changes
    #[arg(long, value_name = "FILE", default_value = "auth-config.json")]
    file: PathBuf,
    /// An empty device list allows any device; by default it allows none, unless allowAnyDevice is true
    #[arg(long)]
    insecure_empty_devices_allow_any: bool,
    /// Obsolete: this is now the default
    #[arg(long = "strict-devices", hide = true)]
    _strict_devices: bool,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// Port to listen on; 0 lets the system choose
    #[arg(long, default_value_t = 8002)]
    port: u16,
    /// PEM with the Ed25519 key that signs decisions; KMS nodes pin its public key
    /// (core.auth_api.webhook.decision_key)
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
}

impl Serve {
    fn run(self) -> anyhow::Result<ExitCode> {
        ProcessLog::to_stderr().context("the process log cannot be started")?.install();
        let signer = self.signing_key.as_deref().map(signer).transpose()?;
        let token = std::env::var(TOKEN).ok().map(Zeroizing::new);
        let token = token.as_ref().map(|token| token.trim()).filter(|token| !token.is_empty());
        let empty_devices = match self.insecure_empty_devices_allow_any {
            true => EmptyDevices::AnyDevice,
            false => EmptyDevices::NoDevice,
        };
        let policy = Policy::from_config(&AuthApi::Allowlist { path: self.file.clone(), empty_devices })?;
        if token.is_none() && !self.address.is_loopback() {
            tracing::warn!(
                "anyone who can reach this address may send requests; set {TOKEN} to require a token"
            );
        }
        if let Some(relaxation) = policy.relaxation() {
            tracing::warn!(setting = relaxation.code.name(), "RELAXED: {}", relaxation.sentence);
        }
        if let Some(signer) = &signer {
            tracing::info!(decision_key = %signer.public_key(), "decisions are signed");
        }
        let backend = AuthBackend { policy, token: token.map(OperatorToken::new), signer };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let ended = runtime.block_on(serve(SocketAddr::new(self.address, self.port), backend));
        // A file system that hangs must not keep the process from ending.
        runtime.shutdown_timeout(Duration::from_millis(200));
        ended
    }
}

fn signer(path: &Path) -> anyhow::Result<DecisionSigner> {
    let pem = Zeroizing::new(small_input(path, MAX_KEY).context("--signing-key cannot be read")?);
    DecisionSigner::from_pem(&pem).context("--signing-key cannot be used")
}

async fn serve(address: SocketAddr, backend: AuthBackend) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // SIGHUP requests what happens anyway: the file is read again whenever it changes.
    let _ignored = (ignored_signals()?, signal(SignalKind::hangup())?);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let metrics = Arc::new(Metrics::new([("bootAuth", Kind::Other)]));
    let memory = RequestMemory::new(RequestMemory::default_total());
    let handshakes = Arc::new(Handshakes::new(Arc::clone(&metrics)));
    let middleware = Arc::new(Middleware::new(auth_backend::router(backend), memory, Arc::clone(&metrics)));
    let phase = Phase { number: 0, tls: None, plain: PlainHttp::Served, middleware };
    let (phases, phase) = watch::channel(phase);
    let serving = tokio::spawn(listener::serve(listener, phase, BOUNDS, handshakes, metrics));
    // The caller may have closed the pipe.
    let _ = writeln!(io::stdout(), "listening on http://{address}");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    drop(phases);
    serving.await?;
    Ok(ExitCode::SUCCESS)
}
