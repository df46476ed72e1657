//! `tdx_quotes.json`: quotes of the development PKI, with their collateral, at their times.

use kms_attest::collateral::Collateral;
use kms_attest::platform::tdx::{TdReport, TdxError, VerifiedQuote, verify_quote};
use kms_attest::trust::TrustAnchors;

use super::cases::{Cases, Notes};
use super::json::{Check, Failure, Json, ensure};
use super::pki::is_of_seed;

/// The TDATTRIBUTES that a TD may have here: SEPT_VE_DISABLE, PKS, KL.
const PERMITTED_ATTRIBUTES: u64 = 1 << 28 | 1 << 30 | 1 << 31;

/// The parts of a collateral set.
const PARTS: [&str; 9] = [
    "pck_crl_issuer_chain",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_issuer_chain",
    "tcb_info",
    "tcb_info_signature",
    "qe_identity_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
];

pub(super) fn check<'a>(file: &'a Json, cases: &mut Cases<'a>) -> Check {
    let (roots, sets) = (file.at("root_ca")?, file.at("collateral")?);
    let seed = file.at("mock_seed")?;
    seed.bytes()?;
    cases.each("root_ca", roots.entries()?.iter().map(|(_, root)| root), |root, _| anchors(root).map(drop));
    cases.named("mock_seed", move |_| {
        let mut of_seed = 0;
        for (_, root) in roots.entries()? {
            of_seed += usize::from(is_of_seed(&anchors(root)?, seed)?);
        }
        ensure!(of_seed == 1, "{of_seed} roots are of mock_seed, expected one");
        Ok(())
    });
    let sets_used = file.at("cases")?.list()?.iter().map(|case| case.at("collateral")?.text());
    let used = sets_used.collect::<Check<Vec<_>>>()?;
    cases.list(file, "cases", move |case, notes| {
        let set = case.at("collateral")?.text()?;
        let set = sets.at(set)?.plain().to_string();
        let anchors = anchors(roots.at(case.at("root_ca")?.text()?)?)?;
        let quote = case.at("quote")?.bytes()?;
        let now = case.at("now")?.number()?;
        let ours = Collateral::from_json(set.as_bytes())
            .map_err(|error| error.to_string())
            .and_then(|set| verify_quote(&quote, &set, &anchors, now).map_err(|error| error.to_string()));
        is_outcome(case.at("expected")?, &quote, ours, notes)
    })?;
    cases.each("collateral", sets.entries()?.iter().map(|(_, set)| set), move |set, notes| {
        is_collateral_set(set)?;
        if !used.iter().any(|name| set.path().ends_with(&format!(".{name}"))) {
            notes.aside("no case uses this collateral");
        }
        Ok(())
    });
    Ok(())
}

/// A set has exactly its parts. Their validity is tested by the cases.
pub(super) fn is_collateral_set(set: &Json) -> Check {
    for part in PARTS {
        set.at(part)?.text()?;
    }
    match set.entries()?.iter().find(|(part, _)| !PARTS.contains(&part.as_str())) {
        Some((_, unknown)) => Err(Failure(format!("{}: not known to this test", unknown.path()))),
        None => Ok(()),
    }
}

/// A root, which must be the same in PEM and DER.
fn anchors(root: &Json) -> Check<TrustAnchors> {
    let der = TrustAnchors::with_tdx_root(&root.at("der")?.bytes()?)?;
    let pem = TrustAnchors::with_tdx_root(root.at("pem")?.text()?.as_bytes())?;
    ensure!(der == pem, "{}: PEM and DER are different certificates", root.path());
    Ok(der)
}

/// Compares the outcome of a verification, `{"ok": …}` or `{"error": …}`.
pub(super) fn is_outcome(
    expected: &Json,
    quote: &[u8],
    ours: Result<VerifiedQuote, String>,
    notes: &mut Notes,
) -> Check {
    let Some(verified) = expected.maybe("ok") else {
        expected.at("error")?.text()?;
        ensure!(ours.is_err(), "{}: the peer refuses it, ours does not", expected.path());
        return Ok(());
    };
    let ours = match ours {
        Ok(ours) if verified.at("validate_tcb_error")?.is_null() => ours,
        Ok(_) => return Err(Failure(format!("{}: the peer refuses it in the end", verified.path()))),
        Err(_) if !verified.at("validate_tcb_error")?.is_null() => {
            verified.informative();
            return Ok(());
        }
        Err(error) => return is_refused_on_purpose(verified, quote, error, notes),
    };
    verified.at("status")?.is_text(ours.status())?;
    verified.at("platform_status")?.is_text(ours.platform_status())?;
    verified.at("qe_status")?.is_text(ours.qe_status())?;
    verified.at("ppid")?.is_bytes(ours.ppid())?;
    let advisories = verified.at("advisory_ids")?.texts()?;
    ensure!(advisories == ours.advisory_ids(), "{}: ours are {:?}", verified.path(), ours.advisory_ids());
    is_report(verified.at("report")?, ours.td())
}

/// Quotes that only the peer's library accepts: those of SGX enclaves, and those with attribute bits that it
/// ignores.
fn is_refused_on_purpose(verified: &Json, quote: &[u8], error: String, notes: &mut Notes) -> Check {
    match TdReport::parse(quote) {
        Err(TdxError::NotATd) => {
            ensure!(
                error == TdxError::NotATd.to_string(),
                "an SGX quote must be refused by name, got {error}"
            );
            notes.differs(
                "the peer's library verifies quotes of SGX enclaves; as evidence of a TD they are refused",
            );
        }
        Ok(td) if td.td_attributes & !PERMITTED_ATTRIBUTES != 0 => {
            is_report(verified.at("report")?, &td)?;
            notes.differs("every attribute bit but SEPT_VE_DISABLE, PKS and KL is refused");
        }
        _ => return Err(Failure(format!("{}: ours is the error {error}", verified.path()))),
    }
    verified.informative();
    Ok(())
}

/// Compares the body of a TDX quote.
pub(super) fn is_report(expected: &Json, ours: &TdReport) -> Check {
    let registers: [(&str, &[u8]); 15] = [
        ("tee_tcb_svn", &ours.tee_tcb_svn),
        ("mr_seam", &ours.mr_seam),
        ("mr_signer_seam", &ours.mr_signer_seam),
        ("seam_attributes", &ours.seam_attributes),
        ("td_attributes", &ours.td_attributes.to_le_bytes()),
        ("xfam", &ours.xfam),
        ("mr_td", &ours.quoted.mr_td),
        ("mr_config_id", &ours.quoted.mr_config_id),
        ("mr_owner", &ours.quoted.mr_owner),
        ("mr_owner_config", &ours.quoted.mr_owner_config),
        ("rt_mr0", &ours.quoted.rt_mr0),
        ("rt_mr1", &ours.quoted.rt_mr1),
        ("rt_mr2", &ours.quoted.rt_mr2),
        ("rt_mr3", &ours.quoted.rt_mr3),
        ("report_data", &ours.quoted.report_data),
    ];
    for (name, value) in registers {
        expected.at(name)?.is_bytes(value)?;
    }
    match (&ours.tee_tcb_svn2, &ours.mr_service_td) {
        (Some(tee_tcb_svn2), Some(mr_service_td)) => {
            expected.at("type")?.is_text("TD15")?;
            expected.at("tee_tcb_svn2")?.is_bytes(tee_tcb_svn2)?;
            expected.at("mr_service_td")?.is_bytes(mr_service_td)
        }
        _ => expected.at("type")?.is_text("TD10"),
    }
}
