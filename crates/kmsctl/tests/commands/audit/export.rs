//! `kmsctl audit export` over connections that break.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::log::FakeLog;
use crate::support::Desk;

/// What breaks, and how often before it works.
#[derive(Clone, Copy)]
enum Fault {
    /// The connection ends before the answer.
    BeforeAnswer,
    /// It ends within the answer.
    WithinAnswer,
}

/// An admin listener in clear with the events of a log. The answer to each page but the first breaks twice.
fn start(log: FakeLog, fault: Fault) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let faults = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&faults);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            serve(stream, &log, fault, &counted);
        }
    });
    (url, faults)
}

fn serve(mut stream: TcpStream, log: &FakeLog, fault: Fault, faults: &AtomicUsize) {
    loop {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8(head).expect("text");
        let path = head.split(' ').nth(1).expect("a path");
        let (body, next) = match path.strip_prefix("/log/") {
            Some(file) => (log.file(file).expect("a file of the log"), None),
            None => page(log, path),
        };
        let next = next.map_or(String::new(), |next| format!("x-next-cursor: {next}\r\n"));
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{next}\r\n", body.len());
        let answer = [answer.into_bytes(), body].concat();
        // Two of three tries for a later page.
        if path.contains("cursor=") && faults.fetch_add(1, Ordering::Relaxed) % 3 < 2 {
            if let Fault::WithinAnswer = fault {
                let _ = stream.write_all(&answer[..answer.len() / 2]);
            }
            return;
        }
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

/// The newest events before the cursor, the oldest first, as many as are asked for.
fn page(log: &FakeLog, path: &str) -> (Vec<u8>, Option<u64>) {
    let number = |name: &str| {
        let value = path.split(['?', '&']).find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.map(|value| value.parse::<u64>().expect("a number"))
    };
    let end = number("cursor").unwrap_or(log.size().get() + 1);
    let start = end.saturating_sub(number("limit").expect("a limit")).max(1);
    let event = |seq: u64| {
        json!({
            "seq": seq, "received_at": "2026-01-01T00:00:00Z", "source": "kms", "type": "stopped", "severity": "info",
            "message": "the KMS stopped", "details": {}, "proof": { "leaf_index": seq - 1 },
        })
    };
    let events: Vec<Value> = (start..end).map(event).collect();
    (json!(events).to_string().into_bytes(), (start > 1).then_some(start))
}

#[tokio::test]
async fn no_page_is_lost_with_a_connection() {
    let log = FakeLog::of(1700);
    for fault in [Fault::BeforeAnswer, Fault::WithinAnswer] {
        let (url, faults) = start(log.clone(), fault);
        let desk = Desk::default().with("KMS_ADMIN_URL", &url);
        let ran = desk.run(&["audit", "export"]).await.expect(0);
        let seen: Vec<u64> = ran
            .out
            .lines()
            .map(|line| {
                let line: Value = serde_json::from_str(line).expect("JSON");
                let seq = line["seq"].as_u64().expect("a number");
                assert_eq!(line["entry"].as_str().expect("an entry").as_bytes(), log.entry(seq - 1));
                seq
            })
            .collect();
        assert_eq!(seen, (1..=1700).collect::<Vec<_>>(), "each once, in their order");
        assert_eq!(faults.load(Ordering::Relaxed), 9, "three later pages, each at the third try");
        assert_eq!(ran.err.matches("trying again").count(), 6, "{}", ran.err);
    }
}

#[tokio::test]
async fn an_event_that_is_not_in_the_ledger_is_not_exported() {
    let mut log = FakeLog::of(300);
    log.rewritten = Some(200);
    let (url, _) = start(log, Fault::BeforeAnswer);
    let desk = Desk::default().with("KMS_ADMIN_URL", &url);
    let ran = desk.run(&["audit", "export"]).await.expect(4);
    assert!(ran.err.contains("event 201: leaf 200 of the log is another record"), "{}", ran.err);
}
