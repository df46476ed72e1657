//! `kmsctl` as users run it, against a test server with given responses.

// What `crates/client/src/testing.rs`, which is compiled into this crate too, calls by these names.
use kms_client::{Connection, KmsUrl, Trust};

mod app_key;
mod env;
mod operator;
mod support;
mod tree;
mod verify;
