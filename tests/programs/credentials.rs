//! The first owner of a KMS that is configured with no credentials.

use std::fs;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::http::{request, with};
use crate::support::program::Setting;
use crate::support::{Answer, Caller, eventually};

const NOBODY: &str = "core.admin.auth_token = \"\"\ncore.onboard.auto_bootstrap_domain = \"localhost\"";

async fn credentials(setting: &Setting, token: &str) -> Answer {
    let caller = Caller::new(setting.admin).plain();
    eventually("the admin listener", async || {
        caller.try_send(with(request("GET", "/api/v1/credentials", ""), "x-admin-token", token)).await.ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_start_without_credentials_prints_the_token_of_an_owner_once() {
    let setting = Setting::with(NOBODY).await;
    let checked = setting.run(&["check"]).await;
    assert_eq!(checked.code, 0, "{}", checked.text());
    assert!(checked.text().contains("the first start makes a credential of an owner"), "{}", checked.text());

    let program = setting.start().await;
    assert_eq!(credentials(&setting, "another").await.status, 401);
    let output = program.output();
    let token = output.trim_end().rsplit(' ').next().expect("a token").to_owned();
    assert!(token.starts_with("ckms_admin_") && output.lines().count() == 1, "{output}");
    let answer = credentials(&setting, &token).await;
    assert_eq!(answer.value()["credentials"][0]["role"], Value::from("owner"), "{answer:?}");
    assert!(!program.log().contains(&token), "the log has the token");
    assert!(program.log().contains("its token printed to standard output"), "{}", program.log());
    assert_eq!(setting.world.audited("owner_created").len(), 1);
    program.stop(Signal::TERM).await;

    let program = setting.start().await;
    assert_eq!(credentials(&setting, &token).await.status, 200, "over a restart");
    assert_eq!(program.output(), "", "once");
    program.stop(Signal::TERM).await;

    // Who loses the file does not become another owner.
    fs::remove_file(setting.world.key_file("credentials.json")).expect("removed");
    let checked = setting.run(&["check"]).await;
    assert!(checked.code != 0 && checked.text().contains("has had credentials"), "{}", checked.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_whose_token_cannot_be_printed_is_not_made() {
    let setting = Setting::with(NOBODY).await;
    let mut command = setting.command(&[]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let log = fs::File::create(setting.world.path("log")).expect("a log");
    let mut child = command.stdin(Stdio::null()).stdout(full).stderr(log).spawn().expect("it starts");
    let status =
        tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic").expect("a status");
    let log = fs::read_to_string(setting.world.path("log")).expect("a log");
    assert!(!status.success(), "{log}");
    assert!(log.contains("the token of the first owner cannot be printed"), "{log}");
    assert!(!setting.world.key_file("credentials.json").exists(), "it is not kept");
    assert!(!setting.world.key_file("credentials-created").exists(), "another start makes another one");
}
