//! The environment that a deployer gives an app: read from a `.env` file, encrypted so that only the app reads it.
//!
//! | Module | Idea |
//! |---|---|
//! | [`app_compose`] | which variables the guest passes on |
//! | [`dotenv`] | the file that people write |
//! | [`key`] | the app's public key, once a signer vouches for it |
//! | [`envelope`] | the encrypted form |
//! | [`known_signers`] | whose signature is believed, as ssh believes hosts |

pub mod app_compose;
pub mod dotenv;
pub mod envelope;
pub mod key;
pub mod known_signers;
mod python;

pub use app_compose::{AppCompose, AppComposeError, ComposeDoubt};
pub use dotenv::{DotenvError, Environment};
pub use envelope::EnvelopeError;
pub use key::{EnvKey, EnvKeyError};
pub use known_signers::KnownSigners;
