//! Each kind of change to each of the last 1,000 entries, and to each file of a log, is found.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::chain::{Link, Salt};
use crate::checkpoint::Checkpoint;
use crate::edge::Edge;
use crate::files::{LogFiles, Names};
use crate::hash::Hash;
use crate::log::Log;
use crate::number::Size;
use crate::signature::SigningKey;
use crate::tile::TILE_HEIGHT;
use crate::verify::{Claim, Known, LEVELS, Verified, VerifyError, verify};
use crate::vouched::VouchedKey;
use crate::walk::WalkError;

const TIME: &str = "2026-01-01T00:00:00Z";
const LEGACY: u64 = 40;
const RECORDS: u64 = 1_080;
/// The last records of closed files.
const CLOSED: [u64; 3] = [30, 400, 800];

fn names() -> Names {
    Names::of(Path::new("audit.jsonl")).expect("a name")
}

fn signing_key(seed: u8) -> SigningKey {
    let name = "kms.example/cvm-kms/0123456789abcdef".parse().expect("a name");
    SigningKey::from_seed(name, &[seed; 32]).expect("a key")
}

fn log() -> Log {
    Log::of_key(signing_key(7).verifying_key().clone()).expect("an origin")
}

/// The files of a log, one of them in another state than in memory.
struct Memory<'a> {
    files: &'a BTreeMap<PathBuf, Vec<u8>>,
    changed: BTreeMap<PathBuf, Option<Vec<&'a [u8]>>>,
}

impl<'a> Memory<'a> {
    fn of(files: &'a BTreeMap<PathBuf, Vec<u8>>) -> Self {
        Self { files, changed: BTreeMap::new() }
    }

    /// With these pieces as the content of a file; `None` for no file.
    fn with(mut self, file: &Path, pieces: Option<Vec<&'a [u8]>>) -> Self {
        self.changed.insert(file.to_owned(), pieces);
        self
    }
}

impl LogFiles for Memory<'_> {
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let is_there = |file: &&PathBuf| !matches!(self.changed.get(*file), Some(None));
        Ok(self.files.keys().filter(is_there).cloned().collect())
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + '_>> {
        let pieces = match self.changed.get(file) {
            Some(pieces) => pieces.clone(),
            None => self.files.get(file).map(|content| vec![content.as_slice()]),
        };
        let pieces = pieces.ok_or(io::ErrorKind::NotFound)?;
        let empty: Box<dyn Read> = Box::new(io::empty());
        Ok(pieces.into_iter().rev().fold(empty, |rest, piece| Box::new(Cursor::new(piece).chain(rest))))
    }
}

/// A record of a version without a ledger.
fn append_legacy(link: &Link, lines: &mut Vec<u8>) -> Link {
    let mut salted = Vec::new();
    link.append(TIME, Salt([0; 16]), r#"{"event":"app_key_released","app_id":"00aa"}"#, &mut salted);
    let text = String::from_utf8(salted).expect("text");
    let content = text.replace(&format!("\"salt\":\"{}\",", Salt([0; 16])), "");
    let content = format!("{}}}", &content[..content.len() - 76]);
    let hash = hex::encode(Sha256::digest(&content));
    let line = format!("{},\"hash\":\"{hash}\"}}", content.strip_suffix('}').expect("an object"));
    lines.extend_from_slice(line.as_bytes());
    lines.push(b'\n');
    link.next(line.as_bytes()).expect("it follows")
}

/// The lines of all records, one after the other; `note` is in the record of that number.
fn lines(from: &Link, note: Option<&str>) -> Vec<Vec<u8>> {
    let (mut link, mut all, mut legacy) = (*from, Vec::new(), Vec::new());
    for seq in link.seq() + 1..=RECORDS {
        let mut line = Vec::new();
        let salt = Salt([u8::try_from(seq % 251).expect("small"); 16]);
        link = match seq {
            ..=LEGACY => append_legacy(&link, &mut line),
            _ if seq == LEGACY + 1 => {
                let event = format!(
                    r#"{{"event":"imported","first":1,"lines":{LEGACY},"bytes":{},"sha256":"{}","head":"{}"}}"#,
                    legacy.len(),
                    hex::encode(Sha256::digest(&legacy)),
                    hex::encode(link.hash())
                );
                link.append(TIME, salt, &event, &mut line)
            }
            _ => {
                let note = note.filter(|_| seq == from.seq() + 1).unwrap_or("");
                let event = format!(r#"{{"event":"app_key_released","app_id":"{seq:040}{note}"}}"#);
                link.append(TIME, salt, &event, &mut line)
            }
        };
        if seq <= LEGACY {
            legacy.extend_from_slice(&line);
        }
        all.push(line);
    }
    all
}

fn leaf(seq: u64, line: &[u8]) -> Hash {
    let content = crate::chain::content(&line[..line.len() - 1]).expect("a record");
    match seq {
        // The entry of a record of an older version is hidden by a salt that only the log knows.
        ..=LEGACY => Hash::leaf(&[content, b"salt".to_vec()].concat()),
        _ => Hash::leaf(&content),
    }
}

/// The tree over the records: its levels, mark and checkpoint.
fn tree(leaves: &[Hash], key: &SigningKey) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut edge, mut levels) = (Edge::EMPTY, vec![Vec::new(); usize::from(LEVELS)]);
    for leaf in leaves {
        for (node, hash) in edge.append(*leaf).expect("small") {
            if node.level.is_multiple_of(TILE_HEIGHT) {
                levels[usize::from(node.level / TILE_HEIGHT)].extend_from_slice(hash.as_bytes());
            }
        }
    }
    let level = |(level, content): (usize, Vec<u8>)| (names().tree(&level.to_string()), content);
    let mut files: BTreeMap<PathBuf, Vec<u8>> = levels.into_iter().enumerate().map(level).collect();
    let mark = format!("{}\n{}\n", edge.size(), edge.root().to_base64());
    files.insert(names().tree("synced"), mark.into_bytes());
    let origin = key.verifying_key().name().as_str().parse().expect("an origin");
    let checkpoint = key.sign_checkpoint(&Checkpoint::new(origin, edge.size(), edge.root()));
    files.insert(names().tree("checkpoint"), checkpoint.into_bytes());
    let key = VouchedKey { key: key.verifying_key().clone(), vouching: [3; 65] };
    files.insert(names().tree("key"), key.to_string().into_bytes());
    files
}

/// Which file a record is in.
fn file_of(seq: u64) -> PathBuf {
    let last = CLOSED.into_iter().find(|last| seq <= *last);
    last.map_or_else(|| names().growing(), |last| names().closed(last))
}

struct Original {
    lines: Vec<Vec<u8>>,
    leaves: Vec<Hash>,
    files: BTreeMap<PathBuf, Vec<u8>>,
    clean: Verified,
}

impl Original {
    fn new() -> Self {
        let lines = lines(&Link::GENESIS, None);
        let leaves: Vec<Hash> = (1..).zip(&lines).map(|(seq, line)| leaf(seq, line)).collect();
        let mut files = tree(&leaves, &signing_key(7));
        files.insert(names().node(), br#"{"node":"0123456789abcdef","first":1}"#.to_vec());
        for (seq, line) in (1..).zip(&lines) {
            files.entry(file_of(seq)).or_default().extend_from_slice(line);
        }
        let log = log();
        let clean =
            verify(&Memory::of(&files), &names(), Known { log: Some(&log), pin: None }).expect("it holds");
        Self { lines, leaves, files, clean }
    }

    /// Whether the verifier says anything else than of the log as it was.
    fn is_found(&self, changed: &Memory<'_>, pin: Option<&[u8]>) -> bool {
        let log = log();
        let verified = verify(changed, &names(), Known { log: Some(&log), pin });
        !verified.is_ok_and(|verified| verified == self.clean)
    }

    /// The file of a record: before it, its line, after it.
    fn around(&self, seq: u64) -> (PathBuf, &[u8], &[u8], &[u8]) {
        let file = file_of(seq);
        let same = (1..seq).rev().take_while(|other| file_of(*other) == file);
        let start: usize = same.map(|other| self.line(other).len()).sum();
        let content = &self.files[&file];
        let end = start + self.line(seq).len();
        (file, &content[..start], &content[start..end], &content[end..])
    }

    fn line(&self, seq: u64) -> &[u8] {
        &self.lines[usize::try_from(seq - 1).expect("small")]
    }

    /// Changes that need no more than access to the file.
    fn plain_changes_are_found(&self, seq: u64) {
        let (file, before, line, after) = self.around(seq);
        let at = usize::try_from(seq * 7919).expect("small") % line.len();
        let flipped: Vec<u8> = vec![line[at] ^ 1 << (seq % 8)];
        let (following, rest) =
            after.split_at(after.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        let mut changes: Vec<(&str, Vec<&[u8]>)> = vec![
            ("a byte edited", vec![before, &line[..at], &flipped, &line[at + 1..], after]),
            ("a byte deleted", vec![before, &line[..at], &line[at + 1..], after]),
            ("a byte inserted", vec![before, &line[..at], &flipped, &line[at..], after]),
            ("the entry deleted", vec![before, after]),
            ("the entry repeated", vec![before, line, line, after]),
            ("an older entry inserted", vec![before, line, self.line(seq - 1), after]),
            ("the file cut off in the entry", vec![before, &line[..at]]),
            ("the file cut off before the entry", vec![before]),
        ];
        if !following.is_empty() {
            changes.push(("the entry after the next one", vec![before, following, line, rest]));
        }
        for (change, pieces) in changes {
            assert!(
                self.is_found(&Memory::of(&self.files).with(&file, Some(pieces)), None),
                "{change}: {seq}"
            );
        }
    }

    /// Changes by an attacker who computes all hashes again, so that the chain holds.
    fn forged_histories_are_found(&self, seq: u64) {
        let before = Link::before(self.line(seq).strip_suffix(b"\n").expect("a line")).expect("a record");
        let forged = lines(&before, Some(" forged"));
        let mut files = self.files.clone();
        files.retain(|file, _| names().last_record(file).is_none() && *file != names().growing());
        let kept = self.lines.iter().take(self.lines.len() - forged.len());
        let all: Vec<&Vec<u8>> = kept.chain(&forged).collect();
        for (seq, line) in (1..).zip(&all) {
            files.entry(file_of(seq)).or_default().extend_from_slice(line);
        }
        assert!(self.is_found(&Memory::of(&files), None), "the entry and the chain after it: {seq}");
        let known = self.leaves.iter().take(self.leaves.len() - forged.len()).copied();
        let leaves: Vec<Hash> =
            known.chain((seq..).zip(&forged).map(|(seq, line)| leaf(seq, line))).collect();
        let checkpoint = names().tree("checkpoint");
        files.extend(tree(&leaves, &signing_key(7)).into_iter().filter(|(file, _)| *file != checkpoint));
        assert!(self.is_found(&Memory::of(&files), None), "and the tree: {seq}");
        files.extend(tree(&leaves, &signing_key(8)));
        assert!(self.is_found(&Memory::of(&files), None), "and the signature, by another key: {seq}");
        // A fork by the log itself is only found with what was kept elsewhere.
        files.extend(tree(&leaves, &signing_key(7)));
        let pin = &self.files[&checkpoint];
        let log = log();
        let known = Known { log: Some(&log), pin: Some(pin) };
        let forked = verify(&Memory::of(&files), &names(), known);
        assert!(
            matches!(forked, Err(VerifyError::Forked { claim: Claim::Pin, .. })),
            "a fork: {seq} {forked:?}"
        );
    }

    /// A log that the KMS itself has cut off and signed again.
    fn rolled_back_log_is_found(&self, seq: u64) {
        let kept = usize::try_from(seq - 1).expect("small");
        let mut files = self.files.clone();
        files.retain(|file, _| names().last_record(file).is_none() && *file != names().growing());
        files.insert(names().growing(), Vec::new());
        for (seq, line) in (1..).zip(&self.lines[..kept]) {
            files.entry(file_of(seq)).or_default().extend_from_slice(line);
        }
        files.extend(tree(&self.leaves[..kept], &signing_key(7)));
        let log = log();
        let pin = &self.files[&names().tree("checkpoint")];
        let verified = verify(&Memory::of(&files), &names(), Known { log: Some(&log), pin: Some(pin) });
        let is_found = matches!(&verified, Err(VerifyError::RolledBack { claim: Claim::Pin, .. }));
        assert!(is_found, "a roll-back: {seq} {verified:?}");
    }
}

/// On all cores.
fn for_each_of_the_last_thousand(check: impl Fn(u64) + Sync) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for core in 0..cores {
            let check = &check;
            scope.spawn(move || (RECORDS - 999..=RECORDS).skip(core).step_by(cores).for_each(check));
        }
    });
}

#[test]
fn a_log_that_nobody_changed_holds() {
    let clean = Original::new().clean;
    assert_eq!((clean.chain.first, clean.chain.last, clean.sealed), (1, RECORDS, LEGACY));
    let tree = clean.tree.expect("a tree");
    assert_eq!((tree.leaves, tree.elsewhere, tree.stale, tree.ahead), (RECORDS, 0, 0, 0));
    assert_eq!(tree.checkpoint.size.get(), RECORDS);
}

#[test]
fn every_change_to_each_of_the_last_thousand_entries_is_found() {
    let original = Original::new();
    for_each_of_the_last_thousand(|seq| original.plain_changes_are_found(seq));
}

#[test]
fn every_forged_history_and_fork_at_each_of_the_last_thousand_entries_is_found() {
    let original = Original::new();
    for_each_of_the_last_thousand(|seq| {
        original.forged_histories_are_found(seq);
        original.rolled_back_log_is_found(seq);
    });
}

#[test]
fn every_change_to_each_file_is_found() {
    let original = Original::new();
    let files: Vec<(&PathBuf, &Vec<u8>)> = original.files.iter().collect();
    for (file, content) in files {
        let told = |change: &str, at: usize| format!("{change} at {at} of {}", file.display());
        let found = |pieces: Option<Vec<&[u8]>>| {
            original.is_found(&Memory::of(&original.files).with(file, pieces), None)
        };
        assert!(found(None), "{}", told("the file deleted", 0));
        assert!(found(Some(vec![content.as_slice(), b"x"])), "{}", told("a byte appended", content.len()));
        // Every byte of small files; of large ones as many, spread over the file.
        let step = if content.len() < 400 { 1 } else { content.len() / 60 };
        for at in (0..content.len()).step_by(step).chain(content.len().checked_sub(1)) {
            let (before, after) = content.split_at(at);
            let flipped = [after[0] ^ 1 << (at % 8)];
            assert!(found(Some(vec![before, &flipped, &after[1..]])), "{}", told("a byte edited", at));
            assert!(found(Some(vec![before, &after[1..]])), "{}", told("a byte deleted", at));
            assert!(found(Some(vec![before, b"x", after])), "{}", told("a byte inserted", at));
            assert!(found(Some(vec![before])), "{}", told("the file cut off", at));
            if after.len() > 1 && after[0] != after[1] {
                let swapped = [after[1], after[0]];
                assert!(
                    found(Some(vec![before, &swapped, &after[2..]])),
                    "{}",
                    told("two bytes swapped", at)
                );
            }
        }
    }
}

#[test]
fn a_log_whose_oldest_files_are_elsewhere_is_verified_by_its_tree() {
    let original = Original::new();
    let archived =
        Memory::of(&original.files).with(&names().closed(30), None).with(&names().closed(400), None);
    let log = log();
    let verified = verify(&archived, &names(), Known { log: Some(&log), pin: None }).expect("the rest holds");
    assert_eq!((verified.chain.first, verified.chain.is_whole()), (401, false));
    assert_eq!(verified.tree.expect("a tree").elsewhere, 400);
    // What is in the middle cannot be elsewhere.
    let gap = Memory::of(&original.files).with(&names().closed(400), None);
    assert!(verify(&gap, &names(), Known { log: Some(&log), pin: None }).is_err());
}

#[test]
fn a_log_that_is_older_than_the_checkpoint_beside_it_is_found() {
    let original = Original::new();
    let kept = original.files[&names().tree("checkpoint")].clone();
    let open = |kept: &[u8]| {
        let mut files = original.files.clone();
        files.insert(names().checkpoint(), kept.to_vec());
        verify(&Memory::of(&files), &names(), Known::default())
    };
    assert_eq!(open(&kept).expect("it holds"), original.clean);
    let key = signing_key(7);
    let origin = || key.verifying_key().name().as_str().parse().expect("an origin");
    let newer = Checkpoint::new(origin(), Size::try_from(RECORDS + 1).expect("a size"), Hash::EMPTY_ROOT);
    let error = open(key.sign_checkpoint(&newer).as_bytes()).expect_err("it was rolled back");
    assert!(matches!(error, VerifyError::RolledBack { claim: Claim::Kept, .. }), "{error}");
    let other = Checkpoint::new(origin(), Size::try_from(RECORDS).expect("a size"), Hash::EMPTY_ROOT);
    let error = open(key.sign_checkpoint(&other).as_bytes()).expect_err("it was forked");
    assert!(matches!(error, VerifyError::Forked { claim: Claim::Kept, .. }), "{error}");
    assert!(open(signing_key(8).sign_checkpoint(&newer).as_bytes()).is_err(), "another key");
    assert!(open(&kept[1..]).is_err(), "a damaged one");
}

/// A log whose growing file is closed after it was listed, so many times.
struct Rotating<'a> {
    original: &'a Original,
    times: u64,
    listed: Cell<u64>,
}

impl Rotating<'_> {
    /// Of the last file after so many closures.
    fn cuts(&self, closures: u64) -> impl Iterator<Item = u64> {
        (1..=closures).map(|closure| 800 + 10 * closure)
    }
}

impl LogFiles for Rotating<'_> {
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        let closed = self.cuts(self.listed.get()).map(|last| names().closed(last));
        let all = self.original.files.keys().cloned().chain(closed).collect();
        self.listed.set(self.times.min(self.listed.get() + 1));
        Ok(all)
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + '_>> {
        let cuts: Vec<u64> = [800].into_iter().chain(self.cuts(self.listed.get())).collect();
        let lines = |from: u64, to: u64| (from..=to).flat_map(|seq| self.original.line(seq).to_vec());
        let content = match cuts.windows(2).find(|cut| names().closed(cut[1]) == file) {
            Some(cut) => lines(cut[0] + 1, cut[1]).collect(),
            None if file == names().growing() => lines(cuts.last().expect("one") + 1, RECORDS).collect(),
            None => self.original.files.get(file).ok_or(io::ErrorKind::NotFound)?.clone(),
        };
        Ok(Box::new(Cursor::new(content)))
    }
}

#[test]
fn a_file_that_is_closed_while_the_log_is_verified_is_no_false_alarm_and_hides_no_damage() {
    let mut original = Original::new();
    let verify_rotating = |original: &Original, times| {
        let rotating = Rotating { original, times, listed: Cell::new(0) };
        verify(&rotating, &names(), Known::default())
    };
    for times in [0, 1, 2] {
        assert_eq!(verify_rotating(&original, times).expect("it holds"), original.clean, "{times}");
    }
    // The re-reading ends.
    verify_rotating(&original, 20).expect_err("it changes all the time");
    original.lines[1_000][40] ^= 1;
    for times in [0, 1, 2] {
        let error = verify_rotating(&original, times).expect_err("a record was changed");
        assert!(matches!(error, VerifyError::Walk(WalkError::Broken { seq: 1_001, .. })), "{times}: {error}");
    }
}
