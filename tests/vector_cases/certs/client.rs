//! Certificates with evidence, as CVMs present them: read, bound to their key, verified, and issued again.

use kms_attest::binding::ReportData;
use kms_attest::evidence::Evidence;
use kms_attest::ra_tls;
use kms_attest::verify::{Binding, VerifyError};

use super::Authorities;
use super::x509::{Vector, is_parsed, issue_again, said, to_be_signed};
use crate::vector_cases::attestation::{STRIPPED_V2_EVENTS, has_stripped_v2_events, is_refused};
use crate::vector_cases::cases::Notes;
use crate::vector_cases::json::{Check, Failure, Json, ensure};
use crate::vector_cases::pki::DevelopmentPki;

/// What a compressed event log begins with.
const GZIP_PREFIX: &[u8] = b"ELGZv1";

const UNBOUND_V2_EVENTS: &str = "V2 events with half of digest and preimage are refused, as by the peer";

pub(super) fn check(
    case: &Json,
    authorities: &Authorities<'_>,
    pki: &DevelopmentPki,
    notes: &mut Notes,
) -> Check {
    let vector = Vector::read(case)?;
    is_parsed(case.at("parsed")?, &vector.der)?;
    let issuer = authorities.issuer_of(&vector)?;
    ensure!(issuer.key.scalar() == authorities.temp().key.scalar(), "the temporary CA did not issue it");
    let evidence = ra_tls::evidence_in(&vector.der);
    if let Some(peer) = case.maybe("peer_decode") {
        return legacy(peer, &vector, evidence, pki, notes);
    }
    let evidence = evidence?.ok_or_else(|| Failure("ours finds no evidence".into()))?;
    let said = vector.says()?;
    let payload = said.evidence.as_deref().unwrap_or_default();
    case.at("attestation_prefix_byte")?.is_bytes(&payload[..payload.len().min(1)])?;
    ensure!(evidence.stripped() == evidence, "the evidence is not stripped");
    let spki = ra_tls::spki_of(&vector.der)?;
    case.at("expected_report_data")?.is_bytes(ReportData::ra_tls(&spki).0)?;
    case.at("expected_report_data")?.is_bytes(evidence.report_data()?.0)?;
    is_verified(&evidence, &spki, pki, notes)?;
    let again = issue_again(&said, vector.validity, &vector.key, issuer)?;
    vector.is_issued_alike(&again, &issuer.key)?;
    is_made_by_a_client(&vector, &evidence, issuer)
}

/// Evidence bound to a key verifies with that key, and with no other.
pub(super) fn is_verified(
    evidence: &Evidence,
    spki: &[u8],
    pki: &DevelopmentPki,
    notes: &mut Notes,
) -> Check {
    match pki.verify(evidence, Binding::PublicKey(spki)) {
        Ok(verified) => {
            ensure!(*verified.report_data() == ReportData::ra_tls(spki), "verified with other report data");
            if has_stripped_v2_events(evidence) {
                notes.differs(STRIPPED_V2_EVENTS);
            }
        }
        Err(VerifyError::Preimages(_)) => notes.aside(UNBOUND_V2_EVENTS),
        Err(error @ VerifyError::UnsupportedPlatform(_)) => is_refused(evidence, Err(error), notes)?,
        Err(error) => return Err(error.into()),
    }
    let other_key = [spki, &[0]].concat();
    ensure!(pki.verify(evidence, Binding::PublicKey(&other_key)).is_err(), "it verifies with another key");
    Ok(())
}

/// A client of ours makes the same certificate. Its dates are those of the moment, so the vector's take their place.
fn is_made_by_a_client(vector: &Vector<'_>, evidence: &Evidence, issuer: &Vector<'_>) -> Check {
    let ours = ra_tls::client_certificate(issuer.pem, &issuer.key, &vector.key, evidence)?;
    let redated = issue_again(&said(&ours)?, vector.validity, &vector.key, issuer)?;
    ensure!(
        to_be_signed(&redated)? == to_be_signed(&vector.der)?,
        "a client of ours makes another certificate"
    );
    Ok(())
}

/// The old pair of extensions: only read.
fn legacy(
    peer: &Json,
    vector: &Vector<'_>,
    ours: Result<Option<Evidence>, ra_tls::RaTlsError>,
    pki: &DevelopmentPki,
    notes: &mut Notes,
) -> Check {
    ensure!(vector.says()?.is_legacy, "it has no legacy extension");
    let expected_events = match (peer.maybe("error"), &ours) {
        (None, _) => {
            peer.at("ok_config_is_empty")?.is_bool(true)?;
            Some(peer.at("runtime_events")?)
        }
        (Some(error), Err(_)) => return error.text().map(drop),
        (Some(error), Ok(_)) => {
            error.text()?;
            let is_compressed = vector.der.windows(GZIP_PREFIX.len()).any(|window| window == GZIP_PREFIX);
            ensure!(is_compressed, "the peer refuses it, ours does not");
            notes.differs("compressed event logs are read");
            None
        }
    };
    let evidence = ours?.ok_or_else(|| Failure("ours finds no evidence".into()))?;
    ensure!(evidence.stack.config.is_empty(), "ours finds a configuration");
    if let Some(expected) = expected_events {
        expected.is_number(evidence.stack.runtime_events.len())?;
    }
    is_verified(&evidence, &ra_tls::spki_of(&vector.der)?, pki, notes)
}
