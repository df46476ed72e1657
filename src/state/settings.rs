//! The file of the settings that owners changed at run time, replaced as a whole by one rename.

use std::collections::BTreeMap;
use std::io;

use kms_attest::json::duplicate_keys;
use kms_attest::state_file::{Replaced, StateFile};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The largest file.
const MAX_FILE: u64 = 64 << 10;
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsFileError {
    /// The file cannot be read.
    #[error("settings.json of the key directory cannot be read")]
    Unreadable(#[source] io::Error),
    /// The content is invalid.
    #[error("settings.json of the key directory is damaged ({0})")]
    Damaged(String),
}

/// The file, which no other process writes.
#[derive(Debug)]
pub struct SettingsFile(StateFile);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    settings: BTreeMap<String, Value>,
}

impl SettingsFile {
    /// The file at this path, which may not exist yet.
    pub fn new(file: impl Into<StateFile>) -> Self {
        Self(file.into())
    }

    /// All settings; empty if there is no file.
    ///
    /// # Errors
    /// [`SettingsFileError`]
    pub fn read(&self) -> Result<BTreeMap<String, Value>, SettingsFileError> {
        Ok(super::parsed(
            &self.0,
            MAX_FILE,
            parse,
            SettingsFileError::Unreadable,
            SettingsFileError::Damaged,
        )?
        .unwrap_or_default())
    }

    /// Replaces all of them.
    ///
    /// # Errors
    /// Errors of the system; the old file is then unchanged.
    pub fn replace(&self, settings: BTreeMap<String, Value>) -> io::Result<Replaced> {
        let mut text = serde_json::to_vec_pretty(&Content { version: VERSION, settings })?;
        text.push(b'\n');
        self.0.replace(&text)
    }
}

/// Reads the content of a file.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Value>, String> {
    if let Some(key) = duplicate_keys(bytes).first() {
        return Err(format!("{key} is given twice"));
    }
    let content: Content = kms_attest::json::from_utf8(bytes).map_err(|error| error.to_string())?;
    if content.version != VERSION {
        return Err(format!("version must be {VERSION}, got {}", content.version));
    }
    Ok(content.settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_ours_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let file = SettingsFile::new(home.path().join("settings.json"));
        assert!(file.read().unwrap().is_empty());
        let settings = BTreeMap::from([("core.limits.app_burst".to_owned(), Value::from(7))]);
        file.replace(settings.clone()).and_then(Replaced::safely).unwrap();
        assert_eq!(file.read().unwrap(), settings);
        for (text, problem) in [
            ("", "EOF"),
            (r#"{"version":2,"settings":{}}"#, "version must be 1, got 2"),
            (r#"{"version":1}"#, "missing field"),
            (r#"{"version":1,"settings":{},"x":1}"#, "unknown field"),
            (r#"{"version":1,"settings":{"a":1,"a":2}}"#, "given twice"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
