//! The file of the invitations of replicas, replaced as a whole by one rename.

use std::io;
use std::path::Path;

use kms_attest::state_file::{Replaced, StateFile};
use kms_client::url::{KmsUrl, UrlError};
use kms_wire::join::{JoinReport, is_hex};
use serde::{Deserialize, Serialize};

use crate::domain::Domain;

/// The largest file, enough for the most invitations.
const MAX_FILE: u64 = 4 << 20;
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;
/// The most invitations, those that are over included.
pub const MAX_JOINS: usize = 256;
/// The longest label, in bytes.
pub const MAX_LABEL: usize = 100;
/// The longest of the other texts, in bytes.
const MAX_TEXT: usize = 256;

/// A text as a record may have it: cut, and without control characters.
pub fn fitting(text: &str) -> String {
    let text: String = text.chars().filter(|letter| !letter.is_control()).collect();
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

/// Whether people may call an invitation so.
pub fn is_join_label(text: &str) -> bool {
    is_line(text, MAX_LABEL)
}

fn is_line(text: &str, most: usize) -> bool {
    text.len() <= most && !text.chars().any(char::is_control)
}

/// Why the invitations of replicas are unknown.
#[derive(Debug, thiserror::Error)]
pub enum JoinFileError {
    /// The file cannot be read.
    #[error(
        "joins.json of the key directory cannot be read, so it is not known which invitations of replicas were used: {0}"
    )]
    Unreadable(#[source] io::Error),
    /// The content is invalid.
    #[error(
        "joins.json of the key directory is damaged ({0}), so it is not known which invitations of replicas were used; remove \
         it: no invitation counts any more then"
    )]
    Damaged(String),
}

/// The URL by which a new node reaches the source of its root keys. It is part of a command for a shell, so it has no characters
/// that a shell reads otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceUrl(String);

/// Why a text is not such a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SourceUrlError {
    /// It is not the URL of a KMS.
    #[error("source_url: {0}")]
    Url(#[from] UrlError),
    /// It has other characters.
    #[error("source_url: the path has letters, digits and -._~/ only")]
    Characters,
}

impl TryFrom<String> for SourceUrl {
    type Error = SourceUrlError;

    fn try_from(text: String) -> Result<Self, SourceUrlError> {
        let url: KmsUrl = text.trim().parse()?;
        let url = url.to_string();
        match url.bytes().all(|it| it.is_ascii_alphanumeric() || b"-._~/:[]".contains(&it)) {
            true => Ok(Self(url)),
            false => Err(SourceUrlError::Characters),
        }
    }
}

impl From<SourceUrl> for String {
    fn from(url: SourceUrl) -> Self {
        url.0
    }
}

impl SourceUrl {
    /// The URL as a word of a shell command: the brackets of an IPv6 address are patterns in some shells.
    pub fn quoted(&self) -> String {
        let short = self.0.strip_suffix("/prpc").unwrap_or(&self.0);
        if short.contains('[') { format!("'{short}'") } else { short.to_owned() }
    }
}

/// The file, which no other process writes.
#[derive(Debug, Clone)]
pub struct JoinFile(StateFile);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    joins: Vec<JoinRecord>,
}

/// What happened to an invitation.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum JoinStage {
    /// A replica has shown its token.
    Started,
    /// The evidence of the replica verified, and the invitation is bound to its key.
    Attested,
    /// The policy allows it.
    Allowed,
    /// The root keys were sent to it.
    Keys,
    /// The replica says that it has them on its disk.
    Committed,
    /// The replica says that it serves.
    Serving,
    /// The replica was refused; it may try again.
    Refused,
    /// Another machine has shown the token, and was refused.
    UsedByAnother,
    /// It was not used in time.
    Expired,
    /// An owner has cancelled it.
    Cancelled,
}

impl From<JoinReport> for JoinStage {
    fn from(report: JoinReport) -> Self {
        match report {
            JoinReport::Committed => Self::Committed,
            JoinReport::Serving => Self::Serving,
        }
    }
}

impl JoinStage {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Attested => "attested",
            Self::Allowed => "allowed",
            Self::Keys => "keys",
            Self::Committed => JoinReport::Committed.name(),
            Self::Serving => JoinReport::Serving.name(),
            Self::Refused => "refused",
            Self::UsedByAnother => "used_by_another",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One step of an invitation. Each stage is there once: of `refused` the latest, of the others the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepRecord {
    /// The stage.
    pub stage: JoinStage,
    /// Unix seconds.
    pub at: u64,
    /// Of `refused`: the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Of `refused`: the id of the denial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denial: Option<String>,
}

/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRecord {
    /// 16 hex digits.
    pub id: String,
    /// The name in the certificate of the new replica.
    pub domain: String,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// How it reaches this KMS, where that is not as CVMs do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_url: Option<SourceUrl>,
    /// Argon2id hash of the secret of the token, PHC form.
    pub hash: String,
    /// Unix seconds.
    pub created_at: u64,
    /// The operator.
    pub created_by: String,
    /// Unix seconds.
    pub expires_at: u64,
    /// SHA-256 of the attested public key of the replica that used it first, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// In order of their times.
    pub steps: Vec<StepRecord>,
}

impl JoinRecord {
    /// The step of this stage.
    pub fn step(&self, stage: JoinStage) -> Option<&StepRecord> {
        self.steps.iter().find(|step| step.stage == stage)
    }

    fn check(&self) -> Result<(), String> {
        let is_short = |text: &str| is_line(text, MAX_TEXT);
        if !is_hex(&self.id, 16) {
            return Err("an id is not 16 lower-case hex digits".to_owned());
        }
        let problem = |what: &str| Err(format!("the {what} of {} is not valid", self.id));
        if Domain::parse(&self.domain).is_err() {
            return problem("domain");
        }
        if self.label.as_ref().is_some_and(|label| !is_join_label(label)) {
            return problem("label");
        }
        if self.key.as_ref().is_some_and(|key| !is_hex(key, 64)) {
            return problem("key");
        }
        if !is_short(&self.hash) || !is_short(&self.created_by) {
            return problem("hash or operator");
        }
        let mut stages: Vec<_> = self.steps.iter().map(|step| step.stage).collect();
        stages.sort_unstable();
        if stages.windows(2).any(|pair| pair[0] == pair[1]) {
            return problem("list of steps");
        }
        let texts = self.steps.iter().flat_map(|step| step.code.iter().chain(&step.denial));
        if texts.into_iter().any(|text| !is_short(text)) {
            return problem("list of steps");
        }
        Ok(())
    }
}

impl JoinFile {
    /// The file at this path, which may not exist yet.
    pub fn new(file: impl Into<StateFile>) -> Self {
        Self(file.into())
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// All records; empty if there is no file.
    ///
    /// # Errors
    /// [`JoinFileError`]
    pub fn read(&self) -> Result<Vec<JoinRecord>, JoinFileError> {
        Ok(super::parsed(&self.0, MAX_FILE, parse, JoinFileError::Unreadable, JoinFileError::Damaged)?
            .unwrap_or_default())
    }

    /// Replaces all records. Waits for the disk.
    ///
    /// # Errors
    /// Those of the system; the old file is then unchanged.
    pub fn replace(&self, joins: &[JoinRecord]) -> io::Result<Replaced> {
        self.0.replace(&content(joins)?)
    }
}

/// The content of a file with these records.
///
/// # Errors
/// Only if the records cannot be serialized, which does not happen: they are texts and numbers.
pub fn content(joins: &[JoinRecord]) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(&Content { version: VERSION, joins: joins.to_vec() })?;
    text.push(b'\n');
    Ok(text)
}

/// Reads the content of a file.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Vec<JoinRecord>, String> {
    let content: Content = kms_attest::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    if content.version != VERSION {
        return Err(format!("version must be {VERSION}, got {}", content.version));
    }
    if content.joins.len() > MAX_JOINS {
        return Err(format!("at most {MAX_JOINS} invitations are allowed, got {}", content.joins.len()));
    }
    content.joins.iter().try_for_each(JoinRecord::check)?;
    let mut ids: Vec<_> = content.joins.iter().map(|record| &*record.id).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("the invitation {} is there twice", pair[0])),
        None => Ok(content.joins),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> JoinRecord {
        JoinRecord {
            id: id.to_owned(),
            domain: "kms2.example.com".to_owned(),
            label: Some("rack 7".to_owned()),
            source_url: None,
            hash: "$argon2id$".to_owned(),
            created_at: 5,
            created_by: "token".to_owned(),
            expires_at: 905,
            key: Some("07".repeat(32)),
            steps: vec![StepRecord {
                stage: JoinStage::Refused,
                at: 9,
                code: Some("kms_not_allowed".to_owned()),
                denial: Some("1".to_owned()),
            }],
        }
    }

    #[test]
    fn what_an_issuer_calls_a_person_fits_into_a_record() {
        let by = format!("oidc:\u{7}{}", "ä".repeat(300));
        let record = JoinRecord { created_by: fitting(&by), ..record("0123456789abcdef") };
        assert_eq!(parse(&content(std::slice::from_ref(&record)).unwrap()), Ok(vec![record]));
    }

    #[test]
    fn a_source_is_the_url_of_a_kms_that_no_shell_reads_otherwise() {
        for (text, quoted) in [
            ("https://nat.example:9000", "https://nat.example:9000"),
            (" https://nat.example/kms/prpc/ ", "https://nat.example/kms"),
            ("https://[fd00::1]:8000", "'https://[fd00::1]:8000'"),
        ] {
            assert_eq!(SourceUrl::try_from(text.to_owned()).unwrap().quoted(), quoted, "{text}");
        }
        for (text, error) in [
            ("http://nat.example", SourceUrlError::Url(UrlError::NotHttps)),
            ("https://me@nat.example", SourceUrlError::Url(UrlError::Credentials)),
            ("https://nat.example/$(id)", SourceUrlError::Characters),
            ("https://nat.example/a;b", SourceUrlError::Characters),
            ("https://nat.example/'", SourceUrlError::Characters),
        ] {
            assert_eq!(SourceUrl::try_from(text.to_owned()), Err(error), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_not_ours_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let file = JoinFile::new(home.path().join("joins.json"));
        assert!(file.read().unwrap().is_empty());
        let bare = JoinRecord { label: None, key: None, steps: Vec::new(), ..record("00000000000000ff") };
        let url = SourceUrl::try_from("https://nat.example:9000".to_owned()).unwrap();
        let records = vec![JoinRecord { source_url: Some(url), ..record("0123456789abcdef") }, bare];
        file.replace(&records).and_then(Replaced::safely).unwrap();
        assert_eq!(file.read().unwrap(), records);
        let one = || record("0123456789abcdef");
        let text = |joins: &[JoinRecord]| String::from_utf8(content(joins).unwrap()).unwrap();
        let step = one().steps[0].clone();
        for (text, problem) in [
            (String::new(), "EOF"),
            (r#"{"version":2,"joins":[]}"#.to_owned(), "version must be 1, got 2"),
            (r#"{"version":1,"joins":[],"x":1}"#.to_owned(), "unknown field"),
            (text(&[one(), one()]), "is there twice"),
            (text(&[record("0123456789ABCDEF")]), "an id is not"),
            (text(&[JoinRecord { domain: "a b".to_owned(), ..one() }]), "the domain of"),
            (text(&records).replace("https:", "http:"), "starts with https"),
            (text(&[JoinRecord { label: Some("\u{7}".to_owned()), ..one() }]), "the label of"),
            (text(&[JoinRecord { key: Some("07".to_owned()), ..one() }]), "the key of"),
            (text(&[JoinRecord { created_by: "x".repeat(257), ..one() }]), "hash or operator"),
            (text(&[JoinRecord { steps: vec![step.clone(), step], ..one() }]), "list of steps"),
            (text(&[one()]).replace("refused", "done"), "unknown variant"),
            (text(&vec![one(); MAX_JOINS + 1]), "at most 256"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
