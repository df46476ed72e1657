//! The parts that both phases use, each built from its section of the configuration.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use kms_attest::{
    attester::{Attester, ConfigfsTsm, GuestAgent},
    collateral::{CacheOptions, CollateralCache},
    trust::TrustAnchors,
    verify::Verifier,
};

use super::AppError;
use crate::{
    admission::{ImageCheck, OwnStanding},
    audit::{Audit, Event},
    config::{self, Config, Posture},
    lifecycle::{Node, Onboarding, Ready},
    metrics::Metrics,
    operator::OperatorToken,
    policy::Policy,
    service::{
        METHODS,
        onboard::{self, OnboardService, Tee, UnattestedAutoBootstrap},
    },
    store::{KeyDirectory, Permissions, StoreError},
    transport::{limit::AddressLimit, listener::Bounds},
};

/// Largest htpasswd file and trust anchor in bytes.
const SMALL_FILE: u64 = 1024 * 1024;

/// What both phases use.
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) attester: Arc<Attester>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) policy: Arc<Policy>,
    pub(super) standing: Arc<OwnStanding>,
    pub(super) audit: Arc<Audit>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limit: Arc<AddressLimit>,
    pub(super) posture: Posture,
    pub(super) admin_address: Arc<OnceLock<SocketAddr>>,
}

impl Shared {
    pub(super) fn new(config: &Arc<Config>) -> Result<Self, AppError> {
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
    pub(super) fn announce(&self) {
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

    pub(super) fn image_check(&self) -> ImageCheck {
        if self.config.core.image.verify { ImageCheck::Required } else { ImageCheck::Waived }
    }

    pub(super) fn bounds(&self) -> Bounds {
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
        let configured = self.config.core.onboard.auto_bootstrap_domain.clone();
        Ok(Node::open(directory, configured, SystemTime::now())?)
    }

    /// The node after a commit: read back from the disk, so that what is served is what was saved.
    pub(super) fn reopen(&self) -> Result<Ready, AppError> {
        match self.open(key_directory(&self.config)?)? {
            Node::Ready(ready) => Ok(*ready),
            Node::Onboarding(_) => Err(AppError::NoKeys),
        }
    }

    pub(super) fn onboard_service(&self, onboarding: Onboarding) -> OnboardService {
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

    pub(super) fn admin_token(&self) -> Option<OperatorToken> {
        self.config.core.admin.auth_token.as_ref().map(|token| OperatorToken::new(token.expose()))
    }
}
pub(super) fn started(phase: &'static str, posture: &Posture) -> Event {
    Event::Started {
        version: env!("CVM_KMS_VERSION").to_owned(),
        phase,
        posture: posture.codes().map(str::to_owned).collect(),
    }
}
pub(super) fn key_directory(config: &Config) -> Result<KeyDirectory, StoreError> {
    let permissions = match config.core.insecure_world_readable_keys {
        true => Permissions::InsecureAllowLoose,
        false => Permissions::OwnerOnly,
    };
    KeyDirectory::open(&config.core.cert_dir, permissions)
}
pub(super) fn read_small(path: &Path) -> Result<Vec<u8>, AppError> {
    let file = |source| AppError::File { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(file)?.len();
    if length > SMALL_FILE {
        return Err(file(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB")));
    }
    fs::read(path).map_err(file)
}
