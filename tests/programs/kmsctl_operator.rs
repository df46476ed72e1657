//! `kmsctl` for operators: why a request was refused, freezes, and what another allowlist would change.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::kmsctl::Desk;
use crate::support::{Caller, Identity, World, eventually, http};
use kms_attest::binding::ReportData;
use kms_simulator::{CollateralSpec, PccsMode};
use serde_json::json;

const TOKEN: &str = "operators-token";

async fn world() -> World {
    World::ready_with(&format!("core.admin.auth_token = \"{TOKEN}\"")).await
}

#[tokio::test]
async fn an_operator_finds_out_why_and_pastes_what_helps() {
    let world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    let app = world.app(1);
    let identity = world.attested(&app).await;
    let caller = world.caller().shows(&identity);
    let answer = caller.json("GetAppKey", json!({})).await;
    assert_eq!(answer.status, 403);
    let id = answer.header("x-denial-id").to_owned();

    let listed = desk.run(&["denials"]).await;
    assert_eq!(listed.code, 0, "{}", listed.text());
    for text in [&id, "app_not_registered", "GetAppKey from 127.0.0.1", "Boot denied: app not registered"] {
        assert!(listed.out.contains(text), "{text}: {}", listed.out);
    }
    let explained = desk.run(&["explain", "--denial", &id]).await;
    assert_eq!(explained.code, 3, "{}", explained.text());
    let out = &explained.out;
    assert!(out.starts_with("DENIED: "), "{out}");
    for text in ["FAIL  policy: app ", "ok    quote", "-     policy: compose_hash", "register the app 0101"] {
        assert!(out.contains(text), "{text}: {out}");
    }

    // The output has the fragment to merge, and says which command does it.
    let (from, to) = (out.find("\n{\n").expect("a fragment"), out.find("\n}\n").expect("its end") + 2);
    let fragment: serde_json::Value = serde_json::from_str(&out[from..to]).expect("JSON");
    assert!(out[to..].contains("kmsctl policy merge --into auth-config.json FILE"), "{out}");
    let path = world.allowlist.path();
    let rules = serde_json::from_slice(&std::fs::read(path).expect("file")).expect("JSON");
    let whole = kms_policy::remedy::merged([&rules, &fragment]);
    desk.write("fragment.json", fragment.to_string());
    desk.write("explained.json", desk.json(3, &["explain", "--denial", &id]).await.to_string());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).expect("a mode");
    let file = path.display().to_string();
    for (name, is_new) in [("fragment.json", true), ("explained.json", false)] {
        let report = desk.json(0, &["policy", "merge", "--into", &file, name]).await;
        assert_eq!(!report["added"].as_array().expect("a list").is_empty(), is_new, "{report}");
        let written: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).expect("file")).expect("JSON");
        assert_eq!(written, whole, "what the KMS itself would make of both");
    }
    assert_eq!(std::fs::metadata(path).expect("a file").permissions().mode() & 0o777, 0o640);
    desk.write("twice.json", r#"{"osImages": [], "osImages": ["aa"]}"#);
    for (into, fragment, said) in [
        (&*file, "twice.json", "osImages occurs twice"),
        ("absent.json", "fragment.json", "absent.json: No such file"),
    ] {
        let ran = desk.run(&["policy", "merge", "--into", into, fragment]).await;
        assert!(ran.code == 2 && ran.text().contains(said), "{}", ran.text());
    }
    // The KMS reads the file when it has seen that it is another one.
    eventually("the keys", async || (caller.json("GetAppKey", json!({})).await.status == 200).then_some(()))
        .await;

    // The same identity as a certificate and as evidence, binary and in hexadecimal.
    let (pem, _) = identity.pem();
    let evidence = app.evidence(ReportData::ZERO).encode();
    desk.write("app.pem", pem);
    desk.write("evidence.bin", &evidence);
    desk.write("evidence.hex", hex::encode(&evidence));
    for arguments in [
        ["explain", "--certificate", "app.pem"],
        ["explain", "--evidence", "evidence.bin"],
        ["explain", "--evidence", "evidence.hex"],
    ] {
        let ran = desk.run(&arguments).await;
        assert_eq!((ran.code, ran.out.starts_with("ALLOWED")), (0, true), "{arguments:?}: {}", ran.text());
        assert_eq!(desk.json(0, &arguments).await["verdict"], "allowed");
    }
    let as_kms = desk.json(3, &["explain", "--certificate", "app.pem", "--as", "kms"]).await;
    assert_eq!(as_kms["code"], "kms_measurement_not_allowed");
}

#[tokio::test]
async fn an_owner_gives_others_credentials_of_their_own() {
    let world = world().await;
    let owner = Desk::of_operator(&world, TOKEN).await;
    assert!(owner.run(&["credential", "list"]).await.out.starts_with("There are no named credentials."));
    let created = owner.json(0, &["credential", "create", "ci", "--role", "viewer", "--expires", "8h"]).await;
    let token = created["token"].as_str().expect("a token");
    let viewer = Desk::of_operator(&world, token).await;
    assert_eq!(viewer.run(&["frozen"]).await.code, 0);
    let refused = viewer.run(&["freeze", "kms", "--reason", "r", "--yes"]).await;
    assert_eq!(refused.code, 3, "{}", refused.text());
    assert!(
        refused.text().contains("this needs a credential with the role operator; yours has the role viewer")
    );

    let rotated = owner.run(&["credential", "rotate", "ci"]).await;
    assert!(
        rotated.code == 0 && rotated.out.contains("Its token, which is shown only now:"),
        "{}",
        rotated.text()
    );
    assert_ne!(viewer.run(&["frozen"]).await.code, 0, "the old token");

    let invited = owner.json(0, &["credential", "create", "eve", "--role", "auditor", "--invite"]).await;
    let invitation = Desk::of_operator(&world, invited["token"].as_str().expect("a token")).await;
    let activated = invitation.json(0, &["credential", "activate"]).await;
    assert_eq!((&activated["name"], &activated["state"]), (&json!("eve"), &json!("active")));
    assert_ne!(invitation.run(&["credential", "activate"]).await.code, 0, "once");

    assert_eq!(owner.run(&["credential", "revoke", "ci"]).await.code, 0);
    let listed = owner.json(0, &["credential", "list"]).await;
    let names: Vec<_> =
        listed["credentials"].as_array().expect("a list").iter().map(|it| &it["name"]).collect();
    assert_eq!(names, [&json!("eve")]);
    assert_eq!(owner.run(&["credential", "revoke", "../frozen"]).await.code, 2);
}

#[tokio::test]
async fn a_second_owner_approves_what_the_first_requests() {
    let config = format!("core.admin.auth_token = \"{TOKEN}\"\ncore.admin.approvals = 2");
    let world = World::ready_with(&config).await;
    let first = Desk::of_operator(&world, TOKEN).await;
    let bob = first.json(0, &["credential", "create", "bob", "--role", "owner"]).await;
    let bob = Desk::of_operator(&world, bob["token"].as_str().expect("a token")).await;
    assert!(first.run(&["approvals", "list"]).await.out.starts_with("Nothing waits for a second owner."));
    assert_eq!(first.run(&["freeze", "kms", "--reason", "r", "--yes"]).await.code, 0);

    let waits = first.run(&["unfreeze", "kms"]).await;
    assert_eq!(waits.code, 3, "{}", waits.text());
    let listed = first.json(0, &["approvals", "list"]).await;
    let id = listed["approvals"][0]["id"].as_str().expect("an id").to_owned();
    assert!(waits.text().contains(&format!("kmsctl approvals approve {id}")), "{}", waits.text());
    let own = first.run(&["approvals", "approve", &id, "--yes"]).await;
    assert_eq!(own.code, 3, "{}", own.text());
    assert!(own.text().contains("another owner than the one who requested it"), "{}", own.text());
    let unasked = bob.run(&["approvals", "approve", &id]).await;
    assert_eq!(unasked.code, 2, "{}", unasked.text());
    let approved = bob.run(&["approvals", "approve", &id, "--yes"]).await;
    assert_eq!(approved.code, 0, "{}", approved.text());
    assert!(approved.out.starts_with("Done: it is not frozen any more."), "{}", approved.out);
    assert!(first.run(&["frozen"]).await.out.starts_with("Nothing is frozen."));

    let waits = first.json(3, &["credential", "create", "carol", "--role", "owner"]).await;
    let id = waits["approval"]["id"].as_str().expect("an id").to_owned();
    let shown = bob.run(&["approvals", "show", &id]).await;
    assert!(shown.out.contains("invite carol as an owner"), "{}", shown.text());
    let approved = bob.json(0, &["approvals", "approve", &id, "--yes"]).await;
    let second = approved["token"].as_str().expect("a half");
    let own = bob.json(0, &["approvals", "show", &id]).await;
    assert!(own["token"].is_null(), "each owner has one half: {own}");
    let shown = first.run(&["approvals", "show", &id]).await;
    assert!(
        shown.out.contains("The first half of the invitation, valid for 15 minutes."),
        "{}",
        shown.text()
    );
    let shown = first.json(0, &["approvals", "show", &id]).await;
    let invitation = format!("{}{second}", shown["token"].as_str().expect("the other half"));
    let carol = Desk::of_operator(&world, &invitation).await;
    assert_eq!(carol.run(&["credential", "activate"]).await.code, 0);
    let waits = bob.json(3, &["credential", "revoke", "carol"]).await;
    let id = waits["approval"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(bob.json(0, &["approvals", "reject", &id]).await["state"], "rejected", "taken back");
    let ended = first.run(&["approvals", "approve", &id, "--yes"]).await;
    assert_eq!(ended.code, 3, "{}", ended.text());
    assert_eq!(first.run(&["approvals", "approve", "../frozen"]).await.code, 2);
}

#[tokio::test]
async fn an_operator_stops_one_thing_and_lets_it_go_again() {
    let world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    let app = world.app(1);
    world.allow_app(&app);
    let id = hex::encode(app.app_id());
    let caller = world.caller().shows(&world.attested(&app).await);
    assert!(desk.run(&["frozen"]).await.out.starts_with("Nothing is frozen."));

    let frozen = desk.run(&["freeze", "app", &id, "--reason", "leaked key", "--for", "8h"]).await;
    assert_eq!(frozen.code, 0, "{}", frozen.text());
    assert!(frozen.out.starts_with("Frozen: "), "{}", frozen.out);
    let answer = caller.json("GetAppKey", json!({})).await;
    assert_eq!(answer.value()["code"], "frozen", "{answer:?}");
    let listed = desk.json(0, &["frozen"]).await;
    let entry = &listed["frozen"][0];
    assert_eq!(
        (&entry["scope"], &entry["value"], &entry["reason"]),
        (&json!("app"), &json!(id), &json!("leaked key"))
    );
    assert_eq!(
        entry["expires_at"].as_u64().zip(entry["since"].as_u64()).map(|(end, since)| end - since),
        Some(8 * 3600)
    );

    // The proposed command works unchanged.
    let explained = desk.run(&["explain", "--denial", answer.header("x-denial-id")]).await;
    let proposed =
        explained.out.lines().find_map(|line| line.strip_prefix("  * kmsctl ")).expect("a command");
    let proposed = proposed.split(',').next().expect("a command");
    let thawed = desk.run(&proposed.split(' ').collect::<Vec<_>>()).await;
    assert!(thawed.out.starts_with("No longer frozen"), "{proposed}: {}", thawed.text());
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    assert!(desk.run(&["unfreeze", "app", &id]).await.out.starts_with("It was not frozen"));

    assert_eq!(desk.run(&["freeze", "kms", "--reason", "stop everything", "--yes"]).await.code, 0);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 403);
    assert_eq!(desk.run(&["unfreeze", "kms"]).await.code, 0);
    // Without a terminal there is no confirmation, so nothing is frozen.
    let unasked = desk.run(&["freeze", "kms", "--reason", "stop everything"]).await;
    assert!(unasked.code == 2 && unasked.err.contains("--yes"), "{}", unasked.text());
    assert!(desk.run(&["frozen"]).await.out.starts_with("Nothing is frozen."));
    for wrong in [
        &["freeze", "app", "--reason", "r"][..],
        &["freeze", "app", "00", "--reason", "r"],
        &["freeze", "kms", "00", "--reason", "r"],
        &["freeze", "app", &id],
        &["freeze", "app", &id, "--reason", "r", "--for", "8"],
        &["explain"],
        &["explain", "--denial", "x", "--evidence", "y"],
    ] {
        assert_eq!(desk.run(wrong).await.code, 2, "{wrong:?}");
    }
}

#[tokio::test]
async fn collateral_goes_from_a_running_kms_to_another_one_in_a_file() {
    let world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    let shown = desk.json(0, &["collateral", "show"]).await;
    assert_eq!((&shown["offline"], &shown["refused"]), (&json!(false), &json!([])));
    let model = &shown["models"][0];
    assert_eq!((&model["fmspc"], &model["ca"]), (&json!("53494d000000"), &json!("platform")));
    assert_eq!(model["tcb_evaluation_number"], 17);
    let exported = desk.json(0, &["collateral", "export", "bundle.json"]).await;
    assert_eq!(exported, json!([{ "file": "bundle.json", "models": 1 }]));
    let again = desk.run(&["collateral", "export", "bundle.json"]).await;
    assert!(again.code != 0 && again.text().contains("exists"), "{}", again.text());

    // Another one, which has newer collateral by now, takes nothing older; a damaged file changes nothing.
    let other = World::ready_with(&format!("core.admin.auth_token = \"{TOKEN}\"")).await;
    let url = format!("http://{}", other.admin_address().await);
    let import = async |files: &[&str], more: &[&str], code: i32| {
        let ran = desk.run(&[&["collateral", "import", "--admin", &url], files, more].concat()).await;
        assert_eq!(ran.code, code, "{files:?}: {}", ran.text());
        ran.text()
    };
    let uploads = || other.audited("file_uploaded").len();
    import(&["bundle.json"], &["--dry-run"], 0).await;
    assert_eq!(uploads(), 0);
    desk.write("damaged.json", desk.read("bundle.json").replacen("53494", "53594", 1));
    let text = import(&["bundle.json", "damaged.json"], &[], 3).await;
    assert!(text.contains("damaged.json"), "{text}");
    assert_eq!(uploads(), 0, "all are checked before one is kept");
    import(&["bundle.json"], &[], 0).await;

    // A viewer reads and does not import.
    let made = desk.json(0, &["credential", "create", "eve", "--role", "viewer"]).await;
    let viewer = desk.with("KMS_ADMIN_TOKEN", made["token"].as_str().expect("a token"));
    assert_eq!(viewer.run(&["collateral", "show"]).await.code, 0);
    assert_eq!(viewer.run(&["collateral", "export", "more.json"]).await.code, 0);
    assert_eq!(viewer.run(&["collateral", "import", "more.json"]).await.code, 3);
}

#[tokio::test]
async fn an_operator_has_collateral_fetched_again() {
    let world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    let asked = world.pccs.request_count();
    let same = desk.run(&["refresh-collateral"]).await;
    assert_eq!(same.code, 0, "{}", same.text());
    for text in
        ["53494d000000 (platform CA): the same as before", "TCB evaluation number 17", "verified again"]
    {
        assert!(same.out.contains(text), "{text}: {}", same.out);
    }
    assert!(world.pccs.request_count() > asked);

    world.pccs.publish(&CollateralSpec { evaluation_number: 18, ..CollateralSpec::default() });
    let newer = desk.json(0, &["refresh-collateral"]).await;
    assert_eq!(
        (&newer["models"][0]["tcb_evaluation_number"], &newer["models"][0]["is_newer"]),
        (&json!(18), &json!(true))
    );

    world.pccs.set_mode(PccsMode::Down);
    let failed = desk.run(&["refresh-collateral"]).await;
    assert_eq!(failed.code, 1, "{}", failed.text());
    assert!(failed.out.contains("not refreshed, the cached collateral stays in use"), "{}", failed.out);
    assert!(failed.out.contains("pck crl: answered 503"), "{}", failed.out);
    crate::support::eventually("each is recorded", async || {
        (world.audited("collateral_refreshed").len() == 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_operator_says_that_a_clock_was_ahead_and_nothing_else_does() {
    let mut world = world().await;
    let app = world.app(1);
    world.allow_app(&app);
    world.stop().await;
    world.record_at("2999-01-01T00:00:00Z");
    world.start().await.expect("it starts");
    let caller = world.caller().shows(&Identity::self_issued(&app));
    let answer = crate::support::eventually("the clock is told", async || {
        let answer = caller.json("GetAppKey", json!({})).await;
        (answer.value()["code"] == "clock").then_some(answer)
    })
    .await;
    assert_eq!(answer.status, 503, "{answer:?}");
    let ready = world.caller().get("/readyz").await;
    assert_eq!((ready.status, &ready.value()["reasons"][0]["code"]), (503, &json!("clock")), "{ready:?}");
    assert_eq!(world.caller().json("GetMeta", json!({})).await.status, 200);
    let desk = Desk::of_operator(&world, TOKEN).await;
    let denials = desk.json(0, &["denials"]).await;
    let found = denials.as_array().expect("a list").iter().find(|it| it["code"] == "clock");
    let found = found.unwrap_or_else(|| panic!("{denials}"));
    let id = found["id"].as_str().expect("an id");
    let explained = desk.run(&["explain", "--denial", id]).await;
    for text in ["the clock", "kmsctl clock-floor lower"] {
        assert!(explained.text().contains(text), "{text}: {}", explained.text());
    }
    // An operator whose own clock differs cannot confirm the time.
    let admin = Caller::new(world.admin_address().await).plain();
    for request in [json!({ "reason": "r", "now": 1 }), json!({ "reason": "" }), json!({})] {
        let asked = http::with(http::json("LowerClockFloor", request.clone()), "x-admin-token", TOKEN);
        assert_eq!(admin.send(asked).await.status, 400, "{request}");
    }
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 503);

    let lowered = desk.run(&["clock-floor", "lower", "--reason", "the host was ahead"]).await;
    assert_eq!(lowered.code, 0, "{}", lowered.text());
    assert!(lowered.out.contains("2999-01-01T00:00:00Z"), "{}", lowered.out);
    crate::support::eventually("keys are released", async || {
        (caller.json("GetAppKey", json!({})).await.status == 200).then_some(())
    })
    .await;
    let recorded = world.audited("clock_floor_lowered");
    assert_eq!((&recorded[0]["by"], &recorded[0]["reason"]), (&json!("token"), &json!("the host was ahead")));
    let again = desk.run(&["clock-floor", "lower", "--reason", "once more"]).await;
    assert!(again.code == 0 && again.out.contains("nothing was changed"), "{}", again.text());
    world.start().await.expect("it starts");
    let caller = world.caller().shows(&Identity::self_issued(&app));
    crate::support::eventually("also after a restart", async || {
        (caller.json("GetAppKey", json!({})).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_freeze_is_made_longer_but_shorter_only_where_that_is_meant() {
    let world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    let id = "0a".repeat(20);
    let freeze = |more: &[&'static str]| {
        let mut arguments = vec!["freeze", "app", id.as_str(), "--reason", "second"];
        arguments.extend(more);
        arguments.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = async |more: &[&'static str]| {
        let arguments = freeze(more);
        desk.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    assert_eq!(run(&["--for", "8h"]).await.code, 0);
    let refused = run(&["--for", "1h"]).await;
    assert!(refused.code == 3 && refused.err.contains("it is frozen already until"), "{}", refused.text());
    assert!(refused.err.contains("by token (second); nothing was changed"), "{}", refused.err);
    assert_eq!(run(&["--for", "9h"]).await.code, 0, "longer");
    assert_eq!(run(&[]).await.code, 0, "without end");
    assert_eq!(run(&["--for", "9h"]).await.code, 3);
    assert_eq!(run(&["--for", "1h", "--replace"]).await.code, 0);
    let listed = desk.json(0, &["frozen"]).await;
    let entry = &listed["frozen"][0];
    let lasts = entry["expires_at"].as_u64().zip(entry["since"].as_u64()).map(|(end, since)| end - since);
    assert_eq!(lasts, Some(3600));
}

#[tokio::test]
async fn several_kmss_are_frozen_at_once_and_the_one_that_fails_is_named() {
    let (first, second) = (world().await, world().await);
    let desk = Desk::of_operator(&first, TOKEN).await;
    let admin = async |world: &World| format!("http://{}", world.admin_address().await);
    let both = format!("{},{}", admin(&first).await, admin(&second).await);
    let frozen = desk.json(0, &["freeze", "kms", "--reason", "r", "--yes", "--admin", &both]).await;
    assert_eq!(frozen.as_array().map(Vec::len), Some(2), "{frozen}");
    for world in [&first, &second] {
        let url = admin(world).await;
        let listed = desk.json(0, &["frozen", "--admin", &url]).await;
        assert_eq!(listed["frozen"][0]["scope"], "kms", "{url}: {listed}");
    }
    let with_absent = format!("http://127.0.0.1:1,{both}");
    let thawed = desk.json(1, &["unfreeze", "kms", "--admin", &with_absent]).await;
    let error = thawed[0]["error"].as_str().expect("a reason");
    assert!(error.contains("is the admin listener enabled (core.admin.enabled)"), "{thawed}");
    assert_eq!(thawed[2]["answer"]["was_frozen"], true, "{thawed}");
    let denials = desk.run(&["denials", "--admin", &both]).await;
    assert!(denials.code == 2 && denials.err.contains("takes one --admin, got 2"), "{}", denials.text());
    // The main listener is not an admin listener.
    let main = format!("https://localhost:{}", first.address().port());
    let wrong = desk.run(&["frozen", "--admin", &main, "--dangerous-any-server"]).await;
    assert!(wrong.code == 1 && wrong.err.contains("this is not an admin listener"), "{}", wrong.text());
}

#[tokio::test]
async fn an_operator_tries_an_allowlist_before_it_decides() {
    let world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    let app = world.app(1);
    world.allow_app(&app);
    assert!(desk.run(&["shadow", "report"]).await.out.starts_with("No candidate is running."));
    desk.write("next.json", "{}");
    let started = desk.run(&["shadow", "start", "next.json"]).await;
    assert_eq!(started.code, 0, "{}", started.text());
    assert!(started.out.contains("DENY THIS KMS ITSELF"), "{}", started.out);
    let caller = world.caller().shows(&world.attested(&app).await);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    let report = desk.run(&["shadow", "report"]).await;
    for text in ["next.json", "newly DENIED", "os_image_not_allowed", &hex::encode(app.app_id())] {
        assert!(report.out.contains(text), "{text}: {}", report.out);
    }
    let stopped = desk.json(0, &["shadow", "stop"]).await;
    assert_eq!((&stopped["running"], &stopped["newly_denied"]), (&json!(false), &json!(1)));
    desk.write("broken.json", "{");
    assert_eq!(desk.run(&["shadow", "start", "broken.json"]).await.code, 3);
}

#[tokio::test]
async fn without_the_token_nothing_is_told() {
    let world = world().await;
    let address = format!("http://{}", world.admin_address().await);
    let desk = Desk::in_world(&world).with("KMS_ADMIN_URL", address);
    let ran = desk.run(&["frozen"]).await;
    assert_eq!(ran.code, 3, "{}", ran.text());
    assert!(ran.text().contains("KMS_ADMIN_TOKEN"), "{}", ran.text());
    desk.write("token", format!("{TOKEN}\n"));
    assert_eq!(desk.run(&["frozen", "--token-file", "token"]).await.code, 0);
}

#[tokio::test]
async fn status_says_that_a_kms_can_release_nothing_and_denials_says_why() {
    let world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await.with("KMS_URL", format!("https://{}", world.address()));
    let ran = desk.run(&["status"]).await;
    assert_eq!(ran.code, 0, "{}", ran.text());
    assert!(ran.out.contains("serving"), "{}", ran.out);

    world.allowlist.write_text("{\"osImages\": [");
    let ran = crate::support::eventually("not ready", async || {
        Some(desk.run(&["status"]).await).filter(|ran| ran.code != 0)
    })
    .await;
    assert_eq!(ran.code, 1, "{}", ran.text());
    for text in ["NOT READY", "the allowlist is missing or invalid", "(allowlist_unusable)"] {
        assert!(ran.out.contains(text), "{text}: {}", ran.out);
    }
    let json: serde_json::Value =
        serde_json::from_str(&desk.run(&["status", "--json"]).await.out).expect("JSON");
    let kms = &json["kms"][0];
    assert_eq!((&kms["state"], &kms["ready"]), (&json!("not_ready"), &json!(false)), "{json}");
    assert_eq!(kms["not_ready"][0]["code"], "allowlist_unusable");

    // The first call of a guest.
    assert_eq!(world.caller().json("GetTempCaCert", json!({})).await.status, 403);
    let listed = desk.run(&["denials"]).await;
    for text in ["allowlist_unusable", "GetTempCaCert", "a readable allowlist"] {
        assert!(listed.out.contains(text), "{text}: {}", listed.out);
    }
}

#[tokio::test]
async fn a_replica_is_onboarded_through_the_admin_listener_by_a_node_that_proves_itself_first() {
    let mut source = World::stopped_with(&format!(
        "core.admin.auth_token = \"{TOKEN}\"\ncore.onboard.public_key_handover = false"
    ))
    .await;
    let (key, certs) = (source.path("admin.key"), source.path("admin.crt"));
    source.configure(&format!(
        "core.admin.tls = {{ key = {key:?}, certs = {certs:?}, create_if_missing = true }}"
    ));
    source.start().await.expect("it starts");
    let (port, desk) = (source.address().port(), Desk::in_world(&source));
    let measured = hex::encode(source.cvm.mr_aggregated());
    let other = "11".repeat(32);
    let bootstrap = |url: String, pin: String| {
        ["bootstrap", "--domain", "localhost", "--dangerous-root", "root.der", "--kms"]
            .map(str::to_owned)
            .into_iter()
            .chain([url, "--pin".to_owned(), pin])
            .collect::<Vec<_>>()
    };
    async fn run(desk: &Desk, arguments: &[String]) -> crate::support::process::Ran {
        desk.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    }
    let (plain, tls) = (format!("http://localhost:{port}"), format!("https://localhost:{port}"));
    for (arguments, code, text) in [
        (bootstrap(plain, measured.clone()), 2, "plain http proves no server; --pin is for https"),
        (bootstrap(tls.clone(), other.clone()), 4, "which is not pinned; nothing was sent"),
        (bootstrap(tls.clone(), "11".to_owned()), 2, "must be 32 bytes"),
    ] {
        let ran = run(&desk, &arguments).await;
        assert_eq!((ran.code, ran.text().contains(text)), (code, true), "{text}: {}", ran.text());
        assert!(!source.key_file("root-ca.key").exists(), "{text}");
    }
    // Without its root, the attestation of a simulated machine proves nothing.
    let intel: Vec<_> = bootstrap(tls.clone(), measured.clone())
        .into_iter()
        .filter(|argument| !["--dangerous-root", "root.der"].contains(&argument.as_str()))
        .collect();
    let ran = run(&desk, &intel).await;
    assert_eq!((ran.code, ran.text().contains("nothing was sent")), (4, true), "{}", ran.text());
    let ran = run(&desk, &bootstrap(tls, measured.clone())).await;
    assert_eq!(ran.code, 0, "{}", ran.text());
    source.finish().await;

    let replica = World::onboarding().await;
    let node = format!("https://localhost:{}", replica.address().port());
    let admin = format!("https://{}", source.admin_address().await);
    desk.write("source-token", format!("{TOKEN}\n"));
    desk.write("wrong-token", "another-token");
    let onboard = |token: &'static str, belief: &[&str]| {
        ["onboard", "--kms", &node, "--source", &admin, "--domain", "localhost", "--source-token-file", token]
            .iter()
            .chain(belief)
            .map(|&argument| argument.to_owned())
            .collect::<Vec<_>>()
    };
    let pinned = ["--dangerous-root", "root.der", "--pin", &other, "--pin", &measured];
    for (arguments, code, text) in [
        (onboard("source-token", &[]), 2, "the token does not go to"),
        (onboard("source-token", &["--dangerous-root", "root.der", "--pin", &other]), 4, "nothing was sent"),
        (onboard("no-file", &pinned), 2, "no-file"),
        (onboard("wrong-token", &pinned), 3, "GetKmsKey: the server answered 401"),
    ] {
        let ran = run(&desk, &arguments).await;
        assert_eq!((ran.code, ran.text().contains(text)), (code, true), "{text}: {}", ran.text());
        assert!(!ran.text().contains("another-token"), "{}", ran.text());
        assert!(!replica.key_file("root-ca.key").exists(), "{text}");
    }
    let ran = run(&desk, &onboard("source-token", &pinned)).await;
    assert_eq!(ran.code, 0, "{}", ran.text());
    assert_eq!(replica.root_keys().ca_spki(), source.root_keys().ca_spki());
    let given = source.audited("kms_key_released");
    assert_eq!((given.len(), &given[0]["by"]), (1, &json!("token")), "who had them given");
}

#[tokio::test]
async fn diagnostics_show_what_a_release_took_and_what_failed() {
    let world = world().await;
    let desk = Desk::of_operator(&world, TOKEN).await;
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    assert_eq!(caller.json("GetAppKey", json!({})).await.status, 200);
    let shown = desk.run(&["diagnostics"]).await;
    assert_eq!(shown.code, 0, "{}", shown.text());
    for text in [
        "In flight: /api/v1/diagnostics/key-flow 1",
        "verification",
        "ledger_sync",
        "own_evidence",
        "audit",
        "Process: ",
    ] {
        assert!(shown.out.contains(text), "{text}: {}", shown.out);
    }
    let flow = desk.json(0, &["diagnostics"]).await;
    assert!(flow["stages"].as_array().is_some_and(|stages| stages.len() == 8), "{flow:#}");
}
