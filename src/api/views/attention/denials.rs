//! Refused requests that need attention, in groups.

use std::collections::{BTreeMap, HashSet};

use super::super::at;
use super::super::denials::Denial;
use super::{Attention, Link, Severity};

/// Denials are shown as long as they are not older than this, in seconds.
const DENIALS_SINCE: u64 = 3600;

/// The most groups of denials; the rest is one item.
pub(super) const MAX_GROUPS: usize = 10;

/// The denials of the last hour by app and code.
pub(super) fn of_denials(denials: &[Denial], now: u64) -> Vec<Attention> {
    let since = now.saturating_sub(DENIALS_SINCE) * 1000;
    let mut groups = BTreeMap::<(Option<&str>, &str), Vec<&Denial>>::new();
    for denial in denials.iter().filter(|denial| denial.last >= since) {
        groups.entry((denial.app_id.as_deref(), &denial.code)).or_default().push(denial);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, denials)| {
        std::cmp::Reverse(denials.iter().map(|denial| denial.count).sum::<u64>())
    });
    let rest = groups.split_off(groups.len().min(MAX_GROUPS));
    let mut list: Vec<_> =
        groups.iter().filter_map(|((app, code), denials)| group(*app, code, denials)).collect();
    if !rest.is_empty() {
        let count = rest.iter().flat_map(|(_, denials)| denials).map(|denial| denial.count).sum();
        let message = format!("{} other groups of callers are refused.", rest.len());
        let last = rest.iter().flat_map(|(_, denials)| denials).map(|denial| denial.last).max();
        list.push(Attention {
            last: last.map(at),
            count: Some(count),
            ..Attention::new("denials", Severity::Warning, message, "denials")
        });
    }
    list
}

fn group(app: Option<&str>, code: &str, denials: &[&Denial]) -> Option<Attention> {
    let newest = denials.iter().max_by_key(|denial| denial.last)?;
    let first = denials.iter().map(|denial| denial.first).min()?;
    let callers = denials.iter().map(|denial| denial.caller()).collect::<HashSet<_>>().len();
    let who = match (app, callers) {
        (Some(app), 1) => format!("A CVM of app {app} is refused"),
        (Some(app), callers) => format!("{callers} CVMs of app {app} are refused"),
        (None, 1) => "A caller whose evidence does not verify is refused".to_owned(),
        (None, callers) => format!("{callers} callers whose evidence does not verify are refused"),
    };
    // Anyone can cause the others.
    let severity = if app.is_some() { Severity::Warning } else { Severity::Info };
    Some(Attention {
        detail: newest.message.clone(),
        since: Some(at(first)),
        last: Some(at(newest.last)),
        count: Some(denials.iter().map(|denial| denial.count).sum()),
        link: Link { view: "denials", id: Some(newest.id.clone()) },
        ..Attention::new(code, severity, format!("{who}: {code}."), "denials")
    })
}
