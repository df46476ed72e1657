//! Domains that owners make at run time, and apps that they put into one or move.

use std::sync::Arc;

use super::{Derived, guest, in_domain, keys};
use crate::support::http::{request, with};
use crate::support::operator::{ask, done};
use crate::support::{Answer, Caller, World, certificate_request, eventually};
use kms_attest::p256::P256Key;
use kms_simulator::Cvm;
use serde_json::{Value, json};

pub(super) const DOMAINS: &str = "/api/v1/domains";

pub(super) async fn send_as(world: &World, token: &str, verb: &str, path: &str, body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let caller = Caller::new(world.admin_address().await).plain();
    let bearer = format!("Bearer {token}");
    eventually("a password that is checked", async || {
        let asked = with(request(verb, path, body.clone()), "authorization", &bearer);
        let answer = caller.send(with(asked, "content-type", "application/json")).await;
        (!answer.text().contains("passwords are being checked")).then_some(answer)
    })
    .await
}

pub(super) async fn refused(world: &World, path: &str, body: Value, status: u16, text: &str) {
    let answer = ask(world, "POST", path, body).await;
    assert_eq!(answer.status, status, "{path}: {}", answer.text());
    assert!(answer.text().contains(text), "{path}: {}", answer.text());
}

pub(super) fn id(app: &Cvm) -> String {
    hex::encode(app.app_id())
}

/// Makes a domain whose apps need no known image: images are not verified here.
pub(super) async fn create(world: &World, name: &str) {
    done(world, "POST", DOMAINS, json!({ "name": name, "rules": { "allow_dev_images": true } })).await;
}

pub(super) async fn assign(world: &World, domain: &str, app: &Cvm) -> Value {
    done(world, "POST", &format!("{DOMAINS}/{domain}/apps"), json!({ "app_id": id(app) })).await
}

pub(super) fn move_to(domain: &str, app: &Cvm) -> String {
    format!("{DOMAINS}/{domain}/apps/{}/move", id(app))
}

pub(super) async fn is_given(world: &World, domain: &str, app: &Cvm) -> bool {
    Derived::of(world, domain, app, None).is_given(world, app).await
}

#[tokio::test]
async fn a_domain_is_made_and_an_app_put_into_it_without_a_restart_and_after_one() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    let digest = async |world: &World| {
        world.caller().json("GetMeta", json!({})).await.value()["domains_sha256"].clone()
    };
    let before = digest(&world).await;
    create(&world, "team").await;
    let told = assign(&world, "team", &app).await;
    assert_eq!(
        (&told["changed"], &told["previous_domain"], &told["loses"]["cvms"]),
        (&json!(true), &json!("default"), &json!(0))
    );
    let told = assign(&world, "team", &app).await;
    assert_eq!((&told["changed"], &told["loses"]), (&json!(false), &Value::Null), "it is there already");
    assert!(is_given(&world, "team", &app).await);
    eventually("other domains in GetMeta", async || (digest(&world).await != before).then_some(())).await;
    let shown = done(&world, "GET", &format!("{DOMAINS}/team"), Value::Null).await;
    assert_eq!(
        (
            &shown["source"],
            &shown["created_by"],
            &shown["apps"],
            &shown["members"][0]["app_id"],
            &shown["members"][0]["by"]
        ),
        (&json!("run_time"), &json!("token"), &json!(1), &json!(id(&app)), &json!("token"))
    );
    let listed = done(&world, "GET", DOMAINS, Value::Null).await;
    world.start().await.expect("it starts again");
    assert_eq!(done(&world, "GET", DOMAINS, Value::Null).await, listed);
    assert_eq!(done(&world, "GET", &format!("{DOMAINS}/team"), Value::Null).await, shown);
    assert!(is_given(&world, "team", &app).await, "after a restart too");
    let made = &world.audited("domain_created")[0];
    assert_eq!(
        (&made["domain"], &made["rules"], &made["by"]),
        (&json!("team"), &json!({ "allow_dev_images": true }), &json!("token"))
    );
    let assigned = world.audited("app_assigned");
    assert_eq!(assigned.len(), 1, "what changes nothing is not recorded");
    assert_eq!((&assigned[0]["app_id"], &assigned[0]["domain"]), (&json!(id(&app)), &json!("team")));
    assert!(assigned[0]["request_id"].is_string());
}

#[tokio::test]
async fn an_archived_domain_gives_nothing_at_once_and_a_restored_one_the_same_keys() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    create(&world, "team").await;
    assign(&world, "team", &app).await;
    let before = keys(&world, &app).await;
    let connected = guest(&world, &app).await;
    for _ in 0..2 {
        let shown = done(&world, "POST", &format!("{DOMAINS}/team/archive"), Value::Null).await;
        assert_eq!(shown["archived_by"], "token");
    }
    let wish = certificate_request(&app, &P256Key::generate());
    for answer in [
        connected.json("GetAppKey", json!({})).await,
        world.caller().json("SignCert", wish).await,
        world.caller().json("GetAppEnvEncryptPubKey", json!({ "app_id": id(&app) })).await,
    ] {
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(answer.text().contains("the domain team is archived"), "{}", answer.text());
    }
    // It is readable, and takes no app.
    let other = format!("{DOMAINS}/team/apps");
    refused(&world, &other, json!({ "app_id": "22".repeat(20) }), 409, "is archived").await;
    done(&world, "GET", &format!("{DOMAINS}/team"), Value::Null).await;
    let shown = done(&world, "POST", &format!("{DOMAINS}/team/restore"), json!({})).await;
    assert_eq!(shown["archived_at"], Value::Null);
    let after = keys(&world, &app).await;
    assert_eq!((&after.disk_crypt_key, &after.k256_key), (&before.disk_crypt_key, &before.k256_key));
    assert_eq!((world.audited("domain_archived").len(), world.audited("domain_restored").len()), (1, 1));
}

#[tokio::test]
async fn a_move_says_which_keys_are_lost_and_moving_back_gives_the_first_ones_again() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    for name in ["team", "other"] {
        create(&world, name).await;
    }
    assert!(is_given(&world, "default", &app).await);
    let answer = ask(&world, "POST", &format!("{DOMAINS}/team/apps"), json!({ "app_id": id(&app) })).await;
    assert_eq!((answer.status, &answer.value()["code"]), (409, &json!("needs_move")), "{}", answer.text());
    assert!(is_given(&world, "default", &app).await, "nothing was changed");
    let preview = done(&world, "POST", &move_to("team", &app), json!({ "preview": true })).await;
    assert_eq!(preview["changed"], json!(false));
    assert!(is_given(&world, "default", &app).await, "nothing was moved");
    // Again, because the last release is newer by now.
    let preview = done(&world, "POST", &move_to("team", &app), json!({ "preview": true })).await;
    let told = done(&world, "POST", &move_to("team", &app), Value::Null).await;
    let lost = &told["loses"];
    assert_eq!(
        (&told["changed"], &lost["domain"], &lost["cvms"]),
        (&json!(true), &json!("default"), &json!(1))
    );
    assert_eq!(lost["keys"], json!(["disk key", "environment key", "app key", "app CA"]));
    let first = &world.audited("app_key_released")[0]["time"];
    assert_eq!(lost["first_at"].as_str().map(|at| &at[..19]), first.as_str().map(|at| &at[..19]));
    // Keys were released once more since, perhaps in a later second.
    for field in ["domain", "keys", "cvms", "maybe", "first_at", "covers_since"] {
        assert_eq!(lost[field], preview["loses"][field], "{field} as the preview said");
    }
    assert!(is_given(&world, "team", &app).await && !is_given(&world, "default", &app).await);
    done(&world, "POST", &move_to("other", &app), Value::Null).await;
    assert!(is_given(&world, "other", &app).await);
    done(&world, "POST", &move_to("team", &app), json!({})).await;
    assert!(is_given(&world, "team", &app).await, "the keys of before");
    world.start().await.expect("it starts again");
    done(&world, "POST", &move_to("default", &app), Value::Null).await;
    assert!(is_given(&world, "default", &app).await, "the first keys");
    let told = done(&world, "POST", &move_to("default", &app), Value::Null).await;
    assert_eq!((&told["changed"], &told["loses"]), (&json!(false), &Value::Null));
    let moves: Vec<_> = world
        .audited("app_moved")
        .iter()
        .map(|event| (event["previous_domain"].clone(), event["domain"].clone()))
        .collect();
    let places = ["default", "team", "other", "team", "default"].map(Value::from);
    let expected: Vec<_> = places.windows(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    assert_eq!(moves, expected);
}

/// A KMS with two owners, an app that it allows, and the token of the second owner.
async fn two_owners() -> (World, Arc<Cvm>, String) {
    let mut world = World::ready().await;
    world.configure("core.admin.approvals = 2");
    world.start().await.expect("it starts again");
    let app = world.app(1);
    world.allow_app(&app);
    let made = done(&world, "POST", "/api/v1/credentials", json!({ "name": "bob", "role": "owner" })).await;
    let bob = made["token"].as_str().expect("a token").to_owned();
    (world, app, bob)
}

/// The approval that this request of the first owner waits for.
async fn waits(world: &World, path: &str) -> String {
    let answer = ask(world, "POST", path, Value::Null).await;
    assert_eq!(
        (answer.status, &answer.value()["code"]),
        (202, &json!("approval_needed")),
        "{}",
        answer.text()
    );
    answer.value()["approval"]["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn with_two_owners_an_app_moves_when_the_second_one_has_seen_what_it_loses() {
    let (world, app, bob) = two_owners().await;
    create(&world, "team").await;
    assert!(is_given(&world, "default", &app).await);
    create(&world, "other").await;
    let [first, second] = ["team", "other"].map(|domain| move_to(domain, &app));
    let (first, second) = (waits(&world, &first).await, waits(&world, &second).await);
    assert!(is_given(&world, "default", &app).await, "nothing is moved yet");
    let shown = done(&world, "GET", &format!("/api/v1/approvals/{first}"), Value::Null).await;
    let (action, detail) = (&shown["action"], shown["detail"].as_str().expect("a text"));
    assert_eq!(action, "move_app");
    let expected = format!(
        "move the app {} from the domain default to team; it loses the disk key, environment key, app key and app CA of the domain \
         default, which 1 CVM has received since ",
        id(&app)
    );
    assert!(detail.starts_with(&expected), "{detail}");
    let approve = async |id: &str| {
        let path = format!("/api/v1/approvals/{id}/approve");
        let answer = send_as(&world, &bob, "POST", &path, json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        (answer.value()["state"].clone(), answer.value()["result"].clone())
    };
    let (state, result) = approve(&first).await;
    assert_eq!(state, "done", "{result}");
    assert!(
        result.as_str().is_some_and(|text| text.contains("is in the domain team now; it loses the disk key")),
        "{result}"
    );
    assert!(is_given(&world, "team", &app).await);
    // The other request was about an app in the default domain.
    let (state, result) = approve(&second).await;
    assert_eq!(state, "failed", "{result}");
    assert!(
        result.as_str().is_some_and(|text| text.contains("is in the domain team; nothing was changed")),
        "{result}"
    );
    assert!(is_given(&world, "team", &app).await);
    assert_eq!(world.audited("app_moved").len(), 1);
}

#[tokio::test]
async fn with_two_owners_an_archived_domain_is_restored_when_the_second_one_approves() {
    let (world, app, bob) = two_owners().await;
    create(&world, "team").await;
    assign(&world, "team", &app).await;
    let restore = format!("{DOMAINS}/team/restore");
    done(&world, "POST", &restore, Value::Null).await;
    done(&world, "POST", &format!("{DOMAINS}/team/archive"), Value::Null).await;
    let first = waits(&world, &restore).await;
    let is_archived = async || {
        let shown = done(&world, "GET", &format!("{DOMAINS}/team"), Value::Null).await;
        !shown["archived_at"].is_null() && world.audited("domain_restored").is_empty()
    };
    assert!(is_archived().await, "one owner is not enough");
    let shown = done(&world, "GET", &format!("/api/v1/approvals/{first}"), Value::Null).await;
    assert_eq!(shown["action"], "restore_domain");
    let detail = shown["detail"].as_str().expect("a text");
    assert!(detail.starts_with("let keys be released in the domain team again, archived since "), "{detail}");
    let approve = format!("/api/v1/approvals/{first}/approve");
    let own = ask(&world, "POST", &approve, json!({})).await;
    assert_ne!(own.status, 200, "not by the one who requested it: {}", own.text());
    assert!(is_archived().await);
    let approved = send_as(&world, &bob, "POST", &approve, json!({})).await;
    assert_eq!((approved.status, &approved.value()["state"]), (200, &json!("done")), "{}", approved.text());
    assert!(is_given(&world, "team", &app).await);
    let restored = &world.audited("domain_restored")[0];
    assert!(restored["by"].as_str().is_some_and(|by| by.contains("bob")), "{restored}");
}

#[tokio::test]
async fn what_the_configuration_says_is_not_changed_at_run_time_and_refusals_say_why() {
    let mut world = World::ready().await;
    let app = world.app(1);
    world.configure(&in_domain("prod", &app, ""));
    world.start().await.expect("it starts again");
    create(&world, "team").await;
    let by_file = "the configuration puts the app";
    let body = || json!({ "app_id": id(&app) });
    let named = |name: &str| json!({ "name": name });
    for (path, body, status, text) in [
        (move_to("team", &app), Value::Null, 409, by_file),
        (format!("{DOMAINS}/team/apps"), body(), 409, by_file),
        (format!("{DOMAINS}/none/apps"), body(), 400, "there is no domain none"),
        (format!("{DOMAINS}/team/apps"), json!({ "app_id": "11" }), 400, "40 hex digits"),
        (move_to("none", &app), Value::Null, 400, "there is no domain none"),
        (format!("{DOMAINS}/default/archive"), Value::Null, 409, "the domain default cannot be archived"),
        (format!("{DOMAINS}/none/archive"), Value::Null, 400, "there is no domain none"),
        (format!("{DOMAINS}/none/restore"), Value::Null, 400, "there is no domain none"),
        (format!("{DOMAINS}/Team/restore"), Value::Null, 400, "lower-case letters"),
        (format!("{DOMAINS}/team/archive"), json!({ "x": 1 }), 400, "unknown field"),
        (DOMAINS.to_owned(), named("prod"), 409, "there is a domain prod"),
        (DOMAINS.to_owned(), named("team"), 409, "there is a domain team"),
        (DOMAINS.to_owned(), named("default"), 409, "there is a domain default"),
        (DOMAINS.to_owned(), named(&"d".repeat(25)), 400, "at most 24 characters"),
        (DOMAINS.to_owned(), named("Team"), 400, "lower-case letters"),
        (
            DOMAINS.to_owned(),
            json!({ "name": "a", "rules": { "sealed": true, "allow_dev_images": true } }),
            400,
            "allow_dev_images must not be true",
        ),
        (
            DOMAINS.to_owned(),
            json!({ "name": "a", "rules": { "default_epoch": 7 } }),
            400,
            "there is no root epoch 7",
        ),
        (DOMAINS.to_owned(), json!({ "name": "a", "rules": { "auth_api": {} } }), 400, "unknown field"),
        (DOMAINS.to_owned(), json!({ "name": "a", "rules": { "devices": ["00"] } }), 400, ""),
        (
            DOMAINS.to_owned(),
            json!({ "name": "a", "rules": { "tcb_statuses": ["Fine"] } }),
            400,
            "a TCB status",
        ),
    ] {
        refused(&world, &path, body, status, text).await;
    }
    let listed = done(&world, "GET", DOMAINS, Value::Null).await;
    let names: Vec<_> =
        listed["domains"].as_array().expect("a list").iter().map(|domain| &domain["name"]).collect();
    assert_eq!(names, ["default", "prod", "team"]);
    assert_eq!(ask(&world, "GET", &format!("{DOMAINS}/none"), Value::Null).await.status, 400);
    assert_eq!(world.audited("domain_created").len(), 1);
    // The domain itself can be archived, though the configuration has it.
    done(&world, "POST", &format!("{DOMAINS}/prod/archive"), Value::Null).await;
    world.start().await.expect("it starts again");
    let shown = done(&world, "GET", &format!("{DOMAINS}/prod"), Value::Null).await;
    assert_eq!((&shown["source"], &shown["archived_by"]), (&json!("configuration"), &json!("token")));
}

#[tokio::test]
async fn of_many_changes_at_once_each_app_ends_in_one_domain_and_all_are_on_the_disk() {
    let mut world = World::ready().await;
    let names = ["a", "b", "c", "d"];
    for name in names {
        create(&world, name).await;
    }
    let app = world.app(1);
    let one = async |name: &str| {
        let body = json!({ "app_id": id(&app) });
        ask(&world, "POST", &format!("{DOMAINS}/{name}/apps"), body).await.status
    };
    let (a, b, c, d) = tokio::join!(one("a"), one("b"), one("c"), one("d"));
    let mut found = [a, b, c, d];
    found.sort_unstable();
    assert_eq!(found, [200, 409, 409, 409], "one of them has it");
    let listed = done(&world, "GET", DOMAINS, Value::Null).await;
    assert_eq!(world.audited("app_assigned").len(), 1);
    world.start().await.expect("it starts again");
    assert_eq!(done(&world, "GET", DOMAINS, Value::Null).await, listed);
}

#[tokio::test]
async fn keys_of_a_domain_are_not_forgotten_because_the_app_got_those_of_another_one_since() {
    let world = World::ready().await;
    let app = world.app(1);
    world.allow_app(&app);
    for name in ["team", "other"] {
        create(&world, name).await;
    }
    assert!(is_given(&world, "default", &app).await);
    done(&world, "POST", &move_to("team", &app), Value::Null).await;
    assert!(is_given(&world, "team", &app).await);
    let back = done(&world, "POST", &move_to("default", &app), Value::Null).await;
    assert_eq!((&back["loses"]["cvms"], &back["loses"]["maybe"]), (&json!(1), &json!(0)));
    // Its disk has keys of the default domain, and the last ones that it got are of another.
    let preview = done(&world, "POST", &move_to("other", &app), json!({ "preview": true })).await;
    assert_eq!((&preview["loses"]["cvms"], &preview["loses"]["maybe"]), (&json!(0), &json!(1)));
    let told = preview["message"].as_str().expect("a text");
    assert!(told.contains("default, which 1 CVM may have received before"), "{told}");
    let path = format!("{DOMAINS}/other/apps");
    let answer = ask(&world, "POST", &path, json!({ "app_id": id(&app) })).await;
    assert_eq!((answer.status, &answer.value()["code"]), (409, &json!("needs_move")), "{}", answer.text());
}
