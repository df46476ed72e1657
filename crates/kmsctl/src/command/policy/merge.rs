//! `kmsctl policy merge`: adds what `kmsctl explain` prints to an allowlist file.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};

use clap::Args;
use kms_attest::json;
use serde_json::{Map, Value};

use super::MAX_FILE;
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Existing, Readers};
use crate::output::{Terminal, printable};

/// The keys of an allowlist to which an explanation adds something.
const ADDED_TO: [&str; 5] = ["allowedTcbStatuses", "allowedAdvisoryIds", "osImages", "kms", "apps"];

/// Arguments of `kmsctl policy merge`.
#[derive(Args, Debug)]
pub(crate) struct Merge {
    /// What is added: a file with what `kmsctl explain` prints below "To merge", or with its whole answer (--json); - is
    /// standard input
    fragment: PathBuf,
    /// The allowlist, which is replaced at once, by one rename
    #[arg(long, value_name = "FILE")]
    into: PathBuf,
}

impl Merge {
    pub(crate) fn run(self, terminal: &Terminal) -> Outcome {
        let Self { fragment, into } = self;
        let added = addition(object(&fragment)?, &fragment)?;
        // A link stays one.
        let file = into.canonicalize().map_err(|error| {
            Failure::usage(format_args!("{}: {error}; kmsctl upload takes a new allowlist", into.display()))
        })?;
        let mut whole = object(&file)?;
        let mut news = Vec::new();
        merge(&mut whole, added, "", &mut news)
            .map_err(|problem| Failure::usage(format_args!("{}: {problem}", into.display())))?;
        if !news.is_empty() {
            replace(&file, &whole)?;
        }
        let report = serde_json::json!({ "file": into, "added": news });
        terminal.show(&report, |page| {
            if news.is_empty() {
                page.line("It has all of this already; nothing was written.");
                return;
            }
            for line in &news {
                page.line(format_args!("+ {}", printable(line)));
            }
            page.line(format_args!("Written to {}. Next: kmsctl policy check", into.display()));
        })?;
        Ok(Exit::Done)
    }
}

/// The JSON object in a file. Of keys that occur twice, a parser silently drops one.
fn object(path: &Path) -> Outcome<Map<String, Value>> {
    let refused = |problem: String| Failure::usage(format_args!("{}: {problem}", path.display()));
    let bytes = files::read(path, MAX_FILE)?;
    if let Some(key) = json::duplicate_keys(&bytes).first() {
        return Err(refused(format!("{} occurs twice", printable(key))));
    }
    json::from_utf8(&bytes).map_err(|error| refused(format!("no JSON object: {error}")))
}

/// What the fragment adds. The whole answer of an explanation holds it as a text.
fn addition(mut given: Map<String, Value>, path: &Path) -> Outcome<Map<String, Value>> {
    let refused = |problem: String| Failure::usage(format_args!("{}: {problem}", path.display()));
    if let Some(Value::String(text)) = given.remove("allowlist_fragment") {
        if text.is_empty() {
            return Err(refused("the explanation has nothing to add to an allowlist".to_owned()));
        }
        given = json::from_utf8(text.as_bytes())
            .map_err(|error| refused(format!("allowlist_fragment: {error}")))?;
    }
    match given.keys().find(|key| !ADDED_TO.contains(&key.as_str())) {
        Some(key) => Err(refused(format!("{} is not what an explanation adds to", printable(key)))),
        None => Ok(given),
    }
}

/// Adds to lists, makes what is missing, and changes nothing that is there. `news` gets a line for each value.
///
/// # Errors
/// Where both have a value that is no list, and not the same one.
fn merge(
    into: &mut Map<String, Value>,
    added: Map<String, Value>,
    at: &str,
    news: &mut Vec<String>,
) -> Result<(), String> {
    for (name, value) in added {
        let known = into.keys().find(|known| is_same_text(known, &name)).cloned();
        let at = format!("{at}{}{name}", if at.is_empty() { "" } else { "." });
        match (known.and_then(|known| into.get_mut(&known)), value) {
            (Some(Value::Object(known)), Value::Object(value)) => merge(known, value, &at, news)?,
            (Some(Value::Array(known)), Value::Array(values)) => {
                for value in values {
                    if !known.iter().any(|known| is_same(known, &value)) {
                        news.push(format!("{at}: {value}"));
                        known.push(value);
                    }
                }
            }
            (Some(known), value) if *known == value => {}
            (Some(known), value) => {
                return Err(format!(
                    "{at} is {known}, which does not become {value} by adding: edit it by hand"
                ));
            }
            (None, value) => {
                news.push(format!("{at}: {value}"));
                into.insert(name, value);
            }
        }
    }
    Ok(())
}

fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::String(one), Value::String(other)) => is_same_text(one, other),
        (one, other) => one == other,
    }
}

/// Whether two texts are the same to an allowlist, which reads hexadecimal in either case and with or without `0x`.
fn is_same_text(one: &str, other: &str) -> bool {
    let bare = |text: &str| text.strip_prefix("0x").unwrap_or(text).to_ascii_lowercase();
    one == other || (bare(one) == bare(other) && hex::decode(bare(one)).is_ok())
}

/// With the mode and the owner of the file before.
fn replace(file: &Path, whole: &Map<String, Value>) -> Outcome<()> {
    let failed = |error: std::io::Error| Failure::file("cannot write", file, &error);
    let before = fs::metadata(file).map_err(failed)?;
    let text = serde_json::to_string_pretty(whole).map_err(Failure::failed)?;
    files::write_with(file, Readers::Owner, Existing::Replaced, |new| {
        let own = new.metadata().map_err(failed)?;
        if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
            fchown(&*new, Some(before.uid()), Some(before.gid())).map_err(failed)?;
        }
        new.set_permissions(before.permissions()).map_err(failed)?;
        new.write_all(format!("{text}\n").as_bytes()).map_err(failed)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("no object: {value}") };
        map
    }

    #[test]
    fn lists_grow_and_nothing_else_changes() {
        let app = "AB".repeat(20);
        let mut file = map(json!({
            "note": "kept", "osImages": ["0xAA"],
            "apps": { format!("0x{app}"): { "composeHashes": ["01"], "allowAnyDevice": false } }
        }));
        let added = map(json!({
            "osImages": ["aa", "bb"], "kms": { "devices": ["cc"] },
            "apps": { app.to_lowercase(): { "composeHashes": ["02"], "allowAnyDevice": false } }
        }));
        let mut news = Vec::new();
        merge(&mut file, added.clone(), "", &mut news).expect("it fits");
        let whole = json!({
            "note": "kept", "osImages": ["0xAA", "bb"],
            "apps": { format!("0x{app}"): { "composeHashes": ["01", "02"], "allowAnyDevice": false } },
            "kms": { "devices": ["cc"] }
        });
        assert_eq!((&Value::from(file.clone()), news.len()), (&whole, 3), "{news:?}");
        let order: Vec<_> = file.keys().collect();
        assert_eq!(order, ["note", "osImages", "apps", "kms"]);
        merge(&mut file, added, "", &mut news).expect("it fits");
        assert_eq!((Value::from(file), news.len()), (whole, 3), "a second time adds nothing");
    }

    #[test]
    fn what_no_addition_can_change_is_refused() {
        for (there, added) in [
            (
                json!({ "apps": { "a": { "allowAnyDevice": true } } }),
                json!({ "apps": { "a": { "allowAnyDevice": false } } }),
            ),
            (json!({ "osImages": "aa" }), json!({ "osImages": ["aa"] })),
            (json!({ "kms": [] }), json!({ "kms": { "devices": ["aa"] } })),
        ] {
            let error = merge(&mut map(there), map(added), "", &mut Vec::new()).unwrap_err();
            assert!(error.contains("by hand"), "{error}");
        }
        let refused = |value| addition(map(value), Path::new("f")).unwrap_err().message;
        assert!(refused(json!({ "osImage": ["aa"] })).contains("osImage is not what"));
        assert!(refused(json!({ "allowlist_fragment": "" })).contains("nothing to add"));
        let told = json!({ "verdict": "denied", "allowlist_fragment": "{\"osImages\":[\"aa\"]}" });
        assert_eq!(addition(map(told), Path::new("f")).unwrap(), map(json!({ "osImages": ["aa"] })));
    }
}
