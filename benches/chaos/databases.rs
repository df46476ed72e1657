//! What becomes of the database, and whether the nodes notice it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::block_in_place;

use crate::MAX_VIEW_AGE;
use crate::checker::Checker;
use crate::nodes::{Node, Nodes};
use crate::people;
use crate::schedule::Database;
use crate::support::postgres::Postgres;

/// The pause before something is looked at again.
const AGAIN: Duration = Duration::from_millis(50);

/// The databases of a run.
pub(crate) struct Databases {
    /// What all nodes use.
    main: Mutex<Postgres>,
    /// What they reach instead, at times. An older dump of the first is in its directory.
    other: Postgres,
}

impl Databases {
    pub(crate) fn new(main: Postgres, other: Postgres) -> Self {
        block_in_place(|| main.dump(&other.path("backup.sql")));
        Self { main: Mutex::new(main), other }
    }

    /// Lets the database fail for some time.
    pub(crate) async fn fail(&self, fault: Database, lasts: Duration, nodes: &Nodes, checker: &Checker) {
        let mut main = self.main.lock().await;
        let all: Vec<_> = (0..nodes.nodes.len()).collect();
        let what = format!("{fault:?}");
        match fault {
            Database::Paused => {
                main.pause();
                tokio::time::sleep(lasts).await;
                unreachable(nodes, &all, lasts, &what, checker).await;
                main.go_on();
            }
            Database::Restarted => {
                main.shut_down().await;
                tokio::time::sleep(lasts).await;
                unreachable(nodes, &all, lasts, &what, checker).await;
                main.resume().await;
            }
            Database::Crashed => {
                block_in_place(|| main.stop());
                tokio::time::sleep(lasts).await;
                unreachable(nodes, &all, lasts, &what, checker).await;
                main.resume().await;
            }
            Database::Replaced => {
                block_in_place(|| self.other.restore(&self.other.path("backup.sql")));
                change(nodes, checker).await;
                forward(&nodes.nodes, &self.other.socket());
                tokio::time::sleep(lasts).await;
                disbelieved(nodes, &what, checker).await;
                forward(&nodes.nodes, &main.socket());
                self.back_up(&main);
            }
            Database::RolledBack => {
                change(nodes, checker).await;
                forward(&nodes.nodes, &self.other.path("nowhere"));
                block_in_place(|| main.restore(&self.other.path("backup.sql")));
                forward(&nodes.nodes, &main.socket());
                tokio::time::sleep(lasts).await;
                disbelieved(nodes, &what, checker).await;
                let began = Instant::now();
                while !people::repair(nodes).await {
                    if began.elapsed() > checker.patience {
                        return checker.violated("the fleet could not be repaired".to_owned());
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                self.back_up(&main);
            }
            Database::FailedOver => {
                let standby = main.standby().await;
                let killed = Instant::now();
                block_in_place(|| main.stop());
                standby.promote().await;
                forward(&nodes.nodes, &standby.socket());
                change(nodes, checker).await;
                let took = killed.elapsed().as_secs_f64();
                println!(
                    "{:7.1} s  the standby has a change {took:.2} s after the database was killed",
                    checker.elapsed().as_secs_f64()
                );
                tokio::time::sleep(lasts).await;
                let mut old = std::mem::replace(&mut *main, standby);
                // Somebody starts it again, as if it were still the one.
                old.resume().await;
                old.follows_nobody().await;
                forward(&nodes.nodes, &old.socket());
                disbelieved(nodes, "an old primary that is back", checker).await;
                forward(&nodes.nodes, &main.socket());
            }
        }
    }

    fn back_up(&self, main: &Postgres) {
        block_in_place(|| main.dump(&self.other.path("backup.sql")));
    }
}

/// These nodes reach the database at this socket from now on.
fn forward<'a>(nodes: impl IntoIterator<Item = &'a Node>, socket: &Path) {
    nodes.into_iter().for_each(|node| node.proxies[0].forward_to(socket));
}

/// Changes something that all nodes share, so that what the database held before is older.
async fn change(nodes: &Nodes, checker: &Checker) {
    let began = Instant::now();
    let mut id = [0; 20];
    aws_lc_rs::rand::fill(&mut id).expect("randomness");
    for node in nodes.nodes.iter().cycle() {
        if people::freeze_id(node, id).await == Some(true) {
            return;
        }
        if began.elapsed() > checker.patience {
            return checker.violated("no node can change what all share".to_owned());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Checks that these nodes, which did not reach the database for as long as `lasted`, know that they are stale.
pub(crate) async fn unreachable(
    nodes: &Nodes,
    which: &[usize],
    lasted: Duration,
    what: &str,
    checker: &Checker,
) {
    if lasted < MAX_VIEW_AGE + Duration::from_secs(1) {
        return checker.count(&format!("too short to be noticed: {what}"));
    }
    for node in which {
        // One that is killed or suspended says nothing.
        let Some(view) = nodes.nodes[*node].view().await else { continue };
        match view["stale"].is_null() {
            true => checker.violated(format!("node {node} does not notice: {what}")),
            false => checker.count(&format!("noticed by a node: {what}")),
        }
    }
}

/// Waits until each node has said that it does not believe what the database shows.
async fn disbelieved(nodes: &Nodes, what: &str, checker: &Checker) {
    let began = Instant::now();
    let mut waiting: BTreeSet<_> = (0..nodes.nodes.len()).collect();
    while !waiting.is_empty() {
        if began.elapsed() > checker.patience {
            return checker.violated(format!("nodes {waiting:?} do not notice: {what}"));
        }
        for node in waiting.clone() {
            let view = nodes.nodes[node].view().await;
            if view.is_some_and(|view| !view["alarm"].is_null()) {
                checker.count(&format!("noticed by a node: {what}"));
                waiting.remove(&node);
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}
