//! Why a policy denied a request.

/// Why a policy denied a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The stable code, for metrics and programs.
    pub code: DenialCode,
    /// For the caller, as the backend wrote it: `compose hash not allowed`.
    pub reason: String,
    /// For the operator: what would be allowed. Bounded.
    pub expected: Option<String>,
    /// For the operator: what was measured.
    pub actual: Option<String>,
}

/// The cause of a denial.
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
    /// The guest has booted, and the keys are released only during the boot.
    GuestHasBooted,
    /// The epochs that the request names are newer than those of the app.
    EpochTooNew,
    /// The policy does not let the app read the keys of these older epochs.
    EpochNotReadable,
    /// The root epoch is not active yet.
    EpochNotActive,
    /// The root epoch is retired: nobody gets its keys.
    EpochRetired,
    /// The keys of the root epoch do not exist any more.
    EpochDestroyed,
    /// There is no such root epoch.
    EpochUnknown,
    /// The allowlist is missing or invalid, so everything is denied.
    AllowlistUnusable,
    /// A reason that only the backend knows. The webhook protocol and the contracts have only a text, which
    /// is in [`Denial::reason`], bounded.
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
            Self::EpochTooNew => "epoch_too_new",
            Self::EpochNotReadable => "epoch_not_readable",
            Self::EpochNotActive => "epoch_not_active",
            Self::EpochRetired => "epoch_retired",
            Self::EpochDestroyed => "epoch_destroyed",
            Self::EpochUnknown => "epoch_unknown",
            Self::AllowlistUnusable => "allowlist_unusable",
            Self::Backend => "denied_by_backend",
        }
    }
}
