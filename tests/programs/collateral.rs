//! `kms collateral` and a site without a collateral service, with the program.

use std::fs;

use kms_simulator::PccsMode;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::http::request;
use crate::support::program::Setting;
use crate::support::{DOMAIN, eventually};

async fn is_ready(setting: &Setting) -> Option<()> {
    let answer = setting.caller().try_send(request("GET", "/readyz", "")).await.ok()?;
    (answer.status == 200).then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_without_a_service_lives_from_a_file_that_another_one_exports() {
    let mut setting = Setting::with(&format!("core.onboard.auto_bootstrap_domain = \"{DOMAIN}\"")).await;
    let program = setting.start().await;
    eventually("it is ready", async || is_ready(&setting).await).await;
    let file = setting.world.path("bundle.json");
    let file = file.to_str().expect("UTF-8");
    let import = setting.run(&["collateral", "import", file]).await;
    assert_eq!(import.code, 1, "{}", import.text());
    assert!(import.err.contains("use kmsctl upload collateral-bundle"), "{}", import.text());
    let shown = setting.run(&["collateral", "show"]).await;
    assert_eq!(shown.code, 0, "{}", shown.text());
    assert!(shown.out.contains("53494d000000 (platform CA): valid until"), "{}", shown.out);
    let exported = setting.run(&["collateral", "export", file]).await;
    assert_eq!(exported.code, 0, "{}", exported.text());
    program.stop(Signal::TERM).await;

    // The file is the only collateral: no service answers, and none may be asked.
    setting.world.pccs.set_mode(PccsMode::Down);
    setting.world.forget_collateral();
    setting.configure("core.attestation.offline = true");
    let asked = setting.world.pccs.request_count();
    let check = setting.run(&["check"]).await;
    assert_eq!(check.code, 1, "{}", check.text());
    assert!(check.out.contains("core.attestation.offline: no valid collateral is kept"), "{}", check.out);
    let empty = setting.run(&["collateral", "export", file]).await;
    assert!(empty.code == 1 && empty.err.contains("no valid collateral is kept here"), "{}", empty.text());
    let imported = setting.run(&["collateral", "import", file]).await;
    assert_eq!(imported.code, 0, "{}", imported.text());
    assert!(imported.out.contains("1 of 1 models are kept"), "{}", imported.out);
    let check = setting.run(&["check"]).await;
    assert_eq!(check.code, 0, "{}", check.text());
    let doctor = setting.run(&["doctor"]).await;
    assert!(doctor.out.contains("passed    collateral: "), "{}", doctor.out);
    let program = setting.start().await;
    eventually("it is ready offline", async || is_ready(&setting).await).await;
    program.stop(Signal::TERM).await;
    assert_eq!(setting.world.pccs.request_count(), asked, "no service was asked");

    // A damaged file is told, and stops nothing.
    let kept = setting.world.key_file("collateral").join("53494d000000-platform.collateral");
    let content = fs::read(&kept).expect("a file");
    fs::write(&kept, &content[..content.len() - 1]).expect("a file");
    let shown = setting.run(&["collateral", "show", "--json"]).await;
    assert_eq!(shown.code, 1, "{}", shown.text());
    let report: Value = serde_json::from_str(&shown.out).expect("JSON");
    assert_eq!((&report["offline"], &report["models"]), (&json!(true), &json!([])));
    let why = report["refused"][0].as_str().expect("a text");
    assert!(why.contains("its digest is not that of its content"), "{why}");
    let check = setting.run(&["check"]).await;
    assert!(check.out.contains("kept collateral is not used: 53494d000000-platform"), "{}", check.out);
    let program = setting.start().await;
    eventually("it is not ready, and says why", async || {
        let answer = setting.caller().try_send(request("GET", "/readyz", "")).await.ok()?;
        (answer.status == 503 && answer.text().contains("collateral_unavailable")).then_some(())
    })
    .await;
    eventually("the audit log says it", async || {
        let told = setting.world.audited("collateral_refused");
        (told.first()?["source"] == "disk").then_some(())
    })
    .await;
    program.stop(Signal::TERM).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_fetches_the_models_that_it_is_told() {
    let setting = Setting::with("").await;
    let file = setting.world.path("bundle.json");
    let file = file.to_str().expect("UTF-8");
    let fetched = setting.run(&["collateral", "export", "--fetch", "53494D000000", file]).await;
    assert_eq!(fetched.code, 0, "{}", fetched.text());
    let sets: Value = serde_json::from_slice(&fs::read(file).expect("a file")).expect("JSON");
    assert_eq!(sets.as_array().expect("a list").len(), 2, "one for each CA");
    let unknown = setting.run(&["collateral", "export", "--fetch", "00906ED50000/platform", file]).await;
    assert_eq!(unknown.code, 1, "{}", unknown.text());
    assert!(unknown.err.contains("no collateral of 00906ed50000 (platform CA)"), "{}", unknown.err);
    assert!(!setting.world.key_file("collateral").exists(), "nothing is kept here");
    let imported = setting.run(&["collateral", "import", file]).await;
    assert_eq!(imported.code, 0, "{}", imported.text());
    let shown = setting.run(&["collateral", "show"]).await;
    assert!(shown.out.contains("kept for 2 models"), "{}", shown.out);
}
