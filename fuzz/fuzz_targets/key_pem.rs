//! Fuzzes `key_pem`: see `fuzz/src/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::key::key_pem(data));
