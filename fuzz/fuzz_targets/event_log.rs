//! Fuzzes `event_log`: see `fuzz/src/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::event_log::event_log(data));
