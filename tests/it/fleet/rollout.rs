//! Rollouts of an OS image over nodes that share their state: one node at a time, and paused at the first failure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cvm_kms::state::rollout::RolloutStep;
use kms_simulator::{Cvm, Stage};
use serde_json::{Value, json};

use super::Fleet;
use crate::support::{ADMIN_TOKEN, Answer, PATIENCE, World, eventually};

const ROLLOUT: &str = "/api/v1/rollout";
const STEP: &str = "/api/v1/rollout/step";
/// The number of the image that is rolled out.
const NEW: u8 = 0x4e;
/// That of one that nobody asked for.
const WRONG: u8 = 0x77;

/// A machine of a KMS that has booted this image.
fn machine(world: &World, image: u8) -> Arc<Cvm> {
    Cvm::builder(&world.platform).app_id([0xca; 20]).stage(Stage::Ready).os_image_hash([image; 32]).build()
}

/// What a machine with the new image measures.
fn measured() -> String {
    let platform = kms_simulator::Platform::from_seed(b"integration tests");
    let cvm = Cvm::builder(&platform).app_id([0xca; 20]).stage(Stage::Ready).os_image_hash([NEW; 32]).build();
    hex::encode(cvm.mr_aggregated())
}

/// A request to start, with short times.
fn plan(changes: Value) -> Value {
    let mut body = json!({
        "image": hex::encode([NEW; 32]), "mr_aggregated": measured(), "min_serving": 1, "drain_for": 0, "healthy_for": 1, "node_timeout": 600
    });
    for (name, value) in changes.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

impl Fleet {
    /// Nodes whose policies allow both images.
    async fn to_be_replaced(size: usize) -> Self {
        Self::to_be_replaced_with(size, "").await
    }

    async fn to_be_replaced_with(size: usize, toml: &str) -> Self {
        let fleet = Self::with(size, toml).await;
        for node in &fleet.nodes {
            for image in [NEW, WRONG] {
                node.allow_kms(&machine(node, image));
            }
        }
        fleet
    }

    /// A node starts again, as a machine with this image.
    async fn reboots(&mut self, node: usize, image: u8) {
        let world = &mut self.nodes[node];
        world.stop().await;
        let machine = machine(world, image);
        world.agent.replace_cvm(&machine);
        world.start().await.expect("it starts");
    }

    async fn order(&self, node: usize, order: &str, body: Value) -> Value {
        self.done(node, "POST", &format!("{ROLLOUT}/{order}"), body).await["rollout"].clone()
    }

    async fn post(&self, node: usize, path: &str, body: Value) -> Answer {
        self.send(node, "POST", path, body, ADMIN_TOKEN).await
    }

    /// Waits until this is so of the rollout, as a node shows it.
    async fn rollout(&self, node: usize, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let view = self.done(node, "GET", ROLLOUT, Value::Null).await;
            let rollout = &view["rollout"];
            let in_work = steps(rollout).iter().filter(|(_, step)| is_in_work(step)).count();
            assert!(in_work <= 1, "two nodes at once: {rollout}");
            if is(rollout) {
                return rollout.clone();
            }
            assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}: {view}");
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }

    async fn reaches(&self, node: usize, name: &str, step: &str) -> Value {
        let what = format!("{name} is {step}");
        let is = |rollout: &Value| steps(rollout).contains(&(name.to_owned(), step.to_owned()));
        self.rollout(node, &what, is).await
    }
}

/// The rollout among what goes on at a node, which another route shows alone.
async fn operation(fleet: &Fleet, node: usize) -> Value {
    let all = fleet.done(node, "GET", "/api/v1/operations", Value::Null).await;
    let all = all["operations"].as_array().expect("operations");
    let [one] = all.iter().filter(|one| one["kind"] == "rollout").collect::<Vec<_>>()[..] else {
        panic!("one rollout: {all:?}")
    };
    let id = one["id"].as_str().expect("an id");
    let alone = fleet.done(node, "GET", &format!("/api/v1/operations/{id}"), Value::Null).await;
    assert_eq!((&alone["id"], &alone["href"]), (&one["id"], &json!(ROLLOUT)));
    one.clone()
}

fn steps(rollout: &Value) -> Vec<(String, String)> {
    let text = |node: &Value, name: &str| node[name].as_str().expect("a text").to_owned();
    let nodes = rollout["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    nodes.iter().map(|node| (text(node, "name"), text(node, "step"))).collect()
}

fn is_in_work(step: &str) -> bool {
    let ends = ["waiting", "done", "failed", "skipped"];
    assert!(RolloutStep::NAMES.contains(&step), "{step}");
    !ends.contains(&step)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_nodes_are_replaced_one_by_one() {
    let mut fleet = Fleet::to_be_replaced(3).await;
    let preview = plan(json!({ "preview": true }));
    let planned = eventually("reports of all nodes", async || {
        let answer = fleet.post(0, ROLLOUT, preview.clone()).await;
        let rollout = &answer.value()["rollout"];
        (answer.status == 200 && steps(rollout).len() == 3 && rollout["serving"] == 3).then(|| answer.value())
    })
    .await;
    assert_eq!(planned["rollout"]["state"], "planned");
    assert!(fleet.done(1, "GET", ROLLOUT, Value::Null).await["rollout"].is_null(), "only shown");
    let too_many = fleet.post(0, ROLLOUT, plan(json!({ "min_serving": 3 }))).await;
    assert!(too_many.status == 400 && too_many.text().contains("2 other nodes serve"), "{}", too_many.text());
    assert!(too_many.text().contains("min_serving = 0 (kmsctl: --min-serving 0)"), "{}", too_many.text());
    let unknown = fleet.post(0, ROLLOUT, plan(json!({ "nodes": ["node-9"] }))).await;
    assert!(unknown.text().contains("there is no node"), "{}", unknown.text());
    let other = fleet.post(0, ROLLOUT, plan(json!({ "image": hex::encode([9; 32]) }))).await;
    assert!(other.text().contains("the policy in force would not allow"), "{}", other.text());

    // Two owners start at once, on two nodes.
    let order = json!({ "nodes": ["node-1", "node-2", "node-0"] });
    let (one, two) = tokio::join!(
        fleet.post(0, ROLLOUT, plan(order.clone())),
        fleet.post(1, ROLLOUT, plan(order.clone()))
    );
    let loser = match (one.status, two.status) {
        (200, 400 | 409) => 1,
        (400 | 409, 200) => 0,
        statuses => panic!("{statuses:?} {} {}", one.text(), two.text()),
    };
    // A slow node may not have known yet that the others serve (400). Since one rollout runs, it refuses another.
    eventually("the second is refused", async || {
        let again = fleet.post(loser, ROLLOUT, plan(order.clone())).await;
        assert!(matches!(again.status, 400 | 409), "{}", again.text());
        (again.status == 409).then_some(())
    })
    .await;

    for (at, name) in [(1, "node-1"), (2, "node-2"), (0, "node-0")] {
        let other = (at + 1) % 3;
        fleet.reaches(other, name, "replacing").await;
        let ready = fleet.nodes[at].caller().get("/readyz").await;
        assert!(ready.status == 503 && ready.text().contains("draining"), "{}", ready.text());
        fleet.reboots(at, NEW).await;
        fleet.reaches(other, name, "done").await;
        fleet.releases(at).await;
    }
    let ended = fleet.rollout(1, "the end", |rollout| rollout["state"] == "done").await;
    assert_eq!(ended["failed"], false, "{ended}");
    let done = operation(&fleet, 1).await;
    assert_eq!(
        (&done["id"], &done["state"], &done["over"], &done["succeeded"]),
        (&ended["id"], &json!("done"), &json!(true), &json!(true))
    );
    assert_eq!(done["stages"].as_array().expect("stages").len(), 3, "{done}");
    eventually("the end on the third node", async || {
        let metrics = fleet.nodes[2].caller().get("/metrics").await;
        metrics.text().contains("cvm_kms_rollout_nodes{step=\"done\"} 3").then_some(())
    })
    .await;
    let events = |name: &str| fleet.nodes.iter().flat_map(|node| node.audited(name)).collect::<Vec<_>>();
    assert_eq!(events("rollout_started").len(), 1);
    let ends = eventually("the end in a log", async || {
        Some(events("rollout_ended")).filter(|ends| !ends.is_empty())
    });
    let ends = ends.await;
    assert_eq!((ends.len(), &ends[0]["state"], &ends[0]["done"]), (1, &json!("done"), &json!(3)));
    let done = eventually("three steps in the logs", async || {
        let steps = events("rollout_node").into_iter().filter(|event| event["to"] == "done");
        Some(steps.collect::<Vec<_>>()).filter(|steps| steps.len() >= 3)
    });
    let done = done.await;
    assert_eq!(done.len(), 3, "each step is recorded once: {done:?}");
    let again = fleet.post(2, ROLLOUT, plan(json!({}))).await;
    assert!(again.text().contains("runs this image already"), "{}", again.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wrong_image_pauses_and_an_owner_goes_on() {
    let mut fleet = Fleet::to_be_replaced(2).await;
    let started = async || {
        let answer = fleet.post(0, ROLLOUT, plan(json!({}))).await;
        (answer.status == 200).then_some(())
    };
    eventually("a start", started).await;
    fleet.reaches(1, "node-0", "replacing").await;
    fleet.reboots(0, WRONG).await;
    let paused = fleet.rollout(1, "a pause", |rollout| rollout["state"] == "paused").await;
    assert_eq!((&paused["failed"], &paused["nodes"][0]["step"]), (&json!(true), &json!("failed")));
    let reason = paused["nodes"][0]["reason"].as_str().expect("a reason");
    assert!(
        reason.contains(&format!("came back with the OS image {}", hex::encode([WRONG; 32]))),
        "{reason}"
    );
    eventually("the record", async || {
        let failed = fleet.nodes.iter().flat_map(|node| node.audited("rollout_failed")).count();
        (failed == 1).then_some(())
    })
    .await;
    let metrics = fleet.nodes[1].caller().get("/metrics").await;
    assert!(metrics.text().contains("cvm_kms_rollout_paused_by_failure 1"), "{}", metrics.text());
    // Every node has it, also one that has just started.
    assert_eq!(
        steps(&fleet.rollout(0, "the pause", |rollout| rollout["state"] == "paused").await)[0].1,
        "failed"
    );

    let stopped = operation(&fleet, 1).await;
    assert_eq!((&stopped["state"], &stopped["over"]), (&json!("paused"), &json!(false)));
    let advice = stopped["advice"].as_str().expect("advice");
    assert!(advice.contains("kmsctl rollout retry node-0"), "{advice}");
    assert_eq!(
        (&stopped["stages"][0]["node"], &stopped["stages"][0]["stage"]),
        (&json!("node-0"), &json!("failed"))
    );

    let refused = fleet.post(1, &format!("{ROLLOUT}/retry"), json!({ "node": "node-1" })).await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    fleet.order(1, "retry", json!({ "node": "node-0" })).await;
    fleet.reaches(1, "node-0", "replacing").await;
    fleet.reboots(0, NEW).await;
    fleet.reaches(0, "node-1", "replacing").await;
    let own = fleet.order(1, "skip", json!({ "node": "node-1" })).await;
    assert_eq!(own["nodes"][1]["step"], "skipped");
    fleet.rollout(0, "the end", |rollout| rollout["state"] == "done").await;
    fleet.releases(1).await;
    let over = fleet.post(0, &format!("{ROLLOUT}/cancel"), Value::Null).await;
    assert!(over.status == 409 && over.text().contains("over"), "{}", over.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_is_not_done_in_time_fails_and_a_cancel_ends_it() {
    let fleet = Fleet::to_be_replaced(2).await;
    let body = plan(json!({ "node_timeout": 3 }));
    let started = async || (fleet.post(1, ROLLOUT, body.clone()).await.status == 200).then_some(());
    eventually("a start", started).await;
    let paused = fleet.rollout(0, "a pause", |rollout| rollout["state"] == "paused").await;
    let reason = paused["nodes"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("was not done within 3 s"), "{reason}");
    // It serves again: nothing was done to it.
    eventually("no drain", async || {
        (fleet.nodes[0].caller().get("/readyz").await.status == 200).then_some(())
    })
    .await;
    let ended = fleet.order(1, "cancel", Value::Null).await;
    assert_eq!((&ended["state"], &ended["reason"]), (&json!("cancelled"), &json!("by token")));
    fleet.rollout(0, "the end on all nodes", |rollout| rollout["state"] == "cancelled").await;
    let cancelled = operation(&fleet, 0).await;
    assert_eq!(
        (&cancelled["state"], &cancelled["over"], &cancelled["succeeded"]),
        (&json!("cancelled"), &json!(true), &json!(false))
    );
    eventually("the end in the log", async || {
        let ends = fleet.nodes[1].audited("rollout_ended");
        ends.first().map(|end| assert_eq!((&end["state"], &end["failed"]), (&json!("cancelled"), &json!(1))))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancelled_rollout_drains_no_node_and_says_so() {
    let fleet = Fleet::to_be_replaced(2).await;
    let body = plan(json!({ "drain_for": 300 }));
    let started = async || (fleet.post(0, ROLLOUT, body.clone()).await.status == 200).then_some(());
    eventually("a start", started).await;
    fleet.reaches(1, "node-0", "draining").await;
    let ready = async || fleet.nodes[0].caller().get("/readyz").await.status;
    eventually("a drain", async || (ready().await == 503).then_some(())).await;
    let ended = fleet.order(1, "cancel", Value::Null).await;
    let (node, at) = (&ended["nodes"][0], &ended["ended_at"]);
    assert_eq!((&node["step"], &node["since"]), (&json!("skipped"), at), "{ended}");
    assert_eq!(node["reason"], "the rollout was cancelled while it was draining; its drain is over");
    assert_eq!(ended["nodes"][1]["step"], "waiting", "{ended}");
    eventually("the end of the drain", async || (ready().await == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_cancel_no_program_starts_and_the_end_is_recorded_once() {
    let fleet = Fleet::to_be_replaced(2).await;
    let body = plan(json!({ "driven": true }));
    let started = async || (fleet.post(0, ROLLOUT, body.clone()).await.status == 200).then_some(());
    eventually("a start", started).await;
    let driver = "a".repeat(32);
    let step = json!({ "driver": driver });
    let next = eventually("a node to replace", async || {
        let view = fleet.done(0, "POST", STEP, step.clone()).await;
        (view["next"]["do"] == "replace").then(|| view["next"].clone())
    })
    .await;
    fleet.order(1, "cancel", Value::Null).await;
    let (node, attempt) = (&next["node"], &next["attempt"]);
    let starts = json!({ "driver": driver, "hook": { "node": node, "attempt": attempt, "says": "starts", "seconds": 60 } });
    for at in 0..2 {
        let refused = fleet.post(at, STEP, starts.clone()).await;
        assert_eq!((refused.status, &refused.value()["code"]), (409, &json!("rollout_moved_on")));
        assert!(refused.text().contains("the rollout is cancelled"), "{}", refused.text());
        let view = fleet.done(at, "POST", STEP, step.clone()).await;
        assert_eq!(view["next"]["do"], "end", "{view}");
    }
    // What is recorded now is after whatever these calls have recorded.
    for at in 0..2 {
        let made = json!({ "name": format!("viewer-{at}"), "role": "viewer" });
        fleet.done(at, "POST", "/api/v1/credentials", made).await;
    }
    let ends = fleet.nodes.iter().flat_map(|node| node.audited("rollout_ended")).collect::<Vec<_>>();
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert_eq!(
        (&ends[0]["state"], &ends[0]["skipped"]),
        (&json!("cancelled"), &json!(1)),
        "the node in work"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_driver_goes_on_at_another_node_and_never_below_the_minimum() {
    let mut fleet = Fleet::to_be_replaced(3).await;
    let body = plan(json!({ "driven": true, "nodes": ["node-1", "node-2"], "min_serving": 2 }));
    let started = async || (fleet.post(0, ROLLOUT, body.clone()).await.status == 200).then_some(());
    eventually("a start", started).await;
    let waiting = fleet.rollout(0, "the plan", |rollout| rollout["state"] == "running").await;
    assert!(waiting["waits_for"].as_str().expect("a text").contains("no driver acts"), "{waiting}");

    // One of the two that must serve does not.
    fleet.nodes[2].stop().await;
    eventually("silence", async || {
        let view = fleet.done(0, "GET", "/api/v1/fleet", Value::Null).await;
        (view["nodes"][2]["answers"] == false).then_some(())
    })
    .await;
    let [first, second] = ["a", "b"].map(|letter| letter.repeat(32));
    let step = |driver: &str| json!({ "driver": driver });
    eventually("too few", async || {
        let view = fleet.done(0, "POST", STEP, step(&first)).await;
        let waits = view["rollout"]["waits_for"].as_str().unwrap_or_default().to_owned();
        assert_eq!(view["rollout"]["nodes"][0]["attempt"], 0, "{view}");
        waits.contains("1 other nodes serve, 2 are needed").then_some(())
    })
    .await;
    fleet.nodes[2].start().await.expect("it starts");
    let replace = async |node: usize, driver: &str| {
        let asked = async || {
            let view = fleet.done(node, "POST", STEP, step(driver)).await;
            (view["next"]["do"] == "replace").then(|| view["next"].clone())
        };
        eventually("a node to replace", asked).await
    };
    let next = replace(0, &first).await;
    assert_eq!((&next["node"], &next["attempt"]), (&json!("node-1"), &json!(1)));
    let other = fleet.post(1, STEP, step(&second)).await;
    assert!(other.status == 409 && other.text().contains("another driver acts"), "{}", other.text());
    let report = |says: &str| json!({ "node": "node-1", "attempt": 1, "says": says, "seconds": 60 });
    let says = |driver: &str, word: &str| json!({ "driver": driver, "hook": report(word) });
    let view = fleet.done(0, "POST", STEP, says(&first, "starts")).await;
    assert_eq!(view["next"]["do"], "replacing", "{view}");
    let twice = fleet.post(0, STEP, says(&first, "starts")).await;
    assert!(twice.status == 409 && twice.text().contains("it was started before"), "{}", twice.text());

    // The node that the driver called goes away, and the program has replaced its node.
    fleet.nodes[0].stop().await;
    fleet.reboots(1, NEW).await;
    let view = fleet.done(2, "POST", STEP, says(&first, "succeeded")).await;
    assert_ne!(view["rollout"]["nodes"][0]["step"], "replacing", "{view}");
    fleet.nodes[0].start().await.expect("it starts");
    eventually("the first node is done", async || {
        let view = fleet.done(2, "POST", STEP, step(&first)).await;
        (view["rollout"]["nodes"][0]["step"] == "done").then_some(())
    })
    .await;
    // Another driver takes over, whose program fails.
    let view = fleet.done(0, "POST", STEP, json!({ "driver": second, "take_over": true })).await;
    assert_eq!(view["rollout"]["state"], "running");
    let lost = fleet.post(0, STEP, step(&first)).await;
    assert_eq!(lost.status, 409, "{}", lost.text());
    let replace = async || {
        let view = fleet.done(0, "POST", STEP, step(&second)).await;
        (view["next"]["do"] == "replace").then(|| view["next"].clone())
    };
    assert_eq!(eventually("the second node", replace).await["node"], "node-2");
    let report = |says: &str| json!({ "node": "node-2", "attempt": 1, "says": says, "seconds": 60, "reason": "exit code 3" });
    fleet.done(0, "POST", STEP, json!({ "driver": second, "hook": report("starts") })).await;
    let view = fleet.done(0, "POST", STEP, json!({ "driver": second, "hook": report("failed") })).await;
    assert_eq!((&view["next"]["do"], &view["rollout"]["failed"]), (&json!("paused"), &json!(true)));
    assert!(view["rollout"]["reason"].as_str().expect("a reason").contains("exit code 3"), "{view}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_an_operator_drains_does_not_serve_and_is_waited_for() {
    let mut fleet = Fleet::to_be_replaced(2).await;
    let both = plan(json!({ "nodes": ["node-0", "node-1"] }));
    eventually("a plan", async || {
        let mut preview = both.clone();
        preview["preview"] = json!(true);
        (fleet.post(0, ROLLOUT, preview).await.status == 200).then_some(())
    })
    .await;
    fleet.acted(0, "drain", Some("node-1")).await;
    // Known from the shared state, whatever its last report says.
    let alone = fleet.post(0, ROLLOUT, plan(json!({ "nodes": ["node-0"] }))).await;
    assert!(alone.status == 400 && alone.text().contains("0 other nodes serve"), "{}", alone.text());
    let alone = fleet.post(0, ROLLOUT, plan(json!({ "nodes": ["node-1"] }))).await;
    assert!(alone.text().contains("node-1 is drained by token"), "{}", alone.text());
    let together = fleet.post(0, ROLLOUT, both.clone()).await;
    assert!(together.text().contains("node-1 is drained by token"), "the cause: {}", together.text());
    fleet.acted(0, "undrain", Some("node-1")).await;
    let started = async || (fleet.post(0, ROLLOUT, both.clone()).await.status == 200).then_some(());
    eventually("a start", started).await;
    fleet.reaches(1, "node-0", "replacing").await;

    // One that waits is left to the operator.
    fleet.acted(0, "drain", Some("node-1")).await;
    fleet.reboots(0, NEW).await;
    fleet.reaches(1, "node-0", "done").await;
    let waits = |rollout: &Value| {
        let waits = rollout["waits_for"].as_str().unwrap_or_default();
        waits.contains("node-1 is drained by token") && steps(rollout)[1].1 != "healthy"
    };
    let waiting = fleet.rollout(0, "the drain", waits).await;
    assert_eq!(waiting["nodes"][1]["step"], "waiting", "{waiting}");
    fleet.acted(0, "undrain", Some("node-1")).await;
    fleet.reaches(0, "node-1", "replacing").await;

    // One that is replaced comes back drained, and is not done before the operator says so.
    fleet.acted(1, "drain", None).await;
    fleet.is_shared(1, "node-1").await;
    fleet.reboots(1, NEW).await;
    fleet.reaches(0, "node-1", "checking").await;
    let waiting = fleet.rollout(0, "the drain again", waits).await;
    assert_eq!(waiting["nodes"][1]["step"], "checking", "{waiting}");
    fleet.acted(0, "undrain", Some("node-1")).await;
    fleet.reaches(0, "node-1", "done").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_image_that_the_policy_no_longer_allows_is_not_begun_and_the_reason_is_shown() {
    let fleet = Fleet::to_be_replaced(2).await;
    let started = async || (fleet.post(0, ROLLOUT, plan(json!({}))).await.status == 200).then_some(());
    eventually("a start", started).await;
    fleet.reaches(1, "node-0", "replacing").await;
    for node in &fleet.nodes {
        node.allowlist.change(|rules| {
            let images = rules["osImages"].as_array_mut().expect("a list");
            images.retain(|image| *image != json!(hex::encode([NEW; 32])));
        });
    }
    fleet.order(1, "skip", json!({ "node": "node-0" })).await;
    for node in [0, 1] {
        let is_told = |rollout: &Value| {
            let waits = rollout["waits_for"].as_str().unwrap_or_default();
            steps(rollout)[1].1 == "waiting" && waits.contains("would not allow")
        };
        fleet.rollout(node, "the refusal of the policy", is_told).await;
    }
    fleet.order(0, "cancel", Value::Null).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_changes_need_two_owners_a_start_does() {
    let fleet = Fleet::to_be_replaced_with(2, "core.admin.approvals = 2").await;
    let made = fleet.done(0, "POST", "/api/v1/credentials", json!({ "name": "bob", "role": "owner" })).await;
    let bob = made["token"].as_str().expect("a token");
    let asked = async || {
        let answer = fleet.post(0, ROLLOUT, plan(json!({}))).await;
        (answer.value()["code"] == "approval_needed").then(|| answer.value()["approval"].clone())
    };
    let waiting = eventually("a request", asked).await;
    assert_eq!(waiting["action"], "start_rollout");
    assert!(waiting["detail"].as_str().expect("a text").contains("over node-0, node-1"), "{waiting}");
    assert!(fleet.done(0, "GET", ROLLOUT, Value::Null).await["rollout"].is_null(), "nothing was started");
    let approve = format!("/api/v1/approvals/{}/approve", waiting["id"].as_str().expect("an id"));
    let approved = fleet.send(0, "POST", &approve, Value::Null, bob).await;
    assert_eq!(approved.value()["state"], "done", "{}", approved.text());
    let started = fleet.rollout(1, "the start", |rollout| rollout["state"] == "running").await;
    assert!(started["by"].as_str().expect("a name").contains("bob"), "{started}");
}

#[tokio::test]
async fn with_files_nothing_is_rolled_out() {
    let world = World::ready().await;
    let operator = crate::support::operator::Operator::of(&world).await;
    let ask = async |verb: &str, body: String| {
        operator.send(crate::support::http::request(verb, ROLLOUT, body)).await
    };
    let shown = ask("GET", String::new()).await.value();
    assert_eq!((&shown["shared"], &shown["next"]["do"]), (&json!(false), &json!("end")), "{shown}");
    let refused = ask("POST", plan(json!({})).to_string()).await;
    assert!(
        refused.status == 400 && refused.text().contains("this KMS shares no state"),
        "{}",
        refused.text()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_order_that_the_database_did_not_confirm_is_in_the_log() {
    let fleet = Fleet::to_be_replaced(2).await;
    eventually("the start", async || {
        (fleet.post(0, ROLLOUT, plan(json!({}))).await.status == 200).then_some(())
    })
    .await;
    // Nothing else of it is written then.
    fleet.order(0, "pause", json!({})).await;
    fleet
        .postgres
        .run(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(7.5); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON kms_head DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .await;
    let left = fleet.post(0, &format!("{ROLLOUT}/skip"), json!({ "node": "node-1" })).await;
    assert!(left.status != 200 && left.text().contains("did not confirm the change"), "{}", left.text());
    let change = eventually("the record", async || {
        let changes = fleet.nodes[0].audited("rollout_changed");
        changes.into_iter().find(|change| change["change"] == "skip")
    })
    .await;
    assert_eq!(
        (&change["node"], &change["unconfirmed"], &change["by"]),
        (&json!("node-1"), &json!(true), &json!("token")),
        "{change}"
    );
    let paused = &fleet.nodes[0].audited("rollout_changed")[0];
    assert!(paused["change"] == "pause" && paused["unconfirmed"].is_null(), "{paused}");
}
