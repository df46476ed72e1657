//! `kmsctl` for what operators read of a KMS: overview, health, history, releases, CVMs, ledger, platforms and replicas.

use crate::support::kmsctl::Desk;
use crate::support::{World, eventually};
use serde_json::json;

const TOKEN: &str = "operators-token";

#[tokio::test]
async fn an_operator_reads_who_has_received_keys_and_how_the_kms_is() {
    let world = World::ready_with(&format!("core.admin.auth_token = \"{TOKEN}\"")).await;
    let desk = Desk::in_world(&world)
        .with("KMS_ADMIN_URL", format!("http://{}", world.admin_address().await))
        .with("KMS_ADMIN_TOKEN", TOKEN);
    let app = world.app(1);
    world.allow_app(&app);
    let caller = world.caller().shows(&world.attested(&app).await);
    for _ in 0..3 {
        assert_eq!(caller.json("GetAppKey", json!({ "api_version": 1 })).await.status, 200);
    }
    let id = hex::encode(app.app_id());
    eventually("three releases in the inventory", async || {
        let cvms = desk.json(0, &["cvms", "--app", &id]).await;
        (cvms[0]["releases"] == 3).then_some(())
    })
    .await;
    let cvms = desk.json(0, &["cvms", "--since", "1h", "--limit", "1"]).await;
    let cvm = cvms[0]["id"].as_str().expect("an id").to_owned();
    // More than one page.
    let releases = desk.json(0, &["releases", "--method", "GetAppKey"]).await;
    assert_eq!(releases.as_array().expect("a list").len(), 3);
    let seq = releases[0]["seq"].to_string();
    for (arguments, shown) in [
        (&["overview"][..], "3 releases to 1 CVM of 1 app; 0 denials"),
        (&["cvms"], "3 releases, last 2"),
        (&["cvms", &cvm], &id),
        (&["cvms", "--tcb", "OutOfDate"], "No such CVM has received keys"),
        (&["releases", "--app", &id], "GetAppKey"),
        (&["releases", &seq], "c2sp.org/tlog-proof@v1"),
        (&["releases", "--until", "2020-01-01"], "There are no such releases."),
        (&["resolve", &id], "UpToDate"),
        (&["platforms"], "1 CVM is UpToDate"),
        (&["ledger"], "file audit.jsonl: records 1 to"),
        (&["replicas"], "root fingerprint"),
        (&["health"], "installed"),
        (&["history", "--window", "1h", "--points", "2"], " releases, 0 denials, 99 of 100 within"),
        (&["freeze", "app", &id, "--preview"], "3 releases to 1 CVM."),
        (&["freeze", "kms", "--preview"], "Nothing was frozen."),
        (&["frozen"], "Nothing is frozen."),
    ] {
        let ran = desk.run(arguments).await;
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.text());
        assert!(ran.out.contains(shown), "{arguments:?}: {}", ran.out);
    }
    let unknown = "07".repeat(20);
    for (arguments, code, told) in [
        (&["resolve", &unknown][..], 3, "this KMS has released no keys to the app"),
        (&["history", "--window", "1y"], 3, "window must be from 1h to 30d"),
        (&["freeze", "app", &id], 2, "--reason"),
        (&["cvms", "x"], 2, "the id of a CVM has hexadecimal digits only"),
        (&["releases", "--method", "GetMeta"], 3, "method must be GetAppKey, SignCert or GetKmsKey"),
    ] {
        let ran = desk.run(arguments).await;
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.text());
        assert!(ran.text().contains(told), "{arguments:?}: {}", ran.text());
    }
    // A denial may be solved: it is said how old it is.
    let stranger = world.caller().shows(&world.attested(&world.app(2)).await);
    assert_eq!(stranger.json("GetAppKey", json!({ "api_version": 1 })).await.status, 403);
    for command in ["overview", "doctor"] {
        eventually("the age of the denial", async || {
            let told = desk.run(&[command]).await.text();
            let line = told.lines().find(|line| line.contains("app_not_registered"))?;
            assert!(line.ends_with(" min ago)") && line.contains(" (last "), "{line}");
            Some(())
        })
        .await;
    }
}
