//! Sources that lie about what operators chose there.

use serde_json::{Value, json};

use super::{nothing_is_kept, onboard};
use crate::support::World;
use crate::support::source::{Cluster, Reply, Source};

/// A KMS with the domain `prod`, for one app.
const PROD: &str = "[domains.prod]\napps = ['0101010101010101010101010101010101010101']";

#[tokio::test]
async fn a_source_that_lies_about_domains_gives_no_keys_to_a_kms_that_would_use_others() {
    let zeros = "00".repeat(32);
    let app = "02".repeat(20);
    let told = |domains: Value, digest: Option<&str>| {
        let mut choices = json!({ "version": 1, "domains": domains });
        if let Some(digest) = digest {
            choices["domains_sha256"] = json!(digest);
        }
        choices.to_string()
    };
    let stated = json!([{ "name": "team", "apps": 1, "apps_sha256": zeros }]);
    let made = json!([{ "name": "team", "rules": {} }]);
    let placed = json!([{ "domain": "team", "apps": [app] }]);
    for (toml, choices, status, problem) in [
        // It says nothing, as a version before choices, or that there is none.
        (PROD, None, 409, "the domain prod is only here"),
        (PROD, Some(json!({ "version": 1 }).to_string()), 409, "the domain prod is only here"),
        // It says one thing and another.
        (
            "",
            Some(told(json!({ "stated": stated, "made": made, "placed": placed }), None)),
            409,
            "the source has other domains",
        ),
        (
            "",
            Some(told(json!({ "stated": stated, "made": made, "placed": placed }), Some(&zeros))),
            409,
            "team has other apps: 1 here, 1 there",
        ),
        (
            "",
            Some(told(json!({ "stated": [], "made": made }), Some(&zeros))),
            409,
            "the domain team is only here",
        ),
        // An app in a domain that is not made, and an archived one that there is not.
        (
            "",
            Some(told(json!({ "stated": [], "placed": placed }), Some(&zeros))),
            409,
            "was put into the domain team",
        ),
        (
            "",
            Some(told(json!({ "stated": [], "archived": ["team"] }), None)),
            409,
            "the archived domain team",
        ),
        // What this version does not know, or what is there twice.
        (
            "",
            Some(told(json!({ "stated": [], "made": [{ "name": "team", "rules": { "more": 1 } }] }), None)),
            400,
            "update this KMS first",
        ),
        (
            "",
            Some(told(
                json!({ "stated": [], "placed": [{ "domain": "default", "apps": [app, app] }] }),
                None,
            )),
            400,
            "there twice",
        ),
        (
            "",
            Some(told(json!({ "stated": [], "made": [{ "name": "default", "rules": {} }] }), None)),
            400,
            "twice",
        ),
    ] {
        let replica = World::onboarding_with(toml).await;
        let cluster = Cluster::new();
        let mut handover = cluster.handover();
        if let Some(choices) = &choices {
            handover["choices"] = json!(choices);
        }
        let answers =
            cluster.answering(move |method| (method == "GetKmsKey").then(|| Reply::Json(handover.clone())));
        let source = Source::start(&[cluster.leaf(&replica.cvm)], answers).await;
        let answer = onboard(&replica, &source.url()).await;
        let what = format!("{toml} {choices:?}");
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert!(answer.text().contains(problem), "{what}: {}", answer.text());
        nothing_is_kept(&replica, &what);
        assert!(replica.audited("domains_received").is_empty(), "{what}");
    }
}
