//! `kmsctl operations`: what goes on at a KMS for longer than a request: invited nodes, and the rollout of an OS image.

use clap::Args;
use kms_client::operation::{Operation, OperationList, OperationStage};

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::{Administered, Reply};

const OPERATIONS: &str = "/api/v1/operations";
const REPLY: Reply = Reply {
    max_bytes: 2 << 20,
    unreadable: |url| Failure::failed(format_args!("{url}: the response is not what a KMS sends")),
};

/// Arguments of `kmsctl operations`.
#[derive(Args, Debug)]
pub(crate) struct Operations {
    /// Show this one only, with all that happened
    #[arg(value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    admin: Administered,
}

impl Operations {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        let Some(id) = &self.id else {
            let list: OperationList = self.admin.get(terminal, OPERATIONS, REPLY).await?;
            terminal.show(&list, |page| {
                list.operations.iter().for_each(|operation| show(operation, page));
                if let Some(problem) = &list.problem {
                    page.line(page.toned(Tone::Doubtful, &printable(problem)));
                } else if list.operations.is_empty() {
                    page.line("Nothing goes on, and nothing has ended recently.");
                }
            })?;
            return Ok(Exit::Done);
        };
        if id.is_empty() || !id.bytes().all(|letter| letter.is_ascii_alphanumeric()) {
            return Err(Failure::usage("the id of an operation has letters and digits only"));
        }
        let operation: Operation = self.admin.get(terminal, &format!("{OPERATIONS}/{id}"), REPLY).await?;
        terminal.show(&operation, |page| {
            show(&operation, page);
            operation.stages.iter().for_each(|stage| page.field("", line(stage)));
        })?;
        Ok(Exit::Done)
    }
}

fn show(operation: &Operation, page: &mut Page) {
    let tone = match (operation.over, operation.succeeded) {
        (true, true) => Tone::Good,
        (false, _) if operation.advice.is_none() => Tone::Good,
        _ => Tone::Doubtful,
    };
    let state = page.toned(tone, &printable(&operation.state));
    let (id, title) = (printable(&operation.id), printable(&operation.title));
    page.line(format_args!("{id} {title}: {state}"));
    page.field("began", printable(&operation.started_at));
    if let Some(text) = &operation.waits_for {
        page.field("waits for", printable(text));
    }
    if let Some(text) = &operation.advice {
        page.line(format_args!("To do: {}", printable(text)));
    }
}

fn line(stage: &OperationStage) -> String {
    let node = stage.node.iter().map(|name| format!(" {}", printable(name)));
    let why = stage.code.iter().chain(&stage.reason).map(|why| format!(": {}", printable(why)));
    let (at, said) = (printable(&stage.at), printable(&stage.stage));
    format!("{at}{} {said}{}", node.collect::<String>(), why.collect::<String>())
}
