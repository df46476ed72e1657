//! A request's VM configuration must be the one that its evidence carries, where it carries one: what is authorized is what
//! later readers of the evidence find there.

use kms_attest::vm_config::{self, Layout};
use serde_json::Value;

/// Two configurations that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The first key that differs: the OS image, then those of the evidence's copy, then those of the request's. Empty
    /// where one of the two is no configuration.
    pub key: String,
    /// What the evidence says.
    pub attested: String,
    /// What the request says.
    pub requested: String,
}

/// The key that policy judges.
const IMAGE: &str = "os_image_hash";

/// The most characters of a value that are shown.
const MAX_SHOWN: usize = 128;

/// Whether `requested` may stand for the configuration `attested` of the evidence. An empty request takes the attested
/// copy; evidence without a copy, as that of guests before 0.5.8, takes the request's. Otherwise both must say the same as
/// JSON, key by key, unknown keys included; white space and the order of keys do not count.
///
/// # Errors
/// [`Mismatch`].
pub(super) fn agree(requested: &str, attested: &str) -> Result<(), Mismatch> {
    if requested.is_empty() || attested.is_empty() || requested == attested {
        return Ok(());
    }
    let Some((requested, attested)) = unnested(requested).zip(unnested(attested)) else {
        let (requested, attested) = (shown(Some(&requested.into())), shown(Some(&attested.into())));
        return Err(Mismatch { key: String::new(), attested, requested });
    };
    if requested == attested {
        return Ok(());
    }
    let differs = |key: &&String| requested.get(key.as_str()) != attested.get(key.as_str());
    let keys = |value: &Value| -> Vec<String> {
        value.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default()
    };
    let keys = [IMAGE.to_owned()].into_iter().chain(keys(&attested)).chain(keys(&requested));
    let key = keys.into_iter().find(|key| differs(&key)).unwrap_or_default();
    let of = |value: &Value| shown(value.get(&key));
    Err(Mismatch { attested: of(&attested), requested: of(&requested), key })
}

/// The configuration itself, wherever in the text it stands.
fn unnested(text: &str) -> Option<Value> {
    match vm_config::layout(text).ok()? {
        Layout::Plain => serde_json::from_str(text).ok(),
        Layout::Nested(nested) => serde_json::from_str(&nested).ok(),
    }
}

fn shown(value: Option<&Value>) -> String {
    let text = match value {
        None => return "nothing".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    text.chars().filter(|character| !character.is_control()).take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{"os_image_hash":"aa","cpu_count":2,"spec_version":1}"#;

    const BOTH: &str = r#"{"os_image_hash":"bb","vm_config":"{\"os_image_hash\":\"aa\"}"}"#;

    #[test]
    fn equal_copies_agree_however_they_are_written() {
        let nested = serde_json::json!({ "kms_urls": ["https://kms"], "vm_config": WHOLE }).to_string();
        let spaced = "{ \"spec_version\": 1,\n \"cpu_count\": 2, \"os_image_hash\": \"aa\" }";
        for (requested, attested) in [
            (WHOLE, WHOLE),
            (spaced, WHOLE),
            (WHOLE, spaced),
            (WHOLE, &nested),
            (spaced, &nested),
            (&nested, &nested),
            // The evidence's copy counts.
            ("", WHOLE),
            ("", &nested),
            ("", "not JSON"),
            // There is no copy: evidence of old guests.
            (WHOLE, ""),
            ("", ""),
        ] {
            assert_eq!(agree(requested, attested), Ok(()), "{requested} {attested}");
        }
    }

    #[test]
    fn copies_that_differ_are_refused_by_the_first_key() {
        let nested = |inner: &str| serde_json::json!({ "vm_config": inner }).to_string();
        let other_image = WHOLE.replace("aa", "bb");
        for (requested, attested, key, said) in [
            (other_image.clone(), WHOLE.to_owned(), "os_image_hash", ["aa", "bb"]),
            (other_image.clone(), nested(WHOLE), "os_image_hash", ["aa", "bb"]),
            (WHOLE.to_owned(), nested(&other_image), "os_image_hash", ["bb", "aa"]),
            (WHOLE.replace('2', "3"), WHOLE.to_owned(), "cpu_count", ["2", "3"]),
            ("{}".to_owned(), WHOLE.to_owned(), "os_image_hash", ["aa", "nothing"]),
            (WHOLE.to_owned(), "{}".to_owned(), "os_image_hash", ["nothing", "aa"]),
            (WHOLE.replace("spec_version", "unknown"), WHOLE.to_owned(), "spec_version", ["1", "nothing"]),
            ("no JSON".to_owned(), WHOLE.to_owned(), "", [WHOLE, "no JSON"]),
            (WHOLE.to_owned(), "no JSON".to_owned(), "", ["no JSON", WHOLE]),
            // Two configurations in one text are none.
            (WHOLE.to_owned(), BOTH.to_owned(), "", [BOTH, WHOLE]),
        ] {
            let [attested_said, requested_said] = said.map(str::to_owned);
            let mismatch =
                Mismatch { key: key.to_owned(), attested: attested_said, requested: requested_said };
            assert_eq!(agree(&requested, &attested), Err(mismatch), "{requested} {attested}");
        }
    }

    #[test]
    fn what_is_shown_is_bounded() {
        let long = format!(r#"{{"image":"{}"}}"#, "x".repeat(10_000));
        let mismatch = agree("{}", &long).unwrap_err();
        assert_eq!(mismatch.attested.len(), MAX_SHOWN);
    }
}
