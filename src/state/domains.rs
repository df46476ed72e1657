//! The file of the domains that operators made, of the archived ones, and of the apps that operators put into one. Replaced as a
//! whole by one rename.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use kms_attest::identity::DomainName;
use kms_attest::state_file::{Replaced, StateFile};
use serde::{Deserialize, Serialize};

use crate::config::DomainRules;

/// The largest file, enough for the most domains and apps.
const MAX_FILE: u64 = 8 << 20;
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Why it is unknown which domains there are, and which apps are in them.
#[derive(Debug, thiserror::Error)]
pub enum DomainFileError {
    /// The file cannot be read.
    #[error(
        "domains.json of the key directory cannot be read, so the domains of some apps are not known: {0}"
    )]
    Unreadable(#[source] io::Error),
    /// The content is invalid.
    #[error(
        "domains.json of the key directory is damaged ({0}), so the domains of some apps are not known; restore it: without it \
         these apps would get other keys"
    )]
    Damaged(String),
    /// It contradicts the configuration.
    #[error("domains.json of the key directory and the configuration contradict each other: {0}")]
    Contradiction(String),
}

/// The file, which no other process writes.
#[derive(Debug, Clone)]
pub struct DomainFile(StateFile);

/// The content of a file that the next start can read.
#[derive(Debug)]
pub struct DomainText(Vec<u8>);

impl DomainText {
    /// Its bytes, for a commit that writes it with other files.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// The records are too many for one file, or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("domains.json would have more than {MAX_FILE} bytes, and the next start would not read it")]
pub struct DomainsTooLarge;

/// All of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainRecords {
    /// The domains that were made at run time.
    pub domains: Vec<DomainRecord>,
    /// The domains that are archived, of the configuration too.
    pub archived: Vec<ArchivedRecord>,
    /// The apps that were put into a domain at run time.
    pub apps: Vec<MemberRecord>,
}

/// `Content<Vec<…>, …>` is read, and a content of references is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content<D, A, M> {
    version: u32,
    domains: D,
    archived: A,
    apps: M,
}

type ReadContent = Content<Vec<DomainRecord>, Vec<ArchivedRecord>, Vec<MemberRecord>>;

/// A domain that was made at run time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainRecord {
    /// Its name.
    pub name: DomainName,
    /// What holds in it.
    pub rules: DomainRules,
    /// Unix seconds.
    pub since: u64,
    /// The operator.
    pub by: String,
}

/// An archived domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedRecord {
    /// Its name.
    pub name: DomainName,
    /// Unix seconds.
    pub since: u64,
    /// The operator.
    pub by: String,
}

/// An app that an operator put into a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberRecord {
    /// The app.
    #[serde(with = "hex::serde")]
    pub app_id: [u8; 20],
    /// The domain.
    pub domain: DomainName,
    /// Unix seconds.
    pub since: u64,
    /// The operator.
    pub by: String,
}

impl DomainRecords {
    /// Whether nothing was made at run time.
    pub fn is_empty(&self) -> bool {
        let Self { domains, archived, apps } = self;
        domains.is_empty() && archived.is_empty() && apps.is_empty()
    }
}

impl DomainFile {
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
    /// [`DomainFileError`]
    pub fn read(&self) -> Result<DomainRecords, DomainFileError> {
        Ok(super::parsed(&self.0, MAX_FILE, parse, DomainFileError::Unreadable, DomainFileError::Damaged)?
            .unwrap_or_default())
    }

    /// Replaces all records. Waits for the disk.
    ///
    /// # Errors
    /// Those of the system; the old file is then unchanged.
    pub fn replace(&self, DomainText(text): &DomainText) -> io::Result<Replaced> {
        self.0.replace(text)
    }
}

impl DomainRecords {
    /// The content of the file with these records.
    ///
    /// # Errors
    /// [`DomainsTooLarge`].
    pub fn text(&self) -> Result<DomainText, DomainsTooLarge> {
        let Self { domains, archived, apps } = self;
        let mut text = serde_json::to_vec_pretty(&Content { version: VERSION, domains, archived, apps })
            .expect("texts and numbers");
        text.push(b'\n');
        if text.len() as u64 > MAX_FILE { Err(DomainsTooLarge) } else { Ok(DomainText(text)) }
    }
}

/// Reads the content of a file.
///
/// # Errors
/// What is wrong with it: a version of another program, or something that is there twice.
pub fn parse(bytes: &[u8]) -> Result<DomainRecords, String> {
    let content: ReadContent = kms_attest::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    let Content { version, domains, archived, apps } = content;
    if version != VERSION {
        return Err(format!("version must be {VERSION}, got {version}"));
    }
    unrepeated(DomainRecords { domains, archived, apps })
}

/// The records, if nothing in them is there twice.
///
/// # Errors
/// What is.
pub(super) fn unrepeated(records: DomainRecords) -> Result<DomainRecords, String> {
    let DomainRecords { domains, archived, apps } = records;
    let mut names = BTreeSet::new();
    for record in &domains {
        if record.name.is_default() || !names.insert(&record.name) {
            return Err(format!("the domain {} is there twice", record.name));
        }
    }
    let mut names = BTreeSet::new();
    for record in &archived {
        if record.name.is_default() || !names.insert(&record.name) {
            return Err(format!("the domain {} is archived twice, or cannot be archived", record.name));
        }
    }
    let mut ids = BTreeSet::new();
    match apps.iter().find(|record| !ids.insert(record.app_id)) {
        Some(record) => Err(format!("the app {} is there twice", hex::encode(record.app_id))),
        None => Ok(DomainRecords { domains, archived, apps }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> DomainRecords {
        let name: DomainName = "sandbox".parse().unwrap();
        let (since, by) = (5, "token".to_owned());
        let rules = DomainRules { instance_scoped: true, ..DomainRules::default() };
        DomainRecords {
            domains: vec![DomainRecord { name: name.clone(), rules, since, by: by.clone() }],
            archived: vec![ArchivedRecord { name: name.clone(), since, by: by.clone() }],
            apps: vec![MemberRecord { app_id: [7; 20], domain: name, since, by }],
        }
    }

    #[test]
    fn nothing_is_written_that_the_next_start_would_not_read() {
        let home = tempfile::tempdir().unwrap();
        let file = DomainFile::new(home.path().join("domains.json"));
        let mut all = records();
        // The name of an operator has this length at most.
        let member = MemberRecord { by: "o".repeat(128), ..all.apps[0].clone() };
        all.apps = vec![member; 20_000];
        for (number, record) in (0_u32..).zip(&mut all.apps) {
            record.app_id[..4].copy_from_slice(&number.to_be_bytes());
        }
        while let Err(DomainsTooLarge) = all.text() {
            all.apps.pop();
        }
        file.replace(&all.text().unwrap()).and_then(Replaced::safely).unwrap();
        assert_eq!(file.read().unwrap(), all);
        assert!(all.apps.len() > 15_000, "{}", all.apps.len());
        all.apps[0].by = "o".repeat(10_000_000);
        assert_eq!(all.text().err(), Some(DomainsTooLarge));
    }

    #[test]
    fn what_is_written_is_read_and_what_is_not_ours_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("domains.json");
        let file = DomainFile::new(path.clone());
        assert_eq!(file.read().unwrap(), DomainRecords::default());
        file.replace(&records().text().unwrap()).and_then(Replaced::safely).unwrap();
        assert_eq!(file.read().unwrap(), records());
        let text = |change: fn(&mut serde_json::Value)| {
            let mut value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            change(&mut value);
            value.to_string()
        };
        let twice = |list: &'static str| {
            let mut value: serde_json::Value =
                serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let first = value[list][0].clone();
            value[list].as_array_mut().unwrap().push(first);
            value.to_string()
        };
        for (text, problem) in [
            (String::new(), "EOF"),
            (text(|value| value["version"] = 2.into()), "version must be 1, got 2"),
            (text(|value| value["x"] = 2.into()), "unknown field"),
            (text(|value| value["domains"][0]["rules"]["x"] = 2.into()), "unknown field"),
            (text(|value| value["domains"][0]["name"] = "A".into()), "a domain's name has"),
            (
                text(|value| value["domains"][0]["name"] = "default".into()),
                "the domain default is there twice",
            ),
            (text(|value| value["archived"][0]["name"] = "default".into()), "cannot be archived"),
            (twice("domains"), "the domain sandbox is there twice"),
            (twice("archived"), "the domain sandbox is archived twice"),
            (twice("apps"), "is there twice"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
