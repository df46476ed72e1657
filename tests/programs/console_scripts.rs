//! The scripts of the console in Node.js, without a browser: each is a valid module, and the verifier agrees with
//! the vectors of the ledger.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::tools;
use serde_json::Value;

fn node(script: &str, arguments: &[PathBuf]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console").join(script);
    let ran = Command::new(tools::program("node")).arg(script).args(arguments).output().expect("it runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout).expect("JSON")
}

fn scripts(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            scripts(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "js") {
            found.push(path);
        }
    }
}

#[test]
fn every_script_of_the_console_is_a_module() {
    let mut found = Vec::new();
    scripts(&Path::new(env!("CARGO_MANIFEST_DIR")).join("web/console"), &mut found);
    assert!(found.len() > 20, "{found:?}");
    assert_eq!(node("modules.mjs", &found)["wrong"], Value::Array(Vec::new()));
}

#[test]
fn a_sentence_begins_with_a_capital_but_no_key_or_identifier_does() {
    let format = Path::new(env!("CARGO_MANIFEST_DIR")).join("web/console/format.js");
    assert_eq!(node("sentences.mjs", &[format])["wrong"], Value::Array(Vec::new()));
}

#[test]
fn the_verifier_of_the_console_agrees_with_the_vectors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = root.join("tests/vectors");
    let vectors = std::env::var_os("KMS_VECTORS_DIR").map_or(own, PathBuf::from);
    let told = node("proof.mjs", &[root.join("web/console/proof.js"), vectors.join("ledger.json")]);
    assert_eq!(told["wrong"], Value::Array(Vec::new()));
    assert!(told["cases"].as_u64().is_some_and(|cases| cases > 2000), "{told}");
}
