//! The composition root: builds every part from the configuration and lives the lifecycle.

mod admin_tls;
mod error;
mod leaf;
mod parts;
mod preflight;
mod serving;
mod shared;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};

pub use self::{error::AppError, preflight::Preflight};
use self::{
    serving::{Listener, Serving},
    shared::{Shared, key_directory, started},
};
use crate::{
    api::{
        readiness::Readiness,
        setup::{Switch, Token},
    },
    audit::{Audit, Event, FailureReason, Health},
    config::{AuditFailure, Config},
    lifecycle::{Node, Onboarding, Ready},
    log::ProcessLog,
    net::{
        self, OnboardingAuth,
        listener::{Phase, PlainHttp},
        middleware::Middleware,
        tls,
    },
    operator::OperatorToken,
    store::Occupancy,
};

/// How long the onboarding phase waits for an attested certificate before it begins with one that is not.
const ATTEST_TIME: Duration = Duration::from_secs(2);

/// Between attempts to serve keys that exist.
const SWITCH_RETRY: Duration = Duration::from_secs(1);

/// How often it is asked whether the audit log can be written, where that ends the process.
const AUDIT_CHECK: Duration = Duration::from_millis(500);

/// The service.
#[derive(Debug)]
pub struct Kms;

/// A running service; dropping it stops it at once.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    admin_address: Arc<OnceLock<SocketAddr>>,
    stop: watch::Sender<bool>,
    reload: watch::Sender<u64>,
    life: JoinHandle<Result<(), AppError>>,
}

impl Kms {
    /// Builds every part, binds the listeners and starts serving the phase that the key directory calls for.
    ///
    /// # Errors
    /// [`AppError`]; nothing is served then.
    pub async fn start(config: Config) -> Result<Running, AppError> {
        Self::start_logging_to(config, None).await
    }

    /// As [`Kms::start`], in a process whose log is `log`: the metrics show what it dropped.
    ///
    /// # Errors
    /// [`AppError`]; nothing is served then.
    pub async fn start_logging_to(config: Config, log: Option<ProcessLog>) -> Result<Running, AppError> {
        let config = Arc::new(config);
        // First of all, for it makes the directory as it must be; the audit log is usually in it.
        let occupancy = Arc::new(Occupancy::take(&config.core.cert_dir)?);
        let directory = key_directory(&config, &occupancy)?;
        let shared = Shared::new(&config, occupancy, log)?;
        shared.announce();

        let (stop, stopping) = watch::channel(false);
        let main = SocketAddr::new(config.rpc.address, config.rpc.port);
        match shared.open(directory)? {
            Node::Ready(ready) => {
                shared.announce_new_log();
                let listener = bind(main).await?;
                Self::spawn(shared, *ready, Listener::Main(listener), stop, stopping).await
            }
            Node::Onboarding(_) if !config.core.onboard.enabled => Err(AppError::NoKeys),
            Node::Onboarding(onboarding) => match &config.core.onboard.auto_bootstrap_domain {
                Some(domain) => {
                    let listener = bind(main).await?;
                    let service = shared.onboard_service(onboarding);
                    service.auto_bootstrap(domain).await.map_err(AppError::AutoBootstrap)?;
                    let ready = shared.reopen()?;
                    Self::spawn(shared, ready, Listener::Main(listener), stop, stopping).await
                }
                None => Self::onboard(shared, onboarding, stop, stopping).await,
            },
        }
    }

    async fn spawn(
        shared: Shared,
        ready: Ready,
        listener: Listener,
        stop: watch::Sender<bool>,
        stopping: watch::Receiver<bool>,
    ) -> Result<Running, AppError> {
        let serving = Serving::prepare(&shared, ready).await?;
        let address = listener.address()?;
        let admin = serving.bind_admin(&shared).await?;
        let admin_address = Arc::clone(&shared.admin_address);
        let (audit, reload) = (Arc::clone(&shared.audit), shared.reload.clone());
        let on_failure = shared.config.core.audit.on_failure;
        let life = async move { serving.live(&shared, listener, admin, stopping).await };
        let life = tokio::spawn(recorded(audit, on_failure, life));
        Ok(Running { address, admin_address, stop, reload, life })
    }

    async fn onboard(
        shared: Shared,
        onboarding: Onboarding,
        stop: watch::Sender<bool>,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<Running, AppError> {
        let config = Arc::clone(&shared.config);
        let own = SocketAddr::new(config.core.onboard.address, config.core.onboard.port);
        let main = SocketAddr::new(config.rpc.address, config.rpc.port);
        let listener = bind(own).await?;
        let address = listener.local_addr().map_err(|source| AppError::Listen { address: own, source })?;
        let service = Arc::new(shared.onboard_service(onboarding));
        let mut finished = service.finished();
        let token = config.core.onboard.auth_token.as_ref().map(|token| OperatorToken::new(token.expose()));
        if token.is_none() {
            tracing::warn!(
                "onboarding is open to whoever reaches {address} first; core.onboard.auth_token guards it"
            );
        }
        let needed = if token.is_some() { Token::Required } else { Token::NotConfigured };
        let setup = Arc::new(shared.setup_service(Arc::clone(&service), needed));
        let limits = &config.core.onboard.limits;
        let entrance = OnboardingAuth::new(token, Arc::clone(&shared.audit), Arc::clone(&shared.metrics));
        let readiness = Arc::new(Readiness::onboarding(Arc::clone(&shared.metrics)));
        let router = net::onboarding(Arc::clone(&service), setup, limits, entrance, readiness);
        let certificate = leaf::Ephemeral::new(config.core.onboard.address)?;
        let tls = tls::onboarding(certificate.leaf())?;
        let attester = Arc::clone(&shared.attester);
        let mut attesting = tokio::spawn(async move { certificate.attest(&attester).await });
        // So that the first who come can already tell whom they reach; an attester that is not there holds up nobody.
        let _ = timeout(ATTEST_TIME, &mut attesting).await;
        let phase = Phase {
            number: 0,
            tls: Some(tls),
            plain: PlainHttp::Served,
            front: Arc::new(
                Middleware::new(router, Arc::clone(&shared.memory), Arc::clone(&shared.metrics))
                    .limited(Arc::clone(&shared.limit)),
            ),
        };
        let (phases, phase) = watch::channel(phase);
        let accepting = tokio::spawn(shared.listen(listener, phase));
        let admin_address = Arc::clone(&shared.admin_address);
        shared.audit.note(started("onboarding", &shared.posture));
        tracing::info!(%address, "onboarding: open the page, or call Bootstrap or Onboard, then Finish");
        let (audit, reload) = (Arc::clone(&shared.audit), shared.reload.clone());
        let on_failure = shared.config.core.audit.on_failure;
        let life = async move {
            let is_stopped = tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => true,
                _ = finished.wait_for(|finished| *finished) => false,
            };
            attesting.abort();
            if is_stopped {
                drop(phases);
                let _ = accepting.await;
                return Ok(());
            }
            drop(service);
            let other = (own != main).then_some(main);
            let prepared = tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => None,
                prepared = switched(&shared, other) => Some(prepared),
            };
            let Some(Prepared { serving, main, admin }) = prepared else {
                drop(phases);
                let _ = accepting.await;
                return Ok(());
            };
            let listener = match main {
                None => Listener::Taken { phases, accepting },
                Some(listener) => {
                    // Connections to it wait by now: who waits for the switch need not hold it up.
                    shared.switch.send_replace(Switch::Done);
                    drop(phases);
                    let _ = accepting.await;
                    Listener::Main(listener)
                }
            };
            serving.live(&shared, listener, admin, stopping).await
        };
        let life = tokio::spawn(recorded(audit, on_failure, life));
        Ok(Running { address, admin_address, stop, reload, life })
    }
}

/// The life of a service, with its orderly end in the audit log.
async fn recorded(
    audit: Arc<Audit>,
    on_failure: AuditFailure,
    life: impl Future<Output = Result<(), AppError>>,
) -> Result<(), AppError> {
    let ended = match on_failure {
        AuditFailure::Retry => life.await,
        AuditFailure::Exit => tokio::select! {
            ended = life => ended,
            reason = audit_fails(&audit) => Err(AppError::AuditFails(reason)),
        },
    };
    if ended.is_ok() {
        audit.note(Event::Stopped);
    }
    ended
}

/// Waits until the audit log takes no records for longer than a passing moment.
async fn audit_fails(audit: &Audit) -> FailureReason {
    let mut failed = false;
    loop {
        tokio::time::sleep(AUDIT_CHECK).await;
        match audit.health() {
            Health::Failing { reason, .. } if failed => return reason,
            health => failed = !health.is_writing(),
        }
    }
}

impl Running {
    /// Where the first phase listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the admin service listens, if it is enabled and keys are served.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address.get().copied()
    }

    /// Waits until the service ends by itself.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn stopped(&mut self) -> Result<(), AppError> {
        (&mut self.life).await.map_err(AppError::Panicked)?
    }

    /// Reads the allowlist again and issues the TLS certificate again. What `kms.toml` says needs a new start.
    pub fn reload(&self) {
        tracing::info!("reloading: the allowlist is read and the TLS certificate issued again");
        self.reload.send_modify(|count| *count += 1);
    }

    /// Lets running requests finish, then ends.
    ///
    /// # Errors
    /// Why it had ended before.
    pub async fn stop(mut self) -> Result<(), AppError> {
        self.stop.send_replace(true);
        self.stopped().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// The KMS phase with its listeners, ready to be served.
struct Prepared {
    serving: Serving,
    /// The main listener, where onboarding used another address.
    main: Option<TcpListener>,
    admin: Option<(TcpListener, Phase)>,
}

/// Everything that the KMS phase needs. The keys are safe by now, so whatever is missing (the attester, a port) is tried
/// again until it is there; onboarding goes on answering meanwhile, and says what is missing.
async fn switched(shared: &Shared, main: Option<SocketAddr>) -> Prepared {
    shared.switch.send_replace(Switch::Trying);
    loop {
        match prepared(shared, main).await {
            Ok(prepared) => return prepared,
            Err(error) => {
                shared.switch.send_replace(error.hindrance());
                tracing::error!(%error, "keys exist but cannot be served yet; trying again");
            }
        }
        tokio::time::sleep(SWITCH_RETRY).await;
    }
}

async fn prepared(shared: &Shared, main: Option<SocketAddr>) -> Result<Prepared, AppError> {
    let serving = Serving::prepare(shared, shared.reopen()?).await?;
    let main = match main {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let admin = serving.bind_admin(shared).await?;
    Ok(Prepared { serving, main, admin })
}

async fn bind(address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|source| AppError::Listen { address, source })
}
