//! What `access_table.rs` is made of: callers, requests, codecs.

pub mod cast;
pub mod codec;
