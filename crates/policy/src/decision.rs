//! The words of a decision: about whom, what a policy answers, and why it says no.

use kms_attest::identity::{BootInfo, Registers};

/// Whom a decision is about, and as what.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// An app that asks for its keys or a certificate.
    App(&'a BootInfo),
    /// A KMS: this one, a replica, or the source of a replica.
    Kms(&'a BootInfo),
}

/// What kind of caller a decision is about.
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

    /// The webhook protocol's path for it, below the base URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::App => "bootAuth/app",
            Self::Kms => "bootAuth/kms",
        }
    }

    /// A decision about `identity` as this.
    pub fn subject(self, identity: &BootInfo) -> Subject<'_> {
        match self {
            Self::App => Subject::App(identity),
            Self::Kms => Subject::Kms(identity),
        }
    }
}

impl<'a> Subject<'a> {
    /// As what it is judged.
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

/// What a caller asks to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// An app that wants its keys.
    App,
    /// A replica that wants the root keys.
    Kms,
    /// An app that wants a certificate.
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

    /// The registers that its identity is read from. A certificate needs those at the end of booting, which an app
    /// cannot change later.
    pub fn registers(self) -> Registers {
        match self {
            Self::App | Self::Kms => Registers::RunTime,
            Self::Certificate => Registers::BootTime,
        }
    }

    /// What policy is asked about.
    pub fn subject(self, identity: &BootInfo) -> Subject<'_> {
        match self {
            Self::App | Self::Certificate => Subject::App(identity),
            Self::Kms => Subject::Kms(identity),
        }
    }
}

/// At which stages of a guest the keys of its app are released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReleaseStage {
    /// Only while its system boots: no evidence from after `system-ready`.
    Boot,
    /// At any.
    Any,
}

impl ReleaseStage {
    /// From its name.
    ///
    /// # Errors
    /// What it should be.
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

/// What a policy answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allowed {
        /// Handed to the app as its gateway.
        gateway_app_id: String,
        /// At which stages of a guest the keys of this app are released; `None` where the policy does not say, and for a KMS.
        release_stage: Option<ReleaseStage>,
    },
    /// Stop, and say why.
    Denied(Denial),
}

/// Why a policy said no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// For metrics and machines.
    pub code: DenialCode,
    /// For the caller, in the backend's own words: `compose hash not allowed`.
    pub reason: String,
    /// For the operator: what would have been allowed. Bounded.
    pub expected: Option<String>,
    /// For the operator: what was measured.
    pub actual: Option<String>,
}

/// What a policy has against a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenialCode {
    /// The TCB status of the platform.
    TcbStatus,
    /// An advisory that applies to the platform.
    Advisory,
    /// The OS image.
    OsImage,
    /// `mrAggregated` of a KMS.
    KmsMeasurement,
    /// The machine.
    Device,
    /// The policy does not know the app.
    AppNotRegistered,
    /// The app's compose hash.
    ComposeHash,
    /// The app has no contract at its address.
    AppNotDeployed,
    /// The backend's protocol cannot express this identity.
    InvalidRequest,
    /// The guest has booted, and keys are released before.
    GuestHasBooted,
    /// The allowlist is missing or invalid, so everything is denied.
    AllowlistUnusable,
    /// A backend's own reason. The webhook protocol and the contracts have only a text, which is in [`Denial::reason`],
    /// bounded.
    Backend,
}

impl DenialCode {
    /// The stable name: `compose_hash_not_allowed`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TcbStatus => "tcb_status_not_allowed",
            Self::Advisory => "advisory_not_allowed",
            Self::OsImage => "os_image_not_allowed",
            Self::KmsMeasurement => "kms_measurement_not_allowed",
            Self::Device => "device_not_allowed",
            Self::AppNotRegistered => "app_not_registered",
            Self::ComposeHash => "compose_hash_not_allowed",
            Self::AppNotDeployed => "app_not_deployed",
            Self::InvalidRequest => "invalid_request",
            Self::GuestHasBooted => "guest_has_booted",
            Self::AllowlistUnusable => "allowlist_unusable",
            Self::Backend => "denied_by_backend",
        }
    }
}

/// No decision could be had. Keys stay where they are.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The backend did not answer, or not in its protocol.
    #[error("authorization backend unavailable")]
    Unavailable {
        /// What happened. For the log only: it may name hosts and quote the backend.
        detail: String,
    },
}

impl PolicyError {
    pub(crate) fn unavailable(detail: impl ToString) -> Self {
        Self::Unavailable { detail: detail.to_string() }
    }

    /// What happened, for the log only.
    pub fn detail(&self) -> &str {
        match self {
            Self::Unavailable { detail } => detail,
        }
    }
}
