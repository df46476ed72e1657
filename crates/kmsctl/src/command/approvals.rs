//! `kmsctl approvals`: what waits for a second owner.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::person::Person;
use crate::target::{Administered, Reply};

const APPROVALS: &str = "/api/v1/approvals";
/// The largest is one request, with the longest allowlist as text of JSON.
const REPLY: Reply = Reply {
    max_bytes: 32 << 20,
    unreadable: |_| Failure::failed("the response is not what a KMS sends about approvals"),
};

/// The commands of `kmsctl approvals`.
#[derive(Debug, Subcommand)]
pub(crate) enum Approvals {
    /// List what waits, and what became of earlier requests
    List(List),
    /// Show one request, with the document that it would put in force
    Show(One),
    /// Approve a request of another owner, which is carried out now
    Approve(Approve),
    /// Reject a request, or take back one's own
    Reject(One),
}

/// Arguments of `kmsctl approvals list`.
#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of the commands about one request.
#[derive(Args, Debug)]
pub(crate) struct One {
    /// Its id, as `kmsctl approvals list` shows it
    id: String,
    #[command(flatten)]
    admin: Administered,
}

/// Arguments of `kmsctl approvals approve`.
#[derive(Args, Debug)]
pub(crate) struct Approve {
    /// Its id, as `kmsctl approvals list` shows it
    id: String,
    /// Do not ask on a terminal
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    admin: Administered,
}

#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    approvals: Vec<Shown>,
}

/// A request as a KMS shows it.
#[derive(Debug, Serialize, Deserialize)]
struct Shown {
    id: String,
    action: String,
    detail: String,
    sha256: String,
    requested_by: String,
    requested_at: String,
    expires_at: String,
    state: String,
    approved_by: Option<String>,
    result: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    document: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl Shown {
    /// What would be put in force: of a recovery set a line for each officer, with the key that the share is encrypted to.
    fn document_lines(&self) -> impl Iterator<Item = String> {
        self.document.iter().flat_map(|text| text.lines()).map(printable)
    }
}

impl Approvals {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        match self {
            Self::List(List { admin }) => {
                let listed: Listed = admin.get(terminal, APPROVALS, REPLY).await?;
                terminal.show(&listed, |page| match listed.approvals.is_empty() {
                    true => page.line("Nothing waits for a second owner."),
                    false => listed.approvals.iter().for_each(|shown| entry(page, shown)),
                })?;
                Ok(Exit::Done)
            }
            Self::Show(One { id, admin }) => {
                let shown: Shown = admin.get(terminal, &of(&id, "")?, REPLY).await?;
                terminal.show(&shown, |page| {
                    entry(page, &shown);
                    half(page, &shown);
                    shown.document_lines().for_each(|line| page.line(line));
                })?;
                Ok(Exit::Done)
            }
            Self::Approve(Approve { id, yes, admin }) => approve(&admin, terminal, &id, yes).await,
            Self::Reject(One { id, admin }) => {
                let shown: Shown = admin.post(terminal, &of(&id, "/reject")?, Vec::new(), REPLY).await?;
                if shown.state != "rejected" {
                    return Err(Failure::failed("the response does not say that it is rejected"));
                }
                terminal.show(&shown, |page| entry(page, &shown))?;
                Ok(Exit::Done)
            }
        }
    }
}

/// Approves exactly what was shown before.
async fn approve(admin: &Administered, terminal: &Terminal, id: &str, yes: bool) -> Outcome {
    let waiting: Shown = admin.get(terminal, &of(id, "")?, REPLY).await?;
    if !yes && waiting.state == "waiting" {
        let person = Person::needed(
            "an approval is carried out at once, and there is no terminal to confirm it: use --yes",
        )?;
        terminal.note(format_args!(
            "{}, requested by {}",
            printable(&waiting.detail),
            printable(&waiting.requested_by)
        ));
        waiting.document_lines().for_each(|line| terminal.note(line));
        person.must_confirm("Do this now", "nothing was approved")?;
    }
    let body = json!({ "sha256": waiting.sha256 });
    let shown: Shown =
        admin.post(terminal, &of(id, "/approve")?, body.to_string().into_bytes(), REPLY).await?;
    let result = shown.result.as_deref().unwrap_or_default();
    if shown.state != "done" {
        let failure = Failure::failed(format_args!("approved, but it failed: {}", printable(result)));
        return Err(failure.with("approval", serde_json::to_value(&shown).unwrap_or_default()));
    }
    terminal.show(&shown, |page| {
        page.line(format_args!("Done: {}.", printable(result)));
        half(page, &shown);
        if shown.token.is_some() {
            page.line(format_args!(
                "It is shown only now. The owner who requested it sees the first half with: kmsctl approvals show {id}"
            ));
        }
    })?;
    Ok(Exit::Done)
}

/// The path of one request. Its id goes into it, so that a text that cannot be one is refused here.
fn of(id: &str, action: &str) -> Outcome<String> {
    match !id.is_empty() && id.bytes().all(|letter| letter.is_ascii_alphanumeric()) {
        true => Ok(format!("{APPROVALS}/{id}{action}")),
        false => Err(Failure::usage("the id of a request has hex digits only")),
    }
}

fn entry(page: &mut Page, shown: &Shown) {
    page.line(format_args!("{}: {}", printable(&shown.id), printable(&shown.detail)));
    page.field("state", printable(&shown.state));
    page.field(
        "requested",
        format_args!("{} by {}", printable(&shown.requested_at), printable(&shown.requested_by)),
    );
    if shown.state == "waiting" {
        page.field("expires", printable(&shown.expires_at));
    }
    page.field("approved by", printable(shown.approved_by.as_deref().unwrap_or_default()));
    page.field("result", printable(shown.result.as_deref().unwrap_or_default()));
    page.field("sha256", printable(&shown.sha256));
}

/// The half of an invitation that this owner passes on.
fn half(page: &mut Page, shown: &Shown) {
    let Some(token) = &shown.token else { return };
    let which = if token.starts_with("ckms_") { "first" } else { "second" };
    let text = format!(
        "The {which} half of the invitation, valid for 15 minutes. Give it to the holder only, who writes the second half \
         after the first:"
    );
    page.line(page.toned(Tone::Good, &text));
    page.line(printable(token));
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_keys_of_officers_are_shown_a_line_each_without_control_characters() {
        let shown = |document: Value| -> Shown {
            serde_json::from_value(json!({
                "id": "1", "action": "create_recovery_set", "detail": "split the root keys", "sha256": "00",
                "requested_by": "a", "requested_at": "", "expires_at": "", "state": "waiting", "document": document,
            }))
            .unwrap()
        };
        let lines: Vec<String> = shown(json!("ann age1a\nbob\u{1b} age1b\n")).document_lines().collect();
        assert_eq!(lines, ["ann age1a", "bob  age1b"]);
        assert_eq!(shown(Value::Null).document_lines().count(), 0);
    }
}
