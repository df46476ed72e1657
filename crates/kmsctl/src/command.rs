//! The commands, one file each.

pub(crate) mod action;
pub(crate) mod app_key;
pub(crate) mod approvals;
pub(crate) mod audit;
pub(crate) mod bootstrap;
pub(crate) mod clock_floor;
pub(crate) mod collateral;
pub(crate) mod completions;
pub(crate) mod credential;
pub(crate) mod denials;
pub(crate) mod diagnostics;
pub(crate) mod env;
pub(crate) mod event;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod finish;
pub(crate) mod freeze;
pub(crate) mod man;
pub(crate) mod meta;
pub(crate) mod onboard;
pub(crate) mod policy;
pub(crate) mod shadow;
pub(crate) mod sign_cert;
pub(crate) mod status;
pub(crate) mod verify;
