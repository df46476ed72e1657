//! The log of a KMS, verified over its routes.

use std::path::Path;

use kms_client::ledger::leaves::Read;
use kms_client::ledger::{LedgerError, RemoteLog, Tree};
use kms_client::operator::OperatorUrl;
use kms_ledger::Hash;
use kms_ledger::checkpoint::Checkpoint;
use kms_ledger::key::VerifyingKey;
use kms_ledger::log::SignedCheckpoint;
use kms_ledger::proof_file::ProofFile;
use serde_json::{Value, json};

use super::source::{Because, Elsewhere, Shown, Source};
use super::verify::Known;
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::AdminBeside;
use crate::when;

/// A log over the routes of its KMS.
pub(super) struct Remote<'a> {
    pub(super) url: &'a OperatorUrl,
    pub(super) known: &'a Known,
    pub(super) source: &'a Source,
    /// Whether entries are read, and where.
    pub(super) admin: Option<&'a AdminBeside>,
    /// Whether entries that are not served any more are as they should be.
    pub(super) may_be_archived: bool,
    pub(super) is_quick: bool,
    pub(super) witnesses: &'a [VerifyingKey],
    pub(super) save_checkpoint: Option<&'a Path>,
}

/// What was verified.
struct Found {
    shown: Shown,
    signed: SignedCheckpoint,
    pin: Option<Checkpoint>,
    /// The place of the receipt's record.
    receipt: Option<u64>,
    /// `None` if only the edge of the tree was read.
    read: Option<Read>,
}

impl Remote<'_> {
    pub(super) async fn verify(&self, terminal: &Terminal) -> Outcome {
        let (pin, receipt) = (self.known.read_pin()?, self.known.read_receipt()?);
        let progress = terminal.progress("reading the log's key and checkpoint");
        let elsewhere = if pin.is_some() { Elsewhere::Signature } else { Elsewhere::Nothing };
        let shown = self.source.open(self.url, self.known.log_key.as_slice(), elsewhere).await?;
        let note = shown.files.checkpoint().await.map_err(|error| Failure::from(error).about(self.url))?;
        let signed = self.open(&shown, &note)?;
        let pin = pin.map(|pin| self.open_pin(&shown, &pin)).transpose()?;
        progress.now("verifying the tree");
        let failed = |error| failure(self.url, error);
        let tree = Tree::open(&shown.files, signed.checkpoint()).await.map_err(failed)?;
        if let Some(pin) = &pin {
            tree.check_beginning(pin).await.map_err(|error| failed(error).about("--pin"))?;
        }
        let receipt = match &receipt {
            Some(receipt) => Some(self.prove(&shown, &tree, receipt).await?),
            None => None,
        };
        progress.now("verifying every leaf");
        let read = if self.is_quick { None } else { Some(self.read(terminal, &tree).await?) };
        drop(progress);
        if let Some(path) = self.save_checkpoint {
            files::write(path, &note, Readers::Everyone, Existing::Replaced)?;
        }
        let found = Found { signed, pin, receipt, read, shown };
        terminal.show(&self.report(&found, &note), |page| self.show(page, &found))?;
        Ok(if self.is_whole(&found) { Exit::Done } else { Exit::Unproven })
    }

    /// Whether every record was read that should be. Records that are hidden look like those that were moved away.
    fn is_whole(&self, found: &Found) -> bool {
        self.may_be_archived || found.read.is_none_or(|read| read.elsewhere == 0)
    }

    fn unproven(&self, problem: impl std::fmt::Display) -> Failure {
        Failure::unproven(format_args!("{}: {problem}", self.url))
    }

    /// The checkpoint, signed by the log, and cosigned by each witness that is asked for.
    fn open(&self, shown: &Shown, note: &[u8]) -> Outcome<SignedCheckpoint> {
        let signed = shown.log.open(note, self.witnesses);
        let signed = signed.map_err(|error| self.unproven(format_args!("its checkpoint: {error}")))?;
        let has_seen = |key: &VerifyingKey| signed.cosignatures().iter().any(|by| by.key == *key);
        match self.witnesses.iter().find(|key| !has_seen(key)) {
            Some(key) => {
                Err(self.unproven(format_args!("the witness {} has not cosigned the checkpoint", key.name())))
            }
            None => Ok(signed),
        }
    }

    /// The kept checkpoint, signed with the key of the log or with one that it had before.
    fn open_pin(&self, shown: &Shown, note: &[u8]) -> Outcome<Checkpoint> {
        let mut opened = shown.logs().map(|log| log.open(note, &[]));
        let first = opened.next();
        if let Some(signed) = opened.find_map(Result::ok) {
            return Ok(signed.checkpoint().clone());
        }
        let error = match first {
            Some(Ok(signed)) => return Ok(signed.checkpoint().clone()),
            Some(Err(error)) => error.to_string(),
            None => String::new(),
        };
        let is_older = shown.claimed.iter().any(|earlier| earlier.log.open(note, &[]).is_ok());
        Err(match is_older {
            true => self.unproven(
                "--pin: it is signed with a key that the log had before, as this server says; name the root key that \
                 vouches for that (--k256-pubkey), or the root CA of the KMS (--root-ca)",
            ),
            false => self.unproven(format_args!("--pin: {error}")),
        })
    }

    /// The place of the receipt's record, which is in the tree.
    async fn prove(&self, shown: &Shown, tree: &Tree<'_>, receipt: &ProofFile) -> Outcome<u64> {
        let unproven = |error: &dyn std::fmt::Display| self.unproven(format_args!("the receipt: {error}"));
        let entry = receipt.extra.as_ref().ok_or_else(|| unproven(&"it is without its record (extra)"))?;
        let verified = receipt.verify(entry, &shown.log, &[]).or_else(|error| {
            // A key that the log had before may have signed it.
            shown.logs().find_map(|log| receipt.verify(entry, log, &[]).ok()).ok_or(error)
        });
        let signed = verified.map_err(|error| unproven(&error))?;
        let failed = |error| failure(self.url, error).about("the receipt");
        tree.check_beginning(signed.checkpoint()).await.map_err(failed)?;
        tree.check_leaf(receipt.index, &Hash::leaf(entry)).await.map_err(failed)?;
        Ok(receipt.index.get())
    }

    async fn read(&self, terminal: &Terminal, tree: &Tree<'_>) -> Outcome<Read> {
        let entries = match self.admin {
            Some(admin) => {
                let connection = admin.service(self.source.server()).connect(terminal).await?;
                Some(RemoteLog::new(connection))
            }
            None => None,
        };
        let read = tree.check_leaves(0, u64::MAX, entries.as_ref(), &mut |_| ()).await;
        read.map_err(|error| failure(self.url, error))
    }

    fn report(&self, found: &Found, note: &[u8]) -> Value {
        let checkpoint = found.signed.checkpoint();
        let witnesses: Vec<Value> = found
            .signed
            .cosignatures()
            .iter()
            .map(|by| json!({ "name": by.key.name().as_str(), "time": when::at(by.time.get()) }))
            .collect();
        json!({
            "url": self.url.to_string(),
            "origin": checkpoint.origin.as_str(),
            "log_key": found.shown.log_key,
            "log_key_believed_because": found.shown.because.words(),
            "earlier_log_keys": found.shown.earlier().iter().map(|key| key.log_key.as_str()).collect::<Vec<_>>(),
            "k256_pubkey": found.shown.root_key.map(|key| key.to_string()),
            "size": checkpoint.size.get(),
            "root": checkpoint.root.to_base64(),
            "checkpoint": String::from_utf8_lossy(note),
            "pin": found.pin.as_ref().map(|pin| json!({ "size": pin.size.get() })),
            "receipt": found.receipt.map(|index| json!({ "leaf_index": index })),
            "leaves": found.read.map(|read| read.leaves),
            "entries": found.read.map(|read| read.entries),
            "witnesses": witnesses,
            "not_verified": self.not_verified(found),
        })
    }

    /// What this says nothing about.
    fn not_verified(&self, found: &Found) -> Vec<String> {
        let mut open = Vec::new();
        let mut note = |is_open: bool, text: String| {
            if is_open {
                open.push(text);
            }
        };
        note(
            found.shown.because == Because::AnyServer,
            "whose log it is: any server was believed (--k256-pubkey)".to_owned(),
        );
        note(
            found.pin.is_none(),
            "whether it was rolled back or forked before: no checkpoint was kept (--pin)".to_owned(),
        );
        note(
            found.signed.cosignatures().is_empty(),
            "whether others are shown the same log: no witness was asked for (--witness)".to_owned(),
        );
        match found.read {
            None => note(true, "most tiles: only those that were needed were read (--quick)".to_owned()),
            Some(read) => {
                note(
                    read.entries == 0 && read.elsewhere == 0 && read.leaves > 0,
                    "what the records say: only their hashes were read (--entries)".to_owned(),
                );
                note(
                    read.elsewhere > 0,
                    format!(
                        "what {} records say that the KMS does not serve{}",
                        read.elsewhere,
                        if self.may_be_archived {
                            ""
                        } else {
                            " (--entries-may-be-archived, if they were moved away)"
                        }
                    ),
                );
            }
        }
        open
    }

    fn show(&self, page: &mut Page, found: &Found) {
        let checkpoint = found.signed.checkpoint();
        let word = match self.is_whole(found) {
            true => page.toned(Tone::Good, "verified"),
            false => page.toned(Tone::Bad, "NOT VERIFIED"),
        };
        page.line(format_args!("{word}  the log of {}", self.url));
        page.field("log", printable(checkpoint.origin.as_str()));
        page.field(
            "log key",
            format_args!("{} ({})", printable(&found.shown.log_key), found.shown.because.words()),
        );
        for earlier in found.shown.earlier() {
            let (key, by) = (printable(&earlier.log_key), earlier.root_key);
            page.field("earlier key", format_args!("{key} (signed by {by})"));
        }
        page.field("k256 public key", found.shown.root_key.map(|key| key.to_string()).unwrap_or_default());
        page.field("signed", format_args!("{} leaves", checkpoint.size));
        page.field("root", checkpoint.root);
        if let Some(pin) = &found.pin {
            page.field("pin", format_args!("the log begins with its {} leaves", pin.size));
        }
        if let Some(index) = found.receipt {
            page.field("receipt", format_args!("its record is leaf {index}"));
        }
        if let Some(read) = found.read {
            page.field("leaves", format_args!("{}, which lead to the signed root", read.leaves));
            if read.entries > 0 {
                page.field(
                    "records",
                    format_args!("{}, those of the leaves, each following from the one before", read.entries),
                );
            }
        }
        for by in found.signed.cosignatures() {
            let (name, time) = (printable(by.key.name().as_str()), when::at(by.time.get()));
            page.field("witness", format_args!("{name} has seen it at {time}"));
        }
        for open in self.not_verified(found) {
            page.field("not verified", open);
        }
    }
}

/// The failure for an error: a server that does not answer proves nothing wrong, every other error does.
pub(super) fn failure(url: &OperatorUrl, error: LedgerError) -> Failure {
    match error {
        LedgerError::Call(error) => Failure::from(error).about(url),
        error => Failure::unproven(format_args!("{url}: {error}")),
    }
}
