//! `kmsctl event add`: records an event of an operator beside those of the KMS.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::Terminal;
use crate::target::{Administered, Reply};

/// A number.
const REPLY: Reply = Reply {
    max_bytes: 4096,
    unreadable: |url| Failure::failed(format_args!("{url}: the answer does not say that it is recorded")),
};

/// The commands of `kmsctl event`.
#[derive(Debug, Subcommand)]
pub(crate) enum Event {
    /// Record a message in the audit log, with the name of the credential
    Add(Add),
}

/// Arguments of `kmsctl event add`.
#[derive(Args, Debug)]
pub(crate) struct Add {
    /// What happened, at most 4 KiB
    message: String,
    #[command(flatten)]
    admin: Administered,
}

/// The number of the new record.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    seq: u64,
}

impl Event {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let Self::Add(add) = self;
        let body = json!({ "message": add.message }).to_string().into_bytes();
        let recorded: Recorded = add.admin.post(terminal, "/api/v1/new_event", body, REPLY).await?;
        terminal.show(&recorded, |page| page.line(format_args!("Recorded as event {}.", recorded.seq)))?;
        Ok(Exit::Done)
    }
}
