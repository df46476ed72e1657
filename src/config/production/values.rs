//! All values of all sections, by their names and forms, so that a new section cannot be forgotten: a URL is examined in
//! any section, and so is a key whose name says that it is a secret or insecure.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use kms_attest::outgoing::Endpoint;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use url::Url;
use zeroize::Zeroizing;

use super::super::file::read_file;
use super::super::layers::{Content, Layer, Layers, Node, Table};
use super::super::sections::Environment;
use super::{UnsafeSetting, strength};
use crate::config::AuthApi;
use crate::operator::chosen::{DOCUMENTED, is_documented};

/// Keys whose URLs are not called.
const NOT_CALLED: [&str; 2] = ["rpc.cors_origins", "core.site_name"];

/// The key with the URL of the database, which may hold a password.
const DATABASE: &str = "core.postgres.url";

/// Tables of the peer without effect.
const INERT: [&str; 4] = ["default", "debug", "release", "global"];

/// A variable that was read, with its value.
type Variable = (String, Zeroizing<String>);

/// The variables that were read.
pub(in super::super) type Variables = RefCell<Vec<Variable>>;

/// `environment`, with what it answers added to `variables`.
pub(in super::super) fn recorded<'a>(
    environment: Environment<'a>,
    variables: &'a Variables,
) -> impl Fn(&str) -> Option<String> + 'a {
    move |name| {
        let value = environment(name)?;
        variables.borrow_mut().push((name.to_owned(), Zeroizing::new(value.clone())));
        Some(value)
    }
}

/// What the values of a configuration show.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Values {
    found: Vec<UnsafeSetting>,
    secret_files: Vec<SecretFile>,
    files_with_secrets: Vec<PathBuf>,
}

#[derive(Debug, Clone)]
struct SecretFile {
    key: String,
    path: PathBuf,
    holds: Holds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// A token, as text.
    Token,
    /// A key or hashes, whose strength does not show.
    Other,
}

impl Values {
    /// Examines what files and defaults say.
    pub(in super::super) fn of(layers: &Layers) -> Self {
        let mut values = Self::default();
        let policy = text_at(&layers.root, &["core", "auth_api", "type"]).unwrap_or_default();
        let mut walk = Walk { values: &mut values, files: &layers.files, policy };
        walk.table("", &layers.root);
        values
    }

    /// Examines the variables that were read.
    pub(in super::super) fn add_variables(&mut self, variables: Vec<Variable>, policy: &AuthApi) {
        let is_webhook = match policy {
            AuthApi::Webhook(_) => true,
            AuthApi::Allowlist { .. } | AuthApi::Bundle(_) | AuthApi::Ethereum(_) | AuthApi::Dev { .. } => {
                false
            }
        };
        for (name, value) in variables {
            let name = name.as_str();
            if name.ends_with("TOKEN") && (is_webhook || name != "KMS_WEBHOOK_TOKEN") {
                self.found.extend(token(name, &value));
            }
            if name != super::super::state::VARIABLE {
                self.found.extend(url(name, &value));
            }
        }
    }

    pub(super) fn found(&self) -> &[UnsafeSetting] {
        &self.found
    }

    pub(super) fn secret_files(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.secret_files.iter().map(|file| (file.key.as_str(), file.path.as_path()))
    }

    pub(super) fn files_with_secrets(&self) -> impl Iterator<Item = &Path> {
        self.files_with_secrets.iter().map(PathBuf::as_path)
    }

    /// Reads the files with tokens; what cannot be read is found elsewhere.
    pub(super) fn read_secrets(&self) -> Vec<UnsafeSetting> {
        let tokens = self.secret_files.iter().filter(|file| file.holds == Holds::Token);
        let found = tokens.filter_map(|file| {
            let content = Zeroizing::new(read_file("", &file.path).ok()?);
            token(&file.key, std::str::from_utf8(&content).ok()?)
        });
        found.collect()
    }
}

struct Walk<'a> {
    values: &'a mut Values,
    files: &'a [PathBuf],
    policy: &'a str,
}

impl Walk<'_> {
    fn table(&mut self, path: &str, table: &Table) {
        for (name, node) in table {
            let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let is_policy = name == self.policy || (name == "bundle" && self.policy == "allowlist");
            let other_policy = path == "core.auth_api" && !is_policy;
            if other_policy || INERT.contains(&key.as_str()) {
                continue;
            }
            match node {
                Node { content: Content::Table(below), .. } => self.table(&key, below),
                Node { content: Content::Value(value), layer } => self.value(&key, name, value, *layer),
            }
        }
    }

    fn value(&mut self, key: &str, name: &str, value: &Value, layer: Layer) {
        match value {
            Value::String(text) => self.text(key, name, text, layer),
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    self.value(&format!("{key}[{index}]"), name, value, layer);
                }
            }
            Value::Object(entries) => {
                for (name, value) in entries {
                    self.value(&format!("{key}.{name}"), name, value, layer);
                }
            }
            Value::Bool(true) if name.starts_with("insecure_") => {
                self.values.found.push(UnsafeSetting {
                    code: "insecure_key",
                    subject: key.to_owned(),
                    problem: "it turns a protection off".to_owned(),
                    remedy: "Remove it".to_owned(),
                });
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn text(&mut self, key: &str, name: &str, text: &str, layer: Layer) {
        if text.trim().is_empty() {
            return;
        }
        let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        if ends(&["token", "secret", "password"]) {
            self.values.found.extend(token(key, text));
            if let Layer::File(index) = layer {
                self.values.files_with_secrets.extend(self.files.get(index).cloned());
            }
        } else if name == "admin_token_hash" {
            self.values.found.extend(token_hash(key, text));
        } else if ends(&["token_file", "secret_file", "password_file"]) {
            self.secret_file(key, text, Holds::Token);
        } else if ends(&["key_file", "htpasswd_file", "header_file", "url_file"]) {
            self.secret_file(key, text, Holds::Other);
        } else if key == DATABASE {
            // TLS is required beyond this machine, unless a key that is insecure by its name says otherwise.
            if let Layer::File(index) = layer {
                self.values.files_with_secrets.extend(self.files.get(index).cloned());
            }
        } else if !NOT_CALLED.iter().any(|exempt| key.starts_with(exempt)) {
            self.values.found.extend(url(key, text));
        }
    }

    fn secret_file(&mut self, key: &str, path: &str, holds: Holds) {
        self.values.secret_files.push(SecretFile { key: key.to_owned(), path: PathBuf::from(path), holds });
    }
}

fn text_at<'a>(table: &'a Table, path: &[&str]) -> Option<&'a str> {
    let (name, rest) = path.split_first()?;
    match (&table.get(*name)?.content, rest) {
        (Content::Value(Value::String(text)), []) => Some(text),
        (Content::Table(below), [_, ..]) => text_at(below, rest),
        (Content::Value(_) | Content::Table(_), _) => None,
    }
}

/// A URL, or a word of the text that is one, that leaves this machine unencrypted.
pub(super) fn url(subject: &str, text: &str) -> Option<UnsafeSetting> {
    // As the image server's URL is used: the placeholder may be anywhere in it.
    let text = text.replace("{OS_IMAGE_HASH}", "0");
    let exposed = std::iter::once(text.as_str()).chain(text.split_whitespace()).find_map(exposed)?;
    Some(UnsafeSetting {
        code: "plain_http",
        subject: subject.to_owned(),
        problem: format!(
            "{exposed} is called without encryption beyond this machine: others can read and change it"
        ),
        remedy: "Use https, or an address of this machine".to_owned(),
    })
}

/// The origin of an URL that leaves this machine unencrypted. Parsed as it is when it is called, so that other spellings,
/// such as `HTTP:host`, are the same.
fn exposed(text: &str) -> Option<String> {
    if let Ok(endpoint) = Endpoint::parse(text) {
        return endpoint.is_exposed().then(|| endpoint.to_string());
    }
    let url = Url::parse(text).ok().filter(|url| text.contains("://") && url.has_host())?;
    let is_encrypted = matches!(url.scheme(), "wss" | "grpcs" | "file" | "unix");
    (!is_encrypted).then(|| format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default()))
}

fn token(subject: &str, text: &str) -> Option<UnsafeSetting> {
    let text = text.trim();
    let secret = text.strip_prefix("whsec_").unwrap_or(text);
    let problem = if is_documented(text) {
        "it stands in the documents of this program, so everybody knows it"
    } else if !strength::is_strong(secret) {
        "it has less than 128 bits, so it can be guessed"
    } else {
        return None;
    };
    Some(UnsafeSetting {
        code: "weak_token",
        subject: subject.to_owned(),
        problem: problem.to_owned(),
        remedy: format!("Use {}", strength::ADVICE),
    })
}

fn token_hash(subject: &str, text: &str) -> Option<UnsafeSetting> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let known = DOCUMENTED
        .iter()
        .find(|known| hex::encode(Sha256::digest(known.as_bytes())).eq_ignore_ascii_case(digits));
    known.and_then(|known| token(subject, known))
}
