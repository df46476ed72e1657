//! `kmsctl env`: environments of apps, encrypted by the deployer and decrypted by the app.

mod decrypt;
mod encrypt;
mod signer;

use clap::Subcommand;

use self::decrypt::Decrypt;
use self::encrypt::Encrypt;
use crate::exit::Outcome;
use crate::output::Terminal;

/// The commands of `kmsctl env`.
#[derive(Debug, Subcommand)]
pub(crate) enum Env {
    /// Encrypt a .env file to the app's public key, which a KMS signs
    Encrypt(Encrypt),
    /// Decrypt an encrypted environment with the app's own key
    Decrypt(Decrypt),
}

impl Env {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self {
            Self::Encrypt(command) => command.run(terminal).await,
            Self::Decrypt(command) => command.run(terminal),
        }
    }
}
