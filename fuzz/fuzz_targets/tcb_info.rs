//! Fuzzes `tcb_info`: see `fuzz/src/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::tcb_info::tcb_info(data));
