//! A running service, for the program that started it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::AppError;
use super::process::Process;
use crate::audit::{Audit, Event, FailureReason, Health};
use crate::config::AuditFailure;
use crate::event_type::Condition;
use crate::notify::Notifier;

/// How often the audit log is checked, if its failure ends the process.
const AUDIT_CHECK: Duration = Duration::from_millis(500);

/// A running service; dropping it stops it at once.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    admin_address: Arc<OnceLock<SocketAddr>>,
    stop: watch::Sender<bool>,
    reload: watch::Sender<u64>,
    restart: watch::Receiver<bool>,
    life: JoinHandle<Result<(), AppError>>,
}

impl Running {
    /// Runs `life` on a task; its first phase listens at `address`.
    pub(super) fn new<F>(address: SocketAddr, process: Process, life: impl FnOnce(Process) -> F) -> Self
    where
        F: Future<Output = Result<(), AppError>> + Send + 'static,
    {
        let (audit, notifier) = (process.audit(), Arc::clone(&process.notifier));
        let on_failure = process.config.core.audit.on_failure;
        Self {
            address,
            admin_address: Arc::clone(&process.admin_address),
            stop: process.stop.clone(),
            reload: process.reload.clone(),
            restart: process.restart.subscribe(),
            life: tokio::spawn(recorded(audit, notifier, on_failure, life(process))),
        }
    }

    /// The address of the first phase.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the admin service, if it is enabled and keys are served.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address.get().copied()
    }

    /// Waits until the service ends by itself.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn stopped(&mut self) -> Result<(), AppError> {
        (&mut self.life).await.map_err(AppError::Panicked)?
    }

    /// Returns when an owner wants the process to end, so that its supervisor starts it again.
    pub fn restart_requested(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut restart = self.restart.clone();
        async move {
            if restart.wait_for(|restart| *restart).await.is_err() {
                // Nobody can want it any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Reads configuration files and allowlist again, and renews the TLS certificate.
    pub fn reload(&self) {
        tracing::info!(
            "reloading: configuration and allowlist are read and the TLS certificate issued again"
        );
        self.reload.send_modify(|count| *count += 1);
    }

    /// Lets running requests finish, then ends.
    ///
    /// # Errors
    /// Why it had already ended.
    pub async fn stop(mut self) -> Result<(), AppError> {
        self.stop.send_replace(true);
        self.stopped().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Runs the service, and records its orderly end in the audit log.
async fn recorded(
    audit: Arc<Audit>,
    notifier: Arc<Notifier>,
    on_failure: AuditFailure,
    life: impl Future<Output = Result<(), AppError>>,
) -> Result<(), AppError> {
    let ended = match on_failure {
        AuditFailure::Retry => life.await,
        AuditFailure::Exit => tokio::select! {
            ended = life => ended,
            reason = audit_fails(&audit) => {
                let sentence = format!("{reason}, and this process ends");
                notifier.last_words(Condition::AuditLogUnavailable, sentence).await;
                Err(AppError::AuditFails(reason))
            }
        },
    };
    if ended.is_ok() {
        audit.note(Event::Stopped);
    }
    ended
}

/// Resolves when the audit log has failed for longer than a moment.
async fn audit_fails(audit: &Audit) -> FailureReason {
    let mut failed = false;
    loop {
        tokio::time::sleep(AUDIT_CHECK).await;
        match audit.health() {
            // These end by themselves, and a restart would begin them again.
            Health::Failing { reason: FailureReason::BuildingTree | FailureReason::Importing, .. } => {
                failed = false;
            }
            Health::Failing { reason, .. } if failed => return reason,
            health => failed = !health.is_writing(),
        }
    }
}
