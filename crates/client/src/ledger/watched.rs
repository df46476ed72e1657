//! What a watcher of logs keeps between two looks: for each URL the last checkpoint that was verified, and whose it is.

use std::fmt;

use kms_ledger::checkpoint::Checkpoint;
use kms_ledger::key::VerifyingKey;
use kms_ledger::log::Log;
use serde::{Deserialize, Serialize};

use crate::statement::Signer;

/// The file is not longer, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// URLs with their logs that are kept.
pub const MAX_VIEWS: usize = 256;

const FORMAT: &str = "kmsctl-watch-1";

/// Why a file is not what a watcher has kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DamagedState {
    /// Not JSON with these members.
    #[error("it is not the JSON that `kmsctl audit watch` writes (line {line}, column {column})")]
    Shape {
        /// Where it ends to be.
        line: usize,
        /// Where it ends to be.
        column: usize,
    },
    /// Of another program or version.
    #[error("its format is not {FORMAT}")]
    Format,
    /// More than [`MAX_VIEWS`].
    #[error("it has more than {MAX_VIEWS} logs")]
    TooMany,
    /// A key or a signature in it is not valid.
    #[error("view {0} does not hold: its key is malformed or did not sign its checkpoint")]
    View(usize),
    /// A URL has the same log twice.
    #[error("view {0} is there twice")]
    Twice(usize),
}

/// One log as one URL has shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Where it was shown.
    pub url: String,
    /// Whose it is.
    pub log: Log,
    /// The key of the log, as `GetMeta` shows it.
    pub log_key: String,
    /// The root key that vouched for the log's key, if any did.
    pub root_key: Option<Signer>,
    /// The last checkpoint that was verified.
    pub checkpoint: Checkpoint,
    /// The signed note of it.
    pub note: String,
    /// Leaves, from the first on, that were verified one by one; not all yet if the log is large.
    pub checked: u64,
    /// Whether another log was accepted in its place: it need not be shown any more.
    pub is_replaced: bool,
    /// Whether the URL has shown the log under the key that followed this one. Nothing may be signed with this one since then.
    pub is_ended: bool,
    /// When it was shown last, Unix seconds.
    pub seen_at: u64,
    /// When it had grown last, Unix seconds.
    pub grown_at: u64,
}

/// All that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// Each URL with each of its logs once.
    pub views: Vec<View>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    views: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    url: String,
    log_key: String,
    root_key: Option<String>,
    checkpoint: String,
    /// Absent if it is all leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checked: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    replaced: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
    seen_at: u64,
    grown_at: u64,
}

impl View {
    /// A view whose checkpoint its log has signed; `None` if it has not. Signatures of others are not kept.
    pub fn new(url: String, log_key: &str, root_key: Option<Signer>, note: &[u8], now: u64) -> Option<Self> {
        let log = Log::of_key(log_key.parse::<VerifyingKey>().ok()?).ok()?;
        let checkpoint = log.open(note, &[]).ok()?.checkpoint().clone();
        let (note, log_key, checked) = (log.own_note(note)?, log_key.to_owned(), checkpoint.size.get());
        let (is_replaced, is_ended) = (false, false);
        Some(Self {
            url,
            log,
            log_key,
            root_key,
            checkpoint,
            note,
            checked,
            is_replaced,
            is_ended,
            seen_at: now,
            grown_at: now,
        })
    }
}

impl Watched {
    /// Reads what [`fmt::Display`] writes, and verifies each signature in it.
    ///
    /// # Errors
    /// [`DamagedState`].
    pub fn parse(file: &[u8]) -> Result<Self, DamagedState> {
        let file: File = kms_attest::json::from_utf8(file)
            .map_err(|error| DamagedState::Shape { line: error.line(), column: error.column() })?;
        if file.format != FORMAT {
            return Err(DamagedState::Format);
        }
        if file.views.len() > MAX_VIEWS {
            return Err(DamagedState::TooMany);
        }
        let mut views: Vec<View> = Vec::new();
        for (index, kept) in file.views.into_iter().enumerate() {
            let wrong = DamagedState::View(index + 1);
            let root_key = match kept.root_key {
                Some(key) => Some(key.parse().map_err(|_| wrong.clone())?),
                None => None,
            };
            let view = View::new(kept.url, &kept.log_key, root_key, kept.checkpoint.as_bytes(), kept.seen_at);
            let view = view.ok_or_else(|| wrong.clone())?;
            let checked = kept.checked.unwrap_or(view.checkpoint.size.get());
            if checked > view.checkpoint.size.get() {
                return Err(wrong);
            }
            let (is_replaced, is_ended) = (kept.replaced, kept.ended);
            let view = View { checked, is_replaced, is_ended, grown_at: kept.grown_at, ..view };
            if views.iter().any(|known| known.url == view.url && known.log == view.log) {
                return Err(DamagedState::Twice(index + 1));
            }
            views.push(view);
        }
        Ok(Self { views })
    }

    /// What `url` has shown of `log`.
    pub fn view(&self, url: &str, log: &Log) -> Option<&View> {
        self.views.iter().find(|view| view.url == url && view.log == *log)
    }

    /// Keeps a view in place of the one before.
    pub fn keep(&mut self, view: View) {
        match self.views.iter_mut().find(|known| known.url == view.url && known.log == view.log) {
            Some(known) => *known = view,
            None => self.views.push(view),
        }
    }

    /// Forgets what `url` has shown of `log`, and keeps `before` instead, if there was such a view.
    pub fn restore(&mut self, url: &str, log: &Log, before: Option<&View>) {
        self.views.retain(|view| view.url != url || view.log != *log);
        self.views.extend(before.cloned());
    }
}

/// JSON, with a newline at the end.
impl fmt::Display for Watched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = |view: &View| Kept {
            url: view.url.clone(),
            log_key: view.log_key.clone(),
            root_key: view.root_key.map(|key| key.to_string()),
            checkpoint: view.note.clone(),
            checked: Some(view.checked).filter(|checked| *checked != view.checkpoint.size.get()),
            replaced: view.is_replaced,
            ended: view.is_ended,
            seen_at: view.seen_at,
            grown_at: view.grown_at,
        };
        let file = File { format: FORMAT.to_owned(), views: self.views.iter().map(kept).collect() };
        let text = serde_json::to_string_pretty(&file).map_err(|_| fmt::Error)?;
        writeln!(formatter, "{text}")
    }
}

#[cfg(test)]
mod tests {
    use kms_ledger::Hash;
    use kms_ledger::signature::SigningKey;

    use super::*;

    fn view(url: &str, size: u64) -> View {
        let key = SigningKey::from_seed("kms.example/cvm-kms/1".parse().unwrap(), &[1; 32]).unwrap();
        let origin = "kms.example/cvm-kms/1".parse().unwrap();
        let note = key.sign_checkpoint(&Checkpoint::new(origin, size.try_into().unwrap(), Hash::leaf(b"x")));
        let root = Signer::of_secret(&[7; 32]).unwrap();
        View::new(url.to_owned(), &key.verifying_key().to_string(), Some(root), note.as_bytes(), 9).unwrap()
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let mut watched = Watched::default();
        watched.keep(view("https://a/prpc", 1));
        watched.keep(view("https://b/prpc", 2));
        watched.keep(view("https://a/prpc", 3));
        let read = Watched::parse(watched.to_string().as_bytes()).unwrap();
        assert_eq!(read, watched);
        assert_eq!(read.views.len(), 2);
        assert_eq!(read.view("https://a/prpc", &read.views[0].log).unwrap().checkpoint.size.get(), 3);
    }

    #[test]
    fn progress_and_replacement_are_kept_and_signatures_of_others_are_not() {
        let mut watched = Watched::default();
        let kept = View { checked: 256, is_replaced: true, is_ended: true, ..view("https://a/prpc", 1000) };
        watched.keep(kept.clone());
        assert_eq!(
            Watched::parse(watched.to_string().as_bytes()).unwrap().views,
            std::slice::from_ref(&kept)
        );
        let other = SigningKey::from_seed("witness.example".parse().unwrap(), &[3; 32]).unwrap();
        let padded = format!("{}{}", kept.note, other.sign(&kept.checkpoint.to_string()).repeat(90));
        let view = View::new(kept.url.clone(), &kept.log_key, None, padded.as_bytes(), 9).unwrap();
        assert_eq!(view.note, kept.note);
        watched.restore(&kept.url, &kept.log, None);
        assert_eq!(watched, Watched::default());
    }

    #[test]
    fn no_altered_byte_of_a_checkpoint_is_read() {
        let mut watched = Watched::default();
        watched.keep(view("https://a/prpc", 1000));
        let text = watched.to_string();
        for (from, to) in [
            ("1000", "1001"),
            ("kmsctl-watch-1", "kmsctl-watch-2"),
            ("views", "seen"),
            ("\"root_key\": \"0", "\"root_key\": \"1"),
        ] {
            assert!(Watched::parse(text.replacen(from, to, 1).as_bytes()).is_err(), "{from}");
        }
        assert!(Watched::parse(&text.as_bytes()[..text.len() / 2]).is_err());
        assert!(Watched::parse(b"").is_err());
        let beyond = text.replacen("\"seen_at\"", "\"checked\": 1001, \"seen_at\"", 1);
        assert_eq!(Watched::parse(beyond.as_bytes()), Err(DamagedState::View(1)));
        let twice = Watched { views: vec![view("https://a/prpc", 1), view("https://a/prpc", 2)] };
        assert_eq!(Watched::parse(twice.to_string().as_bytes()), Err(DamagedState::Twice(2)));
    }
}
