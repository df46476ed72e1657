//! Tests of whether an export is complete.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use clap::Parser;

use super::*;
use crate::output::Audience;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    export: Export,
}

/// What a KMS answers to a path with a query: the numbers of the events; and what its index holds.
type Answers = fn(&str) -> (Vec<u64>, Option<[u64; 3]>);

/// An admin listener in clear on loopback, with its URL.
fn start(answers: Answers) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(stream, answers);
        }
    });
    url
}

fn serve(mut stream: TcpStream, answers: Answers) {
    loop {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let (seqs, reach) = answers(head.split(' ').nth(1).unwrap());
        let events: Vec<Value> = seqs.into_iter().map(|seq| json!({ "seq": seq })).collect();
        let body = json!(events).to_string();
        let reach = reach.map_or(String::new(), |[first, last, newest]| {
            format!("x-index-first: {first}\r\nx-index-last: {last}\r\nx-log-newest: {newest}\r\n")
        });
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{reach}\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn export(url: &str, more: &[&str]) -> Export {
    Line::parse_from([&["export", "--admin", url], more].concat()).export
}

/// How an export of no events ends: well, or with a text.
async fn ended(answers: Answers, more: &[&str]) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("events.jsonl");
    let more = [&["--out", out.to_str().unwrap()], more].concat();
    let ran = export(&start(answers), &more).run(&Terminal::new(Audience::Machines)).await;
    assert_eq!(ran.is_ok(), out.exists(), "no file without all of it");
    ran.map(drop).map_err(|failure| {
        assert_eq!(failure.exit, Exit::Failed);
        failure.message
    })
}

#[tokio::test]
async fn an_index_that_is_behind_gives_no_export() {
    let behind = ended(|_| (Vec::new(), Some([1, 5, 9])), &[]).await.unwrap_err();
    assert!(behind.contains("its index of events reaches event 5 of 9"), "{behind}");
    let built = ended(|_| (Vec::new(), Some([0, 0, 9])), &["--type", "denied"]).await.unwrap_err();
    assert!(built.contains("reaches event 0 of 9"), "{built}");
    let complete: [Answers; 3] = [
        |_| (Vec::new(), Some([1, 9, 9])),
        |_| (Vec::new(), Some([1, 10, 9])),
        |_| (Vec::new(), Some([0, 0, 0])),
    ];
    for answers in complete {
        ended(answers, &[]).await.unwrap();
    }
    ended(|_| (Vec::new(), None), &[]).await.expect("a KMS of an earlier version");
}

#[tokio::test]
async fn events_beyond_what_is_kept_are_not_left_out_silently() {
    let begins: Answers = |_| (Vec::new(), Some([2049, 3000, 3000]));
    for more in [&[][..], &["--since", "2026-01-01"], &["--since", "2026-01-01", "--type", "denied"]] {
        let text = ended(begins, more).await.unwrap_err();
        assert!(text.contains("its index begins with event 2049") && text.contains("--since"), "{text}");
    }
    // The index holds an event from before the period.
    let holds: Answers = |path: &str| match path.contains("until=2026-01-01") && !path.contains("since=") {
        true => (vec![2050], Some([2049, 3000, 3000])),
        false => (Vec::new(), Some([2049, 3000, 3000])),
    };
    ended(holds, &["--since", "2026-01-01"]).await.unwrap();
}

#[tokio::test]
async fn a_gap_is_a_failure_unless_its_events_are_outside_the_period() {
    let lines = [7, 8, 11].map(|seq| json!({ "seq": seq }));
    let terminal = Terminal::new(Audience::Machines);
    for (answers, is_complete) in [
        ((|_| (vec![9, 10], Some([1, 20, 20]))) as Answers, true),
        (|_| (vec![8, 10], Some([1, 20, 20])), false),
        (|_| (Vec::new(), Some([1, 20, 20])), false),
    ] {
        let url = start(answers);
        let export = export(&url, &["--since", "2026-01-01"]);
        let admin = export.admin.one().unwrap();
        let reader = Entries::open(admin.connect(&terminal).await.unwrap());
        let checked = export.check_gaps(admin, Some(&reader), &mut Coverage::default(), &lines).await;
        match checked {
            Ok(()) => assert!(is_complete),
            Err(failure) => {
                assert!(
                    !is_complete && failure.message.contains("events 9 to 10 are missing"),
                    "{failure:?}"
                );
            }
        }
    }
}

#[test]
fn gaps_within_pages_and_between_them_are_found() {
    let mut coverage = Coverage::default();
    assert_eq!(coverage.add(&[]), []);
    assert_eq!(coverage.add(&[90, 91, 94]), [(91, 94)]);
    assert_eq!(coverage.add(&[]), []);
    assert_eq!(coverage.add(&[88, 89]), []);
    assert_eq!(coverage.add(&[80, 85]), [(80, 85), (85, 88)]);
    assert_eq!(coverage.add(&[79]), []);
}
