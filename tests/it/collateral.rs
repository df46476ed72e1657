//! Collateral that is kept: a node that starts again while no collateral service responds.

use std::fs;

use crate::support::{World, eventually};
use kms_simulator::PccsMode;
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
