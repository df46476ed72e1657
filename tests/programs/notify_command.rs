//! `kms notify test`: whether a notification arrives at each target, before one is needed.

use std::process::Command;

use serde_json::json;

use crate::support::faults::{Fault, FaultServer, Reply};
use crate::support::process::finish;
use crate::support::program::KMS;

#[tokio::test(flavor = "multi_thread")]
async fn each_target_takes_a_test_or_the_command_says_which_does_not_and_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("kms.toml");
    let (fine, broken) = (
        FaultServer::answering(|_| Reply::json(&json!({}))).await,
        FaultServer::answering(|_| Reply::json(&json!({}))).await,
    );
    broken.suffer(Fault::Page(500, b"postgres://user:hush@10.0.0.1".to_vec())).await;
    let entry = |url: &str, more: &str| {
        format!("[[core.notify]]\nurl = '{url}'\nsecret = 'sixteen bytes or more'\n{more}\n")
    };
    let run = async |text: String, arguments: &[&str]| {
        std::fs::write(&file, text).expect("a file");
        let mut command = Command::new(KMS);
        command.args(["notify", "test", "-c"]).arg(&file).args(arguments).env_clear().current_dir("/");
        finish(command, String::new()).await
    };
    let both = [entry(&fine.url(), "name = 'pager'"), entry(&broken.url(), "")].concat();
    let ran = run(both.clone(), &[]).await;
    assert_eq!((ran.code, &*ran.out), (1, "pager took it\n1 did not take it: it answered 500\n"));
    let asked = fine.asked();
    let body = asked[0].json();
    assert_eq!((asked.len(), &body["type"], &body["severity"]), (1, &json!("test"), &json!("info")));
    assert_eq!(asked[0].header("webhook-id"), body["id"].as_str());
    assert_eq!(run(both.clone(), &["pager"]).await.code, 0);
    for (text, arguments, expected) in [
        (both, &["other"][..], "no such target in [[core.notify]]"),
        ("core.notify = [{}]".to_owned(), &[], "core.notify[0].url: is missing"),
    ] {
        let ran = run(text, arguments).await;
        assert!(ran.code == 1 && ran.err.contains(expected), "{}", ran.text());
    }
}
