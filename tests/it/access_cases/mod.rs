//! What `access_table.rs` is made of: callers, requests, codecs.
#![allow(unreachable_pub)]

pub mod cast;
pub mod codec;
