use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::audit::Event;
use crate::config::Config;

const SECRET: &str = "a secret of some bytes";

/// The reaction of a receiver.
#[derive(Debug, Clone, Copy)]
enum Reply {
    Status(u16),
    Redirect,
    /// This status for the notification of the record with this number, and 200 for others.
    StatusOf(u16, u64),
    /// 200 with a body that does not end.
    Endless,
    /// No response.
    Silence,
}

/// A receiver on loopback that verifies each signature.
struct Receiver {
    url: String,
    got: mpsc::Receiver<Value>,
    _task: JoinSet<()>,
}

impl Receiver {
    /// Responds to the first requests as in the list, and to further ones like its last entry.
    async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (sender, got) = mpsc::sync_channel(1000);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut replies = replies.into_iter();
            let mut last = Reply::Silence;
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                last = replies.next().unwrap_or(last);
                tokio::spawn(serve(stream, last, sender.clone()));
            }
        });
        Self { url, got, _task: task }
    }

    /// The next body.
    async fn next(&mut self) -> Value {
        for _ in 0..1000 {
            match self.got.try_recv() {
                Ok(body) => return body,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("nothing came within ten seconds");
    }

    async fn nothing_comes(&mut self) {
        tokio::time::sleep(Duration::from_millis(600)).await;
        let got = self.got.recv_timeout(Duration::ZERO);
        assert_eq!(got, Err(RecvTimeoutError::Timeout));
    }
}

async fn serve(mut stream: TcpStream, reply: Reply, sender: mpsc::SyncSender<Value>) {
    let Some((head, body)) = request(&mut stream).await else { return };
    assert!(head.starts_with("POST /hook HTTP/1.1\r\n"), "{head}");
    let field = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {head}")).trim().to_owned()
    };
    let (id, timestamp) = (field("webhook-id:"), field("webhook-timestamp:"));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    assert_eq!(field("webhook-signature:"), format!("v1,{}", STANDARD.encode(signature)));
    assert_eq!(field("x-kms-key-id:"), "7e981261");
    assert!(timestamp.parse::<u64>().unwrap().abs_diff(crate::clock::unix_now()) < 60);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["id"], *id);
    let sequence = body["sequence"].as_u64().unwrap_or(0);
    let _ = sender.try_send(body);
    let reply = match reply {
        Reply::StatusOf(status, seq) => Reply::Status(if sequence == seq { status } else { 200 }),
        other => other,
    };
    let answer = match reply {
        Reply::Status(status) | Reply::StatusOf(status, _) => {
            format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        }
        Reply::Redirect => "HTTP/1.1 307 x\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n".to_owned(),
        Reply::Endless => "HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
        Reply::Silence => return std::future::pending().await,
    };
    let _ = stream.write_all(answer.as_bytes()).await;
    if matches!(reply, Reply::Endless) {
        while stream.write_all(b"4\r\nxxxx\r\n").await.is_ok() {}
    }
    let _ = stream.shutdown().await;
}

async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8(bytes.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = format!("{head}\r\n");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            return Some((head, body.to_owned()));
        }
    }
}

struct World {
    directory: tempfile::TempDir,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let audit = Arc::new(Audit::open(&directory.path().join("audit.jsonl")).unwrap());
        Self { directory, audit, metrics: Arc::new(Metrics::new([])) }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self, entries: &[String]) -> Notifier {
        start(self.directory.path(), entries, &self.audit, &self.metrics)
    }

    async fn record(&self, event: Event) -> u64 {
        self.audit.record(event).await.unwrap().seq()
    }

    fn has(&self, metric: &str) -> bool {
        self.metrics.render().lines().any(|line| line == metric)
    }
}

fn start(directory: &Path, entries: &[String], audit: &Audit, metrics: &Arc<Metrics>) -> Notifier {
    let text: String = entries.iter().map(|entry| format!("[[core.notify]]\n{entry}\n")).collect();
    let (config, _) = Config::from_toml(&text).unwrap_or_else(|error| panic!("{error}"));
    let settings = Settings {
        log: directory.join("audit.jsonl"),
        memory: directory.join("notified.json"),
        storm: DenialStorm { count: 20, window: Duration::from_secs(3) },
    };
    let bounds = delivery::Bounds {
        connect: Duration::from_secs(1),
        total: Duration::from_millis(300),
        first_pause: Duration::from_millis(20),
        max_pause: Duration::from_millis(100),
        give_up: Duration::from_secs(2),
        max_refusals: 3,
        max_in_front: 3,
    };
    Notifier::within(settings, &config.core.notify, audit, metrics, "boot".to_owned(), bounds).unwrap()
}

fn entry(url: &str, more: &str) -> String {
    format!("url = '{url}'\nsecret = '{SECRET}'\n{more}")
}

fn frozen(value: &str) -> Event {
    Event::Frozen {
        scope: "app",
        value: value.to_owned(),
        reason: "stolen".to_owned(),
        expires_at: None,
        by: "token".to_owned(),
        remote: IpAddr::from([127, 0, 0, 1]),
    }
}

fn reported(message: &str) -> Event {
    Event::Reported { source: "pipe", message: message.to_owned(), by: None, remote: None }
}

#[tokio::test]
async fn an_event_arrives_signed_and_everyday_life_does_not() {
    let world = World::new();
    let mut receiver = Receiver::start(vec![Reply::Status(204)]).await;
    let notifier = world.start(&[entry(&receiver.url, "name = 'pager'")]);
    notifier.name_origin("kms.example/cvm-kms/ab");
    world.record(reported("nothing special")).await;
    let seq = world.record(frozen("aa")).await;
    let body = receiver.next().await;
    let line = std::fs::read_to_string(world.path("audit.jsonl")).unwrap();
    let record: Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
    let expected = serde_json::json!({
        "id": body["id"],
        "time": record["time"],
        "type": "frozen",
        "severity": "critical",
        "source": "kms",
        "message": "app aa was frozen by token from 127.0.0.1: stolen",
        "sequence": seq,
        "origin": "kms.example/cvm-kms/ab",
        "boot_id": "boot",
        "left_out": 0,
        "lost": 0,
    });
    assert_eq!(body, expected);
    receiver.nothing_comes().await;
    assert!(world.has(r#"cvm_kms_notifications_total{outcome="delivered",target="pager"} 1"#));
}

#[tokio::test]
async fn what_is_not_taken_is_sent_again_and_given_up_at_some_time() {
    let world = World::new();
    let mut receiver =
        Receiver::start(vec![Reply::Status(500), Reply::Redirect, Reply::Silence, Reply::Endless]).await;
    let _notifier = world.start(&[entry(&receiver.url, "")]);
    world.record(frozen("aa")).await;
    let first = receiver.next().await;
    for _ in 0..3 {
        assert_eq!(receiver.next().await, first, "the same id, and nothing else went to /other");
    }
    receiver.nothing_comes().await;
    assert!(world.has(r#"cvm_kms_notifications_total{outcome="delivered",target="0"} 1"#));
    assert!(world.has(r#"cvm_kms_notifications_total{outcome="failed",target="0"} 3"#));

    // It rejects the body: three attempts. The next notification says that one is lost.
    let replies = vec![Reply::Status(422), Reply::Status(422), Reply::Status(422), Reply::Status(200)];
    let (world, mut receiver) = (World::new(), Receiver::start(replies).await);
    let _notifier = world.start(&[entry(&receiver.url, "")]);
    world.record(frozen("aa")).await;
    world.record(frozen("bb")).await;
    for _ in 0..3 {
        assert_eq!(receiver.next().await["sequence"], 1);
    }
    let next = receiver.next().await;
    assert_eq!((&next["sequence"], &next["lost"]), (&2.into(), &1.into()));
    world.record(frozen("cc")).await;
    assert_eq!(receiver.next().await["lost"], 0, "it is told once");
}

#[tokio::test]
async fn one_body_that_is_refused_holds_up_no_others() {
    // 500, 403, 404 and 410 may pass and are tried until the end; 406 and 413 are about the body.
    for (status, is_given_up) in
        [(500, false), (403, false), (404, false), (410, false), (406, true), (413, true)]
    {
        let world = World::new();
        let mut receiver = Receiver::start(vec![Reply::StatusOf(status, 1)]).await;
        let _notifier = world.start(&[entry(&receiver.url, "")]);
        world.record(frozen("aa")).await;
        world.record(frozen("bb")).await;
        let mut before = 0;
        while receiver.next().await["sequence"] != 2 {
            before += 1;
        }
        assert_eq!(before, 3, "{status}");
        if is_given_up {
            receiver.nothing_comes().await;
            assert!(world.has(r#"cvm_kms_notifications_total{outcome="dropped",target="0"} 1"#), "{status}");
        } else {
            assert_eq!(receiver.next().await["sequence"], 1, "it is tried again");
            world.record(frozen("cc")).await;
            let begin = Instant::now();
            while receiver.next().await["sequence"] != 3 {
                assert!(begin.elapsed() < Duration::from_secs(1));
            }
        }
    }
}

#[tokio::test]
async fn a_dead_target_holds_up_neither_releases_nor_other_targets() {
    let world = World::new();
    let (silent, mut fine) =
        (Receiver::start(vec![Reply::Silence]).await, Receiver::start(vec![Reply::Status(200)]).await);
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/hook", listener.local_addr().unwrap())
    };
    let entries = [entry(&silent.url, ""), entry(&dead, ""), entry(&fine.url, "")];
    let _notifier = world.start(&entries);
    let begin = Instant::now();
    for count in 0..200 {
        world.record(frozen(&count.to_string())).await;
    }
    let took = begin.elapsed();
    for seq in 1..=200 {
        assert_eq!(fine.next().await["sequence"], seq, "in order, each once");
    }
    assert!(took < Duration::from_secs(5), "200 records took {took:?}");
}

#[tokio::test]
async fn a_storm_is_told_once_and_so_is_its_end() {
    let world = World::new();
    let mut receiver = Receiver::start(vec![Reply::Status(200)]).await;
    let _notifier = world.start(&[entry(&receiver.url, "min_severity = 'info'")]);
    let refused = || Event::CredentialsRefused {
        listener: "admin",
        shown: "token",
        remote: IpAddr::from([127, 0, 0, 1]),
    };
    for _ in 0..100 {
        world.metrics.denied("compose_hash_not_allowed");
        world.metrics.credentials_failed();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    futures_util::future::join_all((0..100).map(|_| world.record(refused()))).await;
    world.record(Event::Suppressed { events: 900, source: None }).await;
    let mut bodies = Vec::new();
    while bodies.last().is_none_or(|body: &Value| body["state"] != "resolved") {
        bodies.push(receiver.next().await);
    }
    let storm: Vec<_> = bodies.iter().filter(|body| body["type"] == "denial_storm").collect();
    let states: Vec<_> = storm.iter().map(|body| body["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["raised", "resolved"]);
    assert_eq!(storm[1]["message"], "over: 200 requests were refused, 20 or more within 3 s");
    assert_eq!(storm[1]["sequence"], Value::Null);
    assert_eq!(bodies.len(), 2, "single refusals are not told of: {bodies:?}");
    receiver.nothing_comes().await;
}

#[tokio::test]
async fn a_condition_that_no_record_can_tell_of_arrives() {
    let world = World::new();
    let mut receiver = Receiver::start(vec![Reply::Status(200)]).await;
    let notifier = world.start(&[entry(&receiver.url, "")]);
    notifier.look(Condition::LedgerContradicted, Some("a fork".to_owned()));
    let body = receiver.next().await;
    for (member, expected) in [
        ("type", "ledger_contradicted"),
        ("state", "raised"),
        ("severity", "critical"),
        ("message", "a fork"),
        ("source", "kms"),
    ] {
        assert_eq!(body[member], expected);
    }
}

#[tokio::test]
async fn a_platform_that_is_outdated_soon_and_collateral_that_expires_reach_a_receiver() {
    let world = World::new();
    let mut receiver = Receiver::start(vec![Reply::Status(200)]).await;
    let notifier = world.start(&[entry(&receiver.url, "")]);
    let begin = Instant::now();
    for (condition, kind) in [
        (Condition::PlatformOutdatedSoon, "platform_outdated_soon"),
        (Condition::CollateralExpires, "collateral_expires"),
    ] {
        let sentence = format!("{kind} in two days");
        notifier.shared.look(condition, Some(sentence.clone()), begin);
        notifier.shared.look(condition, Some(sentence.clone()), begin + Duration::from_secs(5));
        notifier.shared.look(condition, None, begin + Duration::from_secs(6));
        notifier.shared.look(condition, None, begin + Duration::from_secs(66));
        for (state, message) in [("raised", sentence.clone()), ("resolved", format!("over: {sentence}"))] {
            let body = receiver.next().await;
            let found = ["type", "state", "severity", "message"].map(|member| body[member].as_str().unwrap());
            assert_eq!(found, [kind, state, condition.severity().name(), &*message]);
        }
    }
}

#[tokio::test]
async fn the_time_of_a_storm_is_that_of_no_clock_that_can_be_set() {
    let world = World::new();
    let shared = Arc::new(Shared {
        targets: Vec::new(),
        conditions: Mutex::default(),
        sender: Sender::default(),
        is_in_storm: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
    });
    let storm = DenialStorm { count: 20, window: Duration::from_secs(3) };
    let progress = world.audit.progress();
    let mut watcher = Watcher::new(
        channel::Sender::new(storm).subscribe(),
        progress,
        Arc::clone(&shared),
        Arc::clone(&world.metrics),
    );
    let begin = Instant::now();
    let is_raging = || shared.is_in_storm.load(Ordering::Relaxed);
    for (second, refusals, expected) in
        [(1, 19, false), (5, 1, false), (6, 19, true), (8, 0, true), (11, 0, false)]
    {
        (0..refusals).for_each(|_| world.metrics.credentials_failed());
        watcher.count_refusals(begin + Duration::from_secs(second));
        assert_eq!(is_raging(), expected, "{second}");
    }
}

#[tokio::test]
async fn records_that_were_moved_away_before_a_restart_count_as_lost() {
    let world = World::new();
    let mut receiver = Receiver::start(vec![Reply::Status(200)]).await;
    let entries = [entry(&receiver.url, "name = 'pager'")];
    let notifier = world.start(&entries);
    world.record(frozen("aa")).await;
    assert_eq!(receiver.next().await["sequence"], 1);
    receiver.nothing_comes().await;
    drop(notifier);
    for value in ["bb", "cc", "dd"] {
        world.record(frozen(value)).await;
    }
    let path = world.path("audit.jsonl");
    let lines = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = lines.lines().collect();
    let progress = world.audit.progress();
    // The same log after its closed file with records 2 and 3 is gone.
    let rest = world.path("rest");
    std::fs::create_dir(&rest).unwrap();
    std::fs::write(rest.join("audit.jsonl"), lines[3].to_owned() + "\n").unwrap();
    while progress.acknowledged() < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    std::fs::copy(world.path("notified.json"), rest.join("notified.json")).unwrap();
    let _notifier = start(&rest, &entries, &world.audit, &world.metrics);
    let body = receiver.next().await;
    assert_eq!((&body["sequence"], &body["lost"]), (&4.into(), &2.into()));
}

#[tokio::test]
async fn nothing_is_lost_over_a_restart_and_nothing_is_told_twice() {
    let world = World::new();
    let mut receiver = Receiver::start(vec![Reply::Status(200)]).await;
    let entries = [entry(&receiver.url, "name = 'pager'")];
    let notifier = world.start(&entries);
    world.record(frozen("aa")).await;
    assert_eq!(receiver.next().await["sequence"], 1);
    receiver.nothing_comes().await;
    drop(notifier);
    world.record(frozen("bb")).await;
    // It does not respond, and this process ends before anything is accepted.
    let silent = Receiver::start(vec![Reply::Silence]).await;
    let notifier = world.start(&[entry(&silent.url, "name = 'pager'")]);
    notifier.look(Condition::LedgerContradicted, Some("a fork".to_owned()));
    world.record(frozen("cc")).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    drop(notifier);
    let _notifier = world.start(&entries);
    for seq in [2, 3] {
        assert_eq!(receiver.next().await["sequence"], seq);
    }
    receiver.nothing_comes().await;
    let kept = std::fs::read_to_string(world.path("notified.json")).unwrap();
    assert_eq!(kept, r#"{"targets":{"pager":{"after":1,"lost":0}},"conditions":[]}"#);
}

#[tokio::test]
async fn a_new_target_is_told_of_what_happens_from_now_on() {
    let world = World::new();
    world.record(frozen("aa")).await;
    while world.audit.progress().acknowledged() < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut receiver = Receiver::start(vec![Reply::Status(200)]).await;
    let _notifier = world.start(&[entry(&receiver.url, "types = ['frozen', 'reported']")]);
    world.record(reported("x")).await;
    let body = receiver.next().await;
    assert_eq!(
        (&body["sequence"], &body["source"], &body["message"]),
        (&2.into(), &"pipe".into(), &"[pipe] x".into())
    );
}

#[tokio::test]
async fn what_anyone_can_cause_is_told_once_a_minute() {
    let world = World::new();
    let mut receiver = Receiver::start(vec![Reply::Status(200)]).await;
    let _notifier = world.start(&[entry(&receiver.url, "")]);
    let refused = || Event::CredentialsRefused {
        listener: "admin",
        shown: "token",
        remote: IpAddr::from([127, 0, 0, 1]),
    };
    futures_util::future::join_all((0..10).map(|_| world.record(refused()))).await;
    let body = receiver.next().await;
    assert_eq!((&body["type"], &body["sequence"]), (&"credentials_refused".into(), &1.into()));
    receiver.nothing_comes().await;
    // Other types are not held back by it.
    world.record(frozen("aa")).await;
    assert_eq!(receiver.next().await["type"], "frozen");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_queue_drops_is_counted_in_what_is_delivered_next() {
    const EVENTS: usize = 1100;
    let world = World::new();
    let mut receiver = Receiver::start(vec![Reply::Silence, Reply::Status(200)]).await;
    let entries = [entry(&receiver.url, "")];
    drop(world.start(&entries));
    futures_util::future::join_all((0..EVENTS).map(|count| world.record(frozen(&count.to_string())))).await;
    let _notifier = world.start(&entries);
    // By number, because what is not taken is sent again.
    let mut delivered = std::collections::BTreeMap::new();
    loop {
        let body = receiver.next().await;
        let number = |member: &str| body[member].as_u64().unwrap();
        let is_last = number("sequence") == EVENTS as u64;
        delivered.insert(number("sequence"), number("lost"));
        if is_last {
            break;
        }
    }
    let lost: u64 = delivered.values().sum();
    assert_eq!(delivered.len() as u64 + lost, EVENTS as u64);
    assert!(lost > 0 && delivered.contains_key(&1), "{lost}: what is being sent is not dropped");
}
