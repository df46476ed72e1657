//! `kmsctl epoch`: epochs of keys.

mod apps;

use clap::Subcommand;

use self::apps::{Apps, Follow, Forget, Stay};
use crate::exit::Outcome;
use crate::output::Terminal;

/// The commands of `kmsctl epoch`.
#[derive(Debug, Subcommand)]
pub(crate) enum Epoch {
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
            Self::Apps(command) => command.run(terminal).await,
            Self::Follow(command) => command.run(terminal).await,
            Self::Stay(command) => command.run(terminal).await,
            Self::Forget(command) => command.run(terminal).await,
        }
    }
}
