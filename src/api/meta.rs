//! The response of `GetMeta`, prepared in the background so that a call waits for nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use kms_policy::{Info, Policy};
use tokio::sync::watch;

use super::prepared::Prepared;
use super::readiness::{Effect, Readiness, Report};
use crate::admission::Foundation;
use crate::audit::{Audit, KeyChanged};
use crate::config::{Posture, RequireFresh};
use crate::control::Domains;
use crate::keys::keyring::{EpochInfo, EpochTimes};
use crate::lifecycle::Ready;
use crate::metrics::Metrics;
use crate::proto::{GetMetaResponse, LogKeyChange, RootEpochInfo};

/// How often the authorization backend is asked for its description.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How often the age in the response is updated.
const AGE_EVERY: Duration = Duration::from_secs(1);

/// The response of `GetMeta`, kept current in the background.
#[derive(Debug)]
pub struct Meta {
    fixed: GetMetaResponse,
    ready: Arc<Ready>,
    policy: Arc<Policy>,
    configured: Posture,
    readiness: Arc<Readiness>,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    domains: Arc<Domains>,
    current: ArcSwap<Prepared<GetMetaResponse>>,
}

impl Meta {
    /// The response for this KMS, which requires fresh evidence of these. Its relaxed settings are those in `configured`, and those of the policy's
    /// rules while they are in force.
    pub fn new(
        ready: Arc<Ready>,
        foundation: &Foundation,
        configured: Posture,
        require_fresh: RequireFresh,
        readiness: Arc<Readiness>,
    ) -> Self {
        let (policy, metrics) = (Arc::clone(&foundation.policy), Arc::clone(&foundation.metrics));
        let audit = Arc::clone(&foundation.audit);
        let everything_is_allowed = policy.is_dev();
        let posture = relaxed(&configured, &policy);
        let fixed = GetMetaResponse {
            ca_cert: ready.root_ca_pem().to_owned(),
            allow_any_upgrade: everything_is_allowed,
            k256_pubkey: ready.k256_public_key().to_vec(),
            bootstrap_info: ready.bootstrap_info().cloned(),
            is_dev: everything_is_allowed,
            // As configured, where no backend has to be asked.
            gateway_app_id: policy
                .last_info()
                .filter(|_| everything_is_allowed)
                .and_then(|info| info.gateway_app_id),
            os_image_verification: Some(configured.verifies_os_images()),
            version: env!("CVM_KMS_VERSION").to_owned(),
            relaxed_settings: posture.codes().map(str::to_owned).collect(),
            relaxed_details: posture.details().map(str::to_owned).collect(),
            require_fresh: Some(require_fresh.name().to_owned()),
            ..GetMetaResponse::default()
        };
        let current = ArcSwap::from_pointee(Prepared::new(fixed.clone()));
        let domains = Arc::clone(&foundation.domains);
        let meta = Self { fixed, ready, policy, configured, readiness, audit, metrics, domains, current };
        meta.show(None);
        meta
    }

    /// The current response.
    pub fn answer(&self) -> Arc<Prepared<GetMetaResponse>> {
        self.current.load_full()
    }

    /// What is relaxed, by the configuration and by the policy's current rules.
    pub fn relaxed(&self) -> Posture {
        relaxed(&self.configured, &self.policy)
    }

    /// Keeps the response current until dropped. While the backend does not respond, its last description
    /// stays, and its age is shown.
    pub async fn refresh_loop(&self) {
        let (tell, mut told) = watch::channel(None);
        let ask = async {
            let mut tick = tokio::time::interval(ASK_EVERY);
            loop {
                tick.tick().await;
                match self.policy.info().await {
                    Ok(info) => drop(tell.send_replace(Some((info, Instant::now())))),
                    Err(error) => {
                        tracing::warn!(%error, "the authorization backend gives no description of itself")
                    }
                }
            }
        };
        let show = async {
            let mut readiness = self.readiness.watch();
            let mut tick = tokio::time::interval(AGE_EVERY);
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    _ = told.changed() => {}
                    _ = readiness.changed() => {}
                }
                readiness.mark_unchanged();
                let known = told.borrow_and_update().clone();
                self.show(known.as_ref().map(|(info, at): &(Info, Instant)| (info, at.elapsed())));
            }
        };
        tokio::join!(ask, show);
    }

    fn show(&self, known: Option<(&Info, Duration)>) {
        let posture = relaxed(&self.configured, &self.policy);
        let mut shown = GetMetaResponse {
            relaxed_settings: posture.codes().map(str::to_owned).collect(),
            relaxed_details: posture.details().map(str::to_owned).collect(),
            ..self.fixed.clone()
        };
        let report = self.readiness.report();
        shown.domains_sha256 = self.domains.digest().map(hex::encode).unwrap_or_default();
        shown.ready = Some(report.is_ready());
        shown.not_ready = Report::shown(report.not_ready());
        shown.readiness_warnings = Report::shown(report.with(Effect::Warns));
        let before = self.current.load();
        shown.epochs = self.epochs(&before.message().epochs);
        if let Some(head) = self.audit.head() {
            shown.log_key = head.key.to_string();
            shown.log_key_signature = head.vouching.to_vec();
            shown.log_key_changes = head.key_changes.iter().map(log_key_change).collect();
        }
        if let Some((info, age)) = known {
            shown.gateway_app_id.clone_from(&info.gateway_app_id);
            shown.kms_contract_address.clone_from(&info.kms_contract_address);
            shown.chain_id = info.chain_id;
            shown.app_auth_implementation.clone_from(&info.app_auth_implementation);
            shown.auth_info_age_seconds = Some(age.as_secs());
        }
        if before.message().relaxed_settings != shown.relaxed_settings {
            tracing::warn!(settings = shown.relaxed_settings.join(", "), "the relaxed settings have changed");
            self.metrics.set_relaxed(posture.codes());
        }
        if before.message() != &shown {
            self.current.store(Arc::new(Prepared::new(shown)));
        }
    }
}

impl Meta {
    /// What is public of each root epoch. A statement that was `known` is not signed again, because it never changes.
    fn epochs(&self, known: &[RootEpochInfo]) -> Vec<RootEpochInfo> {
        if self.ready.has_first_epoch_only() {
            return Vec::new();
        }
        let shown = |epoch: EpochInfo| {
            let known = known.iter().find(|known| known.number == epoch.epoch.0);
            let (signature, older_signature) = match known {
                Some(known) => (known.signature.clone(), known.older_signature.clone()),
                None => (self.ready.root_epoch_statement(&epoch), self.ready.older_root_statement(&epoch)),
            };
            let EpochTimes { prepared_at, activate_at, retired_at, destroyed_at } = epoch.times;
            RootEpochInfo {
                number: epoch.epoch.0,
                state: epoch.state.name().to_owned(),
                ca_pubkey: epoch.ca_spki.to_vec(),
                k256_pubkey: epoch.k256_public.to_vec(),
                prepared_at,
                active_from: activate_at,
                retired_at,
                destroyed_at,
                signature,
                older_signature,
            }
        };
        self.ready.epochs().into_iter().map(shown).collect()
    }
}

/// A change of the log's key. Its hexadecimal fields are written by this program.
fn log_key_change(change: &KeyChanged) -> LogKeyChange {
    let bytes = |hexadecimal: &str| hex::decode(hexadecimal).unwrap_or_default();
    LogKeyChange {
        earlier_key: change.previous.clone(),
        earlier_signature: bytes(&change.previous_statement),
        key: change.key.clone(),
        signature: bytes(&change.statement),
        endorsement: change.endorsement.as_deref().map(bytes).unwrap_or_default(),
    }
}

/// The relaxed settings of the configuration and of the policy's current rules.
fn relaxed(configured: &Posture, policy: &Policy) -> Posture {
    let mut posture = configured.clone();
    if let Some(relaxation) = policy.relaxation() {
        posture.relax(relaxation);
    }
    posture
}
