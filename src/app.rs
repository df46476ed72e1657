//! The composition root: builds every part from the configuration and lives the lifecycle.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kms_attest::{
    attester::{Attester, AttesterError, ConfigfsTsm, GuestAgent},
    certificate::{self, CertificateSpec, Role},
    collateral::{CacheOptions, CacheStats, CollateralCache, EndpointError},
    evidence::Evidence,
    p256::P256Key,
    trust::{TrustAnchors, TrustError},
    verify::Verifier,
};
use rustls_pki_types::CertificateDer;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::{
    admission::{Admission, ImageCheck, OwnStanding},
    audit::{Audit, AuditError, Event},
    ca::{self, CaError},
    config::{self, Config, Posture},
    error::Error,
    image_cache::ImageCache,
    lifecycle::{LeafError, LifecycleError, Node, Onboarding, Ready},
    metrics::{CollateralState, Metrics},
    operator::{BadHtpasswd, Credentials, OperatorToken, Users},
    policy::{Policy, SetupError},
    service::{
        METHODS,
        admin::AdminService,
        kms::{self, KmsService},
        meta::Meta,
        onboard::{self, OnboardService, Tee, UnattestedAutoBootstrap},
    },
    store::{KeyDirectory, Permissions, StoreError},
    transport::{
        self,
        front::Front,
        limit::AddressLimit,
        listener::{self, Bounds, Phase, PlainHttp},
        tls::{self, ClientPolicy, Leaf, TlsError},
    },
};

/// How often the age of the TLS certificate is looked at.
const LEAF_CHECK: Duration = Duration::from_secs(3600);
/// How often addresses that are quiet are forgotten, and gauges set.
const HOUSEKEEPING: Duration = Duration::from_secs(15);
/// Largest htpasswd file and trust anchor in bytes.
const SMALL_FILE: u64 = 1024 * 1024;

/// Why the service does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The key directory or the keys in it.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// The key directory cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No keys and no way to get them.
    #[error("Failed to onboard: there are no keys, and core.onboard.enabled is false")]
    NoKeys,
    /// Automatic bootstrap was refused or could not be done.
    #[error("auto-bootstrap: {0}")]
    AutoBootstrap(Error),
    /// The TLS certificate cannot carry evidence.
    #[error(
        "Failed to reissue the attested KMS RPC certificate; refusing to start with a potentially unattested \
         certificate"
    )]
    Unattested(#[source] AttesterError),
    /// The TLS certificate cannot be issued.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// A certificate cannot be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The policy cannot be set up.
    #[error(transparent)]
    Policy(#[from] SetupError),
    /// The audit log cannot be opened or written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A trust anchor is unusable.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The collateral client cannot be set up.
    #[error(transparent)]
    Collateral(#[from] EndpointError),
    /// The attester cannot be set up.
    #[error(transparent)]
    Attester(#[from] AttesterError),
    /// The kernel gives a quote, and the events that explain it come from a file.
    #[error("core.attester.event_log must name the file with the runtime events of this machine")]
    NoEventLog,
    /// A task of ours ended in a panic.
    #[error("internal error")]
    Panicked(#[source] tokio::task::JoinError),
    /// A listener cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A file that the configuration names cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The htpasswd file is malformed.
    #[error("core.admin.htpasswd_file: {0}")]
    Htpasswd(#[from] BadHtpasswd),
}

/// The service.
#[derive(Debug)]
pub struct Kms;

/// A running service; dropping it stops it at once.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    admin_address: Arc<OnceLock<SocketAddr>>,
    stop: watch::Sender<bool>,
    life: JoinHandle<Result<(), AppError>>,
}

impl Kms {
    /// Builds every part, binds the listeners and starts serving the phase that the key directory calls for.
    ///
    /// # Errors
    /// [`AppError`]; nothing is served then.
    pub async fn start(config: Config) -> Result<Running, AppError> {
        let config = Arc::new(config);
        // First of all, for it makes the directory as it must be; the audit log is usually in it.
        let directory = key_directory(&config)?;
        let shared = Shared::new(&config)?;
        shared.announce();

        let (stop, stopping) = watch::channel(false);
        let main = SocketAddr::new(config.rpc.address, config.rpc.port);
        match shared.open(directory)? {
            Node::Ready(ready) => {
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
        let life = tokio::spawn(async move { serving.live(&shared, listener, admin, stopping).await });
        Ok(Running { address, admin_address, stop, life })
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
        let router = transport::onboarding(Arc::clone(&service), &config.core.onboard.limits, token).await;
        let phase = Phase {
            number: 0,
            tls: Some(tls::onboarding(ephemeral_leaf(config.core.onboard.address)?)?),
            plain: PlainHttp::Served,
            front: Arc::new(
                Front::new(router, Arc::clone(&shared.metrics)).limited(Arc::clone(&shared.limit)),
            ),
        };
        let (phases, phase) = watch::channel(phase);
        let accepting =
            tokio::spawn(listener::serve(listener, phase, shared.bounds(), Arc::clone(&shared.metrics)));
        let admin_address = Arc::clone(&shared.admin_address);
        shared.audit.note(started("onboarding", &shared.posture));
        tracing::info!(%address, "onboarding: open the page, or call Bootstrap or Onboard, then Finish");
        let life = tokio::spawn(async move {
            let is_stopped = tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => true,
                _ = finished.wait_for(|finished| *finished) => false,
            };
            if is_stopped {
                drop(phases);
                let _ = accepting.await;
                return Ok(());
            }
            drop(service);
            let serving = Serving::prepare(&shared, shared.reopen()?).await?;
            let admin = serving.bind_admin(&shared).await?;
            let listener = if own == main {
                Listener::Taken { phases, accepting }
            } else {
                let listener = bind(main).await?;
                drop(phases);
                let _ = accepting.await;
                Listener::Main(listener)
            };
            serving.live(&shared, listener, admin, stopping).await
        });
        Ok(Running { address, admin_address, stop, life })
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
        (&mut self.life).await.unwrap_or(Ok(()))
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

/// What both phases use.
struct Shared {
    config: Arc<Config>,
    attester: Arc<Attester>,
    verifier: Arc<Verifier>,
    policy: Arc<Policy>,
    standing: Arc<OwnStanding>,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    limit: Arc<AddressLimit>,
    posture: Posture,
    admin_address: Arc<OnceLock<SocketAddr>>,
}

impl Shared {
    fn new(config: &Arc<Config>) -> Result<Self, AppError> {
        let core = &config.core;
        let attester = Arc::new(match &core.attester {
            config::Attester::GuestAgent { address: Some(address) } => Attester::at(address)?,
            // The configuration has looked at the environment already.
            config::Attester::GuestAgent { address: None } => Attester::GuestAgent(GuestAgent::usual()),
            config::Attester::ConfigfsTsm { event_log } => {
                let event_log = event_log.clone().ok_or(AppError::NoEventLog)?;
                Attester::ConfigfsTsm(ConfigfsTsm::new(event_log, String::new()))
            }
            config::Attester::None => Attester::None,
        });
        let anchors = match &core.attestation.tdx_root {
            None => TrustAnchors::intel(),
            Some(path) => TrustAnchors::with_tdx_root(&read_small(path)?)?,
        };
        let endpoints: Vec<&str> = core.attestation.pccs.iter().map(config::Endpoint::as_str).collect();
        let cache = CollateralCache::new(&endpoints, &anchors, CacheOptions::default())?;
        let verifier = Arc::new(Verifier::new(anchors, cache));
        let policy = Arc::new(Policy::from_config(&core.auth_api)?);
        let standing = Arc::new(match core.enforce_self_authorization {
            true => OwnStanding::enforced(Arc::clone(&attester), Arc::clone(&verifier), Arc::clone(&policy)),
            false => OwnStanding::waived(),
        });
        let mut posture = config.posture();
        if let Some(relaxation) = policy.relaxation() {
            posture.relax(relaxation);
        }
        let metrics = Arc::new(Metrics::new(METHODS.iter().map(|row| row.name)));
        metrics.set_relaxed(posture.codes());
        Ok(Self {
            audit: Arc::new(Audit::open(&core.audit.file)?),
            limit: Arc::new(AddressLimit::new(
                core.limits.unauthenticated_per_second,
                core.limits.unauthenticated_burst,
            )),
            config: Arc::clone(config),
            attester,
            verifier,
            policy,
            standing,
            metrics,
            posture,
            admin_address: Arc::default(),
        })
    }

    /// Says at each start what is relaxed.
    fn announce(&self) {
        tracing::info!(version = env!("CVM_KMS_VERSION"), policy = self.policy.kind(), "cvm-kms starts");
        for relaxation in self.posture.relaxed() {
            tracing::warn!(setting = relaxation.code, "RELAXED: {}", relaxation.sentence);
        }
        if self.image_check() == ImageCheck::Required {
            tracing::warn!(
                "core.image.verify is true, and this version cannot verify OS images: no keys will be released until \
                 it is set to false"
            );
        }
        if let Some(error) = self.policy.last_error() {
            tracing::warn!(error, "the policy denies everyone for now");
        }
    }

    fn image_check(&self) -> ImageCheck {
        if self.config.core.image.verify { ImageCheck::Required } else { ImageCheck::Waived }
    }

    fn bounds(&self) -> Bounds {
        let limits = &self.config.core.limits;
        Bounds {
            connections: limits.max_connections,
            handshake: limits.handshake_timeout,
            idle: limits.idle_timeout,
            grace: limits.shutdown_grace,
        }
    }

    fn open(&self, directory: KeyDirectory) -> Result<Node, AppError> {
        let configured = self.config.core.onboard.auto_bootstrap_domain.clone();
        Ok(Node::open(directory, configured, SystemTime::now())?)
    }

    /// The node after a commit: read back from the disk, so that what is served is what was saved.
    fn reopen(&self) -> Result<Ready, AppError> {
        match self.open(key_directory(&self.config)?)? {
            Node::Ready(ready) => Ok(*ready),
            Node::Onboarding(_) => Err(AppError::NoKeys),
        }
    }

    fn onboard_service(&self, onboarding: Onboarding) -> OnboardService {
        let core = &self.config.core;
        OnboardService::new(onboard::Parts {
            onboarding: Arc::new(onboarding),
            attester: Arc::clone(&self.attester),
            verifier: Arc::clone(&self.verifier),
            policy: Arc::clone(&self.policy),
            standing: Arc::clone(&self.standing),
            audit: Arc::clone(&self.audit),
            site_name: self.config.core.site_name.clone(),
            tee: if self.config.core.insecure_no_tee { Tee::InsecureAbsent } else { Tee::Present },
            unattested_auto_bootstrap: match (core.attest_rpc_cert, core.enforce_self_authorization) {
                (false, false) => UnattestedAutoBootstrap::Tolerated,
                _ => UnattestedAutoBootstrap::Refused,
            },
        })
    }

    fn admin_token(&self) -> Option<OperatorToken> {
        self.config.core.admin.auth_token.as_ref().map(|token| OperatorToken::new(token.expose()))
    }
}

/// Where the KMS phase gets its connections from.
enum Listener {
    /// A listener of its own.
    Main(TcpListener),
    /// The one that onboarding used: it goes on accepting, into the next phase.
    Taken { phases: watch::Sender<Phase>, accepting: JoinHandle<()> },
}

impl Listener {
    fn address(&self) -> Result<SocketAddr, AppError> {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        match self {
            Self::Main(listener) => {
                listener.local_addr().map_err(|source| AppError::Listen { address: unknown, source })
            }
            Self::Taken { .. } => Ok(unknown),
        }
    }
}

/// The KMS phase, ready to be served.
struct Serving {
    ready: Arc<Ready>,
    meta: Arc<Meta>,
    leaf: Arc<Leaf>,
    images: ImageCache,
    phase: Phase,
}

impl Serving {
    async fn prepare(shared: &Shared, ready: Ready) -> Result<Self, AppError> {
        let core = &shared.config.core;
        let ready = Arc::new(ready);
        let certificate = issue_leaf(shared, &ready).await?;
        let leaf = Leaf::new(vec![certificate], &ready.rpc_key_der())?;
        let clients = match shared.config.rpc.client_certificates {
            config::ClientCertificates::Optional => ClientPolicy::Optional,
            config::ClientCertificates::Mandatory => ClientPolicy::Mandatory,
        };
        let relaxed = shared.posture.codes().map(str::to_owned).collect();
        let meta = Arc::new(Meta::new(&ready, Arc::clone(&shared.policy), relaxed));
        let images = ImageCache::new(core.image.cache_dir.clone());
        let operator = core.admin_token_hash.map(OperatorToken::from_hash).or_else(|| shared.admin_token());
        let service = Arc::new(KmsService::new(kms::Parts {
            ready: Arc::clone(&ready),
            admission: Admission::new(
                Arc::clone(&shared.verifier),
                Arc::clone(&shared.policy),
                shared.image_check(),
                Arc::clone(&shared.metrics),
            ),
            standing: Arc::clone(&shared.standing),
            audit: Arc::clone(&shared.audit),
            meta: Arc::clone(&meta),
            metrics: Arc::clone(&shared.metrics),
            images: images.clone(),
            operator,
        }));
        let shown = core.metrics.enabled.then(|| Arc::clone(&shared.metrics));
        let router = transport::kms(service, &shared.config.rpc.limits, shown).await;
        let front =
            Front::new(router, Arc::clone(&shared.metrics)).limited(Arc::clone(&shared.limit)).versioned();
        let phase = Phase {
            number: 1,
            tls: Some(tls::serving(Arc::clone(&leaf), &ready.temp_ca_der(), clients)?),
            plain: PlainHttp::Closed,
            front: Arc::new(front),
        };
        Ok(Self { ready, meta, leaf, images, phase })
    }

    async fn bind_admin(&self, shared: &Shared) -> Result<Option<(TcpListener, Phase)>, AppError> {
        let admin = &shared.config.core.admin;
        if !admin.enabled {
            return Ok(None);
        }
        let users = match &admin.htpasswd_file {
            Some(path) => Users::parse(&String::from_utf8_lossy(&read_small(path)?))?,
            None => Users::default(),
        };
        let token = shared.admin_token();
        // Without either, the configuration was refused unless it says so.
        let credentials = match (&token, &admin.htpasswd_file, admin.insecure_no_auth) {
            (None, None, true) => Credentials::NoneNeeded,
            _ => Credentials::Needed { token, users },
        };
        let router = transport::admin(Arc::new(AdminService::new(self.images.clone())), &admin.limits);
        let front = Front::new(router, Arc::clone(&shared.metrics))
            .limited(Arc::clone(&shared.limit))
            .guarded(credentials);
        let phase = Phase { number: 1, tls: None, plain: PlainHttp::Served, front: Arc::new(front) };
        let address = SocketAddr::new(admin.address, admin.port);
        let listener = bind(address).await?;
        let actual = listener.local_addr().map_err(|source| AppError::Listen { address, source })?;
        let _ = shared.admin_address.set(actual);
        Ok(Some((listener, phase)))
    }

    /// Serves until `stopping`, then lets running requests finish.
    async fn live(
        self,
        shared: &Shared,
        listener: Listener,
        admin: Option<(TcpListener, Phase)>,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), AppError> {
        let mut background = JoinSet::new();
        self.keep_house(shared, &mut background);
        let mut phases = Vec::new();
        let mut accepting = Vec::new();
        let mut accept = |listener: TcpListener, phase: Phase| {
            let (sender, phase) = watch::channel(phase);
            let metrics = Arc::clone(&shared.metrics);
            accepting.push(tokio::spawn(listener::serve(listener, phase, shared.bounds(), metrics)));
            phases.push(sender);
        };
        if let Some((listener, phase)) = admin {
            accept(listener, phase);
        }
        match listener {
            Listener::Main(listener) => accept(listener, self.phase),
            Listener::Taken { phases: sender, accepting: running } => {
                sender.send_replace(self.phase);
                phases.push(sender);
                accepting.push(running);
            }
        }
        shared.metrics.set_ready();
        shared.audit.note(started("ready", &shared.posture));
        tracing::info!("serving keys");
        let _ = stopping.wait_for(|stop| *stop).await;
        drop(phases);
        for listener in accepting {
            let _ = listener.await;
        }
        background.shutdown().await;
        Ok(())
    }

    fn keep_house(&self, shared: &Shared, background: &mut JoinSet<()>) {
        let standing = Arc::clone(&shared.standing);
        background.spawn(async move { standing.keep_fresh().await });
        let meta = Arc::clone(&self.meta);
        background.spawn(async move { meta.keep_current().await });
        let (limit, metrics, verifier) =
            (Arc::clone(&shared.limit), Arc::clone(&shared.metrics), Arc::clone(&shared.verifier));
        background.spawn(async move {
            let mut tick = tokio::time::interval(HOUSEKEEPING);
            let _refresh = verifier.cache().spawn_refresh();
            loop {
                tick.tick().await;
                limit.prune();
                metrics.set_collateral(collateral_state(&verifier.cache().stats()));
            }
        });
        if shared.config.core.attest_rpc_cert || !shared.config.core.insecure_no_tee {
            let renewal = Renewal {
                ready: Arc::clone(&self.ready),
                leaf: Arc::clone(&self.leaf),
                attester: shared.config.core.attest_rpc_cert.then(|| Arc::clone(&shared.attester)),
            };
            background.spawn(renewal.keep_young());
        }
    }
}

/// Issues the TLS certificate again before it ages; open connections keep theirs.
struct Renewal {
    ready: Arc<Ready>,
    leaf: Arc<Leaf>,
    attester: Option<Arc<Attester>>,
}

impl Renewal {
    async fn keep_young(self) {
        let mut issued = SystemTime::now();
        loop {
            tokio::time::sleep(LEAF_CHECK).await;
            let now = SystemTime::now();
            if !self.ready.rpc_leaf_is_due(issued, now) {
                continue;
            }
            match self.renew(now).await {
                Ok(()) => issued = now,
                Err(error) => {
                    tracing::error!(%error, "the TLS certificate could not be renewed; the old one serves on")
                }
            }
        }
    }

    async fn renew(&self, now: SystemTime) -> Result<(), AppError> {
        let evidence = match &self.attester {
            Some(attester) => Some(attester.attest(self.ready.rpc_report_data()).await?),
            None => None,
        };
        let certificate = issued(&self.ready, evidence, now).await?;
        Ok(self.leaf.swap(vec![certificate], &self.ready.rpc_key_der())?)
    }
}

async fn issue_leaf(shared: &Shared, ready: &Arc<Ready>) -> Result<CertificateDer<'static>, AppError> {
    let evidence = match shared.config.core.attest_rpc_cert {
        true => Some(shared.attester.attest(ready.rpc_report_data()).await.map_err(AppError::Unattested)?),
        false => None,
    };
    issued(ready, evidence, SystemTime::now()).await
}

/// Issues the TLS certificate and keeps it, off the workers: the disk may be slow.
async fn issued(
    ready: &Arc<Ready>,
    evidence: Option<Evidence>,
    now: SystemTime,
) -> Result<CertificateDer<'static>, AppError> {
    let ready = Arc::clone(ready);
    let issue = tokio::task::spawn_blocking(move || ready.issue_rpc_leaf(evidence.as_ref(), now));
    Ok(issue.await.map_err(AppError::Panicked)??)
}

/// A self-signed certificate that lives as long as the onboarding phase.
fn ephemeral_leaf(address: IpAddr) -> Result<Arc<Leaf>, AppError> {
    let key = P256Key::generate();
    let name = if address.is_unspecified() { "localhost".to_owned() } else { address.to_string() };
    let spec = CertificateSpec {
        organization: None,
        common_name: "cvm-kms onboarding",
        names: &[name],
        validity: ca::RPC_LEAF.from(SystemTime::now()),
        role: Role::LEAF,
        app_id: None,
        app_info: None,
        usage: None,
        evidence: None,
    };
    let certificate = certificate::self_signed(&spec, &key).map_err(CaError::from)?;
    Ok(Leaf::new(vec![CertificateDer::from(certificate)], &*key.pkcs8_der())?)
}

fn started(phase: &'static str, posture: &Posture) -> Event {
    Event::Started {
        version: env!("CVM_KMS_VERSION").to_owned(),
        phase,
        posture: posture.codes().map(str::to_owned).collect(),
    }
}

fn collateral_state(stats: &CacheStats) -> CollateralState {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let expires = stats.entries.iter().map(|entry| entry.expires).min();
    CollateralState {
        entries: stats.entries.len() as u64,
        oldest_age: Duration::from_secs(stats.entries.iter().map(|entry| entry.age).max().unwrap_or(0)),
        expires_in: Duration::from_secs(expires.map_or(0, |expires| expires.saturating_sub(now))),
        fetches: stats.fetches,
        failures: stats.failures,
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|source| AppError::Listen { address, source })
}

fn key_directory(config: &Config) -> Result<KeyDirectory, StoreError> {
    let permissions = match config.core.insecure_world_readable_keys {
        true => Permissions::InsecureAllowLoose,
        false => Permissions::OwnerOnly,
    };
    KeyDirectory::open(&config.core.cert_dir, permissions)
}

fn read_small(path: &Path) -> Result<Vec<u8>, AppError> {
    let file = |source| AppError::File { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(file)?.len();
    if length > SMALL_FILE {
        return Err(file(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB")));
    }
    fs::read(path).map_err(file)
}
