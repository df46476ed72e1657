//! The files of a log, verified with the same code as `kms audit verify`.

use std::io;
use std::path::{Path, PathBuf};

use kms_client::ledger::LedgerError;
use kms_client::statement::{Signer, key_change_signers, log_key_signer};
use kms_client::text::causes;
use kms_ledger::checkpoint::Checkpoint;
use kms_ledger::files::{Directories, Names};
use kms_ledger::log::Log;
use kms_ledger::proof::{self, BuildError, ConsistencyProof, HashReader, InclusionProof};
use kms_ledger::proof_file::ProofFile;
use kms_ledger::store::TileFiles;
use kms_ledger::verify::{self, TreeState, Verified, VerifyError};
use kms_ledger::walk::WalkError;
use kms_ledger::{Hash, Size};
use serde_json::{Value, json};

use super::verify::{Files, Known};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone};

/// The name of the log in its directory, unless it is configured otherwise.
const USUAL_NAME: &str = "audit.jsonl";

/// A log whose files are here.
pub(super) struct Local<'a> {
    pub(super) target: &'a Path,
    pub(super) known: &'a Known,
    /// The root key that must have signed the key of the log.
    pub(super) root_key: Option<Signer>,
    pub(super) files: &'a Files,
}

/// What is wrong with a log whose chain and tree hold.
struct Finding {
    text: String,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Somebody has looked into it.
    Known,
    Open,
}

impl Local<'_> {
    pub(super) fn verify(&self, terminal: &Terminal) -> Outcome {
        let file = if self.target.is_dir() { self.target.join(USUAL_NAME) } else { self.target.to_owned() };
        if let Err(error) = std::fs::metadata(&file) {
            return Err(Failure::usage(format_args!("{}: {error}", file.display())));
        }
        let names = Names::of(&file)
            .ok_or_else(|| Failure::usage(format_args!("{}: the name is no text", file.display())))?;
        let own = file.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        let directories: Vec<PathBuf> =
            [own.to_owned()].into_iter().chain(self.files.archive.iter().cloned()).collect();
        let directories = Directories { directories };
        let (pin, receipt) = (self.known.read_pin()?, self.known.read_receipt()?);
        let progress = terminal.progress("verifying every record");
        let known =
            verify::Known { log: self.known.log_key.as_ref().map(|key| &key.log), pin: pin.as_deref() };
        let verified = verify::verify(&directories, &names, known).map_err(|error| failure(&file, &error))?;
        drop(progress);
        self.check_vouching(&file, &verified)?;
        let proven = receipt.map(|receipt| prove(&names, &verified, &receipt)).transpose()?;
        let findings = self.findings(&verified);
        let report = self.report(&file, &verified, proven.as_ref(), &findings);
        terminal.show(&report, |page| self.show(page, &verified, proven.as_ref(), &findings))?;
        let is_open = findings.iter().any(|finding| finding.standing == Standing::Open);
        Ok(if is_open { Exit::Unproven } else { Exit::Done })
    }

    /// Whether the key of the log is signed by the root key that is known.
    fn check_vouching(&self, file: &Path, verified: &Verified) -> Outcome<()> {
        let Some(root_key) = self.root_key else { return Ok(()) };
        let unproven =
            |what: &dyn std::fmt::Display| Failure::unproven(format_args!("{}: {what}", file.display()));
        let tree = verified.tree.as_ref().ok_or_else(|| unproven(&"nothing of the log is signed"))?;
        let signer = log_key_signer(&tree.key.key.to_string(), &tree.key.vouching);
        let signer = signer.map_err(|error| unproven(&error))?;
        // Root keys that the known one leads to: it has signed the next key of the log too.
        let mut known = vec![root_key];
        for change in &verified.key_changes {
            let signers = key_change_signers(change).map_err(|error| {
                unproven(&format_args!("record {}, a new key of the log: {error}", change.seq))
            })?;
            if signers.is_endorsed && known.contains(&signers.before) {
                known.push(signers.after);
            }
        }
        if known.contains(&signer) {
            return Ok(());
        }
        Err(unproven(&format_args!("the key of the log is signed by {signer}, not by --k256-pubkey")))
    }

    /// What is not as it should be although the chain holds.
    fn findings(&self, verified: &Verified) -> Vec<Finding> {
        let chain = &verified.chain;
        let damages = chain.damages.iter().map(|damage| {
            let is_known = self.files.known_damage.contains(&damage.after);
            let standing = if is_known { Standing::Known } else { Standing::Open };
            let advice = match standing {
                Standing::Known => String::new(),
                Standing::Open => format!("; look at them, then say --known-damage {}", damage.after),
            };
            let text = format!(
                "{} bytes after record {} in {} are no records{advice}",
                damage.bytes,
                damage.after,
                damage.file.display()
            );
            Finding { text, standing }
        });
        let is_incomplete = !chain.is_whole() && verified.archived + 1 < chain.first;
        let incomplete = is_incomplete.then(|| Finding {
            text: format!(
                "the first record is number {}: those before it are in other files; name their directory with --archive",
                chain.first
            ),
            standing: Standing::Open,
        });
        damages.chain(incomplete).collect()
    }

    fn report(
        &self,
        file: &Path,
        verified: &Verified,
        proven: Option<&Proven>,
        findings: &[Finding],
    ) -> Value {
        let tree = verified.tree.as_ref().map(|tree| {
            json!({
                "origin": tree.checkpoint.origin.as_str(),
                "log_key": tree.key.key.to_string(),
                "size": tree.checkpoint.size.get(),
                "root": tree.checkpoint.root.to_base64(),
                "leaves": tree.leaves,
            })
        });
        json!({
            "log": file.display().to_string(),
            "records": verified.chain.records(),
            "first": verified.chain.first,
            "head": hex::encode(verified.chain.head),
            "unacknowledged": verified.chain.unacknowledged,
            "sealed": verified.sealed,
            "archived": verified.archived,
            "tree": tree,
            "receipt": proven.map(|proven| json!({ "leaf_index": proven.index })),
            "findings": findings.iter().map(|finding| {
                json!({ "text": finding.text, "known": finding.standing == Standing::Known })
            }).collect::<Vec<_>>(),
            "not_verified": self.not_verified(verified),
        })
    }

    /// What this says nothing about.
    fn not_verified(&self, verified: &Verified) -> Vec<String> {
        let mut open = Vec::new();
        match &verified.tree {
            None => {
                open.push("whether these are the records that were signed: nothing is signed yet".to_owned())
            }
            Some(tree) => {
                if self.known.log_key.is_none() && self.root_key.is_none() {
                    open.push(
                        "whose log it is: the key beside the log was believed (--k256-pubkey, --log-key)"
                            .to_owned(),
                    );
                }
                if self.known.pin.is_none() {
                    open.push(
                        "whether it was rolled back or forked before: no checkpoint was kept (--pin)"
                            .to_owned(),
                    );
                }
                if tree.elsewhere > 0 {
                    open.push(format!(
                        "what is in {} records that were moved away: the tree has their hashes (--archive)",
                        tree.elsewhere
                    ));
                }
            }
        }
        open
    }

    fn show(&self, page: &mut Page, verified: &Verified, proven: Option<&Proven>, findings: &[Finding]) {
        let chain = &verified.chain;
        let is_good = findings.iter().all(|finding| finding.standing == Standing::Known);
        let (tone, word) = if is_good { (Tone::Good, "verified") } else { (Tone::Bad, "NOT VERIFIED") };
        page.line(format_args!(
            "{}  {} records, each following from the one before",
            page.toned(tone, word),
            chain.records()
        ));
        page.field("head", hex::encode(chain.head));
        if chain.unacknowledged > 0 {
            page.field(
                "unacknowledged",
                format_args!("{} more lines; nothing was released on them", chain.unacknowledged),
            );
        }
        if verified.sealed > 0 {
            page.field("sealed", format_args!("{} records from before the ledger", verified.sealed));
        }
        if let Some(tree) = &verified.tree {
            show_tree(page, tree);
        }
        if let Some(proven) = proven {
            page.field("receipt", format_args!("its record is leaf {} of the signed tree", proven.index));
        }
        for finding in findings {
            let name = if finding.standing == Standing::Known { "known" } else { "WRONG" };
            page.field(name, &finding.text);
        }
        for open in self.not_verified(verified) {
            page.field("not verified", open);
        }
    }
}

fn show_tree(page: &mut Page, tree: &TreeState) {
    page.field("log", tree.checkpoint.origin.as_str());
    page.field("signed", format_args!("{} of {} leaves", tree.checkpoint.size, tree.leaves));
    page.field("root", tree.checkpoint.root);
    if tree.stale > 0 {
        page.field(
            "stale",
            format_args!(
                "{} hashes are not those of the records yet: the next start computes them",
                tree.stale
            ),
        );
    }
}

/// A receipt whose record is in the log.
struct Proven {
    index: u64,
}

/// Checks that the record of a receipt is in the signed tree.
fn prove(names: &Names, verified: &Verified, receipt: &ProofFile) -> Outcome<Proven> {
    let unproven = |error: &dyn std::fmt::Display| {
        Failure::unproven(format_args!("the receipt proves nothing: {error}"))
    };
    let tree = verified.tree.as_ref().ok_or_else(|| unproven(&"the log is not signed"))?;
    let log = Log::of_key(tree.key.key.clone()).map_err(|error| unproven(&error))?;
    let earlier =
        || verified.key_changes.iter().filter_map(|change| Log::of_key(change.previous.parse().ok()?).ok());
    let entry = receipt.extra.as_ref().ok_or_else(|| unproven(&"it is without its record (extra)"))?;
    let signed = receipt
        .verify(entry, &log, &[])
        .or_else(|error| earlier().find_map(|log| receipt.verify(entry, &log, &[]).ok()).ok_or(error));
    let signed = signed.map_err(|error| unproven(&error))?;
    let checkpoint = &tree.checkpoint;
    let hashes = TileFiles::new(&names.tree("")).hashes(checkpoint.size);
    begins_with(&hashes, checkpoint, signed.checkpoint())
        .map_err(|problem| Failure::unproven(format_args!("the receipt: {problem}")))?;
    let proof = InclusionProof::build(&hashes, receipt.index, checkpoint.size);
    let proof = proof.map_err(|error| unproven(&error))?;
    let leaf = Hash::leaf(entry);
    proof
        .verify_leaf_hash(&leaf, receipt.index, checkpoint.size, &checkpoint.root)
        .map_err(|_| unproven(&format_args!("leaf {} of the log is another record", receipt.index)))?;
    Ok(Proven { index: receipt.index.get() })
}

/// Checks that a tree begins with an older one; otherwise says what is wrong.
fn begins_with<R: HashReader>(hashes: &R, newer: &Checkpoint, older: &Checkpoint) -> Result<(), String>
where
    R::Error: std::fmt::Display,
{
    let (old, new) = (older.size, newer.size);
    if old > new {
        return Err(LedgerError::Shrunk { old, new }.to_string());
    }
    if old == Size::ZERO {
        let is_empty = older.root == Hash::EMPTY_ROOT;
        return if is_empty { Ok(()) } else { Err(LedgerError::Forked(old).to_string()) };
    }
    let unread = |error: BuildError<R::Error>| error.to_string();
    let found = proof::root(hashes, old).map_err(unread)?;
    let proof = ConsistencyProof::build(hashes, old, new).map_err(unread)?;
    // What the files say of the older tree, the signed root confirms.
    proof.verify((old, &found), (new, &newer.root)).map_err(|_| LedgerError::Tiles(new).to_string())?;
    if found == older.root { Ok(()) } else { Err(LedgerError::Forked(old).to_string()) }
}

/// A file that cannot be read proves nothing wrong; everything else does.
fn failure(file: &Path, error: &VerifyError) -> Failure {
    let is_unread = matches!(error, VerifyError::Walk(WalkError::Read { source, .. })
        if source.kind() != io::ErrorKind::InvalidData);
    let text = format!("{}: {}", file.display(), causes(error));
    if is_unread { Failure::failed(text) } else { Failure::unproven(text) }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use kms_ledger::proof::Node;

    use super::*;

    /// A tree whose leaves have these hashes.
    struct Leaves(Vec<Hash>);

    impl Leaves {
        fn of(size: u8, other: u8) -> Self {
            Self((0..size).map(|leaf| Hash::leaf(&[leaf, u8::from(leaf >= other)])).collect())
        }

        fn checkpoint(&self, size: u64) -> Checkpoint {
            let size = Size::try_from(size).expect("a size");
            let root = proof::root(self, size).expect("a root");
            Checkpoint::new("kms.example/cvm-kms/1".parse().expect("an origin"), size, root)
        }
    }

    impl HashReader for Leaves {
        type Error = Infallible;

        fn read(&self, nodes: &[Node]) -> Result<Vec<Hash>, Infallible> {
            let hash = |node: &Node| {
                let first = (node.index << node.level) as usize;
                let mut row = self.0[first..first + (1 << node.level)].to_vec();
                while let [_, _, ..] = row[..] {
                    row = row.chunks(2).map(|pair| Hash::node(&pair[0], &pair[1])).collect();
                }
                row[0]
            };
            Ok(nodes.iter().map(hash).collect())
        }
    }

    #[test]
    fn a_receipt_of_another_history_is_told_from_one_of_this_log() {
        let (log, fork) = (Leaves::of(50, 50), Leaves::of(60, 20));
        let newer = log.checkpoint(50);
        for size in [0, 1, 20, 32, 50] {
            assert_eq!(begins_with(&log, &newer, &log.checkpoint(size)), Ok(()), "{size}");
        }
        for (older, text) in [
            (fork.checkpoint(21), "it was forked"),
            (fork.checkpoint(50), "it was forked"),
            (fork.checkpoint(51), "the log has 50 leaves and had 51"),
            (Checkpoint::new(newer.origin.clone(), Size::ZERO, Hash::leaf(b"x")), "it was forked"),
        ] {
            let problem = begins_with(&log, &newer, &older).expect_err("another history");
            assert!(problem.contains(text), "{problem}");
        }
        let problem = begins_with(&fork, &newer, &fork.checkpoint(30)).expect_err("other files");
        assert!(problem.contains("at least one was altered"), "{problem}");
    }
}
