//! The configured policy: a closed set of kinds.

use std::fmt;
use std::sync::Arc;

use kms_attest::identity::BootInfo;

use crate::allow_all::AllowAll;
use crate::allowlist::Allowlist;
use crate::bundle::Bundled;
use crate::decision::{Decision, DenialCode, PolicyError, Ruling, Subject};
use crate::epochs::AppEpochs;
use crate::error::SetupError;
use crate::ethereum::Ethereum;
use crate::examination::Examination;
use crate::info::{ChainState, InForce, Info};
use crate::observer::WebhookObserver;
use crate::queue::FairnessKey;
use crate::relaxation::Relaxation;
use crate::remedy::{self, Remedy};
use crate::settings::AuthApi;
use crate::webhook::Webhook;

/// The configured policy.
pub enum Policy {
    /// `dev`: everything is allowed.
    AllowAll(AllowAll),
    /// A file defines the rules.
    Allowlist(Allowlist),
    /// The signed bundle in force defines the rules.
    Bundled(Box<Bundled>),
    /// An HTTP service decides.
    Webhook(Webhook),
    /// A contract on a chain decides.
    Ethereum(Box<Ethereum>),
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Policy").field(&self.kind()).finish()
    }
}

impl Policy {
    /// Builds the policy that the configuration names. An invalid allowlist file is not an error here: that
    /// policy denies everything.
    pub fn from_config(config: &AuthApi) -> Result<Self, SetupError> {
        Ok(match config {
            AuthApi::Dev { gateway_app_id } => Self::AllowAll(AllowAll::new(gateway_app_id.clone())),
            AuthApi::Allowlist { path, empty_devices } => {
                Self::Allowlist(Allowlist::open(path.clone(), *empty_devices))
            }
            AuthApi::Bundle(bundle) => Self::Bundled(Box::new(Bundled::new((**bundle).clone()))),
            AuthApi::Webhook(webhook) => Self::Webhook(Webhook::new(webhook)?),
            AuthApi::Ethereum(chain) => Self::Ethereum(Box::new(Ethereum::new(chain)?)),
        })
    }

    /// Decides by the newest rules.
    pub async fn decide(&self, subject: Subject<'_>) -> Result<Decision, PolicyError> {
        Ok(self.rule_on(subject).await?.decision)
    }

    /// Decides by the newest rules, and says by which.
    pub async fn rule_on(&self, subject: Subject<'_>) -> Result<Ruling, PolicyError> {
        self.rule_for(subject, FairnessKey::of(subject)).await
    }

    /// Decides about this KMS itself by the newest rules. Requests about others do not delay it.
    pub async fn decide_own(&self, own: &BootInfo) -> Result<Decision, PolicyError> {
        let decision = self.rule_for(Subject::Kms(own), FairnessKey::Own).await?.decision;
        if let Some(bundled) = self.bundled() {
            bundled.observe_own(own, &decision);
        }
        Ok(decision)
    }

    async fn rule_for(&self, subject: Subject<'_>, key: FairnessKey) -> Result<Ruling, PolicyError> {
        match self {
            Self::AllowAll(policy) => Ok(Ruling { decision: policy.decide(), digest: None }),
            Self::Allowlist(policy) => policy.decide(subject).await,
            Self::Bundled(policy) => Ok(policy.decide(subject)),
            // Boxed, so that the futures of the other policies stay small.
            Self::Webhook(policy) => {
                let decision = Box::pin(policy.decide(subject, key)).await?;
                Ok(Ruling { decision, digest: policy.digest() })
            }
            Self::Ethereum(policy) => Box::pin(policy.decide(subject, key)).await,
        }
    }

    /// Makes the next decision look for the newest block, as it would after a second. Tests call it.
    #[cfg(any(test, feature = "testing"))]
    pub fn look_again(&self) {
        match self {
            Self::AllowAll(_) | Self::Allowlist(_) | Self::Bundled(_) | Self::Webhook(_) => {}
            Self::Ethereum(policy) => policy.look_again(),
        }
    }

    /// Decides at once by the rules that were last read, which may be outdated; `None` if only the backend can decide.
    /// Fuzz tests call it.
    pub fn snapshot_decide(&self, subject: Subject<'_>) -> Option<Decision> {
        match self {
            Self::AllowAll(policy) => Some(policy.decide()),
            Self::Allowlist(policy) => Some(policy.snapshot_decide(subject)),
            Self::Bundled(policy) => Some(policy.decide(subject).decision),
            Self::Webhook(_) | Self::Ethereum(_) => None,
        }
    }

    /// Decides as for a live request, and evaluates every rule.
    pub async fn examine(&self, subject: Subject<'_>) -> Examination {
        match self {
            Self::Allowlist(policy) => policy.examine(subject).await,
            Self::Bundled(policy) => policy.examine(subject),
            Self::AllowAll(_) | Self::Webhook(_) | Self::Ethereum(_) => {
                Examination::of(self.rule_on(subject).await)
            }
        }
    }

    /// What would allow `subject` after a denial with `code`; `None` if no addition would.
    pub fn remedy(&self, code: DenialCode, subject: Subject<'_>) -> Option<Remedy> {
        match self {
            Self::Ethereum(policy) => {
                remedy::on_chain(code, subject, || policy.last_info()?.kms_contract_address)
            }
            Self::Webhook(_) => remedy::in_allowlist(code, subject).map(|remedy| Remedy {
                sentence: format!("at the authorization backend, {}", remedy.sentence),
                ..remedy
            }),
            Self::Bundled(_) => remedy::in_allowlist(code, subject).map(|remedy| Remedy {
                sentence: format!("in the next signed bundle, {}", remedy.sentence),
                ..remedy
            }),
            Self::AllowAll(_) | Self::Allowlist(_) => remedy::in_allowlist(code, subject),
        }
    }

    /// The same of a KMS that compares registers with OS images: there an entry may name a KMS by its OS image.
    pub fn remedy_by_image(&self, code: DenialCode, subject: Subject<'_>) -> Option<Remedy> {
        let by_image = match self {
            Self::Allowlist(_) => remedy::by_image(code, subject),
            Self::Bundled(_) => remedy::by_image(code, subject).map(|remedy| Remedy {
                sentence: format!("in the next signed bundle, {}", remedy.sentence),
                ..remedy
            }),
            // The backend of a webhook sees no registers.
            Self::AllowAll(_) | Self::Webhook(_) | Self::Ethereum(_) => None,
        };
        by_image.or_else(|| self.remedy(code, subject))
    }

    /// What the policy says of the epochs of an app's keys, as far as that is known without asking about a caller: by an
    /// allowlist as it was last read.
    pub fn app_epochs(&self, app_id: &[u8; 20]) -> Option<Arc<AppEpochs>> {
        match self {
            Self::Allowlist(policy) => policy.app_epochs(app_id),
            Self::Bundled(policy) => policy.app_epochs(app_id),
            Self::AllowAll(_) | Self::Webhook(_) | Self::Ethereum(_) => None,
        }
    }

    /// The rules that decide now, as far as they were read.
    pub fn in_force(&self) -> InForce {
        match self {
            Self::Allowlist(policy) => policy.in_force(),
            Self::Bundled(policy) => policy.in_force(),
            Self::Webhook(policy) => InForce { digest: policy.digest(), since: None },
            Self::AllowAll(_) | Self::Ethereum(_) => InForce { digest: None, since: None },
        }
    }

    /// Requests what the backend reports about itself.
    pub async fn info(&self) -> Result<Info, PolicyError> {
        match self {
            Self::AllowAll(policy) => Ok(policy.info()),
            Self::Allowlist(policy) => {
                policy.refresh().await;
                Ok(policy.info())
            }
            Self::Bundled(policy) => Ok(policy.info()),
            Self::Webhook(policy) => policy.info().await.map(Arc::unwrap_or_clone),
            Self::Ethereum(policy) => policy.info().await,
        }
    }

    /// What the backend last reported about itself; sends no request.
    pub fn last_info(&self) -> Option<Info> {
        match self {
            Self::AllowAll(policy) => Some(policy.info()),
            Self::Allowlist(policy) => Some(policy.info()),
            Self::Bundled(policy) => Some(policy.info()),
            Self::Webhook(policy) => policy.last_info().map(Arc::unwrap_or_clone),
            Self::Ethereum(policy) => policy.last_info(),
        }
    }

    /// Reports the events of the webhook to `observer`; other policies have none.
    pub fn report_to(&self, observer: Arc<dyn WebhookObserver>) {
        match self {
            Self::Webhook(policy) => policy.report_to(observer),
            Self::AllowAll(_) | Self::Allowlist(_) | Self::Bundled(_) | Self::Ethereum(_) => {}
        }
    }

    /// The state of the chain, if a contract decides.
    pub fn chain_state(&self) -> Option<ChainState> {
        match self {
            Self::Ethereum(policy) => Some(policy.state()),
            Self::AllowAll(_) | Self::Allowlist(_) | Self::Bundled(_) | Self::Webhook(_) => None,
        }
    }

    /// The policy of signed bundles, if they define the rules.
    pub fn bundled(&self) -> Option<&Bundled> {
        match self {
            Self::Bundled(policy) => Some(policy.as_ref()),
            Self::AllowAll(_) | Self::Allowlist(_) | Self::Webhook(_) | Self::Ethereum(_) => None,
        }
    }

    /// Whether everything is allowed; `is_dev` and `allow_any_upgrade` in `GetMeta`.
    pub fn is_dev(&self) -> bool {
        match self {
            Self::AllowAll(_) => true,
            Self::Allowlist(_) | Self::Bundled(_) | Self::Webhook(_) | Self::Ethereum(_) => false,
        }
    }

    /// Its name in the configuration: `dev`, `allowlist`, `webhook` or `ethereum`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AllowAll(_) => "dev",
            // The rules are those of an allowlist, however they came.
            Self::Allowlist(_) | Self::Bundled(_) => "allowlist",
            Self::Webhook(_) => "webhook",
            Self::Ethereum(_) => "ethereum",
        }
    }

    /// Why the policy cannot decide at the moment, for the operator.
    pub fn last_error(&self) -> Option<String> {
        match self {
            Self::AllowAll(_) => None,
            Self::Allowlist(policy) => policy.last_error(),
            Self::Bundled(policy) => policy.last_error(),
            Self::Webhook(policy) => policy.last_error(),
            Self::Ethereum(policy) => policy.last_error(),
        }
    }

    /// What the rules of the policy relax, in addition to what the configuration relaxes.
    pub fn relaxation(&self) -> Option<Relaxation> {
        match self {
            Self::Allowlist(policy) => policy.relaxation(),
            Self::Bundled(policy) => policy.relaxation(),
            Self::AllowAll(_) | Self::Webhook(_) | Self::Ethereum(_) => None,
        }
    }
}
