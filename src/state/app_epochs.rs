//! The file of the epochs that operators chose for apps, replaced as a whole by one rename.

use std::io;
use std::path::Path;

use kms_attest::state_file::{Replaced, StateFile};
use serde::{Deserialize, Serialize};

/// The largest file, enough for the most apps.
const MAX_FILE: u64 = 8 << 20;
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Why the choices of operators are unknown.
#[derive(Debug, thiserror::Error)]
pub enum AppEpochFileError {
    /// The file cannot be read.
    #[error(
        "app-epochs.json of the key directory cannot be read, so the epochs of some apps are not known: {0}"
    )]
    Unreadable(#[source] io::Error),
    /// The content is invalid.
    #[error(
        "app-epochs.json of the key directory is damaged ({0}), so the epochs of some apps are not known; restore it, or \
         remove it to give every app the epochs of its policy entry again"
    )]
    Damaged(String),
}

/// The file, which no other process writes.
#[derive(Debug, Clone)]
pub struct AppEpochFile(StateFile);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    apps: Vec<AppEpochRecord>,
}

/// What an operator chose for one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppEpochRecord {
    /// The app.
    #[serde(with = "hex::serde")]
    pub app_id: [u8; 20],
    /// The epoch of the root keys at which it stays; absent if it follows the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_epoch: Option<u32>,
    /// Its own epoch.
    pub app_epoch: u32,
    /// When this was chosen, Unix seconds.
    pub since: u64,
    /// The operator.
    pub by: String,
}

impl AppEpochFile {
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
    /// [`AppEpochFileError`]
    pub fn read(&self) -> Result<Vec<AppEpochRecord>, AppEpochFileError> {
        Ok(super::parsed(
            &self.0,
            MAX_FILE,
            parse,
            AppEpochFileError::Unreadable,
            AppEpochFileError::Damaged,
        )?
        .unwrap_or_default())
    }

    /// Replaces all records. Waits for the disk.
    ///
    /// # Errors
    /// Those of the system; the old file is then unchanged.
    pub fn replace(&self, apps: Vec<AppEpochRecord>) -> io::Result<Replaced> {
        self.0.replace(&content(apps)?)
    }
}

/// The content of a file with these records.
///
/// # Errors
/// Only if the records cannot be serialized, which does not happen: they are texts and numbers.
pub fn content(apps: Vec<AppEpochRecord>) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(&Content { version: VERSION, apps })?;
    text.push(b'\n');
    Ok(text)
}

/// Reads the content of a file.
///
/// # Errors
/// What is wrong with it: a version of another program, or an app that is there twice.
pub fn parse(bytes: &[u8]) -> Result<Vec<AppEpochRecord>, String> {
    let content: Content = kms_attest::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    if content.version != VERSION {
        return Err(format!("version must be {VERSION}, got {}", content.version));
    }
    let mut ids: Vec<_> = content.apps.iter().map(|record| record.app_id).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("the app {} is there twice", hex::encode(pair[0]))),
        None => Ok(content.apps),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(app: u8, root_epoch: Option<u32>) -> AppEpochRecord {
        AppEpochRecord { app_id: [app; 20], root_epoch, app_epoch: 3, since: 5, by: "token".to_owned() }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_not_ours_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let file = AppEpochFile::new(home.path().join("app-epochs.json"));
        assert!(file.read().unwrap().is_empty());
        let records = vec![record(1, None), record(2, Some(1))];
        file.replace(records.clone()).and_then(Replaced::safely).unwrap();
        assert_eq!(file.read().unwrap(), records);
        let twice =
            serde_json::to_string(&Content { version: 1, apps: vec![record(1, None), record(1, Some(0))] })
                .unwrap();
        for (text, problem) in [
            ("", "EOF"),
            (r#"{"version":2,"apps":[]}"#, "version must be 1, got 2"),
            (r#"{"version":1}"#, "missing field"),
            (r#"{"version":1,"apps":[],"x":1}"#, "unknown field"),
            (r#"{"version":1,"apps":[{"app_id":"00"}]}"#, "Invalid string length"),
            (&twice, "is there twice"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
