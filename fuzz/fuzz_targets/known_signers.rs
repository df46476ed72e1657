//! Fuzzes `known_signers`: see `fuzz/src/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::known_signers::known_signers(data));
