//! Why the service does not start, or ended.

use std::io;
use std::net::SocketAddr;

use kms_attest::attester::AttesterError;

use crate::admission::ImageCheckError;
use crate::api::setup::Switch;
use crate::audit::{AuditError, FailureReason};
use crate::ca::CaError;
use crate::config::{CredentialsError, FileError, VerifierError};
use crate::error::Error;
use crate::events::PipeError;
use crate::lifecycle::LifecycleError;
use crate::net::tls::TlsError;
use crate::policy::SetupError;
use crate::state::FreezeFileError;
use crate::store::StoreError;

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
    /// The audit log cannot be written, and the configuration says that this ends the process.
    #[error("{0}, and core.audit.on_failure is \"exit\"")]
    AuditFails(FailureReason),
    /// Another process keeps its freezes there.
    #[error("the file that core.freeze.file names is in use by another process")]
    FreezeFileInUse,
    /// What is frozen is not known.
    #[error(transparent)]
    Freezes(#[from] FreezeFileError),
    /// Evidence cannot be verified.
    #[error(transparent)]
    Verifier(#[from] VerifierError),
    /// OS images cannot be verified.
    #[error(transparent)]
    OsImage(#[from] ImageCheckError),
    /// The attester cannot be set up, or does not answer.
    #[error(transparent)]
    Attester(#[from] AttesterError),
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
    /// A file that the configuration names is unusable.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not known who may use the admin listener.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Events cannot be reported through a pipe.
    #[error("core.events.fifo: {0}")]
    Pipe(#[from] PipeError),
    /// The audit log cannot be followed.
    #[error("the audit log cannot be followed")]
    Events(#[source] io::Error),
}

impl AppError {
    /// What this means for keys that exist and cannot be served: whether it may pass, or ends with the process only.
    pub(super) fn hindrance(&self) -> Switch {
        match self {
            Self::Unattested(_) | Self::Attester(_) => Switch::Lacking(
                "the attester of this machine does not answer, and the TLS certificate needs it",
            ),
            Self::Listen { .. } => Switch::Lacking("a port that this KMS needs is taken"),
            Self::Audit(_) | Self::AuditFails(_) => Switch::Lacking("the audit log cannot be written"),
            Self::Freezes(_) | Self::FreezeFileInUse => {
                Switch::Lacking("what operators have frozen is not known; the log says why")
            }
            Self::Verifier(VerifierError::Floors(_)) => {
                Switch::Lacking("which collateral is too old is not known; the log says why")
            }
            Self::Lifecycle(LifecycleError::NoDomain | LifecycleError::Domain(_)) => Switch::Stuck(
                "nothing says under which domain this KMS serves (core.onboard.auto_bootstrap_domain)",
            ),
            Self::Lifecycle(_) | Self::Store(_) | Self::NoKeys | Self::Panicked(_) => {
                Switch::Lacking("the key directory cannot be used; the log says why")
            }
            Self::AutoBootstrap(_)
            | Self::Ca(_)
            | Self::Tls(_)
            | Self::Policy(_)
            | Self::Verifier(
                VerifierError::File(_) | VerifierError::Trust(_) | VerifierError::Collateral(_),
            )
            | Self::OsImage(_)
            | Self::File(_)
            | Self::Pipe(_)
            | Self::Events(_)
            | Self::Credentials(_) => {
                Switch::Stuck("its configuration keeps this KMS from serving; the log says why")
            }
        }
    }
}
