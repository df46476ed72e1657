//! Bytes in, service calls, bytes out: listener, TLS, and the codecs of the API on one router.

mod activity;
pub mod auth_backend;
mod body;
mod cors;
mod dispatch;
mod entrance;
pub mod front;
pub mod grpc;
mod grpc_health;
mod guard;
pub mod handshake;
pub mod limit;
pub mod listener;
mod media;
pub mod memory;
mod party;
mod passwords;
mod probes;
pub mod prpc;
pub mod refusal_log;
mod router;
mod same_site;
mod setup;
mod slots;
pub mod status;
pub mod tls;
mod turns;
mod web;

pub use entrance::Entrance;
pub use router::{admin, kms, onboarding};
