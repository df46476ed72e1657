//! Tests of the programs as real processes, with third-party programs as their clients.

#[path = "../ethereum/anvil.rs"]
mod anvil;
#[path = "../ethereum/chain.rs"]
mod chain;
#[path = "../support/mod.rs"]
mod support;

mod attestation;
mod binary;
mod browser;
mod clients;
mod collateral;
mod console;
mod console_scripts;
mod credentials;
mod doctor;
mod documents;
mod epochs;
mod ethereum_nodes;
mod js_client;
mod kmsctl;
mod kmsctl_audit;
mod kmsctl_domains;
mod kmsctl_fleet;
mod kmsctl_inventory;
mod kmsctl_operator;
mod kmsctl_replicas;
mod kmsctl_rollout;
mod nginx;
mod notify_command;
mod observability;
mod onboarding_page;
mod openapi;
mod outsider;
mod policy_commands;
mod python_client;
mod recovery;
mod replicas;
mod restore;
mod sealed_env;
