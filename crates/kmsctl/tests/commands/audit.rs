//! `kmsctl audit`: logs that hold are verified, and each thing that can be wrong with one is found.

mod export;
mod log;
mod watch;

use kms_ledger::Hash;
use kms_ledger::checkpoint::Checkpoint;
use kms_ledger::proof_file::ProofFile;
use serde_json::Value;

use self::log::{FakeLog, LogServer, entry};
use crate::support::{Desk, Ran, RootKey};

/// Runs `kmsctl audit verify` with the right root key.
async fn verify(desk: &Desk, server: &LogServer, more: &[&str]) -> Ran {
    let (url, root) = (server.url(), RootKey::new(7).public().to_string());
    desk.run(&[&["audit", "verify", &url, "--k256-pubkey", &root], more].concat()).await
}

#[track_caller]
fn finds(ran: Ran, text: &str) {
    ran.expect(4).says(text);
}

#[tokio::test]
async fn a_log_that_holds_is_verified_by_whatever_is_known_of_it() {
    let server = LogServer::start(FakeLog::of(600)).await;
    let desk = Desk::default();
    desk.write("root.pem", &server.server.authority.root_pem);
    let (url, key) = (server.url(), server.log().key_text());
    let root = RootKey::new(7).public().to_string();
    for options in [["--k256-pubkey", &root], ["--root-ca", "root.pem"], ["--log-key", &key]] {
        let arguments = [&["audit", "verify", &url, "--json"], &options[..]].concat();
        let report = desk.run(&arguments).await.expect(0).json();
        assert_eq!((&report["size"], &report["leaves"]), (&600.into(), &600.into()), "{options:?}");
        assert_eq!(report["log_key"], key);
        let open = report["not_verified"].as_array().expect("a list");
        assert_eq!(open.len(), 3, "no pin, no witness, no entries: {open:?}");
    }
    let ran = desk.run(&["audit", "verify", &url]).await.expect(4);
    assert!(ran.err.contains("--k256-pubkey"), "{}", ran.err);

    verify(&desk, &server, &["--save-checkpoint", "early"]).await.expect(0);
    for size in [601, 1024, 70_000] {
        server.set(FakeLog::of(size));
        let ran = verify(&desk, &server, &["--pin", "early", "--quick"]).await.expect(0);
        assert!(ran.out.contains("the log begins with its 600 leaves"), "{}", ran.out);
    }
    verify(&desk, &server, &[]).await.expect(0);
    // Whoever kept a checkpoint needs no key: the one that signed it is the log's.
    desk.run(&["audit", "verify", &url, "--pin", "early", "--quick"]).await.expect(0);
}

#[tokio::test]
async fn another_key_is_never_believed() {
    let server = LogServer::start(FakeLog::of(10)).await;
    let desk = Desk::default();
    let url = server.url();
    let (own, other) = (RootKey::new(7).public().to_string(), RootKey::new(8).public().to_string());
    let foreign = FakeLog::of(10).with_seed(9).key_text();
    finds(desk.run(&["audit", "verify", &url, "--k256-pubkey", &other]).await, "is signed by");
    finds(desk.run(&["audit", "verify", &url, "--log-key", &foreign]).await, "another log");
    desk.write("pin", FakeLog::of(5).with_seed(9).note());
    finds(desk.run(&["audit", "verify", &url, "--pin", "pin"]).await, "--pin");
    server.alter(|log| log.signs_with = 9);
    finds(desk.run(&["audit", "verify", &url, "--k256-pubkey", &own]).await, "its checkpoint");
    server.alter(|log| (log.signs_with, log.vouched_by) = (1, 8));
    finds(desk.run(&["audit", "verify", &url, "--k256-pubkey", &own]).await, "is signed by");
    let key = server.log().key_text();
    finds(desk.run(&["audit", "verify", &url, "--log-key", &key]).await, "than the root key of the KMS");
}

#[tokio::test]
async fn a_new_key_of_the_log_is_followed_from_what_was_kept_under_the_key_before() {
    let desk = Desk::default();
    desk.write("pin", FakeLog::of(300).note());
    desk.write("receipt", receipt(&FakeLog::of(300), 17).to_string());
    let good = FakeLog::of(400).renewed();
    let server = LogServer::start(good.clone()).await;
    desk.write("root.pem", &server.server.authority.root_pem);
    let (url, first_key) = (server.url(), FakeLog::of(1).key_text());
    let [old, new, other] = [7, 8, 9].map(|seed| RootKey::new(seed).public().to_string());
    let run = async |more: &[&str]| {
        desk.run(&[&["audit", "verify", &url, "--quick", "--json"], more].concat()).await
    };
    let kept = ["--pin", "pin", "--receipt", "receipt"];
    let by_new = [&kept[..], &["--k256-pubkey", &new]].concat();
    let report = run(&by_new).await.expect(0).json();
    assert_eq!(report["earlier_log_keys"], serde_json::json!([first_key]));
    assert_eq!(report["pin"]["size"], 300);
    run(&[&kept[..], &["--root-ca", "root.pem"]].concat()).await.expect(0);
    run(&["--log-key", &first_key, "--k256-pubkey", &new]).await.expect(0);
    // Who pinned the old root follows only if it has stated the new one.
    let by_old = [&kept[..], &["--k256-pubkey", &old]].concat();
    finds(run(&by_old).await, "not by --k256-pubkey");
    server.alter(|log| log.stated_by = Some(7));
    let report = run(&by_old).await.expect(0).json();
    assert_eq!(report["log_key_believed_because"], "signed by a root key that --k256-pubkey states");
    run(&["--log-key", &first_key, "--k256-pubkey", &old]).await.expect(0);
    finds(run(&["--k256-pubkey", &other]).await, "not by --k256-pubkey");
    server.alter(|log| log.stated_by = Some(9));
    finds(run(&by_old).await, "to which the known root key does not lead");

    // A root key of somebody else can vouch for the same: without a known one nothing is believed.
    finds(run(&["--pin", "pin"]).await, "name the root key that vouches for that");
    finds(run(&["--log-key", &first_key]).await, "name the root key that says so");
    // What the root keys do not vouch for is another log, and a fork is one under any key.
    for endorsed_by in [None, Some(9)] {
        server.alter(|log| log.changes[0].endorsed_by = endorsed_by);
        finds(run(&["--pin", "pin", "--k256-pubkey", &new]).await, "--pin");
        finds(run(&["--receipt", "receipt", "--k256-pubkey", &new]).await, "the receipt");
        finds(run(&["--log-key", &first_key, "--k256-pubkey", &new]).await, "another log");
    }
    server.set(FakeLog::of(400).with_other(200).renewed());
    finds(run(&["--pin", "pin", "--k256-pubkey", &new]).await, "it was forked");
    server.set(FakeLog::of(299).renewed());
    finds(run(&["--pin", "pin", "--k256-pubkey", &new]).await, "the log has 299 leaves and had 300");
}

#[tokio::test]
async fn every_altered_tile_is_found() {
    let server = LogServer::start(FakeLog::of(70_000)).await;
    let desk = Desk::default();
    for (path, place) in [
        ("tile/0/000", 0),
        ("tile/0/000", 8191),
        ("tile/0/100", 77),
        ("tile/0/273.p/112", 3583),
        ("tile/1/000", 4000),
        ("tile/1/001.p/17", 0),
        ("tile/2/000.p/1", 31),
    ] {
        server.alter(|log| log.altered = Some((path.to_owned(), place)));
        finds(verify(&desk, &server, &[]).await, "altered");
    }
    server.alter(|log| (log.altered, log.missing) = (None, Some("tile/0/200".to_owned())));
    finds(verify(&desk, &server, &[]).await, "tile/0/200 is not served");
}

#[tokio::test]
async fn forks_and_rolled_back_logs_are_told_from_altered_tiles() {
    let server = LogServer::start(FakeLog::of(1000)).await;
    let desk = Desk::default();
    for size in [1, 255, 256, 700, 1000] {
        desk.write("pin", FakeLog::of(size).with_other(size - 1).note());
        finds(verify(&desk, &server, &["--pin", "pin"]).await, "it was forked");
        desk.write("pin", FakeLog::of(size).note());
        verify(&desk, &server, &["--pin", "pin", "--quick"]).await.expect(0);
    }
    desk.write("pin", FakeLog::of(1001).note());
    finds(verify(&desk, &server, &["--pin", "pin"]).await, "the log has 1000 leaves and had 1001");
    desk.write("pin", FakeLog::of(300).note());
    server.alter(|log| log.altered = Some(("tile/0/001".to_owned(), 44 * 32)));
    finds(verify(&desk, &server, &["--pin", "pin", "--quick"]).await, "at least one was altered");
}

/// A receipt for leaf `index` of a log.
fn receipt(log: &FakeLog, index: u64) -> ProofFile {
    let (extra, proof) = (Some(log.entry(index).to_vec()), log.prove(index));
    ProofFile { extra, index: index.try_into().expect("an index"), proof, checkpoint: log.note() }
}

#[tokio::test]
async fn a_receipt_is_verified_in_the_log_as_it_is_now() {
    let server = LogServer::start(FakeLog::of(900)).await;
    let desk = Desk::default();
    let written = |name: &str, proof: &ProofFile| desk.write(name, proof.to_string());
    written("good", &receipt(&FakeLog::of(400), 399));
    let ran = verify(&desk, &server, &["--receipt", "good", "--quick"]).await.expect(0);
    assert!(ran.out.contains("its record is leaf 399"), "{}", ran.out);
    for (name, proof, text) in [
        ("another log", receipt(&FakeLog::of(400).with_seed(9), 399), "the receipt"),
        ("a fork", receipt(&FakeLog::of(400).with_other(399), 399), "it was forked"),
        ("newer", receipt(&FakeLog::of(901), 5), "the log has 900 leaves and had 901"),
        (
            "another record",
            ProofFile { extra: Some(entry(5, b"")), ..receipt(&FakeLog::of(400), 399) },
            "another root",
        ),
        ("no record", ProofFile { extra: None, ..receipt(&FakeLog::of(400), 399) }, "without its record"),
    ] {
        written("bad", &proof);
        let ran = verify(&desk, &server, &["--receipt", "bad", "--quick"]).await;
        assert!(ran.code == 4 && ran.err.contains(text), "{name}: {}", ran.err);
    }
    desk.write("bad", "no proof");
    verify(&desk, &server, &["--receipt", "bad"]).await.expect(2);
}

#[tokio::test]
async fn with_a_credential_every_record_is_read() {
    let server = LogServer::start(FakeLog::of(520)).await;
    let desk =
        Desk::default().with("KMS_ADMIN_TOKEN", "operators-token").with("KMS_ADMIN_URL", &server.url());
    desk.write("root.pem", &server.server.authority.root_pem);
    let read_with = async |more: &[&str]| {
        let url = server.url();
        let arguments = ["audit", "verify", &url, "--root-ca", "root.pem", "--entries", "--json"];
        desk.run(&[&arguments, more].concat()).await
    };
    let read = async || read_with(&[]).await;
    let report: Value = read().await.expect(0).json();
    assert_eq!((&report["entries"], &report["leaves"]), (&520.into(), &520.into()));
    for (alter, text) in [
        (
            (|log| log.rewritten = Some(300)) as fn(&mut FakeLog),
            "entry 44 of the bundle is not the one in the tree",
        ),
        (|log| *log = FakeLog::of(520).with_broken_chain(300), "the record of leaf 300 does not follow"),
        (
            |log| *log = FakeLog { missing: Some("tile/0/002.p/8".to_owned()), ..FakeLog::of(520) },
            "is not served",
        ),
    ] {
        server.alter(alter);
        finds(read().await, text);
    }
    // Moved away: their hashes still lead to the root, and the report says so.
    server.set(FakeLog { missing: Some("tile/entries/000".to_owned()), ..FakeLog::of(520) });
    for (option, code) in [(&[][..], 4), (&["--entries-may-be-archived"], 0)] {
        let report: Value = read_with(option).await.expect(code).json();
        assert_eq!(report["entries"], 264);
        assert!(report["not_verified"].to_string().contains("what 256 records say"), "{report}");
    }
    let stranger = desk.with("KMS_ADMIN_TOKEN", "another");
    let ran = stranger.run(&["audit", "verify", &server.url(), "--root-ca", "root.pem", "--entries"]).await;
    assert!(ran.code == 3 || ran.code == 1, "{}", ran.err);
}

#[tokio::test]
async fn a_server_that_sends_too_much_or_nonsense_is_given_up() {
    let server = LogServer::start(FakeLog::of(300)).await;
    let desk = Desk::default();
    for (path, content, code) in [
        ("checkpoint", vec![b'x'; 2 << 20], 1),
        ("checkpoint", b"no note".to_vec(), 4),
        ("tile/0/000", vec![0; 1 << 20], 1),
        ("tile/0/000", vec![0; 8191], 4),
        ("tile/0/001.p/44", Vec::new(), 4),
    ] {
        server.alter(|log| log.instead = Some((path.to_owned(), content)));
        verify(&desk, &server, &[]).await.expect(code);
    }
    let padding = format!("— witness.example {}\n", "A".repeat(400)).repeat(50);
    let padded = format!("{}{padding}", server.log().note());
    server.alter(|log| log.instead = Some(("checkpoint".to_owned(), padded.into_bytes())));
    verify(&desk, &server, &[]).await.expect(1);
    // The origin is that of whom nobody knows, and is printed.
    let foreign = server.log().note().replace("kms.example", "evil\u{202e}\u{9b}31mx");
    server.alter(|log| log.instead = Some(("checkpoint".to_owned(), foreign.into_bytes())));
    let ran = verify(&desk, &server, &[]).await.expect(4);
    assert!(!ran.err.contains(['\u{202e}', '\u{9b}']), "{:?}", ran.err);
    let checkpoint = Checkpoint::new(
        server.log().origin(),
        i64::MAX.cast_unsigned().try_into().expect("a size"),
        Hash::EMPTY_ROOT,
    );
    let note = server.log().sign(&checkpoint);
    server.alter(|log| log.instead = Some(("checkpoint".to_owned(), note.into_bytes())));
    verify(&desk, &server, &[]).await.expect(4);
}
