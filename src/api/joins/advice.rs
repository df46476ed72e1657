//! What an owner does about an invitation that the new node does not bring to its end by itself.

use crate::state::{JoinRecord, JoinStage};

/// After so many seconds without word from a node that was sent the keys, an owner is told what to look for.
const SILENCE: u64 = 30;

/// What to do now; `None` while the next step is that of the new node, or when it serves.
pub(super) fn now(record: &JoinRecord, is_over: bool, now: u64) -> Option<String> {
    let step = |stage| record.step(stage);
    let again = format!("invite it again: {}", invite(record));
    if step(JoinStage::Serving).is_some() {
        return None;
    }
    if let Some(committed) = step(JoinStage::Committed) {
        let is_silent = is_over || now > committed.at.saturating_add(SILENCE);
        return is_silent.then(|| "the new node has the keys: run kmsctl finish there".to_owned());
    }
    if let Some(keys) = step(JoinStage::Keys) {
        let is_silent = is_over || now > keys.at.saturating_add(SILENCE);
        return is_silent.then(|| {
            format!(
                "the keys were sent, but the new node did not say that it has them: look there; if it has none, because the answer \
                 was lost or its process ended, {again}"
            )
        });
    }
    if is_over {
        return Some(format!("nobody got keys by it; {again}"));
    }
    if step(JoinStage::UsedByAnother).is_some() {
        return Some(format!(
            "it belongs to the run of the machine that showed the token first: if the new node was restarted since, cancel it (kmsctl \
             replica cancel {}) and {again}; if it was not, somebody else has the token",
            record.id
        ));
    }
    step(JoinStage::Refused).map(|_| {
        "remove the cause, then run the command for the new node again; do not restart its process, which would need another invitation"
            .to_owned()
    })
}

/// The command that makes another invitation of the same node.
fn invite(record: &JoinRecord) -> String {
    let source = record.source_url.as_ref();
    let source = source.map_or_else(String::new, |url| format!(" --source-url {}", url.quoted()));
    format!("kmsctl replica invite --domain {}{source}", record.domain)
}

#[cfg(test)]
mod tests {
    use JoinStage::{Cancelled, Committed, Keys, Refused, Serving, Started, UsedByAnother};

    use super::*;
    use crate::state::StepRecord;

    #[test]
    fn each_end_says_what_to_type() {
        let record = |stages: &[JoinStage]| JoinRecord {
            id: "0123456789abcdef".to_owned(),
            domain: "kms2.example".to_owned(),
            label: None,
            source_url: Some("https://nat.example:9000".to_owned().try_into().unwrap()),
            hash: String::new(),
            created_at: 100,
            created_by: "token".to_owned(),
            expires_at: 1000,
            key: None,
            steps: stages
                .iter()
                .map(|&stage| StepRecord { stage, at: 100, code: None, denial: None })
                .collect(),
        };
        let again = "kmsctl replica invite --domain kms2.example --source-url https://nat.example:9000";
        let (early, late) = (110, 140);
        for (stages, is_over, at, says) in [
            (&[][..], false, late, None),
            (&[Started], false, late, None),
            (&[Keys], false, early, None),
            (&[Keys], false, late, Some(again)),
            (&[Keys], true, late, Some(again)),
            (&[Keys, Committed], false, early, None),
            (&[Keys, Committed], false, late, Some("kmsctl finish")),
            (&[Keys, Committed, Serving], true, late, None),
            (&[Cancelled], true, early, Some(again)),
            (&[Started, UsedByAnother], false, early, Some("kmsctl replica cancel 0123456789abcdef")),
            (&[Started, UsedByAnother], false, early, Some(again)),
            (&[Started, Refused], false, early, Some("do not restart")),
        ] {
            let said = now(&record(stages), is_over, at);
            match says {
                None => assert_eq!(said, None, "{stages:?}"),
                Some(says) => {
                    assert!(said.as_ref().is_some_and(|said| said.contains(says)), "{said:?}: {says}")
                }
            }
        }
    }
}
