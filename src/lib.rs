//! cvm-kms: a key management service for confidential VMs.
//!
//! A request flows one way: `net` → `api` → `admission` → `audit` → `lifecycle` → `keys`.
//! `ARCHITECTURE.md` has the map, `docs/decisions/` has the reasons.

pub mod address; // addresses that count as one
pub mod admission; // verify evidence, ask policy, give a permit
pub mod api; // methods and routes as plain async functions, and the table of who may call them
pub mod app; // builds every part from the configuration, lives the lifecycle
pub mod audit; // hash-chained record of every release, written before the reply
pub mod ca; // the certificates we issue, and what a certificate request may ask for
pub mod cli; // one file a subcommand
pub mod clock; // Unix seconds
pub mod config; // layers in, one fixed-type `Config` out
pub mod control; // what operators change at run time
pub mod domain; // the name in our TLS certificate
pub mod error; // what a caller is told when there is no result
pub mod event_type; // the types of events and conditions, and how much each matters
pub mod events; // the audit log as people read it: queries, live streams, what is reported from outside
pub mod keys; // root keys, derivations, signed statements
pub mod lifecycle; // without keys or with them, and the one way between
pub mod log; // the process log: bounded, waits for nobody
pub mod log_limit; // lines a second
pub mod metrics; // counters and gauges, owned, not global
pub mod net; // listeners, TLS, prpc, gRPC and HTTP routes
pub mod notify; // webhooks that tell people of events and conditions
pub mod operator; // credentials of operators: token, passwords, named ones with roles, OpenID Connect
pub mod os_image; // OS images: downloaded, measured, compared with the registers in a quote
pub mod proto; // messages and gRPC services from `proto/kms.proto`
pub mod request; // the request that a task serves: its id, why it failed, and its trace
pub mod state; // where `control` keeps what operators changed
pub mod store; // the key directory: empty, complete or broken; one commit point
pub mod traces; // sends traces of requests to a collector
