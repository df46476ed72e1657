//! Restart: the process ends in order, and its supervisor starts it again.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use super::Caller;
use super::admin::AdminService;
use super::health::Boot;
use crate::audit::Event;
use crate::config::Supervision;
use crate::error::{Code, Error, Result};

/// How long the process goes on, so that the response arrives.
const AFTER_ANSWER: Duration = Duration::from_millis(500);

/// Ends the process for a restart.
#[derive(Debug)]
pub struct RestartService {
    admin: Arc<AdminService>,
    supervision: Supervision,
    boot: Boot,
    /// Becomes true when the process is to end.
    restart: watch::Sender<bool>,
    requested: watch::Sender<bool>,
}

/// The response to a request for a restart.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Restarting {
    /// Always true.
    restarting: bool,
    /// The id of the run that ends; after the restart `/api/v1/health` has another one.
    boot_id: String,
}

impl RestartService {
    /// Makes `restart` true on request.
    pub fn new(
        admin: Arc<AdminService>,
        supervision: Supervision,
        boot: Boot,
        restart: watch::Sender<bool>,
    ) -> Self {
        Self { admin, supervision, boot, restart, requested: watch::Sender::new(false) }
    }

    /// Ends the process after the response. Another request changes nothing.
    ///
    /// # Errors
    /// `not_supervised`: nothing would start it again. `other_domain`.
    pub async fn restart(&self, caller: &Caller) -> Result<Restarting> {
        if self.supervision == Supervision::None {
            let text = "core.admin.supervised is false: nothing starts this process again when it ends";
            return Err(Error::new(Code::Conflict, text).because("not_supervised"));
        }
        caller.expect_whole_kms()?;
        if !self.requested.send_replace(true) {
            let author = caller.author();
            tracing::warn!(by = author.by, "an operator restarts this KMS");
            let event = Event::RestartRequested { by: author.by, remote: author.remote };
            self.admin.recorded(event).await;
            let restart = self.restart.clone();
            tokio::spawn(async move {
                tokio::time::sleep(AFTER_ANSWER).await;
                restart.send_replace(true);
            });
        }
        Ok(Restarting { restarting: true, boot_id: self.boot.id.clone() })
    }
}
