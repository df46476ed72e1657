//! Many CVMs that boot at once, and callers who claim the domain of others.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use kms_attest::binding::ReportData;
use kms_attest::p256::P256Key;
use kms_simulator::Cvm;
use serde_json::json;

use crate::support::http::{post, with};
use crate::support::{Caller, Identity, World};

/// A KMS with the domain `small`, which app 2 is in.
async fn world() -> World {
    let app = "02".repeat(20);
    World::ready_with(&format!("[domains.small]\napps = ['{app}']\nallow_dev_images = true")).await
}

fn instances(world: &World, app: u8, count: u8) -> Vec<Arc<Cvm>> {
    let builder = || Cvm::builder(&world.platform).app_id([app; 20]).compose_hash([app; 32]);
    (0..count).map(|number| builder().instance_id(&[number + 1; 20]).build()).collect()
}

fn address(last: u8) -> IpAddr {
    [127, 0, 3, last].into()
}

/// A caller with a key of its own that shows the evidence of a CVM.
async fn liar(world: &World, of: &Cvm) -> Caller {
    let evidence = of.evidence(ReportData::ra_tls(&P256Key::generate().spki_der()));
    let stolen = Identity::with_evidence(&world.temp_ca().await, &P256Key::generate(), &evidence);
    world.caller().shows(&stolen)
}

#[tokio::test]
async fn of_two_domains_that_boot_at_once_nobody_is_lost_and_all_have_the_keys_of_their_app() {
    let world = world().await;
    let (many, few) = (instances(&world, 1, 60), instances(&world, 2, 3));
    world.allow_app(&many[0]);
    world.allow_app(&few[0]);
    let mut guests = Vec::new();
    for (number, cvm) in many.iter().chain(&few).enumerate() {
        let identity = world.attested(cvm).await;
        guests.push(world.caller().shows(&identity).from(address(1 + number as u8)));
    }
    let keys = join_all(guests.iter().map(async |guest| {
        let answer = guest.json("GetAppKey", json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.value()["k256_key"].to_string()
    }))
    .await;
    let (of_many, of_few) = keys.split_at(many.len());
    assert!(of_many.iter().all(|key| *key == of_many[0]) && of_few.iter().all(|key| *key == of_few[0]));
    assert_ne!(of_many[0], of_few[0]);
    assert_eq!(world.metric(r#"cvm_kms_lane_shed_total{domain="small"}"#).await.unwrap_or(0), 0);
    assert_eq!(world.metric("cvm_kms_false_domain_claims_total").await.unwrap_or(0), 0);
}

#[tokio::test]
async fn who_claims_the_domain_of_another_is_found_out_once_for_each_address_and_shuts_nobody_out() {
    let world = world().await;
    let victim = instances(&world, 2, 2);
    world.allow_app(&victim[0]);
    let false_claims = async || world.metric("cvm_kms_false_domain_claims_total").await.unwrap_or(0);
    for (last, expected) in [(1, 1), (1, 1), (2, 2), (2, 2)] {
        let answer = liar(&world, &victim[0]).await.from(address(last)).json("GetAppKey", json!({})).await;
        assert!(answer.status >= 400, "{}", answer.text());
        assert_eq!(false_claims().await, expected, "its second claim counts nothing, so it is none");
    }
    // A method that does not verify the certificate takes no claim from it.
    let stranger = liar(&world, &victim[0]).await.from(address(3));
    assert_ne!(stranger.json("SignCert", json!({ "csr": "00" })).await.status, 200);
    assert_eq!(false_claims().await, 2);

    for (number, last) in [(0, 9), (1, 1)] {
        let guest = world.caller().shows(&world.attested(&victim[number]).await).from(address(last));
        let answer = guest.json("GetAppKey", json!({})).await;
        assert_eq!(answer.status, 200, "also from the address of a liar: {}", answer.text());
    }
    assert_eq!(false_claims().await, 2);
}

#[tokio::test]
async fn with_the_default_domain_only_no_claim_is_looked_at() {
    let world = World::ready().await;
    let app = world.app(2);
    let answer = liar(&world, &app).await.json("GetAppKey", json!({})).await;
    assert!(answer.status >= 400, "{}", answer.text());
    assert_eq!(world.metric("cvm_kms_false_domain_claims_total").await.unwrap_or(0), 0);
}

#[tokio::test]
async fn callers_who_are_turned_away_are_told_when_to_come_in_both_protocols() {
    let world =
        World::ready_with("core.limits = { unauthenticated_per_second = 1, unauthenticated_burst = 20 }")
            .await;
    let mut to = world.caller().connect().await.expect("a connection");
    let limited = loop {
        let answer = to.json("GetMeta", json!({})).await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!((limited.status, limited.header("retry-after")), (429, "1"), "nothing waits");
    assert_eq!(limited.header("grpc-retry-pushback-ms"), "");
    let limited = loop {
        let grpc = with(post("/kms.KMS/GetMeta", vec![0; 5]), "content-type", "application/grpc");
        let answer = to.send(grpc).await;
        if answer.header("grpc-status") == "8" {
            break answer;
        }
    };
    assert_eq!((limited.header("grpc-status"), limited.header("retry-after")), ("8", "1"));
    assert_eq!(limited.header("grpc-retry-pushback-ms"), "1000");
}
