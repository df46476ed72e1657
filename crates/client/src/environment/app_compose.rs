//! `app-compose.json`, the file that a deployer writes and whose hash identifies the app: its settings about
//! the environment.

use serde_json::Value;

/// The largest file that is read.
pub const MAX_BYTES: usize = 8 << 20;

/// The settings about the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppCompose {
    /// The variables that guests pass on; they drop all others.
    allowed_envs: Option<Vec<String>>,
    /// Whether the guest requests its keys from a KMS.
    kms_enabled: Option<bool>,
    /// Whether the key provider is a KMS, which newer files state instead.
    names_kms: bool,
}

/// Why a file is not an `app-compose.json`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppComposeError {
    /// Not JSON.
    #[error(
        "line {line}, column {column}: not JSON; app-compose.json is, and a docker-compose file is a text in it"
    )]
    Json {
        /// Line of the first invalid character, from 1.
        line: usize,
        /// Column of the first invalid character.
        column: usize,
    },
    /// JSON, but not an object.
    #[error("not a JSON object, as app-compose.json is")]
    NotAnObject,
    /// A docker-compose file instead of the guest's.
    #[error("a docker-compose file; app-compose.json has it as the text docker_compose_file")]
    DockerCompose,
    /// A key has the wrong type.
    #[error("{key} must be {expected}")]
    Field {
        /// Its name.
        key: &'static str,
        /// The type that it must have.
        expected: &'static str,
    },
}

/// A setting that may be a mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComposeDoubt {
    /// The variable is not listed.
    #[error("allowed_envs does not list {0}, so the guest drops it")]
    Dropped(String),
    /// There is no list.
    #[error("there is no allowed_envs, so the guest drops every variable")]
    NoList,
    /// The guest uses no KMS.
    #[error("kms_enabled is false, so the guest asks no KMS for the key that decrypts this")]
    KmsDisabled,
}

impl AppCompose {
    /// Parses the file.
    ///
    /// # Errors
    /// [`AppComposeError`].
    pub fn parse(file: &[u8]) -> Result<Self, AppComposeError> {
        let value: Value = kms_attest::json::from_utf8(file)
            .map_err(|error| AppComposeError::Json { line: error.line(), column: error.column() })?;
        let Value::Object(fields) = value else { return Err(AppComposeError::NotAnObject) };
        if fields.contains_key("services") {
            return Err(AppComposeError::DockerCompose);
        }
        let of_type = |key, expected| AppComposeError::Field { key, expected };
        let allowed_envs = match fields.get("allowed_envs") {
            None => None,
            Some(Value::Array(names)) => {
                let names: Option<_> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
                Some(names.ok_or_else(|| of_type("allowed_envs", "a list of names"))?)
            }
            Some(_) => return Err(of_type("allowed_envs", "a list of names")),
        };
        let kms_enabled = match fields.get("kms_enabled") {
            None => None,
            Some(value) => Some(value.as_bool().ok_or_else(|| of_type("kms_enabled", "true or false"))?),
        };
        let names_kms = fields.get("key_provider").and_then(Value::as_str) == Some("kms");
        Ok(Self { allowed_envs, kms_enabled, names_kms })
    }

    /// What would keep these variables from the app.
    pub fn doubts<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<ComposeDoubt> {
        let mut doubts = Vec::new();
        if self.kms_enabled == Some(false) && !self.names_kms {
            doubts.push(ComposeDoubt::KmsDisabled);
        }
        match &self.allowed_envs {
            None => doubts.push(ComposeDoubt::NoList),
            Some(allowed) => {
                let dropped = names.filter(|name| !allowed.iter().any(|allowed| allowed == name));
                doubts.extend(dropped.map(|name| ComposeDoubt::Dropped(name.to_owned())));
            }
        }
        doubts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_variable_from_the_app_is_named() {
        use ComposeDoubt::{Dropped, KmsDisabled, NoList};
        for (file, expected) in [
            (r#"{"allowed_envs": ["A", "B"]}"#, vec![]),
            (r#"{"allowed_envs": ["A"], "kms_enabled": true}"#, vec![Dropped("B".into())]),
            (r#"{"allowed_envs": ["a"]}"#, vec![Dropped("A".into()), Dropped("B".into())]),
            (r#"{"name": "x"}"#, vec![NoList]),
            (r#"{"kms_enabled": false, "allowed_envs": ["A", "B"]}"#, vec![KmsDisabled]),
            (r#"{"kms_enabled": false, "key_provider": "kms", "allowed_envs": ["A", "B"]}"#, vec![]),
        ] {
            let compose = AppCompose::parse(file.as_bytes()).expect(file);
            assert_eq!(compose.doubts(["A", "B"].into_iter()), expected, "{file}");
        }
    }

    #[test]
    fn what_is_no_app_compose_is_refused() {
        for (file, expected) in [
            ("", "line 1, column 0: not JSON"),
            ("services:\n  web:\n    image: x\n", "line 1, column 1: not JSON"),
            ("\u{feff}{}", "line 1, column 1: not JSON"),
            ("[]", "not a JSON object"),
            ("\"x\"", "not a JSON object"),
            ("{} {}", "line 1, column 4: not JSON"),
            (r#"{"services": {}}"#, "a docker-compose file"),
            (r#"{"allowed_envs": "A"}"#, "allowed_envs must be a list of names"),
            (r#"{"allowed_envs": [1]}"#, "allowed_envs must be a list of names"),
            (r#"{"kms_enabled": "false"}"#, "kms_enabled must be true or false"),
        ] {
            let error = AppCompose::parse(file.as_bytes()).expect_err(file).to_string();
            assert!(error.starts_with(expected), "{file}: {error}");
        }
    }
}
