//! Puts settings that can change at run time into force.

use std::fmt;
use std::sync::Arc;

use crate::api::kms::KmsService;
use crate::api::settings::Apply;
use crate::config::{Hot, LogLevel};
use crate::log::ProcessLog;
use crate::net::limit::RequestLimit;
use crate::notify::Notifier;

/// The parts of this program; not its libraries, whose details may hold secrets.
const DETAILS: &str = "info,kms=debug,cvm_kms=debug,kms_attest=debug,kms_policy=debug,kms_ledger=debug,\
                       kms_client=debug,kms_wire=debug";

/// The parts with such settings.
pub(super) struct HotParts {
    pub(super) limit: Arc<RequestLimit>,
    pub(super) kms: Arc<KmsService>,
    pub(super) notifier: Arc<Notifier>,
    pub(super) log: Option<ProcessLog>,
}

impl Apply for HotParts {
    fn apply(&self, hot: &Hot) {
        self.limit.change(hot.unauthenticated, hot.app);
        self.kms.change_limits(hot.app, hot.instance);
        self.notifier.change_storm(hot.denial_storm);
        if let Some(log) = &self.log {
            log.select(match hot.log_level {
                LogLevel::AsStarted => None,
                LogLevel::Error => Some("error"),
                LogLevel::Warn => Some("warn"),
                LogLevel::Info => Some("info"),
                LogLevel::Debug => Some(DETAILS),
            });
        }
    }
}

impl fmt::Debug for HotParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotParts").finish_non_exhaustive()
    }
}
