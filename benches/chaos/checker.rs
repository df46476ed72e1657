//! What must never happen, checked against each answer that a caller gets.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::Answer;

/// All that is known of the apps and their callers.
pub(crate) struct Checker {
    began: Instant,
    /// How long after a shared freeze a node that does not reach the database may still release.
    bound: Duration,
    /// After this time without faults, all nodes must agree and release.
    pub(crate) patience: Duration,
    apps: Vec<Mutex<App>>,
    /// The records that receipts show, by their SHA-256: the node and the instance.
    handed: Mutex<HashMap<[u8; 32], (usize, String)>>,
    counts: Mutex<BTreeMap<String, usize>>,
    violations: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

#[derive(Default)]
struct App {
    /// The first keys that anybody got.
    keys: Option<Value>,
    /// When each node answered that it is frozen there, until the end of the freeze is asked for.
    frozen_here: Vec<(usize, Instant)>,
    /// When a node answered that the others have it.
    frozen_everywhere: Option<Instant>,
}

/// The keys in an answer; certificates differ.
fn keys(answer: &Value) -> Value {
    let part = |name: &str| answer[name].clone();
    Value::Array(["k256_key", "disk_crypt_key", "env_crypt_key"].map(part).to_vec())
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Checker {
    pub(crate) fn new(apps: usize, bound: Duration, patience: Duration) -> Self {
        Self {
            began: Instant::now(),
            bound,
            patience,
            apps: (0..apps).map(|_| Mutex::default()).collect(),
            handed: Mutex::default(),
            counts: Mutex::default(),
            violations: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Says what must not have happened.
    pub(crate) fn violated(&self, what: String) {
        println!("{:7.1} s  VIOLATED: {what}", self.elapsed().as_secs_f64());
        held(&self.violations).push(what);
    }

    pub(crate) fn violations(&self) -> usize {
        held(&self.violations).len()
    }

    pub(crate) fn count(&self, what: &str) {
        *held(&self.counts).entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn counted(&self, what: &str) -> usize {
        held(&self.counts).get(what).copied().unwrap_or_default()
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        held(&self.counts).clone()
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// A node has answered that an app is frozen on it, and perhaps that the others have it.
    pub(crate) fn frozen(&self, app: usize, node: usize, is_shared: bool) {
        let (mut app, now) = (held(&self.apps[app]), Instant::now());
        if app.frozen_here.iter().all(|(there, _)| *there != node) {
            app.frozen_here.push((node, now));
        }
        if is_shared && app.frozen_everywhere.is_none() {
            app.frozen_everywhere = Some(now);
        }
    }

    /// Somebody asks for the end of a freeze: from now on, keys may be released.
    pub(crate) fn may_thaw(&self, app: usize) {
        let mut app = held(&self.apps[app]);
        app.frozen_here.clear();
        app.frozen_everywhere = None;
    }

    /// A node answered a request for keys that was sent at `sent`.
    pub(crate) fn answered(&self, app: usize, node: usize, instance: &str, sent: Instant, answer: &Answer) {
        let mut state = held(&self.apps[app]);
        let here = state.frozen_here.iter().find(|(there, at)| *there == node && *at < sent);
        let everywhere = state.frozen_everywhere.filter(|at| *at + self.bound < sent);
        if answer.status != 200 {
            let code = match here.is_some() || everywhere.is_some() {
                true => "refused where it must be".to_owned(),
                false => format!("refused with {}", answer.status),
            };
            drop(state);
            return self.count(&code);
        }
        let when = |at: Instant| (sent - at).as_secs_f64();
        if let Some((_, at)) = here {
            let late = when(*at);
            self.violated(format!(
                "node {node} released keys of app {app}, asked for {late:.3} s after it answered that it has frozen it"
            ));
        } else if let Some(at) = everywhere {
            let late = when(at);
            self.violated(format!(
                "node {node} released keys of app {app}, asked for {late:.3} s after a freeze that all nodes have"
            ));
        }
        let found = keys(&answer.value());
        if found
            .as_array()
            .is_none_or(|parts| parts.iter().any(|part| part.as_str().is_none_or(str::is_empty)))
        {
            self.violated(format!("node {node} gave app {app} an answer without keys"));
        }
        if *state.keys.get_or_insert_with(|| found.clone()) != found {
            self.violated(format!("node {node} gave app {app} other keys than the first"));
        }
        drop(state);
        let entry = answer.value()["receipt"]["entry"].as_str().and_then(|entry| hex::decode(entry).ok());
        let record = entry.map(|entry| Sha256::digest(&entry).into());
        let before = record.map(|record| held(&self.handed).insert(record, (node, instance.to_owned())));
        match before {
            Some(None) => {}
            Some(Some(_)) => self.violated(format!("node {node} gave the same receipt twice")),
            None => self.violated(format!("node {node} gave app {app} keys without a receipt")),
        }
        self.count("keys handed out");
        self.count(&format!("keys handed out by node {node}"));
    }

    /// The SHA-256 of each record of which a node gave a receipt, with its instance.
    pub(crate) fn handed_by(&self, node: usize) -> HashMap<[u8; 32], String> {
        let handed = held(&self.handed);
        let of_node = handed.iter().filter(|(_, (by, _))| *by == node);
        of_node.map(|(record, (_, instance))| (*record, instance.clone())).collect()
    }
}
