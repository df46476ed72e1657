//! What a CVM links to fetch its keys: verify the server first, then send.
//!
//! | Module | Purpose |
//! |---|---|
//! | [`boot`] | a guest: keys of its app from the first KMS that releases them |
//! | [`source`] | a replica: root keys from a running KMS, over the connection that was attested |
//! | [`sign`] | certificates for an app |
//! | [`epochs`] | which of an app's keys are asked for |
//! | [`fresh`] | evidence that is made for one call on one connection |
//! | [`server`] | whether the server is a KMS |
//! | [`identity`], [`tls`] | which server is accepted, which certificate the client shows |
//! | [`connection`], [`rpc`], [`url`] | one TLS connection, bounded calls over it, its URL |
//! | [`operator`] | the onboarding and the admin service, which need no TLS |
//! | [`resource`], [`event_stream`] | documents and streams beside the methods |
//! | [`proto`], [`text`] | the messages; error texts with their causes |
//!
//! It links no server, no policy and no CA. The feature `proof` adds what deployers and relying parties
//! verify (`statement`, `root_epochs`, `environment`, `proof`, `receipt`, `ledger`, `log_keys`); fetching keys does not need it. The program
//! `kmsctl` is a crate of its own.
//!
//! ```no_run
//! use kms_attest::{attester::Attester, verify::Verifier};
//! use kms_client::{KmsUrl, ServerAttestation, fetch_app_keys};
//!
//! # async fn boot(attester: Attester, verifier: Verifier) -> Result<(), Box<dyn std::error::Error>> {
//! let urls: Vec<KmsUrl> = vec!["https://kms-1.example:8000".parse()?, "https://kms-2.example:8000".parse()?];
//! let vm_config = attester.vm_config().await?;
//! let server = ServerAttestation::Required(&verifier);
//! let keys = fetch_app_keys(&urls, &attester, server, &vm_config, None).await?;
//! println!("{} released the keys of this app", keys.url);
//! let disk_key: &[u8] = &keys.response.disk_crypt_key;
//! # let _ = disk_key;
//! # Ok(())
//! # }
//! ```

pub mod boot;
pub mod connection;
#[cfg(feature = "proof")]
pub mod environment;
pub mod epochs;
pub mod event_stream;
pub mod fresh;
pub mod identity;
#[cfg(feature = "proof")]
pub mod ledger;
#[cfg(feature = "proof")]
pub mod log_keys;
pub mod operator;
#[cfg(feature = "proof")]
pub mod proof;
#[cfg(feature = "proof")]
pub mod receipt;
pub use kms_wire::bundles;
pub use kms_wire::fleet;
pub use kms_wire::message as proto;
pub use kms_wire::operation;
pub use kms_wire::role::Role;
pub use kms_wire::rollout;
pub mod resource;
#[cfg(feature = "proof")]
pub mod root_epochs;
pub mod rpc;
pub mod server;
pub mod sign;
pub mod source;
#[cfg(feature = "proof")]
pub mod statement;
#[cfg(test)]
mod testing;
pub mod text;
pub mod tls;
pub mod url;

pub use boot::{AppKeys, BootError, fetch_app_keys};
pub use connection::{ConnectError, Connection};
pub use epochs::Epochs;
pub use rpc::CallError;
pub use server::ServerAttestation;
pub use source::{SourceError, receive_root_keys};
pub use tls::{ClientIdentity, Trust};
pub use url::KmsUrl;
