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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_with_a_certificate_of_its_own_the_first_start_makes_an_owner_too() {
    let mut setting = Setting::with(NOBODY).await;
    let (key, certs) = (setting.world.path("admin.key"), setting.world.path("admin.crt"));
    setting.configure(&format!(
        "core.admin.tls = {{ key = '{}', certs = '{}', create_if_missing = true }}",
        key.display(),
        certs.display()
    ));
    let program = setting.start().await;
    let caller = Caller::new(setting.admin);
    let ask = async |token: &str| {
        eventually("the admin listener", async || {
            caller.try_send(with(request("GET", "/api/v1/me", ""), "x-admin-token", token)).await.ok()
        })
        .await
    };
    assert_eq!(ask("another").await.status, 401);
    let output = program.output();
    let answer = ask(output.trim_end().rsplit(' ').next().expect("a token")).await;
    assert_eq!(answer.value()["name"], "admin", "{answer:?}");
    let plain = Caller::new(setting.admin).plain().try_send(request("GET", "/livez", "")).await;
    assert!(plain.is_err() || plain.is_ok_and(|answer| answer.status == 400), "no plain HTTP");
    for file in [&key, &certs] {
        assert!(file.exists(), "{}", file.display());
    }
    program.stop(Signal::TERM).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_htpasswd_file_is_made_with_an_owner_whose_password_is_printed() {
    use base64::Engine as _;
    let mut setting = Setting::with(NOBODY).await;
    let file = setting.world.path("htpasswd");
    setting.configure(&format!("core.admin.htpasswd_file = '{}'", file.display()));
    let program = setting.start().await;
    assert_eq!(credentials(&setting, "another").await.status, 401);
    let output = program.output();
    let pair = output.trim_end().rsplit(' ').next().expect("a name and a password");
    assert!(pair.starts_with("admin:") && output.lines().count() == 1, "{output}");
    let pair = base64::engine::general_purpose::STANDARD.encode(pair);
    let call = with(request("GET", "/api/v1/me", ""), "authorization", &format!("Basic {pair}"));
    let me = Caller::new(setting.admin).plain().send(call).await.value();
    assert_eq!((&me["name"], &me["kind"]), (&Value::from("admin"), &Value::from("user")));
    assert!(!program.log().contains(pair.as_str()), "the log has the password");
    program.stop(Signal::TERM).await;
    let program = setting.start().await;
    assert_eq!(credentials(&setting, "another").await.status, 401);
    assert_eq!(program.output(), "", "once");
    program.stop(Signal::TERM).await;
}
