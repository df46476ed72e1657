//! Chaos: a fleet of `kms` processes with one PostgreSQL server, which are killed, suspended, cut off from each other and brought
//! back with an older database, while callers get keys and operators freeze and unfreeze apps: `just chaos` (ten minutes).
//!
//! Checked all the time: no app ever gets other keys than its first; a node that answered that it has frozen an app does not release
//! its keys any more; no other node does so for a request that is sent later than `max_view_age` after a freeze that all have.
//! Checked in the end: all nodes are ready, agree and release again; their audit logs verify, hold what they held at each kill, and
//! have a record of each key that was handed out. Faults come from a seed, which is printed first and replays them:
//!
//! - `--seed=N`, `--minutes=N` (may be a fraction), `--nodes=N` (default 4);
//! - `--schedule`: prints the faults, and does nothing;
//! - `--sabotage=NAME`: makes the run fail, to show that it can: `warn` (nodes release although they are stale), `key` (callers say
//!   that they got other keys), `ledger` (records are removed from the audit log of a killed node).

#[path = "../../tests/support/mod.rs"]
mod support;

mod checker;
mod ledgers;
mod nodes;
mod people;
mod schedule;

use std::fmt::Debug;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinSet, block_in_place};

use checker::Checker;
use ledgers::Ledgers;
use nodes::Nodes;
use schedule::{Database, Fault, Planned, Random, schedule};
use support::postgres::Postgres;
use support::proxy::Network;

/// How many apps there are.
const APPS: usize = 5;
/// The pause of a caller after each answer: two cores must suffice for all.
const PAUSE: Duration = Duration::from_millis(60);
/// `core.postgres.max_view_age` of the nodes, the shortest possible.
const MAX_VIEW_AGE: Duration = Duration::from_secs(3);
/// After this time without faults, all nodes must agree and release, also on a machine that is busy with other things.
const RECOVERY: Duration = Duration::from_secs(60);

/// How a run is made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Nodes release although they are stale.
    Warn,
    /// Callers say that they got other keys.
    Key,
    /// Records are removed from the log of a killed node.
    Ledger,
}

impl FromStr for Sabotage {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "warn" => Ok(Self::Warn),
            "key" => Ok(Self::Key),
            "ledger" => Ok(Self::Ledger),
            _ => Err("warn, key or ledger"),
        }
    }
}

/// The value of `--NAME=VALUE`.
fn option<T: FromStr<Err: Debug>>(name: &str) -> Option<T> {
    let given = std::env::args().find_map(|given| Some(given.strip_prefix(name)?.to_owned()))?;
    Some(given.parse().unwrap_or_else(|error| panic!("{name}{given}: {error:?}")))
}

fn main() -> ExitCode {
    let seed = option("--seed=").unwrap_or_else(|| {
        let mut bytes = [0; 4];
        aws_lc_rs::rand::fill(&mut bytes).expect("randomness");
        u64::from(u32::from_be_bytes(bytes))
    });
    let minutes: f64 = option("--minutes=").unwrap_or(10.0);
    let nodes = option("--nodes=").unwrap_or(4_usize);
    let sabotage: Option<Sabotage> = option("--sabotage=");
    println!("--seed={seed} --minutes={minutes} --nodes={nodes}");
    let planned = schedule(seed, nodes, Duration::from_secs_f64(60.0 * minutes));
    if std::env::args().any(|given| given == "--schedule") {
        planned.iter().for_each(|planned| println!("{planned}"));
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let violations = runtime.block_on(run(seed, nodes, planned, sabotage));
    match violations {
        0 => ExitCode::SUCCESS,
        _ => {
            println!(
                "{violations} violations; the same faults again: --seed={seed} --minutes={minutes} --nodes={nodes}"
            );
            ExitCode::FAILURE
        }
    }
}

/// The databases of a run.
struct Databases {
    main: Mutex<Postgres>,
    /// What nodes reach instead, at times.
    other: Postgres,
    /// An older dump of the first.
    backup: Mutex<PathBuf>,
}

struct Run {
    nodes: Arc<Nodes>,
    databases: Databases,
    checker: Arc<Checker>,
    ledgers: Ledgers,
    sabotage: Option<Sabotage>,
}

/// How many violations there were.
async fn run(seed: u64, count: usize, planned: Vec<Planned>, sabotage: Option<Sabotage>) -> usize {
    let (main, other) = tokio::join!(Postgres::start(), Postgres::start());
    let when_stale = if sabotage == Some(Sabotage::Warn) { "warn" } else { "refuse" };
    let toml = format!(
        "core.postgres.max_view_age = \"{}s\"\ncore.postgres.when_stale = \"{when_stale}\"",
        MAX_VIEW_AGE.as_secs()
    );
    let nodes = Arc::new(Nodes::start(count, &[&main], &toml).await);
    let backup = main.path("backup.sql");
    block_in_place(|| main.dump(&backup));
    let checker = Arc::new(Checker::new(APPS, MAX_VIEW_AGE));
    let callers = people::callers(&nodes, &checker, APPS, PAUSE, sabotage).await;
    let (stop, stopped) = watch::channel(false);
    let mut operators = JoinSet::new();
    for app in 0..APPS {
        let (nodes, checker, stopped) = (Arc::clone(&nodes), Arc::clone(&checker), stopped.clone());
        let random = Random::stream(seed, app as u64 + 1);
        operators.spawn(people::operator(nodes, checker, app, random, MAX_VIEW_AGE, stopped));
    }
    let databases = Databases { main: Mutex::new(main), other, backup: Mutex::new(backup) };
    let ledgers = Ledgers::default();
    let run = Run { nodes, databases, checker, ledgers, sabotage };
    let faults = planned.into_iter().map(|planned| {
        let run = &run;
        async move {
            tokio::time::sleep(planned.at.saturating_sub(run.checker.elapsed())).await;
            println!("{planned}");
            run.happens(planned).await;
        }
    });
    join_all(faults).await;
    stop.send_replace(true);
    operators.join_all().await;
    run.recovers().await;
    run.checker.end();
    callers.join_all().await;
    run.ends().await;
    run.checker.violations()
}

impl Run {
    async fn happens(&self, planned: Planned) {
        let Planned { fault, lasts, .. } = planned;
        match fault {
            Fault::Killed(node) => {
                let node = &self.nodes.nodes[node];
                let mut process = node.process.lock().await;
                block_in_place(|| process.kill());
                self.ledgers.note(node, &self.checker);
                if self.sabotage == Some(Sabotage::Ledger) {
                    remove_a_record(node);
                }
                tokio::time::sleep(lasts).await;
                node.start_process(&mut process);
            }
            Fault::Paused(node) => {
                let process = self.nodes.nodes[node].process.lock().await;
                process.signal(Signal::STOP);
                tokio::time::sleep(lasts).await;
                process.signal(Signal::CONT);
            }
            Fault::Network(node, network) => {
                let proxy = &self.nodes.nodes[node].proxies[0];
                proxy.set(network);
                tokio::time::sleep(lasts).await;
                proxy.set(Network::Whole);
            }
            Fault::Database(database) => self.database(database, lasts).await,
        }
        let kind = format!("{fault:?}");
        let kind = kind.split(['(', ' ']).next().unwrap_or_default();
        self.checker.count(&match fault {
            Fault::Database(database) => format!("faults: Database {database:?}"),
            Fault::Killed(_) | Fault::Paused(_) | Fault::Network(..) => format!("faults: {kind}"),
        });
    }

    async fn database(&self, fault: Database, lasts: Duration) {
        let Databases { main, other, backup } = &self.databases;
        let mut main = main.lock().await;
        match fault {
            Database::Paused => {
                main.pause();
                tokio::time::sleep(lasts).await;
                main.go_on();
            }
            Database::Restarted => {
                main.shut_down().await;
                tokio::time::sleep(lasts).await;
                main.resume().await;
            }
            Database::Crashed => {
                block_in_place(|| main.stop());
                tokio::time::sleep(lasts).await;
                main.resume().await;
            }
            Database::Replaced => {
                let backup = backup.lock().await;
                block_in_place(|| {
                    // Another user's directory.
                    std::fs::copy(&*backup, other.path("backup.sql")).expect("a copy");
                    other.restore(&other.path("backup.sql"));
                });
                self.reach(other);
                tokio::time::sleep(lasts).await;
                self.reach(&main);
                block_in_place(|| main.dump(&backup));
            }
            Database::RolledBack => {
                let backup = backup.lock().await;
                block_in_place(|| main.restore(&backup));
                tokio::time::sleep(lasts).await;
                let began = Instant::now();
                while !people::repair(&self.nodes).await {
                    if began.elapsed() > RECOVERY {
                        return self.checker.violated("the fleet could not be repaired".to_owned());
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                block_in_place(|| main.dump(&backup));
            }
        }
    }

    /// All nodes reach this database from now on.
    fn reach(&self, database: &Postgres) {
        for node in &self.nodes.nodes {
            node.proxies[0].forward_to(&database.socket());
        }
    }

    /// Without faults, all nodes agree, and release what is not frozen.
    async fn recovers(&self) {
        let began = Instant::now();
        let (nodes, checker) = (&self.nodes.nodes, &self.checker);
        for node in nodes {
            loop {
                if node.agreed(nodes.len()).await.is_some() && node.is_ready().await {
                    break;
                }
                if began.elapsed() > RECOVERY {
                    let said = node.said();
                    return checker.violated(format!("node {} does not agree: {said}", node.number));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        println!("all nodes agree {:.1} s after the last fault", began.elapsed().as_secs_f64());
        for app in 0..APPS {
            if !people::unfreeze(&nodes[app % nodes.len()], app, checker).await {
                checker.violated(format!("app {app} cannot be unfrozen"));
            }
        }
        self.all(200, began).await;
        for app in 0..APPS {
            if people::freeze(&nodes[app % nodes.len()], app, checker).await != Some(true) {
                checker.violated(format!("app {app} cannot be frozen everywhere"));
            }
        }
        self.all(403, Instant::now()).await;
    }

    /// Waits until each node answers each app with this status.
    async fn all(&self, status: u16, began: Instant) {
        for app in 0..APPS {
            for node in &self.nodes.nodes {
                while people::status(&self.nodes, node, app).await != Some(status) {
                    if began.elapsed() > RECOVERY {
                        let number = node.number;
                        return self
                            .checker
                            .violated(format!("node {number} does not answer app {app} with {status}"));
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// Ends all nodes, and checks what they recorded.
    async fn ends(&self) {
        let checker = &self.checker;
        for node in &self.nodes.nodes {
            let status = node.process.lock().await.end().await;
            if status != Some(0) {
                checker.violated(format!("node {} ends with {status:?}: {}", node.number, node.said()));
            }
            if checker.counted(&format!("keys handed out by node {}", node.number)) == 0 {
                checker.violated(format!("node {} handed out no key: nothing was tested", node.number));
            }
        }
        let recorded = self.ledgers.check(&self.nodes, checker).await;
        for (what, count) in checker.counts() {
            println!("{count:>8} {what}");
        }
        println!(
            "{recorded:>8} releases in the audit logs, which were looked at after {} kills",
            self.ledgers.noted()
        );
        for needed in ["freezes that all nodes have", "refused where it must be"] {
            if checker.counted(needed) == 0 {
                checker.violated(format!("0 {needed}: nothing was tested"));
            }
        }
    }
}

/// Removes the last complete record from the log of a node that does not run.
fn remove_a_record(node: &nodes::Node) {
    let text = std::fs::read_to_string(node.ledger()).expect("a log");
    let end = text.trim_end().rfind('\n').map_or(0, |end| end + 1);
    std::fs::write(node.ledger(), &text[..end]).expect("a log");
}
