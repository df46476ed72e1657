//! `kmsctl env`: environments of apps, encrypted by the deployer and decrypted by the app.

mod decrypt;
mod encrypt;
mod open;
mod opened;
mod rekey;
mod seal;
mod signer;
mod source;

use clap::Subcommand;

use self::decrypt::Decrypt;
use self::encrypt::Encrypt;
use self::open::Open;
use self::rekey::Rekey;
use self::seal::Seal;
use crate::exit::Outcome;
use crate::output::Terminal;

/// The commands of `kmsctl env`.
#[derive(Debug, Subcommand)]
pub(crate) enum Env {
    /// Encrypt a .env file to the app's public key, which a KMS signs
    Encrypt(Encrypt),
    /// Decrypt an encrypted environment with the app's own key
    Decrypt(Decrypt),
    /// Encrypt an environment again, from the app's keys of an older epoch to those of a newer one
    Rekey(Rekey),
    /// Seal a .env file to the app's public key of one epoch, for guests of dstack 0.6.4 and later
    Seal(Seal),
    /// Open a sealed environment with the app's own key of its epoch
    Open(Open),
}

impl Env {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self {
            Self::Encrypt(command) => command.run(terminal).await,
            Self::Decrypt(command) => command.run(terminal),
            Self::Rekey(command) => command.run(terminal),
            Self::Seal(command) => command.run(terminal).await,
            Self::Open(command) => command.run(terminal),
        }
    }
}
