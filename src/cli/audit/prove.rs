//! `kms audit prove`: writes the proof file of one record.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use kms_attest::small_file::small_file;
use kms_ledger::log::Log;
use kms_ledger::note::MAX_NOTE;
use kms_ledger::proof::InclusionProof;
use kms_ledger::proof_file::ProofFile;
use kms_ledger::store::TileFiles;
use kms_ledger::vouched::VouchedKey;
use kms_ledger::walk::{WalkError, walk};
use kms_ledger::{Index, chain};
use serde::Deserialize;

use super::Place;

#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = false)]
pub(in super::super) struct Prove {
    #[command(flatten)]
    place: Place,
    /// Index of the leaf in the tree, from 0
    #[arg(long, group = "which")]
    index: Option<u64>,
    /// Number of the record (`seq`)
    #[arg(long, group = "which")]
    seq: Option<u64>,
}

impl Prove {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        #[derive(Deserialize)]
        struct Node {
            first: u64,
        }
        let names = self.place.names()?;
        let read = |file: std::path::PathBuf| {
            small_file(&file, MAX_NOTE as u64).with_context(|| file.display().to_string())
        };
        let key = VouchedKey::parse(&read(names.tree("key"))?).context("the key of the log is malformed")?;
        let checkpoint = read(names.tree("checkpoint"))?;
        let log = Log::of_key(key.key)?;
        let signed = log.open(&checkpoint, &[])?;
        let tree = signed.checkpoint();
        let node: Node = kms_attest::json::from_utf8(&read(names.node())?)?;
        let index = match (self.index, self.seq) {
            (Some(index), _) => Some(index),
            (None, seq) => seq.and_then(|seq| seq.checked_sub(node.first)),
        };
        let Some(index) = index.filter(|index| *index < tree.size.get()) else {
            bail!("the signed tree has {} leaves, but not this one", tree.size);
        };
        let index = Index::try_from(index)?;
        let hashes = TileFiles::new(&names.tree("")).hashes(tree.size);
        let proof = InclusionProof::build(&hashes, index, tree.size)?;
        let extra = self.entry(node.first + index.get())?;
        match &extra {
            Some(entry) => proof.verify(entry, index, tree.size, &tree.root)?,
            None => eprintln!(
                "the record is not in these files, or of a version without a ledger: the proof is without the entry"
            ),
        }
        let file = ProofFile { extra, index, proof, checkpoint: String::from_utf8(checkpoint)? };
        print!("{file}");
        Ok(ExitCode::SUCCESS)
    }

    /// The data under the record's leaf hash, if its file is here.
    fn entry(&self, seq: u64) -> anyhow::Result<Option<Vec<u8>>> {
        let (names, files) = (self.place.names()?, self.place.directories());
        let segments = names.segments(&files)?;
        let place = segments.iter().position(|file| names.last_record(file).is_none_or(|last| seq <= last));
        let Some(file) = place.and_then(|place| segments.get(place)) else { return Ok(None) };
        let mut entry = None;
        walk(&files, std::slice::from_ref(file), &mut |record| {
            if record.seq == seq && chain::is_salted(record.line) {
                entry = chain::content(record.line);
            }
            Ok::<_, WalkError>(())
        })?;
        Ok(entry)
    }
}
