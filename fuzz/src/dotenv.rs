//! Environments: the file that people write, and the plaintext that Python reads.

use kms_client::environment::Environment;
use serde_json::{Value, json};

/// A file that parses has the same names and values in JSON and as a file again; an error contains no value.
pub fn dotenv(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        match Environment::parse(text) {
            Ok(reading) => {
                let lines = text.split(['\n', '\r']).count();
                assert!(reading.doubts.iter().all(|doubt| (1..=lines).contains(&doubt.line)));
                let json = check(&reading.environment);
                assert_eq!(json, expected(text), "{text:?}");
                reading.environment.to_dotenv().expect("what came from a file goes into one");
            }
            Err(error) => assert!(error.to_string().len() < 100, "{error}"),
        }
    }
    if let Ok(environment) = Environment::from_json(data) {
        check(&environment);
    }
}

/// The plaintext is ASCII JSON, and the same after it was a file, if there is one for it.
fn check(environment: &Environment) -> Value {
    let json = environment.to_json();
    assert!(json.is_ascii());
    let value: Value = serde_json::from_str(&json).expect("JSON");
    let again = Environment::from_json(json.as_bytes()).expect("its own plaintext");
    assert_eq!(again.to_json(), json);
    if let Ok(file) = environment.to_dotenv() {
        let again = Environment::parse(&file).expect("its own file").environment;
        let distinct: std::collections::BTreeSet<&str> = environment.names().collect();
        if distinct.len() == environment.names().count() {
            assert_eq!(again.to_json(), json);
        }
    }
    value
}

/// A second, slow parser for a valid file.
fn expected(text: &str) -> Value {
    let strip = |text: &str| {
        let space = |c: char| c.is_whitespace() || matches!(c, '\x1c' | '\x1d' | '\x1e' | '\x1f');
        text.trim_matches(space).to_owned()
    };
    let mut pairs: Vec<(String, String)> = Vec::new();
    for line in text.replace("\r\n", "\n").replace('\r', "\n").split('\n').map(strip) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').expect("in order");
        let (name, value) = (strip(name), strip(value));
        match pairs.iter_mut().find(|(known, _)| *known == name) {
            Some(pair) => pair.1 = value,
            None => pairs.push((name, value)),
        }
    }
    let list: Vec<Value> = pairs.iter().map(|(name, value)| json!({ "key": name, "value": value })).collect();
    json!({ "env": list })
}
