use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::TryRecvError;

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

/// How long a test waits for what must happen. No receiver that responds needs so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Limits that a receiver exceeds only if it does not respond at all, however slow the machine is.
const PATIENT: Bounds = Bounds {
    connect: PATIENCE,
    total: PATIENCE,
    first_pause: Duration::from_millis(20),
    max_pause: Duration::from_millis(100),
    give_up: Duration::from_secs(600),
    max_refusals: 3,
    max_in_front: 3,
};

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
    is_open: channel::Sender<bool>,
    _task: JoinSet<()>,
}

impl Receiver {
    /// Responds to the first requests as in the list, and to further ones like its last entry.
    async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (sender, got) = mpsc::sync_channel(10_000);
        let is_open = channel::Sender::new(true);
        let opened = is_open.subscribe();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut replies = replies.into_iter();
            let mut last = Reply::Silence;
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                last = replies.next().unwrap_or(last);
                tokio::spawn(serve(stream, last, sender.clone(), opened.clone()));
            }
        });
        Self { url, got, is_open, _task: task }
    }

    /// From now on it responds only when [`Receiver::open`] was called.
    fn close(&self) {
        self.is_open.send_replace(false);
    }

    fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// The next body.
    async fn next(&mut self) -> Value {
        let mut got = Err(TryRecvError::Empty);
        until("a notification", || {
            got = self.got.try_recv();
            got.is_ok()
        })
        .await;
        got.unwrap()
    }

    /// Nothing comes of the records up to `seq`: all of them are seen, and no target waits for anything.
    async fn nothing_comes(&mut self, notifier: &Notifier, seq: u64) {
        all_saw(notifier, seq).await;
        until("nothing waits", || notifier.shared.targets.iter().all(|target| target.is_idle())).await;
        assert_eq!(self.got.try_recv(), Err(TryRecvError::Empty));
    }
}

/// Waits until this is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn serve(
    mut stream: TcpStream,
    reply: Reply,
    sender: mpsc::SyncSender<Value>,
    mut opened: channel::Receiver<bool>,
) {
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
    if opened.wait_for(|is_open| *is_open).await.is_err() {
        return;
    }
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
        self.start_within(PATIENT, entries)
    }

    fn start_within(&self, bounds: Bounds, entries: &[String]) -> Notifier {
        start(self.directory.path(), entries, &self.audit, &self.metrics, bounds)
    }

    async fn record(&self, event: Event) -> u64 {
        self.audit.record(event).await.unwrap().seq()
    }

    /// Waits until this many notifications of the target `name` have ended like this.
    async fn counts(&self, outcome: &str, name: &str, count: u64) {
        let line = format!(r#"cvm_kms_notifications_total{{outcome="{outcome}",target="{name}"}} {count}"#);
        until(&line, || self.metrics.render().lines().any(|found| found == line)).await;
    }

    /// Waits until the progress in the file is this.
    async fn keeps(&self, expected: &str) {
        let kept = || std::fs::read_to_string(self.path("notified.json"));
        until(expected, || kept().is_ok_and(|kept| kept == expected)).await;
    }
}

/// Waits until records up to `seq` are in the queues of all targets.
async fn all_saw(notifier: &Notifier, seq: u64) {
    until("all records are seen", || notifier.shared.targets.iter().all(|target| target.seen() >= seq)).await;
}

fn start(
    directory: &Path,
    entries: &[String],
    audit: &Audit,
    metrics: &Arc<Metrics>,
    bounds: Bounds,
) -> Notifier {
    let text: String = entries.iter().map(|entry| format!("[[core.notify]]\n{entry}\n")).collect();
    let (config, _) = Config::from_toml(&text).unwrap_or_else(|error| panic!("{error}"));
    let settings = Settings {
        log: directory.join("audit.jsonl"),
        memory: directory.join("notified.json"),
        storm: DenialStorm { count: 20, window: Duration::from_secs(3) },
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
        domain: None,
    }
}

fn reported(message: &str) -> Event {
    Event::Reported { source: "pipe", message: message.to_owned(), domain: None, by: None, remote: None }
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
    receiver.nothing_comes(&notifier, seq).await;
    world.counts("delivered", "pager", 1).await;
}

#[tokio::test]
async fn what_is_not_taken_is_sent_again_and_given_up_at_some_time() {
    let world = World::new();
    let mut receiver =
        Receiver::start(vec![Reply::Status(500), Reply::Redirect, Reply::Silence, Reply::Endless]).await;
    // The silence is waited for.
    let bounds = Bounds { total: Duration::from_secs(4), ..PATIENT };
    let notifier = world.start_within(bounds, &[entry(&receiver.url, "")]);
    let seq = world.record(frozen("aa")).await;
    let first = receiver.next().await;
    for _ in 0..3 {
        assert_eq!(receiver.next().await, first, "the same id, and nothing else went to /other");
    }
    receiver.nothing_comes(&notifier, seq).await;
    world.counts("delivered", "0", 1).await;
    world.counts("failed", "0", 3).await;

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
        let notifier = world.start(&[entry(&receiver.url, "")]);
        // It responds when both wait.
        receiver.close();
        world.record(frozen("aa")).await;
        let seq = world.record(frozen("bb")).await;
        all_saw(&notifier, seq).await;
        receiver.open();
        let mut before = 0;
        while receiver.next().await["sequence"] != 2 {
            before += 1;
        }
        assert_eq!(before, 3, "{status}");
        if is_given_up {
            receiver.nothing_comes(&notifier, seq).await;
            world.counts("dropped", "0", 1).await;
        } else {
            assert_eq!(receiver.next().await["sequence"], 1, "it is tried again");
            world.record(frozen("cc")).await;
            let begin = Instant::now();
            while receiver.next().await["sequence"] != 3 {
                assert!(begin.elapsed() < PATIENCE, "{status}: it is held up");
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
    for seq in 1..=200 {
        assert_eq!(fine.next().await["sequence"], seq, "in order, each once");
    }
    // The first request to the silent one has not even timed out.
    assert!(begin.elapsed() < PATIENT.total, "200 records took {:?}", begin.elapsed());
    world.counts("failed", "0", 0).await;
}

#[tokio::test]
async fn a_storm_is_told_once_and_so_is_its_end() {
    let world = World::new();
    let mut receiver = Receiver::start(vec![Reply::Status(200)]).await;
    let notifier = world.start(&[entry(&receiver.url, "min_severity = 'info'")]);
    // It lasts until all records are read, and then ends soon.
    notifier.change_storm(DenialStorm { count: 20, window: Duration::from_secs(600) });
    let refused = || Event::CredentialsRefused {
        listener: "admin",
        shown: "token",
        remote: IpAddr::from([127, 0, 0, 1]),
    };
    for _ in 0..100 {
        world.metrics.denied("compose_hash_not_allowed");
        world.metrics.credentials_failed();
    }
    until("a storm", || notifier.shared.is_in_storm.load(Ordering::Relaxed)).await;
    futures_util::future::join_all((0..100).map(|_| world.record(refused()))).await;
    let seq = world.record(Event::Suppressed { events: 900, source: None }).await;
    all_saw(&notifier, seq).await;
    notifier.change_storm(DenialStorm { count: 20, window: Duration::from_secs(3) });
    let mut bodies = Vec::new();
    while bodies.last().is_none_or(|body: &Value| body["state"] != "resolved") {
        bodies.push(receiver.next().await);
    }
    let storm: Vec<_> = bodies.iter().filter(|body| body["type"] == "denial_storm").collect();
    let states: Vec<_> = storm.iter().map(|body| body["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["raised", "resolved"]);
    // By the definition that held when it was last looked at.
    let told =
        [3, 600].map(|window| format!("over: 200 requests were refused, 20 or more within {window} s"));
    assert!(told.iter().any(|told| storm[1]["message"] == **told), "{}", storm[1]["message"]);
    assert_eq!(storm[1]["sequence"], Value::Null);
    assert_eq!(bodies.len(), 2, "single refusals are not told of: {bodies:?}");
    receiver.nothing_comes(&notifier, seq).await;
    // The next notification is of another storm.
    (0..20).for_each(|_| world.metrics.credentials_failed());
    let next = receiver.next().await;
    assert_eq!((&next["type"], &next["state"]), (&"denial_storm".into(), &"raised".into()));
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
    world.counts("delivered", "pager", 1).await;
    drop(notifier);
    world.keeps(r#"{"targets":{"pager":{"after":1,"lost":0}},"conditions":[]}"#).await;
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
    until("all are acknowledged", || progress.acknowledged() >= 4).await;
    std::fs::copy(world.path("notified.json"), rest.join("notified.json")).unwrap();
    let _notifier = start(&rest, &entries, &world.audit, &world.metrics, PATIENT);
    let body = receiver.next().await;
    assert_eq!((&body["sequence"], &body["lost"]), (&4.into(), &2.into()));
}

#[tokio::test]
async fn nothing_is_lost_over_a_restart_and_nothing_is_told_twice() {
    let world = World::new();
    let mut receiver = Receiver::start(vec![Reply::Status(200)]).await;
    let entries = [entry(&receiver.url, "name = 'pager'")];
    let notifier = world.start(&entries);
    let seq = world.record(frozen("aa")).await;
    assert_eq!(receiver.next().await["sequence"], 1);
    world.counts("delivered", "pager", 1).await;
    receiver.nothing_comes(&notifier, seq).await;
    drop(notifier);
    let kept = r#"{"targets":{"pager":{"after":1,"lost":0}},"conditions":[]}"#;
    world.keeps(kept).await;
    world.record(frozen("bb")).await;
    // It does not respond, and this process ends before anything is accepted.
    let mut silent = Receiver::start(vec![Reply::Silence]).await;
    let notifier = world.start(&[entry(&silent.url, "name = 'pager'")]);
    notifier.look(Condition::LedgerContradicted, Some("a fork".to_owned()));
    let last = world.record(frozen("cc")).await;
    all_saw(&notifier, last).await;
    silent.next().await;
    drop(notifier);
    world.keeps(kept).await;
    let notifier = world.start(&entries);
    for seq in [2, 3] {
        assert_eq!(receiver.next().await["sequence"], seq);
    }
    receiver.nothing_comes(&notifier, last).await;
}

#[tokio::test]
async fn a_new_target_is_told_of_what_happens_from_now_on() {
    let world = World::new();
    world.record(frozen("aa")).await;
    until("it is acknowledged", || world.audit.progress().acknowledged() >= 1).await;
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
    let notifier = world.start(&[entry(&receiver.url, "")]);
    let refused = || Event::CredentialsRefused {
        listener: "admin",
        shown: "token",
        remote: IpAddr::from([127, 0, 0, 1]),
    };
    let recorded = futures_util::future::join_all((0..10).map(|_| world.record(refused()))).await;
    let body = receiver.next().await;
    assert_eq!((&body["type"], &body["sequence"]), (&"credentials_refused".into(), &1.into()));
    receiver.nothing_comes(&notifier, recorded.into_iter().max().unwrap()).await;
    // Other types are not held back by it.
    world.record(frozen("aa")).await;
    assert_eq!(receiver.next().await["type"], "frozen");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_queue_drops_is_counted_in_what_is_delivered_next() {
    const EVENTS: usize = 1100;
    let world = World::new();
    let mut receiver = Receiver::start(vec![Reply::Status(200)]).await;
    let notifier = world.start(&[entry(&receiver.url, "")]);
    receiver.close();
    let number = |body: &Value, member: &str| body[member].as_u64().unwrap();
    let mut delivered = std::collections::BTreeMap::new();
    world.record(frozen("0")).await;
    let mut body = receiver.next().await;
    // The first one is being sent.
    futures_util::future::join_all((1..EVENTS).map(|count| world.record(frozen(&count.to_string())))).await;
    all_saw(&notifier, EVENTS as u64).await;
    receiver.open();
    loop {
        delivered.insert(number(&body, "sequence"), number(&body, "lost"));
        if number(&body, "sequence") == EVENTS as u64 {
            break;
        }
        body = receiver.next().await;
    }
    let lost: u64 = delivered.values().sum();
    assert_eq!(delivered.len() as u64 + lost, EVENTS as u64);
    assert!(lost > 0 && delivered.contains_key(&1), "{lost}: what is being sent is not dropped");
}
