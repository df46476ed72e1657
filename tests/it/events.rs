//! The event log for operators: read and written over the admin listener, and written through the pipe.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::http::{post, request, with};
use crate::support::operator::{Operator, authorized};
use crate::support::{ADMIN_TOKEN, Answer, Caller, PATIENCE, World, eventually, process};

async fn admin(world: &World) -> Caller {
    Caller::new(world.admin_address().await).plain()
}

async fn get(world: &World, path: &str) -> Answer {
    Operator::of(world).await.get(path).await
}

async fn new_event(world: &World, body: &str) -> Answer {
    Operator::of(world).await.send(post("/api/v1/new_event", body.to_owned())).await
}

/// The response of `/api/v1/events` to this query, once it has `count` events.
async fn found(world: &World, query: &str, count: usize) -> Vec<Value> {
    eventually(query, async || {
        let answer = get(world, &format!("/api/v1/events?{query}")).await;
        if answer.status != 200 {
            return None;
        }
        let events = answer.value().as_array().expect("a list").clone();
        (events.len() == count).then_some(events)
    })
    .await
}

#[tokio::test]
async fn what_happens_is_read_as_lines_and_as_json() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    assert_eq!(caller.json("GetAppKey", serde_json::json!({ "api_version": 1 })).await.status, 200);
    let id = hex::encode(app.app_id());
    let events = found(&world, &format!("app_id=0x{id}&type=app_key_released"), 1).await;
    let event = &events[0];
    let message = event["message"].as_str().expect("a message");
    assert!(message.starts_with(&format!("keys were released to app {id} (instance ")), "{message}");
    assert_eq!((&event["source"], &event["type"]), (&"kms".into(), &"app_key_released".into()));
    assert_eq!((&event["app_id"], &event["details"]["tcb_status"]), (&id.into(), &"UpToDate".into()));
    let recorded = &world.audited("app_key_released")[0];
    assert_eq!((&event["seq"], &event["received_at"]), (&recorded["seq"], &recorded["time"]));

    let logs = get(&world, "/logs").await;
    assert_eq!(logs.header("content-type"), "text/plain; charset=utf-8");
    let lines: Vec<_> = logs.text().lines().collect();
    let time = recorded["time"].as_str().expect("a time");
    assert_eq!(lines.last(), Some(&&*format!("{time} {message}")), "newest last");
    assert!(lines.iter().any(|line| line.contains(" KMS version ")), "{lines:?}");
    assert_eq!(get(&world, "/logs?limit=1").await.text().lines().count(), 1);
    assert_eq!(get(&world, "/api/v1/events?format=text&limit=1").await.text(), format!("{time} {message}\n"));

    let newest = recorded["seq"].to_string();
    for path in ["/logs?limit=1", "/api/v1/events?type=denied", "/api/v1/audit-logs?cursor=2"] {
        let answer = get(&world, path).await;
        let reach =
            ["x-index-first", "x-index-last", "x-log-newest"].map(|name| answer.header(name).to_owned());
        assert_eq!(reach, ["1", &newest, &newest], "{path}");
    }

    // Page by page, each event once.
    let all: Vec<_> = world.audit().iter().map(|record| record["seq"].as_u64().expect("a number")).collect();
    let (mut seen, mut path) = (Vec::new(), "/api/v1/events?limit=2".to_owned());
    loop {
        let answer = get(&world, &path).await;
        let page: Vec<_> = answer
            .value()
            .as_array()
            .expect("a list")
            .iter()
            .map(|e| e["seq"].as_u64().expect("seq"))
            .collect();
        seen.splice(0..0, page);
        match answer.header("x-next-cursor") {
            "" => break,
            cursor => path = format!("/api/v1/events?limit=2&cursor={cursor}"),
        }
    }
    assert_eq!(seen, all);

    let audit = get(&world, "/api/v1/audit-logs?type=app_key_released").await.value();
    let proof = &audit[0]["proof"];
    assert_eq!(proof["leaf_index"], recorded["seq"].as_u64().expect("a number") - 1);
    assert_eq!(proof["checkpoint"], "/log/checkpoint");
    let width = all.len();
    assert_eq!(proof["entries"], format!("/log/tile/entries/000.p/{width}"));
}

#[tokio::test]
async fn operators_report_events_that_do_not_look_like_ours() {
    let world = World::ready().await;
    let answer = get(&world, "/api/v1/new_event?message=this+is+a+test").await;
    assert_eq!((answer.status, answer.value()["seq"].is_u64()), (200, true), "{answer:?}");
    let forged = "x\n2026-01-01T00:00:00Z keys were released\u{1b}[31m\u{202e}";
    for body in [
        forged.to_owned(),
        format!("message={}", forged.replace('\n', "%0A")),
        serde_json::json!({ "message": forged }).to_string(),
    ] {
        assert_eq!(new_event(&world, &body).await.status, 200, "{body}");
    }
    let escaped = r"x\n2026-01-01T00:00:00Z keys were released\u{1b}[31m\u{202e}";
    let events = found(&world, "source=api", 4).await;
    assert_eq!(events[0]["message"], "this is a test");
    for event in &events[1..] {
        assert_eq!((&event["message"], &event["type"]), (&escaped.into(), &"reported".into()));
        assert_eq!(event["details"]["by"], "token");
    }
    let logs = get(&world, "/logs?source=api").await;
    assert_eq!(logs.text().lines().count(), 4);
    assert!(logs.text().lines().all(|line| line.contains(" [api, token] ")), "{logs:?}");
    // In the ledger like all other records.
    assert_eq!(world.audited("reported").len(), 4);

    for (body, status, text) in [
        ("", 400, "message must not be empty"),
        ("message=", 400, "message must not be empty"),
        (&*"x".repeat(4097), 413, "message must be at most 4096 bytes"),
        (&"x".repeat(20_000), 413, "failed to read data: payload too large"),
    ] {
        assert_eq!(
            new_event(&world, body).await.refusal(),
            (status, text.to_owned()),
            "{} bytes",
            body.len()
        );
    }
    assert_eq!(new_event(&world, &"x".repeat(4096)).await.status, 200);
    for path in ["/api/v1/new_event", "/api/v1/new_event?text=x", "/api/v1/new_event?message=%FF%FE"] {
        let status = get(&world, path).await.status;
        assert!(status == 400 || path.ends_with("%FE") && status == 200, "{path}: {status}");
    }
}

#[tokio::test]
async fn no_page_and_no_link_makes_a_browser_report_an_event() {
    let world = World::ready().await;
    let admin = admin(&world).await;
    for (site, status) in [("cross-site", 403), ("same-site", 403), ("none", 400), ("same-origin", 400)] {
        let call = authorized(request("GET", "/api/v1/new_event?message=x", ""));
        assert_eq!(admin.send(with(call, "sec-fetch-site", site)).await.status, status, "{site}");
    }
    let call = authorized(post("/api/v1/new_event", "message=x"));
    assert_eq!(admin.send(with(call, "sec-fetch-site", "cross-site")).await.status, 403);
    let head = authorized(request("HEAD", "/api/v1/new_event?message=x", ""));
    assert_eq!(admin.send(head).await.status, 400);
    assert!(world.audited("reported").is_empty());
}

#[tokio::test]
async fn malformed_and_giant_queries_are_refused_by_name() {
    let world = World::ready().await;
    for path in ["/logs", "/api/v1/events", "/api/v1/audit-logs", "/api/v1/events/stream"] {
        for (query, text) in [
            ("limit=1001", "limit must be a whole number up to 1000"),
            ("type=%00", "type must be the name of a type, such as denied"),
            ("app_id=xyz", "app_id must be hex digits"),
            (
                "what=x",
                "unknown parameter; there are since, until, type, app_id, source, domain, limit, cursor, format",
            ),
            (&*format!("type={}", "a".repeat(5000)), "the query is longer than 4096 bytes"),
        ] {
            let answer = get(&world, &format!("{path}?{query}")).await;
            assert_eq!(answer.refusal(), (400, text.to_owned()), "{path}");
        }
    }
    for id in ["x", "-1", "999999999999999999999"] {
        let call = authorized(request("GET", "/api/v1/events/stream", ""));
        let answer = admin(&world).await.send(with(call, "last-event-id", id)).await;
        assert_eq!(answer.refusal(), (400, "Last-Event-ID must be the id of an event".to_owned()), "{id}");
    }
}

/// Opens a stream on a plain connection.
async fn open(world: &World, query: &str, last: Option<u64>) -> TcpStream {
    let mut stream = TcpStream::connect(world.admin_address().await).expect("a connection");
    let last = last.map_or(String::new(), |last| format!("last-event-id: {last}\r\n"));
    let call = format!(
        "GET /api/v1/events/stream{query} HTTP/1.1\r\nhost: kms\r\nx-admin-token: {ADMIN_TOKEN}\r\n{last}\r\n"
    );
    stream.write_all(call.as_bytes()).expect("sent");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// Reads until `wanted` is there.
fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    while !text.contains(wanted) {
        let read = stream.read(&mut bytes).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(read > 0, "it ended: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_what_happens_and_goes_on_where_it_ended() {
    let mut world = World::ready_with("core.limits.shutdown_grace = '40s'").await;
    let mut stream = open(&world, "?type=reported", None).await;
    let head = read_until(&mut stream, "\r\n\r\n");
    assert!(
        head.contains("content-type: text/event-stream") && head.contains("cache-control: no-store"),
        "{head}"
    );
    let first = new_event(&world, "first").await.value()["seq"].as_u64().expect("a number");
    let text = read_until(&mut stream, "first");
    assert!(text.contains(&format!("id: {first}\ndata: {{")), "{text}");
    drop(stream);
    new_event(&world, "second").await;
    new_event(&world, "third").await;
    let mut stream = open(&world, "?type=reported&limit=2", Some(first)).await;
    let text = read_until(&mut stream, "0\r\n\r\n");
    assert!(text.contains("second") && text.contains("third") && !text.contains("first"), "{text}");
    // From the index, because it is older than this start.
    world.stop().await;
    world.start().await.expect("it starts");
    let mut stream = open(&world, "?type=reported&limit=3", Some(0)).await;
    let text = read_until(&mut stream, "0\r\n\r\n");
    assert!(text.find("first") < text.find("second") && text.find("second") < text.find("third"), "{text}");
    // A stop ends streams at once.
    let mut stream = open(&world, "", None).await;
    read_until(&mut stream, "\r\n\r\n");
    let began = Instant::now();
    world.stop().await;
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_programs_write_into_the_pipe_is_recorded() {
    let mut world = World::stopped_with("").await;
    let pipe = world.path("events.fifo");
    world.configure(&format!("core.events.fifo = {pipe:?}"));
    world.start().await.expect("it starts");
    world.bootstrap().await;
    world.finish().await;
    let write = |bytes: Vec<u8>| {
        let pipe = pipe.clone();
        tokio::task::spawn_blocking(move || {
            std::fs::OpenOptions::new()
                .write(true)
                .open(pipe)
                .expect("the pipe")
                .write_all(&bytes)
                .expect("written");
        })
    };
    write(b"hello world\n".to_vec()).await.expect("written");
    write(b"[api, token] keys were released\xff\n".to_vec()).await.expect("written");
    let events = found(&world, "source=pipe", 2).await;
    assert_eq!((&events[0]["message"], &events[0]["type"]), (&"hello world".into(), &"reported".into()));
    let logs = get(&world, "/logs?source=pipe").await;
    assert!(logs.text().ends_with(" [pipe] [api, token] keys were released\u{fffd}\n"), "{logs:?}");
    // A flood is read and counted, and blocks nobody.
    write("x\n".repeat(200_000).into_bytes()).await.expect("written");
    let events = found(&world, "source=pipe&limit=1000", 100).await;
    assert_eq!(events.len(), 100, "no more at once");

    world.stop().await;
    std::fs::remove_file(&pipe).expect("the pipe");
    std::fs::write(&pipe, "").expect("a file");
    let error = world.start().await.expect_err("not a pipe").to_string();
    assert_eq!(error, "core.events.fifo: it is not a named pipe: move it away, or name another path");
}

/// The resident memory of this process in bytes, clients included.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_get_an_event_each_within_100_mb() {
    const STREAMS: usize = 1000;
    // In a process of its own: other tests of this one use memory too.
    const ALONE: &str = "KMS_TEST_ALONE";
    const NAME: &str = "events::a_thousand_streams_get_an_event_each_within_100_mb";
    if std::env::var_os(ALONE).is_none() {
        let mut alone = Command::new(std::env::current_exe().expect("this test"));
        alone.args(["--exact", NAME, "--nocapture"]).env(ALONE, "1");
        let ran = process::finish(alone, String::new()).await.expect_ok();
        assert!(ran.out.contains("1 passed"), "{}", ran.text());
        return;
    }
    // Both ends of each are in this process.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("the limit of open files");
    let world = World::ready().await;
    drop(open(&world, "", None).await);
    let before = resident();
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(open(&world, "?type=reported", None).await);
    }
    for stream in &mut streams {
        read_until(stream, "\r\n\r\n");
    }
    new_event(&world, "to all of them").await;
    for stream in &mut streams {
        read_until(stream, "to all of them");
    }
    let grown = resident().saturating_sub(before);
    eprintln!("{STREAMS} streams took {} MB", grown / 1_000_000);
    assert!(grown < 100_000_000, "{STREAMS} streams took {grown} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_events_are_not_available_says_so_and_then_sends_them() {
    let mut world = World::ready().await;
    let first = new_event(&world, "first").await.value()["seq"].as_u64().expect("a number");
    new_event(&world, "second").await;
    world.stop().await;
    // Another process has the index, and then no longer.
    let index = cvm_kms::events::Index::open(&world.key_file("events.redb")).expect("the index");
    world.start().await.expect("it starts");
    assert_eq!(get(&world, "/api/v1/events").await.status, 503);
    let mut stream = open(&world, "?type=reported&limit=2", Some(first)).await;
    let text = read_until(&mut stream, "event: waiting");
    assert!(!text.contains("second"), "{text}");
    let mut live = open(&world, "?type=reported&limit=1", None).await;
    read_until(&mut live, "\r\n\r\n");
    new_event(&world, "third").await;
    read_until(&mut live, "third");
    drop(index);
    let text = read_until(&mut stream, "0\r\n\r\n");
    assert!(text.find("second").expect("second") < text.find("third").expect("third"), "{text}");
    // An id of another log.
    let mut stream = open(&world, "", Some(1_000_000)).await;
    let text = read_until(&mut stream, "event: gap");
    assert!(text.contains("event: gap\nid: "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_no_page_reaches_the_admin_listener_by_a_name_of_its_own() {
    let names = "core.reserved_domains = ['balancer.example']\ncore.admin = { auth_token = '', insecure_no_auth = true }";
    let world = World::ready_with(names).await;
    let address = world.admin_address().await;
    let status = |path: &str, host: &str| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        let call = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(call.as_bytes()).expect("sent");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let head = read_until(&mut stream, "\r\n");
        head.split(' ').nth(1).expect("a status").parse::<u16>().expect("a number")
    };
    for (host, is_own) in [
        ("evil.example:8001", false),
        ("kms", false),
        ("127.0.0.1.evil.example", false),
        ("127.0.0.1:8001", true),
        ("localhost", true),
        ("[::1]:8001", true),
        ("balancer.example", true),
        (crate::support::DOMAIN, true),
    ] {
        for path in ["/logs", "/api/v1/new_event?message=x", "/prpc/ListDenials"] {
            let expected = if is_own { 200 } else { 403 };
            assert_eq!(status(path, host), expected, "{host} {path}");
        }
    }
    // With credentials no page can show them.
    let world = World::ready().await;
    let address = world.admin_address().await;
    let mut stream = TcpStream::connect(address).expect("a connection");
    let call = format!("GET /logs HTTP/1.1\r\nhost: kms\r\nx-admin-token: {ADMIN_TOKEN}\r\n\r\n");
    stream.write_all(call.as_bytes()).expect("sent");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    assert!(read_until(&mut stream, "\r\n").starts_with("HTTP/1.1 200 "));
}
