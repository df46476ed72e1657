//! Bytes in, service calls, bytes out: listener, TLS, and the codecs of the API on one router.

mod actions;
mod activity;
mod admin_auth;
pub mod auth_backend;
mod body;
mod cors;
mod credentials;
mod dispatch;
mod events;
pub mod grpc;
mod grpc_health;
pub mod handshake;
mod ledger;
pub mod limit;
pub mod listener;
mod me;
pub mod memory;
pub mod middleware;
mod onboarding_auth;
mod party;
mod passwords;
mod probes;
pub mod prpc;
pub mod refusal_log;
mod router;
mod same_site;
mod sessions;
mod setup;
mod slots;
pub mod status;
pub mod tls;
mod turns;
mod web;

pub use onboarding_auth::OnboardingAuth;
pub use router::{AdminServices, admin, kms, onboarding};
pub use same_site::OwnNames;
