//! `kmsctl audit`: the log of releases as an auditor checks it.

mod local;
mod verify;

use clap::Subcommand;

use self::verify::Verify;
use crate::exit::Outcome;
use crate::output::Terminal;

/// Commands below `kmsctl audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Verify the log in a directory, and what was kept of it elsewhere
    Verify(Verify),
}

impl Audit {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self {
            Self::Verify(command) => command.run(terminal).await,
        }
    }
}
