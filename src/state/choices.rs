//! What operators chose that every KMS of a cluster has to know to give apps the same keys, as one KMS tells it to another: in a
//! handover of the root keys, and in a recovery set.
//!
//! A kind of choice that nobody made is left out, so an older version reads what it knows. A kind that it does not know is refused:
//! without it, apps would get other keys.

mod domains;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use kms_attest::identity::AppId;
use serde::{Deserialize, Serialize};

pub use self::domains::{HandedDomains, MAX_DOMAINS_BYTES, MAX_MADE, MAX_PLACED, StatedDomain, stated_apps};

/// The longest text, more than the most choices take.
pub const MAX_CHOICES_BYTES: usize = 2 << 20;
/// The most apps with epochs of their own.
pub const MAX_CHOSEN_APPS: usize = 10_000;
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// The choices of a KMS. As JSON: `{"version":1,"app_epochs":{"<app id, hex>":"current.2"}}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices {
    /// The epochs of apps.
    pub app_epochs: BTreeMap<AppId, ChosenEpochs>,
    /// The domains; `None` if there are none but the default one.
    pub domains: Option<HandedDomains>,
    /// SHA-256 of what decides which domain's keys an app gets; `None` if all apps are in the default domain.
    pub domains_sha256: Option<[u8; 32]>,
}

/// The epochs that an operator chose for an app: `ROOT.APP`, such as `current.2` or `1.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChosenEpochs {
    /// The epoch of the root keys at which it stays; `None` if it follows the current one.
    pub root: Option<u32>,
    /// Its own epoch.
    pub app: u32,
}

/// Why the choices of another KMS are unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChoicesError {
    /// Too long.
    #[error("the choices of operators have at most {MAX_CHOICES_BYTES} bytes")]
    TooLong,
    /// Not the JSON of choices, or of a newer version.
    #[error("the choices of operators are not those that this version knows ({0}): update this KMS first")]
    Unknown(String),
    /// Another version of the form.
    #[error(
        "the choices of operators have version {0}, this program reads version {VERSION}: update this KMS first"
    )]
    Version(u32),
    /// A choice is not one.
    #[error("the choices of operators are not usable: {0}")]
    Invalid(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    app_epochs: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domains: Option<domains::Written>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domains_sha256: Option<String>,
}

impl Choices {
    /// Whether nobody chose anything.
    pub fn is_empty(&self) -> bool {
        let Self { app_epochs, domains, domains_sha256 } = self;
        app_epochs.is_empty() && domains.is_none() && domains_sha256.is_none()
    }

    /// A chosen root epoch that is not among the first `epochs` ones.
    pub fn beyond(&self, epochs: usize) -> Option<u32> {
        let roots = self.app_epochs.values().filter_map(|chosen| chosen.root);
        let of_domains = self.domains.as_ref().and_then(HandedDomains::highest_epoch);
        roots.chain(of_domains).max().filter(|root| usize::try_from(*root).is_ok_and(|root| root >= epochs))
    }

    /// The JSON, in its one form: without white space, and in order.
    pub fn to_json(&self) -> String {
        let app_epochs = self.app_epochs.iter().map(|(app, it)| (hex::encode(app), it.to_string())).collect();
        let domains = self.domains.as_ref().map(HandedDomains::written);
        let domains_sha256 = self.domains_sha256.map(hex::encode);
        serde_json::to_string(&Written { version: VERSION, app_epochs, domains, domains_sha256 })
            .expect("texts")
    }

    /// Reads the JSON.
    ///
    /// # Errors
    /// [`ChoicesError`]
    pub fn parse(bytes: &[u8]) -> Result<Self, ChoicesError> {
        if bytes.len() > MAX_CHOICES_BYTES {
            return Err(ChoicesError::TooLong);
        }
        let written: Written =
            kms_attest::json::from_utf8(bytes).map_err(|error| ChoicesError::Unknown(error.to_string()))?;
        if written.version != VERSION {
            return Err(ChoicesError::Version(written.version));
        }
        if written.app_epochs.len() > MAX_CHOSEN_APPS {
            return Err(ChoicesError::Invalid("more than 10000 apps have epochs of their own"));
        }
        let domains = written.domains.map(HandedDomains::try_from).transpose()?;
        let mut choices = Self { domains, ..Self::default() };
        if let Some(text) = written.domains_sha256 {
            let mut digest = [0; 32];
            hex::decode_to_slice(&text, &mut digest)
                .map_err(|_| ChoicesError::Invalid("domains_sha256 has 64 hex digits"))?;
            choices.domains_sha256 = Some(digest);
        }
        for (app, epochs) in written.app_epochs {
            let mut id = [0; 20];
            hex::decode_to_slice(&app, &mut id)
                .map_err(|_| ChoicesError::Invalid("an app id has 40 hex digits"))?;
            if choices.app_epochs.insert(AppId(id), epochs.parse()?).is_some() {
                return Err(ChoicesError::Invalid("an app is there twice"));
            }
        }
        Ok(choices)
    }
}

impl fmt::Display for ChosenEpochs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.root {
            None => write!(f, "current.{}", self.app),
            Some(root) => write!(f, "{root}.{}", self.app),
        }
    }
}

impl FromStr for ChosenEpochs {
    type Err = ChoicesError;

    fn from_str(text: &str) -> Result<Self, ChoicesError> {
        // `parse` accepts a sign and leading zeros.
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| number.to_string() == text);
        let parsed = || {
            let (root, app) = text.split_once('.')?;
            let root = if root == "current" { None } else { Some(number(root)?) };
            Some(Self { root, app: number(app)? })
        };
        parsed().ok_or(ChoicesError::Invalid("the epochs of an app are written like current.2 or 1.0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_known_is_refused() {
        let choices = Choices {
            app_epochs: [
                (AppId([1; 20]), ChosenEpochs { root: None, app: 2 }),
                (AppId([2; 20]), ChosenEpochs { root: Some(1), app: 0 }),
            ]
            .into(),
            ..Choices::default()
        };
        let [one, two] = ["01".repeat(20), "02".repeat(20)];
        let text = format!(r#"{{"version":1,"app_epochs":{{"{one}":"current.2","{two}":"1.0"}}}}"#);
        assert_eq!(choices.to_json(), text);
        assert_eq!(Choices::parse(text.as_bytes()), Ok(choices));
        let in_domains = Choices { domains_sha256: Some([0xab; 32]), ..Choices::default() };
        let digest = "ab".repeat(32);
        assert_eq!(in_domains.to_json(), format!(r#"{{"version":1,"domains_sha256":"{digest}"}}"#));
        assert_eq!(Choices::parse(in_domains.to_json().as_bytes()), Ok(in_domains));
        assert_eq!(Choices::default().to_json(), r#"{"version":1}"#);
        assert_eq!(Choices::parse(br#"{"version":1}"#), Ok(Choices::default()));
        for (text, problem) in [
            ("", "EOF"),
            (r#"{"version":1,"devices":{}}"#, "unknown field `devices`"),
            (r#"{"version":1,"domains":{}}"#, "missing field `stated`"),
            (r#"{"version":2}"#, "version 2"),
            (r#"{"version":1,"domains_sha256":"ab"}"#, "64 hex digits"),
            (r#"{"version":1,"app_epochs":{"01":"1.0"}}"#, "40 hex digits"),
            (&text.replace("current.2", "newest.2"), "written like"),
            (&text.replace("1.0", "1"), "written like"),
            (&text.replace("1.0", "01.0"), "written like"),
            (&text.replace("1.0", "1.+0"), "written like"),
            (&text.replace("1.0", "1.4294967296"), "written like"),
        ] {
            let error = Choices::parse(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(problem), "{text}: {error}");
        }
        let upper = text.replace(&one, &"0A".repeat(20)).replace(&two, &"0a".repeat(20));
        assert_eq!(Choices::parse(upper.as_bytes()), Err(ChoicesError::Invalid("an app is there twice")));
        assert_eq!(Choices::parse(&vec![b' '; MAX_CHOICES_BYTES + 1]), Err(ChoicesError::TooLong));
    }

    #[test]
    fn the_most_choices_fit() {
        let mut choices = Choices::default();
        for app in 0..u32::try_from(MAX_CHOSEN_APPS).unwrap() {
            let mut id = [0xff; 20];
            id[..4].copy_from_slice(&app.to_be_bytes());
            choices.app_epochs.insert(AppId(id), ChosenEpochs { root: Some(u32::MAX), app: u32::MAX });
        }
        let text = choices.to_json();
        assert!(text.len() < MAX_CHOICES_BYTES, "{}", text.len());
        assert_eq!(Choices::parse(text.as_bytes()), Ok(choices));
    }
}
