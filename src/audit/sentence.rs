//! A record as one plain sentence for people. These texts are only here.

mod control;
mod credentials;
mod fleet;
mod keys;
mod log;
mod releases;

use serde_json::Value;

use super::printable::{is_deceptive, printable};
use super::record::Record;
use crate::event_type::EventType;

/// Maximum length of a value in a sentence; the record has it in full.
const MAX_VALUE: usize = 300;

impl Record {
    /// One sentence. A report from outside begins with its source in brackets, which no other sentence does.
    pub fn sentence(&self) -> String {
        self.known_sentence().unwrap_or_else(|| format!("event of type {}", short(&printable(&self.kind))))
    }

    /// `None` for a type that this version does not know.
    fn known_sentence(&self) -> Option<String> {
        Some(match EventType::parse(&self.kind)? {
            EventType::Started => log::started(self),
            EventType::LogBegan => log::log_began(),
            EventType::LogRenamed => log::log_renamed(self),
            EventType::LogKeyChanged => log::log_key_changed(self),
            EventType::Imported => log::imported(self),
            EventType::SegmentArchived => log::segment_archived(self),
            EventType::ImageDownloadStarted => log::image_download_started(self),
            EventType::ImageDownloadProgress => log::image_download_progress(self),
            EventType::ImageDownloaded => log::image_downloaded(self),
            EventType::ImageDownloadFailed => log::image_download_failed(self),
            EventType::Stopped => log::stopped(),
            EventType::Recovered => log::recovered(self),
            EventType::Resumed => log::resumed(self),
            EventType::SegmentBegan => log::segment_began(self),
            EventType::ClockFloorLowered => log::clock_floor_lowered(self),
            EventType::Suppressed => log::suppressed(self),
            EventType::KeysBootstrapped => keys::keys_bootstrapped(self),
            EventType::KeysReceived => keys::keys_received(self),
            EventType::KeysNotReceived => keys::keys_not_received(self),
            EventType::RestoreOpened => keys::restore_opened(self),
            EventType::RestoreCancelled => keys::restore_cancelled(self),
            EventType::KeysRestored => keys::keys_restored(self),
            EventType::SourceRelaxed => keys::source_relaxed(self),
            EventType::EpochPrepared => keys::epoch_prepared(self),
            EventType::EpochReceived => keys::epoch_received(self),
            EventType::EpochActivated => keys::epoch_activated(self),
            EventType::EpochRetired => keys::epoch_retired(self),
            EventType::EpochDestroyed => keys::epoch_destroyed(self),
            EventType::EpochChangeFailed => keys::epoch_change_failed(self),
            EventType::EpochsMissing => keys::epochs_missing(self),
            EventType::EpochStateAccepted => keys::epoch_state_accepted(self),
            EventType::AppEpochSet => keys::app_epoch_set(self),
            EventType::AppEpochsReceived => keys::app_epochs_received(self),
            EventType::DomainCreated => control::domain_created(self),
            EventType::DomainArchived => control::domain_archived(self),
            EventType::DomainRestored => control::domain_restored(self),
            EventType::AppAssigned => control::app_assigned(self),
            EventType::AppMoved => control::app_moved(self),
            EventType::DomainChangeFailed => control::domain_change_failed(self),
            EventType::DomainsReceived => control::domains_received(self),
            EventType::AppKeyReleased => releases::app_key_released(self),
            EventType::KmsKeyReleased => releases::kms_key_released(self),
            EventType::CertificateIssued => releases::certificate_issued(self),
            EventType::Denied => releases::denied(self),
            EventType::Refused => releases::refused(self),
            EventType::Withheld => releases::withheld(self),
            EventType::Frozen => control::frozen(self),
            EventType::Unfrozen => control::unfrozen(self),
            EventType::UnfreezeFailed => control::unfreeze_failed(self),
            EventType::StateAdopted => fleet::state_adopted(self),
            EventType::StateAlarm => fleet::state_alarm(self),
            EventType::FleetAlarm => fleet::fleet_alarm(self),
            EventType::NodeForgotten => fleet::node_forgotten(self),
            EventType::StateSetAside => fleet::state_set_aside(self),
            EventType::StateRepaired => fleet::state_repaired(self),
            EventType::ReplicaInvited => fleet::replica_invited(self),
            EventType::ReplicaProgress => fleet::replica_progress(self),
            EventType::ReplicaRefused => fleet::replica_refused(self),
            EventType::InvitationEnded => fleet::invitation_ended(self),
            EventType::RolloutStarted => fleet::rollout_started(self),
            EventType::RolloutChanged => fleet::rollout_changed(self),
            EventType::RolloutNode => fleet::rollout_node(self),
            EventType::RolloutFailed => fleet::rollout_failed(self),
            EventType::RolloutEnded => fleet::rollout_ended(self),
            EventType::Explained => releases::explained(self),
            EventType::ShadowStarted => releases::shadow_started(self),
            EventType::ShadowStopped => releases::shadow_stopped(self),
            EventType::PolicyBundleReceived => releases::policy_bundle_received(self),
            EventType::PolicyBundleActivated => releases::policy_bundle_activated(self),
            EventType::PolicyBundleRefused => releases::policy_bundle_refused(self),
            EventType::PolicyBundleHeld => releases::policy_bundle_held(self),
            EventType::PolicyForked => releases::policy_forked(self),
            EventType::PolicySerialsLost => releases::policy_serials_lost(self),
            EventType::CollateralRefreshed => releases::collateral_refreshed(self),
            EventType::CollateralRefused => releases::collateral_refused(self),
            EventType::ActionStarted => control::action_started(self),
            EventType::ActionSucceeded => control::action_succeeded(self),
            EventType::ActionFailed => control::action_failed(self),
            EventType::SettingChanged => control::setting_changed(self),
            EventType::Reloaded => control::reloaded(self),
            EventType::RestartRequested => control::restart_requested(self),
            EventType::FileUploaded => control::file_uploaded(self),
            EventType::FileUploadFailed => control::file_upload_failed(self),
            EventType::OwnerCreated => credentials::owner_created(self),
            EventType::CredentialCreated => credentials::credential_created(self),
            EventType::CredentialRotated => credentials::credential_rotated(self),
            EventType::CredentialActivated => credentials::credential_activated(self),
            EventType::OldSecretEnded => credentials::old_secret_ended(self),
            EventType::BasicAuthSet => credentials::basic_auth_set(self),
            EventType::CredentialRevoked => credentials::credential_revoked(self),
            EventType::CredentialChangeFailed => credentials::credential_change_failed(self),
            EventType::CredentialsRefused => credentials::credentials_refused(self),
            EventType::ApprovalRequested => credentials::approval_requested(self),
            EventType::ApprovalApproved => credentials::approval_approved(self),
            EventType::ApprovalRejected => credentials::approval_rejected(self),
            EventType::ApprovalExpired => credentials::approval_expired(self),
            EventType::ApprovalDone => credentials::approval_done(self),
            EventType::ApprovalFailed => credentials::approval_failed(self),
            EventType::ApprovalWaived => credentials::approval_waived(self),
            EventType::Reported => log::reported(self),
            EventType::CachesCleared => log::caches_cleared(self),
            EventType::RecoverySetCreated => keys::recovery_set_created(self),
            EventType::RecoverySetFailed => keys::recovery_set_failed(self),
            EventType::RecoveryDrillStarted => keys::recovery_drill_started(self),
            EventType::RecoveryDrill => keys::recovery_drill(self),
            EventType::RecoveryDrillFailed => keys::recovery_drill_failed(self),
            EventType::RecoveryDrillCancelled => keys::recovery_drill_cancelled(self),
            EventType::RecoveryDrillReminder => keys::recovery_drill_reminder(self),
        })
    }

    /// The reported text, which was made printable when it was received.
    fn message(&self) -> String {
        let message = self.text("message");
        if message.contains(is_deceptive) { printable(message) } else { message.to_owned() }
    }

    /// A value in the form for a sentence.
    fn value(&self, field: &str) -> String {
        match self.fields.get(field) {
            None | Some(Value::Null) => "unknown".to_owned(),
            Some(Value::String(text)) if text.is_empty() => "unknown".to_owned(),
            Some(Value::String(text)) => short(&printable(text)),
            Some(Value::Array(list)) if list.is_empty() => "none".to_owned(),
            Some(Value::Array(list)) => {
                let texts: Vec<_> = list
                    .iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), printable))
                    .collect();
                short(&texts.join(", "))
            }
            Some(other) => short(&other.to_string()),
        }
    }

    /// Who did it. A change that was adopted or made in the background has no address.
    fn by(&self) -> String {
        match self.text("remote") {
            "" => self.value("by"),
            _ => format!("{} from {}", self.value("by"), self.value("remote")),
        }
    }

    /// The node that it is about, if it names one.
    fn on_node(&self) -> String {
        match self.text("node") {
            "" => String::new(),
            _ => format!(" of the node {} ({})", self.value("name"), self.value("node")),
        }
    }

    /// Its reason, if it has one.
    fn because(&self) -> String {
        match self.text("reason") {
            "" => String::new(),
            reason => format!(": {}", short(&printable(reason))),
        }
    }

    /// The epochs of the keys. Records say it unless both are 0.
    fn of_epochs(&self) -> String {
        match self.fields.contains_key("epochs") {
            true => format!(" of epoch {}", self.value("epochs")),
            false => String::new(),
        }
    }

    /// The app and its instance.
    fn of_app(&self) -> String {
        format!("app {} (instance {})", self.value("app_id"), self.value("instance_id"))
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_VALUE) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests;
