//! The checks of the quote in the server's certificate: whether it is genuine, what it is bound to, and what
//! it measures.

use kms_attest::binding::ReportData;
use kms_attest::collateral::{Collateral, platform_is_rooted};
use kms_attest::evidence::{Evidence, Platform};
use kms_attest::identity::{AppInfo, Registers};
use kms_attest::platform::tdx::{TdReport, TdxError, VerifiedQuote, verify_quote};
use kms_attest::ra_tls;
use kms_attest::tcb::TcbPart;
use kms_attest::verify::{Binding, Verified, verify};

use rustls_pki_types::CertificateDer;

use super::answers::Quote;
use super::examine::Examination;
use super::pins::{self, ImageProof};
use super::{Check, Outcome, Quoted};
use crate::{text, tls};

/// The TDATTRIBUTES that permit debugging.
const DEBUG_BYTE: u64 = 0xff;

impl Examination<'_> {
    /// The evidence in the certificate.
    pub(super) fn evidence(&mut self, leaf: Option<&[u8]>) -> Option<Evidence> {
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

    /// The checks of the quote.
    pub(super) fn quote(&mut self, leaf: Option<&[u8]>, evidence: Option<&Evidence>) {
        const REST: [Check; 7] = [
            Check::QuoteGenuine,
            Check::Tcb,
            Check::Advisories,
            Check::NotDebug,
            Check::KeyBound,
            Check::EventLog,
            Check::Measurements,
        ];
        // The key as parsed by the code that also verified the handshake.
        let spki = leaf.and_then(|leaf| tls::public_key_of(&CertificateDer::from(leaf)).ok());
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
        if quote.td().quoted.report_data == ReportData::ra_tls(&spki).0 {
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

    /// The quote, if it is signed under the vendor's root.
    fn genuine(&mut self, evidence: &Evidence) -> Option<(VerifiedQuote, Collateral)> {
        let Platform::Tdx(tdx) = &evidence.platform else {
            let kind = evidence.platform.tee_variant();
            self.failed(Check::QuoteGenuine, format!("verification of {kind} evidence is not supported"));
            return None;
        };
        // Checked even without collateral, because a platform of another vendor must fail instead of being
        // unavailable.
        if let Err(error) = platform_is_rooted(&tdx.quote, self.anchors) {
            self.failed(Check::QuoteGenuine, error.to_string());
            return None;
        }
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
                if let TdxError::Unlisted { shortfall, .. } = &error {
                    self.failed(Check::Tcb, shortfall.to_string());
                }
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
}

/// What a rejected quote means for the two checks it concerns. The verifier checks debug and isolation last,
/// after every signature.
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
    // The verifier checks the levels of platform and module after every signature, and those of the quoting
    // enclave before the last one.
    match error {
        TdxError::Unlisted { shortfall, .. } if shortfall.part() != TcbPart::QuotingEnclave => {
            ((Outcome::Passed, "signed by the vendor's platform".to_owned()), None)
        }
        TdxError::Malformed(_)
        | TdxError::Rejected { .. }
        | TdxError::Unlisted { .. }
        | TdxError::NotATd
        | TdxError::UnsupportedBody
        | TdxError::Debug
        | TdxError::Attributes(_)
        | TdxError::SeptVeEnabled
        | TdxError::ForeignModule
        | TdxError::ServiceTd
        | TdxError::PckChain(_)
        | TdxError::NoPckChain
        | TdxError::Platform
        | TdxError::Status(_)
        | TdxError::Ppid { .. } => ((Outcome::Failed, error.to_string()), None),
    }
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
