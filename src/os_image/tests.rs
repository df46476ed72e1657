//! All steps together, against a server of image archives and a substitute for the ACPI program.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_attest::test_vectors;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::archive::Deadline;
use super::*;

fn vectors() -> Value {
    test_vectors::json("os_image.json")
}

fn vectors_v4() -> Value {
    test_vectors::json("os_image_v4.json")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn list<'a>(vectors: &'a Value, name: &str) -> &'a [Value] {
    vectors[name].as_array().expect("list")
}

fn config(case: &Value) -> VmConfig {
    VmConfig::parse(text(&case["vm_config"])).expect("vm_config")
}

fn registers(case: &Value) -> Option<BootRegisters> {
    serde_json::from_value(case["expected"].clone()).ok()
}

/// A tar archive of files, gzipped in two members, with the `./` that published images have.
fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    builder.append_data(&mut header, "./", &[][..]).expect("directory");
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, format!("./{name}"), *content).expect("file");
    }
    gzipped(&builder.into_inner().expect("archive"))
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let (first, second) = bytes.split_at(bytes.len() / 3);
    let member = |part: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, part).expect("gzip");
        encoder.finish().expect("gzip")
    };
    [member(first), member(second)].concat()
}

use tar::EntryType;

/// The archive of an image from the vectors.
fn archive(vectors: &Value, hash: &str) -> Vec<u8> {
    let images = list(vectors, "images");
    let image = images.iter().find(|image| image["os_image_hash"] == hash).expect("image");
    let files = image["files_base64"].as_object().expect("files");
    let files: Vec<(&str, Vec<u8>)> = files
        .iter()
        .map(|(name, content)| (name.as_str(), STANDARD.decode(text(content)).expect("base64")))
        .collect();
    let mut all: Vec<(&str, &[u8])> =
        files.iter().map(|(name, content)| (*name, content.as_slice())).collect();
    all.push(("sha256sum.txt", text(&image["sha256sum_txt"]).as_bytes()));
    all.push(("unlisted", b"is removed"));
    all.push(("more/unlisted", b"is removed"));
    packed(&all)
}

/// The response of the server, and its delay.
#[derive(Clone)]
struct Answer {
    status: u16,
    body: Vec<u8>,
    delay: Duration,
}

impl Answer {
    fn ok(body: Vec<u8>) -> Self {
        Self { status: 200, body, delay: Duration::ZERO }
    }
}

/// A server of archives that counts its requests.
struct Archives {
    template: String,
    requests: Arc<AtomicUsize>,
    paths: mpsc::Receiver<String>,
    instead: Arc<std::sync::Mutex<Option<Answer>>>,
}

impl Archives {
    async fn serve(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let template = format!("http://{}/{{OS_IMAGE_HASH}}.tar.gz", listener.local_addr().expect("address"));
        let requests = Arc::new(AtomicUsize::new(0));
        let (seen, paths) = mpsc::channel(64);
        let (count, answer) = (Arc::clone(&requests), Arc::new(answer));
        let instead: Arc<std::sync::Mutex<Option<Answer>>> = Arc::default();
        let other = Arc::clone(&instead);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("connection");
                let (seen, count, answer) = (seen.clone(), Arc::clone(&count), Arc::clone(&answer));
                let other = other.lock().expect("no panic").clone();
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    let read = stream.read(&mut request).await.expect("request");
                    let request = String::from_utf8_lossy(&request[..read]).into_owned();
                    let path = request.split(' ').nth(1).expect("path").to_owned();
                    count.fetch_add(1, Ordering::SeqCst);
                    let Answer { status, body, delay } = other.unwrap_or_else(|| answer(&path));
                    let _ = seen.try_send(path);
                    tokio::time::sleep(delay).await;
                    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.write_all(&body).await;
                });
            }
        });
        Self { template, requests, paths, instead }
    }

    /// Responds like this from now on.
    fn answer_with(&self, answer: Answer) {
        *self.instead.lock().expect("no panic") = Some(answer);
    }

    /// Both images of the vectors, by their hash.
    async fn of_vectors(delay: Duration) -> Self {
        Self::serve(move |path| {
            let hash = path.trim_start_matches('/').trim_end_matches(".tar.gz");
            Answer { delay, ..Answer::ok(archive(&vectors(), hash)) }
        })
        .await
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Writes a program from a process of its own: a descriptor inherited by another test's child would keep the
/// file busy.
fn program(directory: &Path, script: &str) -> PathBuf {
    let path = directory.join("acpi-program");
    let written = Command::new("sh")
        .args(["-c", "printf '%s' \"$1\" > \"$0\" && chmod +x \"$0\""])
        .arg(&path)
        .arg(format!("#!/bin/sh\n{script}\n"))
        .status();
    assert!(written.expect("sh").success());
    path
}

/// A program that prints the tables of the vectors and records how it was called.
fn stub(directory: &Path) -> PathBuf {
    let tables = hex::decode(text(&vectors()["acpi_tables"])).expect("hex");
    fs::write(directory.join("tables"), tables).expect("tables");
    let directory = directory.display();
    let script = format!(
        "{{ echo \"QEMU_ACPI_COMPAT_VER=$QEMU_ACPI_COMPAT_VER\"; for word in \"$@\"; do echo \"$word\"; done; }} \
         > {directory}/call\nenv > {directory}/environment\necho run >> {directory}/runs\ncat {directory}/tables"
    );
    program(Path::new(&directory.to_string()), &script)
}

fn settings(template: &str, acpi_tables: Option<PathBuf>) -> Settings {
    Settings {
        download_url: template.to_owned(),
        download_timeout: None,
        lite: LiteAttestation::Allow,
        acpi_tables,
        acpi_digests: AcpiPins::new(),
        extra_roots: Vec::new(),
    }
}

struct World {
    directory: tempfile::TempDir,
    cache: ImageCache,
    images: OsImages,
}

impl World {
    fn new(template: &str) -> Self {
        Self::with(template, Some(Duration::from_secs(20)))
    }

    fn with(template: &str, download_timeout: Option<Duration>) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let acpi_tables = stub(directory.path());
        let cache = ImageCache::new(directory.path().join("cache"));
        let settings = Settings { download_timeout, ..settings(template, Some(acpi_tables)) };
        let images = OsImages::new(settings, cache.clone()).expect("client");
        Self { directory, cache, images }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn check(&self, config: &VmConfig, registers: &BootRegisters) -> Result<(), OsImageError> {
        self.images.check(config.clone(), &[], &Quoted::of(registers)).await
    }

    async fn refusal(&self, config: &VmConfig) -> OsImageError {
        let zero = BootRegisters { mrtd: [0; 48], rtmr0: [0; 48], rtmr1: [0; 48], rtmr2: [0; 48] };
        self.check(config, &zero).await.expect_err("refused")
    }
}

/// The names in a directory, sorted; directories end with a slash.
/// Waits until this is so, for a minute at most.
async fn settles(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(60), waiting).await;
}

fn listing(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        // It may be removed meanwhile.
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.expect("entry").path();
            let name = path.strip_prefix(root).expect("below").display().to_string();
            if path.is_dir() {
                found.push(format!("{name}/"));
                open.push(path);
            } else {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_downloaded_measured_kept_and_compared_as_by_the_peer() {
    let vectors = vectors();
    let mut archives = Archives::of_vectors(Duration::ZERO).await;
    let world = World::new(&archives.template);
    for case in list(&vectors, "legacy") {
        let config = config(case);
        let Some(expected) = registers(case) else {
            let refusal = world.refusal(&config).await.to_string();
            let start = refusal.split(": ").next().expect("text");
            assert!(text(&case["expected"]["error"]).contains(start), "{refusal}");
            continue;
        };
        world.check(&config, &expected).await.expect("the image that was booted");
        let mut other = expected;
        other.rtmr1[0] ^= 1;
        let refusal = world.check(&config, &other).await.expect_err("another kernel");
        assert_eq!(refusal.to_string(), text(&case["verify_rtmr1_differs"]["error"]));
        let call = fs::read_to_string(world.path("call")).expect("call");
        let cache = world.path("cache").display().to_string();
        let peers: Vec<String> =
            serde_json::from_value(case["acpi_tool_env_and_args"].clone()).expect("list");
        assert_eq!(call.lines().map(|word| word.replace(&cache, "{CACHE}")).collect::<Vec<_>>(), peers);
        let kept = format!("cache/measurements/{}.json", text(&case["measurement_cache_key"]));
        assert!(world.path(&kept).is_file());
    }
    let example = &vectors["measurement_cache_file_example"];
    let kept =
        fs::read_to_string(world.path("cache/measurements").join(text(&example["name"]))).expect("file");
    assert_eq!(kept, text(&example["content"]));
    let peers: Vec<String> = serde_json::from_value(vectors["cache_listing"].clone()).expect("list");
    let ours = |name: &String| name.starts_with("measured/");
    let found = || listing(&world.path("cache")).into_iter().partition::<Vec<_>, _>(ours);
    // Workspaces are removed on a thread of their own.
    settles(|| found().1 == peers).await;
    let (ours, listed) = found();
    assert_eq!(listed, peers, "and nothing but a directory of ours");
    assert_eq!(
        ours.len(),
        1 + peers.iter().filter(|name| name.ends_with(".json") && name.starts_with("measurements/")).count()
    );
    let mut requests = Vec::new();
    while let Ok(path) = archives.paths.try_recv() {
        requests.push(format!("GET {path} HTTP/1.1"));
    }
    let peers: Vec<String> = serde_json::from_value(vectors["http_requests_seen"].clone()).expect("list");
    assert_eq!(requests, peers);
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_are_not_the_image_are_refused_and_leave_nothing() {
    let vectors = vectors();
    for case in list(&vectors, "download_failures") {
        let status = u16::try_from(case["http_status"].as_u64().expect("status")).expect("status");
        let body = STANDARD.decode(text(&case["body_base64"])).expect("base64");
        let answer = Answer { status, ..Answer::ok(body) };
        let archives = Archives::serve(move |_| answer.clone()).await;
        let world = World::new(&archives.template);
        let hash = hex::decode(text(&case["requested_hash"])).expect("hash");
        let config = VmConfig { os_image_hash: hash, cpu_count: 1, ..VmConfig::default() };
        let refusal = world.refusal(&config).await;
        let ours = refusal.to_string();
        assert!(text(&case["error"]).starts_with(&ours), "{}: {ours}", case["name"]);
        assert_eq!(refusal.is_unavailable(), status == 404, "{}", case["name"]);
        for secret in ["127.0.0.1", "/tmp", "http:", "evil"] {
            assert!(!ours.contains(secret), "{ours}");
        }
        settles(|| listing(&world.path("cache")) == ["images/", "images/tmp/"]).await;
        assert_eq!(listing(&world.path("cache")), ["images/", "images/tmp/"], "{}", case["name"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_shared_and_outlives_those_who_wait_for_it() {
    let vectors = vectors();
    let archives = Archives::of_vectors(Duration::from_millis(300)).await;
    let world = Arc::new(World::new(&archives.template));
    let cases: Vec<_> = list(&vectors, "legacy")[..3]
        .iter()
        .map(|case| (config(case), registers(case).expect("registers")))
        .collect();
    let impatient = world.check(&cases[0].0, &cases[0].1);
    assert!(tokio::time::timeout(Duration::from_millis(50), impatient).await.is_err());
    let mut waiting = tokio::task::JoinSet::new();
    for (config, expected) in [&cases[..], &cases[..]].concat() {
        let world = Arc::clone(&world);
        waiting.spawn(async move { world.check(&config, &expected).await });
    }
    assert!(waiting.join_all().await.iter().all(Result::is_ok));
    assert_eq!(archives.requests(), 1);
    let runs = fs::read_to_string(world.path("runs")).expect("runs");
    assert_eq!(runs.lines().count(), cases.len(), "each configuration is measured once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_download_ends_and_can_be_tried_again() {
    let vectors = vectors();
    let archives = Archives::of_vectors(Duration::from_secs(30)).await;
    let world = World::with(&archives.template, Some(Duration::from_secs(2)));
    let config = config(&list(&vectors, "legacy")[0]);
    for attempt in 1..=2 {
        let refusal = world.refusal(&config).await;
        assert_eq!(refusal.to_string(), "Download image timeout");
        assert!(refusal.is_unavailable());
        assert_eq!(archives.requests(), attempt);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clearing_while_requests_run_costs_a_download_and_no_request() {
    let vectors = vectors();
    let archives = Archives::of_vectors(Duration::from_millis(20)).await;
    let world = Arc::new(World::new(&archives.template));
    let case = &list(&vectors, "legacy")[0];
    let (config, expected) = (config(case), registers(case).expect("registers"));
    for round in 0..10 {
        let (busy, config) = (Arc::clone(&world), config.clone());
        let request = tokio::spawn(async move { busy.check(&config, &expected).await });
        tokio::time::sleep(Duration::from_millis(7 * round)).await;
        world.cache.clear_measurements("all").await.expect("cleared");
        world.cache.clear_images("all").await.expect("cleared");
        request.await.expect("no panic").expect("verified");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_measurement_that_a_clearing_overtakes_is_not_kept_and_not_given_to_later_ones() {
    let vectors = vectors();
    let archives = Archives::of_vectors(Duration::ZERO).await;
    let world = Arc::new(World::new(&archives.template));
    let case = &list(&vectors, "legacy")[0];
    let (config, expected) = (config(case), registers(case).expect("registers"));
    // The program records each run, and then waits until it may continue.
    let (gate, directory) = (world.path("gate"), world.directory.path().display().to_string());
    program(
        world.directory.path(),
        &format!(
            "echo run >> {directory}/runs; while [ ! -e {directory}/gate ]; do sleep 0.01; done; cat {directory}/tables"
        ),
    );
    let runs = || fs::read_to_string(world.path("runs")).unwrap_or_default().lines().count();
    let ask = || {
        let (world, config) = (Arc::clone(&world), config.clone());
        tokio::spawn(async move { world.check(&config, &expected).await })
    };
    let wait_for = async |count| {
        while runs() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let before = ask();
    wait_for(1).await;
    world.cache.clear_measurements("all").await.expect("cleared");
    let after = ask();
    wait_for(2).await;
    fs::write(&gate, "").expect("gate");
    for request in [before, after] {
        request.await.expect("no panic").expect("verified");
    }
    let kept =
        world.path("cache/measurements").join(format!("{}.json", text(&case["measurement_cache_key"])));
    assert!(kept.is_file(), "by the one that began after the clearing");
    assert_eq!(runs(), 2);

    fs::remove_file(&gate).expect("gate");
    world.cache.clear_measurements("all").await.expect("cleared");
    let alone = ask();
    wait_for(3).await;
    world.cache.clear_measurements("all").await.expect("cleared");
    fs::write(&gate, "").expect("gate");
    alone.await.expect("no panic").expect("verified");
    assert!(!kept.exists(), "what was measured before the clearing does not come back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_hears_how_a_download_goes_on_and_how_it_ends() {
    let vectors = vectors();
    let archives = Archives::of_vectors(Duration::ZERO).await;
    let world = World::new(&archives.template);
    let heard: Arc<std::sync::Mutex<Vec<(String, Progress)>>> = Arc::default();
    let told = Arc::clone(&heard);
    let listener = ProgressListener::new(move |image, progress| {
        told.lock().expect("no panic").push((image.to_owned(), progress.clone()));
    });
    let settings = settings(&archives.template, Some(world.path("acpi-program")));
    let acpi = settings.acpi_tables.clone().map(AcpiProgram::new);
    let images = OsImages::with_program(settings, world.cache.clone(), acpi, listener, Duration::ZERO);
    let world = World { images: images.expect("client"), ..world };
    let case = &list(&vectors, "legacy")[0];
    let (config, expected) = (config(case), registers(case).expect("registers"));
    for _ in 0..2 {
        world.check(&config, &expected).await.expect("verified");
    }
    let hash = hex::encode(&config.os_image_hash);
    let length = archive(&vectors, &hash).len() as u64;
    let mut events = std::mem::take(&mut *heard.lock().expect("no panic"));
    assert!(events.iter().all(|(image, _)| *image == hash));
    assert_eq!(events.first().map(|(_, progress)| progress), Some(&Progress::Started));
    assert!(matches!(events.pop(), Some((_, Progress::Done { .. }))));
    assert_eq!(events.pop().map(|(_, progress)| progress), Some(Progress::Unpacking { bytes: length }));
    let fetching = Progress::Fetching { bytes: length, of: Some(length) };
    assert_eq!(events.pop().map(|(_, progress)| progress), Some(fetching));

    // Not the right image.
    archives.answer_with(Answer { status: 503, ..Answer::ok(Vec::new()) });
    let other = VmConfig { os_image_hash: vec![7; 32], ..config };
    world.refusal(&other).await;
    let events = std::mem::take(&mut *heard.lock().expect("no panic"));
    let reason = "Failed to download image: HTTP status 503 Service Unavailable".to_owned();
    let image = hex::encode([7; 32]);
    assert_eq!(events, [(image.clone(), Progress::Started), (image, Progress::Failed { reason })]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_program_or_with_a_broken_one_images_are_not_measured() {
    let vectors = vectors();
    let archives = Archives::of_vectors(Duration::ZERO).await;
    let config = config(&list(&vectors, "legacy")[0]);
    for (script, refusal) in [
        (None, "the ACPI program of this KMS (core.image.acpi_tables) is not installed"),
        (Some("exit 3"), "the ACPI program failed"),
        (Some("true"), "the ACPI program did not print tables"),
        (Some("cat /dev/zero"), "the ACPI program did not print tables"),
        (Some("sleep 60 & sleep 60"), "the ACPI program took too long"),
        (Some("printf FACS"), "the ACPI tables are malformed"),
    ] {
        let world = World::new(&archives.template);
        let path = match script {
            Some(script) => program(world.directory.path(), script),
            None => world.path("missing"),
        };
        let settings = settings(&archives.template, Some(path.clone()));
        let installed = path.clone();
        let acpi = AcpiProgram::with_timeout(path, Duration::from_secs(1));
        let (cache, listener) = (world.cache.clone(), ProgressListener::default());
        let images =
            OsImages::with_program(settings, cache, Some(acpi), listener, TELL_EVERY).expect("client");
        assert_eq!(is_installed(&installed), script.is_some());
        let world = World { images, ..world };
        let error = world.refusal(&config).await.to_string();
        assert!(error.starts_with(refusal), "{error}");
        assert!(!world.path("cache/measurements").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_program_the_tables_are_computed() {
    let vectors = vectors_v4();
    let archives = Archives::serve(move |path| {
        let hash = path.trim_start_matches('/').trim_end_matches(".tar.gz");
        Answer::ok(archive(&vectors_v4(), hash))
    })
    .await;
    let world = World::new(&archives.template);
    let images = OsImages::new(settings(&archives.template, None), world.cache.clone()).expect("client");
    let world = World { images, ..world };
    for case in list(&vectors, "legacy") {
        let (config, expected) = (config(case), registers(case).expect("registers"));
        world.check(&config, &expected).await.expect("the image that was booted");
        let mut other = expected;
        other.rtmr0[0] ^= 1;
        world.check(&config, &other).await.expect_err("other tables");
    }
    let unknown = VmConfig { extra_root_devices: vec!["x".into()], ..config(&list(&vectors, "legacy")[0]) };
    let refusal = world.refusal(&unknown).await;
    assert_eq!(refusal.to_string(), "ACPI tables of VMs with extra_root_devices are not known");
    assert!(!world.path("runs").exists(), "no program was called");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_run_with_pinned_tables_only_and_lite_attestation_can_be_refused() {
    let vectors = vectors_v4();
    let lite = list(&vectors, "lite").iter().find(|case| case["verify"] == "accepted").expect("a lite case");
    let legacy = &list(&vectors, "legacy")[0];
    for case in [lite, legacy] {
        let (config, expected) = (config(case), registers(case).expect("registers"));
        let log: Vec<TdxEvent> = case
            .get("event_log")
            .map(|log| serde_json::from_value(log.clone()).expect("log"))
            .unwrap_or_default();
        let hash: [u8; 32] = config.os_image_hash.as_slice().try_into().expect("hash");
        let tables = AcpiDigests::of_vm(&Shape::of(&config).expect("a shape")).tables;
        let answer = Answer::ok(archive(&vectors, &hex::encode(hash)));
        let archives = Archives::serve(move |_| answer.clone()).await;
        let check = async |settings| {
            let directory = tempfile::tempdir().expect("temporary directory");
            let images =
                OsImages::new(settings, ImageCache::new(directory.path().join("cache"))).expect("client");
            images
                .check(config.clone(), &log, &Quoted::of(&expected))
                .await
                .map_err(|error| error.to_string())
        };
        let plain = || settings(&archives.template, None);
        let pinned = |image: [u8; 32], tables: &[[u8; 48]]| Settings {
            acpi_digests: AcpiPins::from([(image, tables.to_vec())]),
            ..plain()
        };
        assert_eq!(check(plain()).await, Ok(()));
        assert_eq!(check(pinned(hash, &[[7; 48], tables])).await, Ok(()));
        assert_eq!(check(pinned([7; 32], &[])).await, Ok(()), "another image");
        let refusal = format!(
            "the ACPI tables of this VM are not pinned for its image (core.image.acpi_digests): SHA-384 {}",
            hex::encode(tables)
        );
        let downloads = archives.requests();
        assert_eq!(check(pinned(hash, &[[7; 48]])).await, Err(refusal.clone()));
        assert_eq!(check(pinned(hash, &[])).await, Err(refusal));
        assert_eq!(archives.requests(), downloads, "refused before a download");
        let refused = check(Settings { lite: LiteAttestation::Refuse, ..plain() }).await;
        match config.tdx_attestation_variant {
            TdxAttestationVariant::Legacy => assert_eq!(refused, Ok(())),
            TdxAttestationVariant::Lite => {
                let text = "lite TDX attestation is not accepted by this KMS (core.image.lite)";
                assert_eq!(refused, Err(text.to_owned()));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_programs_tables_are_held_to_the_pins_whenever_they_were_measured() {
    let vectors = vectors();
    let archives = Archives::of_vectors(Duration::ZERO).await;
    let world = World::new(&archives.template);
    let case = &list(&vectors, "legacy")[0];
    let (config, expected) = (config(case), registers(case).expect("registers"));
    let image: [u8; 32] = config.os_image_hash.as_slice().try_into().expect("hash");
    let printed = hex::decode(text(&vectors["acpi_tables"])).expect("hex");
    let tables = AcpiDigests::of_tables(&printed).expect("tables").tables;
    let computed = AcpiDigests::of_vm(&Shape::of(&config).expect("a shape")).tables;
    assert_ne!(tables, computed, "the program's own");
    let check = async |pins: AcpiPins| {
        let acpi_tables = Some(world.path("acpi-program"));
        let settings = Settings { acpi_digests: pins, ..settings(&archives.template, acpi_tables) };
        let images = OsImages::new(settings, world.cache.clone()).expect("client");
        images.check(config.clone(), &[], &Quoted::of(&expected)).await.map_err(|error| error.to_string())
    };
    let refusal = format!(
        "the ACPI tables of this VM are not pinned for its image (core.image.acpi_digests): SHA-384 {}",
        hex::encode(tables)
    );
    // First measured for this program, then cached.
    for _ in 0..2 {
        assert_eq!(check(AcpiPins::from([(image, vec![computed])])).await, Err(refusal.clone()));
        assert_eq!(check(AcpiPins::from([(image, vec![])])).await, Err(refusal.clone()));
        assert_eq!(check(AcpiPins::from([(image, vec![[7; 48], tables])])).await, Ok(()));
        assert_eq!(check(AcpiPins::from([([7; 32], vec![])])).await, Ok(()), "another image");
        assert_eq!(check(AcpiPins::new()).await, Ok(()));
    }
    let runs = fs::read_to_string(world.path("runs")).expect("runs");
    assert_eq!(runs.lines().count(), 1, "what was measured is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_program_or_none_has_measured_is_not_served() {
    let vectors = vectors();
    let archives = Archives::of_vectors(Duration::ZERO).await;
    let world = World::new(&archives.template);
    let case = &list(&vectors, "legacy")[0];
    let (config, expected) = (config(case), registers(case).expect("registers"));
    let check = async |program: Option<&Path>| {
        let settings = settings(&archives.template, program.map(Path::to_owned));
        let images = OsImages::new(settings, world.cache.clone()).expect("client");
        images.check(config.clone(), &[], &Quoted::of(&expected)).await.map_err(|error| error.to_string())
    };
    let path = world.path("acpi-program");
    assert_eq!(check(Some(&path)).await, Ok(()));
    let computed = check(None).await.expect_err("the computed tables are others");
    assert!(computed.contains("RTMR0"), "{computed}");
    assert_eq!(check(Some(&path)).await, Ok(()), "and what was computed is not the program's");
    // The same path, but another program.
    let tables = world.path("tables").display().to_string();
    program(world.directory.path(), &format!("cat {tables}; printf x"));
    check(Some(&path)).await.expect_err("other tables");
    fs::remove_file(&path).expect("removed");
    let missing = check(Some(&path)).await.expect_err("it can no longer measure");
    assert!(missing.contains("is not installed"), "{missing}");
    // The peer's file of the same name does not say what made it.
    let name = format!("cache/measurements/{}.json", text(&case["measurement_cache_key"]));
    let json = json_of(&expected);
    fs::write(world.path(&name), json).expect("file");
    check(None).await.expect_err("it is not read");
}

fn json_of(registers: &BootRegisters) -> String {
    serde_json::json!({ "version": 3, "measurements": registers }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_does_not_see_our_environment() {
    let vectors = vectors();
    let archives = Archives::of_vectors(Duration::ZERO).await;
    let world = World::new(&archives.template);
    world.refusal(&config(&list(&vectors, "legacy")[0])).await;
    let environment = fs::read_to_string(world.path("environment")).expect("environment");
    let names: Vec<&str> = environment.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    let known = ["PATH", "LD_LIBRARY_PATH", "TMPDIR", "QEMU_ACPI_COMPAT_VER", "PWD", "OLDPWD", "SHLVL", "_"];
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
}

#[tokio::test]
async fn what_cannot_be_measured_costs_no_download() {
    let world = World::new("http://127.0.0.1:1/{OS_IMAGE_HASH}.tar.gz");
    let good = VmConfig { os_image_hash: vec![7; 32], cpu_count: 1, ..VmConfig::default() };
    for config in [
        VmConfig { os_image_hash: Vec::new(), ..good.clone() },
        VmConfig { os_image_hash: vec![7; 31], ..good.clone() },
        VmConfig { cpu_count: 0, ..good.clone() },
        VmConfig { swtpm: true, ..good.clone() },
        VmConfig { host_share_mode: "nfs".into(), ..good.clone() },
        VmConfig { qemu_version: Some("7.2.0".into()), ..good.clone() },
        VmConfig { tdx_attestation_variant: TdxAttestationVariant::Lite, ..good.clone() },
    ] {
        assert!(!world.refusal(&config).await.is_unavailable());
        assert!(!world.path("cache").exists());
    }
    let refusal = world.refusal(&good).await;
    assert_eq!(refusal.to_string(), "Failed to download image: the image server does not answer");
    assert!(refusal.is_unavailable());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_image_is_served_only_under_its_own_hash_and_only_by_its_list() {
    let vectors = vectors();
    let archives = Archives::of_vectors(Duration::ZERO).await;
    let world = World::new(&archives.template);
    let [first, second] = [&list(&vectors, "legacy")[0], &list(&vectors, "legacy")[7]];
    let (config, expected) = (config(first), registers(first).expect("registers"));
    world.check(&config, &expected).await.expect("verified");
    let images = world.path("cache/images");
    let [ours, theirs] = [first, second].map(|case| hex::encode(&self::config(case).os_image_hash));
    fs::rename(images.join(&ours), images.join(&theirs)).expect("renamed");
    let refusal = world.refusal(&self::config(second)).await;
    assert_eq!(refusal.to_string(), "os_image_hash does not match sha256(sha256sum.txt)");
    // A description with a file that is not in the list.
    fs::rename(images.join(&theirs), images.join(&ours)).expect("renamed");
    let path = images.join(&ours).join("metadata.json");
    let metadata = fs::read_to_string(&path).expect("file").replace("\"ovmf.fd\"", "\"evil.fd\"");
    fs::write(&path, metadata).expect("file");
    fs::copy(images.join(&ours).join("ovmf.fd"), images.join(&ours).join("evil.fd")).expect("copied");
    world.cache.clear_measurements("all").await.expect("cleared");
    assert_eq!(world.refusal(&config).await.to_string(), "the OS image has no usable firmware");
}

#[test]
fn entries_that_are_neither_files_nor_directories_and_bombs_are_refused() {
    let unpacked = |archive: &[u8], deadline: Deadline| {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("image.tar.gz");
        fs::write(&path, archive).expect("archive");
        let into = directory.path().join("extracted");
        fs::create_dir(&into).expect("directory");
        archive::unpack(&path, &into, deadline).map(|()| listing(&into))
    };
    let never = Deadline(None);
    let entry = |kind: EntryType, name: &[u8], content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    };
    let archive = |entries: &[Vec<u8>]| gzipped(&[entries.concat(), vec![0; 1024]].concat());
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::GNUSparse,
        EntryType::GNULongLink,
        EntryType::new(b'!'),
    ] {
        let outcome = unpacked(&archive(&[entry(kind, b"x", b"")]), never);
        assert!(matches!(outcome, Err(ArchiveError::Unsupported)), "{kind:?}: {outcome:?}");
    }
    for name in [&b"/x"[..], b"../x", b"a/../../x", b"a/..", b"\xff", b""] {
        let outcome = unpacked(&archive(&[entry(EntryType::Regular, name, b"")]), never);
        assert!(matches!(outcome, Err(ArchiveError::UnsafePath)), "{name:?}: {outcome:?}");
    }
    let twice = archive(&[entry(EntryType::Regular, b"x", b"1"), entry(EntryType::Regular, b"./x", b"2")]);
    assert!(matches!(unpacked(&twice, never), Err(ArchiveError::UnsafePath)));
    let pax = |record: &str| {
        archive(&[entry(EntryType::XHeader, b"p", record.as_bytes()), entry(EntryType::Regular, b"x", b"")])
    };
    assert_eq!(unpacked(&pax("9 path=y\n"), never).expect("a pax path"), ["y"]);
    assert!(matches!(unpacked(&pax("13 path=../y\n"), never), Err(ArchiveError::UnsafePath)));
    assert!(matches!(unpacked(&pax("16 size=9999999\n"), never), Err(ArchiveError::TooLarge)));
    let long = [b"d/".as_slice(), &[b'n'; 120], b"\0"].concat();
    let long = archive(&[entry(EntryType::GNULongName, b"l", &long), entry(EntryType::Regular, b"x", b"")]);
    assert_eq!(
        unpacked(&long, never).expect("a long name"),
        ["d/".to_owned(), format!("d/{}", "n".repeat(120))]
    );
    let huge = archive(&[entry(EntryType::GNULongName, b"l", &[b'n'; 5000])]);
    assert!(matches!(unpacked(&huge, never), Err(ArchiveError::TooLarge)));
    let many: Vec<_> = (0..5000).map(|_| entry(EntryType::Directory, b"d/", b"")).collect();
    assert!(matches!(unpacked(&archive(&many), never), Err(ArchiveError::TooLarge)));
    let good = archive(&[entry(EntryType::Regular, b"x", b"1")]);
    assert!(matches!(unpacked(&good, Deadline(Some(Instant::now()))), Err(ArchiveError::Timeout)));
    assert!(matches!(unpacked(&good[..20], never), Err(ArchiveError::Unreadable(_))));
    assert!(matches!(unpacked(b"hello", never), Err(ArchiveError::Unreadable(_))));
}
