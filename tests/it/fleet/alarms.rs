//! What must not be in a fleet, with real nodes: a copied disk, a log that went back, root keys that were made twice.

use std::path::Path;
use std::process::Command;

use super::*;

impl Fleet {
    /// Waits until a node sees this alarm about these nodes.
    async fn sees(&self, node: usize, kind: &str, about: &[usize]) -> Value {
        let names: Vec<_> = about.iter().map(|number| json!(format!("node-{number}"))).collect();
        eventually(&format!("{kind} at node {node}"), async || {
            let view = self.done(node, "GET", "/api/v1/fleet", Value::Null).await;
            let alarms = view["alarms"].as_array().expect("alarms");
            let alarm = alarms.iter().find(|alarm| alarm["kind"] == kind)?.clone();
            let shown = view["nodes"].as_array().expect("nodes");
            let of = |name: &Value| shown.iter().find(|node| node["name"] == *name).map(|node| &node["id"]);
            let told = alarm["nodes"].as_array().expect("nodes");
            names.iter().all(|name| of(name).is_some_and(|id| told.contains(id))).then_some(alarm)
        })
        .await
    }

    async fn sees_nothing(&self, node: usize) {
        let view = self.done(node, "GET", "/api/v1/fleet", Value::Null).await;
        assert_eq!(view["alarms"], json!([]), "node {node}");
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(status.success(), "cp: {status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_with_one_id_are_noticed_by_both_and_by_others() {
    let mut fleet = Fleet::of(3).await;
    for node in 0..3 {
        fleet.sees_nothing(node).await;
    }
    fleet.nodes[1].stop().await;
    std::fs::copy(fleet.nodes[0].key_file("fleet.json"), fleet.nodes[1].key_file("fleet.json"))
        .expect("a copy");
    fleet.nodes[1].start().await.expect("it starts");
    let alarm = fleet.sees(0, "fleet_cloned", &[]).await;
    assert!(alarm["remedy"].as_str().is_some_and(|remedy| remedy.contains("fleet.json")), "{alarm}");
    fleet.sees(1, "fleet_cloned", &[]).await;
    fleet.sees(2, "fleet_cloned", &[]).await;
    let recorded =
        eventually("the record", async || fleet.nodes[2].audited("fleet_alarm").first().cloned()).await;
    assert_eq!(recorded["code"], "fleet_cloned");
    let health = fleet.done(2, "GET", "/api/v1/health", Value::Null).await.to_string();
    assert!(health.contains("fleet_cloned") && health.contains("Stop one of the two"), "{health}");
    let metrics = fleet.nodes[2].caller().get("/metrics").await;
    assert!(metrics.text().contains("cvm_kms_not_ready{reason=\"fleet_cloned\"} 1"), "{}", metrics.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_log_that_went_back_is_noticed_by_others_and_by_its_own_node() {
    let mut fleet = Fleet::of(2).await;
    let size = async |fleet: &Fleet| {
        let view = fleet.done(0, "GET", "/api/v1/fleet", Value::Null).await;
        let node =
            view["nodes"].as_array().expect("nodes").iter().find(|node| node["name"] == "node-1").cloned();
        node.and_then(|node| node["status"]["ledger_size"].as_u64()).unwrap_or(0)
    };
    fleet.nodes[1].stop().await;
    let backup = fleet.nodes[1].path("backup");
    copy(&fleet.nodes[1].path("certs"), &backup);
    fleet.nodes[1].start().await.expect("it starts");
    for _ in 0..40 {
        fleet.releases(1).await;
    }
    let records = fleet.nodes[1].audit().len() as u64;
    eventually("a report of the longer log", async || (size(&fleet).await >= records).then_some(())).await;
    fleet.sees_nothing(0).await;
    fleet.nodes[1].stop().await;
    std::fs::rename(fleet.nodes[1].path("certs"), fleet.nodes[1].path("newer")).expect("a rename");
    std::fs::rename(&backup, fleet.nodes[1].path("certs")).expect("a rename");
    fleet.nodes[1].start().await.expect("it starts");
    let alarm = fleet.sees(0, "fleet_ledger", &[1]).await;
    assert!(alarm["text"].as_str().is_some_and(|text| text.contains("the log of node-1 had ")), "{alarm}");
    fleet.sees(1, "fleet_ledger", &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn root_keys_that_two_nodes_made_for_one_epoch_are_noticed_by_both() {
    let fleet = Fleet::of(2).await;
    for node in 0..2 {
        fleet.sees_nothing(node).await;
    }
    for node in 0..2 {
        fleet.done(node, "POST", "/api/v1/epochs", Value::Null).await;
    }
    fleet.sees(0, "fleet_roots", &[1]).await;
    fleet.sees(1, "fleet_roots", &[0]).await;
    fleet.done(0, "POST", "/api/v1/epochs/1/activate", Value::Null).await;
    // The reports of node 0 are now sealed with keys that node 1 does not have, and the state too.
    eventually("reports of other keys", async || {
        let alarm = fleet.sees(1, "fleet_roots", &[]).await;
        alarm["text"].as_str()?.contains("not made with the root keys").then_some(())
    })
    .await;
    fleet.alarmed(1, "altered").await;
}
