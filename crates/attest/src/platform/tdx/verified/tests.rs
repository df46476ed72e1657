//! Quotes of the development PKI and real ones, compared with the results of the peer's verifier.

use dcap_qvl::configs::RingConfig;
use dcap_qvl::quote::{Report, TDReport15};
use serde_json::Value;

use super::*;
use crate::collateral::testing::{
    NOW, bytes_of, collateral_set, json, mock_anchors, mock_quote, other_anchors, real_collateral,
    real_quote, vector,
};
use crate::platform::tdx::Quoted;
use crate::platform::tdx::error::MAX_REASON_CHARS;

const REAL_NOW: u64 = 1_751_000_000;

fn hex_of(value: &Value) -> Vec<u8> {
    bytes_of(value)
}

#[test]
fn a_quote_parses_without_collateral() {
    let text = String::from_utf8(vector("fixtures/dcap-qvl/tdx-quote.hex")).unwrap();
    let quote = hex::decode(text.trim().trim_start_matches("0x")).unwrap();
    assert!(TdReport::parse(&quote).is_ok());
    let td = TdReport::parse(&mock_quote()).unwrap();
    assert_eq!(td.quoted.report_data, [3; 64]);
    assert_eq!(Quoted::parse(&mock_quote()), Ok(td.quoted));
    assert_eq!(TdReport::parse(&vector("fixtures/dcap-qvl/sgx_quote.bin")), Err(TdxError::NotATd));
    assert!(matches!(TdReport::parse(b"quote"), Err(TdxError::Malformed(_))));
}

/// A TD report that is accepted.
fn isolated() -> TdReport {
    let td = TdReport::parse(&mock_quote()).unwrap();
    assert_eq!(td.check_isolation(), Ok(()));
    td
}

#[test]
fn every_attribute_bit_but_three_is_refused() {
    for bit in 0..64 {
        let mut td = isolated();
        td.td_attributes ^= 1 << bit;
        let expected = match bit {
            0..=7 => Err(TdxError::Debug),
            28 => Err(TdxError::SeptVeEnabled),
            30 | 31 => Ok(()),
            _ => Err(TdxError::Attributes(1 << bit)),
        };
        assert_eq!(td.check_isolation(), expected, "bit {bit}");
    }
}

#[test]
fn a_foreign_module_and_a_service_td_are_refused() {
    let mut td = isolated();
    td.mr_signer_seam[47] = 1;
    assert_eq!(td.check_isolation(), Err(TdxError::ForeignModule));
    let mut td = isolated();
    td.mr_service_td = Some([0; 48]);
    assert_eq!(td.check_isolation(), Ok(()));
    td.mr_service_td.as_mut().unwrap()[0] = 1;
    assert_eq!(td.check_isolation(), Err(TdxError::ServiceTd));
}

#[test]
fn collateral_of_another_platform_or_root_is_refused() {
    let anchors = TrustAnchors::intel();
    let outdated = vector("fixtures/dcap-qvl/tdx_quote_outdated_collateral.json");
    let sgx = vector("fixtures/dcap-qvl/sgx_quote_collateral.json");
    for set in [outdated, sgx] {
        let collateral = Collateral::from_json(&set).unwrap();
        assert!(verify_quote(&real_quote(), &collateral, &anchors, collateral.issued()).is_err());
    }
    let mock = collateral_set("good");
    assert!(verify_quote(&real_quote(), &mock, &anchors, REAL_NOW).is_err());
    assert!(verify_quote(&real_quote(), &mock, &mock_anchors(), REAL_NOW).is_err());
    assert!(verify_quote(&real_quote(), &real_collateral(), &mock_anchors(), REAL_NOW).is_err());
    assert!(verify_quote(&mock_quote(), &real_collateral(), &anchors, REAL_NOW).is_err());
}

#[test]
fn collateral_is_good_until_its_last_second_and_not_after() {
    let (anchors, collateral) = (mock_anchors(), collateral_set("short-validity"));
    let at = |now| verify_quote(&mock_quote(), &collateral, &anchors, now);
    assert!(at(collateral.expires()).is_ok());
    assert!(at(collateral.expires() + 1).is_err());
    assert!(at(collateral.issued()).is_ok());
    assert!(at(collateral.issued() - 1).is_err());
}

/// The body of a version 4 quote.
const TD_REPORT: std::ops::Range<usize> = 48..632;

/// The signed parts of a version 4 quote, and the signatures: header and body, attestation key, QE report, QE
/// authentication data.
const SIGNED_PARTS: [(&str, std::ops::Range<usize>); 5] = [
    ("header and body", 0..632),
    ("quote signature", 636..700),
    ("attestation key", 700..764),
    ("qe report and its signature", 770..1218),
    ("qe authentication data", 1220..1252),
];

#[test]
fn one_flipped_bit_in_a_signed_part_of_the_mock_quote_is_refused() {
    let (anchors, collateral, quote) = (mock_anchors(), collateral_set("good"), mock_quote());
    assert!(verify_quote(&quote, &collateral, &anchors, NOW).is_ok());
    refuse_flips(&quote, &collateral, &anchors, NOW);
}

#[test]
fn one_flipped_bit_in_a_signed_part_of_a_real_quote_is_refused() {
    let (anchors, collateral, quote) = (TrustAnchors::intel(), real_collateral(), real_quote());
    assert!(verify_quote(&quote, &collateral, &anchors, REAL_NOW).is_ok());
    refuse_flips(&quote, &collateral, &anchors, REAL_NOW);
}

fn refuse_flips(quote: &[u8], collateral: &Collateral, anchors: &TrustAnchors, now: u64) {
    for (part, range) in SIGNED_PARTS {
        for at in range {
            let mut flipped = quote.to_vec();
            flipped[at] ^= 1 << (at % 8);
            assert!(verify_quote(&flipped, collateral, anchors, now).is_err(), "{part}: byte {at}");
        }
    }
}

#[test]
fn a_changed_certificate_in_the_quotes_chain_is_refused() {
    let (anchors, collateral, quote) = (TrustAnchors::intel(), real_collateral(), real_quote());
    let start = quote.windows(10).position(|window| window == b"-----BEGIN").unwrap();
    let ends: Vec<usize> = (start..quote.len()).filter(|at| quote[*at..].starts_with(b"-----END")).collect();
    // Leaf and CA. The root in the chain is not used; the trusted root is.
    let signed = start + "-----BEGIN CERTIFICATE-----\n".len()..ends[1];
    let is_base64 = |at: &usize| quote[*at].is_ascii_alphanumeric() && !quote[*at - 60..*at].contains(&b'-');
    for at in signed.filter(is_base64).step_by(5) {
        let mut changed = quote.clone();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(verify_quote(&changed, &collateral, &anchors, REAL_NOW).is_err(), "byte {at}");
    }
}

#[test]
fn a_td_report_later_than_1_5_is_refused() {
    let v4 = mock_quote();
    let mut v5 = v4[..48].to_vec();
    v5[0] = 5;
    v5.extend_from_slice(&4_u16.to_le_bytes());
    v5.extend_from_slice(&885_u32.to_le_bytes());
    v5.extend_from_slice(&v4[48..632]);
    v5.extend_from_slice(&[0; 885 - 584]);
    v5.extend_from_slice(&v4[632..]);
    assert_eq!(TdReport::parse(&v5), Err(TdxError::UnsupportedBody));
}

#[test]
fn one_flipped_bit_in_signed_collateral_is_refused() {
    use rustls_pki_types::pem::PemObject;
    type Part = fn(&mut dcap_qvl::QuoteCollateralV3) -> &mut [u8];
    let (anchors, quote) = (TrustAnchors::intel(), real_quote());
    let good = real_collateral().parts().clone();
    let parts: [(&str, Part); 4] = [
        ("root crl", |p| &mut p.root_ca_crl),
        ("pck crl", |p| &mut p.pck_crl),
        ("tcb info signature", |p| &mut p.tcb_info_signature),
        ("qe identity signature", |p| &mut p.qe_identity_signature),
    ];
    for (name, part) in parts {
        let mut copy = good.clone();
        let length = part(&mut copy).len();
        for at in (0..length).step_by(1 + length / 40) {
            let mut parts = good.clone();
            part(&mut parts)[at] ^= 1 << (at % 8);
            refuse(parts, &quote, &anchors, &format!("{name}: byte {at}"));
        }
    }
    type Text = fn(&mut dcap_qvl::QuoteCollateralV3) -> &mut String;
    let texts: [(&str, Text); 2] =
        [("tcb info", |p| &mut p.tcb_info), ("qe identity", |p| &mut p.qe_identity)];
    for (name, text) in texts {
        let mut copy = good.clone();
        let length = text(&mut copy).len();
        for at in (0..length).step_by(1 + length / 40) {
            let mut parts = good.clone();
            let mut bytes = text(&mut parts).clone().into_bytes();
            bytes[at] ^= 1;
            *text(&mut parts) = String::from_utf8(bytes).unwrap();
            refuse(parts, &quote, &anchors, &format!("{name}: byte {at}"));
        }
    }
    // The signer's certificate: every byte of its DER.
    let chain = &good.tcb_info_issuer_chain;
    let signer = rustls_pki_types::CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    for at in (0..signer.len()).step_by(9) {
        let mut der = signer.to_vec();
        der[at] ^= 1;
        let rest = chain.split_once("-----END CERTIFICATE-----").unwrap().1;
        let mut parts = good.clone();
        parts.tcb_info_issuer_chain = format!("{}{rest}", crate::certificate::pem(&der).trim_end());
        refuse(parts, &quote, &anchors, &format!("signer: byte {at}"));
    }
}

/// The library takes bytes and parses them after us. What it verified must equal what we parsed.
#[test]
fn two_readings_of_a_quote_that_differ_are_refused() {
    let (anchors, collateral, bytes) = (mock_anchors(), collateral_set("good"), mock_quote());
    let quote = TdQuote::parse(&bytes).unwrap();
    let chain = PckChain::read(quote.parsed().inner_cert_data()).unwrap();
    let claims = claims(&bytes, collateral.parts_for(chain.pem()), &anchors, NOW).unwrap();
    let conclude = |claims: &QuoteClaims, quote: &TdQuote<'_>, chain: &PckChain| {
        super::conclude(claims.clone(), quote, chain, &collateral)
    };
    assert!(conclude(&claims, &quote, &chain).is_ok());
    for at in TD_REPORT {
        let mut other = bytes.clone();
        other[at] ^= 1;
        let other = TdQuote::parse(&other).unwrap();
        assert_eq!(conclude(&claims, &other, &chain), Err(TdxError::Platform), "byte {at}");
    }
    let mut newer = claims.clone();
    newer.report = Report::TD15(TDReport15 {
        base: *claims.report.as_td10().unwrap(),
        tee_tcb_svn2: [0; 16],
        mr_service_td: [0; 48],
    });
    assert_eq!(conclude(&newer, &quote, &chain), Err(TdxError::Platform));
    let real = real_quote();
    let other = PckChain::read(TdQuote::parse(&real).unwrap().parsed().inner_cert_data()).unwrap();
    assert_eq!(conclude(&claims, &quote, &other), Err(TdxError::Platform));
}

/// The library with our cryptography, cold and warm, and with its own: the same claims or the same message.
fn agree(parts: &dcap_qvl::QuoteCollateralV3, quote: &[u8], anchors: &TrustAnchors, now: u64, case: &str) {
    let root = || anchors.tdx_root().to_vec();
    let (ours, own) = (
        QuoteVerifier::<Dcap>::new_with_config(root()),
        QuoteVerifier::<RingConfig>::new_with_config(root()),
    );
    let policy = QuotePolicy::claims_only(now);
    let told = |claims: anyhow::Result<QuoteClaims>| match claims {
        Ok(claims) => serde_json::to_string(&claims).unwrap(),
        Err(error) => format!("{error:#}"),
    };
    let expected = told(own.verify_with_policy(quote, parts.clone(), now, &policy));
    for _ in 0..2 {
        assert_eq!(told(ours.verify_with_policy(quote, parts.clone(), now, &policy)), expected, "{case}");
    }
}

#[test]
fn our_cryptography_gives_the_results_of_the_librarys_own() {
    let vectors = json("tdx_quotes.json");
    let cases = vectors["cases"].as_array().unwrap();
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let set = vectors["collateral"][case["collateral"].as_str().unwrap()].to_string();
        let Ok(collateral) = Collateral::from_json(set.as_bytes()) else { continue };
        let anchors = if case["root_ca"] == "mock" { mock_anchors() } else { other_anchors() };
        agree(collateral.parts(), &hex_of(&case["quote"]), &anchors, case["now"].as_u64().unwrap(), name);
    }
    assert!(cases.len() > 20);
    let (anchors, quote, real) = (TrustAnchors::intel(), real_quote(), real_collateral());
    agree(real.parts(), &quote, &anchors, REAL_NOW, "real");
    // Signatures cached as valid must not make an altered quote valid.
    for at in (0..quote.len()).step_by(7) {
        let mut altered = quote.clone();
        altered[at] ^= 1 << (at % 8);
        agree(real.parts(), &altered, &anchors, REAL_NOW, &format!("byte {at}"));
    }
}

fn refuse(parts: dcap_qvl::QuoteCollateralV3, quote: &[u8], anchors: &TrustAnchors, case: &str) {
    agree(&parts, quote, anchors, REAL_NOW, case);
    let Ok(collateral) = Collateral::new(parts) else { return };
    assert!(verify_quote(quote, &collateral, anchors, REAL_NOW).is_err(), "{case}");
}

#[test]
fn a_reason_is_bounded_and_on_one_line() {
    let long = format!("a\nb{}", "x".repeat(10_000));
    let reason = reason(&long);
    assert_eq!(reason.chars().count(), MAX_REASON_CHARS);
    assert!(reason.starts_with("abx"));
}
