//! `kmsctl refresh-collateral`: has Intel's collateral fetched again now.

use clap::Args;
use kms_client::proto::{RefreshCollateralResponse, RefreshedCollateral};

use crate::exit::{Exit, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::Administered;
use crate::when;

#[derive(Args, Debug)]
pub(crate) struct RefreshCollateral {
    #[command(flatten)]
    admin: Administered,
}

impl RefreshCollateral {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let answer: RefreshCollateralResponse = self.admin.call(terminal, "RefreshCollateral", &()).await?;
        terminal.show(&answer, |page| {
            if answer.models.is_empty() {
                page.line("No collateral is cached yet: it is fetched for the first CVM.");
                return;
            }
            answer.models.iter().for_each(|model| entry(page, model));
            page.line("Every CVM is verified again by this collateral.");
        })?;
        let has_failed = answer.models.iter().any(|model| !model.failure.is_empty());
        Ok(if has_failed { Exit::Failed } else { Exit::Done })
    }
}

fn entry(page: &mut Page, model: &RefreshedCollateral) {
    let name = format!("{} ({} CA)", hex::encode(&model.fmspc), printable(&model.ca));
    if !model.failure.is_empty() {
        page.line(
            page.toned(Tone::Bad, &format!("{name}: not refreshed, the cached collateral stays in use")),
        );
        page.line(format!("  {}", printable(&model.failure)));
        return;
    }
    let news = if model.is_newer { "newer than before" } else { "the same as before" };
    page.line(page.toned(Tone::Good, &format!("{name}: {news}")));
    page.line(format!(
        "  TCB evaluation number {}, of the QE identity {}; CRL numbers {} (root), {} (CA); valid until {}",
        model.tcb_evaluation_number,
        model.qe_evaluation_number,
        model.root_crl_number,
        model.pck_crl_number,
        when::at(model.expires),
    ));
}
