//! `kmsctl audit`: the log of releases as an auditor verifies it.

mod export;
mod local;
mod remote;
mod source;
mod verify;
mod watch;

use clap::Subcommand;

use self::export::Export;
use self::verify::Verify;
use self::watch::Watch;
use crate::exit::Outcome;
use crate::output::Terminal;

/// Commands below `kmsctl audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Verify the log of a KMS, or the files of one, and what was kept of it elsewhere
    Verify(Box<Verify>),
    /// Look again and again whether logs only grow, and alarm if one does not
    Watch(Box<Watch>),
    /// Write events with their entries in the log, a line of JSON each
    Export(Box<Export>),
}

impl Audit {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self {
            Self::Verify(command) => command.run(terminal).await,
            Self::Watch(command) => command.run(terminal).await,
            Self::Export(command) => command.run(terminal).await,
        }
    }
}
