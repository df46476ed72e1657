//! `[[core.notify]]`: webhooks for notifications about events and conditions.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use zeroize::Zeroizing;

use super::file::{FileError, ca_file, read_file};
use super::reader::Section;
use super::{Endpoint, Secret, values};
use crate::event_type::{Severity, Topic};

/// The most targets.
const MAX_TARGETS: usize = 16;
/// The longest name of a target.
const MAX_NAME: usize = 32;
/// The permitted length of a secret in bytes.
const SECRET: std::ops::RangeInclusive<usize> = 16..=256;
/// The prefix of a secret in base64, by Standard Webhooks.
const BASE64: &str = "whsec_";

const SECRET_FILE: &str = "core.notify.secret_file";
const CA_FILE: &str = "core.notify.ca_file";

/// An entry of `[[core.notify]]`.
pub struct NotifyTarget {
    /// Its name in the log and the metrics: the configured name, or its number.
    pub name: String,
    /// The URL for notifications.
    pub url: Endpoint,
    /// Which notifications are sent.
    pub filter: NotifyFilter,
    secret: SecretSource,
    ca_file: Option<PathBuf>,
}

/// Which notifications a target receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyFilter {
    /// The lowest severity that is sent.
    pub min_severity: Severity,
    /// Only these are sent; `None` for all.
    pub types: Option<BTreeSet<Topic>>,
}

impl NotifyFilter {
    /// Whether a notification of this topic and severity is sent.
    pub fn admits(&self, topic: Topic, severity: Severity) -> bool {
        let is_listed = self.types.as_ref().is_none_or(|types| types.contains(&topic));
        topic == Topic::Test || severity >= self.min_severity && is_listed
    }
}

/// The source of a secret.
enum SecretSource {
    Given(NotifyKey),
    File(PathBuf),
    /// The configuration has an error, so there is no secret.
    Missing,
}

/// The key that signs the notifications for one target.
#[derive(Clone)]
pub struct NotifyKey(Arc<hmac::Key>);

impl fmt::Debug for NotifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NotifyKey")
    }
}

impl NotifyKey {
    /// From `whsec_` and base64, or from a text that is the key itself.
    ///
    /// # Errors
    /// The expected form.
    pub fn parse(secret: &Secret) -> Result<Self, String> {
        let text = secret.expose();
        let bytes = match text.strip_prefix(BASE64) {
            Some(base64) => {
                let bytes = STANDARD_NO_PAD.decode(base64.trim_end_matches('='));
                Zeroizing::new(bytes.map_err(|_| format!("must be base64 after {BASE64}"))?)
            }
            None => Zeroizing::new(text.as_bytes().to_vec()),
        };
        match SECRET.contains(&bytes.len()) {
            true => Ok(Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))),
            false => Err(format!("must have {} to {} bytes", SECRET.start(), SECRET.end())),
        }
    }

    /// HMAC-SHA-256 over the concatenation of these parts.
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        parts.iter().for_each(|part| context.update(part));
        context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// Why the files of a target are unusable.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// A file cannot be read.
    #[error("target {name}: {cause}")]
    File {
        /// The target's name or number.
        name: String,
        /// Which file, and the cause.
        #[source]
        cause: FileError,
    },
    /// The secret file has no usable secret.
    #[error("target {name}: {SECRET_FILE} {problem}")]
    Secret {
        /// The target's name or number.
        name: String,
        /// The expected form.
        problem: String,
    },
}

impl NotifyTarget {
    /// The key that signs notifications for this target. May read a file.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub fn key(&self) -> Result<NotifyKey, NotifyError> {
        let unusable = |problem: String| NotifyError::Secret { name: self.name.clone(), problem };
        let path = match &self.secret {
            SecretSource::Given(key) => return Ok(key.clone()),
            SecretSource::File(path) => path,
            SecretSource::Missing => return Err(unusable("is missing".to_owned())),
        };
        let content = Zeroizing::new(read_file(SECRET_FILE, path).map_err(|cause| self.file(cause))?);
        let text = std::str::from_utf8(&content).map_err(|_| unusable("must hold text".to_owned()))?;
        let secret = Secret::trimmed(text.to_owned()).ok_or_else(|| unusable("is empty".to_owned()))?;
        NotifyKey::parse(&secret).map_err(unusable)
    }

    /// The certificates that are trusted for this target besides the public roots. May read a file.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, NotifyError> {
        ca_file(CA_FILE, self.ca_file.as_deref()).map_err(|cause| self.file(cause))
    }

    fn file(&self, cause: FileError) -> NotifyError {
        NotifyError::File { name: self.name.clone(), cause }
    }
}

pub(super) fn read(section: &mut Section<'_>) -> Vec<NotifyTarget> {
    let mut names = BTreeSet::new();
    section.list("notify", MAX_TARGETS, |section, index| {
        let target = target(section, index);
        if !names.insert(target.name.clone()) {
            section.find("name", "must not be that of another entry");
        }
        target
    })
}

fn target(section: &mut Section<'_>, index: usize) -> NotifyTarget {
    let name = section.optional("name", |value| name(&values::string(value)?));
    let plain_http = section.optional("insecure_plain_http", values::boolean).unwrap_or(false);
    let url = section.required("url", values::placeholder(), |value| {
        let url = values::endpoint(value)?;
        match url.is_exposed() && !plain_http {
            true => Err("must be an https URL, unless insecure_plain_http is true".to_owned()),
            false => Ok(url),
        }
    });
    let types = section.optional("types", types);
    let usual = if types.is_some() { Severity::Info } else { Severity::Warning };
    let min_severity = section.optional("min_severity", |value| {
        Severity::parse(&values::string(value)?)
            .ok_or_else(|| "must be \"info\", \"warning\" or \"critical\"".to_owned())
    });
    let min_severity = min_severity.unwrap_or(usual);
    let ca_file = optional_path(section, "ca_file");
    if ca_file.is_some() && url.url().scheme() == "http" {
        section.find("ca_file", "needs an https URL: over plain http nobody shows a certificate");
    }
    let secret = secret(section);
    NotifyTarget {
        name: name.unwrap_or_else(|| index.to_string()),
        url,
        filter: NotifyFilter { min_severity, types },
        secret,
        ca_file,
    }
}

fn optional_path(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    let path = section.optional(key, values::string)?;
    values::non_empty(path).map(PathBuf::from)
}

fn secret(section: &mut Section<'_>) -> SecretSource {
    let is_given = section.value("secret").is_some_and(|value| value.as_str() != Some(""));
    let given = section.optional("secret", |value| {
        Secret::trimmed(values::string(value)?).map(|secret| NotifyKey::parse(&secret)).transpose()
    });
    match (given.flatten(), is_given, optional_path(section, "secret_file")) {
        (_, true, Some(_)) => {
            section.find("secret_file", "must not be set beside secret");
            SecretSource::Missing
        }
        (Some(key), _, _) => SecretSource::Given(key),
        (None, _, Some(path)) => SecretSource::File(path),
        // The error was already reported.
        (None, true, None) => SecretSource::Missing,
        (None, false, None) => {
            section.find("secret", "or secret_file is required: it signs what is sent");
            SecretSource::Missing
        }
    }
}

fn name(text: &str) -> Result<String, String> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_word) {
        true => Ok(text.to_owned()),
        false => Err(format!("must have 1 to {MAX_NAME} letters, digits, - _ or .")),
    }
}

fn types(value: Value) -> Result<BTreeSet<Topic>, String> {
    let wrong = || "must be a list of types of events and conditions that is not empty".to_owned();
    let Value::Array(list) = value else { return Err(wrong()) };
    let topic = |value: Value| {
        let text = values::string(value)?;
        let shown: String = text.chars().take(MAX_NAME).filter(|character| !character.is_control()).collect();
        Topic::parse(&text).ok_or_else(|| format!("has \"{shown}\", which is no type of event or condition"))
    };
    let types = list.into_iter().map(topic).collect::<Result<BTreeSet<_>, _>>()?;
    if types.is_empty() { Err(wrong()) } else { Ok(types) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::event_type::{Condition, EventType};

    const SECRET: &str = "secret = 'sixteen bytes or more'";

    fn targets(text: &str) -> Vec<NotifyTarget> {
        let (config, notices) = Config::from_toml(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(notices, [], "{text}");
        config.core.notify
    }

    fn findings(text: &str) -> Vec<String> {
        let error = Config::from_toml(text).err().unwrap_or_else(|| panic!("no finding in {text}"));
        error.findings.iter().map(|finding| format!("{}: {}", finding.subject, finding.message)).collect()
    }

    #[test]
    fn an_entry_is_read_with_its_defaults() {
        let text = format!(
            "[[core.notify]]\nurl = 'https://one.example/x'\n{SECRET}\n\
             [[core.notify]]\nname = 'pager'\nurl = 'http://127.0.0.1:9/'\n{SECRET}\ntypes = ['denied', 'denial_storm']"
        );
        let targets = targets(&text);
        assert_eq!([&*targets[0].name, &*targets[1].name], ["0", "pager"]);
        let event = Topic::Event(EventType::Denied);
        let (storm, frozen) = (Topic::Condition(Condition::DenialStorm), Topic::Event(EventType::Frozen));
        for (target, topic, severity, is_wanted) in [
            (0, event, Severity::Info, false),
            (0, frozen, Severity::Critical, true),
            (0, event, Severity::Warning, true),
            (0, Topic::Test, Severity::Info, true),
            (1, event, Severity::Info, true),
            (1, storm, Severity::Critical, true),
            (1, frozen, Severity::Critical, false),
            (1, Topic::Test, Severity::Info, true),
        ] {
            let target: &NotifyTarget = &targets[target];
            assert_eq!(target.filter.admits(topic, severity), is_wanted, "{}: {topic:?}", target.name);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_entry_and_the_key() {
        let url = "url = 'https://one.example'";
        for (text, expected) in [
            (SECRET.to_owned(), "core.notify[0].url: is missing"),
            (
                format!("url = 'http://one.example'\n{SECRET}"),
                "core.notify[0].url: must be an https URL, unless insecure_plain_http is true",
            ),
            (format!("url = 'ftp://x'\n{SECRET}"), "core.notify[0].url: must be an http or https URL"),
            (url.to_owned(), "core.notify[0].secret: or secret_file is required: it signs what is sent"),
            (format!("{url}\nsecret = 'short'"), "core.notify[0].secret: must have 16 to 256 bytes"),
            (format!("{url}\nsecret = 'whsec_%'"), "core.notify[0].secret: must be base64 after whsec_"),
            (
                format!("{url}\n{SECRET}\nsecret_file = '/x'"),
                "core.notify[0].secret_file: must not be set beside secret",
            ),
            (
                format!("{url}\n{SECRET}\nmin_severity = 'loud'"),
                "core.notify[0].min_severity: must be \"info\", \"warning\" or \"critical\"",
            ),
            (
                format!("{url}\n{SECRET}\ntypes = ['frozne']"),
                "core.notify[0].types: has \"frozne\", which is no type of event or condition",
            ),
            (
                format!("{url}\n{SECRET}\ntypes = []"),
                "core.notify[0].types: must be a list of types of events and conditions that is not empty",
            ),
            (
                format!("{url}\n{SECRET}\nname = 'a b'"),
                "core.notify[0].name: must have 1 to 32 letters, digits, - _ or .",
            ),
            (
                format!("{url}\n{SECRET}\nseverity = 'info'"),
                "core.notify[0].severity: unknown key, did you mean `min_severity`?",
            ),
            (
                format!("url = 'http://[::1]/'\n{SECRET}\nca_file = '/x'"),
                "core.notify[0].ca_file: needs an https URL: over plain http nobody shows a certificate",
            ),
            (
                format!("{url}\n{SECRET}\nname = '1'\n[[core.notify]]\n{url}\n{SECRET}"),
                "core.notify[1].name: must not be that of another entry",
            ),
        ] {
            assert_eq!(findings(&format!("[[core.notify]]\n{text}")), [expected], "{text}");
        }
        let entry = format!("[[core.notify]]\n{url}\n{SECRET}\n");
        for text in ["core.notify = 1", "core.notify = [1]", "core.notify.url = 'x'", &entry.repeat(17)] {
            let expected = "core.notify: must be at most 16 tables, [[core.notify]] each";
            assert_eq!(findings(text), [expected], "{text}");
        }
        targets(&format!(
            "[[core.notify]]\nurl = 'http://one.example'\n{SECRET}\ninsecure_plain_http = true"
        ));
    }

    #[test]
    fn a_secret_in_a_file_is_read_at_the_start_and_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let text =
            format!("[[core.notify]]\nname = 'x'\nurl = 'https://one.example'\nsecret_file = {path:?}");
        let key = || targets(&text)[0].key();
        assert!(matches!(key(), Err(NotifyError::File { .. })));
        for (content, expected) in [
            ("", "target x: core.notify.secret_file is empty"),
            ("hush hush", "target x: core.notify.secret_file must have 16 to 256 bytes"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(key().unwrap_err().to_string(), expected);
        }
        std::fs::write(&path, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let key = key().unwrap();
        assert_eq!(format!("{key:?}"), "NotifyKey");
        // The example in the libraries of the Standard Webhooks specification.
        let parts: [&[u8]; 3] =
            [b"msg_p5jXN8AQM9LWM0D4loKWxJek", b".1614265330.", br#"{"test": 2432232314}"#];
        let signature = STANDARD_NO_PAD.encode(key.sign(&parts));
        assert_eq!(signature, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE");
    }
}
