//! Fresh evidence: made for this call on this connection, beside the evidence in the certificate, and of the same guest.

use std::fmt;

use kms_attest::identity::Identity;
use kms_attest::measurement::Stage;
use kms_attest::verify::Verified;
use kms_policy::Role;

use super::session::Challenge;
use super::{EvidenceRefusal, RefusalCode};
use crate::config::RequireFresh;

/// The fresh evidence of a request. Nothing in it is verified.
#[derive(Clone, Copy)]
pub struct AskedFresh<'a> {
    /// The challenge that it answers.
    pub challenge: Challenge,
    /// The evidence, encoded.
    pub evidence: &'a [u8],
    /// The service of the request: `KMS`.
    pub service: &'static str,
    /// Its method: `GetAppKey`.
    pub method: &'static str,
}

impl fmt::Debug for AskedFresh<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AskedFresh").field("method", &self.method).finish_non_exhaustive()
    }
}

/// What is known of a caller's fresh evidence before its identity is.
#[derive(Debug)]
pub enum Freshness {
    /// The caller brought none.
    Absent,
    /// It verifies, and answers a challenge of this connection.
    Verified(Box<Verified>),
    /// It is refused.
    Refused(FreshFault),
    /// For an explanation: it was verified in the refused request.
    WasVerified,
    /// For an explanation: the session in which it could be verified is not known.
    Unknown,
}

impl Freshness {
    /// The later of a stage and the stage that this shows.
    pub(super) fn stage(&self, stage: Stage) -> Stage {
        match self {
            Self::Verified(fresh) if fresh.stage() == Stage::Running => Stage::Running,
            Self::Verified(_) | Self::Absent | Self::Refused(_) | Self::WasVerified | Self::Unknown => stage,
        }
    }
}

/// How a caller passed the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proved {
    /// By fresh evidence.
    Fresh,
    /// By the evidence in its certificate or certificate request alone.
    Certificate,
    /// For an explanation: this is not known, and fresh evidence is required.
    Unknown,
}

/// Why a request with or without fresh evidence is refused. The texts are for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FreshFault {
    /// There is none, and it is required.
    #[error("fresh evidence is required: ask for a challenge on this connection, and bring evidence over it")]
    Required,
    /// The connection has nothing that evidence could be bound to.
    #[error("fresh evidence needs a connection of TLS 1.3 that ends in the KMS")]
    NoSession,
    /// A challenge that was not given on this connection, that was used, or that newer ones have replaced.
    #[error("the challenge was not given on this connection, or it was used already")]
    UnknownChallenge,
    /// A challenge that is too old.
    #[error("the challenge has expired: it can be used for 30 seconds")]
    ExpiredChallenge,
    /// Evidence with other report data.
    #[error("the fresh evidence is not bound to this challenge, connection, key and method")]
    NotBound,
    /// Evidence that does not decode or verify.
    #[error("the fresh evidence is refused: {}", .0.reason)]
    Evidence(Box<EvidenceRefusal>),
    /// Evidence of another guest than that in the certificate or certificate request.
    #[error("the fresh evidence is of another guest: {field} differs")]
    OtherGuest {
        /// The first field that differs.
        field: &'static str,
        /// Its value in the certificate or certificate request.
        expected: String,
        /// Its value in the fresh evidence.
        actual: String,
    },
}

impl FreshFault {
    /// The code.
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::Required => RefusalCode::FreshEvidenceRequired,
            Self::NoSession => RefusalCode::FreshEvidenceNotPossible,
            Self::UnknownChallenge => RefusalCode::ChallengeUnknown,
            Self::ExpiredChallenge => RefusalCode::ChallengeExpired,
            Self::NotBound => RefusalCode::FreshEvidenceNotBound,
            Self::Evidence(bad) => bad.code,
            Self::OtherGuest { .. } => RefusalCode::FreshEvidenceMismatch,
        }
    }

    /// The two values that differ.
    pub(super) fn values(&self) -> (Option<&str>, Option<&str>) {
        match self {
            Self::Evidence(bad) => (bad.expected.as_deref(), bad.actual.as_deref()),
            Self::OtherGuest { expected, actual, .. } => (Some(expected), Some(actual)),
            Self::Required
            | Self::NoSession
            | Self::UnknownChallenge
            | Self::ExpiredChallenge
            | Self::NotBound => (None, None),
        }
    }

    /// What to do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Required => {
                "update the guest's software, so that it brings fresh evidence; older guests get keys with \
                 core.attestation.require_fresh = \"off\""
            }
            Self::NoSession => {
                "connect with TLS 1.3, and let no proxy terminate TLS between the guest and this KMS"
            }
            Self::UnknownChallenge | Self::ExpiredChallenge => {
                "ask for a new challenge on the same connection, and use it once, at once"
            }
            Self::NotBound => {
                "make the evidence for this connection and method; if the guest does, something between it and this KMS \
                 passes its evidence on"
            }
            Self::Evidence(_) => "send the evidence as the guest agent returns it",
            Self::OtherGuest { .. } => {
                "make certificate and fresh evidence in the same CVM; after a change of the platform, make a new certificate"
            }
        }
    }
}

/// Whether requests in a role need fresh evidence.
pub(super) fn is_required(rule: RequireFresh, role: Role) -> bool {
    match (rule, role) {
        (RequireFresh::Off, Role::App | Role::Certificate | Role::Kms) => false,
        (RequireFresh::Apps, Role::App | Role::Certificate) => true,
        (RequireFresh::Apps, Role::Kms) => false,
        (RequireFresh::All, Role::App | Role::Certificate | Role::Kms) => true,
    }
}

/// Checks that `fresh` names the same guest on the same machine in the same state as the certificate.
pub(super) fn same_guest(identity: &Identity, fresh: &Identity) -> Result<(), FreshFault> {
    // Without `..`, so that a new field is compared too.
    let Identity {
        tee_variant,
        app_id,
        compose_hash,
        instance_id: _,
        device_id,
        mr_system,
        mr_aggregated,
        os_image_hash: _,
        key_provider_info,
        tcb_status,
        advisory_ids,
    } = identity;
    let fields: [(&'static str, String, String); 11] = [
        ("tee_variant", (*tee_variant).to_owned(), fresh.tee_variant.to_owned()),
        ("app_id", hex::encode(app_id), hex::encode(fresh.app_id)),
        ("compose_hash", hex::encode(compose_hash), hex::encode(fresh.compose_hash)),
        ("instance_id", hex::encode(identity.instance_bytes()), hex::encode(fresh.instance_bytes())),
        ("device_id", hex::encode(device_id), hex::encode(fresh.device_id)),
        ("mr_system", hex::encode(mr_system), hex::encode(fresh.mr_system)),
        ("mr_aggregated", hex::encode(mr_aggregated), hex::encode(fresh.mr_aggregated)),
        ("os_image_hash", hex::encode(identity.os_image_bytes()), hex::encode(fresh.os_image_bytes())),
        ("key_provider_info", hex::encode(key_provider_info), hex::encode(&fresh.key_provider_info)),
        ("tcb_status", tcb_status.to_string(), fresh.tcb_status.to_string()),
        ("advisory_ids", advisory_ids.join(" "), fresh.advisory_ids.join(" ")),
    ];
    match fields.into_iter().find(|(_, expected, actual)| expected != actual) {
        Some((field, expected, actual)) => Err(FreshFault::OtherGuest { field, expected, actual }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use kms_attest::identity::{
        AppId, ComposeHash, DeviceId, InstanceId, MrAggregated, MrSystem, OsImageHash,
    };
    use kms_attest::tcb::TcbStatus;

    use super::*;

    #[test]
    fn who_needs_fresh_evidence_is_a_table() {
        use RequireFresh::{All, Apps, Off};
        for (rule, app, certificate, kms) in
            [(Off, false, false, false), (Apps, true, true, false), (All, true, true, true)]
        {
            let required = [Role::App, Role::Certificate, Role::Kms].map(|role| is_required(rule, role));
            assert_eq!(required, [app, certificate, kms], "{rule:?}");
        }
    }

    #[test]
    fn every_field_of_the_identity_is_compared() {
        type Alter = fn(&mut Identity);
        let alterations: [(&str, Alter); 11] = [
            ("tee_variant", |it| it.tee_variant = "dstack-gcp-tdx"),
            ("app_id", |it| it.app_id = AppId([9; 20])),
            ("compose_hash", |it| it.compose_hash = ComposeHash([9; 32])),
            ("instance_id", |it| it.instance_id = Some(InstanceId([9; 20]))),
            ("device_id", |it| it.device_id = DeviceId([9; 32])),
            ("mr_system", |it| it.mr_system = MrSystem([9; 32])),
            ("mr_aggregated", |it| it.mr_aggregated = MrAggregated([9; 32])),
            ("os_image_hash", |it| it.os_image_hash = Some(OsImageHash([9; 32]))),
            ("key_provider_info", |it| it.key_provider_info = b"{}".to_vec()),
            ("tcb_status", |it| it.tcb_status = TcbStatus::OutOfDate),
            ("advisory_ids", |it| it.advisory_ids = vec!["INTEL-SA-00001".to_owned()]),
        ];
        let identity = Identity::example();
        assert_eq!(same_guest(&identity, &Identity::example()), Ok(()));
        for (name, alter) in alterations {
            let mut other = Identity::example();
            alter(&mut other);
            match same_guest(&identity, &other) {
                Err(FreshFault::OtherGuest { field, expected, actual }) => {
                    assert_eq!(field, name);
                    assert_ne!(expected, actual, "{name}");
                }
                outcome => panic!("{name}: {outcome:?}"),
            }
        }
        let without = Identity { instance_id: None, ..Identity::example() };
        assert!(same_guest(&identity, &without).is_err() && same_guest(&without, &identity).is_err());
    }
}
