//! What `access_table.rs` is made of: callers, requests, codecs.
#![allow(unreachable_pub)]

pub mod codec;
pub mod fixtures;
