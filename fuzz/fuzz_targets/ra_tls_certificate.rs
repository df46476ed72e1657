//! Fuzzes `ra_tls_certificate`: see `fuzz/src/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::certificate::ra_tls_certificate(data));
