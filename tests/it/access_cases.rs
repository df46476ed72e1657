//! The parts of `access_table.rs`: callers, requests, codecs.
#![allow(unreachable_pub)]

pub mod codec;
pub mod fixtures;
