//! The epochs that operators choose for apps.

use std::fs;

use crate::support::http::request;
use crate::support::operator::{Operator, done};
use crate::support::{World, eventually};
use serde_json::{Value, json};

const APPS: &str = "/api/v1/epochs/apps";

#[tokio::test]
async fn a_choice_for_an_app_is_shown_recorded_and_kept_over_a_restart() {
    let mut world = World::ready().await;
    let app = format!("{APPS}/{}", "ab".repeat(20));
    let told = done(&world, "GET", &app, Value::Null).await;
    assert_eq!(
        (&told["chosen"], &told["follows"], &told["root_epoch"]),
        (&json!(false), &json!(false), &Value::Null)
    );
    let told = done(&world, "PUT", &app, json!({ "root_epoch": "current", "app_epoch": 4 })).await;
    assert_eq!(
        (&told["chosen"], &told["follows"], &told["app_epoch"]),
        (&json!(true), &json!(true), &json!(4))
    );
    assert_eq!((&told["root_epoch"], &told["by"]), (&Value::Null, &json!("token")));
    // What a body leaves out stays.
    let told = done(&world, "PUT", &app, json!({ "root_epoch": 0 })).await;
    assert_eq!(
        (&told["follows"], &told["root_epoch"], &told["app_epoch"]),
        (&json!(false), &json!(0), &json!(4))
    );
    world.start().await.expect("it starts again");
    let listed = done(&world, "GET", APPS, Value::Null).await;
    assert_eq!(listed["apps"], json!([told]));
    let told = done(&world, "DELETE", &app, Value::Null).await;
    assert_eq!(told["chosen"], json!(false));
    let recorded = world.audited("app_epoch_set");
    let moves: Vec<_> =
        recorded.iter().map(|event| (&event["previous_root_epoch"], &event["root_epoch"])).collect();
    let (null, current, first) = (Value::Null, json!("current"), json!("0"));
    assert_eq!(moves, [(&null, &current), (&current, &first), (&first, &null)]);
    assert!(recorded.iter().all(|event| event["request_id"].is_string()));
}

#[tokio::test]
async fn what_is_not_a_choice_is_refused_and_changes_nothing() {
    let world = World::ready().await;
    let app = format!("{APPS}/{}", "ab".repeat(20));
    for (verb, path, body, text) in [
        ("PUT", &*app, "{}", "names neither root_epoch nor app_epoch"),
        ("PUT", &app, r#"{"root_epoch":1}"#, "there is no root epoch 1"),
        ("PUT", &app, r#"{"root_epoch":"newest"}"#, "must be \"current\" or the number of an epoch"),
        ("PUT", &app, r#"{"root_epoch":-1}"#, "must be \"current\" or the number of an epoch"),
        ("PUT", &app, r#"{"app_epoch":4294967296}"#, "expected u32"),
        ("PUT", &app, r#"{"epoch":0}"#, "unknown field"),
        ("PUT", &app, r#"["current"]"#, "must be a JSON object"),
        ("PUT", "/api/v1/epochs/apps/abcd", r#"{"app_epoch":1}"#, "40 hex digits"),
        ("DELETE", "/api/v1/epochs/apps/abcd", "", "40 hex digits"),
        ("DELETE", &app, "{}", "takes no body"),
        ("GET", "/api/v1/epochs/apps/abcd", "", "40 hex digits"),
    ] {
        let answer = Operator::of(&world).await.send(request(verb, path, body)).await;
        let message = answer.value()["message"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == 400 && message.contains(text), "{verb} {body}: {}", answer.text());
    }
    assert!(world.audited("app_epoch_set").is_empty());
    assert_eq!(done(&world, "GET", APPS, Value::Null).await["apps"], json!([]));
}

#[tokio::test]
async fn a_kms_whose_epochs_of_apps_are_unknown_serves_nothing() {
    let mut world = World::ready().await;
    world.stop().await;
    fs::write(world.key_file("app-epochs.json"), "{}").expect("the file");
    let error = world.start().await.expect_err("an app could get other keys").to_string();
    assert!(error.contains("app-epochs.json of the key directory is damaged"), "{error}");
}

#[tokio::test]
async fn the_loss_of_the_choices_is_noticed_by_what_the_log_says() {
    let mut world = World::ready().await;
    let (lost, forgotten) = ("ab".repeat(20), "cd".repeat(20));
    for app in [&lost, &forgotten] {
        done(&world, "PUT", &format!("{APPS}/{app}"), json!({ "root_epoch": 0, "app_epoch": 4 })).await;
    }
    done(&world, "DELETE", &format!("{APPS}/{forgotten}"), Value::Null).await;
    let attention = async |world: &World| {
        let told = done(world, "GET", "/api/v1/overview", Value::Null).await;
        let list = told["attention"].as_array().expect("a list").clone();
        list.into_iter().find(|entry| entry["code"] == "app_epochs_lost")
    };
    // What was taken back is not lost. The index may be behind the log for a moment.
    eventually("nothing is lost", async || attention(&world).await.is_none().then_some(())).await;
    world.stop().await;
    fs::remove_file(world.key_file("app-epochs.json")).expect("the file");
    world.start().await.expect("it starts without choices");
    let found = eventually("the loss", async || attention(&world).await).await;
    assert_eq!(found["count"], 1, "{found}");
    assert!(found["detail"].as_str().expect("text").contains(&lost), "{found}");
    done(&world, "PUT", &format!("{APPS}/{lost}"), json!({ "root_epoch": 0, "app_epoch": 4 })).await;
    eventually("it is chosen again", async || attention(&world).await.is_none().then_some(())).await;
}
