//! The cost of each part of a request on its own: `cargo bench --bench parts`.

use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cvm_kms::audit::{Audit, Event, LegacySalts, LogKey, LogKeys, NodeId, Subject};
use cvm_kms::ca::{self, OwnNames, Restricted};
use cvm_kms::config::{AuthApi, EmptyDevices};
use cvm_kms::domain::Domain;
use cvm_kms::keys::{K256Key, RootKeys, derive, statement};
use dcap_qvl::verify::QuoteVerifier;
use futures_util::future::join_all;
use kms_attest::binding::ReportData;
use kms_attest::certificate;
use kms_attest::collateral::Collateral;
use kms_attest::csr::{ApiVersion, Csr};
use kms_attest::evidence::Evidence;
use kms_attest::identity::{AppId, BootInfo, Identity, Registers};
use kms_attest::p256::P256Key;
use kms_attest::platform::tdx::image::acpi::{AcpiDigests, Shape};
use kms_attest::platform::tdx::verify_quote;
use kms_attest::ra_tls::{self, ParsedCertificate};
use kms_attest::trust::TrustAnchors;
use kms_attest::verify::{Binding, Verified, verify};
use kms_attest::vm_config::VmConfig;
use kms_ledger::signature::SigningKey;
use kms_policy::{Decision, Policy};
use kms_simulator::{Cvm, Platform};
use serde_json::{Map, json};

const APP: AppId = AppId([1; 20]);
/// Apps in the allowlist.
const APPS: u64 = 10_000;
/// Releases that wait for the disk together.
const WAITING: [u64; 3] = [1, 64, 256];

/// A guest's evidence, and what its verification needs.
struct Guest {
    key: P256Key,
    evidence: Evidence,
    collateral: Collateral,
    anchors: TrustAnchors,
    now: u64,
}

impl Guest {
    fn new() -> Self {
        let platform = Platform::from_seed(b"benchmarks");
        let cvm = Cvm::builder(&platform).app_id(APP.0).build();
        let key = P256Key::generate();
        Self {
            evidence: cvm.evidence(ReportData::ra_tls(&key.spki_der())).stripped(),
            key,
            collateral: Collateral::new(platform.collateral()).expect("collateral"),
            anchors: TrustAnchors::with_tdx_root(platform.root_der()).expect("a root"),
            now: SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs(),
        }
    }

    fn verified(&self) -> Verified {
        let spki = self.key.spki_der();
        let binding = Binding::PublicKey(&spki);
        verify(&self.evidence, binding, &self.collateral, &self.anchors, self.now).expect("good evidence")
    }

    fn identity(&self) -> Identity {
        self.verified().identity(Registers::RunTime, "").expect("an identity")
    }

    fn request(&self) -> Csr {
        Csr {
            subject_alt_names: vec!["app.example".to_owned()],
            usage_client_auth: true,
            ..Csr::plain(&self.key.spki_der(), "app.example", self.evidence.clone())
        }
    }
}

fn keys(criterion: &mut Criterion) {
    let root = RootKeys::generate();
    let mut group = criterion.benchmark_group("keys");
    group.bench_function("app_keys", |b| b.iter(|| derive::app_keys(&root, black_box(&APP), b"instance")));
    group.bench_function("env_public_key", |b| b.iter(|| derive::env_public_key(&root, black_box(&APP))));
    group.bench_function("app_ca_key", |b| b.iter(|| derive::app_ca_key(&root, black_box(&APP))));
    group.bench_function("secp256k1 signature", |b| {
        b.iter(|| statement::sign_env_public_key(&root, black_box(&APP), &[7; 32]));
    });
    group.bench_function("secp256k1 public key", |b| b.iter(|| K256Key::from_scalar(black_box(&[7; 32]))));
    group.bench_function("P-256 public point", |b| b.iter(|| P256Key::from_scalar(black_box(&[7; 32]))));
    group.bench_function("P-256 signature", |b| b.iter(|| root.ca().sign_der(black_box(b"message"))));
    group.finish();
}

fn attestation(criterion: &mut Criterion) {
    let guest = Guest::new();
    let bytes = guest.evidence.encode();
    let certificate = ra_tls::self_issued_certificate(&guest.key, &guest.evidence).expect("certificate");
    let quote = guest.evidence.tdx().expect("TDX").quote.clone();
    let verifier = QuoteVerifier::new(guest.anchors.tdx_root().to_vec());
    let request = guest.request().encode_v2();
    let signature = Csr::sign(&request, &guest.key);
    let mut group = criterion.benchmark_group("attestation");
    group.bench_function("quote by dcap-qvl alone", |b| {
        b.iter(|| verifier.verify(black_box(&quote), guest.collateral.parts(), guest.now));
    });
    // All signatures are cached; a new quote costs those in addition.
    group.bench_function("quote as the service verifies it, seen before", |b| {
        b.iter(|| verify_quote(black_box(&quote), &guest.collateral, &guest.anchors, guest.now));
    });
    group.bench_function("evidence, whole, seen before", |b| b.iter(|| guest.verified()));
    group.bench_function("evidence, decoded", |b| b.iter(|| Evidence::decode(black_box(&bytes))));
    group.bench_function("certificate with evidence, parsed", |b| {
        b.iter(|| ParsedCertificate::parse(black_box(&certificate)));
    });
    let verified = guest.verified();
    group.bench_function("identity", |b| b.iter(|| verified.identity(Registers::RunTime, "")));
    group.bench_function("certificate request, parsed", |b| {
        b.iter(|| Csr::parse(ApiVersion::V2, black_box(&request), &signature));
    });
    group.finish();
}

fn acpi(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("acpi");
    for cpu_count in [2, 64, 4096] {
        let config = VmConfig { cpu_count, memory_size: 64 << 30, hugepages: true, ..VmConfig::default() };
        let shape = Shape::of(&config).expect("a shape");
        group.bench_function(format!("digests of {cpu_count} CPUs"), |b| {
            b.iter(|| AcpiDigests::of_vm(black_box(&shape)))
        });
    }
    group.finish();
}

fn certificates(criterion: &mut Criterion) {
    let guest = Guest::new();
    let now = SystemTime::now();
    let root = RootKeys::generate();
    let root_ca = certificate::pem(&ca::root_certificate(&root, now).expect("root CA"));
    let issuer = || ca::root_issuer(&root, &root_ca).expect("an issuer");
    let domain = Domain::parse("kms.example").expect("a domain");
    let evidence = guest.evidence.encode();
    let request = Restricted::parse(&guest.request(), &OwnNames::new(&domain, []), now).expect("a request");
    let app_info = guest.evidence.unverified_app_info(Registers::RunTime).expect("app info");
    let mut group = criterion.benchmark_group("certificates");
    group.bench_function("rpc leaf with evidence", |b| {
        b.iter(|| ca::rpc_leaf(&issuer(), &domain, &guest.key, Some(&evidence), now));
    });
    group.bench_function("app chain", |b| {
        b.iter(|| ca::app_chain(&issuer(), &root, &APP, &app_info, &request, now));
    });
    group.finish();
}

fn policy(criterion: &mut Criterion) {
    let identity = BootInfo::from(&Guest::new().identity());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("auth-config.json");
    let app = json!({ "composeHashes": [hex::encode(&identity.compose_hash)], "allowAnyDevice": true });
    let others = (0..APPS).map(|number| (format!("{number:040x}"), app.clone()));
    let apps: Map<_, _> = others.chain([(hex::encode(&identity.app_id), app.clone())]).collect();
    let rules = json!({ "osImages": [hex::encode(&identity.os_image_hash)], "apps": apps });
    fs::write(&path, rules.to_string()).expect("auth-config.json");
    let config = AuthApi::Allowlist { path, empty_devices: EmptyDevices::NoDevice };
    let allowlist = Policy::from_config(&config).expect("a policy");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let decide = async || allowlist.decide(kms_policy::Subject::App(&identity)).await.expect("a decision");
    // A file that changed recently is read again each time.
    std::thread::sleep(Duration::from_millis(200));
    assert!(matches!(runtime.block_on(decide()), Decision::Allowed { .. }));
    criterion.bench_function("policy/allowlist of 10,000 apps", |b| b.iter(|| runtime.block_on(decide())));
}

/// The signing key of the log.
struct LogSeed;

impl LogKeys for LogSeed {
    fn log_key(&self, node: &NodeId) -> Option<LogKey> {
        let name = format!("kms.example/cvm-kms/{node}").parse().ok()?;
        let signing = SigningKey::from_seed(name, &[7; 32]).ok()?;
        Some(LogKey {
            signing,
            legacy: LegacySalts::new(&[7; 32]),
            vouching: [0; 65],
            endorsements: Vec::new(),
        })
    }
}

fn audit(criterion: &mut Criterion) {
    let identity = Guest::new().identity();
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let event = || Event::AppKeyReleased { subject: Subject::new(&identity, [127, 0, 0, 1].into()) };
    let open = |name| Arc::new(Audit::open(&directory.path().join(name)).expect("an audit log"));
    let (plain, signed) = (open("plain.jsonl"), open("signed.jsonl"));
    runtime.block_on(signed.sign_with(Arc::new(LogSeed)));
    let mut group = criterion.benchmark_group("audit");
    for (audit, what) in [(plain, ""), (signed, ", with receipts")] {
        for waiting in WAITING {
            group.throughput(Throughput::Elements(waiting));
            group.bench_function(format!("{waiting} waiting together{what}"), |b| {
                b.iter(|| runtime.block_on(join_all((0..waiting).map(|_| audit.record(event())))));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = parts;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    targets = keys, attestation, acpi, certificates, policy, audit
}
criterion_main!(parts);
