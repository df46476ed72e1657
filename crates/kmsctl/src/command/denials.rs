//! `kmsctl denials`: the requests that were refused recently.

use clap::Args;
use kms_attest::identity::{AppId, DomainName};
use kms_client::proto::{DenialRecord, ListDenialsRequest, ListDenialsResponse, VerifiedIdentity};
use kms_client::text::count;
use serde_json::Value;

use super::inventory::{document, number, query, text};
use crate::exit::{Exit, Outcome};
use crate::output::{Page, Terminal, Tone, printable};
use crate::target::Administered;
use crate::{input, when};

/// The most records in one response.
const PAGE: u32 = 200;

#[derive(Args, Debug)]
pub(crate) struct Denials {
    #[command(flatten)]
    admin: Administered,
    /// Also those of the other nodes of the fleet: of each the newest hundred at most, in all 200
    #[arg(long)]
    fleet: bool,
    /// List at most this many, newest first
    #[arg(long, value_name = "NUMBER", default_value = "20", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Only refusals with this code, such as compose_hash_not_allowed
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Only refusals of this app, 20 bytes in hexadecimal
    #[arg(long, value_name = "APP_ID", value_parser = input::app_id)]
    app: Option<AppId>,
    /// Only refusals in this domain
    #[arg(long, value_name = "NAME")]
    domain: Option<DomainName>,
}

impl Denials {
    pub(crate) async fn run(self, terminal: &Terminal) -> Outcome {
        if self.fleet {
            return self.of_fleet(terminal).await;
        }
        let admin = self.admin.one()?;
        let connection = admin.connect(terminal).await?;
        let mut found: Vec<DenialRecord> = Vec::new();
        let mut before = 0;
        loop {
            let left = self.limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
            let request = ListDenialsRequest {
                limit: left.min(PAGE),
                before,
                code: self.code.clone().unwrap_or_default(),
                app_id: self.app.map(|AppId(id)| id.to_vec()).unwrap_or_default(),
                domain: self.domain.as_ref().map(ToString::to_string).unwrap_or_default(),
            };
            let page: ListDenialsResponse = admin.call_on(&connection, "ListDenials", &request).await?;
            found.extend(page.denials);
            before = page.next;
            if before == 0 || found.len() >= self.limit as usize {
                break;
            }
        }
        terminal.show(&found, |page| {
            for denial in &found {
                page.line(format_args!(
                    "{}  {}",
                    page.toned(Tone::Bad, &printable(&denial.id)),
                    summary(denial)
                ));
                page.line(format_args!("    {}", printable(&denial.reason)));
                if let Some(identity) = &denial.identity {
                    page.line(format_args!("    app {}", hex::encode(&identity.app_id)));
                }
                for (label, text) in [
                    ("expected", &denial.expected),
                    ("found   ", &denial.actual),
                    ("fresh   ", &denial.fresh_evidence),
                    ("remedy  ", &denial.remedy),
                ] {
                    if !text.is_empty() {
                        page.line(format_args!("    {label}  {}", printable(text)));
                    }
                }
            }
            match found.is_empty() {
                true => page.line(
                    "No request was refused here recently. Where nodes share their state, --fleet shows those of the others.",
                ),
                false => page.line("`kmsctl explain --denial ID` shows every check."),
            }
        })?;
        Ok(Exit::Done)
    }
}

impl Denials {
    async fn of_fleet(self, terminal: &Terminal) -> Outcome {
        let query = query(&[
            ("fleet", Some("true".to_owned())),
            ("limit", Some(self.limit.min(PAGE).to_string())),
            ("code", self.code),
            ("app", self.app.map(|AppId(id)| hex::encode(id))),
            ("domain", self.domain.map(|domain| domain.to_string())),
        ]);
        let list = document(&self.admin, terminal, &format!("/api/v1/denials?{query}")).await?;
        terminal.show(&list["denials"], |page| of_nodes(&list["denials"], page))?;
        Ok(Exit::Done)
    }
}

/// Denials of several nodes.
fn of_nodes(denials: &Value, page: &mut Page) {
    let denials: Vec<&Value> = denials.as_array().into_iter().flatten().collect();
    for denial in &denials {
        let (id, code) = (text(denial, "id"), text(denial, "code"));
        let (times, last) = (count(number(denial, "count"), "time"), text(denial, "last_at"));
        page.line(format_args!("{}  {code}: {times}, last {last}", page.toned(Tone::Bad, &id)));
        page.line(format_args!("    {}", text(denial, "message")));
        for (label, key) in [
            ("app     ", "app_id"),
            ("node    ", "node"),
            ("expected", "expected"),
            ("found   ", "actual"),
            ("remedy  ", "remedy_text"),
        ] {
            let text = text(denial, key);
            if !text.is_empty() {
                page.line(format_args!("    {label}  {text}"));
            }
        }
        // Only its own node has the evidence. Addresses are not told to other nodes.
        let is_of_other = text(denial, "address").is_empty();
        let asked = match is_of_other {
            true => format!(" --admin URL, with the admin listener of {}", text(denial, "node")),
            false => String::new(),
        };
        if is_of_other || denial["explainable"] == true {
            page.line(format_args!("    every check: kmsctl explain --denial {id}{asked}"));
        }
    }
    if denials.is_empty() {
        page.line(
            "No request was refused recently. What other nodes refuse is shown here some seconds later.",
        );
    }
}

/// One refusal on one line.
pub(super) fn summary(denial: &DenialRecord) -> String {
    let times = match denial.count {
        0 | 1 => when::at(denial.last),
        count => format!("{count} times, last {}", when::at(denial.last)),
    };
    let (method, remote, code) =
        (printable(&denial.method), printable(&denial.remote), printable(&denial.code));
    format!("{code}: {method} from {remote}, {times}")
}

pub(super) fn identity(page: &mut Page, identity: &VerifiedIdentity) {
    for (name, bytes) in [
        ("  app id", &identity.app_id),
        ("  compose hash", &identity.compose_hash),
        ("  instance id", &identity.instance_id),
        ("  device id", &identity.device_id),
        ("  OS image hash", &identity.os_image_hash),
        ("  mr_aggregated", &identity.mr_aggregated),
    ] {
        page.field(name, hex::encode(bytes));
    }
    let advisories: Vec<_> = identity.advisory_ids.iter().map(|id| printable(id)).collect();
    page.field("  TCB status", printable(&identity.tcb_status));
    page.field("  advisories", advisories.join(", "));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::Audience;

    fn shown(denials: &Value) -> String {
        Terminal::new(Audience::People).page(|page| of_nodes(denials, page))
    }

    #[test]
    fn denials_of_all_nodes_say_why_and_where_to_ask() {
        let denial = |id: &str, node: &str, address: &str| {
            json!({
                "id": id, "code": "compose_hash_not_allowed", "count": 2, "last_at": "T", "message": "no",
                "app_id": "aa", "node": node, "address": address, "explainable": !address.is_empty(),
                "expected": "one of 3", "actual": "c0ffee", "remedy_text": "add it",
            })
        };
        let text = shown(&json!([denial("01", "node-1", "::1"), denial("02", "node-2", "")]));
        for said in [
            "expected  one of 3",
            "found     c0ffee",
            "remedy    add it",
            "kmsctl explain --denial 01\n",
            "kmsctl explain --denial 02 --admin URL, with the admin listener of node-2\n",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
        assert!(shown(&json!([])).starts_with("No request was refused recently"));
    }
}
