//! Fuzzes `os_image`: see `fuzz/src/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::os_image::os_image(data));
