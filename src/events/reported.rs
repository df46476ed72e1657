//! What a node tells the others of its inventory: the newest CVMs and refusals, without addresses.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::inventory::{Cvm, CvmId, Refusal};

/// The most entries of a list.
pub const MAX_REPORTED: usize = 100;

/// The newest entries of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported<T> {
    /// The newest, the newest first.
    pub entries: Vec<T>,
    /// Whether the node has no others, as far as it knows. Earlier versions do not say it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
}

/// An entry that may be told to other nodes.
pub trait Told: Serialize + DeserializeOwned + Clone {
    /// Without what other nodes need not know.
    fn told(self) -> Self;
}

impl Told for Cvm {
    fn told(mut self) -> Self {
        self.subject.remote.clear();
        self.hours.clear();
        self
    }
}

impl Told for Refusal {
    fn told(mut self) -> Self {
        self.remote.clear();
        if let Some(subject) = &mut self.subject {
            subject.remote.clear();
        }
        self
    }
}

impl Cvm {
    /// Its id, by its app and instance.
    pub fn id(&self) -> CvmId {
        CvmId::of(&self.subject)
    }
}

impl<T: Told> Reported<T> {
    /// The first of these, which are the newest.
    pub fn of(newest: impl IntoIterator<Item = T>) -> Self {
        Self { entries: newest.into_iter().take(MAX_REPORTED).map(T::told).collect(), whole: false }
    }

    /// Its bytes, at most `limit`: with fewer entries, if so many are too long.
    pub fn encode(mut self, limit: usize) -> Vec<u8> {
        loop {
            let body = serde_json::to_vec(&self).expect("texts and numbers");
            if body.len() <= limit || self.entries.is_empty() {
                return body;
            }
            self.entries.truncate(self.entries.len() * 3 / 4);
            self.whole = false;
        }
    }

    /// Reads what another node told; `None` for what no node writes.
    pub fn read(body: &[u8]) -> Option<Self> {
        let read: Self = kms_attest::json::from_utf8(body).ok()?;
        let is_bounded = read.entries.len() <= MAX_REPORTED;
        let entries = read.entries.into_iter().map(T::told);
        is_bounded.then(|| Self { entries: entries.collect(), whole: read.whole })
    }
}

/// Reads bytes as each of these lists, for tests with arbitrary bytes: what can be read is written the same again.
pub fn check_reported(bytes: &[u8]) {
    fn again<T: Told + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
        if let Some(read) = Reported::<T>::read(bytes) {
            let written = read.clone().encode(usize::MAX);
            assert_eq!(Reported::<T>::read(&written), Some(read));
        }
    }
    again::<Cvm>(bytes);
    again::<Refusal>(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Span, Subject};

    fn cvm(number: u64) -> Cvm {
        let subject = Subject {
            app_id: "aa".repeat(20),
            instance_id: format!("{number:040x}"),
            remote: "10.1.2.3".to_owned(),
            ..Subject::default()
        };
        let mut cvm = Cvm::new(Span { first: 1, last: 2, seq: number, count: 1 });
        cvm.subject = subject;
        cvm.hours = vec![(1, 2)];
        cvm
    }

    #[test]
    fn what_is_told_has_a_bound_and_no_address() {
        let reported = Reported::of((0..500).map(cvm));
        assert_eq!(reported.entries.len(), MAX_REPORTED);
        let body = reported.clone().encode(usize::MAX);
        let text = String::from_utf8(body.clone()).expect("text");
        assert!(!text.contains("10.1.2.3"), "{text}");
        let read = Reported::<Cvm>::read(&body).expect("a list");
        assert_eq!(read, reported);
        assert_eq!(read.entries[3].id(), cvm(3).id(), "the id is computed, not told");
        let whole = Reported { whole: true, ..reported };
        let long = Reported::<Cvm>::read(&whole.clone().encode(usize::MAX)).expect("a list");
        assert!(long.whole && !read.whole);
        let short = whole.encode(9_000);
        assert!(short.len() <= 9_000);
        let short = Reported::<Cvm>::read(&short).expect("a list");
        let kept = short.entries;
        assert!(!kept.is_empty() && kept[0] == cvm(0).told(), "the newest stay");
        assert!(!short.whole, "others were left out");
    }

    #[test]
    fn what_no_node_writes_is_not_read() {
        let many = serde_json::json!({ "entries": vec![cvm(1); MAX_REPORTED + 1] }).to_string();
        for body in ["", "[]", r#"{"entries":7}"#, r#"{"entries":[{}]}"#, &*many] {
            assert_eq!(Reported::<Cvm>::read(body.as_bytes()), None, "{body}");
        }
        let hostile = serde_json::json!({ "entries": [cvm(1)] }).to_string();
        let read = Reported::<Cvm>::read(hostile.as_bytes()).expect("a list");
        assert_eq!(read.entries[0].subject.remote, "", "an address that is told nevertheless is not shown");
    }
}
