//! A candidate allowlist is evaluated on live requests: it changes no response, and reports what it would
//! change.

use crate::support::World;
use crate::support::operator::Operator;
use cvm_kms::proto::ShadowReportResponse;
use serde_json::{Value, json};

/// The current content of the world's allowlist.
fn active(world: &World) -> Value {
    serde_json::from_slice(&std::fs::read(world.allowlist.path()).expect("allowlist")).expect("JSON")
}

async fn report(operator: &Operator) -> ShadowReportResponse {
    operator.call("ShadowReport", json!({})).await.message()
}

#[tokio::test]
async fn a_candidate_says_what_it_would_newly_allow_and_deny_and_changes_nothing() {
    let world = World::ready().await;
    let (kept, dropped, added) = (world.app(1), world.app(2), world.app(3));
    world.allow_app(&kept);
    world.allow_app(&dropped);
    let before = active(&world);
    world.allow_app(&added);
    let mut candidate = active(&world);
    candidate["apps"].as_object_mut().expect("apps").remove(&hex::encode(dropped.app_id()));
    world.allowlist.write(&before);

    let operator = Operator::of(&world).await;
    assert_eq!(report(&operator).await, ShadowReportResponse::default());
    let body = json!({ "auth_config_json": candidate.to_string(), "name": "spring cleaning" });
    let started = operator.called("StartShadow", body).await;
    assert_eq!((&started["replaced"], &started["allows_this_kms"]), (&json!(false), &json!(true)));
    assert!(started["rules"].as_str().expect("text").starts_with("2 apps"), "{started}");

    for _ in 0..2 {
        for (cvm, status) in [(&kept, 200), (&dropped, 200), (&added, 403)] {
            let caller = world.caller().shows(&world.attested(cvm).await);
            assert_eq!(caller.json("GetAppKey", json!({})).await.status, status, "the active policy decides");
        }
    }
    let seen = report(&operator).await;
    assert!(seen.running && seen.name == "spring cleaning" && seen.omitted == 0);
    assert_eq!((seen.decisions, seen.allowed_by_both, seen.denied_by_both), (6, 2, 0));
    assert_eq!((seen.newly_allowed, seen.newly_denied, seen.without_answer), (2, 2, 0));
    let mut changes: Vec<_> = seen
        .changes
        .iter()
        .map(|change| {
            let identity = change.identity.as_ref().expect("an identity");
            (change.effect.as_str(), change.code.as_str(), identity.app_id.clone(), change.count)
        })
        .collect();
    changes.sort();
    let expected = [
        ("newly_allowed", "app_not_registered", added.app_id().to_vec(), 2),
        ("newly_denied", "app_not_registered", dropped.app_id().to_vec(), 2),
    ];
    assert_eq!(changes, expected);

    let stopped: ShadowReportResponse = operator.call("StopShadow", json!({})).await.message();
    assert_eq!(stopped, ShadowReportResponse { running: false, ..seen });
    assert_eq!(report(&operator).await, ShadowReportResponse::default());
    assert_eq!(world.audited("shadow_started")[0]["name"], "spring cleaning");
    let end = &world.audited("shadow_stopped")[0];
    assert_eq!((&end["newly_allowed"], &end["newly_denied"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn a_candidate_that_would_stop_this_kms_itself_says_so() {
    let world = World::ready().await;
    let operator = Operator::of(&world).await;
    let mut candidate = active(&world);
    candidate["kms"]["mrAggregated"] = json!([]);
    let body = json!({ "auth_config_json": candidate.to_string() });
    assert_eq!(operator.called("StartShadow", body).await["allows_this_kms"], false);
    let seen = report(&operator).await;
    assert_eq!(seen.allows_this_kms, Some(false));
    assert_eq!(seen.denies_this_kms_because, "aggregated MR not allowed");
}

#[tokio::test]
async fn a_candidate_looks_on_beside_any_policy() {
    let world = World::ready_with(r#"core.auth_api = { type = "dev" }"#).await;
    let app = world.app(1);
    let operator = Operator::of(&world).await;
    operator.called("StartShadow", json!({ "auth_config_json": "{}" })).await;
    let caller = world.caller().shows(&world.attested(&app).await);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    let seen = report(&operator).await;
    assert_eq!((seen.decisions, seen.newly_denied), (1, 1));
    assert_eq!(seen.changes[0].code, "os_image_not_allowed", "an empty allowlist allows no image");
}

#[tokio::test]
async fn device_lists_mean_what_the_operator_says() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let mut candidate = active(&world);
    candidate["apps"][hex::encode(app.app_id())]["allowAnyDevice"] = json!(false);
    let operator = Operator::of(&world).await;
    let caller = world.caller().shows(&world.attested(&app).await);
    for (strict, newly_denied) in [(Value::Null, 1), (json!(false), 0), (json!(true), 1)] {
        let body = json!({ "auth_config_json": candidate.to_string(), "strict_devices": strict });
        operator.called("StartShadow", body).await;
        assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
        assert_eq!(report(&operator).await.newly_denied, newly_denied, "{strict}");
    }
}

#[tokio::test]
async fn what_is_no_allowlist_is_refused_and_the_old_candidate_goes_on() {
    let world = World::ready().await;
    let operator = Operator::of(&world).await;
    let started = operator.called("StartShadow", json!({ "auth_config_json": "{}", "name": "one" })).await;
    assert_eq!(started["replaced"], false);
    for (body, told) in [
        (json!({}), "the candidate is not a valid auth-config.json"),
        (json!({ "auth_config_json": "[]" }), "the candidate is not a valid auth-config.json"),
        (json!({ "auth_config_json": r#"{"apps": 7}"# }), "the candidate is not a valid auth-config.json"),
        (
            json!({ "auth_config_json": "{}", "name": "x".repeat(101) }),
            "name must be one line of at most 100 bytes",
        ),
        (json!({ "auth_config_json": "{}", "name": "a\nb" }), "name must be one line of at most 100 bytes"),
    ] {
        let (status, text) = operator.call("StartShadow", body.clone()).await.refusal();
        assert_eq!(status, 400, "{body}");
        assert!(text.starts_with(told), "{body}: {text}");
    }
    assert_eq!(report(&operator).await.name, "one");
    let again = operator.called("StartShadow", json!({ "auth_config_json": "{}", "name": "two" })).await;
    assert_eq!(again["replaced"], true);
    assert_eq!(report(&operator).await.name, "two");
}
