//! The steps of admission, in order, with their stable names.

/// The steps of admission, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// This KMS is itself allowed.
    SelfAuthorization,
    /// There is evidence, and it decodes.
    Evidence,
    /// It is of a platform that can be verified.
    Platform,
    /// It vouches for the caller's key.
    KeyBinding,
    /// The runtime events replay to RTMR3.
    EventLog,
    /// The quote vouches for the report data that the evidence states.
    ReportData,
    /// There is collateral for the platform.
    Collateral,
    /// The quote is signed by genuine hardware that is not revoked.
    Quote,
    /// Nobody else can look into the TD.
    TdAttributes,
    /// Intel's word for the state of the platform; the policy judges it.
    TcbStatus,
    /// The identity has the right form.
    Identity,
    /// Its domain admits it.
    Domain,
    /// It is proved on this connection, by fresh evidence, where that is required.
    Session,
    /// No operator has frozen it.
    Frozen,
    /// The policy allows it.
    Policy,
    /// Keys are released at this stage of the guest.
    Stage,
    /// It may have keys of these epochs, and there are some.
    Epochs,
    /// It booted the OS image that it names.
    OsImage,
    /// The release is in the audit log.
    AuditLog,
}

impl Step {
    /// All steps, in the order in which they are reported.
    pub const ALL: [Self; 19] = [
        Self::SelfAuthorization,
        Self::Evidence,
        Self::Platform,
        Self::KeyBinding,
        Self::EventLog,
        Self::ReportData,
        Self::Collateral,
        Self::Quote,
        Self::TdAttributes,
        Self::TcbStatus,
        Self::Identity,
        Self::Domain,
        Self::Session,
        Self::Frozen,
        Self::Policy,
        Self::Stage,
        Self::Epochs,
        Self::OsImage,
        Self::AuditLog,
    ];

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Evidence => "evidence",
            Self::Platform => "platform",
            Self::KeyBinding => "key_binding",
            Self::EventLog => "event_log",
            Self::ReportData => "report_data",
            Self::Collateral => "collateral",
            Self::Quote => "quote",
            Self::TdAttributes => "td_attributes",
            Self::TcbStatus => "tcb_status",
            Self::Identity => "identity",
            Self::Domain => "domain",
            Self::Session => "session",
            Self::Frozen => "frozen",
            Self::Policy => "policy",
            Self::Stage => "stage",
            Self::Epochs => "epochs",
            Self::OsImage => "os_image",
            Self::AuditLog => "audit_log",
            Self::SelfAuthorization => "own_standing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_listed_once_in_order() {
        assert!(Step::ALL.is_sorted());
        let names: std::collections::BTreeSet<_> = Step::ALL.iter().map(|step| step.name()).collect();
        assert_eq!(names.len(), Step::ALL.len());
    }
}
