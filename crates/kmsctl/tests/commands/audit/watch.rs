//! `kmsctl audit watch`: what is kept between looks, and what is an alarm.

use serde_json::Value;

use super::log::{FakeLog, LogServer};
use crate::support::{Desk, RootKey};

/// Looks once at these URLs; the exit code must be `code`.
async fn look(desk: &Desk, servers: &[&LogServer], code: i32, more: &[&str]) -> Value {
    let root = RootKey::new(7).public().to_string();
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let options = ["--once", "--json", "--state", "state.json", "--k256-pubkey", &root];
    desk.run(&[&["audit", "watch"], &urls[..], &options, more].concat()).await.expect(code).json()
}

fn standing(report: &Value) -> &str {
    report["logs"][0]["standing"].as_str().expect("a standing")
}

fn alarm(report: &Value) -> &str {
    report["alarms"][0]["kind"].as_str().unwrap_or_else(|| panic!("no alarm: {report}"))
}

#[tokio::test]
async fn a_log_that_only_grows_is_followed_from_look_to_look() {
    let server = LogServer::start(FakeLog::of(100)).await;
    let desk = Desk::default();
    assert_eq!(standing(&look(&desk, &[&server], 0, &[]).await), "first");
    assert_eq!(standing(&look(&desk, &[&server], 0, &[]).await), "same");
    for size in [101, 256, 257, 1000] {
        let before = server.log().size().get();
        server.set(FakeLog::of(size));
        let report = look(&desk, &[&server], 0, &[]).await;
        assert_eq!((standing(&report), &report["logs"][0]["grown"]), ("grown", &(size - before).into()));
    }
    assert_eq!(
        desk.read("state.json").matches("kms.example").count(),
        3,
        "key, origin and signature of one log"
    );
}

#[tokio::test]
async fn whatever_is_wrong_is_an_alarm_until_it_is_right_again() {
    let server = LogServer::start(FakeLog::of(700)).await;
    let desk = Desk::default();
    look(&desk, &[&server], 0, &[]).await;
    let kept = desk.read("state.json");
    let good = FakeLog::of(800);
    for (kind, log) in [
        ("fork", FakeLog::of(700).with_other(650)),
        ("fork", FakeLog::of(900).with_other(10)),
        ("shrunk", FakeLog::of(699)),
        ("altered", FakeLog { altered: Some(("tile/0/003.p/32".to_owned(), 9)), ..good.clone() }),
        ("altered", FakeLog { missing: Some("tile/0/003.p/32".to_owned()), ..good.clone() }),
        ("signature", FakeLog { signs_with: 9, ..good.clone() }),
        ("key", good.clone().with_seed(9)),
        ("key", FakeLog { vouched_by: 8, ..good.clone() }),
    ] {
        server.set(log);
        for _ in 0..2 {
            let report = look(&desk, &[&server], 4, &[]).await;
            assert_eq!((alarm(&report), standing(&report)), (kind, "alarm"), "{report}");
            let evidence = report["alarms"][0]["evidence"].as_array().expect("a list");
            if ["fork", "shrunk", "altered"].contains(&kind) {
                let notes: Vec<String> =
                    evidence.iter().map(|file| desk.read(file.as_str().expect("a name"))).collect();
                assert_eq!(notes, [FakeLog::of(700).note(), server.log().note()]);
            } else {
                assert!(evidence.is_empty());
            }
        }
        assert_eq!(desk.read("state.json"), kept, "what is wrong is not kept: {kind}");
    }
    server.set(good);
    assert_eq!(standing(&look(&desk, &[&server], 0, &[]).await), "grown");
}

#[tokio::test]
async fn an_earlier_leaf_that_was_rewritten_is_found_by_spot_checks() {
    let server = LogServer::start(FakeLog::of(256)).await;
    let desk = Desk::default();
    look(&desk, &[&server], 0, &[]).await;
    // The edge of the tree is read from level 1: only a spot check looks at this tile.
    server.alter(|log| log.altered = Some(("tile/0/000".to_owned(), 100)));
    look(&desk, &[&server], 0, &["--spot-checks", "0"]).await;
    assert_eq!(alarm(&look(&desk, &[&server], 4, &["--spot-checks", "1"]).await), "altered");
}

#[tokio::test]
async fn another_log_of_the_same_root_key_can_be_accepted() {
    let server = LogServer::start(FakeLog::of(10)).await;
    let desk = Desk::default();
    look(&desk, &[&server], 0, &[]).await;
    server.set(FakeLog::of(20).with_seed(9));
    let report = look(&desk, &[&server], 4, &[]).await;
    assert!(report["alarms"][0]["problem"].as_str().expect("text").contains("--accept-new"), "{report}");
    assert_eq!(standing(&look(&desk, &[&server], 0, &["--accept-new"]).await), "first");
    // From now on both are known, as behind a balancer.
    // The one that was replaced need not be shown any more.
    let state: Value = serde_json::from_str(&desk.read("state.json")).expect("JSON");
    let seen = state["views"][0]["seen_at"].as_u64().expect("a time");
    desk.write("state.json", state.to_string().replace(&seen.to_string(), &(seen - 7200).to_string()));
    look(&desk, &[&server], 0, &[]).await;
    for log in [FakeLog::of(11), FakeLog::of(21).with_seed(9)] {
        server.set(log);
        assert_eq!(standing(&look(&desk, &[&server], 0, &[]).await), "grown");
    }
    server.set(FakeLog::of(10));
    assert_eq!(alarm(&look(&desk, &[&server], 4, &[]).await), "shrunk");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_an_alarm_only_after_a_while() {
    let server = LogServer::start(FakeLog::of(10)).await;
    let desk = Desk::default();
    look(&desk, &[&server], 0, &[]).await;
    let state = desk.read("state.json");
    server.alter(|log| log.missing = Some("checkpoint".to_owned()));
    let report = look(&desk, &[&server], 1, &[]).await;
    assert_eq!((standing(&report), report["alarms"].as_array().map(Vec::len)), ("unreachable", Some(0)));
    let seen: Value = serde_json::from_str(&state).expect("JSON");
    let seen = seen["views"][0]["seen_at"].as_u64().expect("a time");
    let earlier = |seconds: u64| state.replace(&seen.to_string(), &(seen - seconds).to_string());
    desk.write("state.json", earlier(7200));
    assert_eq!(alarm(&look(&desk, &[&server], 4, &[]).await), "stopped");
    look(&desk, &[&server], 1, &["--stopped-after", "3h"]).await;
    server.alter(|log| log.missing = None);
    assert_eq!(alarm(&look(&desk, &[&server], 4, &["--grows-within", "1h"]).await), "quiet");
    server.set(FakeLog::of(11));
    look(&desk, &[&server], 0, &["--grows-within", "1h"]).await;
}

#[tokio::test]
async fn what_several_urls_show_of_one_log_is_compared() {
    let (server, mirror) =
        (LogServer::start(FakeLog::of(500)).await, LogServer::start(FakeLog::of(450)).await);
    let desk = Desk::default();
    for _ in 0..2 {
        look(&desk, &[&server, &mirror], 0, &[]).await;
    }
    mirror.set(FakeLog::of(520));
    look(&desk, &[&server, &mirror], 0, &[]).await;
    // Each of them only grows, and still they are two histories.
    let other = Desk::default();
    mirror.set(FakeLog::of(510).with_other(505));
    look(&other, &[&mirror], 0, &[]).await;
    // What the other URL has shown is larger, and may be the only true history.
    let report = look(&other, &[&server], 4, &[]).await;
    assert_eq!(
        (alarm(&report), report["alarms"][0]["evidence"].as_array().map(Vec::len)),
        ("shrunk", Some(2))
    );
    assert!(!other.read("state.json").contains(&server.url()), "it is not kept");
    server.set(FakeLog::of(510));
    for servers in [[&server, &mirror], [&mirror, &server]] {
        let report = look(&other, &servers, 4, &[]).await;
        assert_eq!(alarm(&report), "fork");
        assert_eq!(report["alarms"][0]["evidence"].as_array().map(Vec::len), Some(2));
    }
}

#[tokio::test]
async fn a_damaged_state_is_never_overwritten() {
    let server = LogServer::start(FakeLog::of(10)).await;
    let desk = Desk::default();
    look(&desk, &[&server], 0, &[]).await;
    let state = desk.read("state.json");
    for damaged in
        [state.replacen("\\n10\\n", "\\n11\\n", 1), state[..state.len() / 2].to_owned(), String::new()]
    {
        assert_ne!(damaged, state);
        desk.write("state.json", &damaged);
        let report = look(&desk, &[&server], 2, &[]).await;
        assert!(report["error"].as_str().expect("text").contains("is damaged"), "{report}");
        assert_eq!(desk.read("state.json"), damaged);
    }
}

/// As [`look`], with nothing that says whose the log is but what was kept.
async fn look_unpinned(desk: &Desk, server: &LogServer, code: i32, more: &[&str]) -> Value {
    let url = server.url();
    let arguments = ["audit", "watch", &url, "--once", "--json", "--state", "state.json"];
    desk.run(&[&arguments, more].concat()).await.expect(code).json()
}

#[tokio::test]
async fn a_first_look_needs_something_that_says_whose_the_log_is() {
    let server = LogServer::start(FakeLog::of(10)).await;
    let desk = Desk::default();
    let report = look_unpinned(&desk, &server, 2, &[]).await;
    let error = report["error"].as_str().expect("text");
    for option in ["--k256-pubkey", "--root-ca", "--log-key"] {
        assert!(error.contains(option), "{error}");
    }
    assert!(report["alarms"].is_null(), "{report}");
    let other = RootKey::new(8).public().to_string();
    assert_eq!(alarm(&look_unpinned(&desk, &server, 4, &["--k256-pubkey", &other]).await), "key");
    let foreign = LogServer::start(FakeLog::of(10)).await;
    desk.write("foreign.pem", &foreign.server.authority.root_pem);
    assert_eq!(alarm(&look_unpinned(&desk, &server, 4, &["--root-ca", "foreign.pem"]).await), "key");
    look(&desk, &[&server], 0, &[]).await;
    assert_eq!(standing(&look_unpinned(&desk, &server, 0, &[]).await), "same");
}

#[tokio::test]
async fn a_server_in_between_cannot_replace_the_root_key_that_is_kept() {
    let server = LogServer::start(FakeLog::of(10)).await;
    let desk = Desk::default();
    look(&desk, &[&server], 0, &[]).await;
    assert_eq!(standing(&look_unpinned(&desk, &server, 0, &[]).await), "same");
    let kept = desk.read("state.json");
    assert!(kept.contains(&RootKey::new(7).public().to_string()), "{kept}");
    let foreign = FakeLog { vouched_by: 8, root: 8, ..FakeLog::of(10) };
    for log in [foreign.clone(), foreign.with_seed(9)] {
        server.set(log);
        for more in [&[][..], &["--accept-new"]] {
            assert_eq!(alarm(&look_unpinned(&desk, &server, 4, more).await), "key");
        }
    }
    assert_eq!(desk.read("state.json"), kept);
    // A log that was known by its key only has no root key, whatever is shown.
    let other = Desk::default();
    let key = FakeLog::of(10).key_text();
    server.set(FakeLog { vouched_by: 8, root: 8, ..FakeLog::of(10) });
    look_unpinned(&other, &server, 0, &["--log-key", &key]).await;
    assert!(other.read("state.json").contains("\"root_key\": null"));
    server.set(FakeLog::of(10));
    look(&other, &[&server], 0, &[]).await;
    assert!(other.read("state.json").contains(&RootKey::new(7).public().to_string()));
}

#[tokio::test]
async fn an_old_copy_of_what_another_url_has_shown_is_not_called_good() {
    let (server, copy) = (LogServer::start(FakeLog::of(510)).await, LogServer::start(FakeLog::of(500)).await);
    let desk = Desk::default();
    look(&desk, &[&server], 0, &[]).await;
    // It has the tiles that prove it.
    let behind = Some(("checkpoint".to_owned(), FakeLog::of(500).note().into_bytes()));
    copy.set(FakeLog { instead: behind, ..FakeLog::of(510) });
    let report = look(&desk, &[&copy], 1, &[]).await;
    assert!(report["logs"][0]["warnings"].to_string().contains("the first 500 of 510 leaves"), "{report}");
    copy.set(FakeLog::of(500));
    assert_eq!(alarm(&look(&desk, &[&copy], 4, &[]).await), "shrunk");
    // As long as the other one is shown too, it is only late.
    look(&desk, &[&copy, &server], 0, &[]).await;
}

#[tokio::test]
async fn signatures_of_others_are_not_kept() {
    let server = LogServer::start(FakeLog::of(10)).await;
    let desk = Desk::default();
    let padded = format!("{}{}", server.log().note(), "— witness.example AAAAAAAA\n".repeat(90));
    server.alter(|log| log.instead = Some(("checkpoint".to_owned(), padded.into_bytes())));
    look(&desk, &[&server], 0, &[]).await;
    assert!(!desk.read("state.json").contains("witness.example"));
}

#[tokio::test]
async fn new_records_that_cannot_be_read_are_not_passed_over() {
    let server = LogServer::start(FakeLog::of(300)).await;
    let desk =
        Desk::default().with("KMS_ADMIN_TOKEN", "operators-token").with("KMS_ADMIN_URL", &server.url());
    desk.write("root.pem", &server.server.authority.root_pem);
    let read =
        async |code: i32| look_unpinned(&desk, &server, code, &["--entries", "--root-ca", "root.pem"]).await;
    read(0).await;
    server.set(FakeLog { missing: Some("tile/entries/001.p/64".to_owned()), ..FakeLog::of(320) });
    let report = read(1).await;
    assert!(report["logs"][0]["warnings"].to_string().contains("records of 64 leaves"), "{report}");
}

#[tokio::test]
async fn a_large_log_is_verified_in_several_looks() {
    let server = LogServer::start(FakeLog::of(140_000)).await;
    let desk = Desk::default();
    let report = look(&desk, &[&server], 1, &[]).await;
    assert!(
        report["logs"][0]["warnings"].to_string().contains("8928 leaves are not verified yet"),
        "{report}"
    );
    // In what is left.
    server.alter(|log| log.altered = Some(("tile/0/520".to_owned(), 5)));
    assert_eq!(alarm(&look(&desk, &[&server], 4, &["--spot-checks", "0"]).await), "altered");
    server.alter(|log| log.altered = None);
    assert_eq!(standing(&look(&desk, &[&server], 0, &[]).await), "same");
    assert!(!desk.read("state.json").contains("checked"));
}

#[tokio::test]
async fn an_alarm_wins_over_a_url_that_cannot_be_looked_at() {
    let server = LogServer::start(FakeLog::of(10)).await;
    let desk = Desk::default();
    desk.write("root.pem", &server.server.authority.root_pem);
    look_unpinned(&desk, &server, 0, &["--root-ca", "root.pem"]).await;
    server.set(FakeLog::of(9));
    // Of plain http a root CA says nothing: wrong usage.
    let plain = ["http://127.0.0.1:1", "--root-ca", "root.pem"];
    assert_eq!(alarm(&look_unpinned(&desk, &server, 4, &plain).await), "shrunk");
    server.set(FakeLog::of(10));
    look_unpinned(&desk, &server, 2, &plain).await;
}

/// Looks once without knowing more than what was kept.
async fn look_again(desk: &Desk, servers: &[&LogServer], code: i32) -> Value {
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let options = ["--once", "--json", "--state", "state.json"];
    desk.run(&[&["audit", "watch"], &urls[..], &options].concat()).await.expect(code).json()
}

#[tokio::test]
async fn a_log_goes_on_under_a_new_key_that_the_kept_root_key_vouches_for() {
    let server = LogServer::start(FakeLog::of(300)).await;
    let desk = Desk::default();
    look(&desk, &[&server], 0, &[]).await;
    let kept = desk.read("state.json");
    let good = FakeLog::of(400).renewed();
    let unvouched = |endorsed_by| {
        let mut log = good.clone();
        log.changes[0].endorsed_by = endorsed_by;
        log
    };
    let mut foreign = good.clone();
    foreign.changes[0].from.1 = 9;
    foreign.changes[0].endorsed_by = Some(9);
    for (kind, log) in [
        ("key", unvouched(None)),
        ("key", unvouched(Some(9))),
        ("key", foreign),
        ("key", FakeLog { changes: Vec::new(), ..good.clone() }),
        ("fork", FakeLog::of(400).with_other(200).renewed()),
        ("shrunk", FakeLog::of(299).renewed()),
        ("signature", FakeLog { signs_with: 1, ..good.clone() }),
    ] {
        server.set(log);
        assert_eq!(alarm(&look_again(&desk, &[&server], 4).await), kind);
        assert_eq!(desk.read("state.json"), kept, "what is wrong is not kept: {kind}");
    }
    server.set(good.clone());
    let report = look_again(&desk, &[&server], 0).await;
    assert_eq!((standing(&report), &report["logs"][0]["grown"]), ("grown", &100.into()));
    assert_eq!(standing(&look_again(&desk, &[&server], 0).await), "same");
    // The key before is not shown any more, and nobody waits for it; shown again, it is an alarm.
    assert!(desk.read("state.json").contains("\"replaced\": true"));
    server.set(FakeLog::of(300).with_other(10));
    assert_eq!(alarm(&look_again(&desk, &[&server], 4).await), "fork");
    // Whoever gets the old key later can sign what fits it.
    let kept = desk.read("state.json");
    for size in [300, 350, 450] {
        server.set(FakeLog::of(size));
        for _ in 0..2 {
            assert_eq!(alarm(&look_again(&desk, &[&server], 4).await), "key", "{size}");
            assert_eq!(desk.read("state.json"), kept, "nothing of it is kept");
        }
    }
    server.set(good);
    assert_eq!(standing(&look_again(&desk, &[&server], 0).await), "same");
}

#[tokio::test]
async fn a_copy_under_the_key_before_is_the_beginning_of_the_log_or_an_alarm() {
    let (server, copy) = (LogServer::start(FakeLog::of(300)).await, LogServer::start(FakeLog::of(250)).await);
    let desk = Desk::default();
    look(&desk, &[&server, &copy], 0, &[]).await;
    server.set(FakeLog::of(400).renewed());
    let report = look_again(&desk, &[&server, &copy], 0).await;
    assert_eq!(report["alarms"], serde_json::json!([]));
    let kept = desk.read("state.json");
    for (kind, log) in [("shrunk", FakeLog::of(401)), ("fork", FakeLog::of(350).with_other(320))] {
        // What the copy has signed stays known, so each case begins with the same state.
        desk.write("state.json", &kept);
        copy.set(log);
        assert_eq!(alarm(&look_again(&desk, &[&server, &copy], 4).await), kind);
    }
}
