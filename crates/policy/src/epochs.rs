//! What a policy says of the epochs of an app's keys: `rootEpoch`, `appEpoch` and `readableEpochs` of its entry in an
//! allowlist, or of a webhook's answer.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

/// The keys of an entry or answer.
pub(crate) const ROOT_EPOCH: &str = "rootEpoch";
/// The number in the derivation of the app's keys.
pub(crate) const APP_EPOCH: &str = "appEpoch";
/// The older epochs whose keys the app may still ask for.
pub(crate) const READABLE_EPOCHS: &str = "readableEpochs";

/// The most readable epochs that an entry lists.
const MAX_READABLE: usize = 64;

/// Which root epoch the keys of an app are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootChoice {
    /// The newest one that is active.
    Current,
    /// This one.
    Fixed(u32),
}

/// An element of `readableEpochs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadableEpoch {
    /// A root epoch, with every app epoch up to the app's own: `1`.
    Root(u32),
    /// A root epoch and an app epoch: `"1.2"`.
    Exactly {
        /// The root epoch.
        root: u32,
        /// The app epoch.
        app: u32,
    },
}

/// What a policy says of one app. What it does not say is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppEpochs {
    /// `rootEpoch`: `"current"`, or a number.
    pub root: Option<RootChoice>,
    /// `appEpoch`: a number.
    pub app: Option<u32>,
    /// `readableEpochs`: only these older ones; `None` means all older ones.
    pub readable: Option<BTreeSet<ReadableEpoch>>,
}

/// A value that its key does not permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochsError {
    /// The key.
    pub key: &'static str,
    /// What it must be.
    pub problem: &'static str,
}

impl fmt::Display for EpochsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.problem)
    }
}

impl AppEpochs {
    /// What these fields say; `None` if they say nothing. `null` counts as absent.
    ///
    /// # Errors
    /// [`EpochsError`]: keys of other epochs could be released, so nothing of it may be ignored.
    pub fn parse(fields: &Map<String, Value>) -> Result<Option<Self>, EpochsError> {
        let value = |key| fields.get(key).filter(|value| !value.is_null());
        let error = |key, problem| EpochsError { key, problem };
        let root = value(ROOT_EPOCH).map(|value| match value {
            Value::String(text) if text == "current" => Ok(RootChoice::Current),
            value => number(value)
                .map(RootChoice::Fixed)
                .ok_or(error(ROOT_EPOCH, "must be \"current\" or the number of a root epoch")),
        });
        let app = value(APP_EPOCH)
            .map(|value| number(value).ok_or(error(APP_EPOCH, "must be a whole number, not negative")));
        let readable = value(READABLE_EPOCHS).map(|value| {
            let problem = "must be a list of at most 64 root epochs, such as 1, or root and app epochs, such as \"1.2\"";
            let list = value.as_array().filter(|list| list.len() <= MAX_READABLE);
            let parsed = list.and_then(|list| list.iter().map(ReadableEpoch::parse).collect());
            parsed.ok_or(error(READABLE_EPOCHS, problem))
        });
        let all = Self { root: root.transpose()?, app: app.transpose()?, readable: readable.transpose()? };
        Ok((all != Self::default()).then_some(all))
    }

    /// The fields of an entry or answer that say this.
    pub fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let root = self.root.map(|root| match root {
            RootChoice::Current => "current".into(),
            RootChoice::Fixed(number) => number.into(),
        });
        let readable = self.readable.as_ref().map(|list| list.iter().map(|it| it.json()).collect());
        for (key, value) in
            [(ROOT_EPOCH, root), (APP_EPOCH, self.app.map(Value::from)), (READABLE_EPOCHS, readable)]
        {
            fields.extend(value.map(|value| (key.to_owned(), value)));
        }
        fields
    }
}

/// `rootEpoch current, appEpoch 2, readableEpochs 0 1.1`: one form for each meaning. What is not said is left out.
impl fmt::Display for AppEpochs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        if let Some(root) = self.root {
            write!(f, "{ROOT_EPOCH} {root}")?;
            before = ", ";
        }
        if let Some(app) = self.app {
            write!(f, "{before}{APP_EPOCH} {app}")?;
            before = ", ";
        }
        if let Some(readable) = &self.readable {
            write!(f, "{before}{READABLE_EPOCHS}")?;
            for epoch in readable {
                write!(f, " {epoch}")?;
            }
            if readable.is_empty() {
                f.write_str(" none")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for RootChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current => f.write_str("current"),
            Self::Fixed(number) => number.fmt(f),
        }
    }
}

impl ReadableEpoch {
    fn parse(value: &Value) -> Option<Self> {
        let Value::String(text) = value else { return number(value).map(Self::Root) };
        let (root, app) = text.split_once('.')?;
        // `parse` accepts a sign and leading zeros.
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| number.to_string() == text);
        Some(Self::Exactly { root: number(root)?, app: number(app)? })
    }

    fn json(self) -> Value {
        match self {
            Self::Root(root) => root.into(),
            Self::Exactly { .. } => self.to_string().into(),
        }
    }
}

impl fmt::Display for ReadableEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(root) => root.fmt(f),
            Self::Exactly { root, app } => write!(f, "{root}.{app}"),
        }
    }
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| number.try_into().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<Option<AppEpochs>, EpochsError> {
        AppEpochs::parse(value.as_object().expect("an object"))
    }

    #[test]
    fn what_an_entry_says_is_read_and_written_in_one_form() {
        for (entry, text) in [
            (json!({ "rootEpoch": "current" }), "rootEpoch current"),
            (json!({ "rootEpoch": 0 }), "rootEpoch 0"),
            (json!({ "rootEpoch": 4_294_967_295_u32, "appEpoch": 2 }), "rootEpoch 4294967295, appEpoch 2"),
            (json!({ "appEpoch": 0 }), "appEpoch 0"),
            (json!({ "readableEpochs": [] }), "readableEpochs none"),
            (json!({ "readableEpochs": [1, 0, "1.2", 1] }), "readableEpochs 0 1 1.2"),
            (
                json!({ "readableEpochs": ["0.0"], "rootEpoch": "current", "appEpoch": 1, "devices": [] }),
                "rootEpoch current, appEpoch 1, readableEpochs 0.0",
            ),
        ] {
            let epochs = parse(&entry).expect("valid").expect("something");
            assert_eq!(epochs.to_string(), text, "{entry}");
            assert_eq!(parse(&Value::Object(epochs.fields())), Ok(Some(epochs)), "{entry}");
        }
        for nothing in [json!({}), json!({ "rootEpoch": null, "appEpoch": null, "readableEpochs": null })] {
            assert_eq!(parse(&nothing), Ok(None));
        }
    }

    #[test]
    fn a_wrong_value_is_refused_and_its_key_named() {
        let long: Vec<u32> = (0..65).collect();
        for (entry, key) in [
            (json!({ "rootEpoch": "newest" }), ROOT_EPOCH),
            (json!({ "rootEpoch": "Current" }), ROOT_EPOCH),
            (json!({ "rootEpoch": "0" }), ROOT_EPOCH),
            (json!({ "rootEpoch": -1 }), ROOT_EPOCH),
            (json!({ "rootEpoch": 0.0 }), ROOT_EPOCH),
            (json!({ "rootEpoch": 4_294_967_296_u64 }), ROOT_EPOCH),
            (json!({ "rootEpoch": true }), ROOT_EPOCH),
            (json!({ "appEpoch": "current" }), APP_EPOCH),
            (json!({ "appEpoch": [1] }), APP_EPOCH),
            (json!({ "readableEpochs": 0 }), READABLE_EPOCHS),
            (json!({ "readableEpochs": ["0"] }), READABLE_EPOCHS),
            (json!({ "readableEpochs": ["01.0"] }), READABLE_EPOCHS),
            (json!({ "readableEpochs": ["+1.0"] }), READABLE_EPOCHS),
            (json!({ "readableEpochs": ["1.2.3"] }), READABLE_EPOCHS),
            (json!({ "readableEpochs": [null] }), READABLE_EPOCHS),
            (json!({ "readableEpochs": long }), READABLE_EPOCHS),
        ] {
            let error = parse(&entry).expect_err(&entry.to_string());
            assert_eq!(error.key, key, "{entry}");
            assert!(error.to_string().starts_with(&format!("{key} must be ")), "{error}");
        }
    }
}
