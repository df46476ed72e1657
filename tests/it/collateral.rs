//! Collateral that is kept: a node that starts again while no collateral service responds.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use crate::support::{Identity, World, eventually};
use futures_util::StreamExt as _;
use kms_simulator::{Cvm, PccsMode};
use serde_json::json;

async fn readiness(world: &World) -> (u16, String) {
    let answer = world.caller().get("/readyz").await;
    (answer.status, answer.text().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_during_an_outage_releases_keys_and_says_that_nothing_is_refreshed() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    world.pccs.set_mode(PccsMode::Down);
    world.start().await.expect("starts");
    // It has proved itself to its policy by what is kept.
    eventually("it is ready, with a warning", async || {
        let (status, text) = readiness(&world).await;
        (status == 200 && text.contains("collateral_not_refreshed")).then_some(())
    })
    .await;
    for _ in 0..20 {
        let caller = world.caller().shows(&world.attested(&app).await);
        assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    }
    world.pccs.set_mode(PccsMode::Up);
}

/// Guests that come during an outage.
const GUESTS: u32 = 1000;
/// How many of them at once.
const AT_ONCE: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_guests_get_keys_after_a_restart_while_no_endpoint_answers() {
    let mut world = World::ready().await;
    let guest = |number: u32| {
        let app = (number % 50 + 1) as u8;
        let mut instance = [app; 20];
        instance[..4].copy_from_slice(&number.to_be_bytes());
        let builder = Cvm::builder(&world.platform).app_id([app; 20]).compose_hash([app; 32]);
        builder.instance_id(&instance).build()
    };
    let guests: Vec<Arc<Cvm>> = (0..GUESTS).map(guest).collect();
    guests[..50].iter().for_each(|cvm| world.allow_app(cvm));
    // Kept before the outage.
    let first = world.caller().shows(&world.attested(&guests[0]).await);
    assert_eq!(first.json("GetAppKey", json!({})).await.status, 200);
    world.pccs.set_mode(PccsMode::Down);
    world.start().await.expect("starts");
    let (caller, temp_ca) = (world.caller(), world.temp_ca().await);
    let requests = guests.iter().map(|cvm| {
        // Its own key, quote and connection.
        let caller = caller.shows(&Identity::attested(&temp_ca, cvm));
        async move { caller.json("GetAppKey", json!({})).await }
    });
    let answers: Vec<_> = futures_util::stream::iter(requests).buffer_unordered(AT_ONCE).collect().await;
    let denied: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!(
        answers.len() == GUESTS as usize && denied.is_empty(),
        "{} denials: {:?}",
        denied.len(),
        denied.first()
    );
    let released = world.audited("app_key_released");
    let instances: HashSet<&str> =
        released.iter().filter_map(|record| record["instance_id"].as_str()).collect();
    assert_eq!(instances.len(), GUESTS as usize, "each guest once");
    assert!(world.audited("denied").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_disk_for_it_starts_and_releases() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    world.forget_collateral();
    fs::write(world.key_file("collateral"), "a file where the directory belongs").expect("file");
    world.start().await.expect("starts");
    let caller = world.caller().shows(&world.attested(&app).await);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
}
