//! The judgement: pure, of answers, pins, roots and a time.

use std::time::Duration;

use kms_attest::{
    binding::ReportData,
    collateral::Collateral,
    evidence::{Evidence, Platform},
    identity::{AppInfo, Registers},
    platform::tdx::{TdReport, TdxError, VerifiedQuote, verify_quote},
    ra_tls,
    trust::TrustAnchors,
    verify::{Binding, Verified, verify},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{
    Answers, Check, Outcome, Pins, Quoted, Report, Step,
    answers::Quote,
    pins::{self, ImageProof, RootPin},
};
use crate::{
    server::{KMS_USAGE, kms_certificate},
    text, tls,
    url::KmsUrl,
};

/// TDATTRIBUTES that let others look in.
const DEBUG_BYTE: u64 = 0xff;

/// Judges the answers at `now` (Unix seconds).
pub fn examine(answers: &Answers, pins: &Pins, anchors: &TrustAnchors, now: u64) -> Report {
    let mut examination = Examination { answers, pins, anchors, now, steps: Vec::new(), quoted: None };
    let leaf = examination.certificate();
    let root = examination.root();
    examination.chain(leaf.as_deref(), root.as_ref());
    examination.usage(leaf.as_deref());
    let evidence = examination.evidence(leaf.as_deref());
    examination.quote(leaf.as_deref(), evidence.as_ref());
    examination.root_pin(root.as_ref());
    let root_spki = root.as_ref().map(|root| root.spki.as_slice());
    let k256 = examination.k256(root_spki);
    examination.app_key_chain(k256);
    examination.released_keys(k256, root_spki);
    let Examination { steps, quoted, .. } = examination;
    Report {
        url: text::printable(&answers.url),
        taken_at: answers.taken_at,
        judged_at: now,
        steps,
        quoted,
        root_spki_sha256: root_spki.map(|spki| hex::encode(Sha256::digest(spki))),
        root_spki: root_spki.map(hex::encode),
        k256_pubkey: k256.map(|key| key.to_string()),
    }
}

pub(super) struct Examination<'a> {
    pub(super) answers: &'a Answers,
    pub(super) pins: &'a Pins,
    pub(super) anchors: &'a TrustAnchors,
    pub(super) now: u64,
    pub(super) steps: Vec<Step>,
    quoted: Option<Quoted>,
}

/// The root CA.
struct Root {
    certificate: CertificateDer<'static>,
    spki: Vec<u8>,
}

impl Examination<'_> {
    pub(super) fn note(&mut self, step: Check, outcome: Outcome, detail: impl Into<String>) {
        self.steps.push(Step { step, outcome, detail: detail.into() });
    }

    pub(super) fn passed(&mut self, step: Check, detail: impl Into<String>) {
        self.note(step, Outcome::Passed, detail);
    }

    pub(super) fn failed(&mut self, step: Check, detail: impl Into<String>) {
        self.note(step, Outcome::Failed, detail);
    }

    pub(super) fn not_checked(&mut self, step: Check, detail: impl Into<String>) {
        self.note(step, Outcome::NotChecked, detail);
    }

    fn certificate(&mut self) -> Option<Vec<u8>> {
        let Some(pem) = &self.answers.server_certificate else {
            self.note(Check::Certificate, Outcome::Unavailable, self.answers.why("server_certificate"));
            return None;
        };
        let readable = tls::single_certificate(pem).ok().map(|certificate| certificate.to_vec());
        let readable = readable.filter(|der| ra_tls::spki_of(der).is_ok());
        match &readable {
            Some(der) => {
                let print = hex::encode(Sha256::digest(der));
                self.passed(Check::Certificate, format!("SHA-256 {print}"));
            }
            None => self.failed(Check::Certificate, "server_certificate is not one certificate in PEM"),
        }
        readable
    }

    fn root(&mut self) -> Option<Root> {
        let Some(shown) = &self.answers.ca_cert else {
            self.note(Check::Root, Outcome::Unavailable, self.answers.why("ca_cert"));
            return None;
        };
        let Some(root) = Root::read(shown) else {
            self.failed(Check::Root, "ca_cert of GetTempCaCert is not one certificate in PEM");
            return None;
        };
        let Some(meta) = &self.answers.meta else {
            self.note(Check::Root, Outcome::Unavailable, self.answers.why("meta"));
            return Some(root);
        };
        match Root::read(&meta.ca_cert) {
            Some(other) if other.spki == root.spki => {
                let print = hex::encode(Sha256::digest(&root.spki));
                self.passed(Check::Root, format!("SPKI SHA-256 {print}"));
            }
            Some(_) => self.failed(Check::Root, "GetTempCaCert and GetMeta show different root CAs"),
            None => self.failed(Check::Root, "ca_cert of GetMeta is not one certificate in PEM"),
        }
        Some(root)
    }

    fn chain(&mut self, leaf: Option<&[u8]>, root: Option<&Root>) {
        let (Some(leaf), Some(root)) = (leaf, root) else {
            return self.not_checked(Check::Chain, "there is no certificate, or no root");
        };
        let Ok(url) = self.answers.url.parse::<KmsUrl>() else {
            return self.failed(Check::Chain, "the URL of the KMS is not one");
        };
        match chains(leaf, root, &url, self.now) {
            Ok(()) => self.passed(Check::Chain, format!("issued by the root for {}", url.host())),
            Err(problem) => self.failed(Check::Chain, problem),
        }
    }

    fn usage(&mut self, leaf: Option<&[u8]>) {
        let Some(leaf) = leaf else { return self.not_checked(Check::Usage, "there is no certificate") };
        match kms_certificate(leaf) {
            Ok(()) => self.passed(Check::Usage, KMS_USAGE),
            Err(error) => self.failed(Check::Usage, error.to_string()),
        }
    }

    fn evidence(&mut self, leaf: Option<&[u8]>) -> Option<Evidence> {
        let Some(leaf) = leaf else {
            self.not_checked(Check::QuotePresent, "there is no certificate");
            return None;
        };
        match ra_tls::evidence_in(leaf) {
            Ok(Some(evidence)) => {
                self.passed(Check::QuotePresent, evidence.platform.tee_variant());
                Some(evidence)
            }
            Ok(None) => {
                self.failed(Check::QuotePresent, "the certificate carries no attestation");
                None
            }
            Err(error) => {
                self.failed(Check::QuotePresent, error.to_string());
                None
            }
        }
    }

    /// Everything that the quote in the certificate says.
    fn quote(&mut self, leaf: Option<&[u8]>, evidence: Option<&Evidence>) {
        const REST: [Check; 7] = [
            Check::QuoteGenuine,
            Check::Tcb,
            Check::Advisories,
            Check::NotDebug,
            Check::KeyBound,
            Check::EventLog,
            Check::Measurements,
        ];
        let spki = leaf.and_then(|leaf| ra_tls::spki_of(leaf).ok());
        let (Some(spki), Some(evidence)) = (spki, evidence) else {
            REST.iter().for_each(|check| self.not_checked(*check, "there is no quote"));
            return;
        };
        let genuine = self.genuine(evidence);
        let Some((quote, collateral)) = genuine else {
            for check in REST.iter().filter(|check| !self.has(**check)).copied().collect::<Vec<_>>() {
                self.not_checked(check, "the quote is not known to be genuine");
            }
            return;
        };
        self.tcb(&quote);
        self.passed(Check::NotDebug, "no debug attribute is set");
        if quote.td().report_data == ReportData::ra_tls(&spki).0 {
            self.passed(Check::KeyBound, "the report data are the hash of the certificate's key");
        } else {
            self.failed(Check::KeyBound, "the quote vouches for another key than the certificate's");
        }
        match verify(evidence, Binding::SelfReported, &collateral, self.anchors, self.now) {
            Ok(verified) => {
                self.passed(Check::EventLog, "the events replay to RTMR3");
                self.measurements(&verified);
            }
            Err(error) => {
                self.failed(Check::EventLog, error.to_string());
                self.not_checked(Check::Measurements, "the event log is not what was measured");
            }
        }
    }

    fn has(&self, check: Check) -> bool {
        self.steps.iter().any(|step| step.step == check)
    }

    /// The quote, if the vendor vouches for it.
    fn genuine(&mut self, evidence: &Evidence) -> Option<(VerifiedQuote, Collateral)> {
        let Platform::Tdx(tdx) = &evidence.platform else {
            let kind = evidence.platform.tee_variant();
            self.failed(Check::QuoteGenuine, format!("verification of {kind} evidence is not supported"));
            return None;
        };
        let collateral = match self.answers.collateral(Quote::Server) {
            None => {
                self.note(Check::QuoteGenuine, Outcome::Unavailable, self.answers.why("collateral"));
                return None;
            }
            Some(Err(error)) => {
                self.failed(Check::QuoteGenuine, format!("collateral: {error}"));
                return None;
            }
            Some(Ok(collateral)) => collateral,
        };
        match verify_quote(&tdx.quote, &collateral, self.anchors, self.now) {
            Ok(quote) => {
                let fmspc = hex::encode(collateral.fmspc());
                self.passed(Check::QuoteGenuine, format!("signed by the vendor's platform, FMSPC {fmspc}"));
                Some((quote, collateral))
            }
            Err(error) => {
                let (genuine, debug) = verdict_of(&error, TdReport::parse(&tdx.quote).ok().as_ref());
                self.note(Check::QuoteGenuine, genuine.0, genuine.1);
                if let Some(reason) = debug {
                    self.failed(Check::NotDebug, reason);
                }
                None
            }
        }
    }

    fn tcb(&mut self, quote: &VerifiedQuote) {
        let status = quote.status();
        if self.pins.tcb.iter().any(|accepted| accepted == status) {
            self.passed(Check::Tcb, status);
        } else {
            let accepted = self.pins.tcb.join(", ");
            self.failed(Check::Tcb, format!("{status}; accepted: {accepted}"));
        }
        let ids = quote.advisory_ids();
        let unaccepted = |accepted: &[String]| {
            ids.iter().filter(|id| !accepted.contains(id)).cloned().collect::<Vec<_>>().join(", ")
        };
        match &self.pins.advisories {
            _ if ids.is_empty() => self.passed(Check::Advisories, "none applies"),
            None => self.not_checked(Check::Advisories, format!("not judged: {}", ids.join(", "))),
            Some(accepted) => match unaccepted(accepted) {
                rest if rest.is_empty() => self.passed(Check::Advisories, ids.join(", ")),
                rest => self.failed(Check::Advisories, format!("not accepted: {rest}")),
            },
        }
    }

    fn measurements(&mut self, verified: &Verified) {
        let shown = match verified.app_info(Registers::RunTime, "") {
            Ok(shown) => shown,
            Err(error) => return self.failed(Check::Measurements, error.to_string()),
        };
        let image = pins::image_proof(verified);
        self.quoted = Some(quoted(verified, &shown, image));
        if self.pins.identities.is_empty() {
            let aggregated = hex::encode(shown.mr_aggregated);
            return self
                .not_checked(Check::Measurements, format!("nothing is pinned; mr_aggregated {aggregated}"));
        }
        match pins::find(&self.pins.identities, &shown, image) {
            Ok(identity) if identity.name.is_empty() => {
                self.passed(
                    Check::Measurements,
                    format!("mr_aggregated {}", hex::encode(shown.mr_aggregated)),
                );
            }
            Ok(identity) => self.passed(Check::Measurements, text::printable(&identity.name)),
            Err(difference) => self.failed(Check::Measurements, difference),
        }
    }

    fn root_pin(&mut self, root: Option<&Root>) {
        let Some(root) = root else { return self.not_checked(Check::RootPin, "there is no root") };
        let matches = match &self.pins.root {
            None => {
                let print = hex::encode(Sha256::digest(&root.spki));
                return self.not_checked(Check::RootPin, format!("nothing is pinned; SPKI SHA-256 {print}"));
            }
            Some(RootPin::Spki(pinned)) => *pinned == root.spki,
            Some(RootPin::Sha256(pinned)) => pinned[..] == Sha256::digest(&root.spki)[..],
        };
        if matches {
            self.passed(Check::RootPin, "the public key of the root CA is the pinned one");
        } else {
            self.failed(Check::RootPin, "the root CA has another public key than the pinned one");
        }
    }
}

/// What a refused quote means for the two checks that it concerns. The verifier looks at debug and isolation last, after
/// every signature.
fn verdict_of(error: &TdxError, parsed: Option<&TdReport>) -> ((Outcome, String), Option<String>) {
    let isolation = matches!(
        error,
        TdxError::Attributes(_) | TdxError::SeptVeEnabled | TdxError::ForeignModule | TdxError::ServiceTd
    );
    if parsed.is_some_and(|td| td.td_attributes & DEBUG_BYTE != 0) {
        let genuine = (Outcome::NotChecked, "a debug quote is worth nothing".to_owned());
        return (genuine, Some("debug mode is enabled".to_owned()));
    }
    if isolation {
        let genuine = (Outcome::Passed, "signed by the vendor's platform".to_owned());
        return (genuine, Some(error.to_string()));
    }
    ((Outcome::Failed, error.to_string()), None)
}

fn quoted(verified: &Verified, shown: &AppInfo, image: ImageProof) -> Quoted {
    let some = |bytes: &[u8]| (!bytes.is_empty()).then(|| hex::encode(bytes));
    Quoted {
        tcb_status: verified.tcb_status().to_owned(),
        advisory_ids: verified.advisory_ids().to_vec(),
        fmspc: hex::encode(verified.fmspc()),
        device_id: hex::encode(&shown.device_id),
        mr_aggregated: some(&shown.mr_aggregated),
        mr_system: some(&shown.mr_system),
        compose_hash: some(&shown.compose_hash),
        app_id: some(&shown.app_id),
        os_image_hash: some(&shown.os_image_hash),
        os_image_proven: image == ImageProof::Proven,
    }
}

impl Root {
    fn read(pem: &str) -> Option<Self> {
        let certificate = tls::single_certificate(pem).ok()?;
        let spki = tls::public_key_of(&certificate).ok()?;
        Some(Self { certificate, spki })
    }
}

/// Directly under the root: a KMS has no other place, and apps are one below.
fn chains(leaf: &[u8], root: &Root, url: &KmsUrl, now: u64) -> Result<(), String> {
    let leaf = CertificateDer::from(leaf);
    let leaf = EndEntityCert::try_from(&leaf).map_err(|_| "the certificate cannot be read".to_owned())?;
    let anchor = anchor_from_trusted_cert(&root.certificate)
        .map_err(|_| "the root CA is not a CA certificate".to_owned())?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now));
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &[anchor],
        &[],
        at,
        KeyUsage::server_auth(),
        None,
        None,
    )
    .map_err(|error| format!("the certificate is not issued by this root, or not valid: {error}"))?;
    leaf.verify_is_valid_for_subject_name(url.server_name())
        .map_err(|_| format!("the certificate is not for {}", url.host()))
}
