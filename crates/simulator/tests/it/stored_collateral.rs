//! Collateral on the disk: outages, restarts, and files that somebody has changed.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dcap_qvl::QuoteCollateralV3;
use kms_attest::binding::ReportData;
use kms_attest::collateral::{
    CacheOptions, Clock, Collateral, CollateralBundle, CollateralCache, CollateralError, CollateralStore,
    FetchFailure, Floors, Numbers, PlatformKey, Source, StoredProblem, read_stored,
};
use kms_attest::trust::TrustAnchors;
use kms_attest::verify::{Binding, Verifier, VerifyError};
use kms_simulator::{
    Certification, CollateralSpec, Cvm, PccsServer, Platform, PlatformSpec, Revocation, Validity,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

const NOW: u64 = 1_750_000_000;
const DAY: u64 = 86_400;
const NOBODY: &str = "http://127.0.0.1:9";

/// Platforms of different models under one root.
fn platforms(count: u8) -> Vec<Arc<Platform>> {
    let spec = |number| PlatformSpec {
        fmspc: [0x53, 0x49, 0x4d, 0, 1, number],
        ..PlatformSpec::from_seed(b"stored collateral")
    };
    (0..count).map(|number| Platform::new(&spec(number))).collect()
}

fn anchors(platform: &Platform) -> TrustAnchors {
    TrustAnchors::with_tdx_root(platform.root_der()).unwrap()
}

/// Collateral with this number, from a day before `NOW` on.
fn numbered(number: u32, days: u64) -> CollateralSpec {
    CollateralSpec {
        evaluation_number: number,
        ..CollateralSpec::valid(Validity::new(NOW - DAY, NOW + days * DAY))
    }
}

/// A node: its key directory, the time there, and a root.
struct Node {
    directory: TempDir,
    time: Arc<AtomicU64>,
    anchors: TrustAnchors,
}

impl Node {
    fn new(platform: &Platform) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, time: Arc::new(AtomicU64::new(NOW)), anchors: anchors(platform) }
    }

    fn set_time(&self, now: u64) {
        self.time.store(now, Ordering::SeqCst);
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("collateral")
    }

    fn options(&self) -> CacheOptions {
        let time = Arc::clone(&self.time);
        let floors = Floors::open(self.directory.path().join("floors.json"), self.anchors.tdx_root(), 0);
        CacheOptions {
            clock: Clock::from_fn(move || time.load(Ordering::SeqCst)),
            store: Some(CollateralStore::new(self.store())),
            floors: floors.unwrap(),
            retry_after: Duration::ZERO,
            ..CacheOptions::default()
        }
    }

    /// A start, with a service at `url`.
    async fn start(&self, url: &str) -> Verifier {
        self.start_with(url, self.options()).await
    }

    async fn start_with(&self, url: &str, options: CacheOptions) -> Verifier {
        let cache = CollateralCache::new(&[url], &self.anchors, options).unwrap();
        cache.load_stored();
        cache.loaded().await;
        Verifier::new(self.anchors.clone(), cache)
    }

    /// Keeps the collateral of `spec` of each platform, as if a service had sent it.
    async fn keep(&self, platforms: &[Arc<Platform>], spec: &CollateralSpec) {
        let verifier = self.start(NOBODY).await;
        let sets: Vec<_> = platforms.iter().map(|platform| platform.collateral_of(spec)).collect();
        for some in sets.chunks(CollateralBundle::MAX_MODELS) {
            let bundle = CollateralBundle::parse(&serde_json::to_vec(some).unwrap()).unwrap();
            let examined = verifier.cache().examine(bundle).unwrap();
            assert_eq!(verifier.cache().import(examined).await.used, some.len());
        }
    }

    fn file_of(&self, platform: &Platform) -> PathBuf {
        self.store().join(format!("{}-platform.collateral", hex::encode(platform.fmspc())))
    }
}

async fn admits(verifier: &Verifier, cvm: &Cvm, number: u32) -> Result<(), VerifyError> {
    let mut data = [0; 64];
    data[..4].copy_from_slice(&number.to_be_bytes());
    verifier.verify(&cvm.evidence(ReportData(data)), Binding::SelfReported).await.map(|_| ())
}

fn problems(verifier: &Verifier) -> Vec<StoredProblem> {
    verifier.cache().stats().stored.refused.into_iter().map(|file| file.problem).collect()
}

/// The first line for documents that somebody has changed: the digest is right again.
fn sealed(fetched: u64, json: &[u8]) -> Vec<u8> {
    let beginning = format!("cvm-kms collateral 1 {fetched}");
    let mut digest = Sha256::new();
    digest.update(format!("{beginning}\n"));
    digest.update(json);
    let mut content = format!("{beginning} {}\n", hex::encode(digest.finalize())).into_bytes();
    content.extend_from_slice(json);
    content
}

/// What is signed of a CRL: its envelope, such as the number of unused bits of the signature, is not.
fn signed_of_crl(der: &[u8]) -> Vec<u8> {
    CertificateRevocationList::from_der(der).unwrap().1.tbs_cert_list.as_ref().to_vec()
}

/// All that Intel signs of collateral, and what is read out of it.
fn signed(collateral: &Collateral) -> (Vec<Vec<u8>>, Numbers, PlatformKey, u64) {
    let parts = collateral.parts();
    let documents = vec![
        parts.tcb_info.clone().into_bytes(),
        parts.qe_identity.clone().into_bytes(),
        signed_of_crl(&parts.root_ca_crl),
        signed_of_crl(&parts.pck_crl),
    ];
    (documents, collateral.numbers(), collateral.model(), collateral.issued())
}

fn json_of(content: &[u8]) -> &[u8] {
    let end = content.iter().position(|byte| *byte == b'\n').unwrap();
    &content[end + 1..]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_and_a_restart_deny_none_of_a_thousand_guests_until_the_collateral_ends() {
    let platforms = platforms(2);
    let node = Node::new(&platforms[0]);
    let pccs =
        PccsServer::start_on(([127, 0, 0, 1], 0).into(), &platforms[0], &platforms[1..]).await.unwrap();
    pccs.publish(&numbered(17, 20));
    let cvms: Vec<Arc<Cvm>> = platforms.iter().map(|platform| Cvm::builder(platform).build()).collect();
    let verifier = node.start(&pccs.url()).await;
    for cvm in &cvms {
        admits(&verifier, cvm, 0).await.unwrap();
    }
    // Every service is gone, and the node starts again.
    drop(pccs);
    let verifier = node.start(NOBODY).await;
    let end = NOW + 20 * DAY;
    let mut denials = 0;
    for guest in 0..1000_u32 {
        // A CRL has expired at its nextUpdate, so the last guest comes a second before.
        node.set_time(NOW + u64::from(guest) * (end - 1 - NOW) / 999);
        denials += u32::from(admits(&verifier, &cvms[guest as usize % 2], guest).await.is_err());
    }
    assert_eq!(denials, 0);
    assert_eq!(verifier.cache().stats().fetches, 0, "nobody was asked");
    for now in [end, end + 1, end + DAY] {
        node.set_time(now);
        for cvm in &cvms {
            let error = admits(&verifier, cvm, 1).await.unwrap_err();
            let is_missing = matches!(&error, VerifyError::Collateral(CollateralError::Unavailable { .. }));
            assert!(is_missing && error.is_unavailable(), "the guest may come again: {error}");
        }
    }
    assert_eq!(verifier.cache().stats().expired.len(), 2, "an operator is told what has ended");
    let verifier = node.start(NOBODY).await;
    assert_eq!(problems(&verifier), vec![StoredProblem::Refused(FetchFailure::NotCurrent); 2]);
    assert_eq!(verifier.cache().stats().expired.len(), 2);
    assert!(admits(&verifier, &cvms[0], 2).await.unwrap_err().is_unavailable());
}

#[tokio::test]
async fn a_flipped_bit_of_any_byte_and_every_shorter_file_is_damage() {
    let platforms = platforms(1);
    let node = Node::new(&platforms[0]);
    node.keep(&platforms, &numbered(17, 20)).await;
    let content = fs::read(node.file_of(&platforms[0])).unwrap();
    assert!(read_stored(&content).is_ok());
    for at in 0..content.len() {
        let mut changed = content.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(read_stored(&changed).is_err(), "byte {at}");
        assert!(read_stored(&content[..at]).is_err(), "{at} bytes");
    }
    let longer = [content.as_slice(), b" "].concat();
    assert!(read_stored(&longer).is_err());
    // A start goes on without it.
    let cvm = Cvm::builder(&platforms[0]).build();
    for changed in [&content[..100], &content[..content.len() - 1], b"".as_slice(), longer.as_slice()] {
        fs::write(node.file_of(&platforms[0]), changed).unwrap();
        let verifier = node.start(NOBODY).await;
        assert!(matches!(problems(&verifier)[..], [StoredProblem::Damaged(_)]));
        assert!(admits(&verifier, &cvm, 0).await.is_err());
        let told = verifier.cache().take_refused();
        assert!(told.len() == 1 && told[0].source == Source::Disk, "{told:?}");
        assert_eq!(verifier.cache().take_refused(), [], "once");
    }
}

#[tokio::test]
async fn documents_that_were_changed_with_their_digest_are_not_accepted() {
    let platforms = platforms(1);
    let node = Node::new(&platforms[0]);
    node.keep(&platforms, &numbered(17, 20)).await;
    let file = node.file_of(&platforms[0]);
    let content = fs::read(&file).unwrap();
    let original = Collateral::new(read_stored(&content).unwrap().1).unwrap();
    let json = json_of(&content);
    assert_eq!(sealed(NOW, json), content);
    let cache = CollateralCache::new(&[NOBODY], &node.anchors, node.options()).unwrap();
    let mut refused = 0;
    for at in 0..json.len() {
        let mut changed = json.to_vec();
        changed[at] ^= 1 << (at % 7);
        fs::write(&file, sealed(NOW, &changed)).unwrap();
        cache.load_stored_now();
        match cache.stats().stored.loaded {
            0 => refused += 1,
            // For example another case of a hex digit, or a certificate after the signer's, which nobody trusts.
            _ => assert!(cache.held().iter().all(|held| signed(held) == signed(&original)), "byte {at}"),
        }
    }
    assert!(refused > json.len() * 9 / 10, "{refused} of {}", json.len());
    assert!(cache.held().len() <= 1);
}

#[tokio::test]
async fn the_content_counts_and_not_the_name_of_a_file() {
    let platforms = platforms(2);
    let node = Node::new(&platforms[0]);
    node.keep(&platforms, &numbered(17, 20)).await;
    let (one, other) = (node.file_of(&platforms[0]), node.file_of(&platforms[1]));
    let contents = (fs::read(&one).unwrap(), fs::read(&other).unwrap());
    fs::write(&one, &contents.1).unwrap();
    fs::write(&other, &contents.0).unwrap();
    let verifier = node.start(NOBODY).await;
    let held: Vec<_> = verifier.cache().held().iter().map(|set| set.fmspc()).collect();
    assert_eq!(held, [platforms[0].fmspc(), platforms[1].fmspc()]);
    for platform in &platforms {
        admits(&verifier, &Cvm::builder(platform).build(), 0).await.unwrap();
    }
    // Two files of one model: the later one counts, whatever its name.
    let later = Node::new(&platforms[0]);
    later.keep(&platforms[..1], &numbered(18, 10)).await;
    fs::write(&one, &contents.0).unwrap();
    fs::copy(later.file_of(&platforms[0]), &other).unwrap();
    let held = node.start(NOBODY).await.cache().held();
    assert_eq!((held.len(), held[0].evaluation_number()), (1, 18));
}

#[tokio::test]
async fn an_older_file_and_an_older_answer_are_refused_and_told() {
    let platforms = platforms(1);
    let node = Node::new(&platforms[0]);
    let cvm = Cvm::builder(&platforms[0]).build();
    node.keep(&platforms, &numbered(17, 20)).await;
    let old = fs::read(node.file_of(&platforms[0])).unwrap();
    node.keep(&platforms, &numbered(20, 10)).await;
    fs::write(node.file_of(&platforms[0]), old).unwrap();
    let pccs = PccsServer::start(&platforms[0]).await.unwrap();
    pccs.publish(&numbered(17, 20));
    let verifier = node.start(&pccs.url()).await;
    assert!(matches!(problems(&verifier)[..], [StoredProblem::Refused(FetchFailure::RolledBack { .. })]));
    assert!(admits(&verifier, &cvm, 0).await.unwrap_err().is_unavailable());
    let sources: Vec<_> = verifier.cache().take_refused().iter().map(|refused| refused.source).collect();
    assert_eq!(sources, [Source::Disk, Source::Service]);
    assert!(verifier.cache().stats().refused_as_older.iter().sum::<u64>() >= 2);
}

#[tokio::test]
async fn a_model_of_the_last_weeks_is_verified_by_the_later_documents_of_others() {
    let platforms = platforms(2);
    let node = Node::new(&platforms[0]);
    node.keep(&platforms[..1], &numbered(17, 20)).await;
    node.keep(&platforms[1..], &numbered(20, 20)).await;
    let verifier = node.start(NOBODY).await;
    assert_eq!(problems(&verifier), []);
    for platform in &platforms {
        admits(&verifier, &Cvm::builder(platform).build(), 0).await.unwrap();
    }
    let numbers: Vec<_> = verifier.cache().held().iter().map(|set| set.numbers()).collect();
    assert_eq!((numbers[0].tcb_info, numbers[0].qe_identity, numbers[0].root_crl), (17, 20, 20));
    assert_eq!(numbers[1].tcb_info, 20);
}

#[tokio::test]
async fn a_file_from_the_future_is_refused_and_stops_a_clock_that_was_set_back() {
    let platforms = platforms(1);
    let node = Node::new(&platforms[0]);
    node.keep(&platforms, &numbered(17, 20)).await;
    // When it was fetched is only a word of the file.
    let content = fs::read(node.file_of(&platforms[0])).unwrap();
    fs::write(node.file_of(&platforms[0]), sealed(u64::MAX, json_of(&content))).unwrap();
    let verifier = node.start(NOBODY).await;
    assert_eq!((problems(&verifier), verifier.cache().stats().entries[0].age), (vec![], 0));
    // A date of issue is signed.
    node.set_time(NOW - 2 * DAY);
    let verifier = node.start(NOBODY).await;
    assert_eq!(problems(&verifier), [StoredProblem::Refused(FetchFailure::NotCurrent)]);
    assert!(verifier.cache().clock().check().is_err(), "the clock is known to be wrong");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_stops_nobody() {
    let platforms = platforms(1);
    let cvm = Cvm::builder(&platforms[0]).build();
    let pccs = PccsServer::start(&platforms[0]).await.unwrap();
    let node = Node::new(&platforms[0]);
    let file = node.directory.path().join("file");
    fs::write(&file, "").unwrap();
    // A directory that cannot be made, a file system that is read only for everybody, and a full device.
    for place in [file.as_path(), Path::new("/proc/self/collateral"), Path::new("/dev/full")] {
        let options = CacheOptions { store: Some(CollateralStore::new(place.into())), ..node.options() };
        let verifier = node.start_with(&pccs.url(), options).await;
        admits(&verifier, &cvm, 0).await.unwrap();
        let stats = verifier.cache().stats().stored;
        assert!(stats.unsaved == 1 && stats.write_failure.is_some(), "{}: {stats:?}", place.display());
    }
    // The next write that succeeds ends the report.
    let verifier = node.start(&pccs.url()).await;
    admits(&verifier, &cvm, 0).await.unwrap();
    assert_eq!(verifier.cache().stats().stored.write_failure, None);
    admits(&node.start(NOBODY).await, &cvm, 0).await.unwrap();
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_write_leaves_the_old_file_or_the_new_one() {
    let platforms = platforms(1);
    let (node, later) = (Node::new(&platforms[0]), Node::new(&platforms[0]));
    node.keep(&platforms, &numbered(17, 20)).await;
    later.keep(&platforms, &numbered(18, 10)).await;
    let new = fs::read(later.file_of(&platforms[0])).unwrap();
    let unfinished = node.file_of(&platforms[0]).with_extension("json.new");
    let number = async || node.start(NOBODY).await.cache().held().first().map(|set| set.evaluation_number());
    // Before the rename: the lock was taken, and some bytes are in the new file.
    for length in [0, 1, 100, new.len() / 2, new.len() - 1, new.len()] {
        fs::write(&unfinished, &new[..length]).unwrap();
        assert_eq!(number().await, Some(17), "{length}");
    }
    fs::rename(&unfinished, node.file_of(&platforms[0])).unwrap();
    assert_eq!(number().await, Some(18));
    // What is left is removed by the next write.
    fs::write(node.store().join("ffffffffffff-platform.json.new"), "x").unwrap();
    node.keep(&platforms, &numbered(19, 10)).await;
    let mut names: Vec<_> =
        fs::read_dir(node.store()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let file = node.file_of(&platforms[0]);
    assert_eq!(names, [file.file_name().unwrap(), "store.lock".as_ref()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_at_once_leave_whole_files() {
    let platforms = platforms(4);
    let node = Node::new(&platforms[0]);
    let writers: Vec<_> = (0..2_u32)
        .map(|writer| {
            let store = CollateralStore::new(node.store());
            let sets: Vec<_> = platforms
                .iter()
                .map(|platform| Collateral::new(platform.collateral_of(&numbered(17 + writer, 20))).unwrap())
                .collect();
            std::thread::spawn(move || {
                for round in 0..25 {
                    for set in &sets {
                        // The other one may have the lock again and again.
                        while let Err(error) = store.write(set, NOW + round) {
                            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
                        }
                    }
                }
            })
        })
        .collect();
    while writers.iter().any(|writer| !writer.is_finished()) {
        assert_eq!(CollateralStore::new(node.store()).read().refused, []);
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(CollateralStore::new(node.store()).read().sets.len(), 4);
}

#[tokio::test]
async fn the_store_is_bounded_in_number() {
    let platforms = platforms(140);
    let node = Node::new(&platforms[0]);
    let store = CollateralStore::new(node.store());
    for (number, platform) in platforms.iter().enumerate() {
        let set = Collateral::new(platform.collateral_of(&numbered(17, 20))).unwrap();
        store.write(&set, NOW + number as u64).unwrap();
    }
    let sets = store.read().sets;
    assert_eq!(sets.len(), 128);
    assert!(sets.iter().all(|set| set.fetched >= NOW + 12), "the oldest made room");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_hundred_models_does_not_wait_for_them() {
    let platforms = platforms(100);
    let node = Node::new(&platforms[0]);
    node.keep(&platforms, &numbered(17, 20)).await;
    let cache = CollateralCache::new(&[NOBODY], &node.anchors, node.options()).unwrap();
    let began = Instant::now();
    cache.load_stored();
    let returned = began.elapsed();
    // Who needs collateral waits for the files, and asks nobody.
    let verifier = Verifier::new(node.anchors.clone(), cache);
    admits(&verifier, &Cvm::builder(&platforms[99]).build(), 0).await.unwrap();
    let loaded = began.elapsed();
    let stats = verifier.cache().stats();
    assert_eq!((stats.stored.loaded, stats.fetches), (100, 0));
    println!("start returned after {returned:?}, 100 models were in use after {loaded:?}");
}

#[tokio::test]
async fn offline_no_service_is_asked_whatever_is_missing() {
    let platforms = platforms(2);
    let node = Node::new(&platforms[0]);
    let pccs =
        PccsServer::start_on(([127, 0, 0, 1], 0).into(), &platforms[0], &platforms[1..]).await.unwrap();
    node.keep(&platforms[..1], &numbered(17, 20)).await;
    let options = CacheOptions { is_offline: true, ..node.options() };
    let verifier = node.start_with(&pccs.url(), options).await;
    admits(&verifier, &Cvm::builder(&platforms[0]).build(), 0).await.unwrap();
    let error = admits(&verifier, &Cvm::builder(&platforms[1]).build(), 0).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    let refreshed = verifier.cache().refresh_all().await;
    assert!(refreshed.len() == 1 && refreshed[0].outcome.is_err(), "{refreshed:?}");
    admits(&verifier, &Cvm::builder(&platforms[0]).build(), 1).await.unwrap();
    assert_eq!(pccs.request_count(), 0);
    // A file for the other model ends its denials at once.
    let bundle = serde_json::to_vec(&platforms[1].collateral_of(&numbered(17, 20))).unwrap();
    let examined = verifier.cache().examine(CollateralBundle::parse(&bundle).unwrap()).unwrap();
    assert_eq!(verifier.cache().import(examined).await.used, 1);
    admits(&verifier, &Cvm::builder(&platforms[1]).build(), 2).await.unwrap();
}

fn bundle(sets: &[QuoteCollateralV3]) -> CollateralBundle {
    CollateralBundle::parse(&serde_json::to_vec(sets).unwrap()).unwrap()
}

#[tokio::test]
async fn a_file_whose_sets_were_fetched_at_different_times_is_imported_whole() {
    let platforms = platforms(4);
    let sets = [
        platforms[0].collateral_of(&numbered(18, 20)),
        platforms[1].collateral_of(&numbered(17, 20)),
        platforms[2].collateral_of(&numbered(18, 20)),
    ];
    let in_use = |verifier: &Verifier| -> Vec<_> {
        let held = verifier.cache().held();
        held.iter().map(|set| (set.numbers().tcb_info, set.numbers().qe_identity)).collect()
    };
    let expected = [(18, 18), (17, 18), (18, 18)];
    // As an upload, and as the file of an earlier version.
    let node = Node::new(&platforms[0]);
    let verifier = node.start(NOBODY).await;
    let examined = verifier.cache().examine(bundle(&sets)).unwrap();
    let import = verifier.cache().import(examined).await;
    assert_eq!((import.used, import.refused.len(), in_use(&verifier)), (3, 0, expected.to_vec()));
    assert!(verifier.cache().is_all_kept());
    let other = Node::new(&platforms[0]);
    let verifier = other.start(NOBODY).await;
    let import = verifier.cache().import_valid(bundle(&sets)).await;
    assert_eq!((import.used, import.refused.len(), in_use(&verifier)), (3, 0, expected.to_vec()));
    for node in [&node, &other] {
        let verifier = node.start(NOBODY).await;
        assert_eq!((in_use(&verifier), problems(&verifier)), (expected.to_vec(), vec![]));
    }
    // The same in two files that are examined before either is used.
    let node = Node::new(&platforms[0]);
    let verifier = node.start(NOBODY).await;
    let examined =
        sets.each_ref().map(|set| verifier.cache().examine(bundle(std::slice::from_ref(set))).unwrap());
    for examined in examined {
        assert_eq!(verifier.cache().import(examined).await.used, 1);
    }
    assert_eq!(in_use(&verifier), expected);
    // Later documents of what is in use count as well, but no set is given the numbers of its own model.
    let late = [platforms[3].collateral_of(&numbered(17, 20))];
    assert_eq!(verifier.cache().import(verifier.cache().examine(bundle(&late)).unwrap()).await.used, 1);
    admits(&verifier, &Cvm::builder(&platforms[3]).build(), 0).await.unwrap();
    let older = [platforms[0].collateral_of(&numbered(17, 20))];
    assert!(verifier.cache().examine(bundle(&older)).is_err());
}

#[tokio::test]
async fn a_set_that_is_refused_does_not_keep_those_after_it_from_being_used() {
    let platforms = platforms(3);
    let node = Node::new(&platforms[0]);
    let verifier = node.start(NOBODY).await;
    let sets: Vec<_> =
        platforms[..2].iter().map(|platform| platform.collateral_of(&numbered(17, 20))).collect();
    let examined = verifier.cache().examine(bundle(&sets)).unwrap();
    // Meanwhile there is later TCB info of the first model.
    let later = Platform::new(&PlatformSpec {
        fmspc: platforms[0].fmspc(),
        ..PlatformSpec::from_seed(b"stored collateral")
    })
    .collateral_of(&numbered(18, 20));
    let mixed = QuoteCollateralV3 {
        tcb_info: later.tcb_info,
        tcb_info_signature: later.tcb_info_signature,
        ..sets[0].clone()
    };
    let mixed = verifier.cache().examine(bundle(&[mixed])).unwrap();
    assert_eq!(verifier.cache().import(mixed).await.used, 1);
    let import = verifier.cache().import(examined).await;
    assert_eq!((import.used, import.refused.len()), (1, 1));
    assert!(import.refused[0].to_string().starts_with("set 1: "), "{}", import.refused[0]);
    // What has expired is not told; what is of another root is.
    let foreign = Platform::from_seed(b"another root").collateral_of(&numbered(17, 20));
    let expired = platforms[2].collateral_of(&CollateralSpec::valid(Validity::new(NOW - 2 * DAY, NOW - DAY)));
    let import = verifier.cache().import_valid(bundle(&[foreign, expired, sets[1].clone()])).await;
    assert_eq!((import.used, import.refused.len()), (1, 1));
    assert!(import.refused[0].to_string().starts_with("set 1: "), "{}", import.refused[0]);
}

#[tokio::test]
async fn a_restart_uses_what_the_process_used_when_the_later_documents_of_another_model_end_first() {
    let platforms = platforms(2);
    let node = Node::new(&platforms[0]);
    let cvm = Cvm::builder(&platforms[0]).build();
    node.keep(&platforms[..1], &numbered(17, 20)).await;
    node.keep(&platforms[1..], &numbered(20, 10)).await;
    node.set_time(NOW + 11 * DAY);
    let verifier = node.start(NOBODY).await;
    assert_eq!(problems(&verifier), [StoredProblem::Refused(FetchFailure::NotCurrent)], "the other model");
    admits(&verifier, &cvm, 0).await.unwrap();
    let held = verifier.cache().held();
    assert_eq!((held.len(), held[0].numbers().qe_identity), (1, 17));
    // Without the file that explains the floor, it is an older file as any other.
    fs::remove_file(node.file_of(&platforms[1])).unwrap();
    let verifier = node.start(NOBODY).await;
    assert!(matches!(problems(&verifier)[..], [StoredProblem::Refused(FetchFailure::RolledBack { .. })]));
}

#[tokio::test]
async fn floors_are_saved_only_after_the_collateral_that_raised_them() {
    let platforms = platforms(2);
    let node = Node::new(&platforms[0]);
    let cvm = Cvm::builder(&platforms[0]).build();
    node.keep(&platforms[..1], &numbered(17, 20)).await;
    // From now on no file of the store can be written.
    let lock = node.store().join("store.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let verifier = node.start(NOBODY).await;
    let later = |platform: &Platform| bundle(&[platform.collateral_of(&numbered(18, 20))]);
    let import = async |platform| {
        let examined = verifier.cache().examine(later(platform)).unwrap();
        assert_eq!(verifier.cache().import(examined).await.used, 1);
    };
    import(&platforms[0]).await;
    assert!(!verifier.cache().is_all_kept());
    let restarted = node.start(NOBODY).await;
    assert_eq!((problems(&restarted), restarted.cache().held()[0].evaluation_number()), (vec![], 17));
    admits(&restarted, &cvm, 0).await.unwrap();
    // The running process holds its floors all the same.
    let older = bundle(&[platforms[0].collateral_of(&numbered(17, 20))]);
    assert!(verifier.cache().examine(older).is_err());
    // The next write that succeeds brings all of it to the disk.
    fs::remove_dir(&lock).unwrap();
    import(&platforms[1]).await;
    assert!(verifier.cache().is_all_kept());
    let restarted = node.start(NOBODY).await;
    let numbers: Vec<_> = restarted.cache().held().iter().map(|set| set.evaluation_number()).collect();
    assert_eq!((problems(&restarted), numbers), (vec![], vec![18, 18]));
    let older = bundle(&[platforms[0].collateral_of(&numbered(17, 20))]);
    assert!(restarted.cache().examine(older).is_err(), "the floors are on the disk");
}

/// Two platforms of one model, whose quotes name an encrypted PPID instead of a chain.
fn by_ppid() -> Vec<Arc<Platform>> {
    let spec = |ppid| PlatformSpec {
        ppid: [ppid; 16],
        certification: Certification::EncryptedPpid2048,
        ..PlatformSpec::from_seed(b"stored collateral")
    };
    (1..3).map(|ppid| Platform::new(&spec(ppid))).collect()
}

/// The files with PCK chains, sorted.
fn chain_files(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.store()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "pck-chain")).collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_and_a_restart_deny_no_guest_whose_quote_lacks_its_chain() {
    let platforms = by_ppid();
    let node = Node::new(&platforms[0]);
    let pccs =
        PccsServer::start_on(([127, 0, 0, 1], 0).into(), &platforms[0], &platforms[1..]).await.unwrap();
    pccs.publish(&numbered(17, 20));
    let cvms: Vec<Arc<Cvm>> = platforms.iter().map(|platform| Cvm::builder(platform).build()).collect();
    let verifier = node.start(&pccs.url()).await;
    for cvm in &cvms {
        admits(&verifier, cvm, 0).await.unwrap();
    }
    let asked = pccs.requests().len();
    admits(&verifier, &cvms[0], 1).await.unwrap();
    assert_eq!(pccs.requests().len(), asked, "a chain is fetched once");
    assert_eq!(chain_files(&node).len(), 2);
    drop(pccs);
    for options in [node.options(), CacheOptions { is_offline: true, ..node.options() }] {
        let verifier = node.start_with(NOBODY, options).await;
        assert_eq!(problems(&verifier), []);
        for guest in 0..200_u32 {
            admits(&verifier, &cvms[guest as usize % 2], guest).await.unwrap();
        }
    }
    // What was never seen needs a service still.
    let spec = PlatformSpec {
        ppid: [9; 16],
        certification: Certification::EncryptedPpid3072,
        ..PlatformSpec::from_seed(b"stored collateral")
    };
    let stranger = Cvm::builder(&Platform::new(&spec)).build();
    assert!(admits(&node.start(NOBODY).await, &stranger, 0).await.unwrap_err().is_unavailable());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_chain_that_is_revoked_admits_nobody() {
    let platforms = by_ppid();
    let node = Node::new(&platforms[0]);
    let pccs = PccsServer::start(&platforms[0]).await.unwrap();
    pccs.publish(&numbered(17, 20));
    let cvm = Cvm::builder(&platforms[0]).build();
    admits(&node.start(&pccs.url()).await, &cvm, 0).await.unwrap();
    admits(&node.start(NOBODY).await, &cvm, 1).await.unwrap();
    // The CRL decides, not that the chain was good once.
    let revoked = CollateralSpec { revoked: vec![Revocation::Pck], ..numbered(18, 20) };
    node.keep(&platforms[..1], &revoked).await;
    let error = admits(&node.start(NOBODY).await, &cvm, 2).await.unwrap_err();
    assert!(!error.is_unavailable(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_chain_stops_no_start_and_is_fetched_again() {
    let platforms = by_ppid();
    let node = Node::new(&platforms[0]);
    let pccs = PccsServer::start(&platforms[0]).await.unwrap();
    pccs.publish(&numbered(17, 20));
    let cvm = Cvm::builder(&platforms[0]).build();
    admits(&node.start(&pccs.url()).await, &cvm, 0).await.unwrap();
    let file = chain_files(&node).remove(0);
    let content = fs::read(&file).unwrap();
    let mut refused = 0;
    for at in 0..content.len() {
        let mut changed = content.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(&file, changed).unwrap();
        let cache = CollateralCache::new(&[NOBODY], &node.anchors, node.options()).unwrap();
        cache.load_stored_now();
        refused += usize::from(!cache.stats().stored.refused.is_empty());
        if at % 97 == 0 {
            // Refused or, if only white space changed, the same chain: either way the service helps.
            admits(&node.start(&pccs.url()).await, &cvm, 1).await.unwrap();
        }
    }
    assert!(refused > content.len() * 9 / 10, "{refused} of {}", content.len());
    for changed in [b"".as_slice(), &content[..100], &[0xff; 100], &vec![b' '; 40 << 10]] {
        fs::write(&file, changed).unwrap();
        let verifier = node.start(NOBODY).await;
        assert_eq!(problems(&verifier).len(), 1);
        assert!(admits(&verifier, &cvm, 2).await.unwrap_err().is_unavailable());
    }
    // A chain of another root.
    let other = Platform::new(&PlatformSpec {
        certification: Certification::EncryptedPpid2048,
        ..PlatformSpec::from_seed(b"another root")
    });
    fs::write(&file, other.pck_chain_pem()).unwrap();
    let problem = problems(&node.start(NOBODY).await);
    assert!(matches!(problem[..], [StoredProblem::Refused(FetchFailure::Untrusted(_))]), "{problem:?}");
}
