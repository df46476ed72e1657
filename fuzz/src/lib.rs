//! The functions of the fuzz targets: one for each parser of outside bytes, with the properties that it must
//! keep.
//!
//! `fuzz_targets/` passes these functions to libFuzzer; `tests/it/fuzz_corpus.rs` calls them on stable Rust.

pub mod acpi;
pub mod allowlist;
pub mod attestation;
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
pub mod keyring;
pub mod known_signers;
pub mod ledger;
pub mod log;
mod loopback;
pub mod message;
pub mod oidc;
pub mod operator;
pub mod os_image;
pub mod policy_bundle;
pub mod proof;
pub mod prpc;
pub mod question;
pub mod recovery;
pub mod request_headers;
pub mod sealed_env;
pub mod session;
pub mod stored_collateral;
pub mod tcb_info;
pub mod webhook;

/// Runs a target on one input.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its corpus.
pub const TARGETS: [(&str, Target); 33] = [
    ("acpi", acpi::acpi),
    ("allowlist", allowlist::allowlist),
    ("attestation", attestation::attestation),
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
    ("keyring", keyring::keyring),
    ("known_signers", known_signers::known_signers),
    ("ledger", ledger::ledger),
    ("log", log::log),
    ("message", message::message),
    ("oidc", oidc::oidc),
    ("operator", operator::operator),
    ("os_image", os_image::os_image),
    ("policy_bundle", policy_bundle::policy_bundle),
    ("proof", proof::proof),
    ("prpc", prpc::prpc),
    ("question", question::question),
    ("recovery", recovery::recovery),
    ("ra_tls_certificate", certificate::ra_tls_certificate),
    ("request_headers", request_headers::request_headers),
    ("sealed_env", sealed_env::sealed_env),
    ("session", session::session),
    ("stored_collateral", stored_collateral::stored_collateral),
    ("tcb_info", tcb_info::tcb_info),
    ("webhook", webhook::webhook),
];
