//! `kmsctl clock-floor lower`: repairs a KMS after its clock was ahead.

use clap::{Args, Subcommand};
use kms_client::proto::{LowerClockFloorRequest, LowerClockFloorResponse};

use crate::exit::{Exit, Outcome};
use crate::output::{Terminal, Tone};
use crate::target::Administered;
use crate::when;

/// The earliest time that a KMS accepts as now
#[derive(Debug, Subcommand)]
pub(crate) enum ClockFloor {
    /// Let a KMS release keys again: its clock is right now, but was ahead when it made its newest audit
    /// records
    Lower(Lower),
}

#[derive(Args, Debug)]
pub(crate) struct Lower {
    #[command(flatten)]
    admin: Administered,
    /// How the clock came to be ahead, for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl ClockFloor {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let Self::Lower(Lower { admin, reason }) = self;
        // The KMS compares it with its own time, which the operator thereby confirms.
        let request = LowerClockFloorRequest { reason, now: when::now() };
        let answer: LowerClockFloorResponse = admin.call(terminal, "LowerClockFloor", &request).await?;
        terminal.show(&answer, |page| match answer.was_behind {
            true => {
                page.line(page.toned(Tone::Good, "The clock is accepted as right: keys are released again."));
                page.field("  newest record before", when::at(answer.from));
            }
            false => page.line("The clock was not behind: nothing was changed."),
        })?;
        Ok(Exit::Done)
    }
}
