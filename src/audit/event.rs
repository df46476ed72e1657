//! What is recorded: who got or was refused what. Never a secret.

use std::net::IpAddr;

use kms_attest::identity::Identity;
use serde::Serialize;

use super::AuditError;
use super::chain::MAX_LINE;
use crate::event_type::EventType;

/// Room in a line for what the chain adds to an event.
const CHAIN_FIELDS: usize = 512;

/// Who an event is about: a verified identity in hex, and where it connected from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subject {
    app_id: String,
    instance_id: String,
    compose_hash: String,
    device_id: String,
    os_image_hash: String,
    mr_aggregated: String,
    tee_variant: String,
    tcb_status: String,
    advisory_ids: Vec<String>,
    remote: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    relaxations: Vec<String>,
    #[serde(flatten)]
    basis: Option<Basis>,
}

/// What a release rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Basis {
    /// SHA-256 of the evidence, hex.
    pub evidence_sha256: String,
    /// How far the guest had come when it was taken: `boot` or `running`.
    pub stage: &'static str,
    /// The rule by which keys of an app are released at this stage: `releaseStage boot` of the policy, or
    /// `core.release_stage any`; `None` for what is released at every stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_rule: Option<&'static str>,
}

impl Subject {
    /// The identity that connected from `remote`.
    pub fn new(identity: &Identity, remote: IpAddr) -> Self {
        Self {
            app_id: hex::encode(identity.app_id),
            instance_id: hex::encode(identity.instance_bytes()),
            compose_hash: hex::encode(identity.compose_hash),
            device_id: hex::encode(identity.device_id),
            os_image_hash: hex::encode(identity.os_image_bytes()),
            mr_aggregated: hex::encode(identity.mr_aggregated),
            tee_variant: identity.tee_variant.to_owned(),
            tcb_status: identity.tcb_status.to_string(),
            advisory_ids: identity.advisory_ids.clone(),
            remote,
            by: None,
            relaxations: Vec::new(),
            basis: None,
        }
    }

    /// The same, with the operator whose credentials were shown too: `token`, `user <name>` or `anyone`.
    #[must_use]
    pub fn by(self, operator: Option<String>) -> Self {
        Self { by: operator, ..self }
    }

    /// The same, with the evidence that was shown.
    #[must_use]
    pub fn showing(self, basis: Basis) -> Self {
        Self { basis: Some(basis), ..self }
    }

    /// The same, about whom policy was told something else than what was measured, because of these rules.
    #[must_use]
    pub fn relaxed(self, relaxations: &[String]) -> Self {
        Self { relaxations: relaxations.to_vec(), ..self }
    }
}

/// One event; its name and fields are the file's JSON, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The service started.
    Started {
        /// Version of this program.
        version: String,
        /// `onboarding` or `ready`.
        phase: &'static str,
        /// Codes of what is relaxed.
        posture: Vec<String>,
    },
    /// The log begins here, but the keys were there before: what was released until now is recorded elsewhere, or
    /// nowhere any more.
    LogBegan {
        /// Why: `keys_exist`.
        reason: &'static str,
    },
    /// The log is signed under another name than before: an operator has moved the name of the node away.
    LogRenamed {
        /// The old name, as signed checkpoints have it.
        previous: String,
        /// How many leaves the newest known checkpoint of that name has.
        size: u64,
        /// The root of that tree, base64.
        root: String,
    },
    /// The records before this one are of a version without a ledger. They were verified, and this record seals them.
    Imported {
        /// The number of the first of them.
        first: u64,
        /// How many.
        lines: u64,
        /// How long they are together, with their newlines.
        bytes: u64,
        /// SHA-256 of them all, hex: of the file, where they are in one.
        sha256: String,
        /// The hash of the last of them, hex.
        head: String,
    },
    /// A closed file was moved away by `kms audit archive`.
    SegmentArchived {
        /// The number of the last record in it.
        last: u64,
        /// Its length.
        bytes: u64,
        /// SHA-256 of it, hex.
        sha256: String,
    },
    /// An OS image is downloaded, because an allowed caller names it.
    ImageDownloadStarted {
        /// Its hash, hex.
        image: String,
    },
    /// How far the download is.
    ImageDownloadProgress {
        /// The image's hash, hex.
        image: String,
        /// Bytes so far.
        bytes: u64,
        /// Of a hundred, if the server said how much there is.
        #[serde(skip_serializing_if = "Option::is_none")]
        percent: Option<u64>,
    },
    /// The image is in the cache.
    ImageDownloaded {
        /// Its hash, hex.
        image: String,
        /// How long it took.
        seconds: u64,
    },
    /// There is no image.
    ImageDownloadFailed {
        /// Its hash, hex.
        image: String,
        /// Why not.
        reason: String,
    },
    /// The service stopped in order.
    Stopped,
    /// A crash left an unfinished end, which was cut off.
    Recovered {
        /// How much was cut off.
        dropped_bytes: u64,
    },
    /// Nothing could be recorded for a while; the chain has no gap.
    Resumed {
        /// Why: `disk_full`, `write_failed`, `clock_behind`.
        reason: &'static str,
        /// How long it lasted.
        seconds: u64,
    },
    /// The log goes on in this file, because the one before cannot be relied on.
    SegmentBegan {
        /// Why: `sync_failed`, `file_gone`, `file_replaced`, `file_truncated`, `file_written_by_others`, `write_failed`,
        /// `damaged_end`.
        reason: &'static str,
        /// The number of the last record before this file.
        after: u64,
        /// How many bytes after that record are no records: they stay in the closed file.
        #[serde(skip_serializing_if = "Option::is_none")]
        damaged_bytes: Option<u64>,
    },
    /// An operator says that records before this one were made by a clock that was ahead, and that it is right now.
    ClockFloorLowered {
        /// Below which date, in Unix seconds, the clock could not be until now.
        from: u64,
        /// The date that replaces it: the time of this record.
        to: u64,
        /// The operator's.
        reason: String,
        /// Who did it.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// Refusals came faster than they are recorded.
    Suppressed {
        /// How many are missing here.
        events: u64,
        /// Where they came from; absent for those of this KMS.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<&'static str>,
    },
    /// Root keys were generated.
    KeysBootstrapped {
        /// Domain of the server certificate.
        domain: String,
        /// SPKI of the root CA, hex.
        ca_pubkey: String,
        /// Compressed secp256k1 root, hex.
        k256_pubkey: String,
    },
    /// Root keys were received from another KMS.
    KeysReceived {
        /// Domain of the server certificate.
        domain: String,
        /// Where they came from.
        source: String,
        /// Compressed secp256k1 root, hex.
        k256_pubkey: String,
    },
    /// Our policy allowed the KMS that root keys are received from only by relaxed rules.
    SourceRelaxed {
        /// What was measured of it, hex.
        mr_aggregated: String,
        /// As verified.
        tcb_status: String,
        /// As verified.
        advisory_ids: Vec<String>,
        /// The rules.
        relaxations: Vec<String>,
    },
    /// An app got its keys.
    AppKeyReleased {
        /// Who got them.
        #[serde(flatten)]
        subject: Subject,
    },
    /// A KMS got the root keys.
    KmsKeyReleased {
        /// Who got them.
        #[serde(flatten)]
        subject: Subject,
    },
    /// An app got a certificate.
    CertificateIssued {
        /// Who got it.
        #[serde(flatten)]
        subject: Subject,
        /// The certificate's common name.
        common_name: String,
        /// Its subject alternative names.
        names: Vec<String>,
    },
    /// A verified caller was refused.
    Denied {
        /// Who was refused.
        #[serde(flatten)]
        subject: Subject,
        /// Stable code of the reason.
        code: String,
        /// The reason that the caller was told.
        reason: String,
        /// Where and why.
        #[serde(flatten)]
        why: Why,
    },
    /// Somebody was refused whose evidence does not verify, or because this KMS is not allowed itself.
    Refused {
        /// Where the request came from.
        remote: IpAddr,
        /// Stable code of the reason.
        code: String,
        /// The reason that the caller was told.
        reason: String,
        /// Where and why.
        #[serde(flatten)]
        why: Why,
    },
    /// A release that is recorded before this did not happen: a freeze came in between, or recording it took so long that
    /// the decision was too old.
    Withheld {
        /// Who would have got it.
        #[serde(flatten)]
        subject: Subject,
        /// The number of the record that says it was released.
        released: u64,
    },
    /// An operator has frozen something.
    Frozen {
        /// `app`, `instance`, `device`, `os_image` or `kms`.
        scope: &'static str,
        /// Hex; empty for `kms`.
        value: String,
        /// The operator's.
        reason: String,
        /// Unix seconds at which it ends by itself.
        expires_at: Option<u64>,
        /// `token`, `user <name>` or `anyone`.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An operator has taken a freeze back.
    Unfrozen {
        /// As in `frozen`.
        scope: &'static str,
        /// Hex; empty for `kms`.
        value: String,
        /// The operator's; may be empty.
        reason: String,
        /// Who did it.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An operator asked why somebody is refused. Nothing was released.
    Explained {
        /// `evidence`, `certificate` or `denial <id>`.
        input: String,
        /// `app`, `kms` or `certificate`.
        subject: &'static str,
        /// `allowed`, `denied` or `unknown`.
        verdict: String,
        /// The code of the first check that fails; may be empty.
        code: String,
        /// Who asked.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// A candidate allowlist began to look on.
    ShadowStarted {
        /// What operators call it.
        name: String,
        /// SHA-256 of its text, hex.
        sha256: String,
        /// Who did it.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// It ended.
    ShadowStopped {
        /// What operators call it.
        name: String,
        /// What it would have newly allowed.
        newly_allowed: u64,
        /// What it would have newly denied.
        newly_denied: u64,
        /// Who did it.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// An operator had the collateral fetched again.
    CollateralRefreshed {
        /// Models of which collateral was held.
        models: u64,
        /// Of those, the ones that no service had anything usable for.
        failed: u64,
        /// Who did it.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// Somebody showed wrong credentials.
    CredentialsRefused {
        /// `admin` or `onboarding`.
        listener: &'static str,
        /// `token` or `password`: what it was meant to be.
        shown: &'static str,
        /// Where the request came from.
        remote: IpAddr,
    },
    /// A program beside this KMS or an operator reported something. Its words are theirs, with control characters escaped.
    Reported {
        /// `pipe` or `api`: how it came.
        source: &'static str,
        /// What they say.
        message: String,
        /// Who reported it, where credentials said so.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// Where the request came from.
        #[serde(skip_serializing_if = "Option::is_none")]
        remote: Option<IpAddr>,
    },
    /// An operator has cleared caches of OS images.
    CachesCleared {
        /// Hash, `all`, or empty.
        image_hash: String,
        /// Hash, `all`, or empty.
        config_hash: String,
        /// Who did it.
        by: String,
        /// Where the request came from.
        remote: IpAddr,
    },
}

/// Where a caller was stopped, and what would have let it pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Why {
    /// The step of admission.
    pub step: &'static str,
    /// What would have been right; bounded.
    pub expected: Option<String>,
    /// What was found.
    pub actual: Option<String>,
    /// What would allow it.
    pub remedy: Option<String>,
    /// What the caller was given to name this refusal by.
    pub denial_id: String,
    /// SHA-256 of the evidence that was shown, hex; `None` where there was none that can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_sha256: Option<String>,
    /// The rule that refused the guest's stage, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_rule: Option<&'static str>,
}

impl Event {
    /// Its type, whose name is `event` in the record. An event without a type does not build.
    pub fn event_type(&self) -> EventType {
        match self {
            Self::Started { .. } => EventType::Started,
            Self::LogBegan { .. } => EventType::LogBegan,
            Self::LogRenamed { .. } => EventType::LogRenamed,
            Self::Imported { .. } => EventType::Imported,
            Self::SegmentArchived { .. } => EventType::SegmentArchived,
            Self::ImageDownloadStarted { .. } => EventType::ImageDownloadStarted,
            Self::ImageDownloadProgress { .. } => EventType::ImageDownloadProgress,
            Self::ImageDownloaded { .. } => EventType::ImageDownloaded,
            Self::ImageDownloadFailed { .. } => EventType::ImageDownloadFailed,
            Self::Stopped => EventType::Stopped,
            Self::Recovered { .. } => EventType::Recovered,
            Self::Resumed { .. } => EventType::Resumed,
            Self::SegmentBegan { .. } => EventType::SegmentBegan,
            Self::ClockFloorLowered { .. } => EventType::ClockFloorLowered,
            Self::Suppressed { .. } => EventType::Suppressed,
            Self::KeysBootstrapped { .. } => EventType::KeysBootstrapped,
            Self::KeysReceived { .. } => EventType::KeysReceived,
            Self::SourceRelaxed { .. } => EventType::SourceRelaxed,
            Self::AppKeyReleased { .. } => EventType::AppKeyReleased,
            Self::KmsKeyReleased { .. } => EventType::KmsKeyReleased,
            Self::CertificateIssued { .. } => EventType::CertificateIssued,
            Self::Denied { .. } => EventType::Denied,
            Self::Refused { .. } => EventType::Refused,
            Self::Withheld { .. } => EventType::Withheld,
            Self::Frozen { .. } => EventType::Frozen,
            Self::Unfrozen { .. } => EventType::Unfrozen,
            Self::Explained { .. } => EventType::Explained,
            Self::ShadowStarted { .. } => EventType::ShadowStarted,
            Self::ShadowStopped { .. } => EventType::ShadowStopped,
            Self::CollateralRefreshed { .. } => EventType::CollateralRefreshed,
            Self::CredentialsRefused { .. } => EventType::CredentialsRefused,
            Self::Reported { .. } => EventType::Reported,
            Self::CachesCleared { .. } => EventType::CachesCleared,
        }
    }

    /// The event as a JSON object.
    pub(super) fn fields(&self) -> Result<String, AuditError> {
        let fields = serde_json::to_string(self).map_err(|_| AuditError::TooLarge)?;
        if fields.len() > MAX_LINE - CHAIN_FIELDS { Err(AuditError::TooLarge) } else { Ok(fields) }
    }
}
