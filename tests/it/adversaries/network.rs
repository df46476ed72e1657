//! Attackers between a replica and its source, and sources that do not respond.

use std::fs;
use std::time::Duration;

use cvm_kms::proto::OnboardResponse;
use kms_attest::certificate;
use kms_attest::p256::P256Key;
use serde_json::json;
use tokio::time::Instant;

use super::{PREFIX, nothing_is_kept, onboard};
use crate::support::balancer::Balancer;
use crate::support::source::{Clients, Cluster, Reply, Shown, Source};
use crate::support::{DOMAIN, World, eventually};

const OTHER_SERVER: &str = "Failed to onboard: GetKmsKey: the server has another key than the source KMS that was \
                            attested on the first connection; use the address of that one KMS, without a load \
                            balancer or proxy in between";

#[tokio::test]
async fn the_second_connection_meets_the_server_of_the_first_or_nobody() {
    let replica = World::onboarding().await;
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let genuine = cluster.leaf(&replica.cvm);
    let stolen = "Failed to onboard: GetKmsKey: the server does not hold the private key of the certificate that it \
                  shows";
    for (what, second, expected) in [
        ("an attested KMS with other root keys", other.leaf(&replica.cvm), OTHER_SERVER),
        ("another KMS of the same cluster", cluster.leaf(&replica.cvm), OTHER_SERVER),
        ("a server of nobody", Cluster::new().leaf_over(P256Key::generate(), None), OTHER_SERVER),
        ("a copy of the certificate", genuine.stolen(), stolen),
    ] {
        let source = Source::start(&[genuine.clone(), second], cluster.answers()).await;
        let refusal = onboard(&replica, &source.url()).await.refusal();
        assert_eq!(refusal, (400, expected.to_owned()), "{what}");
        assert_eq!(source.calls(), ["GetTempCaCert on 0", "GetMeta on 0"], "{what}");
        nothing_is_kept(&replica, what);
    }
}

#[tokio::test]
async fn a_balancer_before_unrelated_kms_nodes_is_found_out_and_one_before_a_single_node_is_not_in_the_way() {
    let (first, second) = (World::ready().await, World::ready().await);
    let replica = World::onboarding().await;
    for [one, other] in [[&first, &second], [&second, &first]] {
        let balancer = Balancer::start(&[one.address(), other.address()]).await;
        let url = format!("https://{}", balancer.address());
        assert_eq!(onboard(&replica, &url).await.refusal(), (400, OTHER_SERVER.to_owned()));
        assert_eq!(balancer.served(), [1, 1]);
        nothing_is_kept(&replica, "a balancer");
    }
    for world in [&first, &second] {
        assert!(world.audited("kms_key_released").is_empty(), "nobody was asked for keys");
    }
    let balancer = Balancer::start(&[first.address()]).await;
    let answer = onboard(&replica, &format!("https://{}", balancer.address())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(first.audited("kms_key_released").len(), 1);
    assert_eq!(replica.root_keys().ca_spki(), first.root_keys().ca_spki());
}

#[tokio::test]
async fn the_certificate_of_a_running_kms_is_worth_nothing_without_its_key() {
    let source = World::ready().await;
    let replica = World::onboarding().await;
    let der =
        certificate::der(&fs::read_to_string(source.key_file("rpc.crt")).expect("rpc.crt")).expect("PEM");
    let cluster = Cluster::new();
    let thief = Source::start(&[Shown::of(vec![der], P256Key::generate())], cluster.answers()).await;
    let text = "GetTempCaCert: the server does not hold the private key of the certificate that it shows";
    assert_eq!(onboard(&replica, &thief.url()).await.refusal(), (400, format!("{PREFIX}{text}")));
    assert!(thief.calls().is_empty());
    nothing_is_kept(&replica, "a thief");
}

#[tokio::test]
async fn sources_of_every_age_are_understood() {
    let image = [5; 32];
    let busy = |method: &str| {
        let text = json!({ "error": "the auth api does not answer" }).to_string();
        (method == "GetMeta").then(|| Reply::Page(400, "application/json", text))
    };
    let silent = |method: &str| (method == "GetMeta").then_some(Reply::Hang);
    let statement = |cluster: &Cluster| {
        let mut meta = cluster.meta();
        let ca = hex::encode(cluster.ca.root.spki_der());
        meta["bootstrap_info"] =
            json!({ "ca_pubkey": ca, "k256_pubkey": meta["k256_pubkey"], "quote": "00" });
        meta
    };
    for what in
        ["today", "temporary CA only", "quote and log apart", "no word of itself", "a hanging GetMeta"]
    {
        let replica = World::onboarding().await;
        let cluster = Cluster::new();
        let leaf = match what {
            "quote and log apart" => cluster.legacy_leaf(&replica.cvm),
            _ => cluster.leaf(&replica.cvm),
        };
        // The peer accepts only certificates of its temporary CA.
        let leaf = match what {
            "today" => leaf,
            _ => leaf.admitting(Clients::Of(cluster.ca.temp_pem.clone())),
        };
        let meta = statement(&cluster);
        let answers = match what {
            "no word of itself" => cluster.answering(busy),
            "a hanging GetMeta" => cluster.answering(silent),
            _ => cluster.answering(move |method| (method == "GetMeta").then(|| Reply::Json(meta.clone()))),
        };
        let source = Source::start(&[leaf], answers).await;
        let answer = onboard(&replica, &source.url()).await;
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        assert_eq!(answer.message::<OnboardResponse>().k256_pubkey, cluster.k256_public(), "{what}");
        let root = replica.root_keys();
        assert_eq!(root.ca_spki(), cluster.ca.root.spki_der(), "{what}");
        assert_eq!(root.temp_ca().scalar(), cluster.ca.temp.scalar(), "{what}");
        replica.finish().await;
    }
    // An older source names no OS image, so ours must be allowed instead.
    let replica = World::onboarding().await;
    replica.allowlist.change(|rules| rules["osImages"] = json!([hex::encode(image)]));
    let cluster = Cluster::new();
    let source = Source::start(&[cluster.legacy_leaf(&replica.cvm)], cluster.answers()).await;
    let text = "Source KMS is not allowed for onboarding: boot denied: OS image is not allowed";
    assert_eq!(onboard(&replica, &source.url()).await.refusal(), (403, format!("{PREFIX}{text}")));
    nothing_is_kept(&replica, "an image that is not allowed");
}

#[tokio::test]
async fn a_source_that_takes_no_certificate_of_ours_is_named_with_what_it_says() {
    let replica = World::onboarding().await;
    let cluster = Cluster::new();
    let leaf = cluster.leaf(&replica.cvm).admitting(Clients::Of(Cluster::new().ca.temp_pem));
    let source = Source::start(&[leaf], cluster.answers()).await;
    let (status, text) = onboard(&replica, &source.url()).await.refusal();
    let begin = "GetKmsKey: the source KMS refused the TLS certificate of this KMS (";
    assert!(text.starts_with(&format!("{PREFIX}{begin}")), "{text}");
    assert!(text.contains("received fatal alert: ") && text.contains("compare the clocks of both"), "{text}");
    assert_eq!(status, 400, "{text}");
    nothing_is_kept(&replica, "a foreign temporary CA");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_that_keep_everyone_waiting_hold_up_nobody_else_and_are_given_up() {
    let replica = World::onboarding_with("core.limits.request_timeout = \"24s\"").await;
    let cluster = Cluster::new();
    let slow = |method: &'static str, reply: Reply| {
        let answers = cluster.answering(move |called| (called == method).then(|| reply.clone()));
        let leaf = cluster.leaf(&replica.cvm);
        async move { Source::start(&[leaf], answers).await }
    };
    let tick = Duration::from_millis(250);
    let sources = [
        slow("GetTempCaCert", Reply::Hang).await,
        slow("GetKmsKey", Reply::Hang).await,
        slow("GetTempCaCert", Reply::Dripping(cluster.temp_ca(), tick)).await,
        slow("GetKmsKey", Reply::Dripping(cluster.handover(), tick)).await,
    ];
    let began = Instant::now();
    let waiting: Vec<_> = sources
        .iter()
        .map(|source| {
            let body = json!({ "source_url": source.url(), "domain": DOMAIN });
            let caller = replica.caller().plain();
            tokio::spawn(async move { caller.json("Onboard", body).await.refusal() })
        })
        .collect();
    eventually("all four sources are asked", async || {
        sources.iter().all(|source| !source.calls().is_empty()).then_some(())
    })
    .await;
    // A fifth is refused instead of queued, and everything else continues.
    let fifth = Source::start(&[cluster.leaf(&replica.cvm)], cluster.answers()).await;
    let text = "other Onboard calls are waiting for their source KMS; try again";
    assert_eq!(onboard(&replica, &fifth.url()).await.refusal(), (503, text.to_owned()));
    assert!(fifth.calls().is_empty());
    let caller = replica.caller().plain();
    for call in ["GetAttestationInfo", "Finish"] {
        assert_eq!(caller.json(call, json!({})).await.status, 200, "{call}");
    }
    assert!(waiting.iter().all(|call| !call.is_finished()), "nobody waited for the sources");

    for (call, source) in waiting.into_iter().zip(&sources) {
        let text = "the source KMS did not hand over its keys within 21.6 s; nothing was stored, try again";
        assert_eq!(call.await.expect("an answer"), (503, format!("{PREFIX}{text}")), "{:?}", source.calls());
    }
    assert!(began.elapsed() < Duration::from_secs(100));
    nothing_is_kept(&replica, "slow sources");
    // Their turns end a moment after their answers.
    let answer = eventually("a turn", async || {
        let answer = onboard(&replica, &fifth.url()).await;
        (answer.status != 503 || !answer.text().contains(text)).then_some(answer)
    })
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
}
