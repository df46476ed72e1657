//! `kmsctl epoch`: epochs of keys.

mod apps;
mod keys;

use clap::Subcommand;

use self::apps::{Apps, Follow, Forget, Stay};
use self::keys::{Accept, Activate, All, End, Fetch, Show};
use crate::exit::Outcome;
use crate::output::Terminal;

/// The commands of `kmsctl epoch`.
#[derive(Debug, Subcommand)]
pub(crate) enum Epoch {
    /// List the epochs of the root keys
    List(All),
    /// Show one epoch, and what its end would stop
    Show(Show),
    /// Make new root keys, of which no app gets keys yet
    Prepare(All),
    /// Let apps that follow get keys of a prepared epoch
    Activate(Activate),
    /// Let nobody get keys of an epoch any more
    Retire(End),
    /// Overwrite the keys of a retired epoch
    Destroy(End),
    /// Let a KMS receive the epochs that another KMS with the same root keys has
    Fetch(Fetch),
    /// Accept what a KMS warns of: that its key directory is older than its audit log, or that the epochs chosen for apps are complete
    Accept(Accept),
    /// List the apps whose epochs an operator chose, or show one
    Apps(Apps),
    /// Let the keys of an app always be those of the current epoch
    Follow(Follow),
    /// Let the keys of an app stay those of one epoch
    Stay(Stay),
    /// Take back what an operator chose for an app, so that the policy alone decides
    Forget(Forget),
}

impl Epoch {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self {
            Self::List(command) => command.list(terminal).await,
            Self::Show(command) => command.run(terminal).await,
            Self::Prepare(command) => command.prepare(terminal).await,
            Self::Activate(command) => command.run(terminal).await,
            Self::Retire(command) => command.retire(terminal).await,
            Self::Destroy(command) => command.destroy(terminal).await,
            Self::Fetch(command) => command.run(terminal).await,
            Self::Accept(command) => command.run(terminal).await,
            Self::Apps(command) => command.run(terminal).await,
            Self::Follow(command) => command.run(terminal).await,
            Self::Stay(command) => command.run(terminal).await,
            Self::Forget(command) => command.run(terminal).await,
        }
    }
}
