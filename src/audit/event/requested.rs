//! The id of the request that an event comes from, in the record of the event.

use serde::Serialize;

use super::Event;
use crate::request;

/// An event with the id of its request, which comes after the event's own fields.
#[derive(Serialize)]
pub(super) struct Requested<'a> {
    #[serde(flatten)]
    pub(super) event: &'a Event,
    /// As in logs; a caller's own begins with `caller:`.
    pub(super) request_id: String,
}

impl Event {
    /// The id of the request of this task, if an operator's request is the cause of the event.
    pub(super) fn request_id(&self) -> Option<String> {
        if self.is_of_operator() { request::logged_id() } else { None }
    }

    /// Whether the request that is served when it is recorded is its cause. Denials have the id among their own fields,
    /// receipts have no space for it, and what merely ends or expires is noticed by requests that are not the cause.
    fn is_of_operator(&self) -> bool {
        match self {
            Self::ClockFloorLowered { .. }
            | Self::EpochPrepared { .. }
            | Self::EpochReceived { .. }
            | Self::EpochActivated { .. }
            | Self::EpochRetired { .. }
            | Self::EpochDestroyed { .. }
            | Self::EpochChangeFailed { .. }
            | Self::EpochStateAccepted { .. }
            | Self::AppEpochSet { .. }
            | Self::AppEpochsReceived { .. }
            | Self::DomainCreated { .. }
            | Self::DomainArchived { .. }
            | Self::DomainRestored { .. }
            | Self::AppAssigned { .. }
            | Self::AppMoved { .. }
            | Self::DomainChangeFailed { .. }
            | Self::DomainsReceived { .. }
            | Self::Frozen { .. }
            | Self::Unfrozen { .. }
            | Self::UnfreezeFailed { .. }
            | Self::StateRepaired { .. }
            | Self::NodeForgotten { .. }
            | Self::ReplicaInvited { .. }
            | Self::RolloutStarted { .. }
            | Self::RolloutChanged { .. }
            | Self::Explained { .. }
            | Self::ShadowStarted { .. }
            | Self::ShadowStopped { .. }
            | Self::PolicyBundleReceived { .. }
            | Self::PolicyBundleActivated { .. }
            | Self::PolicyBundleRefused { .. }
            | Self::PolicyForked { .. }
            | Self::CollateralRefreshed { .. }
            | Self::ActionStarted { .. }
            | Self::ActionSucceeded { .. }
            | Self::ActionFailed { .. }
            | Self::SettingChanged { .. }
            | Self::Reloaded { .. }
            | Self::RestartRequested { .. }
            | Self::FileUploaded { .. }
            | Self::FileUploadFailed { .. }
            | Self::CredentialCreated { .. }
            | Self::CredentialRotated { .. }
            | Self::CredentialActivated { .. }
            | Self::BasicAuthSet { .. }
            | Self::CredentialRevoked { .. }
            | Self::CredentialChangeFailed { .. }
            | Self::CredentialsRefused { .. }
            | Self::ApprovalRequested { .. }
            | Self::ApprovalApproved { .. }
            | Self::ApprovalRejected { .. }
            | Self::ApprovalDone { .. }
            | Self::ApprovalFailed { .. }
            | Self::ApprovalWaived { .. }
            | Self::Reported { .. }
            | Self::RecoverySetCreated { .. }
            | Self::RecoverySetFailed { .. }
            | Self::RecoveryDrillStarted { .. }
            | Self::RecoveryDrillReminder { .. }
            | Self::CachesCleared { .. } => true,
            Self::Started { .. }
            | Self::LogBegan { .. }
            | Self::LogRenamed { .. }
            | Self::LogKeyChanged { .. }
            | Self::Imported { .. }
            | Self::SegmentArchived { .. }
            | Self::ImageDownloadStarted { .. }
            | Self::ImageDownloadProgress { .. }
            | Self::ImageDownloaded { .. }
            | Self::ImageDownloadFailed { .. }
            | Self::Stopped
            | Self::Recovered { .. }
            | Self::Resumed { .. }
            | Self::SegmentBegan { .. }
            | Self::Suppressed { .. }
            | Self::KeysBootstrapped { .. }
            | Self::KeysReceived { .. }
            | Self::KeysNotReceived { .. }
            | Self::RestoreOpened { .. }
            | Self::RestoreCancelled { .. }
            | Self::KeysRestored { .. }
            | Self::SourceRelaxed { .. }
            | Self::EpochsMissing { .. }
            | Self::AppKeyReleased { .. }
            | Self::KmsKeyReleased { .. }
            | Self::CertificateIssued { .. }
            | Self::Denied { .. }
            | Self::Refused { .. }
            | Self::Withheld { .. }
            | Self::RecoveryDrill { .. }
            | Self::RecoveryDrillFailed { .. }
            | Self::RecoveryDrillCancelled { .. }
            | Self::OwnerCreated { .. }
            | Self::OldSecretEnded { .. }
            | Self::ApprovalExpired { .. }
            | Self::PolicyBundleHeld { .. }
            | Self::PolicySerialsLost { .. }
            | Self::StateAdopted { .. }
            | Self::StateAlarm { .. }
            | Self::FleetAlarm { .. }
            | Self::StateSetAside { .. }
            | Self::ReplicaProgress { .. }
            | Self::ReplicaRefused { .. }
            | Self::InvitationEnded { .. }
            | Self::RolloutNode { .. }
            | Self::RolloutFailed { .. }
            | Self::RolloutEnded { .. }
            | Self::CollateralRefused { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use kms_attest::identity::Identity;

    use super::super::Subject;
    use super::*;
    use crate::request::{Context, ErrorBody, RequestId};

    const REMOTE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn the_request_of_an_operator_is_the_last_field_and_releases_have_none() {
        let revoked = || Event::CredentialRevoked {
            name: "zoe".into(),
            by: "token".into(),
            remote: REMOTE,
            domain: None,
        };
        let reported =
            Event::Reported { source: "api", message: "m".into(), domain: None, by: None, remote: None };
        let expired = Event::ApprovalExpired { id: "1".into(), action: "unfreeze", reason: "late".into() };
        let released = Event::AppKeyReleased { subject: Subject::new(&Identity::example(), REMOTE) };
        assert_eq!(
            revoked().fields().unwrap(),
            r#"{"event":"credential_revoked","name":"zoe","by":"token","remote":"127.0.0.1"}"#
        );
        let without =
            [released.fields().unwrap(), expired.fields().unwrap(), Event::Stopped.fields().unwrap()];
        let of_request = async {
            let id = "00000000000000000000000000000007";
            assert_eq!(
                revoked().fields().unwrap(),
                format!(
                    r#"{{"event":"credential_revoked","name":"zoe","by":"token","remote":"127.0.0.1","request_id":"{id}"}}"#
                )
            );
            assert_eq!(
                reported.fields().unwrap(),
                format!(r#"{{"event":"reported","source":"api","message":"m","request_id":"{id}"}}"#)
            );
            assert_eq!(
                [released.fields().unwrap(), expired.fields().unwrap(), Event::Stopped.fields().unwrap()],
                without
            );
        };
        Context::new(RequestId::ours(7), ErrorBody::Full).scope(of_request).await;
    }
}
