//! The files of a log, as an auditor verifies them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kms_ledger::files::{LogFiles, Names};
use kms_ledger::verify::{Known, verify};

/// Files that belong to a log, in the order of their numbers in the input.
const FILES: [&str; 9] = [
    "audit.jsonl",
    "audit.2.jsonl",
    "audit.5.jsonl",
    "audit.node",
    "audit.tree/key",
    "audit.tree/checkpoint",
    "audit.tree/synced",
    "audit.tree/0",
    "audit.tree/1",
];

/// Files in memory.
struct Memory(BTreeMap<PathBuf, Vec<u8>>);

impl LogFiles for Memory {
    fn list(&self) -> io::Result<Vec<PathBuf>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + '_>> {
        match self.0.get(file) {
            Some(content) => Ok(Box::new(&content[..])),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// For each file a byte that says which, two bytes of its length, and its content. What verifies has as many records as lines that
/// count, no fewer leaves than were signed, and verifies again.
pub fn log(data: &[u8]) {
    let mut files: BTreeMap<PathBuf, Vec<u8>> =
        (2..8).map(|level| (PathBuf::from(format!("audit.tree/{level}")), Vec::new())).collect();
    let mut rest = data;
    while let Some(([which, high, low], content)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(content.len());
        let (content, others) = content.split_at(length);
        files.insert(FILES[usize::from(*which) % FILES.len()].into(), content.to_vec());
        rest = others;
    }
    let lines: usize = files
        .iter()
        .filter(|(name, _)| name.extension().is_some())
        .map(|(_, content)| content.split(|byte| *byte == b'\n').count())
        .sum();
    let files = Memory(files);
    let names = Names::of(Path::new("audit.jsonl")).expect("a name");
    let Ok(verified) = verify(&files, &names, Known::default()) else { return };
    assert!(verified.chain.records() <= lines as u64);
    if let Some(tree) = &verified.tree {
        assert!(tree.leaves >= tree.checkpoint.size.get() && tree.leaves >= tree.synced);
        let note = &files.0[Path::new("audit.tree/checkpoint")];
        // A checkpoint that is beside the log holds as one that was kept too.
        let known = Known { log: None, pin: Some(note) };
        assert_eq!(verify(&files, &names, known).expect("it holds"), verified);
    }
}
