//! New bundles of the source that judge live requests before they decide by themselves.

use super::*;

/// The allowlist with app 1, as serial 2 in force, where a new bundle is tried for this long.
async fn with_app(shadow: &str) -> (Signed, Identity, Vec<u8>) {
    let signed = Signed::ready(&format!("shadow = '{shadow}'")).await;
    let app = signed.world.attested(&signed.world.app(1)).await;
    let first = fs::read(&signed.source).expect("source");
    signed.world.allow_app(&signed.world.app(1));
    // Two signers, brought by an operator, so that nothing is tried.
    let second = signed.bundle(2, Some(&first));
    assert_eq!(signed.push(second.clone()).await.status, 200);
    let by = json!({ "digest": digest(&second).to_string() });
    assert_eq!(signed.posted("activate", by).await.status, 200);
    fs::write(&signed.source, &second).expect("source");
    assert_eq!(signed.keys_of(&app).await, 200);
    (signed, app, second)
}

async fn rehearsal(signed: &Signed, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let state = signed.state().await;
        is_it(&state["rehearsal"]).then(|| state["rehearsal"].clone())
    })
    .await
}

#[tokio::test]
async fn a_bundle_that_denies_nobody_decides_by_itself_after_its_time() {
    let (signed, app, second) = with_app("3s").await;
    let other = signed.world.attested(&signed.world.app(2)).await;
    signed.world.allow_app(&signed.world.app(2));
    let third = signed.bundle(3, Some(&second));
    fs::write(&signed.source, &third).expect("source");
    let begun = rehearsal(&signed, "the rehearsal", |it| !it.is_null()).await;
    assert_eq!((&begun["digest"], &begun["of_seconds"]), (&json!(digest(&third).to_string()), &json!(3)));
    // Live requests are judged by both, and decided by the one in force.
    assert_eq!(signed.keys_of(&app).await, 200);
    signed.in_force(3).await;
    assert_eq!(signed.keys_of(&other).await, 200);
    let state = signed.state().await;
    assert_eq!((&state["rehearsal"], &state["pending"]), (&Value::Null, &Value::Null));
    assert_eq!(signed.world.audited("policy_bundle_activated").last().expect("a record")["by"], Value::Null);
    assert!(signed.world.audited("policy_bundle_held").is_empty());
}

#[tokio::test]
async fn a_bundle_that_would_deny_waits_for_an_owner_also_over_a_restart() {
    let (mut signed, app, second) = with_app("1h").await;
    let policy: Value =
        serde_json::from_slice(&fs::read(signed.world.allowlist.path()).expect("allowlist")).expect("JSON");
    let mut without = policy.clone();
    without["apps"] = json!({});
    let times = (unix_now() - 60, unix_now() + 86400);
    let header = Header::new("prod", "default", 3, times, Some(digest(&second))).expect("a header");
    let third = sign(&header, without.to_string().as_bytes(), &signed.ann).expect("a bundle");
    let third =
        add_signature(&UnverifiedBundle::parse(&third).expect("a bundle"), &signed.bob).expect("signed");
    fs::write(&signed.source, &third).expect("source");
    rehearsal(&signed, "the rehearsal", |it| !it.is_null()).await;
    let fetched = async |signed: &Signed| signed.posted("fetch", json!({})).await.value()["message"].clone();
    let judges =
        "it is verified; it judges live requests for a while, and decides by itself unless it is held";
    assert_eq!(fetched(&signed).await, judges);
    assert_eq!(signed.keys_of(&app).await, 200, "the one in force decides");
    let held = rehearsal(&signed, "the hold", |it| it["held"] == true).await;
    assert_eq!((&held["would_deny"], &held["denies_this_kms"]), (&json!(1), &json!(false)));
    let waits = "it is verified and held, because of what it would deny: it waits for an owner";
    assert_eq!(fetched(&signed).await, waits);
    let record = &signed.world.audited("policy_bundle_held")[0];
    assert_eq!((&record["serial"], &record["newly_denied"]), (&json!(3), &json!(1)));
    let warns = async |signed: &Signed| {
        let ready = signed.world.caller().get("/readyz").await;
        ready.status == 200 && ready.text().contains("policy_held")
    };
    eventually("the warning", async || warns(&signed).await.then_some(())).await;

    // A restart forgets nothing of it.
    signed.world.start().await.expect("the KMS starts");
    eventually("the warning", async || warns(&signed).await.then_some(())).await;
    let held = rehearsal(&signed, "the hold", |it| it["held"] == true).await;
    assert_eq!(held["would_deny"], 1);
    assert_eq!(signed.keys_of(&app).await, 200);
    assert_eq!(signed.world.audited("policy_bundle_held").len(), 1, "it is said once");
    // An owner decides.
    let by = json!({ "digest": digest(&third).to_string() });
    assert_eq!(signed.posted("activate", by).await.status, 200);
    assert_eq!(signed.keys_of(&app).await, 403);
    eventually("the end", async || (!warns(&signed).await).then_some(())).await;
    assert_eq!(signed.state().await["rehearsal"], Value::Null);
}

#[tokio::test]
async fn a_bundle_that_denies_this_kms_itself_waits_and_a_later_one_takes_its_place() {
    let (signed, app, second) = with_app("1s").await;
    let times = (unix_now() - 60, unix_now() + 86400);
    let header = Header::new("prod", "default", 3, times, Some(digest(&second))).expect("a header");
    let third = sign(&header, b"{\"osImages\": [], \"apps\": {}}", &signed.ann).expect("a bundle");
    let third =
        add_signature(&UnverifiedBundle::parse(&third).expect("a bundle"), &signed.bob).expect("signed");
    fs::write(&signed.source, &third).expect("source");
    let held = rehearsal(&signed, "the hold", |it| it["held"] == true).await;
    assert_eq!(held["denies_this_kms"], true);
    assert_eq!(signed.state().await["in_force"]["serial"], 2);
    let fourth = signed.bundle(4, Some(&third));
    fs::write(&signed.source, &fourth).expect("source");
    signed.in_force(4).await;
    assert_eq!(signed.keys_of(&app).await, 200);
}
