//! Fresh evidence: made for this call on this connection, beside the evidence in the certificate, and of the same guest.

use std::fmt;

use kms_attest::identity::Identity;
use kms_attest::measurement::{RuntimeEvent, Until, replay_rtmr3};
use kms_attest::platform::tdx::Quoted;
use kms_attest::verify::Verified;
use kms_policy::Role;

use super::session::Challenge;
use super::{EvidenceRefusal, Refusal, RefusalCode, Step};
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
    /// For an explanation: it verifies, and whether it was made in the session of the request is not known.
    Unbound(Box<Verified>),
    /// For an explanation: whether the caller brought any is not known.
    Unknown,
}

impl Freshness {
    /// The evidence by which a caller is judged: the latest. `verified` is that in its certificate or certificate request.
    pub fn latest<'a>(&'a self, verified: &'a Verified) -> &'a Verified {
        match self {
            Self::Verified(fresh) | Self::Unbound(fresh) => fresh,
            Self::Absent | Self::Refused(_) | Self::Unknown => verified,
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
    /// For an explanation: this is not known, because the session of the request is not.
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
    /// Evidence that does not decode or verify, or has no valid identity.
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
    /// The fault with this code that only the session of the request shows, which evidence alone does not.
    pub fn of_session(code: &str) -> Option<Self> {
        let all = [Self::NoSession, Self::UnknownChallenge, Self::ExpiredChallenge, Self::NotBound];
        all.into_iter().find(|fault| fault.code().name() == code)
    }

    /// The refusal of fresh evidence without a valid identity, or with another VM configuration than that of the request.
    pub(super) fn unidentified(refusal: &Refusal) -> Self {
        let (reason, detail) = (refusal.to_string(), refusal.fault());
        let (step, code) =
            detail.as_ref().map_or((Step::Identity, RefusalCode::IdentityMalformed), |it| (it.step, it.code));
        let text = |value: Option<&str>| value.map(str::to_owned);
        let (expected, actual) = detail.map_or((None, None), |it| (text(it.expected), text(it.actual)));
        Self::Evidence(Box::new(EvidenceRefusal { step, code, reason, expected, actual }))
    }

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
                "make certificate and fresh evidence in the same CVM, since the same boot"
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

/// Checks that `fresh` is evidence of the same boot of the same guest on the same machine as `shown`, the evidence in its
/// certificate or certificate request, taken then or later: everything that the host has set at launch and that was measured
/// until then is the same, and RTMR3 has at most grown by further events.
///
/// What is judged is the later evidence, so what may have changed is not compared: the events since, and what Intel says of the
/// platform now.
///
/// # Errors
/// [`FreshFault::OtherGuest`] with the first part that differs.
pub(super) fn same_guest(
    (shown, identity): (&Verified, &Identity),
    (fresh, later): (&Verified, &Identity),
) -> Result<(), FreshFault> {
    same_identity(identity, later)?;
    same_launch(&shown.td().quoted, &fresh.td().quoted)?;
    grown(&shown.evidence().stack.runtime_events, &fresh.evidence().stack.runtime_events)
}

fn other(field: &'static str, expected: impl AsRef<[u8]>, actual: impl AsRef<[u8]>) -> FreshFault {
    FreshFault::OtherGuest { field, expected: hex::encode(expected), actual: hex::encode(actual) }
}

/// Everything in the quotes but RTMR3 and the report data.
fn same_launch(shown: &Quoted, fresh: &Quoted) -> Result<(), FreshFault> {
    // Without `..`, so that a new field is compared too.
    let Quoted {
        mr_td,
        rt_mr0,
        rt_mr1,
        rt_mr2,
        rt_mr3: _,
        mr_config_id,
        mr_owner,
        mr_owner_config,
        report_data: _,
    } = shown;
    let fields = [
        ("mr_td", mr_td, &fresh.mr_td),
        ("rt_mr0", rt_mr0, &fresh.rt_mr0),
        ("rt_mr1", rt_mr1, &fresh.rt_mr1),
        ("rt_mr2", rt_mr2, &fresh.rt_mr2),
        ("mr_config_id", mr_config_id, &fresh.mr_config_id),
        ("mr_owner", mr_owner, &fresh.mr_owner),
        ("mr_owner_config", mr_owner_config, &fresh.mr_owner_config),
    ];
    match fields.into_iter().find(|(_, expected, actual)| expected != actual) {
        Some((field, expected, actual)) => Err(other(field, expected, actual)),
        None => Ok(()),
    }
}

/// The events that RTMR3 replays to begin with those of before.
fn grown(shown: &[RuntimeEvent], fresh: &[RuntimeEvent]) -> Result<(), FreshFault> {
    if fresh.starts_with(shown) {
        return Ok(());
    }
    let [expected, actual] = [shown, fresh].map(|events| replay_rtmr3(events, Until::End));
    Err(other("rt_mr3", expected, actual))
}

/// The fields that say which guest it is, on which machine.
fn same_identity(identity: &Identity, fresh: &Identity) -> Result<(), FreshFault> {
    // Without `..`, so that a new field is considered too.
    let Identity {
        tee_variant,
        app_id,
        compose_hash,
        instance_id: _,
        device_id,
        // The registers that they cover are compared one by one.
        mr_system: _,
        mr_aggregated: _,
        os_image_hash: _,
        key_provider_info,
        // Verdicts about the same machine, which may come from newer collateral.
        tcb_status: _,
        advisory_ids: _,
    } = identity;
    // A guest measures its key provider after it has got its keys.
    let provider = if key_provider_info.is_empty() { key_provider_info } else { &fresh.key_provider_info };
    let fields: [(&'static str, String, String); 7] = [
        ("tee_variant", (*tee_variant).to_owned(), fresh.tee_variant.to_owned()),
        ("app_id", hex::encode(app_id), hex::encode(fresh.app_id)),
        ("compose_hash", hex::encode(compose_hash), hex::encode(fresh.compose_hash)),
        ("instance_id", hex::encode(identity.instance_bytes()), hex::encode(fresh.instance_bytes())),
        ("device_id", hex::encode(device_id), hex::encode(fresh.device_id)),
        ("os_image_hash", hex::encode(identity.os_image_bytes()), hex::encode(fresh.os_image_bytes())),
        ("key_provider_info", hex::encode(key_provider_info), hex::encode(provider)),
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
    use kms_attest::measurement::EventVersion;
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
    fn every_field_of_the_identity_that_says_which_guest_it_is_is_compared() {
        type Alter = fn(&mut Identity);
        let alterations: [(&str, Alter); 7] = [
            ("tee_variant", |it| it.tee_variant = "dstack-gcp-tdx"),
            ("app_id", |it| it.app_id = AppId([9; 20])),
            ("compose_hash", |it| it.compose_hash = ComposeHash([9; 32])),
            ("instance_id", |it| it.instance_id = Some(InstanceId([9; 20]))),
            ("device_id", |it| it.device_id = DeviceId([9; 32])),
            ("os_image_hash", |it| it.os_image_hash = Some(OsImageHash([9; 32]))),
            ("key_provider_info", |it| it.key_provider_info = b"{}".to_vec()),
        ];
        let example = || Identity { key_provider_info: b"kms".to_vec(), ..Identity::example() };
        let identity = example();
        // What policy judges by the later evidence.
        let later = Identity {
            mr_system: MrSystem([9; 32]),
            mr_aggregated: MrAggregated([9; 32]),
            tcb_status: TcbStatus::OutOfDate,
            advisory_ids: vec!["INTEL-SA-00001".to_owned()],
            ..example()
        };
        assert_eq!(same_identity(&identity, &later), Ok(()));
        for (name, alter) in alterations {
            let mut other = example();
            alter(&mut other);
            match same_identity(&identity, &other) {
                Err(FreshFault::OtherGuest { field, expected, actual }) => {
                    assert_eq!(field, name);
                    assert_ne!(expected, actual, "{name}");
                }
                outcome => panic!("{name}: {outcome:?}"),
            }
        }
        let without = Identity { instance_id: None, ..example() };
        let booting = Identity { key_provider_info: Vec::new(), ..example() };
        assert_eq!(same_identity(&booting, &identity), Ok(()), "measured since");
        assert!(same_identity(&identity, &booting).is_err());
        assert!(same_identity(&identity, &without).is_err() && same_identity(&without, &identity).is_err());
    }

    #[test]
    fn of_the_registers_only_rtmr3_may_have_changed() {
        type Alter = fn(&mut Quoted);
        let quoted = || Quoted {
            mr_td: [1; 48],
            rt_mr0: [2; 48],
            rt_mr1: [3; 48],
            rt_mr2: [4; 48],
            rt_mr3: [5; 48],
            mr_config_id: [6; 48],
            mr_owner: [7; 48],
            mr_owner_config: [8; 48],
            report_data: [0; 64],
        };
        let alterations: [(&str, Alter); 9] = [
            ("", |it| it.rt_mr3 = [9; 48]),
            ("", |it| it.report_data = [9; 64]),
            ("mr_td", |it| it.mr_td = [9; 48]),
            ("rt_mr0", |it| it.rt_mr0 = [9; 48]),
            ("rt_mr1", |it| it.rt_mr1 = [9; 48]),
            ("rt_mr2", |it| it.rt_mr2 = [9; 48]),
            ("mr_config_id", |it| it.mr_config_id = [9; 48]),
            ("mr_owner", |it| it.mr_owner = [9; 48]),
            ("mr_owner_config", |it| it.mr_owner_config = [9; 48]),
        ];
        for (name, alter) in alterations {
            let mut altered = quoted();
            alter(&mut altered);
            match same_launch(&quoted(), &altered) {
                Ok(()) => assert_eq!(name, ""),
                Err(FreshFault::OtherGuest { field, .. }) => assert_eq!(field, name),
                Err(fault) => panic!("{name}: {fault}"),
            }
        }
    }

    #[test]
    fn events_may_be_added_at_the_end_and_nothing_else() {
        let event = |name: &str| RuntimeEvent {
            event: name.to_owned(),
            payload: name.as_bytes().to_vec(),
            version: EventVersion::V1,
        };
        let events = |names: &[&str]| names.iter().map(|name| event(name)).collect::<Vec<_>>();
        let shown = events(&["app-id", "system-ready"]);
        for (fresh, is_same) in [
            (&["app-id", "system-ready"][..], true),
            (&["app-id", "system-ready", "update"], true),
            // An earlier state, such as that of another boot.
            (&["app-id"], false),
            (&[], false),
            (&["app-id", "update", "system-ready"], false),
            (&["system-ready", "app-id"], false),
        ] {
            assert_eq!(grown(&shown, &events(fresh)).is_ok(), is_same, "{fresh:?}");
        }
        let mut other = shown.clone();
        other[1].version = EventVersion::V2;
        assert!(grown(&shown, &other).is_err());
    }
}
