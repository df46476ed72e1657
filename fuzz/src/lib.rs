//! What the fuzz targets call: one plain function for each parser of outside bytes, and the properties it must keep.
//!
//! `fuzz_targets/` hands these functions to libFuzzer, `tests/it/fuzz_corpus.rs` calls the same ones on stable Rust.

pub mod acpi;
pub mod allowlist;
pub mod certificate;
pub mod collateral;
pub mod config;
pub mod csr;
pub mod dotenv;
pub mod ethereum;
pub mod event_log;
pub mod events;
pub mod evidence;
pub mod identity;
pub mod key;
pub mod known_signers;
pub mod ledger;
mod loopback;
pub mod message;
pub mod operator;
pub mod os_image;
pub mod proof;
pub mod prpc;
pub mod question;
pub mod tcb_info;
pub mod webhook;

/// What a target does with one input.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its corpus.
pub const TARGETS: [(&str, Target); 23] = [
    ("acpi", acpi::acpi),
    ("allowlist", allowlist::allowlist),
    ("collateral", collateral::collateral),
    ("config", config::config),
    ("csr", csr::csr),
    ("dotenv", dotenv::dotenv),
    ("ethereum", ethereum::ethereum),
    ("event_log", event_log::event_log),
    ("events", events::events),
    ("evidence", evidence::evidence),
    ("identity", identity::identity),
    ("key_pem", key::key_pem),
    ("known_signers", known_signers::known_signers),
    ("ledger", ledger::ledger),
    ("message", message::message),
    ("operator", operator::operator),
    ("os_image", os_image::os_image),
    ("proof", proof::proof),
    ("prpc", prpc::prpc),
    ("question", question::question),
    ("ra_tls_certificate", certificate::ra_tls_certificate),
    ("tcb_info", tcb_info::tcb_info),
    ("webhook", webhook::webhook),
];
