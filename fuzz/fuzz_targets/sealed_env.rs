//! Fuzzes `sealed_env`: see `fuzz/src/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::sealed_env::sealed_env(data));
