//! The audit logs of the nodes: they only grow, they verify, and have each record of which a receipt was given.

use std::io::Read as _;
use std::sync::Mutex;

use cvm_kms::audit::segments;
use kms_ledger::chain;
use kms_ledger::compressed::Stored;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::checker::Checker;
use crate::nodes::{Node, Nodes};

/// What a log held at a moment when its node did not run.
struct Kept {
    node: usize,
    bytes: usize,
    sha256: [u8; 32],
}

/// What the logs held at such moments.
#[derive(Default)]
pub(crate) struct Ledgers(Mutex<Vec<Kept>>);

/// The complete lines of a log, its closed files first.
fn lines(node: &Node) -> Result<String, String> {
    let problem = |error: &dyn std::fmt::Display| format!("the log of node {}: {error}", node.number);
    let mut text = String::new();
    for file in segments(&node.ledger()).map_err(|error| problem(&error))? {
        let stored = Stored::open(&file).map_err(|error| problem(&error))?;
        stored.reader().read_to_string(&mut text).map_err(|error| problem(&error))?;
    }
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    Ok(text)
}

impl Ledgers {
    /// Notes what the log of a killed node holds.
    pub(crate) fn note(&self, node: &Node, checker: &Checker) {
        match lines(node) {
            Ok(text) => {
                let sha256 = Sha256::digest(text.as_bytes()).into();
                let kept = Kept { node: node.number, bytes: text.len(), sha256 };
                self.0.lock().expect("no panic").push(kept);
            }
            Err(problem) => checker.violated(problem),
        }
    }

    /// Checks all logs; the nodes have ended. The number of releases in them, and of the bytes of these records.
    pub(crate) async fn check(&self, nodes: &Nodes, checker: &Checker) -> (usize, usize) {
        let (mut released, mut bytes) = (0, 0);
        for node in &nodes.nodes {
            let path = node.ledger();
            let verified = nodes.setting.run(&["audit", "verify", path.to_str().expect("text")]).await;
            if verified.code != 0 {
                checker.violated(format!("the log of node {}: {}", node.number, verified.text()));
            }
            let text = match lines(node) {
                Ok(text) => text,
                Err(problem) => {
                    checker.violated(problem);
                    continue;
                }
            };
            for kept in self.0.lock().expect("no panic").iter().filter(|kept| kept.node == node.number) {
                let begins = text.as_bytes().get(..kept.bytes);
                if begins.is_none_or(|begins| Sha256::digest(begins)[..] != kept.sha256) {
                    checker.violated(format!("the log of node {} lost what it held at a kill", node.number));
                }
            }
            let mut missing = checker.handed_by(node.number);
            for line in text.lines() {
                let record: Value = serde_json::from_str(line).unwrap_or_default();
                if record["event"] != "app_key_released" {
                    continue;
                }
                released += 1;
                bytes += line.len() + 1;
                let entry = chain::content(line.as_bytes()).unwrap_or_default();
                let sha256: [u8; 32] = Sha256::digest(&entry).into();
                if let Some(instance) = missing.remove(&sha256)
                    && record["instance_id"] != *instance
                {
                    checker.violated(format!("a receipt of node {} is of another instance", node.number));
                }
            }
            if !missing.is_empty() {
                let (number, count) = (node.number, missing.len());
                checker.violated(format!(
                    "the log of node {number} lacks {count} records of which it gave receipts"
                ));
            }
        }
        (released, bytes)
    }

    /// How many kills were noted.
    pub(crate) fn noted(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }
}
