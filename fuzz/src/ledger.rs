//! Formats of the ledger: notes, checkpoints, keys, tile paths, bundles, proof files, and the messages
//! between log and witness.

use kms_client::event_stream::EventStream;
use kms_client::ledger::watched::Watched;
use kms_ledger::bundle;
use kms_ledger::checkpoint::Checkpoint;
use kms_ledger::key::VerifyingKey;
use kms_ledger::log::Log;
use kms_ledger::note::Note;
use kms_ledger::proof_file::ProofFile;
use kms_ledger::tile::{Tile, Width};
use kms_ledger::vouched::VouchedKey;
use kms_ledger::witness::{Answer, Request, SIZE_TYPE};

/// The log's key in the seeds.
const KEY: &str =
    "kms.example.com/cvm-kms/8da50153fc024870+67d0bf5a+Ad6mZObWsmKHyMK2HmKUNEPhALcJ4JKi4hek01rzuq4J";

/// The first byte chooses the format. What parses is written as it was read.
pub fn ledger(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let text = std::str::from_utf8(data).unwrap_or_default();
    match choice % 9 {
        0 => note(data),
        1 => {
            if let Ok(tile) = text.parse::<Tile>() {
                assert_eq!(tile.to_string(), text);
            }
            if let Ok(key) = text.parse::<VerifyingKey>() {
                assert_eq!(key.to_string(), text);
            }
        }
        2 => {
            let Some((width, bundle)) = data.split_first() else { return };
            let Some(width) = Width::new(u64::from(*width) + 1) else { return };
            if let Ok(entries) = bundle::entries(bundle, width) {
                let mut again = Vec::new();
                entries.iter().for_each(|entry| bundle::append(&mut again, entry).expect("it was read"));
                assert_eq!(again, bundle);
            }
        }
        3 => {
            if let Ok(file) = ProofFile::parse(data) {
                assert_eq!(file.to_string(), text);
                assert!(file.verify(b"an entry of nobody", &log(), &[]).is_err());
            }
        }
        4 => {
            if let Ok(request) = Request::parse(data) {
                assert_eq!(request.to_string(), text);
            }
        }
        6 => {
            if let Some(key) = VouchedKey::parse(data) {
                assert_eq!(key.to_string(), text);
            }
        }
        7 => events(data),
        8 => {
            if let Ok(watched) = Watched::parse(data) {
                assert_eq!(Watched::parse(watched.to_string().as_bytes()), Ok(watched));
            }
        }
        _ => {
            let request =
                "old 0\n\no\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n\u{2014} o AAAAAAA=\n";
            let request = Request::parse(request.as_bytes()).expect("a request");
            for status in [200, 409] {
                let answer = Answer { status, content_type: Some(SIZE_TYPE), body: data };
                assert!(request.read_answer(&answer, &[]).is_err());
            }
        }
    }
}

/// A stream is read as the same events whatever its pieces.
fn events(data: &[u8]) {
    let mut stream = EventStream::default();
    let whole = stream.push(data);
    let mut stream = EventStream::default();
    let mut events = Vec::new();
    for piece in data.chunks(3) {
        match stream.push(piece) {
            Ok(some) => events.extend(some),
            Err(error) => {
                assert_eq!(whole, Err(error));
                return;
            }
        }
    }
    assert_eq!(whole, Ok(events));
}

fn log() -> Log {
    Log::of_key(KEY.parse().expect("a key")).expect("an origin")
}

/// A note is a text and signature lines; only what the log signed opens as its checkpoint.
fn note(data: &[u8]) {
    let Ok(note) = Note::parse(data) else { return };
    assert!(note.text().ends_with('\n') && data.starts_with(note.text().as_bytes()));
    if let Ok(checkpoint) = note.text().parse::<Checkpoint>() {
        assert_eq!(checkpoint.to_string(), note.text());
    }
    if let Ok(signed) = log().open(data, &[]) {
        assert_eq!(signed.checkpoint().to_string(), note.text());
    }
}
