//! Every key with its value, its default and its source, for operators. No secret is in it.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::layers::{self, Content, DEFAULTS, Layer, Layers, Table};
use super::sections::Environment;

/// Keys whose empty value an environment variable replaces.
const VARIABLES: [(&str, &[&str]); 5] = [
    ("core.admin.auth_token", &["DSTACK_KMS_ADMIN_TOKEN", "ADMIN_API_TOKEN"]),
    ("core.onboard.auth_token", &["DSTACK_KMS_ONBOARD_TOKEN"]),
    ("core.auth_api.webhook.bearer_token", &["KMS_WEBHOOK_TOKEN"]),
    ("core.attester.address", &["DSTACK_AGENT_ADDRESS"]),
    ("core.postgres.url", &["KMS_STATE_URL"]),
];

/// Sections and keys that decide who gets keys, by which evidence, or who may administer this KMS. In a CVM the file with
/// them is measured, so nothing changes them at run time.
const MEASURED: [&str; 21] = [
    "profile",
    "core.cert_dir",
    "core.enforce_self_authorization",
    "core.attest_rpc_cert",
    "core.sev_snp_key_release",
    "core.aws_nitro_tpm_key_release",
    "core.nitro_enclave_key_release",
    "core.release_stage",
    "core.admin_token_hash",
    "core.insecure_no_tee",
    "core.insecure_world_readable_keys",
    "core.attestation",
    "core.attester",
    "core.tcb",
    "core.image",
    "core.auth_api",
    "core.onboard",
    "core.admin",
    "core.state",
    "core.postgres",
    "domains",
];

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `kms.toml` as it is compiled in.
    Default,
    /// A configuration file.
    File,
    /// An environment variable.
    Environment,
    /// An owner, at run time.
    Runtime,
}

impl Source {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Runtime => "runtime",
        }
    }
}

/// What may be shown of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// All of it.
    Plain(Value),
    /// A path, or the origin of a URL: to those who may change something.
    Internal(Value),
    /// Only whether it is set.
    Secret(Presence),
}

/// Whether a value is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    Set,
    /// It is empty or absent.
    NotSet,
}

/// A key and its value in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Its dotted name.
    pub key: String,
    /// Its value.
    pub value: Shown,
    /// Its default; `None` for a key that is absent by default.
    pub default: Option<Shown>,
    /// Where the value comes from.
    pub source: Source,
    /// What it means, from `kms.toml`.
    pub meaning: String,
    /// Changes with the value, also that of a secret.
    pub digest: [u8; 32],
}

impl Effective {
    /// Whether nothing may change it at run time.
    pub fn is_measured(&self) -> bool {
        let key = self.key.as_str();
        MEASURED.iter().any(|measured| {
            key.strip_prefix(measured).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

/// All keys of these layers, by name.
pub(super) fn list(layers: &Layers, environment: Environment<'_>) -> Vec<Effective> {
    let mut values = BTreeMap::new();
    collect(&layers.root, "", &mut values);
    let mut defaults = BTreeMap::new();
    collect(&layers::defaults().root, "", &mut defaults);
    let mut meanings = meanings(DEFAULTS);
    let listed = values.into_iter().map(|(key, (value, layer))| {
        let variable = VARIABLES.iter().find(|(name, _)| *name == key).and_then(|(_, variables)| {
            variables.iter().find_map(|name| environment(name).filter(|text| !text.trim().is_empty()))
        });
        let (value, source) = match (variable, layer) {
            (Some(text), _) if value.as_str() == Some("") => (Value::from(text), Source::Environment),
            (_, Layer::File(_)) => (value, Source::File),
            (_, Layer::Defaults) => (value, Source::Default),
        };
        Effective {
            digest: Sha256::digest(value.to_string()).into(),
            default: defaults.remove(&key).map(|(default, _)| shown(&key, &default)),
            value: shown(&key, &value),
            meaning: meanings.remove(&key).unwrap_or_default(),
            source,
            key,
        }
    });
    listed.collect()
}

fn collect(table: &Table, prefix: &str, found: &mut BTreeMap<String, (Value, Layer)>) {
    for (name, node) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match &node.content {
            Content::Table(below) if below.is_empty() => {
                found.insert(key, (Value::Object(serde_json::Map::new()), node.layer));
            }
            Content::Table(below) => collect(below, &key, found),
            Content::Value(value) => drop(found.insert(key, (value.clone(), node.layer))),
        }
    }
}

fn shown(key: &str, value: &Value) -> Shown {
    if layers::is_secret(key.rsplit('.').next().unwrap_or(key)) {
        let is_set = !matches!(value, Value::Null) && value.as_str() != Some("");
        return Shown::Secret(if is_set { Presence::Set } else { Presence::NotSet });
    }
    match visible(value) {
        (value, true) => Shown::Internal(value),
        (value, false) => Shown::Plain(value),
    }
}

/// The value without what may hold a key, and whether it names something inside.
fn visible(value: &Value) -> (Value, bool) {
    match value {
        Value::String(text) if text.contains("://") => (layers::origin(text).into(), true),
        Value::String(text) => {
            let is_place = text.starts_with(['/', '.']) || text.starts_with("unix:");
            (value.clone(), is_place && text.len() > 1)
        }
        Value::Array(list) => {
            let list: Vec<_> = list.iter().map(visible).collect();
            let is_internal = list.iter().any(|(_, is_internal)| *is_internal);
            (list.into_iter().map(|(value, _)| value).collect(), is_internal)
        }
        // An entry of a list, such as `[[core.notify]]`: its names only.
        Value::Object(table) => (table.keys().cloned().collect(), false),
        Value::Null | Value::Bool(_) | Value::Number(_) => (value.clone(), false),
    }
}

/// The comment of each key, or else that of its section.
fn meanings(toml: &str) -> BTreeMap<String, String> {
    let mut meanings = BTreeMap::<String, String>::new();
    let (mut section, mut last) = (String::new(), None::<String>);
    for line in toml.lines() {
        let (content, comment) = match line.find(" #").filter(|at| !line[..*at].trim_start().starts_with('#'))
        {
            Some(at) => (line[..at].trim(), Some(line[at + 2..].trim())),
            None => (line.trim(), None),
        };
        if let Some(name) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
            last = Some(section.clone());
        } else if let Some((name, _)) = content.split_once('=').filter(|_| !content.starts_with('#')) {
            let key = match section.as_str() {
                "" => name.trim().to_owned(),
                section => format!("{section}.{}", name.trim()),
            };
            if comment.is_none()
                && let Some(of_section) = meanings.get(&section).cloned()
            {
                meanings.insert(key.clone(), of_section);
            }
            last = Some(key);
        } else if !content.is_empty() || comment.is_none() {
            // A commented-out key, or an empty line.
            last = None;
        }
        if let (Some(key), Some(comment)) = (&last, comment) {
            let meaning = meanings.entry(key.clone()).or_default();
            if !meaning.is_empty() {
                meaning.push(' ');
            }
            meaning.push_str(comment);
        }
    }
    meanings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn listed(toml: &str) -> Vec<Effective> {
        Config::from_toml(toml).expect("a configuration").0.effective
    }

    fn of<'a>(list: &'a [Effective], key: &str) -> &'a Effective {
        list.iter().find(|one| one.key == key).unwrap_or_else(|| panic!("no {key}"))
    }

    #[test]
    fn each_key_has_a_source_a_default_and_a_meaning() {
        let list = listed("[core]\nsite_name = 'here'\nlimits.app_burst = 5");
        assert!(list.len() > 90, "{}", list.len());
        let site = of(&list, "core.site_name");
        assert_eq!((site.source, &site.value), (Source::File, &Shown::Plain("here".into())));
        assert_eq!(site.default, Some(Shown::Plain("".into())));
        assert_eq!(site.meaning, "shown by GetAttestationInfo, so that operators know which site this is");
        assert_eq!(of(&list, "core.limits.app_burst").value, Shown::Plain(5.into()));
        assert_eq!(of(&list, "rpc.port").source, Source::Default);
        let meaning = &of(&list, "core.limits.unauthenticated_per_second").meaning;
        assert!(
            meaning.starts_with("requests of one address") && meaning.ends_with("are one address"),
            "{meaning}"
        );
        assert_eq!(of(&list, "rpc.address").meaning, "IP address to listen on");
        assert!(!of(&list, "core.limits.unauthenticated_burst").meaning.is_empty(), "of its section");
    }

    #[test]
    fn no_secret_and_no_path_of_a_url_is_in_it() {
        let list = listed(
            "core.admin = { enabled = true, auth_token = 'AAAA' }\n\
             core.auth_api.webhook = { url = 'https://user:BBBB@host/CCCC?key=DDDD', bearer_token = 'EEEE' }\n\
             core.auth_api.ethereum = { rpc_urls = ['https://node/FFFF'] }\n\
             core.admin_token_hash = 'abababababababababababababababababababababababababababababababab'\n\
             [[core.notify]]\nurl = 'https://pager.example/GGGG'\nsecret = 'HHHHHHHHHHHHHHHH'",
        );
        let text = format!("{list:?}");
        for secret in ["AAAA", "BBBB", "CCCC", "DDDD", "EEEE", "FFFF", "GGGG", "HHHH", "abab"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert_eq!(of(&list, "core.admin.auth_token").value, Shown::Secret(Presence::Set));
        assert_eq!(of(&list, "core.onboard.auth_token").value, Shown::Secret(Presence::NotSet));
        assert_eq!(of(&list, "core.auth_api.webhook.url").value, Shown::Internal("https://host".into()));
        assert!(matches!(of(&list, "core.cert_dir").value, Shown::Internal(_)));
        let other = listed("core.admin = { enabled = true, auth_token = 'other' }");
        assert_ne!(of(&list, "core.admin.auth_token").digest, of(&other, "core.admin.auth_token").digest);
    }

    #[test]
    fn what_decides_who_gets_keys_is_measured() {
        let list = listed("");
        for (key, is_measured) in [
            ("core.auth_api.type", true),
            ("core.tcb.grace", true),
            ("core.admin.auth_token", true),
            ("core.release_stage", true),
            ("core.limits.app_burst", false),
            ("core.site_name", false),
            ("core.events.denial_storm_count", false),
            ("rpc.port", false),
        ] {
            assert_eq!(of(&list, key).is_measured(), is_measured, "{key}");
        }
        let of_a_domain = listed("[domains.sandbox]\ninstance_scoped = true");
        assert!(of(&of_a_domain, "domains.sandbox.instance_scoped").is_measured());
        for measured in MEASURED {
            let is_there =
                |one: &Effective| one.key == measured || one.key.starts_with(&format!("{measured}."));
            // Commented out in `kms.toml`.
            let is_commented = ["core.admin_token_hash", "domains"].contains(&measured);
            assert!(is_commented || list.iter().any(is_there), "{measured}");
        }
    }
}
