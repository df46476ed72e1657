//! What `/openapi.json` says is true: Schemathesis calls every operation of a live KMS, by role, with data that fits the
//! description and data that does not.

use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;

use crate::support::http::{Caller, post, request, with};
use crate::support::process::{Ran, finish};
use crate::support::program::Setting;
use crate::support::{DOMAIN, eventually, tools};

/// The same data in each run.
const SEED: &str = "20261129";
/// Every check about one answer. Not there: `positive_data_acceptance`, because a schema cannot say which ids exist, and
/// `unsupported_method`, because other methods get 404 as in dstack-kms.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,negative_data_rejection,ignored_auth,use_after_free,\
                      ensure_resource_availability";
/// Of the configuration, so that no operation revokes it.
const OWNER: &str = "9f86d081884c7d659a2feaa0c55ad015";
/// It does not end.
const STREAM: &str = "/api/v1/events/stream";

async fn schemathesis(url: &str, tag: &str, token: &str, more: &[&str]) -> Ran {
    let python = tokio::task::spawn_blocking(|| tools::python("openapi")).await.expect("no panic");
    let program = python.with_file_name("schemathesis");
    let mut command = Command::new(tools::program("timeout"));
    command.arg("600").arg(program).args(["run", "--no-color", "--wait-for-schema", "10"]);
    command.args(["--url", url, "--include-tag", tag, "--exclude-path", STREAM, "--checks", CHECKS]);
    // A minute for each role on a machine that is busy. One worker: Python 3.11 fails in `ast.parse` if two threads are in it
    // (SystemError: AST constructor recursion depth mismatch).
    command.args(["--seed", SEED, "--max-examples", "3", "--workers", "1", "--generation-database", "none"]);
    command.args(["--tls-verify", "false"]);
    command.args([
        "--phases",
        "examples,coverage,fuzzing",
        "--continue-on-failure",
        "--request-timeout",
        "20",
    ]);
    command.args(["--suppress-health-check", "all", "--warnings", "off"]);
    command.args(["--header", &format!("Authorization: Bearer {token}")]).args(more);
    command.env("SCHEMATHESIS_HOOKS", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openapi/hooks.py"));
    command.current_dir(std::env::temp_dir());
    finish(command, String::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_listener_does_what_its_description_says() {
    let toml =
        format!("core.onboard.auto_bootstrap_domain = \"{DOMAIN}\"\ncore.admin.auth_token = \"{OWNER}\"");
    let setting = Setting::with(&toml).await;
    let program = setting.start().await;
    let operator = Caller::new(setting.admin).plain();
    let document = setting.world.path("openapi.json");
    let described = eventually("the description", async || {
        operator
            .try_send(request("GET", "/openapi.json", ""))
            .await
            .ok()
            .filter(|answer| answer.status == 200)
    })
    .await;
    std::fs::write(&document, described.text()).expect("a file");
    let body = json!({ "name": "viewer", "role": "viewer" }).to_string();
    let created = operator.send(with(post("/api/v1/credentials", body), "x-admin-token", OWNER)).await;
    assert_eq!(created.status, 200, "{}", created.text());
    let viewer = created.value()["token"].as_str().expect("a token").to_owned();
    let admin = format!("http://{}", setting.admin);
    let path = document.to_str().expect("text");
    let main = format!("https://{}", setting.address);
    let began = Instant::now();
    // An action such as drain changes what later calls find, and so does a restart.
    let all = [path];
    let safe = ["--exclude-path", "/api/v1/actions/{name}", "--exclude-path", "/api/v1/restart", path];
    let (as_viewer, as_anyone) = tokio::join!(
        schemathesis(&admin, "admin", &viewer, &all),
        schemathesis(&main, "main", "none", &all),
    );
    // Not beside them: it revokes the credential of the viewer.
    let as_owner = schemathesis(&admin, "admin", OWNER, &safe).await;
    for (role, ran) in [("viewer", as_viewer), ("owner", as_owner), ("anyone", as_anyone)] {
        assert_eq!(ran.code, 0, "{role}: {}", ran.text());
        println!(
            "{role}: {}",
            ran.out.lines().rev().find(|line| line.contains("generated")).unwrap_or_default()
        );
    }
    println!("took {:?}", began.elapsed());
    assert_eq!(program.stop(Signal::TERM).await, Some(0));
}
