//! With `core.image.verify = true`, only guests that booted the image they name receive keys.

mod by_image;

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::http::{post, with};
use crate::support::{ADMIN_TOKEN, Caller, World, certificate_request, eventually};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvm_kms::proto::{AppKeyResponse, SignCertResponse};
use kms_attest::measurement::TdxEvent;
use kms_attest::p256::P256Key;
use kms_attest::platform::tdx::image::BootRegisters;
use kms_attest::test_vectors;
use kms_attest::vm_config::VmConfig;
use kms_simulator::{Cvm, CvmBuilder, Registers, Stage};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn vectors() -> Value {
    test_vectors::json("os_image.json")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// The first image of the vectors as an archive.
fn archive(vectors: &Value) -> Vec<u8> {
    let image = &vectors["images"][0];
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(encoder);
    let mut add = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content).expect("file");
    };
    add("sha256sum.txt", text(&image["sha256sum_txt"]).as_bytes());
    for (name, content) in image["files_base64"].as_object().expect("files") {
        add(name, &STANDARD.decode(text(content)).expect("base64"));
    }
    builder.into_inner().expect("tar").finish().expect("gzip")
}

/// A KMS that verifies images, and the source of the images.
struct Verifying {
    world: World,
    downloads: Arc<AtomicUsize>,
    /// The TOML by which a KMS verifies images from this source.
    settings: String,
    _tools: tempfile::TempDir,
}

impl Verifying {
    async fn start() -> Self {
        Self::start_with("", "").await
    }

    /// With TOML added to its configuration, and shell commands before the ACPI program prints.
    async fn start_with(toml: &str, before: &str) -> Self {
        let vectors = vectors();
        let tools = tempfile::tempdir().expect("temporary directory");
        let tables = hex::decode(text(&vectors["acpi_tables"])).expect("hex");
        fs::write(tools.path().join("tables"), tables).expect("tables");
        // Written by a process of its own, because a descriptor inherited by another test's child would keep
        // it busy.
        let program = tools.path().join("acpi-tables");
        let script = format!("#!/bin/sh\n{before}\ncat {}/tables\n", tools.path().display());
        let shell = ["-c", "printf '%s' \"$1\" > \"$0\" && chmod +x \"$0\""];
        assert!(Command::new("sh").args(shell).arg(&program).arg(script).status().expect("sh").success());
        let downloads = Arc::new(AtomicUsize::new(0));
        let address = serve(archive(&vectors), Arc::clone(&downloads)).await;
        let settings = format!(
            "core.image = {{ verify = true, download_url = '{address}/{{OS_IMAGE_HASH}}', acpi_tables = '{}' }}",
            program.display()
        );
        let world = World::ready_with(&format!("{settings}\n{toml}")).await;
        Self { world, downloads, settings, _tools: tools }
    }

    fn downloads(&self) -> usize {
        self.downloads.load(Ordering::SeqCst)
    }

    /// A guest of a case in the vectors, with registers as changed by `change`.
    fn guest(&self, case: &Value, change: impl FnOnce(&mut BootRegisters)) -> CvmBuilder {
        let config = VmConfig::parse(text(&case["vm_config"])).expect("vm_config");
        let mut expected: BootRegisters =
            serde_json::from_value(case["expected"].clone()).expect("registers");
        change(&mut expected);
        let BootRegisters { mrtd, rtmr0, rtmr1, rtmr2 } = expected;
        let builder = Cvm::builder(&self.world.platform)
            .app_id([1; 20])
            .compose_hash([1; 32])
            .os_image_hash(config.os_image_hash.try_into().expect("32 bytes"))
            .vm_config(text(&case["vm_config"]));
        let builder = match case.get("event_log") {
            Some(log) => builder.boot_log(serde_json::from_value::<Vec<TdxEvent>>(log.clone()).expect("log")),
            None => builder,
        };
        builder.registers(Registers { mr_td: mrtd, rt_mr0: rtmr0, rt_mr1: rtmr1, rt_mr2: rtmr2 })
    }

    async fn app_key(&self, app: &Cvm) -> crate::support::Answer {
        self.world.caller().shows(&self.world.attested(app).await).json("GetAppKey", json!({})).await
    }
}

fn bearer() -> String {
    format!("Bearer {ADMIN_TOKEN}")
}

/// Responds to every request with `body`, and counts them.
async fn serve(body: Vec<u8>, count: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = format!("http://{}", listener.local_addr().expect("address"));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("connection");
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&body).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_booted_its_image_gets_keys_and_certificates_after_one_download() {
    let kms = Verifying::start().await;
    let vectors = vectors();
    let app = kms.guest(&vectors["legacy"][0], |_| {}).build();
    kms.world.allow_app(&app);
    for _ in 0..2 {
        let keys: AppKeyResponse = kms.app_key(&app).await.message();
        assert_eq!(keys.os_image_hash, app.os_image_hash());
    }
    let signed = kms.world.caller().json("SignCert", certificate_request(&app, &P256Key::generate())).await;
    assert_eq!(signed.message::<SignCertResponse>().certificate_chain.len(), 3);
    let replica = kms.guest(&vectors["legacy"][1], |_| {}).stage(Stage::Ready).build();
    kms.world.allow_kms(&replica);
    let caller = kms.world.caller().shows(&kms.world.attested(&replica).await);
    assert_eq!(caller.json("GetKmsKey", json!({})).await.status, 200);
    assert_eq!(kms.downloads(), 1);
    let image = json!(hex::encode(app.os_image_hash()));
    for event in ["image_download_started", "image_downloaded"] {
        let lines = kms.world.audited(event);
        assert_eq!(lines.iter().map(|line| &line["image"]).collect::<Vec<_>>(), [&image], "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_took_too_long_for_a_guest_is_done_when_it_comes_back() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let gate = directory.path().join("gate");
    let waits = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let kms = Verifying::start_with("core.limits.request_timeout = '1s'", &waits).await;
    let app = kms.guest(&vectors()["legacy"][0], |_| {}).build();
    kms.world.allow_app(&app);
    let impatient = kms.app_key(&app).await;
    assert_eq!(impatient.status, 503, "{impatient:?}");
    let gone = tokio::time::timeout(Duration::from_millis(300), kms.app_key(&app)).await;
    assert!(gone.is_err(), "the measurement goes on");
    fs::write(&gate, "").expect("gate");
    eventually("a measurement in the cache", async || {
        let kept = fs::read_dir(kms.world.path("images/measurements")).ok()?;
        kept.flatten().any(|entry| entry.path().extension().is_some_and(|end| end == "json")).then_some(())
    })
    .await;
    assert_eq!(kms.app_key(&app).await.status, 200);
    assert_eq!(kms.downloads(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_are_cleared_while_guests_are_served_and_no_guest_notices() {
    let kms = Arc::new(Verifying::start().await);
    let app = kms.guest(&vectors()["legacy"][0], |_| {}).build();
    kms.world.allow_app(&app);
    let identity = kms.world.attested(&app).await;
    let admin = kms.world.admin_address().await;
    let clear = async || {
        let body = json!({ "image_hash": "all", "config_hash": "all" }).to_string();
        let request = with(post("/prpc/Admin.ClearImageCache?json", body), "authorization", &bearer());
        Caller::new(admin).plain().send(request).await
    };
    let mut guests = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let caller = kms.world.caller().shows(&identity);
        guests.spawn(async move {
            let mut statuses = Vec::new();
            for _ in 0..8 {
                statuses.push(caller.json("GetAppKey", json!({})).await.status);
            }
            statuses
        });
    }
    for _ in 0..10 {
        assert_eq!(clear().await.status, 200);
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    let statuses: Vec<u16> = guests.join_all().await.concat();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(clear().await.status, 200);
    for cache in ["images/images", "images/measurements"] {
        assert!(!kms.world.path(cache).exists(), "{cache} is empty when nobody asks any more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_booted_something_else_gets_nothing_and_is_recorded() {
    let kms = Verifying::start().await;
    let case = &vectors()["legacy"][0];
    let app = kms.guest(case, |registers| registers.rtmr1[0] ^= 1).build();
    kms.world.allow_app(&app);
    kms.world.allow_kms(&app);
    let reason = text(&case["verify_rtmr1_differs"]["error"]);
    let told = format!("Failed to verify os image hash: {reason}");
    assert_eq!(kms.app_key(&app).await.refusal(), (403, format!("App not allowed: {told}")));
    let caller = kms.world.caller().shows(&kms.world.attested(&app).await);
    assert_eq!(caller.json("GetKmsKey", json!({})).await.refusal(), (403, told.clone()));
    let signed = caller.json("SignCert", certificate_request(&app, &P256Key::generate())).await;
    assert_eq!(signed.refusal(), (403, told));
    let denied = eventually("three denials", async || {
        Some(kms.world.audited("denied")).filter(|denied| denied.len() == 3)
    })
    .await;
    for line in denied {
        assert_eq!((text(&line["code"]), text(&line["reason"])), ("os_image_not_verified", reason));
    }
    for event in ["app_key_released", "kms_key_released", "kms_keys_handed_over", "certificate_issued"] {
        assert_eq!(kms.world.audited(event), Vec::<Value>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_is_asked_first_so_that_a_denial_costs_no_download() {
    let kms = Verifying::start().await;
    let app = kms.guest(&vectors()["legacy"][0], |_| {}).build();
    let denied = kms.app_key(&app).await.refusal();
    assert_eq!(denied, (403, "App not allowed: Boot denied: OS image is not allowed".into()));
    assert_eq!(kms.downloads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lite_evidence_is_verified_without_a_download() {
    let kms = Verifying::start().await;
    let case = &test_vectors::json("os_image_v4.json")["lite"][0];
    let app = kms.guest(case, |_| {}).build();
    kms.world.allow_app(&app);
    assert_eq!(kms.app_key(&app).await.status, 200);
    let other = kms.guest(case, |registers| registers.rtmr2[0] ^= 1).build();
    let (status, told) = kms.app_key(&other).await.refusal();
    assert_eq!(status, 403);
    assert!(told.contains("MRs do not match: RTMR2 mismatch"), "{told}");
    // A log that QEMU would not make for this VM.
    let invented = kms.guest(&vectors()["lite"][0], |_| {}).build();
    kms.world.allow_app(&invented);
    let (status, told) = kms.app_key(&invented).await.refusal();
    assert_eq!(status, 403);
    assert!(told.contains("TDX lite acpi-loader digest mismatch: expected "), "{told}");
    assert_eq!(kms.downloads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_is_an_outage_and_shows_no_address() {
    let world =
        World::ready_with("core.image = { verify = true, download_url = 'http://127.0.0.1:1/x' }").await;
    let kms = Verifying {
        world,
        downloads: Arc::default(),
        settings: String::new(),
        _tools: tempfile::tempdir().expect("directory"),
    };
    let app = kms.guest(&vectors()["legacy"][0], |_| {}).build();
    kms.world.allow_app(&app);
    let told = "App not allowed: Failed to verify os image hash: Failed to download image: the image server does \
                not answer";
    assert_eq!(kms.app_key(&app).await.refusal(), (503, told.into()));
    assert_eq!(kms.world.audited("denied"), Vec::<Value>::new());
    let failed = eventually("the failure", async || kms.world.audited("image_download_failed").pop()).await;
    assert_eq!(failed["reason"], "Failed to download image: the image server does not answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_revoked_while_an_image_was_measured_is_not_released() {
    type Revoke = fn(&World);
    let cases: [(Revoke, &str); 2] = [
        (|world| world.allowlist.change(|rules| rules["apps"] = json!({})), "app not registered"),
        (
            |world| world.allowlist.change(|rules| rules["kms"]["mrAggregated"] = json!([])),
            "aggregated MR not allowed",
        ),
    ];
    let attempts = cases.map(|(revoke, expected)| async move {
        let kms = Verifying::start_with("", "sleep 11").await;
        let app = kms.guest(&vectors()["legacy"][0], |_| {}).build();
        kms.world.allow_app(&app);
        let revoked = async {
            eventually("the download", async || (kms.downloads() > 0).then_some(())).await;
            revoke(&kms.world);
        };
        let (answer, ()) = tokio::join!(kms.app_key(&app), revoked);
        assert_eq!(answer.status, 403, "{answer:?}");
        assert!(answer.text().contains(expected), "{answer:?}");
        assert!(kms.world.audited("app_key_released").is_empty());
    });
    futures_util::future::join_all(attempts).await;
}
