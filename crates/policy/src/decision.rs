//! The types of a decision: its subject, its result, and the reason of a denial.

mod denial;
mod if_image;

use std::sync::Arc;

use kms_attest::identity::{BootInfo, Registers};

pub use self::denial::{Denial, DenialCode};
pub use self::if_image::{IfImage, NotCompared, Unmet, Unsettled};
use crate::epochs::AppEpochs;

/// The identity that a decision is about, and its role.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// An app that requests its keys or a certificate.
    App(&'a BootInfo),
    /// A KMS: this one, a replica, or the source of a replica.
    Kms(&'a BootInfo),
}

/// The kind of caller that a decision is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SubjectKind {
    /// An app.
    App,
    /// A KMS.
    Kms,
}

impl SubjectKind {
    /// `app` or `kms`.
    pub fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Kms => "kms",
        }
    }

    /// Its path in the webhook protocol, below the base URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::App => "bootAuth/app",
            Self::Kms => "bootAuth/kms",
        }
    }

    /// `identity` as a subject of this kind.
    pub fn subject(self, identity: &BootInfo) -> Subject<'_> {
        match self {
            Self::App => Subject::App(identity),
            Self::Kms => Subject::Kms(identity),
        }
    }
}

impl<'a> Subject<'a> {
    /// Its kind.
    pub fn kind(self) -> SubjectKind {
        match self {
            Self::App(_) => SubjectKind::App,
            Self::Kms(_) => SubjectKind::Kms,
        }
    }

    /// The verified identity.
    pub fn boot_info(self) -> &'a BootInfo {
        match self {
            Self::App(boot_info) | Self::Kms(boot_info) => boot_info,
        }
    }
}

/// The role in which a caller makes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// An app that requests its keys.
    App,
    /// A replica that requests the root keys.
    Kms,
    /// An app that requests a certificate.
    Certificate,
}

impl Role {
    /// Its name: `app`, `kms` or `certificate`.
    pub fn name(self) -> &'static str {
        match self {
            Self::App => SubjectKind::App.name(),
            Self::Kms => SubjectKind::Kms.name(),
            Self::Certificate => "certificate",
        }
    }

    /// The role of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::App, Self::Kms, Self::Certificate].into_iter().find(|role| role.name() == name)
    }

    /// The registers that its identity is read from. A certificate uses their state at the end of the boot,
    /// which an app cannot change later.
    pub fn registers(self) -> Registers {
        match self {
            Self::App | Self::Kms => Registers::RunTime,
            Self::Certificate => Registers::BootTime,
        }
    }

    /// The subject that the policy decides about.
    pub fn subject(self, identity: &BootInfo) -> Subject<'_> {
        match self {
            Self::App | Self::Certificate => Subject::App(identity),
            Self::Kms => Subject::Kms(identity),
        }
    }
}

/// The stages of a guest at which its app's keys are released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReleaseStage {
    /// Only while its system boots: evidence from after `system-ready` is refused.
    Boot,
    /// At any stage.
    Any,
}

impl ReleaseStage {
    /// From its name.
    ///
    /// # Errors
    /// The allowed names.
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        match name {
            "boot" => Ok(Self::Boot),
            "any" => Ok(Self::Any),
            _ => Err("must be \"boot\" or \"any\""),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Any => "any",
        }
    }
}

/// The result of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The request is allowed.
    Allowed {
        /// The gateway that the app is told to use.
        gateway_app_id: String,
        /// The stages at which the keys of this app are released; `None` if the policy does not specify them,
        /// and for a KMS.
        release_stage: Option<ReleaseStage>,
        /// The epochs of the keys of this app; `None` if the policy does not specify them, and for a KMS.
        epochs: Option<Arc<AppEpochs>>,
    },
    /// The request is allowed if the guest is shown to have booted the OS image that it names, and denied otherwise.
    IfImage(Box<IfImage>),
    /// The request is denied.
    Denied(Denial),
}

impl Decision {
    /// Whether the subject is allowed, without any condition.
    pub fn is_allowed(&self) -> bool {
        match self {
            Self::Allowed { .. } => true,
            Self::IfImage(_) | Self::Denied(_) => false,
        }
    }
}

/// A decision, and the digest of what decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// The decision.
    pub decision: Decision,
    /// SHA-256 that identifies the rules of this decision. For an allowlist, of the file's bytes; for a webhook, of its
    /// decision key, if one is configured; for a contract, of chain id (8 bytes, big endian), contract address, block
    /// number (8 bytes, big endian) and block hash. `None` if nothing identifies them.
    pub digest: Option<[u8; 32]>,
}

/// There is no decision, so no key is released.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The backend did not respond, or its response does not follow the protocol.
    #[error("authorization backend unavailable")]
    Unavailable {
        /// The cause. For the log only: it can contain host names and text of the backend.
        detail: String,
    },
}

impl PolicyError {
    pub(crate) fn unavailable(detail: impl ToString) -> Self {
        Self::Unavailable { detail: detail.to_string() }
    }

    /// The cause, for the log only.
    pub fn detail(&self) -> &str {
        match self {
            Self::Unavailable { detail } => detail,
        }
    }
}
