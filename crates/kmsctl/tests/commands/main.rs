//! `kmsctl` as users run it, against a test server with given responses.

// The names that `crates/client/src/testing.rs` uses, which is compiled into this crate too.
use kms_client::{Connection, KmsUrl, Trust};

mod app_key;
mod audit;
mod env;
mod epochs;
mod operator;
mod rollout;
mod sealed;
mod support;
mod tree;
mod verify;
