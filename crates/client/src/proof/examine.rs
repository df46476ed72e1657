//! The verdict: a pure function of answers, pins, roots and a time.

use std::time::Duration;

use kms_attest::ra_tls;
use kms_attest::trust::TrustAnchors;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::pins::RootPin;
use super::{Answers, Check, Outcome, Pins, Quoted, Report, Step};
use crate::server::{KMS_USAGE, kms_certificate};
use crate::url::KmsUrl;
use crate::{text, tls};

/// Checks the responses at `now` (Unix seconds).
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
    examination.log_key(k256);
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

/// A report in progress.
pub(super) struct Examination<'a> {
    pub(super) answers: &'a Answers,
    pub(super) pins: &'a Pins,
    pub(super) anchors: &'a TrustAnchors,
    pub(super) now: u64,
    pub(super) steps: Vec<Step>,
    pub(super) quoted: Option<Quoted>,
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
                self.passed(Check::Root, format!("root CA public key SHA-256 {print}"));
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

    fn root_pin(&mut self, root: Option<&Root>) {
        let Some(root) = root else { return self.not_checked(Check::RootPin, "there is no root") };
        let Some(pin) = &self.pins.root else {
            let print = hex::encode(Sha256::digest(&root.spki));
            return self.not_checked(
                Check::RootPin,
                format!("nothing is pinned; root CA public key SHA-256 {print}"),
            );
        };
        if pin.is(&root.spki) {
            return self.passed(Check::RootPin, "the public key of the root CA is the pinned one");
        }
        match self.older_root(pin, root) {
            Ok(detail) => self.passed(Check::RootPin, detail),
            Err(why) => {
                self.failed(
                    Check::RootPin,
                    format!("the root CA has another public key than the pinned one{why}"),
                );
            }
        }
    }

    /// How the pinned root CA, if it is that of an older epoch, leads to this one. Root CAs state nothing: the secp256k1 key of
    /// the epoch does, which must be pinned too.
    fn older_root(&self, pin: &RootPin, root: &Root) -> Result<String, String> {
        let epochs = self.answers.meta.as_ref().map_or(&[][..], |meta| &meta.epochs);
        let Some(older) = epochs.iter().find(|epoch| pin.is(&epoch.ca_pubkey)) else {
            return Err(String::new());
        };
        let number = older.number;
        let Some(known) = self.pins.k256.filter(|known| older.k256_pubkey == known.as_bytes()) else {
            return Err(format!(
                ": the KMS lists it as that of root epoch {number}; pin the k256 key of that epoch too, which may state this one"
            ));
        };
        let epoch = self.followed(&known, Some(&root.spki)).map_err(|problem| format!(": {problem}"))?;
        Ok(format!(
            "the root CA of root epoch {number} is pinned, whose k256 key states this one, that of root epoch {}",
            epoch.number
        ))
    }
}

impl Root {
    fn read(pem: &str) -> Option<Self> {
        let certificate = tls::single_certificate(pem).ok()?;
        let spki = tls::public_key_of(&certificate).ok()?;
        Some(Self { certificate, spki })
    }
}

/// The leaf must be directly under the root, because an app's certificates are one level below.
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
