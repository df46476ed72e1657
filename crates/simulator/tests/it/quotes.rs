//! Simulated quotes verified by `dcap-qvl`, the library of the KMS.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::sync::Arc;

use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::{QuoteVerifier, VerifiedReport};
use kms_attest::test_vectors;
use kms_simulator::{
    Certification, CollateralSpec, Cvm, PckCa, Platform, PlatformSpec, QuoteFormat, Revocation, Standing,
    TcbLevel, TdReport, Validity,
};
use serde_json::Value;
use x509_parser::prelude::{FromDer, Pem, X509Certificate};

const NOW: u64 = 1_750_000_000;

fn verify(
    platform: &Platform,
    quote: &[u8],
    collateral: &QuoteCollateralV3,
    now: u64,
) -> Result<VerifiedReport, String> {
    QuoteVerifier::new(platform.root_der().to_vec())
        .verify(quote, collateral, now)
        .map_err(|error| format!("{error:#}"))
}

fn verify_cvm(cvm: &Cvm, spec: &CollateralSpec) -> Result<VerifiedReport, String> {
    verify(cvm.platform(), &cvm.quote([7; 64]), &cvm.platform().collateral_of(spec), NOW)
}

#[test]
fn every_format_and_level_is_reported_as_its_name_says() {
    let platform = Platform::from_seed(b"quotes");
    for format in QuoteFormat::ALL {
        for level in TcbLevel::LISTED.into_iter().filter(|level| *level != TcbLevel::Revoked) {
            let cvm = Cvm::builder(&platform).format(format).tcb(level).build();
            let verified = verify_cvm(&cvm, &CollateralSpec::default()).unwrap();
            assert_eq!(verified.status, level.status(), "{format:?}");
            assert_eq!(verified.advisory_ids, level.advisories(), "{format:?} {level}");
            assert_eq!(verified.ppid, platform.ppid());
            let report = verified.report.as_td10().unwrap();
            assert_eq!(report.report_data, [7; 64]);
            assert_eq!(report.rt_mr3, cvm.td_report([7; 64]).rt_mr3);
        }
    }
}

#[test]
fn guests_that_must_be_refused_are_refused_for_the_right_reason() {
    let platform = Platform::from_seed(b"quotes");
    let td15 = || Cvm::builder(&platform).format(QuoteFormat::V5Td15);
    for (cvm, refusal) in [
        (td15().debug().build(), "Debug mode is enabled"),
        (td15().td_attributes(0).build(), "SEPT_VE_DISABLE is not enabled"),
        (
            td15().td_attributes(TdReport::SEPT_VE_DISABLE | 1 << 40).build(),
            "Reserved bits in TD attributes are set",
        ),
        (td15().tcb(TcbLevel::Revoked).build(), "TCB status is invalid: Revoked"),
        (td15().current_tcb(TcbLevel::Revoked).build(), "TCB status is invalid: Revoked"),
        (td15().tcb(TcbLevel::Unlisted).build(), "No matching TCB level found"),
    ] {
        assert!(verify_cvm(&cvm, &CollateralSpec::default()).unwrap_err().contains(refusal), "{refusal}");
    }
}

#[test]
fn altered_reports_are_refused_for_the_right_reason() {
    let platform = Platform::from_seed(b"quotes");
    type Alter = fn(&mut TdReport);
    let cases: [(Alter, &str); 5] = [
        (|report| report.mr_service_td = [1; 48], "Invalid MR service TD"),
        (|report| report.mr_signer_seam = [1; 48], "TDX module MRSIGNER mismatch"),
        (|report| report.seam_attributes = [1; 8], "SEAMATTRIBUTES mismatch"),
        (|report| report.tee_tcb_svn[1] = 9, "No TDX module identity with id TDX_09"),
        (
            |report| report.tee_tcb_svn[0] = 0,
            "TDX module ISVSVN 0 is below minimum required from TDX module TCB levels",
        ),
    ];
    for (alter, refusal) in cases {
        let cvm = Cvm::builder(&platform).format(QuoteFormat::V5Td15).build();
        let evidence = cvm.evidence_of(kms_attest::binding::ReportData([7; 64]), alter);
        let quote = &evidence.tdx().unwrap().quote;
        let said = verify(&platform, quote, &platform.collateral(), NOW).unwrap_err();
        assert!(said.contains(refusal), "expected `{refusal}`, got `{said}`");
    }
}

#[test]
fn collateral_says_what_its_spec_says() {
    let platform = Platform::from_seed(b"quotes");
    let cvm = Cvm::builder(&platform).format(QuoteFormat::V5Td15).build();
    let default = CollateralSpec::default;
    let lapsed = Validity::new(NOW - 100, NOW - 1);
    let revoked = |revocation| CollateralSpec { revoked: vec![revocation], ..default() };
    let out_of_date = || Standing::of(TcbLevel::OutOfDate);
    for (name, spec, expected) in [
        ("recovery", CollateralSpec::after_tcb_recovery(TcbLevel::OutOfDate), Ok("OutOfDate")),
        ("module", CollateralSpec { module: out_of_date(), ..default() }, Ok("OutOfDate")),
        ("qe", CollateralSpec { qe: out_of_date(), ..default() }, Ok("OutOfDate")),
        (
            "a quoting enclave below every level",
            CollateralSpec { lowest_qe: 99, ..default() },
            Err("QE ISVSVN 4 is below minimum required 99 from QE Identity"),
        ),
        ("recent", CollateralSpec::valid(Validity::lasting(NOW, 60)), Ok("UpToDate")),
        ("lapsed TCB info", CollateralSpec { tcb_info: lapsed, ..default() }, Err("TCBInfo expired")),
        (
            "lapsed QE identity",
            CollateralSpec { qe_identity: lapsed, ..default() },
            Err("QE Identity expired"),
        ),
        ("lapsed CRLs", CollateralSpec { crls: lapsed, ..default() }, Err("CrlExpired")),
        ("early", CollateralSpec::valid(Validity::new(NOW + 1, NOW + 9)), Err("issue date is in the future")),
        ("revoked root", revoked(Revocation::Root), Err("CertRevoked")),
        ("revoked CA", revoked(Revocation::PckCa), Err("CertRevoked")),
        ("revoked PCK", revoked(Revocation::Pck), Err("CertRevoked")),
        ("revoked TCB signer", revoked(Revocation::TcbSigner), Err("CertRevoked")),
        ("revoked QE signer", revoked(Revocation::QeSigner), Err("CertRevoked")),
    ] {
        match (verify_cvm(&cvm, &spec), expected) {
            (Ok(verified), Ok(status)) => assert_eq!(verified.status, status, "{name}"),
            (Err(said), Err(refusal)) => assert!(said.contains(refusal), "{name}: {said}"),
            (other, _) => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn both_pck_authorities_and_both_certifications_verify() {
    for pck_ca in [PckCa::Platform, PckCa::Processor] {
        for certification in
            [Certification::Chain, Certification::EncryptedPpid2048, Certification::EncryptedPpid3072]
        {
            let spec = PlatformSpec { pck_ca, certification, ..PlatformSpec::from_seed(b"quotes") };
            let platform = Platform::new(&spec);
            let quote = Cvm::builder(&platform).build().quote([0; 64]);
            let verified = verify(&platform, &quote, &platform.collateral(), NOW).unwrap();
            assert_eq!(verified.status, "UpToDate", "{pck_ca:?} {certification:?}");
            let parsed = dcap_qvl::quote::Quote::parse(&quote).unwrap();
            let inner = match certification {
                Certification::Chain => 5,
                Certification::EncryptedPpid2048 => 2,
                Certification::EncryptedPpid3072 => 3,
            };
            assert_eq!(parsed.inner_cert_type(), inner);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_another_root() {
    let (one, two, other) =
        (Platform::from_seed(b"one"), Platform::from_seed(b"one"), Platform::from_seed(b"two"));
    assert_eq!(one.root_der(), two.root_der());
    assert_eq!(one.pck_chain_pem(), two.pck_chain_pem());
    assert_eq!(one.collateral(), two.collateral());
    let quote = |platform: &Arc<Platform>| Cvm::builder(platform).build().quote([1; 64]);
    assert_eq!(quote(&one), quote(&two));
    assert_ne!(one.root_der(), other.root_der());
    assert!(verify(&other, &quote(&one), &one.collateral(), NOW).is_err());
}

#[test]
fn the_seed_of_the_vectors_gives_the_keys_of_the_vectors() {
    let vectors = test_vectors::json("tdx_quotes.json");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let platform = Platform::from_seed(&hex::decode(text(&vectors["mock_seed"])).unwrap());
    let collateral = platform.collateral();
    let theirs = &vectors["collateral"]["good"];
    let their_quote = hex::decode(text(&vectors["cases"][0]["quote"])).unwrap();
    let their_quote = dcap_qvl::quote::Quote::parse(&their_quote).unwrap();

    let root = hex::decode(text(&vectors["root_ca"]["mock"]["der"])).unwrap();
    assert_eq!(spki(platform.root_der()), spki(&root));
    for (name, ours, theirs) in [
        ("TCB signer", collateral.tcb_info_issuer_chain.as_str(), text(&theirs["tcb_info_issuer_chain"])),
        ("QE signer", &collateral.qe_identity_issuer_chain, text(&theirs["qe_identity_issuer_chain"])),
        ("PCK CA", &collateral.pck_crl_issuer_chain, text(&theirs["pck_crl_issuer_chain"])),
        (
            "PCK",
            platform.pck_chain_pem(),
            String::from_utf8(their_quote.raw_cert_chain().unwrap().to_vec()).unwrap(),
        ),
    ] {
        assert_eq!(spkis(ours), spkis(&theirs), "{name}");
    }
}

fn spki(der: &[u8]) -> Vec<u8> {
    X509Certificate::from_der(der).unwrap().1.tbs_certificate.subject_pki.raw.to_vec()
}

fn spkis(pem: &str) -> Vec<Vec<u8>> {
    Pem::iter_from_buffer(pem.as_bytes()).map(|pem| spki(&pem.unwrap().contents)).collect()
}
