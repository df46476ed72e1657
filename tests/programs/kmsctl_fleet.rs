//! `kmsctl` for a fleet: its nodes, what they list, one that is gone, and the exit code that says that something is wrong.

use crate::support::kmsctl::Desk;
use crate::support::postgres::Postgres;
use crate::support::{World, eventually};
use serde_json::{Value, json};

const TOKEN: &str = "operators-token";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_operator_sees_the_nodes_what_they_list_and_that_one_is_gone() {
    let mut postgres = Postgres::start().await;
    let config = |name: &str| format!("core.admin.auth_token = \"{TOKEN}\"\n{}", postgres.toml(name));
    let one = World::ready_with(&config("one")).await;
    let mut two = one.sibling_with(&config("two")).await;
    let desk = Desk::in_world(&one)
        .with("KMS_ADMIN_URL", format!("http://{}", one.admin_address().await))
        .with("KMS_ADMIN_TOKEN", TOKEN);
    let (app, stranger) = (two.app(1), two.app(2));
    // Other policies would be an alarm.
    one.allow_app(&app);
    two.allow_app(&app);
    for (cvm, status) in [(&app, 200), (&stranger, 403)] {
        eventually("the answer of two", async || {
            let caller = two.caller().shows(&two.attested(cvm).await);
            (caller.json("GetAppKey", json!({ "api_version": 1 })).await.status == status).then_some(())
        })
        .await;
    }
    eventually("both nodes", async || {
        // Until the other node has answered, this one is stale.
        let status = desk.run(&["fleet", "status", "--json"]).await;
        let view: Value = serde_json::from_str(&status.out).ok().filter(|_| status.code == 0)?;
        let nodes = view["nodes"].as_array().expect("nodes").clone();
        (nodes.len() == 2 && nodes.iter().all(|node| node["canary_equal"] == true)).then_some(())
    })
    .await;
    for (list, arguments) in [("the CVM", &["cvms", "--fleet"][..]), ("the denial", &["denials", "--fleet"])]
    {
        eventually(list, async || {
            let listed = desk.json(0, arguments).await;
            listed.as_array().expect("a list").iter().any(|entry| entry["node"] == "two").then_some(())
        })
        .await;
    }
    let status = desk.run(&["fleet", "status"]).await;
    for shown in ["one ", "two ", "ready", "canary", "(this node)"] {
        assert!(status.out.contains(shown), "{shown}: {}", status.text());
    }
    let listed = desk.run(&["denials", "--fleet", "--limit", "5"]).await;
    assert!(listed.out.contains("1 time, last 2") && listed.out.contains("two"), "{}", listed.text());
    assert!(listed.out.contains("remedy    ") && listed.out.contains("listener of two"), "{}", listed.text());
    let alone = desk.run(&["denials"]).await;
    assert!(alone.out.contains("--fleet shows those of the others"), "{}", alone.text());
    let id = listed.out.split_whitespace().next().expect("an id");
    let explained = desk.run(&["explain", "--denial", id]).await;
    assert!(explained.text().contains("kmsctl denials --fleet names that node"), "{}", explained.text());
    let drained = desk.run(&["action", "run", "drain", "--node", "two"]).await;
    assert!(drained.code == 0 && drained.out.contains("until it is undrained"), "{}", drained.text());
    let status = desk.run(&["fleet", "status"]).await;
    assert!(status.out.contains("drained") && status.out.contains("by token since"), "{}", status.text());
    let wrong = desk.run(&["action", "run", "self-test", "--node", "two"]).await;
    assert!(wrong.code == 2 && wrong.text().contains("only drain and undrain"), "{}", wrong.text());
    let over = desk.run(&["action", "run", "undrain", "--node", "two"]).await;
    assert!(over.out.contains("the drain of two is over"), "{}", over.text());
    let early = desk.run(&["fleet", "forget", "two"]).await;
    assert!(early.code != 0 && early.text().contains("stop it first"), "{}", early.text());
    two.stop().await;
    eventually("a node less", async || (desk.run(&["fleet", "forget", "two"]).await.code == 0).then_some(()))
        .await;
    eventually("one node", async || {
        let view = desk.json(0, &["fleet", "status"]).await;
        (view["nodes"].as_array().expect("nodes").len() == 1).then_some(())
    })
    .await;
    // Without the database this node is stale, which scripts see by the exit code.
    postgres.stop();
    eventually("staleness", async || {
        let status = desk.run(&["fleet", "status"]).await;
        // Its last report in the database says that it is ready.
        let is_told = status.out.contains("This node is stale")
            && status.out.contains("(this node): not ready: ")
            && status.out.contains("state_stale");
        (status.code == 1 && is_told).then_some(())
    })
    .await;
}
