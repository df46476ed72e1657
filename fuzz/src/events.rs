//! Input to the event log from operators and local programs, and records shown to people.

use cvm_kms::api::views::{
    CvmQuery, DenialQuery, HistoryQuery, Nothing, ReleaseQuery, ResolveQuery, read_query,
};
use cvm_kms::audit::{Record, printable};
use cvm_kms::events::{CvmId, Lines, MAX_LIMIT, Message, Query, json, last_event_id, text};
use cvm_kms::operator::DomainScope;

/// A time in 2027, Unix milliseconds.
const NOW: u64 = 1_800_000_000_000;

/// Uses the bytes as a query, as the id of an event, as a message, as input of the pipe and as a record.
pub fn events(data: &[u8]) {
    if let Ok(query) = std::str::from_utf8(data) {
        match Query::read(query, NOW, DomainScope::WHOLE_KMS) {
            Ok(query) => assert!(query.limit() <= MAX_LIMIT),
            Err(error) => assert!(error.to_string().len() < 150, "{error}"),
        }
        for read in [
            read_query::<Nothing>(Some(query)).map(drop),
            read_query::<ReleaseQuery>(Some(query)).map(drop),
            read_query::<DenialQuery>(Some(query)).map(drop),
            read_query::<CvmQuery>(Some(query)).map(drop),
            read_query::<HistoryQuery>(Some(query)).map(drop),
            read_query::<ResolveQuery>(Some(query)).map(drop),
        ] {
            assert!(read.err().is_none_or(|error| error.message().len() <= 2048));
        }
        if let Some(id) = CvmId::parse(query) {
            assert_eq!(id.to_string(), query.to_ascii_lowercase());
        }
    }
    if let Ok(id) = last_event_id(data) {
        let text = std::str::from_utf8(data).expect("digits").trim();
        assert_eq!(text.trim_start_matches('0'), if id == 0 { String::new() } else { id.to_string() });
    }
    if let Ok(message) = Message::read(data) {
        is_one_line(message.as_str(), data);
    }
    let whole = lines(&[data]);
    for message in &whole {
        is_one_line(message, data);
    }
    // The result does not depend on where a read ends.
    let (first, second) = data.split_at(data.len() / 3);
    assert_eq!(lines(&[first, second]), whole);
    if let Some(record) = Record::read(data) {
        let line = text(&record);
        is_one_line(line.strip_suffix('\n').expect("a line"), data);
        let is_from_outside = record.kind == "reported";
        assert!(is_from_outside == record.sentence().starts_with('[') || record.kind.ends_with("frozen"));
        assert_eq!(is_from_outside, record.source() != "kms");
        assert_eq!(json(&record)["seq"], record.seq);
    }
}

fn lines(parts: &[&[u8]]) -> Vec<String> {
    let mut lines = Lines::default();
    let mut messages: Vec<_> = parts.iter().flat_map(|part| lines.take(part)).collect();
    messages.extend(lines.end());
    messages.iter().map(|message| message.as_str().to_owned()).collect()
}

/// No character can start another line or hide text. Each character becomes ten at most.
fn is_one_line(text: &str, data: &[u8]) {
    assert!(text.len() <= 10 * data.len() + 1000, "{} bytes", text.len());
    assert_eq!(printable(&text.replace('\\', "")), text.replace('\\', ""));
}
