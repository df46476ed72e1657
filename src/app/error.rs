//! Why the service does not start, or why it ended.

use std::io;
use std::net::SocketAddr;

use kms_attest::attester::AttesterError;
use kms_policy::SetupError;

use crate::admission::ImageCheckError;
use crate::api::setup::Switch;
use crate::audit::{AuditError, FailureReason};
use crate::ca::CaError;
use crate::config::{CredentialsError, FileError, UnsafeConfig, VerifierError};
use crate::control::KeeperError;
use crate::error::Error;
use crate::events::PipeError;
use crate::lifecycle::LifecycleError;
use crate::net::oidc::IssuerError;
use crate::net::tls::TlsError;
use crate::notify;
use crate::state::shared::MemoryError;
use crate::state::{AppEpochFileError, DomainFileError, DrainFileError, FreezeFileError, JoinFileError};
use crate::store::StoreError;
use crate::traces;

/// Why the service does not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The profile permits no unsafe setting.
    #[error(transparent)]
    Unsafe(#[from] UnsafeConfig),
    /// The key directory or its keys are unusable.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// The key directory cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are no keys, and onboarding is off.
    #[error("Failed to onboard: there are no keys, and core.onboard.enabled is false")]
    NoKeys,
    /// Automatic bootstrap was refused or failed.
    #[error("auto-bootstrap: {0}")]
    AutoBootstrap(Error),
    /// The TLS certificate cannot carry evidence.
    #[error(
        "Failed to reissue the attested KMS RPC certificate; refusing to start with a potentially unattested \
         certificate"
    )]
    Unattested(#[source] AttesterError),
    /// A certificate cannot be issued.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The policy's signed bundles cannot be kept.
    #[error(transparent)]
    Bundles(#[from] KeeperError),
    /// The policy cannot be set up.
    #[error(transparent)]
    Policy(#[from] SetupError),
    /// The audit log cannot be opened or written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The audit log cannot be written, and the configuration says that this ends the process.
    #[error("{0}, and core.audit.on_failure is \"exit\"")]
    AuditFails(FailureReason),
    /// Another process uses the file of credentials.
    #[error("the file that core.admin.credentials_file names is in use by another process")]
    CredentialsFileInUse,
    /// Another process could use the file of credentials too.
    #[error("the file that core.admin.credentials_file names cannot be locked against other processes")]
    CredentialsFileNotLocked(#[source] io::Error),
    /// It is not known who may use the admin listener.
    #[error(transparent)]
    NamedCredentials(#[from] crate::control::OpenError),
    /// The issuer of access tokens cannot be used.
    #[error("core.admin.oidc: {0}")]
    Issuer(#[from] IssuerError),
    /// It is not known what was shared with other nodes.
    #[error(transparent)]
    Fleet(#[from] MemoryError),
    /// Another process uses the file of approvals.
    #[error("the file that core.admin.approvals_file names is in use by another process")]
    ApprovalsFileInUse,
    /// Another process uses the file of freezes.
    #[error("the file that core.freeze.file names is in use by another process")]
    FreezeFileInUse,
    /// The freezes cannot be read.
    #[error(transparent)]
    Freezes(#[from] FreezeFileError),
    /// The epochs of apps cannot be read.
    #[error(transparent)]
    AppEpochs(#[from] AppEpochFileError),
    /// It is not known which invitations of replicas were used.
    #[error(transparent)]
    Joins(#[from] JoinFileError),
    /// It is not known whether this node is drained.
    #[error(transparent)]
    Drains(#[from] DrainFileError),
    /// It is unknown which apps are in which domain.
    #[error(transparent)]
    Domains(#[from] DomainFileError),
    /// The verifier of evidence cannot be set up.
    #[error(transparent)]
    Verifier(#[from] VerifierError),
    /// The verifier of OS images cannot be set up.
    #[error(transparent)]
    OsImage(#[from] ImageCheckError),
    /// The attester cannot be set up, or does not respond.
    #[error(transparent)]
    Attester(#[from] AttesterError),
    /// A task panicked.
    #[error("internal error")]
    Panicked(#[source] tokio::task::JoinError),
    /// A listener cannot be opened.
    #[error("cannot listen on {address}")]
    Listen {
        /// Its address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A file that the configuration names is unusable.
    #[error(transparent)]
    File(#[from] FileError),
    /// The credentials for the admin listener are unusable.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The pipe for events cannot be opened.
    #[error("core.events.fifo: {0}")]
    Pipe(#[from] PipeError),
    /// Nobody can be notified.
    #[error(transparent)]
    Notify(#[from] notify::SetupError),
    /// Traces cannot be sent.
    #[error(transparent)]
    Traces(#[from] traces::SetupError),
    /// The audit log cannot be followed.
    #[error("the audit log cannot be followed")]
    Events(#[source] io::Error),
}

impl AppError {
    /// What this means for existing keys that cannot be served: a fault that may pass, or one that needs a
    /// restart.
    pub(super) fn hindrance(&self) -> Switch {
        match self {
            Self::Unattested(_) | Self::Attester(_) => Switch::Lacking(
                "the attester of this machine does not answer, and the TLS certificate needs it",
            ),
            Self::Listen { .. } => Switch::Lacking("a port that this KMS needs is taken"),
            Self::Audit(_) | Self::AuditFails(_) => Switch::Lacking("the audit log cannot be written"),
            Self::Freezes(_) | Self::FreezeFileInUse => {
                Switch::Lacking("the freezes are unknown; the log says why")
            }
            Self::Fleet(_) => {
                Switch::Lacking("what was shared with other nodes is unknown; the log says why")
            }
            Self::Domains(_) => Switch::Lacking("the domains of some apps are unknown; the log says why"),
            Self::Bundles(_) => {
                Switch::Lacking("the serials of policy bundles are unknown; the log says why")
            }
            Self::AppEpochs(_) => Switch::Lacking("the epochs of some apps are unknown; the log says why"),
            Self::Drains(_) => {
                Switch::Lacking("it is not known whether this node is drained; the log says why")
            }
            Self::Joins(_) => Switch::Lacking("the invitations of replicas are unknown; the log says why"),
            Self::NamedCredentials(_)
            | Self::CredentialsFileInUse
            | Self::CredentialsFileNotLocked(_)
            | Self::ApprovalsFileInUse
            | Self::Issuer(_) => {
                Switch::Lacking("it is not known who may use the admin listener; the log says why")
            }
            Self::Verifier(VerifierError::Floors(_)) => {
                Switch::Lacking("it is unknown which collateral is too old; the log says why")
            }
            Self::Lifecycle(LifecycleError::NoDomain | LifecycleError::Domain(_)) => {
                Switch::Stuck("the domain of this KMS is unknown: set core.onboard.auto_bootstrap_domain")
            }
            Self::Lifecycle(_) | Self::Store(_) | Self::NoKeys | Self::Panicked(_) => {
                Switch::Lacking("the key directory cannot be used; the log says why")
            }
            Self::Unsafe(_)
            | Self::AutoBootstrap(_)
            | Self::Ca(_)
            | Self::Tls(_)
            | Self::Policy(_)
            | Self::Verifier(
                VerifierError::File(_) | VerifierError::Trust(_) | VerifierError::Collateral(_),
            )
            | Self::OsImage(_)
            | Self::File(_)
            | Self::Pipe(_)
            | Self::Notify(_)
            | Self::Traces(_)
            | Self::Events(_)
            | Self::Credentials(_) => {
                Switch::Stuck("its configuration keeps this KMS from serving; the log says why")
            }
        }
    }
}
