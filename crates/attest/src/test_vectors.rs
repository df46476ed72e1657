//! The known-answer files in `tests/vectors`, for this crate's unit tests.

use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(name)
}

/// A JSON file of known answers.
pub(crate) fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&file(name)).unwrap()
}

/// A file, byte for byte.
pub(crate) fn file(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|error| panic!("{}: {error}", path(name).display()))
}
