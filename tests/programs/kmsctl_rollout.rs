//! `kmsctl rollout` with a program that replaces nodes, over nodes that share their state.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use crate::support::kmsctl::Desk;
use crate::support::postgres::Postgres;
use crate::support::process::{Ran, finish};
use crate::support::{World, eventually};
use kms_simulator::{Cvm, Stage};
use serde_json::{Value, json};

const TOKEN: &str = "operators-token";
const NEW: [u8; 32] = [0x4e; 32];

/// Says which node is to be replaced, and waits until that is done; fails when it is told so.
const HOOK: &str = r#"#!/bin/sh
cd "@HOME@" || exit 9
test "$KMS_ROLLOUT_IMAGE" = @IMAGE@ || exit 8
test -z "$KMS_ADMIN_TOKEN" || exit 7
echo "$KMS_ROLLOUT_ATTEMPT" > "wanted.$KMS_ROLLOUT_NODE"
while test ! -e "replaced.$KMS_ROLLOUT_NODE"; do
  test ! -e fail || exit 3
  test -e hook || exit 6
  sleep 0.05
done
"#;

/// A machine of a KMS with the new image.
fn machine(world: &World) -> Arc<Cvm> {
    Cvm::builder(&world.platform).app_id([0xca; 20]).stage(Stage::Ready).os_image_hash(NEW).build()
}

async fn rollout(desk: &Desk) -> Value {
    desk.json(0, &["rollout", "status"]).await["rollout"].clone()
}

/// What `kmsctl` does by itself, in another thread.
fn spawned(command: std::process::Command) -> tokio::task::JoinHandle<Ran> {
    tokio::spawn(finish(command, String::new()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_program_replaces_nodes_and_another_driver_goes_on_after_a_crash() {
    let postgres = Postgres::start().await;
    let config = |number: usize| {
        let shared = postgres.toml(&format!("node-{number}"));
        format!("{shared}\ncore.admin.auth_token = \"{TOKEN}\"")
    };
    let first = World::ready_with(&config(0)).await;
    let second = first.sibling_with(&config(1)).await;
    let mut nodes = [first, second];
    for node in &nodes {
        node.allow_kms(&machine(node));
    }
    let measured = hex::encode(machine(&nodes[0]).mr_aggregated());
    let urls = async |nodes: &[World; 2]| {
        let urls = [nodes[0].admin_address().await, nodes[1].admin_address().await];
        urls.map(|address| format!("http://{address}"))
    };
    let [one, two] = urls(&nodes).await;
    let desk = Desk::in_world(&nodes[0])
        .with("KMS_ADMIN_URL", one.clone())
        .with("KMS_ADMIN_TOKEN", TOKEN)
        .with("PATH", "/usr/bin:/bin");
    let home = desk.path("").display().to_string();
    desk.write("hook", HOOK.replace("@HOME@", &home).replace("@IMAGE@", &hex::encode(NEW)));
    std::fs::set_permissions(desk.path("hook"), std::fs::Permissions::from_mode(0o755)).expect("rights");

    let image = hex::encode(NEW);
    let start = [
        "rollout",
        "start",
        "--image",
        &image,
        "--mr-aggregated",
        &measured,
        "--min-serving",
        "1",
        "--drain-for",
        "1s",
        "--healthy-for",
        "1s",
        "--node",
        "node-1,node-0",
    ];
    let planned = eventually("reports of both nodes", async || {
        let ran = desk.run(&[&start[..], &["--plan", "--json"]].concat()).await;
        (ran.code == 0).then(|| serde_json::from_str::<Value>(&ran.out).expect("JSON"))
    })
    .await;
    assert_eq!(planned["rollout"]["state"], "planned", "{planned}");
    let ran = desk.run(&[&start[..], &["--hook", "nothing"]].concat()).await;
    assert!(ran.code == 2 && ran.text().contains("cannot be run as a program"), "{}", ran.text());
    assert!(rollout(&desk).await.is_null(), "nothing was started");

    // The driver is killed in the middle of its program.
    let mut driver =
        desk.command(&[&start[..], &["--hook", "./hook", "--hook-timeout", "5m"]].concat()).await;
    let mut driver = driver.spawn().expect("kmsctl");
    eventually("the first node", async || desk.path("wanted.node-1").exists().then_some(())).await;
    driver.kill().expect("it runs");
    driver.wait().expect("it ends");
    assert_eq!(rollout(&desk).await["nodes"][0]["step"], "replacing");
    // Its program goes on and replaces the node, which nobody tells: the next driver sees it by itself.
    let both = format!("{one},{two}");
    let run = ["rollout", "run", "--hook", "./hook", "--take-over", "--admin", &both];
    let driving = spawned(desk.command(&run).await);
    eventually("the other driver", async || {
        let waits = rollout(&desk).await["waits_for"].as_str().unwrap_or_default().to_owned();
        waits.contains("the driver that replaced node-1 is gone").then_some(())
    })
    .await;
    replace(&mut nodes[1], &desk, "node-1").await;
    eventually("the next node", async || desk.path("wanted.node-0").exists().then_some(())).await;
    let shown = rollout(
        &Desk::in_world(&nodes[1])
            .with("KMS_ADMIN_URL", urls(&nodes).await[1].clone())
            .with("KMS_ADMIN_TOKEN", TOKEN),
    )
    .await;
    assert_eq!(
        (&shown["nodes"][0]["step"], &shown["nodes"][0]["attempt"]),
        (&json!("done"), &json!(1)),
        "{shown}"
    );
    desk.write("fail", "");
    let ran = driving.await.expect("no panic");
    assert!(ran.code == 1 && ran.text().contains("node-0 failed"), "{}", ran.text());
    assert!(ran.text().contains("exit code 3"), "{}", ran.text());
    let metrics = nodes[0].caller().get("/metrics").await;
    assert!(metrics.text().contains("cvm_kms_rollout_paused_by_failure 1"), "{}", metrics.text());

    // An owner has it begun again, and asks the other node too, because this one goes away.
    std::fs::remove_file(desk.path("fail")).expect("a file");
    std::fs::remove_file(desk.path("wanted.node-0")).expect("a file");
    desk.json(0, &["rollout", "retry", "node-0"]).await;
    let [one, two] = urls(&nodes).await;
    let driving = spawned(
        desk.command(&["rollout", "run", "--hook", "./hook", "--admin", &format!("{one},{two}")]).await,
    );
    eventually("the node again", async || desk.path("wanted.node-0").exists().then_some(())).await;
    assert_eq!(desk.read("wanted.node-0").trim(), "2");
    replace(&mut nodes[0], &desk, "node-0").await;
    let ran =
        tokio::time::timeout(Duration::from_secs(300), driving).await.expect("in time").expect("no panic");
    assert!(ran.code == 0 && ran.text().contains("node-0 done"), "{}", ran.text());
}

/// The node starts again with the new image, and the program is told so.
async fn replace(node: &mut World, desk: &Desk, name: &str) {
    node.stop().await;
    node.agent.replace_cvm(&machine(node));
    node.start().await.expect("it starts");
    desk.write(&format!("replaced.{name}"), "");
}
