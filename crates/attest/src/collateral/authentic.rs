//! The checks before collateral is cached: signed up to the trusted root, for the right platform, valid now.
//!
//! The quote verifier repeats all of these checks, and more, for each quote. They are made here too, because
//! a bad response in the cache would refuse every quote of the model until it expires, and because quotes of
//! invented platforms must not cause requests.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use dcap_qvl::QuoteCollateralV3;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::chain::certificates;
use super::set::{Dated, unix_seconds};
use super::signed::{crl_is_signed, is_signed};
use super::{CaKind, Clock, Collateral, FetchFailure, PlatformKey, Resource};

/// Makes collateral from an endpoint's response, if it is for `platform`, valid now and signed up to `root`.
/// Its dates of issue are in the past, so they raise the clock's floor.
pub(super) fn admit(
    parts: QuoteCollateralV3,
    platform: PlatformKey,
    root: &CertificateDer<'_>,
    clock: &Clock,
) -> Result<Collateral, FetchFailure> {
    let collateral = authenticate(parts, platform.ca, root, clock)?;
    check_dates(&collateral, clock.now())?;
    if collateral.fmspc() != platform.fmspc {
        return Err(FetchFailure::OtherPlatform);
    }
    Ok(collateral)
}

/// Refuses collateral that is not valid at `now`, Unix seconds.
pub(super) fn check_dates(collateral: &Collateral, now: u64) -> Result<(), FetchFailure> {
    match (collateral.begins()..=collateral.expires()).contains(&now) {
        true => Ok(()),
        false => Err(FetchFailure::NotCurrent),
    }
}

/// Makes collateral for platforms of `ca`, if it is signed up to `root`. Whether it is valid now is not checked. Its dates of
/// issue are in the past, so they raise the clock's floor.
pub(super) fn authenticate(
    parts: QuoteCollateralV3,
    ca: CaKind,
    root: &CertificateDer<'_>,
    clock: &Clock,
) -> Result<Collateral, FetchFailure> {
    let malformed = |problem| FetchFailure::Malformed { resource: Resource::TcbInfo, problem };
    signed_json(
        Resource::TcbInfo,
        &parts.tcb_info_issuer_chain,
        &parts.tcb_info,
        &parts.tcb_info_signature,
        root,
    )?;
    signed_json(
        Resource::QeIdentity,
        &parts.qe_identity_issuer_chain,
        &parts.qe_identity,
        &parts.qe_identity_signature,
        root,
    )?;
    if !crl_is_signed(&parts.root_ca_crl, root) {
        return Err(FetchFailure::Untrusted(Resource::RootCrl));
    }
    if !pck_crl_is_signed(&parts, ca, root) {
        return Err(FetchFailure::Untrusted(Resource::PckCrl));
    }
    // The quote verifier's own types: a document that it cannot read would refuse every quote until it
    // expires.
    if serde_json::from_str::<dcap_qvl::TcbInfo>(&parts.tcb_info).is_err() {
        return Err(malformed("has a status or a form that this version does not know"));
    }
    if serde_json::from_str::<dcap_qvl::QeIdentity>(&parts.qe_identity).is_err() {
        let problem = "has a status or a form that this version does not know";
        return Err(FetchFailure::Malformed { resource: Resource::QeIdentity, problem });
    }
    // Intel signs documents of the same form for SGX. Accepting one would refuse every TD, and no other
    // service would be tried.
    if !is_about(&parts.tcb_info, "TDX") {
        return Err(malformed("is not about TDX"));
    }
    if !is_about(&parts.qe_identity, "TD_QE") {
        let problem = "is not about the quoting enclave of TDX";
        return Err(FetchFailure::Malformed { resource: Resource::QeIdentity, problem });
    }
    let not_before = latest_issue(&parts).ok_or(malformed("dates do not parse"))?;
    clock.floor().raise(not_before.max(latest_update(&parts)));
    Collateral::new(parts).map_err(|_| malformed("collateral does not parse"))
}

/// Whether the `id` of the document is `what`.
fn is_about(document: &str, what: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Subject {
        id: String,
    }
    serde_json::from_str::<Subject>(document).is_ok_and(|subject| subject.id == what)
}

fn signed_json(
    resource: Resource,
    issuer_chain: &str,
    json: &str,
    signature: &[u8],
    root: &CertificateDer<'_>,
) -> Result<(), FetchFailure> {
    let signed = || {
        let chain = certificates(issuer_chain.as_bytes()).ok()?;
        let signer = chain.first().filter(|signer| is_signed(signer, root))?;
        let (_, signer) = X509Certificate::from_der(signer).ok()?;
        let key = UnparsedPublicKey::new(
            &ECDSA_P256_SHA256_FIXED,
            &signer.public_key().subject_public_key.data[..],
        );
        key.verify(json.as_bytes(), signature).ok()
    };
    signed().ok_or(FetchFailure::Untrusted(resource))
}

/// Whether the PCK CRL is of the requested CA, and a CA certificate signed by the root signed it.
fn pck_crl_is_signed(parts: &QuoteCollateralV3, ca: CaKind, root: &CertificateDer<'_>) -> bool {
    let Ok((_, crl)) = CertificateRevocationList::from_der(&parts.pck_crl) else { return false };
    let issuers = certificates(parts.pck_crl_issuer_chain.as_bytes()).unwrap_or_default();
    CaKind::of_issuer(&crl.issuer().to_string()) == ca
        && issuers
            .iter()
            .any(|issuer| issuer != root && is_signed(issuer, root) && crl_is_signed(&parts.pck_crl, issuer))
}

/// The later `thisUpdate` of the two CRLs, Unix seconds; 0 if there is none.
fn latest_update(parts: &QuoteCollateralV3) -> u64 {
    let updates = [&parts.root_ca_crl, &parts.pck_crl].into_iter().filter_map(|crl| {
        let (_, crl) = CertificateRevocationList::from_der(crl).ok()?;
        u64::try_from(crl.last_update().timestamp()).ok()
    });
    updates.max().unwrap_or(0)
}

fn latest_issue(parts: &QuoteCollateralV3) -> Option<u64> {
    let issued = |json, name| unix_seconds(&Dated::read(json, name).ok()?.issue_date);
    Some(issued(&parts.tcb_info, "tcb info")?.max(issued(&parts.qe_identity, "qe identity")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collateral::CaKind;
    use crate::collateral::testing::{NOW, collateral_set, mock_anchors, other_anchors, real_collateral};
    use crate::trust::TrustAnchors;

    const MOCK: PlatformKey = PlatformKey { fmspc: [0; 6], ca: CaKind::Platform };

    fn at(now: u64) -> Clock {
        Clock::fixed(now)
    }

    fn good() -> QuoteCollateralV3 {
        collateral_set("good").parts().clone()
    }

    #[test]
    fn signed_and_current_collateral_is_admitted() {
        assert!(admit(good(), MOCK, mock_anchors().tdx_root(), &at(NOW)).is_ok());
        let real = real_collateral();
        let platform = PlatformKey { fmspc: real.fmspc(), ca: CaKind::Platform };
        let anchors = TrustAnchors::intel();
        assert!(admit(real.parts().clone(), platform, anchors.tdx_root(), &at(1_751_000_000)).is_ok());
    }

    #[test]
    fn collateral_that_would_refuse_everybody_is_not_admitted() {
        type Spoil = fn(&mut QuoteCollateralV3);
        let cases: [(Spoil, FetchFailure); 6] = [
            (|p| p.tcb_info_signature[9] ^= 1, FetchFailure::Untrusted(Resource::TcbInfo)),
            (|p| p.tcb_info.push(' '), FetchFailure::Untrusted(Resource::TcbInfo)),
            (|p| p.qe_identity_signature.clear(), FetchFailure::Untrusted(Resource::QeIdentity)),
            (|p| p.root_ca_crl = p.pck_crl.clone(), FetchFailure::Untrusted(Resource::RootCrl)),
            (|p| p.pck_crl = p.root_ca_crl.clone(), FetchFailure::Untrusted(Resource::PckCrl)),
            (|p| p.pck_crl_issuer_chain.clear(), FetchFailure::Untrusted(Resource::PckCrl)),
        ];
        for (spoil, expected) in cases {
            let mut parts = good();
            spoil(&mut parts);
            assert_eq!(admit(parts, MOCK, mock_anchors().tdx_root(), &at(NOW)), Err(expected));
        }
    }

    #[test]
    fn another_root_another_platform_and_another_time_are_not_admitted() {
        let anchors = mock_anchors();
        let root = anchors.tdx_root();
        assert!(matches!(
            admit(good(), MOCK, other_anchors().tdx_root(), &at(NOW)),
            Err(FetchFailure::Untrusted(_))
        ));
        let other = PlatformKey { fmspc: [1; 6], ..MOCK };
        assert_eq!(admit(good(), other, root, &at(NOW)), Err(FetchFailure::OtherPlatform));
        let processor = PlatformKey { ca: CaKind::Processor, ..MOCK };
        assert_eq!(admit(good(), processor, root, &at(NOW)), Err(FetchFailure::Untrusted(Resource::PckCrl)));
        assert_eq!(admit(good(), MOCK, root, &at(1_577_850_000)), Err(FetchFailure::NotCurrent));
        let short = collateral_set("short-validity");
        assert_eq!(admit(short.parts().clone(), MOCK, root, &at(NOW)), Err(FetchFailure::NotCurrent));
        assert!(admit(short.parts().clone(), MOCK, root, &at(short.expires())).is_ok());
        assert_eq!(
            admit(short.parts().clone(), MOCK, root, &at(short.expires() + 1)),
            Err(FetchFailure::NotCurrent)
        );
    }

    #[test]
    fn what_is_signed_raises_the_floor_of_the_clock_and_what_is_not_does_not() {
        let anchors = mock_anchors();
        let issued = latest_issue(&good()).expect("a date").max(latest_update(&good()));
        let early = at(1_577_850_000);
        assert_eq!(
            admit(good(), MOCK, other_anchors().tdx_root(), &early).map(drop),
            Err(FetchFailure::Untrusted(Resource::TcbInfo))
        );
        assert_eq!(early.check(), Ok(()), "no trusted signature has raised the floor");
        assert_eq!(admit(good(), MOCK, anchors.tdx_root(), &early).map(drop), Err(FetchFailure::NotCurrent));
        assert_eq!(early.check().map_err(|behind| behind.seconds), Err(issued - 1_577_850_000));
    }
}
