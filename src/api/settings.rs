//! The settings as operators see them, and those that owners change at run time.

mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kms_attest::json::duplicate_keys;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

pub use self::reading::Reading;
use super::Caller;
use crate::audit::{Audit, Event, Receipt};
use crate::config::{Config, Effective, Hot, HotKey, Origin, Presence, Shown, Source};
use crate::control::Author;
use crate::error::{Code, Error, Result};
use crate::request;
use crate::state::{self, SettingsFile};

use super::Role;

/// Puts values into force where they are used.
pub trait Apply: fmt::Debug + Send + Sync {
    /// Puts `hot` in force.
    fn apply(&self, hot: &Hot);
}

/// What the process log can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogControl {
    /// Its level can be changed.
    Changeable,
    /// It belongs to the program that this one is a part of.
    Foreign,
}

/// Shows and changes settings.
#[derive(Debug)]
pub struct SettingsService {
    audit: Arc<Audit>,
    file: Arc<SettingsFile>,
    origin: Origin,
    apply: Box<dyn Apply>,
    log: LogControl,
    known: Mutex<Known>,
    /// One change or reading at a time.
    turn: tokio::sync::Mutex<()>,
}

/// What is in force.
#[derive(Debug, Clone)]
struct Known {
    listed: Vec<Effective>,
    /// The values of the files.
    of_files: Hot,
    /// What owners changed.
    runtime: BTreeMap<HotKey, Value>,
    /// Both together.
    hot: Hot,
    /// Keys whose files say something else since the start.
    pending: BTreeSet<String>,
}

/// The settings in force.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Settings {
    settings: Vec<Setting>,
    /// Keys with another value in the files since the start of the process, which a restart puts into force.
    restart_required: Vec<String>,
}

/// One setting.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Setting {
    /// Its dotted name.
    key: String,
    /// The value in force. For a secret `set` or `not set`. Roles that only read see the same of paths and URLs; others
    /// see of a URL its origin.
    value: Value,
    /// The value that is compiled in; null if the key is absent then.
    default: Value,
    /// `default`, `file`, `environment` or `runtime`.
    source: &'static str,
    /// Whether an owner can change it at run time.
    editable: bool,
    /// Whether a change in the files counts after a restart only.
    restart_required: bool,
    /// Whether it decides who gets keys, by which evidence, or who may administer this KMS: nothing changes it at run
    /// time.
    measured: bool,
    /// What it means, and what to know about its value.
    message: String,
    /// Whether the value is not shown.
    secret: bool,
}

impl SettingsService {
    /// The settings of `config`, with what owners have changed. Values that are not valid any more are left out.
    pub fn open(
        config: &Config,
        file: SettingsFile,
        audit: Arc<Audit>,
        apply: Box<dyn Apply>,
        log: LogControl,
    ) -> Self {
        let of_files = Hot::of(config);
        let kept = file.read().unwrap_or_else(|error| {
            tracing::error!(%error, "what was changed at run time is not in force; the files are");
            BTreeMap::new()
        });
        let (mut hot, mut runtime) = (of_files, BTreeMap::new());
        for (name, value) in kept {
            let set = HotKey::parse(&name).ok_or_else(|| "is not one that can change".to_owned());
            match set.and_then(|key| hot.set(key, &value).map(|()| key)) {
                Ok(key) => drop(runtime.insert(key, value)),
                Err(problem) => tracing::error!(setting = name, problem, "a kept setting is not in force"),
            }
        }
        apply.apply(&hot);
        let listed = config.effective.clone();
        let known = Mutex::new(Known { listed, of_files, runtime, hot, pending: BTreeSet::new() });
        let origin = config.origin.clone();
        Self { audit, file: Arc::new(file), origin, apply, log, known, turn: tokio::sync::Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All settings, as this caller may see them.
    pub fn list(&self, caller: &Caller) -> Settings {
        let role = caller.identity().and_then(|operator| operator.role());
        let sees_inside = role.is_some_and(|role| role.includes(Role::Operator));
        let known = self.known();
        let mut settings: Vec<_> =
            known.listed.iter().map(|one| self.shown(one, &known, sees_inside)).collect();
        settings.push(self.log_level(&known));
        settings.sort_by(|a, b| a.key.cmp(&b.key));
        Settings { settings, restart_required: known.pending.iter().cloned().collect() }
    }

    /// Whether the files have values that wait for a restart.
    pub fn needs_restart(&self) -> bool {
        !self.known().pending.is_empty()
    }

    fn shown(&self, one: &Effective, known: &Known, sees_inside: bool) -> Setting {
        let hot = HotKey::parse(&one.key);
        let changed = hot.filter(|key| known.runtime.contains_key(key));
        let visible = |shown: &Shown| match shown {
            Shown::Plain(value) => value.clone(),
            Shown::Internal(value) if sees_inside => value.clone(),
            Shown::Internal(_) | Shown::Secret(Presence::Set) => "set".into(),
            Shown::Secret(Presence::NotSet) => "not set".into(),
        };
        let is_hidden = |shown: &Shown| match shown {
            Shown::Plain(_) => false,
            Shown::Internal(_) => !sees_inside,
            Shown::Secret(_) => true,
        };
        let mut message = one.meaning.clone();
        let mut add = |text: &str| {
            message.push_str(if message.is_empty() { "" } else { ". " });
            message.push_str(text);
        };
        if known.pending.contains(&one.key) {
            add("The files have another value since the start: it counts after a restart");
        }
        if changed.is_some() {
            add(&format!("Changed at run time; without that it is {}", visible(&one.value)));
        }
        Setting {
            value: changed.map_or_else(|| visible(&one.value), |key| known.hot.value(key)),
            default: one.default.as_ref().map_or(Value::Null, visible),
            source: changed.map_or(one.source, |_| Source::Runtime).name(),
            editable: hot.is_some(),
            restart_required: hot.is_none(),
            measured: one.is_measured(),
            message,
            secret: is_hidden(&one.value),
            key: one.key.clone(),
        }
    }

    /// Not a key of the files.
    fn log_level(&self, known: &Known) -> Setting {
        let key = HotKey::LogLevel;
        let mut message =
            "what the process log says: error, warn, info, or debug for details of this program; \
                           \"as started\" is what RUST_LOG says, or else info"
                .to_owned();
        if self.log == LogControl::Foreign {
            message.push_str(". The log belongs to another program");
        }
        let is_changed = known.runtime.contains_key(&key);
        Setting {
            key: key.name().to_owned(),
            value: known.hot.value(key),
            default: known.of_files.value(key),
            source: if is_changed { Source::Runtime.name() } else { Source::Default.name() },
            editable: self.log == LogControl::Changeable,
            restart_required: false,
            measured: false,
            message,
            secret: false,
        }
    }

    /// An owner changes settings: all of them, or none. A null takes a change back. It holds over a restart.
    ///
    /// # Errors
    /// `unknown_setting`, `not_editable`, `invalid_setting`, `other_domain`; a body that is not an object of settings, or names
    /// one twice; a disk or an audit log that does not take it.
    pub async fn change(self: &Arc<Self>, caller: &Caller, body: &[u8]) -> Result<Settings> {
        let changes = self.read(body)?;
        caller.expect_whole_kms()?;
        let (service, author) = (Arc::clone(self), caller.author());
        let change = request::spawn(async move { service.put(changes, author).await });
        change.await.map_err(|error| Error::internal("the change ended in a panic", error))??;
        Ok(self.list(caller))
    }

    fn read(&self, body: &[u8]) -> Result<BTreeMap<HotKey, Value>> {
        if let Some(key) = duplicate_keys(body).first() {
            return Err(Error::invalid(format!("{key} is given more than once")));
        }
        let body: BTreeMap<String, Value> = kms_attest::json::from_utf8(body)
            .map_err(|error| Error::invalid(format!("must be an object of settings: {error}")))?;
        if body.is_empty() {
            return Err(Error::invalid("names no setting"));
        }
        let mut hot = self.known().of_files;
        let (mut changes, mut problems) = (BTreeMap::new(), Vec::new());
        for (name, value) in body {
            let key = self.editable(&name)?;
            if !value.is_null()
                && let Err(problem) = hot.set(key, &value)
            {
                problems.push(format!("{name} {problem}"));
            }
            changes.insert(key, value);
        }
        match problems.is_empty() {
            true => Ok(changes),
            false => Err(Error::invalid(problems.join("; ")).because("invalid_setting")),
        }
    }

    fn editable(&self, name: &str) -> Result<HotKey> {
        let refused = |text: String| Err(Error::new(Code::Conflict, text).because("not_editable"));
        match HotKey::parse(name) {
            Some(HotKey::LogLevel) if self.log == LogControl::Foreign => {
                refused("log_level cannot change: the log belongs to another program".to_owned())
            }
            Some(key) => Ok(key),
            None => match self.known().listed.iter().find(|one| one.key == name) {
                Some(one) if one.is_measured() => refused(format!(
                    "{name} decides who gets keys, by which evidence, or who may administer this KMS: it is part of \
                     what is measured, and nothing changes it at run time"
                )),
                Some(_) => refused(format!("{name} cannot change at run time: change the file and restart")),
                None => {
                    let name: String = name.chars().filter(|letter| !letter.is_control()).take(64).collect();
                    let names = HotKey::ALL.map(HotKey::name).join(", ");
                    let text = format!("there is no setting {name}; those that can change are {names}");
                    Err(Error::invalid(text).because("unknown_setting"))
                }
            },
        }
    }

    async fn put(&self, changes: BTreeMap<HotKey, Value>, author: Author) -> Result<()> {
        let _turn = self.turn.lock().await;
        let before = self.known().clone();
        let mut runtime = before.runtime.clone();
        for (key, value) in changes {
            match value {
                Value::Null => drop(runtime.remove(&key)),
                value => drop(runtime.insert(key, value)),
            }
        }
        let hot = laid_over(before.of_files, &runtime)?;
        if runtime == before.runtime {
            return Ok(());
        }
        let changed = HotKey::ALL.into_iter().filter(|key| before.runtime.get(key) != runtime.get(key));
        let changed: Vec<_> = changed.collect();
        let event = |key: HotKey, value: &Hot, previous: &Hot| Event::SettingChanged {
            setting: key.name(),
            value: text(&value.value(key)),
            previous: text(&previous.value(key)),
            by: author.by.clone(),
            remote: author.remote,
        };
        for key in &changed {
            let recorded = self.audit.record(event(*key, &hot, &before.hot)).await;
            let _recorded: Receipt = recorded.map_err(|error| {
                Error::unavailable("the audit log does not take the record; nothing was changed", error)
            })?;
        }
        let kept = runtime.iter().map(|(key, value)| (key.name().to_owned(), value.clone())).collect();
        let file = Arc::clone(&self.file);
        let replaced = state::written(move || file.replace(kept)).await.map_err(|error| {
            for key in changed {
                self.audit.note(event(key, &before.hot, &hot));
            }
            let text = format!("the change cannot be kept: {error}; nothing was changed");
            Error::new(Code::Unavailable, text)
        })?;
        self.apply.apply(&hot);
        {
            let mut known = self.known();
            (known.runtime, known.hot) = (runtime, hot);
        }
        replaced.safely().map_err(|error| {
            let text = format!(
                "the change is in force, but the key directory cannot be synced, so it may be lost if the machine stops: {error}"
            );
            Error::new(Code::Unavailable, text)
        })
    }
}

/// The values of the files, with what owners changed.
fn laid_over(of_files: Hot, runtime: &BTreeMap<HotKey, Value>) -> Result<Hot> {
    let mut hot = of_files;
    for (key, value) in runtime {
        let invalid =
            |problem| Error::invalid(format!("{} {problem}", key.name())).because("invalid_setting");
        hot.set(*key, value).map_err(invalid)?;
    }
    Ok(hot)
}

/// A value without quotes, for people.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use kms_attest::state_file::StateFile;

    use super::*;

    #[derive(Debug)]
    struct Applied(Arc<Mutex<Option<Value>>>);

    impl Apply for Applied {
        fn apply(&self, hot: &Hot) {
            *self.0.lock().unwrap() = Some(hot.value(HotKey::LogLevel));
        }
    }

    #[tokio::test]
    async fn a_setting_whose_directory_is_not_synced_is_what_the_next_start_reads() {
        let home = tempfile::tempdir().unwrap();
        let audit = Arc::new(Audit::open(&home.path().join("audit.jsonl")).unwrap());
        let file = StateFile::from(home.path().join("settings.json"));
        let applied = Arc::new(Mutex::new(None));
        let (config, _) = Config::from_toml("").unwrap();
        let open = |file| {
            let apply = Box::new(Applied(Arc::clone(&applied)));
            SettingsService::open(
                &config,
                SettingsFile::new(file),
                Arc::clone(&audit),
                apply,
                LogControl::Changeable,
            )
        };
        let unsynced = file.clone().synced_by(|_| Err(std::io::Error::other("no sync")));
        let settings = open(unsynced);
        let author = Author { by: "token".to_owned(), remote: Ipv4Addr::LOCALHOST.into() };
        let changes = BTreeMap::from([(HotKey::LogLevel, Value::from("debug"))]);
        let error = settings.put(changes, author).await.unwrap_err();
        assert!(error.to_string().contains("the change is in force, but"), "{error}");
        let is_debug = |settings: &SettingsService| settings.known().hot.value(HotKey::LogLevel) == "debug";
        assert!(is_debug(&settings) && applied.lock().unwrap().take() == Some("debug".into()));
        assert!(is_debug(&open(file)));
    }
}
