//! The layers of the configuration and how they are laid over each other, key by key.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use kms_attest::json::duplicate_keys;
use kms_attest::outgoing::Endpoint;
use kms_attest::small_file::small_input;
use serde_json::Value;
use zeroize::Zeroizing;

use super::reader::Finding;

/// The compiled-in first layer: every key with its meaning and default.
pub const DEFAULTS: &str = include_str!("../../kms.toml");

/// The largest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where [`super::Config::from_sources`] reads.
pub struct Sources<'a> {
    /// Directory of the system's `kms.toml` and `kms.json`.
    pub system: &'a Path,
    /// Directory of the working directory's `kms.toml` and `kms.json`.
    pub working: &'a Path,
    /// The file named on the command line: TOML if its name ends in `.toml`, JSON otherwise. It must exist.
    pub explicit: Option<&'a Path>,
    /// Value of an environment variable.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

/// A key's content and the layer that set it last.
pub(super) struct Node {
    pub(super) layer: Layer,
    pub(super) content: Content,
}

pub(super) enum Content {
    Table(Table),
    Value(Value),
}

pub(super) type Table = BTreeMap<String, Node>;

/// The compiled-in defaults, or the n-th file of [`Layers::files`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    Defaults,
    File(usize),
}

/// All layers merged, the files they came from, and what was wrong with the files.
pub(super) struct Layers {
    pub(super) root: Table,
    pub(super) files: Vec<PathBuf>,
    pub(super) findings: Vec<Finding>,
}

#[derive(Clone, Copy)]
enum Presence {
    Required,
    Optional,
}

pub(super) fn read(sources: &Sources<'_>) -> Layers {
    let mut layers = Layers::defaults();
    let usual = [sources.system, sources.working]
        .map(|directory| ["kms.toml", "kms.json"].map(|name| (directory.join(name), Presence::Optional)));
    let explicit = sources.explicit.map(|path| (path.to_owned(), Presence::Required));
    let files: Vec<_> = usual.into_iter().flatten().chain(explicit).collect();
    for (at, (path, presence)) in files.iter().enumerate() {
        // One file in two places is read once, in the last.
        if !files[at + 1..].iter().any(|(later, _)| is_same(path, later)) {
            layers.add_file(path, *presence);
        }
    }
    layers
}

fn is_same(one: &Path, other: &Path) -> bool {
    let found = one.canonicalize();
    found.is_ok_and(|found| other.canonicalize().is_ok_and(|other| found == other))
}

pub(super) fn from_toml(text: &str) -> Layers {
    let mut layers = Layers::defaults();
    let path = PathBuf::from("kms.toml");
    match parse_toml(text) {
        Ok(value) => layers.add(path, value),
        Err(message) => layers.findings.push(Finding::file(&path, message)),
    }
    layers
}

/// The compiled-in defaults alone.
pub(super) fn defaults() -> Layers {
    Layers::defaults()
}

/// The defaults of `core.auth_api`, without its kind, which nothing but a file chooses for a domain.
pub(super) fn defaults_of_auth_api() -> Table {
    let mut table = Layers::defaults().root;
    for key in ["core", "auth_api"] {
        table = match table.remove(key) {
            Some(Node { content: Content::Table(below), .. }) => below,
            Some(_) | None => Table::new(),
        };
    }
    table.remove("type");
    // Each domain names its own file.
    if let Some(Node { content: Content::Table(allowlist), layer }) = table.get_mut("allowlist") {
        let content = Content::Value(Value::String(String::new()));
        allowlist.insert("path".to_owned(), Node { layer: *layer, content });
    }
    table
}

impl Layers {
    fn defaults() -> Self {
        let mut root = Table::new();
        let mut findings = Vec::new();
        match parse_toml(DEFAULTS) {
            Ok(value) => merge_root(&mut root, value, Layer::Defaults),
            Err(message) => findings.push(Finding::file(Path::new("the compiled-in defaults"), message)),
        }
        Self { root, files: Vec::new(), findings }
    }

    fn add_file(&mut self, path: &Path, presence: Presence) {
        match (text(path), presence) {
            (Ok(text), _) => {
                let is_toml = path.extension().is_some_and(|extension| extension == "toml");
                match if is_toml { parse_toml(&text) } else { parse_json(&text) } {
                    Ok(value) => self.add(path.to_owned(), value),
                    Err(message) => self.findings.push(Finding::file(path, message)),
                }
            }
            (Err(error), Presence::Optional) if error.kind() == io::ErrorKind::NotFound => {}
            (Err(error), _) => self.findings.push(Finding::file(path, format!("cannot be read: {error}"))),
        }
    }

    fn add(&mut self, path: PathBuf, value: Value) {
        let layer = Layer::File(self.files.len());
        if !value.is_object() {
            self.findings.push(Finding::file(&path, "must hold a table of keys".to_owned()));
        }
        merge_root(&mut self.root, value, layer);
        self.files.push(path);
    }
}

/// A key that a file sets, for an operator's own terminal. Secrets and what may hold one are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its dotted name.
    pub key: String,
    /// Its value as JSON, or `(set)`.
    pub value: String,
    /// The file that set it last.
    pub file: PathBuf,
}

/// What files set, of all layers together, by name.
pub(super) fn settings(layers: &Layers) -> Vec<Setting> {
    let mut settings = Vec::new();
    collect(&layers.root, "", &layers.files, &mut settings);
    settings
}

fn collect(table: &Table, prefix: &str, files: &[PathBuf], settings: &mut Vec<Setting>) {
    for (name, node) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match (&node.content, node.layer) {
            (Content::Table(below), _) => collect(below, &key, files, settings),
            (Content::Value(value), Layer::File(index)) => {
                let file = files.get(index).cloned().unwrap_or_default();
                settings.push(Setting { value: shown(name, value), key, file });
            }
            (Content::Value(_), Layer::Defaults) => {}
        }
    }
}

/// Whether a key of this name may hold a secret.
pub(super) fn is_secret(name: &str) -> bool {
    const SECRETS: [&str; 5] = ["token", "password", "secret", "hash", "credential"];
    SECRETS.iter().any(|word| name.contains(word))
}

/// What may be shown of an URL: the rest may hold a key.
pub(super) fn origin(text: &str) -> String {
    Endpoint::parse(text).map_or_else(|_| "(set)".to_owned(), |endpoint| endpoint.to_string())
}

/// Tokens, passwords and hashes of them are not shown, and of an URL the origin only: the rest may hold a key.
fn shown(name: &str, value: &Value) -> String {
    if is_secret(name) && value.as_str() != Some("") {
        return "(set)".to_owned();
    }
    match value {
        Value::String(text) if text.contains("://") => match Endpoint::parse(text) {
            Ok(endpoint) => format!("\"{endpoint}\""),
            Err(_) => "(set)".to_owned(),
        },
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(|value| shown(name, value)).collect();
            format!("[{}]", values.join(", "))
        }
        // A table in a list.
        Value::Object(table) => format!("{{{}}}", table.keys().cloned().collect::<Vec<_>>().join(", ")),
        value => value.to_string(),
    }
}

fn text(path: &Path) -> io::Result<Zeroizing<String>> {
    String::from_utf8(small_input(path, MAX_FILE)?).map(Zeroizing::new).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8")
    })
}

/// The parser's own message and the line, without the line's text: it may hold a token.
fn parse_toml(text: &str) -> Result<Value, String> {
    toml::from_str(text).map_err(|error| {
        let line =
            error.span().and_then(|span| text.get(..span.start)).map(|before| before.split('\n').count());
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let message = error.message().lines().next().unwrap_or("invalid").to_owned();
        format!("is not valid TOML: {place}{message}")
    })
}

fn parse_json(text: &str) -> Result<Value, String> {
    let value = serde_json::from_str(text).map_err(|error| {
        format!(
            "is not valid JSON: line {}, column {}: {:?} error",
            error.line(),
            error.column(),
            error.classify()
        )
    })?;
    match duplicate_keys(text.as_bytes()).first() {
        Some(key) => Err(format!("gives the key `{key}` twice")),
        None => Ok(value),
    }
}

/// The table that a value in a list is; `None` if it is no table.
pub(super) fn table(value: Value, layer: Layer) -> Option<Table> {
    let mut table = Table::new();
    value.is_object().then(|| merge_root(&mut table, value, layer))?;
    Some(table)
}

fn merge_root(root: &mut Table, value: Value, layer: Layer) {
    if let Value::Object(entries) = value {
        for (key, value) in entries {
            merge(root, key, value, layer);
        }
    }
}

/// Tables are merged key by key; anything else replaces what was there.
fn merge(table: &mut Table, key: String, value: Value, layer: Layer) {
    match (value, table.get_mut(&key)) {
        (Value::Object(entries), Some(Node { layer: last, content: Content::Table(below) })) => {
            *last = layer;
            for (key, value) in entries {
                merge(below, key, value, layer);
            }
        }
        (Value::Object(entries), _) => {
            let mut below = Table::new();
            for (key, value) in entries {
                merge(&mut below, key, value, layer);
            }
            table.insert(key, Node { layer, content: Content::Table(below) });
        }
        (value, _) => {
            table.insert(key, Node { layer, content: Content::Value(value) });
        }
    }
}
