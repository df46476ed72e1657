//! Bundles of nodes that share their state: what one has seen, the others do not go behind.

use super::*;
use crate::support::postgres::Postgres;

async fn push(world: &World, bundle: Vec<u8>) -> Answer {
    let call = post("/api/v1/policy/bundles", bundle);
    send(world, with(call, "content-type", "application/octet-stream")).await
}

async fn in_force(world: &World, serial: u64) {
    eventually("the bundle in force", async || {
        let state = send(world, request("GET", "/api/v1/policy/bundles", "")).await.value();
        (state["domains"][0]["in_force"]["serial"] == serial).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_was_away_takes_no_bundle_that_is_older_than_what_others_have_seen() {
    let mut postgres = Postgres::start().await;
    let node = |name: &str| {
        let url = postgres.url();
        format!("[core]\nstate = \"postgres\"\n[core.postgres]\nurl = \"{url}\"\nnode_name = \"{name}\"")
    };
    let one = Signed::ready(&node("one")).await;
    let first = fs::read(&one.source).expect("source");
    let keys = format!(
        "[core.auth_api.bundle]\nkeys = ['{}', '{}']\nthreshold = 2\n{}",
        one.ann.verifying_key(),
        one.bob.verifying_key(),
        node("two")
    );
    // It has no source of its own.
    let mut two = one.world.sibling_with(&keys).await;
    in_force(&two, 1).await;
    two.stop().await;

    // While it is away, the next one comes into force elsewhere, and the one after that is known.
    let second = one.bundle(2, Some(&first));
    fs::write(&one.source, &second).expect("source");
    one.in_force(2).await;
    let third = one.bundle(3, Some(&second));
    let fourth = one.bundle(4, Some(&third));
    assert_eq!(one.push(fourth.clone()).await.status, 200);
    eventually("the serial that was seen", async || {
        let rows = postgres.client().await;
        let select = "SELECT convert_from(body, 'UTF8') FROM kms_state WHERE scope = 'policy-serials'";
        let rows = rows.query(select, &[]).await.expect("rows");
        rows.first()?.get::<_, String>(0).contains("\"default\":4").then_some(())
    })
    .await;

    two.start().await.expect("it starts");
    // What is in force in the fleet counts, although a later one was seen.
    in_force(&two, 2).await;
    let older = push(&two, third).await;
    assert_eq!(code(&older), (409, "bundle_serial_too_low".to_owned()), "{}", older.text());
    assert!(older.text().contains("4 was seen before"), "{}", older.text());
    // It remembers that without the others.
    two.stop().await;
    let record = fs::read_to_string(two.key_file("policy-bundles/default.json")).expect("the record");
    assert!(record.contains("\"seen_by_fleet\": 4"), "{record}");
    two.start().await.expect("it starts");
    in_force(&two, 2).await;
    let taken = push(&two, fourth.clone()).await;
    assert_eq!(taken.status, 200, "the one that was seen is taken");
    // What is put in force says whether the others know it.
    let activate = async |pushed: Answer| {
        let body = json!({ "digest": pushed.value()["digest"] }).to_string();
        let call = with(post("/api/v1/policy/bundles/activate", body), "content-type", "application/json");
        send(&two, call).await.value()
    };
    let told = activate(taken).await;
    assert_eq!(told["state"], "in_force", "{told}");
    // A busy machine may need longer than the answer waits.
    let is_late = told["message"].as_str().is_some_and(|told| told.contains("do not know it yet"));
    assert!(told["shared"] == !is_late, "{told}");
    one.in_force(4).await;
    postgres.stop();
    let told = activate(push(&two, one.bundle(5, Some(&fourth))).await).await;
    let message = told["message"].as_str().expect("a text");
    assert!(told["shared"] == false && message.contains("the other nodes do not know it yet"), "{told}");
    in_force(&two, 5).await;
    postgres.resume().await;
    one.in_force(5).await;
}
