//! Policies: who may have keys. Each is asked with a verified identity and answers with a decision.

mod allow_all;
mod allowlist;
pub mod bundle;
mod contract;
mod decision;
mod drop_in_background;
mod epochs;
mod error;
mod ethereum;
pub mod examination;
mod file;
mod hex_text;
mod info;
mod kms_image;
mod observer;
mod policy;
mod queue;
mod relaxation;
pub mod remedy;
pub mod review;
pub mod rule;
mod rules;
mod ruleset;
pub mod settings;
pub mod signed;
mod webhook;

pub use allow_all::AllowAll;
pub use allowlist::Allowlist;
pub use decision::{
    Decision, Denial, DenialCode, IfImage, NotCompared, PolicyError, ReleaseStage, Role, Ruling, Subject,
    SubjectKind, Unmet, Unsettled,
};
pub use epochs::{AppEpochs, EpochsError, ReadableEpoch, RootChoice};
pub use error::SetupError;
pub use ethereum::Ethereum;
pub use info::{ChainState, InForce, Info};
pub use observer::{ShedBy, WebhookObserver};
pub use policy::Policy;
pub use relaxation::{Relaxation, RelaxationCode, RelaxedKey};
pub use rules::RulesError;
pub use ruleset::Ruleset;
pub use webhook::Webhook;
