//! The environment that a deployer gives an app: read from a `.env` file, and encrypted so that only the app
//! can read it.
//!
//! | Module | Purpose |
//! |---|---|
//! | [`app_compose`] | which variables the guest passes on |
//! | [`dotenv`] | the `.env` file |
//! | [`key`] | the app's public key with a verified signature |
//! | [`envelope`] | the encrypted form |
//! | [`sealed`] | the encrypted form of later guests, for one epoch |
//! | [`known_signers`] | which signers are trusted, like the known hosts of ssh |

pub mod app_compose;
pub mod dotenv;
pub mod envelope;
pub mod key;
pub mod known_signers;
mod python;
pub mod sealed;

pub use app_compose::{AppCompose, AppComposeError, ComposeDoubt};
pub use dotenv::{DotenvError, Environment};
pub use envelope::EnvelopeError;
pub use key::{EnvKey, EnvKeyError};
pub use known_signers::KnownSigners;
pub use sealed::{Epochs, SealedEnv, SealedEnvError};
