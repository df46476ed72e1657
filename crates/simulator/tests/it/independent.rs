//! Checks the simulator with `@phala/dcap-qvl`, a verifier in JavaScript that shares no code with ours: it
//! accepts the quotes and refuses faulty ones. Needs node and npm, and fails without them, because a skipped
//! check proves nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use dcap_qvl::QuoteCollateralV3;
use kms_attest::binding::ReportData;
use kms_simulator::{
    Certification, CollateralSpec, Cvm, Endpoint, PccsMode, PccsServer, Platform, PlatformSpec, QuoteFormat,
    Revocation, Standing, TcbLevel, Validity,
};
use serde_json::{Value, json};

const NOW: u64 = 1_750_000_000;
const SEED: &[u8] = b"independent";
const REPORT_DATA: [u8; 64] = [0xd5; 64];

/// A request, and the expected result: the status, or part of the refusal.
struct Case {
    name: String,
    root: Vec<u8>,
    quote: Vec<u8>,
    collateral: Source,
    now: u64,
    expected: Result<Value, &'static str>,
}

enum Source {
    Given(Box<QuoteCollateralV3>),
    Fetched(String),
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_implementation_agrees_about_every_quote() {
    let platform = Platform::from_seed(SEED);
    let pccs = PccsServer::start(&platform).await.unwrap();
    let by_ppid = Platform::new(&PlatformSpec {
        certification: Certification::EncryptedPpid3072,
        ..PlatformSpec::from_seed(SEED)
    });
    let ppid_pccs = PccsServer::start(&by_ppid).await.unwrap();

    let by_url = Platform::new(&PlatformSpec {
        root_crl_url: Some(pccs.root_crl_url()),
        ..PlatformSpec::from_seed(SEED)
    });
    let no_root_crl = PccsServer::start(&by_url).await.unwrap();
    no_root_crl.set_endpoint_mode(Endpoint::RootCaCrl, PccsMode::Missing);

    let mut cases = accepted(&platform);
    cases.extend(refused(&platform));
    cases.push(Case {
        name: "collateral fetched from the PCCS".to_owned(),
        collateral: Source::Fetched(pccs.url()),
        ..good(&platform, QuoteFormat::V4)
    });
    cases.push(Case {
        name: "PCK certificate fetched from the PCCS".to_owned(),
        collateral: Source::Fetched(ppid_pccs.url()),
        ..good(&by_ppid, QuoteFormat::V5Td15)
    });
    cases.push(Case {
        name: "root CRL fetched from the distribution point".to_owned(),
        collateral: Source::Fetched(no_root_crl.url()),
        ..good(&by_url, QuoteFormat::V4)
    });

    let questions: Vec<Value> = cases.iter().map(question).collect();
    let answers = tokio::task::spawn_blocking(move || ask(&json!({ "cases": questions }))).await.unwrap();
    assert_eq!(answers.len(), cases.len());
    for (case, answer) in cases.iter().zip(&answers) {
        match &case.expected {
            Ok(expected) => assert_eq!(answer, expected, "{}", case.name),
            Err(refusal) => {
                let said =
                    answer["error"].as_str().unwrap_or_else(|| panic!("{}: accepted: {answer}", case.name));
                assert!(said.contains(refusal), "{}: expected `{refusal}`, got `{said}`", case.name);
            }
        }
    }
    assert_eq!(pccs.request_count(), 5);
    assert_eq!(pccs.requests_to(Endpoint::RootCaCrlFile), 1);
    assert_eq!(ppid_pccs.request_count(), 5);
}

fn good(platform: &Arc<Platform>, format: QuoteFormat) -> Case {
    let cvm = Cvm::builder(platform).format(format).build();
    quoted(format!("{format:?}"), platform, &cvm, format, TcbLevel::UpToDate)
}

fn quoted(name: String, platform: &Arc<Platform>, cvm: &Cvm, format: QuoteFormat, level: TcbLevel) -> Case {
    let report = cvm.td_report(REPORT_DATA);
    let body = match format {
        QuoteFormat::V4 | QuoteFormat::V5Td10 => "td10",
        QuoteFormat::V5Td15 => "td15",
    };
    Case {
        name,
        root: platform.root_der().to_vec(),
        quote: cvm.quote(REPORT_DATA),
        collateral: Source::Given(Box::new(platform.collateral())),
        now: NOW,
        expected: Ok(json!({
            "status": level.status(),
            "advisories": level.advisories(),
            "body": body,
            "mr_td": hex::encode(report.registers.mr_td),
            "rt_mr3": hex::encode(report.rt_mr3),
            "mr_config_id": hex::encode(report.mr_config_id),
            "report_data": hex::encode(REPORT_DATA),
        })),
    }
}

fn accepted(platform: &Arc<Platform>) -> Vec<Case> {
    let mut cases = Vec::new();
    for format in QuoteFormat::ALL {
        for level in TcbLevel::LISTED.into_iter().filter(|level| *level != TcbLevel::Revoked) {
            let cvm = Cvm::builder(platform).format(format).tcb(level).build();
            cases.push(quoted(format!("{format:?} at {level}"), platform, &cvm, format, level));
        }
    }
    let evidence = Cvm::builder(platform).build().evidence(ReportData(REPORT_DATA));
    let quote = evidence.tdx().expect("the simulator is TDX").quote.clone();
    cases.push(Case {
        name: "the quote inside evidence".to_owned(),
        quote,
        ..good(platform, QuoteFormat::V4)
    });

    let mut recovered = good(platform, QuoteFormat::V4);
    recovered.name = "after a TCB recovery".to_owned();
    let spec = CollateralSpec::after_tcb_recovery(TcbLevel::OutOfDate);
    recovered.collateral = Source::Given(Box::new(platform.collateral_of(&spec)));
    if let Ok(expected) = &mut recovered.expected {
        expected["status"] = json!("OutOfDate");
        expected["advisories"] = json!(TcbLevel::OutOfDate.advisories());
    }
    cases.push(recovered);

    let mut qe = good(platform, QuoteFormat::V4);
    qe.name = "an outdated quoting enclave".to_owned();
    let spec = CollateralSpec { qe: Standing::of(TcbLevel::OutOfDate), ..CollateralSpec::default() };
    qe.collateral = Source::Given(Box::new(platform.collateral_of(&spec)));
    if let Ok(expected) = &mut qe.expected {
        expected["status"] = json!("OutOfDate");
        expected["advisories"] = json!(TcbLevel::OutOfDate.advisories());
    }
    cases.push(qe);
    cases
}

fn refused(platform: &Arc<Platform>) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut refuse = |name: &str, refusal: &'static str, spoil: &dyn Fn(&mut Case)| {
        for format in QuoteFormat::ALL {
            let mut case = good(platform, format);
            spoil(&mut case);
            cases.push(Case { name: format!("{name}, {format:?}"), expected: Err(refusal), ..case });
        }
    };
    let format_of = |case: &Case| match (case.quote[0], case.quote[48]) {
        (4, _) => QuoteFormat::V4,
        (5, 2) => QuoteFormat::V5Td10,
        _ => QuoteFormat::V5Td15,
    };
    let guest = |case: &mut Case, cvm: Arc<Cvm>| case.quote = cvm.quote(REPORT_DATA);
    let collateral = |case: &mut Case, spec: CollateralSpec| {
        case.collateral = Source::Given(Box::new(platform.collateral_of(&spec)));
    };

    refuse("one bit of MRTD flipped", "ISV enclave report signature is invalid", &|case| {
        case.quote[200] ^= 1
    });
    refuse("one bit of the signature flipped", "ISV enclave report signature is invalid", &|case| {
        let signature = signature_offset(&case.quote);
        case.quote[signature + 40] ^= 1;
    });
    refuse("one bit of the attestation key flipped", "QE report hash mismatch", &|case| {
        let signature = signature_offset(&case.quote);
        case.quote[signature + 64 + 5] ^= 1;
    });
    refuse("one bit of the QE report flipped", "Signature is invalid for qe_report", &|case| {
        let signature = signature_offset(&case.quote);
        case.quote[signature + 128 + 6 + 100] ^= 1;
    });
    refuse("a truncated quote", "Failed to decode quote", &|case| case.quote.truncate(700));
    refuse("another root", "signature invalid", &|case| {
        case.root = Platform::from_seed(b"somebody else").root_der().to_vec();
    });
    refuse("debug", "Debug mode is enabled", &|case| {
        guest(case, Cvm::builder(platform).format(format_of(case)).debug().build());
    });
    refuse("a revoked TCB level", "TCB status is invalid: Revoked", &|case| {
        guest(case, Cvm::builder(platform).format(format_of(case)).tcb(TcbLevel::Revoked).build());
    });
    refuse("an unlisted TCB level", "No matching TCB level found", &|case| {
        guest(case, Cvm::builder(platform).format(format_of(case)).tcb(TcbLevel::Unlisted).build());
    });
    refuse("expired collateral", "TCBInfo expired", &|case| {
        collateral(case, CollateralSpec::valid(Validity::new(NOW - 100, NOW - 1)));
    });
    refuse("collateral from the future", "TCBInfo issue date is in the future", &|case| {
        collateral(case, CollateralSpec::valid(Validity::new(NOW + 100, NOW + 200)));
    });
    for revoked in
        [Revocation::Root, Revocation::Pck, Revocation::PckCa, Revocation::TcbSigner, Revocation::QeSigner]
    {
        refuse(&format!("{revoked:?} revoked"), "Certificate is revoked", &|case| {
            collateral(case, CollateralSpec { revoked: vec![revoked], ..CollateralSpec::default() });
        });
    }
    refuse("TCB info altered", "Signature is invalid for tcb_info", &|case| {
        let mut altered = platform.collateral();
        altered.tcb_info = altered.tcb_info.replace("OutOfDate", "UpToDate");
        case.collateral = Source::Given(Box::new(altered));
    });
    refuse("QE identity reformatted", "Signature is invalid for qe_identity", &|case| {
        let mut altered = platform.collateral();
        altered.qe_identity.push(' ');
        case.collateral = Source::Given(Box::new(altered));
    });
    refuse("collateral of another model", "Fmspc mismatch", &|case| {
        let other = PlatformSpec { fmspc: [1, 2, 3, 4, 5, 6], ..PlatformSpec::from_seed(SEED) };
        case.collateral = Source::Given(Box::new(Platform::new(&other).collateral()));
    });
    cases
}

/// Where the quote's signature starts: after the signed range and a length.
fn signature_offset(quote: &[u8]) -> usize {
    match (quote[0], quote[48]) {
        (4, _) => 48 + 584 + 4,
        (5, 2) => 54 + 584 + 4,
        _ => 54 + 648 + 4,
    }
}

fn question(case: &Case) -> Value {
    let (collateral, pccs) = match &case.collateral {
        Source::Given(collateral) => (json!(collateral), Value::Null),
        Source::Fetched(url) => (Value::Null, json!(url)),
    };
    json!({
        "root": hex::encode(&case.root),
        "quote": hex::encode(&case.quote),
        "collateral": collateral,
        "pccs": pccs,
        "now": case.now,
    })
}

/// Installs the pinned package into a temporary directory and runs it.
fn ask(questions: &Value) -> Vec<Value> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/independent");
    let directory = tempfile::tempdir().unwrap();
    for file in ["package.json", "package-lock.json", "verify.cjs"] {
        std::fs::copy(source.join(file), directory.path().join(file)).unwrap();
    }
    let installed = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(directory.path())
        .output()
        .expect("this proof needs npm: install Node.js");
    assert!(installed.status.success(), "npm ci: {}", String::from_utf8_lossy(&installed.stderr));

    let mut node = Command::new("node")
        .arg("verify.cjs")
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this proof needs node: install Node.js");
    node.stdin.take().unwrap().write_all(questions.to_string().as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success(), "node: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("answers are JSON")
}
