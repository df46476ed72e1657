//! The settings of a policy whose rules come in signed bundles.

use std::path::PathBuf;
use std::time::Duration;

use kms_attest::outgoing::Endpoint;
use kms_ledger::key::{PublicKey, VerifyingKey};

use super::{EmptyDevices, MinisignKey};

/// The most keys that a configuration pins.
pub const MAX_KEYS: usize = 32;

/// `[core.auth_api.bundle]`
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Where new bundles come from.
    pub source: BundleSource,
    /// Who signs them.
    pub keys: PinnedKeys,
    /// How often the source is asked.
    pub poll_interval: Duration,
    /// Certificates that the source may have, in addition to public ones.
    pub ca_file: Option<PathBuf>,
    /// What an expired bundle does.
    pub on_expiry: OnExpiry,
    /// How long before its expiry operators are warned.
    pub warn_before_expiry: Duration,
    /// What happens to a new bundle of the source.
    pub activation: Activation,
    /// How a new bundle of the source is tried before it decides by itself; `None`: it is not.
    pub shadow: Option<UnattendedShadow>,
    /// No bundle with a lower serial is used.
    pub minimum_serial: u64,
    /// What an empty `devices` list means.
    pub empty_devices: EmptyDevices,
}

/// Where new bundles come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleSource {
    /// From operators only.
    Operators,
    /// A file on this machine.
    File(PathBuf),
    /// A server.
    Server(Endpoint),
}

/// What becomes of decisions when the bundle in force has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExpiry {
    /// It decides further, and operators are warned.
    Warn,
    /// Everything is denied.
    Deny,
}

/// What happens to a new bundle of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// It decides at once: its signers are trusted.
    Automatic,
    /// It waits for an owner.
    Manual,
}

/// How a new bundle of the source is tried on live requests before it is put in force by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnattendedShadow {
    /// For how long.
    pub time: Duration,
    /// If it would deny more requests that are allowed now, an operator decides.
    pub max_denied: u64,
}

/// The keys that may sign bundles, and how many of them must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedKeys {
    keys: Vec<VerifyingKey>,
    minisign: Vec<MinisignKey>,
    threshold: usize,
}

impl PinnedKeys {
    /// Reads verifier keys (C2SP `signed-note`, `name+id+base64`), of which `threshold` must sign.
    ///
    /// # Errors
    /// What is wrong with them, for the operator.
    pub fn new<'a>(vkeys: impl IntoIterator<Item = &'a str>, threshold: u64) -> Result<Self, String> {
        Self::with_minisign(vkeys, [], threshold)
    }

    /// As [`PinnedKeys::new`], and with public keys of minisign, which count to the same threshold.
    ///
    /// # Errors
    /// What is wrong with them, for the operator.
    pub fn with_minisign<'a, 'm>(
        vkeys: impl IntoIterator<Item = &'a str>,
        minisign_keys: impl IntoIterator<Item = &'m str>,
        threshold: u64,
    ) -> Result<Self, String> {
        let mut keys: Vec<VerifyingKey> = Vec::new();
        for vkey in vkeys {
            let key: VerifyingKey = vkey.trim().parse().map_err(|error| format!("{error}"))?;
            if !matches!(key.key(), PublicKey::Ed25519(_)) {
                return Err(format!("the key of {} must be an Ed25519 key of type 01", key.name()));
            }
            // Under two names one key would count twice.
            if let Some(other) = keys.iter().find(|other| other.key() == key.key()) {
                return Err(format!("{} and {} have the same key", other.name(), key.name()));
            }
            if keys.iter().any(|other| other.name() == key.name() && other.id() == key.id()) {
                return Err(format!("two keys are called {} and have the same id", key.name()));
            }
            keys.push(key);
            if keys.len() > MAX_KEYS {
                return Err(format!("at most {MAX_KEYS} keys can be pinned"));
            }
        }
        let mut minisign: Vec<MinisignKey> = Vec::new();
        for text in minisign_keys {
            let key = MinisignKey::parse(text)?;
            let same = keys.iter().find(|other| *other.key() == PublicKey::Ed25519(*key.ed25519()));
            if let Some(other) = same {
                return Err(format!("{} and {} have the same key", other.name(), key.name()));
            }
            if let Some(other) = minisign.iter().find(|other| other.ed25519() == key.ed25519()) {
                return Err(format!("{} and {} have the same key", other.name(), key.name()));
            }
            if minisign.iter().any(|other| other.id() == key.id())
                || keys.iter().any(|other| other.name().as_str() == key.name())
            {
                return Err(format!("two keys are called {}", key.name()));
            }
            minisign.push(key);
            if keys.len() + minisign.len() > MAX_KEYS {
                return Err(format!("at most {MAX_KEYS} keys can be pinned"));
            }
        }
        let number = keys.len() + minisign.len();
        let threshold = usize::try_from(threshold).unwrap_or(usize::MAX);
        if threshold == 0 || threshold > number {
            return Err(format!("threshold must be from 1 to {number}, the number of keys"));
        }
        Ok(Self { keys, minisign, threshold })
    }

    /// The verifier keys.
    pub fn keys(&self) -> &[VerifyingKey] {
        &self.keys
    }

    /// The keys of minisign.
    pub fn minisign_keys(&self) -> &[MinisignKey] {
        &self.minisign
    }

    /// The names of all keys.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let minisign = self.minisign.iter().map(MinisignKey::name);
        self.keys.iter().map(|key| key.name().as_str()).chain(minisign)
    }

    /// How many of them must sign.
    pub fn threshold(&self) -> usize {
        self.threshold
    }
}

/// The file of a release that is read, unless the source names another one.
const ASSET: &str = "kms-policy.bundle";

impl BundleSource {
    /// Reads `core.auth_api.bundle.source`: empty, the path of a file, an `https` URL (`http` to this machine only), or
    /// `github:owner/repo@tag` with an optional `#asset` below `base`. The tag `latest` names the newest release.
    ///
    /// # Errors
    /// What it must be.
    pub fn parse(text: &str, base: &Endpoint) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::Operators);
        }
        if let Some(release) = text.strip_prefix("github:") {
            return Ok(Self::Server(release_asset(release, base)?));
        }
        if text.starts_with("http:") || text.starts_with("https:") {
            let endpoint = Endpoint::parse(text)?;
            return match endpoint.is_exposed() {
                true => Err("must be an https URL: http is for this machine only".to_owned()),
                false => Ok(Self::Server(endpoint)),
            };
        }
        if text.contains("://") {
            return Err("must be a path, an https URL, or github:owner/repo@tag".to_owned());
        }
        Ok(Self::File(PathBuf::from(text)))
    }

    /// `operators`, `file` or `server`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Operators => "operators",
            Self::File(_) => "file",
            Self::Server(_) => "server",
        }
    }
}

fn release_asset(release: &str, base: &Endpoint) -> Result<Endpoint, String> {
    let shape = || "must be github:owner/repo@tag, or github:owner/repo@tag#asset".to_owned();
    let (release, asset) = release.split_once('#').unwrap_or((release, ASSET));
    let (repository, tag) = release.split_once('@').ok_or_else(shape)?;
    let (owner, name) = repository.split_once('/').ok_or_else(shape)?;
    let is_word = |word: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (1..=128).contains(&word.len()) && word.chars().all(is_plain) && word.chars().any(|c| c != '.')
    };
    if ![owner, name, tag, asset].into_iter().all(is_word) {
        return Err(shape());
    }
    let path = match tag {
        "latest" => format!("latest/download/{asset}"),
        tag => format!("download/{tag}/{asset}"),
    };
    let base = base.as_str().trim_end_matches('/');
    let endpoint = Endpoint::parse(&format!("{base}/{owner}/{name}/releases/{path}"))?;
    if endpoint.is_exposed() {
        return Err("needs an https URL in github_base: http is for this machine only".to_owned());
    }
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use kms_ledger::signature::SigningKey;

    use super::*;

    fn vkey(name: &str, seed: u8) -> String {
        let key = SigningKey::from_seed(name.parse().unwrap(), &[seed; 32]).unwrap();
        key.verifying_key().to_string()
    }

    #[test]
    fn a_threshold_is_of_distinct_keys() {
        let (a, b, twin) = (vkey("team/a", 1), vkey("team/b", 2), vkey("team/c", 1));
        let read =
            |keys: &[&String], threshold| PinnedKeys::new(keys.iter().map(|key| key.as_str()), threshold);
        let pinned = read(&[&a, &b], 2).unwrap();
        assert_eq!((pinned.keys().len(), pinned.threshold()), (2, 2));
        for (keys, threshold, expected) in [
            (&[&a, &b][..], 0, "threshold must be from 1 to 2"),
            (&[&a, &b], 3, "threshold must be from 1 to 2"),
            (&[], 1, "threshold must be from 1 to 0"),
            (&[&a, &twin], 1, "team/a and team/c have the same key"),
            (&[&a, &a], 1, "have the same key"),
            (&[&"nonsense".to_owned()], 1, "a verifier key must be"),
        ] {
            let error = read(keys, threshold).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn sources_are_files_servers_and_releases() {
        let base = Endpoint::parse("https://github.example/").unwrap();
        let read = |text: &str| BundleSource::parse(text, &base);
        let url = |text: &str| match read(text).unwrap() {
            BundleSource::Server(endpoint) => endpoint.as_str().to_owned(),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(read(" "), Ok(BundleSource::Operators));
        assert_eq!(read("/etc/kms/policy.bundle"), Ok(BundleSource::File("/etc/kms/policy.bundle".into())));
        assert_eq!(url("https://policy.example/x"), "https://policy.example/x");
        assert_eq!(
            url("github:team/policy@v1.2"),
            "https://github.example/team/policy/releases/download/v1.2/kms-policy.bundle"
        );
        assert_eq!(
            url("github:team/policy@latest#prod.bundle"),
            "https://github.example/team/policy/releases/latest/download/prod.bundle"
        );
        for text in [
            "http://policy.example/x",
            "ftp://policy.example/x",
            "github:team@v1",
            "github:team/policy",
            "github:team/../@v1",
            "github:team/policy@v1#a/b",
            "github:team/policy@v1?x=",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let exposed = Endpoint::parse("http://mirror.example").unwrap();
        assert!(BundleSource::parse("github:a/b@c", &exposed).is_err());
        let local = Endpoint::parse("http://127.0.0.1:8000").unwrap();
        assert!(BundleSource::parse("github:a/b@c", &local).is_ok());
    }
}
