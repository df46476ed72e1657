//! Fuzzes `stored_collateral`: see `fuzz/src/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::stored_collateral::stored_collateral(data));
