//! The known-answer files in `tests/vectors`, for tests.

use std::path::PathBuf;

/// A JSON file of known answers.
///
/// # Panics
/// If it is missing or no JSON, like all of this module.
pub fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The bytes of a value in hex.
pub fn bytes(value: &serde_json::Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("text")).expect("hex")
}

/// A file, byte for byte.
pub fn file(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
