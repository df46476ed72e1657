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
            if ["fork", "shrunk"].contains(&kind) {
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
    look(&other, &[&server], 0, &[]).await;
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
