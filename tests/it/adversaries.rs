//! Attackers, one file for each kind.

mod answers;
mod certificates;
mod choices;
mod evidence;
mod network;
mod servers;
mod tokens;

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use cvm_kms::proto::OnboardResponse;
use kms_simulator::{Cvm, Platform, Stage};
use serde_json::json;

use crate::support::source::{Cluster, Source};
use crate::support::{Answer, World};

/// The prefix of every failed handover.
const PREFIX: &str = "Failed to onboard: ";

async fn onboard(replica: &World, url: &str) -> Answer {
    let body = json!({ "source_url": url, "domain": "replica.example" });
    replica.caller().plain().json("Onboard", body).await
}

/// Nothing of a handover is stored: no key, no part of a commit, no record about keys. Verified collateral of Intel may be.
fn nothing_is_kept(replica: &World, what: &str) {
    let left: Vec<_> = fs::read_dir(replica.path("certs"))
        .expect("the key directory")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| {
            name != "collateral"
                && !["audit.jsonl", "collateral-floors.json", "events.redb"]
                    .iter()
                    .any(|ours| name.to_string_lossy().starts_with(ours))
        })
        .collect();
    assert!(left.is_empty(), "{what}: {left:?}");
    assert!(replica.audited("keys_received").is_empty(), "{what}");
}

/// The CVM of an allowed KMS, as of a genuine source.
fn kms(platform: &Arc<Platform>) -> Arc<Cvm> {
    Cvm::builder(platform).app_id([0xca; 20]).stage(Stage::Ready).build()
}

/// A handover that fails.
struct Case {
    what: &'static str,
    source: Source,
    status: u16,
    /// The beginning of the reason.
    text: String,
}

/// Onboards from each source in turn, and then from a genuine one.
async fn each_is_refused(replica: &World, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for Case { what, source, status, text } in cases {
        let began = Instant::now();
        let (found, said) = onboard(replica, &source.url()).await.refusal();
        if found != status || !said.starts_with(&format!("{PREFIX}{text}")) {
            wrong.push(format!("{what}: expected {status} {text}\n  got {found} {said}"));
        }
        assert!(!said.contains(&replica.pccs.url()) && !said.contains("agent.sock"), "{what}: {said}");
        nothing_is_kept(replica, what);
        println!("{what}: {found} {said} ({:?})", began.elapsed());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let cluster = Cluster::new();
    let genuine = Source::start(&[cluster.leaf(&replica.cvm)], cluster.answers()).await;
    let answer = onboard(replica, &genuine.url()).await;
    assert_eq!(answer.status, 200, "what failed before can be tried again: {answer:?}");
    let received: OnboardResponse = answer.message();
    assert_eq!(received.k256_pubkey, cluster.k256_public());
    assert_eq!(genuine.calls(), ["GetTempCaCert on 0", "GetMeta on 0", "GetKmsKey on 1"]);
    assert_eq!(fs::read(replica.key_file("root-k256.key")).expect("a key"), cluster.k256);
}
