//! Tests of a KMS in this process, with everything it depends on simulated.

#[path = "../ethereum/anvil.rs"]
mod anvil;
#[path = "../ethereum/chain.rs"]
mod chain;
#[path = "../support/mod.rs"]
mod support;

mod access_cases;
mod access_table;
mod actions;
mod admin;
mod adversaries;
mod approvals;
mod attestation;
mod bundles;
mod cases;
mod collateral;
mod console;
mod credential_secrets;
mod credential_table;
mod credentials;
mod domain_scopes;
mod domains;
mod epochs;
mod ethereum;
mod events;
mod explain;
mod fleet;
mod fleet_database;
mod fleet_hostile;
mod fleet_partition;
mod fleet_slow_disk;
mod freeze;
mod fresh;
mod fuzz_corpus;
mod inventory;
mod joins;
mod key_directory;
mod key_epochs;
mod key_release;
mod ledger;
mod notify;
mod observability;
mod oidc;
mod onboarding;
mod os_image;
mod outage;
mod policy;
mod policy_faults;
mod posture;
mod recovery;
mod restore;
mod settings;
mod setup;
mod shadow;
mod sign_cert;
mod storm;
mod tcb;
mod tls;
mod uploads;
mod views;
mod wire;
mod witness;
