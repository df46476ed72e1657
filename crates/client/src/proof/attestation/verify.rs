//! The verdict about a document: a pure function of the document, pins, rules, roots and a time.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use kms_attest::binding::{ReportData, kms_attestation_by_root};
use kms_attest::collateral::{Collateral, named_model};
use kms_attest::evidence::{Evidence, LegacyError};
use kms_attest::identity::{AppInfo, Registers};
use kms_attest::platform::tdx::{Rejection, TdReport, TdxError};
use kms_attest::trust::TrustAnchors;
use kms_attest::verify::{Binding, Verified, VerifyError, verify};
use sha2::{Digest as _, Sha256};

use super::answer::Answer;
use super::error::Refusal;
use super::pins::{Pin, Pins};
use super::statement::{Hex, Statement};
use crate::proof::pins::{ImageProof, UP_TO_DATE, image_proof};

/// The greatest age of a statement that is accepted by default, seconds.
pub const MAX_AGE: u64 = 600;
/// How far a statement may be ahead of the own clock, seconds.
pub const MAX_AHEAD: u64 = 300;

/// The public point is the last 65 bytes of a P-256 SubjectPublicKeyInfo.
const SPKI_BEFORE_POINT: usize = 26;

/// What is demanded of a document beside the pins.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Accepted TCB statuses, in Intel's words.
    pub tcb_statuses: Vec<String>,
    /// The nonce of the request.
    pub nonce: Option<[u8; 32]>,
    /// The greatest age of the statement, seconds; `None`: any.
    pub max_age: Option<u64>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { tcb_statuses: vec![UP_TO_DATE.to_owned()], nonce: None, max_age: Some(MAX_AGE) }
    }
}

/// What a document proves. Only [`Answer::verify`] makes one.
#[derive(Clone, Debug)]
pub struct Proved {
    statement: Statement,
    verified: Verified,
    app_info: AppInfo,
    image: ImageProof,
    by_root: bool,
}

impl Proved {
    /// What the KMS states, which the program that the quote measures has put into it.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The verified quote and its events.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// Who the guest is.
    pub fn app_info(&self) -> &AppInfo {
        &self.app_info
    }

    /// Whether the OS image follows from the registers; otherwise it is a claim of the VM's configuration.
    pub fn os_image_proven(&self) -> bool {
        self.image == ImageProof::Proven
    }

    /// Whether the root CA key has signed the quote, so that this is the KMS that has the root keys.
    pub fn is_signed_by_root(&self) -> bool {
        self.by_root
    }

    /// Checks the key of a TLS server.
    ///
    /// # Errors
    /// [`Refusal::TlsKey`].
    pub fn check_tls_key(&self, spki_der: &[u8]) -> Result<(), Refusal> {
        match <[u8; 32]>::from(Sha256::digest(spki_der)) == self.statement.rpc_spki_sha256.0 {
            true => Ok(()),
            false => Err(Refusal::TlsKey),
        }
    }
}

impl Answer {
    /// Verifies the document at `now` (Unix seconds).
    ///
    /// # Errors
    /// [`Refusal`], for the first check that fails.
    pub fn verify(
        &self,
        pins: &Pins,
        rules: &Rules,
        anchors: &TrustAnchors,
        now: u64,
    ) -> Result<Proved, Refusal> {
        if !pins.is_sufficient() {
            return Err(Refusal::NoPin);
        }
        let verified = self.verified(rules, anchors, now)?;
        let status = verified.tcb_status();
        if !rules.tcb_statuses.iter().any(|accepted| accepted == status) {
            return Err(tcb_status(status.to_owned(), rules));
        }
        let unidentified =
            |error: &dyn std::fmt::Display| Refusal::Identity(crate::text::printable(&error.to_string()));
        let app_info = verified.app_info(Registers::RunTime, "").map_err(|error| unidentified(&error))?;
        let statement = self.read_statement()?;
        let by_root = self.check_root(&statement)?;
        check_time(&statement, rules, now)?;
        let image = image_proof(&verified);
        let proved = Proved { statement, verified, app_info, image, by_root };
        proved.check_pins(pins)?;
        Ok(proved)
    }

    /// The quote, verified, with the statement as what it is over.
    fn verified(&self, rules: &Rules, anchors: &TrustAnchors, now: u64) -> Result<Verified, Refusal> {
        let mut evidence =
            Evidence::from_legacy(&self.quote, self.event_log.as_bytes()).map_err(unreadable)?;
        evidence.stack.config.clone_from(&self.vm_config);
        let report_data = ReportData::kms_attestation(self.statement.as_bytes());
        if evidence.stack.report_data != report_data.0 {
            return Err(Refusal::ReportData);
        }
        // Before the signatures, so that the code is the same whatever the quote verifier looks at first.
        let isolated = TdReport::parse(&self.quote).and_then(|td| td.check_isolation());
        isolated.map_err(|error| refused(error.into(), rules))?;
        let collateral = self.collateral.as_ref().ok_or(Refusal::CollateralMissing)?;
        let collateral = Collateral::from_json(collateral.to_string().as_bytes())
            .map_err(|error| Refusal::CollateralMismatch(error.to_string()))?;
        let (begins, ends) = (collateral.begins(), collateral.expires());
        if !(begins..=ends).contains(&now) {
            return Err(Refusal::CollateralExpired { begins, ends, now });
        }
        let named = named_model(&self.quote).map_err(|error| Refusal::Quote(error.to_string()))?;
        if named.is_some_and(|named| named != collateral.model()) {
            let (of, fmspc) = (hex::encode(collateral.fmspc()), named.map(|named| hex::encode(named.fmspc)));
            let why = format!("it is of the model {of}, and the quote of {}", fmspc.unwrap_or_default());
            return Err(Refusal::CollateralMismatch(why));
        }
        verify(&evidence, Binding::ReportData(&report_data), &collateral, anchors, now)
            .map_err(|error| refused(error, rules))
    }

    /// Whether the root CA key in the statement has signed. A wrong signature is never accepted.
    fn check_root(&self, statement: &Statement) -> Result<bool, Refusal> {
        let Some(root) = &self.root else { return Ok(false) };
        if Sha256::digest(root.ca_spki.0)[..] != statement.root.ca_spki_sha256.0 {
            return Err(Refusal::RootSignature("the signer is another key than the statement's root"));
        }
        let point = &root.ca_spki.0[SPKI_BEFORE_POINT..];
        let message = kms_attestation_by_root(&self.quote, self.statement.as_bytes());
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(&message, &root.signature.0)
            .map(|()| true)
            .map_err(|_| Refusal::RootSignature("the signature is wrong"))
    }
}

impl Proved {
    fn check_pins(&self, pins: &Pins) -> Result<(), Refusal> {
        let Statement { root, log, policies, .. } = &self.statement;
        let AppInfo { mr_aggregated, os_image_hash, compose_hash, app_id, .. } = &self.app_info;
        if pins.has(Pin::RootCaSpkiSha256) && !self.by_root {
            return Err(Refusal::RootSignature("there is no signature, and the root is pinned"));
        }
        let digest = policies
            .get("default")
            .and_then(|policy| policy.digest)
            .map(|digest: Hex<32>| digest.to_string());
        for pin in Pin::ALL {
            let found = match pin {
                Pin::RootCaSpkiSha256 => Some(root.ca_spki_sha256.to_string()),
                Pin::K256PublicKey => Some(root.k256_public_key.to_string()),
                Pin::MrAggregated => Some(hex::encode(mr_aggregated)),
                Pin::OsImageHash => Some(hex::encode(os_image_hash)),
                Pin::ComposeHash => Some(hex::encode(compose_hash)),
                Pin::AppId => Some(hex::encode(app_id)),
                Pin::LogKey => log.as_ref().map(|log| log.key.clone()),
                Pin::PolicyDigest => digest.clone(),
            };
            pins.check(pin, found.as_deref())?;
        }
        Ok(())
    }
}

fn check_time(statement: &Statement, rules: &Rules, now: u64) -> Result<(), Refusal> {
    if let Some(nonce) = rules.nonce
        && statement.nonce != Some(Hex(nonce))
    {
        return Err(Refusal::Nonce);
    }
    let made = statement.time;
    let refused = |why| Err(Refusal::Time { made, now, why });
    if made > now.saturating_add(MAX_AHEAD) {
        return refused("it is of the future");
    }
    if rules.max_age.is_some_and(|max_age| made.saturating_add(max_age) < now) {
        return refused("it is too old");
    }
    Ok(())
}

fn unreadable(error: LegacyError) -> Refusal {
    match error {
        LegacyError::Quote(error) => Refusal::Quote(error.to_string()),
        LegacyError::TooLarge(_) => Refusal::TooLarge,
        LegacyError::Gzip(_)
        | LegacyError::DecompressedTooLarge
        | LegacyError::EventLog(_)
        | LegacyError::TooManyEvents(_) => Refusal::Malformed(crate::text::printable(&error.to_string())),
    }
}

fn refused(error: VerifyError, rules: &Rules) -> Refusal {
    let why = crate::text::printable(&error.to_string());
    match error {
        VerifyError::ReportData | VerifyError::QuotedReportData | VerifyError::PodPayload => {
            Refusal::ReportData
        }
        VerifyError::EventName | VerifyError::Rtmr3 { .. } | VerifyError::Preimages(_) => {
            Refusal::EventLog(why)
        }
        VerifyError::UnsupportedPlatform(_) | VerifyError::Evidence(_) => Refusal::Quote(why),
        VerifyError::Clock(_) | VerifyError::Collateral(_) => Refusal::CollateralMismatch(why),
        VerifyError::Quote(error) => match error {
            TdxError::Debug | TdxError::Rejected { rejection: Rejection::Debug, .. } => Refusal::Debug,
            TdxError::Attributes(_)
            | TdxError::SeptVeEnabled
            | TdxError::ForeignModule
            | TdxError::ServiceTd
            | TdxError::Rejected { rejection: Rejection::Attributes | Rejection::ServiceTd, .. } => {
                Refusal::TdIsolation(why)
            }
            TdxError::Rejected { rejection: Rejection::Revoked, .. } => {
                tcb_status("Revoked".to_owned(), rules)
            }
            TdxError::Unlisted { .. } => tcb_status("below every level that Intel lists".to_owned(), rules),
            TdxError::Rejected { rejection: Rejection::NotGenuine, .. }
            | TdxError::Malformed(_)
            | TdxError::NotATd
            | TdxError::UnsupportedBody
            | TdxError::PckChain(_)
            | TdxError::NoPckChain
            | TdxError::Platform
            | TdxError::Status(_)
            | TdxError::Ppid { .. } => Refusal::Quote(why),
        },
    }
}

fn tcb_status(found: String, rules: &Rules) -> Refusal {
    Refusal::TcbStatus { found, accepted: rules.tcb_statuses.join(", ") }
}
