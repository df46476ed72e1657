//! `kmsctl clock-floor lower`: the way out after a clock that was ahead.

use clap::{Args, Subcommand};
use kms_client::proto::{LowerClockFloorRequest, LowerClockFloorResponse};

use crate::exit::{Exit, Outcome};
use crate::output::{Terminal, Tone};
use crate::target::Administered;
use crate::when;

/// What a KMS believes about its clock.
#[derive(Debug, Subcommand)]
pub(crate) enum ClockFloor {
    /// Say that a KMS may release keys again: its clock is right now, and was ahead when it made its newest audit records
    Lower(Lower),
}

/// Arguments of `kmsctl clock-floor lower`.
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
        // The KMS compares it with its own: the operator vouches for the time.
        let request = LowerClockFloorRequest { reason, now: when::now() };
        let answer: LowerClockFloorResponse = admin.call(terminal, "LowerClockFloor", &request).await?;
        terminal.show(&answer, |page| match answer.was_behind {
            true => {
                page.line(page.toned(Tone::Good, "The clock counts as right: keys are released again."));
                page.field("  newest record before", when::at(answer.from));
            }
            false => page.line("The clock was not behind: nothing was changed."),
        })?;
        Ok(Exit::Done)
    }
}
