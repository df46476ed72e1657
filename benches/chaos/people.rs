//! Callers that want their keys all the time, and operators who freeze and unfreeze apps on any node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_simulator::Cvm;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Sabotage;
use crate::checker::Checker;
use crate::nodes::{Node, Nodes};
use crate::schedule::Random;
use crate::support::{Answer, Identity, http};

/// The longest wait of a caller for an answer.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long an operator waits for an answer: longer than a node is suspended.
const OPERATOR: Duration = Duration::from_secs(40);
/// The pause of callers without a connection.
const AGAIN: Duration = Duration::from_millis(50);
/// Where callers are to lie, those of node 0 do from this many keys on.
const HONEST: usize = 50;

/// The id of an app.
pub(crate) fn app_id(app: usize) -> [u8; 20] {
    [0x60 + u8::try_from(app).expect("few apps"); 20]
}

/// A CVM of an app.
pub(crate) fn instance(nodes: &Nodes, app: usize, number: u8) -> Arc<Cvm> {
    let id = app_id(app);
    let builder = Cvm::builder(&nodes.world().platform).app_id(id).compose_hash([id[0]; 32]);
    let mut instance = id;
    instance[19] = number;
    builder.instance_id(&instance).build()
}

/// One caller of each app at each node, with `pause` after each answer, until the checker says that it is over.
pub(crate) async fn callers(
    nodes: &Arc<Nodes>,
    checker: &Arc<Checker>,
    apps: usize,
    pause: Duration,
    sabotage: Option<Sabotage>,
) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for app in 0..apps {
        // The same instance everywhere, so that all of its keys must be the same.
        let cvm = instance(nodes, app, 0);
        nodes.world().allow_app(&cvm);
        for node in 0..nodes.nodes.len() {
            let (nodes, checker, cvm) = (Arc::clone(nodes), Arc::clone(checker), Arc::clone(&cvm));
            callers.spawn(async move { ask(&nodes.nodes[node], app, &cvm, &checker, pause, sabotage).await });
        }
    }
    callers
}

async fn ask(
    node: &Node,
    app: usize,
    cvm: &Cvm,
    checker: &Checker,
    pause: Duration,
    sabotage: Option<Sabotage>,
) {
    let instance = hex::encode(cvm.instance_id());
    let caller = node.caller().shows(&Identity::self_issued(cvm)).http1();
    while !checker.is_over() {
        if let Ok(Ok(mut line)) = timeout(PATIENCE, caller.connect()).await {
            loop {
                let sent = Instant::now();
                let asked = timeout(PATIENCE, line.try_send(http::json("GetAppKey", json!({})))).await;
                let Ok(Ok(mut answer)) = asked else { break };
                if sabotage == Some(Sabotage::Key)
                    && node.number == 0
                    && checker.counted("keys handed out") >= HONEST
                {
                    lie(&mut answer);
                }
                checker.answered(app, node.number, &instance, sent, &answer);
                tokio::time::sleep(pause).await;
                if checker.is_over() {
                    return;
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What a node with other root keys would give.
fn lie(answer: &mut Answer) {
    let text = answer.text().replace("\"k256_key\":\"", "\"k256_key\":\"00");
    answer.body = text.into();
}

/// Freezes an app by its id on a node; whether the others have it. `None` if the node did not answer so.
pub(crate) async fn freeze_id(node: &Node, id: [u8; 20]) -> Option<bool> {
    let request = json!({ "scope": "app", "value": hex::encode(id), "reason": "a run of chaos" });
    let answer = timeout(OPERATOR, node.operate("Freeze", request)).await.ok()?.ok()?;
    (answer.status == 200).then(|| answer.value()["shared"] == true)
}

/// Freezes an app on a node; whether the others have it. `None` if the node did not answer so.
pub(crate) async fn freeze(node: &Node, app: usize, checker: &Checker) -> Option<bool> {
    let is_shared = freeze_id(node, app_id(app)).await?;
    checker.frozen(app, node.number, is_shared);
    checker.count(match is_shared {
        true => "freezes that all nodes have",
        false => "freezes that one node has",
    });
    Some(is_shared)
}

/// Unfreezes an app on a node. Whether it answered that it has.
pub(crate) async fn unfreeze(node: &Node, app: usize, checker: &Checker) -> bool {
    checker.may_thaw(app);
    let is_done = unfreeze_id(node, app_id(app)).await;
    if is_done {
        checker.count("freezes that were lifted");
    }
    is_done
}

/// Unfreezes an app by its id on a node. Whether it answered that it has.
pub(crate) async fn unfreeze_id(node: &Node, id: [u8; 20]) -> bool {
    let request = json!({ "scope": "app", "value": hex::encode(id) });
    let answer = timeout(OPERATOR, node.operate("Unfreeze", request)).await;
    answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200))
}

/// The operator of an app, who alone changes its state: freezes it on any node, again until the others have it, leaves it so for
/// longer than any node may take, and unfreezes it on any node.
pub(crate) async fn operator(
    nodes: Arc<Nodes>,
    checker: Arc<Checker>,
    app: usize,
    mut random: Random,
    bound: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let count = nodes.nodes.len();
    loop {
        if rests(random.millis(500, 4_000), &mut stop).await {
            return;
        }
        let mut node = random.below(count);
        loop {
            match freeze(&nodes.nodes[node], app, &checker).await {
                Some(true) => break,
                Some(false) => {}
                None => node = random.below(count),
            }
            if rests(Duration::from_millis(300), &mut stop).await {
                return;
            }
        }
        if rests(bound + random.millis(1_000, 4_000), &mut stop).await {
            return;
        }
        while !unfreeze(&nodes.nodes[random.below(count)], app, &checker).await {
            if rests(Duration::from_millis(300), &mut stop).await {
                return;
            }
        }
    }
}

/// Waits; whether it is time to stop.
async fn rests(pause: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    timeout(pause, stop.wait_for(|stop| *stop)).await.is_ok()
}

/// Writes the state of the node that has seen the newest over a database that went back. Whether it did.
pub(crate) async fn repair(nodes: &Nodes) -> bool {
    let newest = nodes.nodes.iter().max_by_key(|node| node.remembered()).expect("a node");
    let answer = timeout(OPERATOR, newest.route("POST", "/api/v1/fleet/repair")).await;
    answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200))
}

/// What a node answers another instance of an app.
pub(crate) async fn status(nodes: &Nodes, node: &Node, app: usize) -> Option<u16> {
    let cvm = instance(nodes, app, 1);
    let caller = node.caller().shows(&Identity::self_issued(&cvm)).http1();
    let answer = timeout(PATIENCE, caller.try_json("GetAppKey", json!({}))).await;
    answer.ok()?.ok().map(|answer| answer.status)
}
