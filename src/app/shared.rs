//! The parts that both phases use, each built from its section of the configuration.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use kms_attest::{attester::Attester, state_file, verify::Verifier};
use tokio::{net::TcpListener, sync::watch};

use super::{AppError, parts};
use crate::{
    admission::{Freezes, SelfAuthorizer, TcbTolerance},
    api::{
        METHODS,
        onboard::{self, OnboardService, Tee, UnattestedAutoBootstrap},
        setup::{SetupService, Switch, Token},
    },
    audit::{Audit, Beginning, Event},
    clock::Floor,
    config::{Config, Posture},
    domain::ReservedName,
    lifecycle::{Node, Onboarding, Ready},
    log::ProcessLog,
    metrics::Metrics,
    net::{
        handshake::Handshakes,
        limit::RequestLimit,
        listener::{self, Bounds, Phase},
        memory::RequestMemory,
    },
    operator::Credentials,
    os_image,
    policy::Policy,
    store::{KeyDirectory, Occupancy, StoreError},
};

/// What both phases use.
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) attester: Arc<Attester>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) policy: Arc<Policy>,
    pub(super) tolerance: Arc<TcbTolerance>,
    /// Who may use the admin listener; `None` where there is none.
    pub(super) credentials: Option<Arc<Credentials>>,
    pub(super) self_authorization: Arc<SelfAuthorizer>,
    pub(super) freezes: Arc<Freezes>,
    pub(super) audit: Arc<Audit>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limit: Arc<RequestLimit>,
    handshakes: Arc<Handshakes>,
    pub(super) memory: Arc<RequestMemory>,
    pub(super) posture: Posture,
    pub(super) admin_address: Arc<OnceLock<SocketAddr>>,
    /// How far the switch to the KMS phase has come, for who watches it.
    pub(super) switch: watch::Sender<Switch>,
    started: SystemTime,
    /// The key directory is ours alone.
    occupancy: Arc<Occupancy>,
    /// So is the file of freezes, where it is elsewhere.
    _freeze_file: Option<state_file::Lock>,
    /// Changes when the operator asks to reload.
    pub(super) reload: watch::Sender<u64>,
    /// The process log, where there is one of ours.
    pub(super) log: Option<ProcessLog>,
}

impl Shared {
    pub(super) fn new(
        config: &Arc<Config>,
        occupancy: Arc<Occupancy>,
        log: Option<ProcessLog>,
    ) -> Result<Self, AppError> {
        let core = &config.core;
        let freeze_file = parts::freeze_file(core)?;
        let attester = Arc::new(parts::attester(core)?);
        let clock_floor = Floor::default();
        let verifier = Arc::new(parts::verifier(core, clock_floor.clone())?);
        let policy = Arc::new(parts::policy(core)?);
        let credentials = parts::admin_credentials(core)?.map(Arc::new);
        let metrics = Arc::new(Metrics::new(METHODS.iter().map(|row| (row.name, row.access.counted_as()))));
        let tolerance = Arc::new(parts::tolerance(core, &verifier, &metrics));
        let self_authorization = Arc::new(match core.enforce_self_authorization {
            true => SelfAuthorizer::enforced(
                Arc::clone(&attester),
                Arc::clone(&verifier),
                Arc::clone(&policy),
                Arc::clone(&tolerance),
            ),
            false => SelfAuthorizer::waived(),
        });
        let mut posture = config.posture();
        if let Some(relaxation) = policy.relaxation() {
            posture.relax(relaxation);
        }
        metrics.set_relaxed(posture.codes());
        policy.show_in(&metrics);
        Ok(Self {
            freezes: Arc::new(Freezes::open(core.freeze.file.clone(), Arc::clone(&metrics))?),
            audit: Arc::new(Audit::open_with(&core.audit.file, parts::audit_storage(core), clock_floor)?),
            limit: Arc::new(RequestLimit::of(&core.limits)),
            memory: RequestMemory::new(
                core.limits.max_request_memory.unwrap_or_else(RequestMemory::default_total),
            ),
            handshakes: Arc::new(Handshakes::new(Arc::clone(&metrics))),
            config: Arc::clone(config),
            attester,
            verifier,
            policy,
            tolerance,
            credentials,
            self_authorization,
            metrics,
            posture,
            admin_address: Arc::default(),
            switch: watch::Sender::new(Switch::Resting),
            started: SystemTime::now(),
            reload: watch::Sender::new(0),
            occupancy,
            _freeze_file: freeze_file,
            log,
        })
    }

    /// Says at each start what is relaxed.
    pub(super) fn announce(&self) {
        tracing::info!(version = env!("CVM_KMS_VERSION"), policy = self.policy.kind(), "cvm-kms starts");
        for relaxation in self.posture.relaxed() {
            tracing::warn!(setting = relaxation.code, "RELAXED: {}", relaxation.sentence);
        }
        let image = &self.config.core.image;
        if image.verify && image.acpi_tables.as_ref().is_some_and(|program| !os_image::is_installed(program))
        {
            tracing::warn!(
                "core.image.acpi_tables is not installed: CVMs with legacy TDX attestation will have no keys"
            );
        }
        for (user, cost) in self.credentials.iter().flat_map(|credentials| credentials.slow_users()) {
            tracing::warn!(
                user,
                cost,
                "core.admin.htpasswd_file: this hash makes everybody wait who logs in; use a cost of 10 to 12"
            );
        }
        if let Some(error) = self.policy.last_error() {
            tracing::warn!(error, "the policy denies everyone for now");
        }
        if self.policy.chain_state().is_some() {
            // So that the log says at the start which endpoints cannot be used.
            let policy = Arc::clone(&self.policy);
            tokio::spawn(async move { policy.info().await });
        }
    }

    /// Says that the audit log begins although there are keys: that of before is elsewhere, or lost.
    pub(super) fn announce_new_log(&self) {
        if self.audit.beginning() == Beginning::Empty {
            tracing::warn!(
                "the audit log begins here, but there are keys already: what was released until now is in another \
                 file, or nowhere"
            );
            self.audit.note(Event::LogBegan { reason: "keys_exist" });
        }
    }

    /// Accepts connections until the sender of phases is gone.
    pub(super) fn listen(
        &self,
        listener: TcpListener,
        phase: watch::Receiver<Phase>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (handshakes, metrics) = (Arc::clone(&self.handshakes), Arc::clone(&self.metrics));
        listener::serve(listener, phase, self.bounds(), handshakes, metrics)
    }

    fn bounds(&self) -> Bounds {
        let limits = &self.config.core.limits;
        Bounds {
            connections: limits.max_connections,
            handshake: limits.handshake_timeout,
            idle: limits.idle_timeout,
            request: limits.request_timeout,
            grace: limits.shutdown_grace,
        }
    }

    pub(super) fn open(&self, directory: KeyDirectory) -> Result<Node, AppError> {
        let core = &self.config.core;
        let configured = core.onboard.auto_bootstrap_domain.clone();
        let mut reserved = core.reserved_domains.clone();
        // A client that trusts our root looks for the admin listener under these names.
        if let Some(tls) = core.admin.tls.as_ref().filter(|_| core.admin.enabled) {
            let address = core.admin.address;
            let is_own = !address.is_unspecified() && !address.is_loopback();
            reserved.extend(tls.hosts.iter().cloned());
            reserved.extend(is_own.then(|| ReservedName::from(address)));
        }
        Ok(Node::open(directory, configured, &reserved, SystemTime::now())?)
    }

    /// The node after a commit: read back from the disk, so that what is served is what was saved.
    pub(super) fn reopen(&self) -> Result<Ready, AppError> {
        match self.open(key_directory(&self.config, &self.occupancy)?)? {
            Node::Ready(ready) => Ok(*ready),
            Node::Onboarding(_) => Err(AppError::NoKeys),
        }
    }

    pub(super) fn setup_service(&self, onboard: Arc<OnboardService>, token: Token) -> SetupService {
        let (here, there) = (self.config.core.onboard.port, self.config.rpc.port);
        let serving_port = (here != there).then_some(there);
        SetupService::new(onboard, self.switch.subscribe(), token, serving_port, self.started)
    }

    pub(super) fn onboard_service(&self, onboarding: Onboarding) -> OnboardService {
        let core = &self.config.core;
        OnboardService::new(onboard::Parts {
            onboarding: Arc::new(onboarding),
            attester: Arc::clone(&self.attester),
            verifier: Arc::clone(&self.verifier),
            policy: Arc::clone(&self.policy),
            tolerance: Arc::clone(&self.tolerance),
            self_authorization: Arc::clone(&self.self_authorization),
            audit: Arc::clone(&self.audit),
            // So that the answer says what took too long, rather than that something did.
            patience: core.limits.request_timeout * 9 / 10,
            site_name: self.config.core.site_name.clone(),
            tee: if self.config.core.insecure_no_tee { Tee::InsecureAbsent } else { Tee::Present },
            unattested_auto_bootstrap: match (core.attest_rpc_cert, core.enforce_self_authorization) {
                (false, false) => UnattestedAutoBootstrap::Tolerated,
                _ => UnattestedAutoBootstrap::Refused,
            },
        })
    }
}
pub(super) fn started(phase: &'static str, posture: &Posture) -> Event {
    Event::Started {
        version: env!("CVM_KMS_VERSION").to_owned(),
        phase,
        posture: posture.codes().map(str::to_owned).collect(),
    }
}
pub(super) fn key_directory(config: &Config, occupancy: &Arc<Occupancy>) -> Result<KeyDirectory, StoreError> {
    let permissions = parts::key_permissions(config);
    KeyDirectory::open_occupied(&config.core.cert_dir, permissions, Arc::clone(occupancy))
}
