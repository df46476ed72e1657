//! The types of events and conditions, and their severities.

/// The severity for the operators of a KMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Normal operation.
    Info,
    /// To be checked within a day.
    Warning,
    /// To be checked at once.
    Critical,
}

impl Severity {
    /// All severities, in ascending order.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// The stable name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// The severity with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.name() == name)
    }
}

/// Declares a closed set of types from one table: variant, name, severity.
macro_rules! types {
    ($(#[$about:meta])* $set:ident: $($variant:ident $name:literal $severity:ident,)*) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $set {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl $set {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name, for programs.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The one with this name.
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Its severity.
            pub fn severity(self) -> Severity {
                match self {
                    $(Self::$variant => Severity::$severity,)*
                }
            }
        }
    };
}

/// Which domain a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BelongsTo {
    /// None: it is about the whole KMS. A field `domain` in it is something else, such as a DNS name.
    WholeKms,
    /// That of its field `domain`, without one the default domain: it is about an app.
    DomainOfApp,
    /// That of its field `domain`, without one none.
    NamedDomain,
    /// That of its field `domain`, and that of `previous_domain`: owners of both must know.
    BothDomains,
}

types! {
    /// The type of an event of the audit log.
    EventType:
    Started "started" Info,
    LogBegan "log_began" Warning,
    LogRenamed "log_renamed" Critical,
    LogKeyChanged "log_key_changed" Critical,
    Imported "imported" Info,
    SegmentArchived "segment_archived" Info,
    ImageDownloadStarted "image_download_started" Info,
    ImageDownloadProgress "image_download_progress" Info,
    ImageDownloaded "image_downloaded" Info,
    ImageDownloadFailed "image_download_failed" Warning,
    Stopped "stopped" Info,
    Recovered "recovered" Warning,
    Resumed "resumed" Warning,
    SegmentBegan "segment_began" Warning,
    ClockFloorLowered "clock_floor_lowered" Warning,
    Suppressed "suppressed" Warning,
    KeysBootstrapped "keys_bootstrapped" Critical,
    KeysReceived "keys_received" Critical,
    KeysNotReceived "keys_not_received" Warning,
    RestoreOpened "restore_opened" Warning,
    RestoreCancelled "restore_cancelled" Warning,
    KeysRestored "keys_restored" Critical,
    SourceRelaxed "source_relaxed" Warning,
    EpochPrepared "epoch_prepared" Critical,
    EpochReceived "epoch_received" Critical,
    EpochActivated "epoch_activated" Critical,
    EpochRetired "epoch_retired" Critical,
    EpochDestroyed "epoch_destroyed" Critical,
    EpochChangeFailed "epoch_change_failed" Critical,
    EpochsMissing "epochs_missing" Critical,
    EpochStateAccepted "epoch_state_accepted" Critical,
    AppEpochSet "app_epoch_set" Warning,
    AppEpochsReceived "app_epochs_received" Warning,
    DomainCreated "domain_created" Warning,
    DomainArchived "domain_archived" Critical,
    DomainRestored "domain_restored" Critical,
    AppAssigned "app_assigned" Warning,
    AppMoved "app_moved" Critical,
    DomainChangeFailed "domain_change_failed" Critical,
    DomainsReceived "domains_received" Critical,
    AppKeyReleased "app_key_released" Info,
    KmsKeyReleased "kms_key_released" Critical,
    CertificateIssued "certificate_issued" Info,
    Denied "denied" Info,
    Refused "refused" Info,
    Withheld "withheld" Warning,
    Frozen "frozen" Critical,
    Unfrozen "unfrozen" Warning,
    UnfreezeFailed "unfreeze_failed" Warning,
    StateAdopted "state_adopted" Warning,
    StateAlarm "state_alarm" Critical,
    FleetAlarm "fleet_alarm" Critical,
    NodeForgotten "node_forgotten" Warning,
    StateSetAside "state_set_aside" Critical,
    StateRepaired "state_repaired" Critical,
    ReplicaInvited "replica_invited" Warning,
    ReplicaProgress "replica_progress" Info,
    ReplicaRefused "replica_refused" Warning,
    InvitationEnded "invitation_ended" Warning,
    RolloutStarted "rollout_started" Warning,
    RolloutChanged "rollout_changed" Warning,
    RolloutNode "rollout_node" Info,
    RolloutFailed "rollout_failed" Warning,
    RolloutEnded "rollout_ended" Info,
    Explained "explained" Info,
    ShadowStarted "shadow_started" Info,
    ShadowStopped "shadow_stopped" Info,
    PolicyBundleReceived "policy_bundle_received" Info,
    PolicyBundleActivated "policy_bundle_activated" Warning,
    PolicyBundleRefused "policy_bundle_refused" Warning,
    PolicyBundleHeld "policy_bundle_held" Warning,
    PolicyForked "policy_forked" Critical,
    PolicySerialsLost "policy_serials_lost" Critical,
    CollateralRefreshed "collateral_refreshed" Info,
    CollateralRefused "collateral_refused" Warning,
    ActionStarted "action_started" Info,
    ActionSucceeded "action_succeeded" Info,
    ActionFailed "action_failed" Warning,
    SettingChanged "setting_changed" Warning,
    Reloaded "reloaded" Info,
    RestartRequested "restart_requested" Warning,
    FileUploaded "file_uploaded" Warning,
    FileUploadFailed "file_upload_failed" Warning,
    OwnerCreated "owner_created" Warning,
    CredentialCreated "credential_created" Warning,
    CredentialRotated "credential_rotated" Info,
    CredentialActivated "credential_activated" Info,
    OldSecretEnded "old_secret_ended" Info,
    BasicAuthSet "basic_auth_set" Warning,
    CredentialRevoked "credential_revoked" Warning,
    CredentialChangeFailed "credential_change_failed" Warning,
    CredentialsRefused "credentials_refused" Warning,
    ApprovalRequested "approval_requested" Warning,
    ApprovalApproved "approval_approved" Warning,
    ApprovalRejected "approval_rejected" Warning,
    ApprovalExpired "approval_expired" Info,
    ApprovalDone "approval_done" Info,
    ApprovalFailed "approval_failed" Warning,
    ApprovalWaived "approval_waived" Critical,
    Reported "reported" Info,
    CachesCleared "caches_cleared" Info,
    RecoverySetCreated "recovery_set_created" Critical,
    RecoverySetFailed "recovery_set_failed" Warning,
    RecoveryDrillStarted "recovery_drill_started" Warning,
    RecoveryDrill "recovery_drill" Info,
    RecoveryDrillFailed "recovery_drill_failed" Critical,
    RecoveryDrillCancelled "recovery_drill_cancelled" Warning,
    RecoveryDrillReminder "recovery_drill_reminder" Warning,
}

impl EventType {
    /// The severity of an event of this type with this reason.
    pub fn severity_with(self, reason: &str) -> Severity {
        const DAMAGE: [&str; 4] =
            ["damaged_end", "file_replaced", "file_truncated", "file_written_by_others"];
        match self == Self::SegmentBegan && DAMAGE.contains(&reason) {
            true => Severity::Critical,
            false => self.severity(),
        }
    }

    /// The highest severity of an event of this type.
    pub fn most_severe(self) -> Severity {
        if self == Self::SegmentBegan { Severity::Critical } else { self.severity() }
    }

    /// Which domain a record of this type belongs to.
    pub fn belongs_to(self) -> BelongsTo {
        match self {
            Self::AppKeyReleased | Self::CertificateIssued | Self::Denied | Self::Withheld => {
                BelongsTo::DomainOfApp
            }
            Self::Frozen
            | Self::Unfrozen
            | Self::UnfreezeFailed
            | Self::StateAdopted
            | Self::AppEpochSet
            | Self::DomainCreated
            | Self::DomainArchived
            | Self::DomainRestored
            | Self::AppAssigned
            | Self::DomainChangeFailed
            | Self::PolicyBundleReceived
            | Self::PolicyBundleActivated
            | Self::PolicyBundleRefused
            | Self::PolicyBundleHeld
            | Self::PolicyForked
            | Self::PolicySerialsLost
            | Self::CredentialCreated
            | Self::CredentialRotated
            | Self::CredentialActivated
            | Self::CredentialRevoked
            | Self::CredentialChangeFailed
            | Self::Explained
            | Self::Reported => BelongsTo::NamedDomain,
            Self::AppMoved => BelongsTo::BothDomains,
            // Also what is added later: nobody whose credential is limited sees it by mistake.
            _ => BelongsTo::WholeKms,
        }
    }

    /// Whether it means that a request was refused.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::Denied | Self::Refused | Self::CredentialsRefused)
    }
}

types! {
    /// A state of a KMS that operators must know of, and that ends again. It is not an event of the audit log, which
    /// may be what cannot be written.
    Condition:
    AuditLogUnavailable "audit_log_unavailable" Critical,
    LedgerContradicted "ledger_contradicted" Critical,
    DiskNearlyFull "disk_nearly_full" Warning,
    WitnessesLost "witnesses_lost" Critical,
    DenialStorm "denial_storm" Critical,
    Clock "clock" Critical,
    PolicyUnavailable "policy_unavailable" Critical,
    AllowlistUnusable "allowlist_unusable" Critical,
    KmsNotAllowed "kms_not_allowed" Critical,
    OwnEvidenceUnavailable "own_evidence_unavailable" Critical,
    OwnEvidenceRefused "own_evidence_refused" Critical,
    CollateralUnavailable "collateral_unavailable" Critical,
    CollateralNotRefreshed "collateral_not_refreshed" Warning,
    CollateralExpires "collateral_expires" Warning,
    PlatformOutdatedSoon "platform_outdated_soon" Warning,
    EpochsLost "epochs_lost" Critical,
    Recovery "recovery" Warning,
    PolicyExpires "policy_expires" Warning,
    PolicyFork "policy_fork" Critical,
    StateStale "state_stale" Critical,
    StateNotFresh "state_not_fresh" Warning,
    StateRolledBack "state_rolled_back" Critical,
    FleetRoots "fleet_roots" Critical,
    FleetDomains "fleet_domains" Critical,
    FleetPolicies "fleet_policies" Critical,
    FleetLedger "fleet_ledger" Critical,
    FleetCloned "fleet_cloned" Critical,
    FleetClock "fleet_clock" Warning,
    RolloutPaused "rollout_paused" Warning,
    PolicyHeld "policy_held" Warning,
    DomainPolicyUnavailable "domain_policy_unavailable" Critical,
}

/// What a notification can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// An event.
    Event(EventType),
    /// The start or the end of a condition.
    Condition(Condition),
    /// A test notification that an operator requested.
    Test,
}

impl Topic {
    /// The stable name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Event(event) => event.name(),
            Self::Condition(condition) => condition.name(),
            Self::Test => "test",
        }
    }

    /// The event or condition with this name.
    pub fn parse(name: &str) -> Option<Self> {
        let event = EventType::parse(name).map(Self::Event);
        event.or_else(|| Condition::parse(name).map(Self::Condition))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_type_has_a_name_of_its_own() {
        let events = EventType::ALL.iter().map(|event| Topic::Event(*event));
        let conditions = Condition::ALL.iter().map(|condition| Topic::Condition(*condition));
        let topics: Vec<_> = events.chain(conditions).collect();
        let names: BTreeSet<_> = topics.iter().map(|topic| topic.name()).collect();
        assert_eq!(names.len(), topics.len());
        assert!(topics.iter().all(|topic| Topic::parse(topic.name()) == Some(*topic)));
        assert_eq!((Topic::parse("test"), Topic::parse("")), (None, None));
    }

    #[test]
    fn damage_is_critical_and_a_reason_that_an_operator_types_changes_nothing() {
        for (event, reason, severity) in [
            (EventType::SegmentBegan, "sync_failed", Severity::Warning),
            (EventType::SegmentBegan, "damaged_end", Severity::Critical),
            (EventType::Unfrozen, "damaged_end", Severity::Warning),
            (EventType::Denied, "file_replaced", Severity::Info),
        ] {
            assert_eq!(event.severity_with(reason), severity, "{event:?}: {reason}");
        }
    }
}
