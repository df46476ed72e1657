//! `kmsctl domain` and `kmsctl denials --domain`: parts of a KMS whose apps have keys of their own.

use crate::support::kmsctl::Desk;
use crate::support::{World, eventually};
use kms_simulator::Cvm;
use serde_json::{Value, json};

const TOKEN: &str = "operators-token";
/// An app that the configuration puts into the domain `fixed`.
const FIXED: &str = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";

async fn world(more: &str) -> World {
    let fixed = format!("[domains.fixed]\nsealed = true\napps = ['{FIXED}']");
    World::ready_with(&format!("core.admin.auth_token = \"{TOKEN}\"\n{more}\n{fixed}")).await
}

fn id(app: &Cvm) -> String {
    hex::encode(app.app_id())
}

async fn asks_for_keys(world: &World, app: &Cvm) -> u16 {
    world.caller().shows(&world.attested(app).await).json("GetAppKey", json!({})).await.status
}

/// Runs a command, and expects its exit code and its texts.
async fn tells(desk: &Desk, code: i32, arguments: &[&str], texts: &[&str]) {
    let ran = desk.run(arguments).await;
    assert_eq!(ran.code, code, "{arguments:?}: {}", ran.text());
    for text in texts {
        assert!(ran.text().contains(text), "{arguments:?} {text}: {}", ran.text());
    }
}

/// Makes the domain `team`, whose apps need no known image: images are not verified here.
async fn create(desk: &Desk) -> Value {
    desk.json(0, &["domain", "create", "team", "--allow-dev-images"]).await
}

#[tokio::test]
async fn a_domain_is_made_shown_archived_and_restored() {
    let world = world("").await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    let made =
        desk.json(0, &["domain", "create", "team", "--instance-scoped", "--tcb-status", "UpToDate"]).await;
    assert_eq!(
        (&made["name"], &made["source"], &made["created_by"], &made["members"], &made["refuses_dev_images"]),
        (&json!("team"), &json!("run_time"), &json!("token"), &json!([]), &json!(true))
    );
    assert_eq!(made["rules"], json!({ "instance_scoped": true, "tcb_statuses": ["UpToDate"] }));
    assert_eq!((&made["own_policy"], &made["policy_kind"]), (&json!(false), &json!("allowlist")));

    let listed = desk.json(0, &["domain", "list"]).await;
    let names: Vec<&Value> =
        listed["domains"].as_array().expect("a list").iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["default", "fixed", "team"]);
    let texts = [
        "domain default",
        "domain fixed",
        "sealed",
        "domain team",
        "instance_scoped",
        "that of the KMS, allowlist",
    ];
    tells(&desk, 0, &["domain", "list"], &texts).await;
    let texts = ["domain fixed", "the configuration", &format!("app {FIXED}  by the configuration")];
    tells(&desk, 0, &["domain", "show", "fixed"], &texts).await;
    let digest = desk.json(0, &["domain", "show", "default"]).await["policy_sha256"].clone();
    let digest = digest.as_str().expect("the digest of the allowlist");
    tells(&desk, 0, &["domain", "show", "default"], &["policy digest", digest]).await;

    let texts = ["domain team", "archived", "by token", "It counts at this KMS only"];
    tells(&desk, 0, &["domain", "archive", "team"], &texts).await;
    assert_eq!(desk.json(0, &["domain", "show", "team"]).await["archived_by"], "token");
    tells(&desk, 3, &["domain", "assign", &"22".repeat(20), "team"], &["the domain team is archived"]).await;
    assert_eq!(desk.json(0, &["domain", "restore", "team"]).await["archived_at"], Value::Null);
    for (event, count) in [("domain_created", 1), ("domain_archived", 1), ("domain_restored", 1)] {
        assert_eq!(world.audited(event).len(), count, "{event}");
    }
}

#[tokio::test]
async fn what_is_no_domain_or_no_app_and_what_is_configured_changes_nothing() {
    let world = world("").await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    create(&desk).await;
    let app = "22".repeat(20);
    for (code, arguments, text) in [
        (2, &["domain", "show", "Team"][..], "lower-case letters"),
        (2, &["domain", "archive", "../freezes"], "lower-case letters"),
        (2, &["domain", "assign", "1234", "team"], "must be 20 bytes, got 2"),
        (2, &["domain", "assign", "no-id", "team"], "error"),
        (2, &["domain", "move", &app, "-team", "--yes"], "error"),
        (3, &["domain", "show", "nobody"], "there is no domain nobody"),
        (3, &["domain", "create", "no/domain"], "domain"),
        (3, &["domain", "create", "a-name-that-is-much-too-long"], "24"),
        (
            3,
            &["domain", "create", "x", "--sealed", "--allow-dev-images"],
            "allow_dev_images must not be true",
        ),
        (3, &["domain", "create", "x", "--default-epoch", "7"], "nothing was changed"),
        (3, &["domain", "create", "x", "--tcb-status", "Fine"], "a TCB status must be one of"),
        (3, &["domain", "create", "team"], "there is a domain team"),
        (3, &["domain", "create", "fixed"], "there is a domain fixed"),
        (3, &["domain", "archive", "default"], "the domain default cannot be archived"),
        (3, &["domain", "move", FIXED, "team", "--yes"], "(domains.fixed.apps)"),
        (3, &["domain", "assign", FIXED, "team"], "(domains.fixed.apps)"),
    ] {
        tells(&desk, code, arguments, &[text]).await;
    }
    for event in ["domain_archived", "app_assigned", "app_moved"] {
        assert!(world.audited(event).is_empty(), "{event}");
    }
    assert_eq!(world.audited("domain_created").len(), 1);
}

#[tokio::test]
async fn an_app_with_keys_is_moved_by_two_owners_after_its_loss_was_told() {
    let world = world("core.admin.approvals = 2").await;
    let first = Desk::of_operator(&world, TOKEN).await;
    let bob = first.json(0, &["credential", "create", "bob", "--role", "owner"]).await;
    let bob = Desk::of_operator(&world, bob["token"].as_str().expect("a token")).await;
    create(&first).await;
    let [with_keys, without] = [1, 2].map(|number| world.app(number));
    for app in [&with_keys, &without] {
        world.allow_app(app);
    }
    assert_eq!(asks_for_keys(&world, &with_keys).await, 200);

    let (app, other) = (id(&with_keys), id(&without));
    let texts = [&other[..], "domain", "team", "before", "default", "no CVM has received any"];
    tells(&first, 0, &["domain", "assign", &other, "team"], &texts).await;
    let again = first.json(0, &["domain", "assign", &other, "team"]).await;
    assert_eq!((&again["changed"], &again["loses"]), (&json!(false), &Value::Null));
    assert_eq!(asks_for_keys(&world, &without).await, 200);

    let refused = first.run(&["domain", "assign", &app, "team"]).await;
    assert_eq!(refused.code, 3, "{}", refused.text());
    for text in ["it loses the disk key, environment key, app key and app CA", "kmsctl domain move"] {
        assert!(refused.text().contains(text), "{}", refused.text());
    }
    // Without a terminal nobody has confirmed the loss that is told.
    let told = ["1 CVM has received", "there is no terminal to confirm it: use --yes"];
    tells(&first, 2, &["domain", "move", &app, "team"], &told).await;
    assert_eq!(first.json(0, &["approvals", "list"]).await["approvals"], json!([]));
    let waits = first.json(3, &["domain", "move", &app, "team", "--yes"]).await;
    let waiting = waits["approval"]["id"].as_str().expect("an id");
    let shown = bob.run(&["approvals", "show", waiting]).await;
    for text in [&app[..], "team", "disk key"] {
        assert!(shown.out.contains(text), "{text}: {}", shown.text());
    }
    assert_eq!(first.json(0, &["domain", "show", "team"]).await["apps"], 1, "it waits");
    tells(&first, 3, &["approvals", "approve", waiting, "--yes"], &["another owner"]).await;
    tells(&bob, 0, &["approvals", "approve", waiting, "--yes"], &["is in the domain team now"]).await;
    let shown = first.json(0, &["domain", "show", "team"]).await;
    let members: Vec<&Value> =
        shown["members"].as_array().expect("a list").iter().map(|it| &it["app_id"]).collect();
    assert_eq!(members, [&json!(app), &json!(other)]);
    let moved = world.audited("app_moved");
    assert_eq!((moved.len(), &moved[0]["previous_domain"]), (1, &json!("default")));
}

#[tokio::test]
async fn an_owner_of_a_domain_sees_it_and_its_denials_and_changes_neither() {
    let world = world("").await;
    let owner = Desk::of_operator(&world, TOKEN).await;
    create(&owner).await;
    let [inside, outside] = [1, 2].map(|number| world.app(number));
    owner.json(0, &["domain", "assign", &id(&inside), "team"]).await;
    for app in [&inside, &outside] {
        assert_eq!(asks_for_keys(&world, app).await, 403);
    }
    let create = ["credential", "create", "ada", "--role", "owner", "--domain", "team"];
    let ada = owner.json(0, &create).await;
    let ada = Desk::of_operator(&world, ada["token"].as_str().expect("a token")).await;

    let listed = ada.json(0, &["domain", "list"]).await;
    assert_eq!(
        (listed["domains"].as_array().map(Vec::len), &listed["domains"][0]["name"]),
        (Some(1), &json!("team"))
    );
    assert_eq!(ada.json(0, &["domain", "show", "team"]).await["members"][0]["app_id"], id(&inside).as_str());
    tells(&ada, 3, &["domain", "show", "fixed"], &["there is no domain fixed"]).await;
    let (app, limited) = (id(&inside), "your credential is limited to the domain team");
    for arguments in [
        &["domain", "create", "mine"][..],
        &["domain", "archive", "team"],
        &["domain", "restore", "team"],
        &["domain", "assign", &app, "team"],
        &["domain", "move", &app, "default", "--yes"],
    ] {
        tells(&ada, 3, arguments, &[limited]).await;
    }

    let apps = async |desk: &Desk, arguments: &[&str]| {
        let found = desk.json(0, &[&["denials"], arguments].concat()).await;
        let found = found.as_array().expect("a list").clone();
        found.iter().map(|denial| denial["identity"]["app_id"].clone()).collect::<Vec<_>>()
    };
    eventually("both denials", async || (apps(&owner, &[]).await.len() == 2).then_some(())).await;
    for (domain, app) in [("team", &inside), ("default", &outside)] {
        assert_eq!(apps(&owner, &["--domain", domain]).await, [json!(id(app))], "{domain}");
    }
    assert!(apps(&owner, &["--domain", "fixed"]).await.is_empty());
    assert_eq!(apps(&ada, &[]).await, [json!(id(&inside))]);
    tells(&owner, 0, &["denials", "--domain", "fixed"], &["No request was refused here recently."]).await;
    tells(&owner, 2, &["denials", "--domain", "No Domain"], &["--domain"]).await;
    assert!(apps(&ada, &["--domain", "default"]).await.is_empty());
}
