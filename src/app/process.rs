//! The parts with the lifetime of the process, each built from its section of the configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;
use std::{fmt, io};

use kms_attest::attester::Attester;
use kms_attest::collateral::{CacheStats, CollateralCache};
use kms_attest::identity::DomainName;
use kms_attest::state_file;
use kms_attest::tcb::SeenPlatforms;
use kms_policy::Policy;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::AppError;
use super::hot::HotParts;
use crate::admission::{Foundation, ImageCheck, SelfAuthorizer, TcbTolerance, WATCHED_FOR};
use crate::api::METHODS;
use crate::api::approval_gate::ApprovalGate;
use crate::api::health::Boot;
use crate::api::images::download_recorder;
use crate::api::kms::KmsService;
use crate::api::routes::Route;
use crate::api::settings::{LogControl, SettingsService};
use crate::api::setup::Switch;
use crate::audit::{Audit, Beginning, Event};
use crate::clock::Floor;
use crate::config::{
    self, APP_EPOCHS, Config, Core, DOMAINS, DRAINS, FLEET, JOINS, POLICY_BUNDLES, Posture, RUNTIME_SETTINGS,
    State,
};
use crate::control::{AppEpochs, Approvals, BundleKeeper, Domains, Drain, Freezes, Joins, Rollouts};
use crate::events::{Events, Pipe, PipeError, Reports, Settings};
use crate::lifecycle::{Node, Ready};
use crate::log::ProcessLog;
use crate::metrics::{CacheState, Kind, Metrics, QueueState};
use crate::net::handshake::Handshakes;
use crate::net::limit::RequestLimit;
use crate::net::listener::{self, Phase};
use crate::net::memory::RequestMemory;
use crate::notify::Notifier;
use crate::operator::Credentials;
use crate::os_image::{self, ImageCache};
use crate::request::Tracer;
use crate::state::shared::{Keeping, Shared};
use crate::state::{ApprovalFile, SettingsFile};
use crate::store::{KeyDirectory, Occupancy, StoreError};
use crate::traces::Exporter;

/// The parts with the lifetime of the process.
pub(super) struct Process {
    pub(super) config: Config,
    foundation: Arc<Foundation>,
    /// The credentials for the admin listener; `None` without such a listener.
    pub(super) credentials: Option<Arc<Credentials>>,
    pub(super) events: Arc<Events>,
    pub(super) reports: Arc<Reports>,
    pub(super) notifier: Arc<Notifier>,
    /// Another one at each start.
    pub(super) boot_id: String,
    /// Reads `core.events.fifo`.
    _pipe: JoinSet<()>,
    limit: Arc<RequestLimit>,
    handshakes: Arc<Handshakes>,
    memory: Arc<RequestMemory>,
    posture: Posture,
    pub(super) admin_address: Arc<OnceLock<SocketAddr>>,
    /// The progress of the switch to the KMS phase.
    pub(super) switch: watch::Sender<Switch>,
    pub(super) started: SystemTime,
    /// Keeps other processes out of the key directory.
    occupancy: Arc<Occupancy>,
    /// Keeps other processes from the file of freezes, if it is elsewhere.
    _freeze_file: Option<state_file::Lock>,
    /// The same for the file of credentials.
    _credentials_file: Option<state_file::Lock>,
    /// The same for the file of approvals.
    _approvals_file: Option<state_file::Lock>,
    /// Changes of owners that wait for a second one.
    pub(super) approvals: Arc<Approvals>,
    /// Changes when the operator requests a reload.
    pub(super) reload: watch::Sender<u64>,
    /// Becomes true when the process must end so that a supervisor starts it again.
    pub(super) restart: watch::Sender<bool>,
    /// Becomes true when the service must end.
    pub(super) stop: watch::Sender<bool>,
    /// Decides which requests are traced; `None` without a collector.
    pub(super) tracer: Option<Tracer>,
    /// Sends traces.
    _exporter: JoinSet<()>,
    /// The signed bundles of each domain whose policy has them.
    pub(super) bundles: Vec<Arc<BundleKeeper>>,
    /// Asks their sources.
    _polling: JoinSet<()>,
    /// The state that this node shares with others; `None` without others.
    pub(super) shared: Option<Arc<Shared>>,
    /// Shares the state of this node with others, once there are keys; `None` without others, and from then on.
    keeping: Mutex<Option<Keeping>>,
    /// The rollout over the nodes of the fleet; `None` without others.
    pub(super) rollouts: Option<Arc<Rollouts>>,
    /// The process log, if it is ours.
    pub(super) log: Option<ProcessLog>,
}

impl Process {
    pub(super) fn build(
        config: Config,
        occupancy: Arc<Occupancy>,
        log: Option<ProcessLog>,
    ) -> Result<Self, AppError> {
        let core = &config.core;
        let freeze_file = freeze_lock(core)?;
        let credentials_file = credentials_lock(core)?;
        let approvals_file = approvals_lock(core)?;
        let clock_floor = Floor::default();
        let attester = Arc::new(core.attester.build()?);
        let verifier = core.verifier(clock_floor.clone())?.remembering(SeenPlatforms::new(WATCHED_FOR));
        let verifier = Arc::new(verifier);
        let policy = Arc::new(Policy::from_config(&core.auth_api)?);
        let domain_policies = domain_policies(&config.domains)?;
        let credentials = core.admin.credentials()?.map(Arc::new);
        let methods = METHODS.iter().map(|row| (row.name, row.access.into()));
        let routes = Route::paths().map(|path| (path, Kind::Other));
        let metrics = Arc::new(Metrics::new(methods.chain(routes)));
        let clock = verifier.cache().clock().clone();
        let tolerance = Arc::new(TcbTolerance::new(core.tcb.clone(), clock, Arc::clone(&metrics)));
        let mut posture = config.posture();
        for relaxation in domain_policies.values().chain([&policy]).filter_map(|policy| policy.relaxation()) {
            posture.relax(relaxation);
        }
        metrics.set_relaxed(posture.codes());
        for policy in domain_policies.values().chain([&policy]) {
            policy.report_to(Arc::clone(&metrics) as _);
        }
        report_collateral(verifier.cache(), &metrics);
        verifier.cache().load_stored();
        if let Some(log) = &log {
            watch_log(log, &metrics);
        }
        let (shared, keeping) = match &core.state {
            State::Files => (None, None),
            State::Postgres(settings) => {
                let memory = core.cert_dir.join(FLEET);
                let (shared, keeping) = Shared::open(Arc::clone(settings), memory, Arc::clone(&metrics))?;
                (Some(shared), Some(keeping))
            }
        };
        let domains = Domains::open(&config.domains, core.cert_dir.join(DOMAINS))?;
        let domains = Arc::new(match &shared {
            Some(shared) => domains.shared(Arc::clone(shared)),
            None => domains,
        });
        let (file, of_freezes) = (core.freeze.file.clone(), Arc::clone(&metrics));
        let freezes = Freezes::open(file, of_freezes, Arc::clone(&domains))?;
        let freezes = Arc::new(match &shared {
            Some(shared) => freezes.shared(Arc::clone(shared)),
            None => freezes,
        });
        let app_epochs = AppEpochs::open(core.cert_dir.join(APP_EPOCHS), Arc::clone(&domains))?;
        let app_epochs = Arc::new(match &shared {
            Some(shared) => app_epochs.shared(Arc::clone(shared)),
            None => app_epochs,
        });
        let audit = Arc::new(Audit::open_with(&core.audit.file, core.into(), clock_floor)?);
        let joins = Joins::open(core.cert_dir.join(JOINS), Arc::clone(&audit))?;
        let joins = Arc::new(match &shared {
            Some(shared) => joins.shared(Arc::clone(shared)),
            None => joins,
        });
        let approvals = Approvals::open(
            core.admin.approvals,
            ApprovalFile::new(core.admin.approvals_file.clone()),
            credentials.clone(),
            core.admin.oidc.iter().filter(|oidc| oidc.has_owners()).count(),
            Arc::clone(&audit),
        );
        audit.report_to(&metrics);
        let images = ImageCache::new(core.image.cache_dir.clone());
        let image = ImageCheck::from_config(&core.image, &images, download_recorder(&audit, &metrics))?;
        images.report_to(&metrics);
        let self_authorization = Arc::new(match core.enforce_self_authorization {
            true => SelfAuthorizer::enforced(
                Arc::clone(&attester),
                Arc::clone(&verifier),
                Arc::clone(&policy),
                Arc::clone(&tolerance),
                image.clone(),
            ),
            false => SelfAuthorizer::waived(),
        });
        let mut bundles = Vec::<Arc<BundleKeeper>>::new();
        for (domain, policy) in [(&DomainName::DEFAULT, &policy)].into_iter().chain(&domain_policies) {
            let keeper = BundleKeeper::open(
                domain.as_str(),
                policy,
                &core.cert_dir.join(POLICY_BUNDLES),
                &core.audit.file,
                &audit,
                &metrics,
            )?;
            bundles.extend(keeper.map(Arc::new));
        }
        let mut polling = JoinSet::new();
        for keeper in &bundles {
            let keeper = Arc::clone(keeper);
            polling.spawn(async move { keeper.keep_fresh().await });
        }
        let events = Events::follow(Settings::from(core), &audit).map_err(AppError::Events)?;
        let reports = Arc::new(Reports::new(Arc::clone(&audit)));
        let boot_id = boot_id();
        let drain = Arc::new(match &shared {
            Some(shared) => Drain::of_fleet(core.cert_dir.join(DRAINS), Arc::clone(shared))?,
            None => Drain::default(),
        });
        let rollouts = shared.as_ref().map(|shared| {
            let (drain, metrics) = (Arc::clone(&drain), Arc::clone(&metrics));
            Arc::new(Rollouts::new(Arc::clone(shared), drain, metrics, boot_id.clone()))
        });
        let notifier = Notifier::start(core.into(), &core.notify, &audit, &metrics, boot_id.clone())?;
        let mut exporter = JoinSet::new();
        let mut tracer = None;
        if let Some(traces) = Exporter::new(&core.traces, boot_id.clone())? {
            metrics.trace_by(traces.tracer().clone());
            tracer = Some(traces.tracer().clone());
            exporter.spawn(traces.run(Arc::clone(&metrics)));
        }
        let mut pipe = JoinSet::new();
        if let Some(path) = &core.events.fifo {
            match Pipe::open(path) {
                Ok(opened) => _ = pipe.spawn(opened.record(Arc::downgrade(&reports))),
                Err(error @ PipeError::Other) => return Err(error.into()),
                // For example a full or read-only disk, which must not stop the KMS.
                Err(error) => {
                    tracing::error!(%error, "core.events.fifo: there is no pipe until the next start")
                }
            }
        }
        Ok(Self {
            events: Arc::new(events),
            reports,
            notifier: Arc::new(notifier),
            boot_id,
            _pipe: pipe,
            tracer,
            _exporter: exporter,
            bundles,
            _polling: polling,
            limit: Arc::new(RequestLimit::of(&core.limits)),
            memory: RequestMemory::of(&core.limits),
            handshakes: Arc::new(Handshakes::new(Arc::clone(&metrics))),
            foundation: Arc::new(Foundation {
                attester,
                verifier,
                policy,
                domain_policies,
                tolerance,
                image,
                images,
                self_authorization,
                freezes,
                domains,
                app_epochs,
                joins,
                drain,
                audit,
                metrics,
            }),
            config,
            credentials,
            posture,
            admin_address: Arc::default(),
            switch: watch::Sender::new(Switch::Resting),
            started: SystemTime::now(),
            reload: watch::Sender::new(0),
            restart: watch::Sender::new(false),
            stop: watch::Sender::new(false),
            occupancy,
            _freeze_file: freeze_file,
            _credentials_file: credentials_file,
            _approvals_file: approvals_file,
            approvals: Arc::new(approvals),
            shared,
            keeping: Mutex::new(keeping),
            rollouts,
            log,
        })
    }

    /// This run of the process.
    pub(super) fn boot(&self) -> Boot {
        Boot { id: self.boot_id.clone(), started: self.started }
    }

    pub(super) fn foundation(&self) -> Arc<Foundation> {
        Arc::clone(&self.foundation)
    }

    pub(super) fn attester(&self) -> Arc<Attester> {
        Arc::clone(&self.foundation.attester)
    }

    /// The attester for our certificates; `None` if they carry no evidence.
    pub(super) fn certificate_attester(&self) -> Option<Arc<Attester>> {
        self.config.core.attest_rpc_cert.then(|| self.attester())
    }

    pub(super) fn audit(&self) -> Arc<Audit> {
        Arc::clone(&self.foundation.audit)
    }

    /// What changes of owners pass.
    pub(super) fn gate(&self) -> ApprovalGate {
        ApprovalGate::new(Arc::clone(&self.approvals))
    }

    pub(super) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.foundation.metrics)
    }

    pub(super) fn limit(&self) -> Arc<RequestLimit> {
        Arc::clone(&self.limit)
    }

    /// What shares the state of this node; only once.
    pub(super) fn keeping(&self) -> Option<Keeping> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The settings, with what owners have changed at run time, which this puts into force.
    pub(super) fn settings(&self, kms: Arc<KmsService>) -> SettingsService {
        let log = if self.log.is_some() { LogControl::Changeable } else { LogControl::Foreign };
        let parts = HotParts {
            limit: self.limit(),
            kms,
            notifier: Arc::clone(&self.notifier),
            log: self.log.clone(),
        };
        let file = SettingsFile::new(self.config.core.cert_dir.join(RUNTIME_SETTINGS));
        SettingsService::open(&self.config, file, self.audit(), Box::new(parts), log)
    }

    pub(super) fn memory(&self) -> Arc<RequestMemory> {
        Arc::clone(&self.memory)
    }

    /// The configured address of the main listener.
    pub(super) fn main_address(&self) -> SocketAddr {
        SocketAddr::new(self.config.rpc.address, self.config.rpc.port)
    }

    /// The port that will serve the keys, if it is not the one of onboarding.
    pub(super) fn other_serving_port(&self) -> Option<u16> {
        let serving = self.config.rpc.port;
        (serving != self.config.core.onboard.port).then_some(serving)
    }

    /// Takes what the sources of signed bundles have now, where it decides at once. A server that is slow is not waited for.
    pub(super) async fn first_bundles(&self) {
        for keeper in &self.bundles {
            keeper.begin().await;
        }
    }

    /// Logs the version and every relaxed setting.
    pub(super) fn announce(&self) {
        let policy = &self.foundation.policy;
        tracing::info!(
            version = env!("CVM_KMS_VERSION"),
            policy = policy.kind(),
            profile = self.config.profile.name(),
            "cvm-kms starts"
        );
        for relaxation in self.posture.relaxed() {
            tracing::warn!(setting = relaxation.code.name(), "RELAXED: {}", relaxation.sentence);
        }
        if !self.notifier.is_idle() {
            tracing::info!(targets = self.notifier.names().join(", "), "events and conditions are notified");
        }
        let image = &self.config.core.image;
        if image.verify && image.acpi_tables.as_ref().is_some_and(|program| !os_image::is_installed(program))
        {
            tracing::warn!(
                "core.image.acpi_tables is not installed: CVMs with legacy TDX attestation will get no keys"
            );
        }
        for (user, cost) in self.credentials.iter().flat_map(|credentials| credentials.slow_users()) {
            tracing::warn!(
                user,
                cost,
                "core.admin.htpasswd_file: this hash delays every login; use a cost of 10 to 12"
            );
        }
        if let Some(error) = policy.last_error() {
            tracing::warn!(error, "the policy denies everyone for now");
        }
        for (domain, policy) in &self.foundation.domain_policies {
            if let Some(error) = policy.last_error() {
                tracing::warn!(%domain, error, "the policy of a domain denies all its apps for now");
            }
        }
        if policy.chain_state().is_some() {
            // Logs at the start which endpoints are unusable.
            let policy = Arc::clone(policy);
            tokio::spawn(async move { policy.info().await });
        }
    }

    /// Logs that the audit log is new although there are keys: earlier records are in another file, or lost.
    pub(super) fn announce_new_log(&self) {
        let audit = &self.foundation.audit;
        if audit.beginning() == Beginning::Empty {
            tracing::warn!(
                "the audit log is new, but keys exist already: earlier releases are recorded in another file, or not \
                 at all"
            );
            audit.note(Event::LogBegan { reason: "keys_exist" });
        }
    }

    pub(super) fn note_start(&self, phase: &'static str) {
        self.foundation.audit.note(Event::Started {
            version: env!("CVM_KMS_VERSION").to_owned(),
            phase,
            posture: self.posture.codes().map(str::to_owned).collect(),
            boot_id: self.boot_id.clone(),
            policy: self.foundation.policy.kind(),
            domains_sha256: self.foundation.domains.digest().map(hex::encode),
        });
    }

    /// Accepts connections until the sender of phases is dropped.
    pub(super) fn listen(
        &self,
        listener: TcpListener,
        phase: watch::Receiver<Phase>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let bounds = (&self.config.core.limits).into();
        listener::serve(listener, phase, bounds, Arc::clone(&self.handshakes), self.metrics())
    }

    /// Resolves when the service must end.
    pub(super) async fn stopping(&self) {
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// What the configuration and the policy relax.
    pub(super) fn posture(&self) -> &Posture {
        &self.posture
    }

    pub(super) fn open(&self, directory: KeyDirectory) -> Result<Node, AppError> {
        let core = &self.config.core;
        let configured = core.onboard.auto_bootstrap_domain.clone();
        Ok(Node::open(directory, configured, &core.reserved_names(), SystemTime::now())?)
    }

    /// The node after a commit, read from the disk again, so that exactly what was saved is served.
    pub(super) fn reopen(&self) -> Result<Ready, AppError> {
        match self.open(key_directory(&self.config, &self.occupancy)?)? {
            Node::Ready(ready) => Ok(*ready),
            Node::Onboarding(_) => Err(AppError::NoKeys),
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}

/// Counts requests for collateral, and shows the cache.
fn report_collateral(cache: &CollateralCache, metrics: &Arc<Metrics>) {
    cache.report_to(Arc::clone(metrics) as _);
    let cache = cache.clone();
    metrics.watch_cache("collateral", move || {
        let CacheStats { hits, misses, entries, .. } = cache.stats();
        Some(CacheState { entries: entries.len() as u64, limit: None, hits, misses })
    });
}

/// Shows the queue of the process log, in bytes.
fn watch_log(log: &ProcessLog, metrics: &Metrics) {
    let log = log.clone();
    metrics.watch_queue("log_bytes", move || {
        let (waiting, limit) = log.waiting();
        Some(QueueState { waiting: waiting as u64, limit: Some(limit as u64), shed: log.dropped() })
    });
}

fn boot_id() -> String {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).expect("the system has randomness");
    hex::encode(id)
}

pub(super) fn key_directory(config: &Config, occupancy: &Arc<Occupancy>) -> Result<KeyDirectory, StoreError> {
    KeyDirectory::open_occupied(&config.core.cert_dir, (&config.core).into(), Arc::clone(occupancy))
}

/// Keeps another KMS from overwriting the freezes. In the key directory, its own lock does that.
fn freeze_lock(core: &Core) -> Result<Option<state_file::Lock>, AppError> {
    match lock(core, &core.freeze.file, AppError::FreezeFileInUse)? {
        Ok(lock) => Ok(lock),
        // For example a full disk: freezes then hold in memory only, and a freeze reports that it was not
        // saved.
        Err(error) => {
            tracing::warn!(%error, "the file of core.freeze.file cannot be locked against other processes");
            Ok(None)
        }
    }
}

/// Another KMS must not replace the credentials of this one.
fn credentials_lock(core: &Core) -> Result<Option<state_file::Lock>, AppError> {
    if !core.admin.enabled {
        return Ok(None);
    }
    // Without the lock, another process could bring back what was revoked here.
    lock(core, &core.admin.credentials_file, AppError::CredentialsFileInUse)?
        .map_err(AppError::CredentialsFileNotLocked)
}

/// Another KMS must not overwrite what waits for a second owner of this one.
fn approvals_lock(core: &Core) -> Result<Option<state_file::Lock>, AppError> {
    if !core.admin.enabled {
        return Ok(None);
    }
    match lock(core, &core.admin.approvals_file, AppError::ApprovalsFileInUse)? {
        Ok(lock) => Ok(lock),
        Err(error) => {
            tracing::warn!(%error, "the file of core.admin.approvals_file cannot be locked against other processes");
            Ok(None)
        }
    }
}

/// The lock of a file; none in the key directory, which has its own.
fn lock(
    core: &Core,
    file: &Path,
    in_use: AppError,
) -> Result<io::Result<Option<state_file::Lock>>, AppError> {
    if file.parent() == Some(&*core.cert_dir) {
        return Ok(Ok(None));
    }
    match state_file::Lock::take(file) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use),
        taken => Ok(taken.map(Some)),
    }
}

pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|source| AppError::Listen { address, source })
}

/// The actual address of a listener, whose port 0 lets the system choose.
pub(super) fn address_of(listener: &TcpListener) -> Result<SocketAddr, AppError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    listener.local_addr().map_err(|source| AppError::Listen { address: unknown, source })
}

/// The policies of the domains that have one of their own.
pub(super) fn domain_policies(
    domains: &config::Domains,
) -> Result<BTreeMap<DomainName, Arc<Policy>>, AppError> {
    let policies = domains.iter().filter_map(|(name, domain)| Some((name, domain.auth_api.as_ref()?)));
    policies.map(|(name, policy)| Ok((name.clone(), Arc::new(Policy::from_config(policy)?)))).collect()
}
