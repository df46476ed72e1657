//! Fuzzes `attestation`: see `fuzz/src/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::attestation::attestation(data));
