//! Fuzzes `request_headers`: see `fuzz/src/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::request_headers::request_headers(data));
