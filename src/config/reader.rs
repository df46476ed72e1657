//! Reads typed values from merged layers, one section at a time, and collects all errors.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::layers::{self, Content, Layer, Node, Table};
use super::values;

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The key with its path, or the file.
    pub subject: String,
    /// What is wrong and what would be right; no secret.
    pub message: String,
    /// The file that set the key.
    pub file: Option<PathBuf>,
}

impl Finding {
    pub(super) fn file(path: &Path, message: String) -> Self {
        Self { subject: path.display().to_string(), message, file: None }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, " (in {})", file.display()))
    }
}

/// Everything that is wrong with the configuration, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Never empty.
    pub findings: Vec<Finding>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used")?;
        self.findings.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

impl std::error::Error for ConfigError {}

/// A setting that works, but perhaps not as its author expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The key with its path.
    pub key: String,
    /// What it does.
    pub message: String,
    /// The file that set the key.
    pub file: Option<PathBuf>,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, " (in {})", file.display()))
    }
}

/// Findings and notices so far.
pub(super) struct Report {
    pub(super) files: Vec<PathBuf>,
    pub(super) findings: Vec<Finding>,
    pub(super) notices: Vec<Notice>,
}

impl Report {
    fn file(&self, layer: Layer) -> Option<PathBuf> {
        match layer {
            Layer::Defaults => None,
            Layer::File(index) => self.files.get(index).cloned(),
        }
    }

    /// Adds a finding that no single value explains.
    pub(super) fn find(&mut self, key: &str, message: impl Into<String>) {
        self.findings.push(Finding { subject: key.to_owned(), message: message.into(), file: None });
    }

    /// Adds a notice that no single value explains.
    pub(super) fn notice(&mut self, key: &str, message: impl Into<String>) {
        self.notices.push(Notice { key: key.to_owned(), message: message.into(), file: None });
    }
}

/// One table while it is read. Keys that are left at the end are unknown.
pub(super) struct Section<'a> {
    path: String,
    table: Table,
    /// Names to suggest where an unknown key is found.
    known: Vec<&'static str>,
    state: TableState,
    report: &'a mut Report,
}

/// Whether missing keys are worth a finding.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TableState {
    Present,
    /// The table itself is invalid, which was reported already.
    Replaced,
}

impl<'a> Section<'a> {
    /// Reads the root table; keys that `read` does not take are findings.
    pub(super) fn root<T>(
        table: Table,
        report: &'a mut Report,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        Section { path: String::new(), table, known: Vec::new(), state: TableState::Present, report }
            .read(read)
    }

    fn read<T>(mut self, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let value = read(&mut self);
        for (key, node) in std::mem::take(&mut self.table) {
            let message = unknown(&key, &self.known);
            self.find_in(&key, node.layer, message);
        }
        value
    }

    /// Reads a table below; a missing one is empty.
    pub(super) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let path = self.path_of(key);
        self.known.push(key);
        let (table, state) = match self.table.remove(key) {
            Some(Node { content: Content::Table(table), .. }) => (table, self.state),
            Some(Node { layer, content: Content::Value(_) }) => {
                self.find_in(key, layer, "must be a table".to_owned());
                (Table::new(), TableState::Replaced)
            }
            None => (Table::new(), self.state),
        };
        Section { path, table, known: Vec::new(), state, report: self.report }.read(read)
    }

    /// A list of at most `limit` tables, such as `[[core.notify]]`; a missing one is empty.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        limit: usize,
        mut read: impl FnMut(&mut Section<'_>, usize) -> T,
    ) -> Vec<T> {
        self.known.push(key);
        let Some(Node { layer, content }) = self.table.remove(key) else { return Vec::new() };
        let path = self.path_of(key);
        let tables = match content {
            Content::Value(Value::Array(list)) if list.len() <= limit => {
                list.into_iter().map(|entry| layers::table(entry, layer)).collect::<Option<Vec<_>>>()
            }
            Content::Value(_) | Content::Table(_) => None,
        };
        let Some(tables) = tables else {
            self.find_in(key, layer, format!("must be at most {limit} tables, [[{path}]] each"));
            return Vec::new();
        };
        let entries = tables.into_iter().enumerate().map(|(index, table)| {
            let (path, state) = (format!("{path}[{index}]"), TableState::Present);
            let section = Section { path, table, known: Vec::new(), state, report: self.report };
            section.read(|section| read(section, index))
        });
        entries.collect()
    }

    /// Lays defaults under a table, if a file has it; says whether one has.
    pub(super) fn underlay(&mut self, key: &'static str, defaults: Table) -> bool {
        self.known.push(key);
        match self.table.get_mut(key) {
            Some(Node { content: Content::Table(table), .. }) => lay_under(table, defaults),
            Some(Node { content: Content::Value(_), .. }) => {}
            None => return false,
        }
        true
    }

    /// At most `limit` tables with names of the operator's choice, such as `[domains.NAME]`.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        limit: usize,
        mut read: impl FnMut(&mut Section<'_>, &str),
    ) {
        self.known.push(key);
        let Some(Node { layer, content }) = self.table.remove(key) else { return };
        let path = self.path_of(key);
        let tables = match content {
            Content::Table(tables) if tables.len() <= limit => tables
                .into_iter()
                .map(|(name, node)| match node.content {
                    Content::Table(table) => Some((name, table)),
                    Content::Value(_) => None,
                })
                .collect::<Option<Vec<_>>>(),
            Content::Table(_) | Content::Value(_) => None,
        };
        let Some(tables) = tables else {
            self.find_in(key, layer, format!("must be at most {limit} tables, [{path}.NAME] each"));
            return;
        };
        for (name, table) in tables {
            let (path, state) = (format!("{path}.{}", bounded(&name)), TableState::Present);
            let section = Section { path, table, known: Vec::new(), state, report: self.report };
            section.read(|section| read(section, &name));
        }
    }

    /// A key that always has a value, because the defaults have one; `placeholder` stands in after a finding.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        placeholder: T,
        parse: impl FnOnce(Value) -> Result<T, String>,
    ) -> T {
        if !self.table.contains_key(key) && self.state == TableState::Present {
            let path = self.path_of(key);
            self.report.find(&path, "is missing");
        }
        self.optional(key, parse).unwrap_or(placeholder)
    }

    /// A key that may be absent. `None` also after a finding.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        self.known.push(key);
        self.retired(key, parse)
    }

    /// As [`Section::optional`], for a deprecated key.
    pub(super) fn retired<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        let Node { layer, content } = self.table.remove(key)?;
        let parsed = match content {
            Content::Value(value) => parse(value),
            Content::Table(table) => parse(plain(table)),
        };
        parsed.map_err(|message| self.find_in(key, layer, message)).ok()
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        self.required(key, false, values::boolean)
    }

    /// A text, possibly empty.
    pub(super) fn text(&mut self, key: &'static str) -> String {
        self.required(key, String::new(), values::string)
    }

    /// A path; `None` if it is empty.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        Some(self.text(key)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    /// An IP address.
    pub(super) fn address(&mut self, key: &'static str) -> IpAddr {
        self.required(key, IpAddr::from(Ipv4Addr::UNSPECIFIED), |value| {
            values::string(value)?.parse().map_err(|_| "must be an IP address".to_owned())
        })
    }

    /// A port.
    pub(super) fn port(&mut self, key: &'static str) -> u16 {
        self.required(key, 0, |value| {
            let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
            port.ok_or_else(|| "must be a port, a whole number from 0 to 65535".to_owned())
        })
    }

    /// A value that is still in the table.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        match &self.table.get(key)?.content {
            Content::Value(value) => Some(value),
            Content::Table(_) => None,
        }
    }

    /// Whether a file, not the defaults, set the key.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|node| node.layer != Layer::Defaults)
    }

    /// Accepts a key that has no effect, with a notice where a file sets it.
    pub(super) fn inert(&mut self, key: &'static str, message: &str) {
        if self.is_set(key) {
            self.notice(key, message);
        }
        self.table.remove(key);
    }

    /// Refuses a key of the peer that has no counterpart here, where a file sets it.
    pub(super) fn unsupported(&mut self, key: &'static str, message: &str) {
        if self.is_set(key) {
            self.find(key, message);
        }
        self.table.remove(key);
    }

    /// Adds a notice about a key that is still in the table.
    pub(super) fn notice(&mut self, key: &str, message: impl Into<String>) {
        let file = self.table.get(key).and_then(|node| self.report.file(node.layer));
        let key = self.path_of(key);
        self.report.notices.push(Notice { key, message: message.into(), file });
    }

    /// Adds a finding about a key of this table.
    pub(super) fn find(&mut self, key: &str, message: &str) {
        let path = self.path_of(key);
        self.report.find(&path, message);
    }

    /// Adds a finding about this table.
    pub(super) fn find_here(&mut self, message: &str) {
        let path = self.path.clone();
        self.report.find(&path, message);
    }

    fn find_in(&mut self, key: &str, layer: Layer, message: String) {
        let file = self.report.file(layer);
        let subject = self.path_of(key);
        self.report.findings.push(Finding { subject, message, file });
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { bounded(key) } else { format!("{}.{}", self.path, bounded(key)) }
    }
}

/// Adds what is missing in a table.
fn lay_under(table: &mut Table, defaults: Table) {
    for (key, default) in defaults {
        match (table.get_mut(&key), default.content) {
            (Some(Node { content: Content::Table(table), .. }), Content::Table(below)) => {
                lay_under(table, below)
            }
            (Some(_), _) => {}
            (None, content) => drop(table.insert(key, Node { layer: default.layer, content })),
        }
    }
}

fn plain(table: Table) -> Value {
    Value::Object(
        table
            .into_iter()
            .map(|(key, node)| match node.content {
                Content::Value(value) => (key, value),
                Content::Table(table) => (key, plain(table)),
            })
            .collect(),
    )
}

/// Names the nearest known key, or all of them where none is near.
fn unknown(key: &str, known: &[&'static str]) -> String {
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&bounded(key), name), *name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3);
    match nearest {
        Some((_, name)) => format!("unknown key, did you mean `{name}`?"),
        None => format!("unknown key, the keys here are {}", known.join(", ")),
    }
}

fn bounded(key: &str) -> String {
    key.chars().take(64).collect()
}
