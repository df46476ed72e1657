//! Fuzzes `prpc`: see `fuzz/src/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::prpc::prpc(data));
