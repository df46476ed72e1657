//! Certificate requests: parsed, verified, encoded again, and the leaf issued for them.

use cvm_kms::ca::{self, OwnNames, Restricted, app_chain};
use cvm_kms::domain::Domain;
use kms_attest::certificate::{self, CertificateSpec, Issuer, Role, Validity};
use kms_attest::csr::{ApiVersion, Csr, CsrError};
use kms_attest::evidence::Wire;
use kms_attest::identity::{AppId, Registers};
use kms_attest::measurement::TdxEvent;
use kms_attest::p256::P256Key;
use sha2::{Digest, Sha256};

use super::client::is_verified;
use super::x509::{Vector, is_parsed, root_keys};
use super::{Authorities, app_info_array, issued_at};
use crate::vector_cases::cases::Notes;
use crate::vector_cases::json::{Check, Failure, Json, ensure};
use crate::vector_cases::pki::DevelopmentPki;

/// Where the text of the first field begins: behind its length in one byte.
const CONFIRM_OFFSET: usize = 1;

const APP_INFO_MAP: &str = "app info is the map of 0.6.0, no array";

pub(super) fn check(
    case: &Json,
    authorities: &Authorities<'_>,
    pki: &DevelopmentPki,
    notes: &mut Notes,
) -> Check {
    let version = ApiVersion::try_from(u32::try_from(case.at("api_version")?.number()?)?)?;
    let (encoded, signature) = (case.at("csr")?.bytes()?, case.at("signature")?.bytes()?);
    let parsed = Csr::parse(version, &encoded, &signature);
    if let Some(error) = case.some("decode_error") {
        error.text()?;
        ensure!(matches!(parsed, Err(CsrError::Field(_) | CsrError::Evidence(_))), "ours decodes it");
        return Ok(());
    }
    let is_refused = case.some("verify_error").is_some()
        || case.some("verify_of_decoded").map(Json::boolean).transpose()? == Some(false);
    let csr = match parsed {
        Ok(csr) if !is_refused => csr,
        Ok(csr) if version == ApiVersion::V2 && !encoded.ends_with(&csr.evidence.encode()) => {
            case.at("verify_error")?.text()?;
            notes.differs("the signature covers the bytes that were sent, not their canonical form");
            return Ok(());
        }
        Ok(_) => return Err(Failure("the peer refuses it, ours does not".into())),
        Err(error @ (CsrError::Algorithm | CsrError::Signature | CsrError::ConfirmWord)) if is_refused => {
            if let Some(reason) = case.some("verify_error") {
                let expected = format!("Failed to verify csr signature: {}", reason.text()?.to_lowercase());
                ensure!(error.to_string() == expected, "ours says: {error}");
            }
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    is_verified(&csr.evidence, &csr.spki, pki, notes)?;
    if let Some(fields) = case.maybe("fields") {
        fields_are(fields, version, &csr, &encoded)?;
        is_written_alike(version, &csr, &encoded)?;
    }
    for owner in [Some(case), case.maybe("leaf_example")].into_iter().flatten() {
        if let Some(key) = owner.maybe("private_key_pem") {
            is_signed_again(version, &csr, &P256Key::from_pem(key.text()?)?)?;
        }
    }
    if let Some(example) = case.maybe("leaf_example") {
        example.at("name")?.informative();
        let leaf = Vector::read(example)?;
        is_parsed(example.at("parsed")?, &leaf.der)?;
        is_the_leaf(&leaf, &csr, authorities, notes)?;
    }
    Ok(())
}

fn fields_are(fields: &Json, version: ApiVersion, csr: &Csr, encoded: &[u8]) -> Check {
    let confirm = fields.at("confirm")?.text()?;
    let found = encoded.get(CONFIRM_OFFSET..CONFIRM_OFFSET + confirm.len());
    ensure!(found == Some(confirm.as_bytes()), "the request does not begin with {confirm:?}");
    fields.at("pubkey")?.is_bytes(&csr.spki)?;
    let config = match version {
        ApiVersion::V1 => fields,
        ApiVersion::V2 => fields.at("config")?,
    };
    match (config.at("org_name")?, &csr.org_name) {
        (theirs, Some(ours)) => theirs.is_text(ours)?,
        (theirs, None) => ensure!(theirs.is_null(), "{}: ours is none", theirs.path()),
    }
    config.at("subject")?.is_text(&csr.subject)?;
    let names = config.at("subject_alt_names")?.texts()?;
    ensure!(names == csr.subject_alt_names, "the names are {names:?}, ours are {:?}", csr.subject_alt_names);
    config.at("usage_server_auth")?.is_bool(csr.usage_server_auth)?;
    config.at("usage_client_auth")?.is_bool(csr.usage_client_auth)?;
    config.at("ext_quote")?.is_bool(csr.ext_quote)?;
    match version {
        ApiVersion::V1 => fields_of_v1(fields, csr, encoded),
        ApiVersion::V2 => {
            config.at("ext_app_info")?.is_bool(csr.ext_app_info)?;
            for (name, ours) in [("not_before", csr.not_before), ("not_after", csr.not_after)] {
                match (config.at(name)?, ours) {
                    (theirs, Some(ours)) => theirs.is_number(ours)?,
                    (theirs, None) => ensure!(theirs.is_null(), "{}: ours is none", theirs.path()),
                }
            }
            let length = usize::try_from(fields.at("attestation_len")?.number()?)?;
            let start = encoded.len().checked_sub(length).ok_or_else(|| Failure("attestation_len".into()))?;
            let sent = &encoded[start..];
            fields.at("attestation_sha256")?.is_bytes(Sha256::digest(sent))?;
            fields.at("attestation_sha256")?.is_bytes(Sha256::digest(csr.evidence.encode()))?;
            let read = kms_attest::evidence::Evidence::decode(sent)?;
            ensure!(read == csr.evidence, "the attestation is another");
            Ok(())
        }
    }
}

fn fields_of_v1(fields: &Json, csr: &Csr, encoded: &[u8]) -> Check {
    ensure!(
        !csr.ext_app_info && csr.not_before.is_none() && csr.not_after.is_none(),
        "version 1 cannot say that"
    );
    let tdx = csr.evidence.tdx().ok_or_else(|| Failure("the evidence is not TDX".into()))?;
    fields.at("quote_sha256")?.is_bytes(Sha256::digest(&tdx.quote))?;
    let text = fields.at("event_log_utf8")?.text()?;
    let log: Vec<TdxEvent> = serde_json::from_str(text)?;
    ensure!(log == tdx.event_log, "the event log is another");
    fields.at("event_log_utf8")?.is_text(&serde_json::to_string(&log)?)?;
    let is_sent = encoded.windows(text.len()).any(|window| window == text.as_bytes());
    ensure!(is_sent, "the event log is not in the request");
    ensure!(
        csr.evidence.wire == Wire::V0 && csr.evidence.stack.config.is_empty(),
        "version 1 cannot say that"
    );
    Ok(())
}

/// It is written again as it was.
fn is_written_alike(version: ApiVersion, csr: &Csr, encoded: &[u8]) -> Check {
    let ours = match version {
        ApiVersion::V1 => csr.encode_v1()?,
        ApiVersion::V2 => csr.encode_v2(),
    };
    ensure!(ours == encoded, "ours writes {}", hex::encode(ours));
    Ok(())
}

/// The requester's side.
fn is_signed_again(version: ApiVersion, csr: &Csr, key: &P256Key) -> Check {
    ensure!(key.spki_der() == *csr.spki, "the private key is not the request's");
    let encoded = match version {
        ApiVersion::V1 => csr.encode_v1()?,
        ApiVersion::V2 => csr.encode_v2(),
    };
    let read = Csr::parse(version, &encoded, &Csr::sign(&encoded, key))?;
    ensure!(read == *csr, "written and signed again it reads as another");
    Ok(())
}

/// Issues the leaf as the service does and compares it with the peer's.
fn is_the_leaf(leaf: &Vector<'_>, csr: &Csr, authorities: &Authorities<'_>, notes: &mut Notes) -> Check {
    let said = leaf.says()?;
    let app_id = AppId::try_from(said.app_id.as_deref().unwrap_or_default())?;
    let identity = csr.evidence.unverified_app_info(Registers::BootTime)?;
    ensure!(identity.app_id == app_id.0, "the leaf is of another app than the evidence");
    // The shape, with whatever dates the peer wrote.
    let app_ca = authorities.issuer_of(leaf)?;
    let issuer = Issuer::new(&app_ca.der, &app_ca.key)?;
    let verified = csr.evidence.unverified_app_info(Registers::RunTime)?;
    // Before 0.6.0 the peer wrote app info as an array, since then it writes a map, as ours does.
    let ours = csr.ext_app_info.then(|| verified.to_msgpack());
    let theirs = match said.app_info.as_deref() {
        Some([0x99, ..]) => ours.as_ref().map(|_| app_info_array(&verified)),
        _ => ours.clone(),
    };
    let evidence = csr.ext_quote.then(|| csr.evidence.stripped().encode());
    let spec = |validity: Validity| CertificateSpec {
        organization: csr.org_name.as_deref(),
        common_name: &csr.subject,
        names: &csr.subject_alt_names,
        validity,
        role: Role::Leaf { server_auth: csr.usage_server_auth, client_auth: csr.usage_client_auth },
        app_id: Some(&app_id.0),
        app_info: None,
        usage: Some("app:custom"),
        evidence: evidence.as_deref(),
    };
    let shaped = certificate::issue(
        &CertificateSpec { app_info: theirs.as_deref(), ..spec(leaf.validity) },
        &csr.spki,
        &issuer,
    )?;
    leaf.is_issued_alike(&shaped, &app_ca.key)?;
    // The service, which limits names and dates.
    let now = match csr.not_after {
        None => issued_at(leaf, ca::APP_LEAF),
        Some(_) => issued_at(app_ca, ca::APP_CA),
    };
    let restricted = match Restricted::parse(csr, &own_names(authorities)?, now) {
        Ok(restricted) => restricted,
        Err(error) => {
            notes.differs(format!("what an app may not ask for is refused: {error}"));
            return Ok(());
        }
    };
    let root = root_keys(&authorities.root().key, &authorities.temp().key)?;
    let root_issuer = ca::root_issuer(&root, authorities.root().pem)?;
    let chain = app_chain(&root_issuer, &root, &app_id, &verified, &restricted, now)?;
    let expected = certificate::issue(
        &CertificateSpec { app_info: ours.as_deref(), ..spec(restricted.validity()) },
        &csr.spki,
        &issuer,
    )?;
    if restricted.validity() == leaf.validity {
        if ours == theirs {
            leaf.is_issued_alike(&chain.leaf, &app_ca.key)?;
        } else {
            ensure!(
                super::x509::to_be_signed(&chain.leaf)? == super::x509::to_be_signed(&expected)?,
                "the leaf differs in more than the form of its app info"
            );
            notes.differs(APP_INFO_MAP);
        }
    } else {
        let limit = ca::APP_LEAF.from(now);
        let asked = [csr.not_before.unwrap_or(limit.not_before), csr.not_after.unwrap_or(limit.not_after)];
        ensure!(
            asked == [leaf.validity.not_before, leaf.validity.not_after]
                && (asked[0] < limit.not_before || asked[1] > limit.not_after),
            "the dates are {:?}, ours are {:?}",
            leaf.validity,
            restricted.validity()
        );
        ensure!(
            super::x509::to_be_signed(&chain.leaf)? == super::x509::to_be_signed(&expected)?,
            "the leaf differs in more than its dates"
        );
        notes.differs("dates outside the life of the app CA are cut to it");
    }
    if now == issued_at(app_ca, ca::APP_CA) {
        app_ca.is_issued_alike(&chain.app_ca, root.ca())?;
    }
    Ok(())
}

/// The names of the KMS whose certificates are in the file.
fn own_names(authorities: &Authorities<'_>) -> Check<OwnNames> {
    let mut names = Vec::new();
    for vector in &authorities.all {
        let said = vector.says()?;
        if said.usage.as_deref() == Some(super::USAGE_RPC) {
            names.push(said.common_name);
        }
    }
    let first = names.pop().unwrap_or_else(|| "localhost".to_owned());
    Ok(OwnNames::new(&Domain::parse(&first)?, names))
}
