//! Fuzzes `policy_bundle`: see `fuzz/src/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::policy_bundle::policy_bundle(data));
