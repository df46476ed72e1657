//! Chaos: a fleet of `kms` processes with one PostgreSQL server, which are killed, suspended, cut off from each other and brought
//! back with an older database, while callers get keys and operators freeze and unfreeze apps: `just chaos` (ten minutes).
//!
//! Checked all the time: no app ever gets other keys than its first; a node that answered that it has frozen an app does not release
//! its keys any more; no other node does so for a request that is sent later than `max_view_age` after a freeze that all have.
//! Checked in the end: all nodes are ready, agree and release again; their audit logs verify, hold what they held at each kill, and
//! have each record of which a receipt was given, one for each key that was handed out. Faults come from a seed, which is printed
//! first and replays them:
//!
//! - `--seed=N`, `--minutes=N` (may be a fraction), `--nodes=N` (default 4);
//! - `--schedule`: prints the faults, and does nothing;
//! - `--sabotage=NAME`: makes the run fail, to show that it can: `warn` (nodes release although they are stale), `key` (callers say
//!   that they got other keys), `ledger` (records are removed from the audit log of a killed node), `record` (one is removed from a
//!   log whose node has ended), `freeze` (a node does not share the state).
//!
//! `--figures` measures freezes instead: see `figures.rs`.

#[path = "../../tests/support/mod.rs"]
mod support;

mod checker;
mod databases;
mod figures;
mod ledgers;
mod nodes;
mod people;
mod schedule;

use std::fmt::Debug;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::{JoinSet, block_in_place};

use checker::Checker;
use databases::{Databases, unreachable};
use ledgers::Ledgers;
use nodes::{Nodes, Sharing};
use schedule::{Fault, Planned, Random, schedule};
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
    /// The last release is removed from the log of a node that has ended, with what follows.
    Record,
    /// A node does not share the state, and so ignores what is frozen on others.
    Freeze,
}

impl FromStr for Sabotage {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "warn" => Ok(Self::Warn),
            "key" => Ok(Self::Key),
            "ledger" => Ok(Self::Ledger),
            "record" => Ok(Self::Record),
            "freeze" => Ok(Self::Freeze),
            _ => Err("warn, key, ledger, record or freeze"),
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
    if std::env::args().any(|given| given == "--figures") {
        return match runtime.block_on(figures::measure(nodes)) {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        };
    }
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
    let sharing = if sabotage == Some(Sabotage::Freeze) { Sharing::AllButFirst } else { Sharing::All };
    let nodes = Arc::new(Nodes::start(count, &[&main], &toml, sharing).await);
    let patience = if sabotage.is_some() { Duration::from_secs(5) } else { RECOVERY };
    let checker = Arc::new(Checker::new(APPS, MAX_VIEW_AGE, patience));
    let callers = people::callers(&nodes, &checker, APPS, PAUSE, sabotage).await;
    let (stop, stopped) = watch::channel(false);
    let mut operators = JoinSet::new();
    for app in 0..APPS {
        let (nodes, checker, stopped) = (Arc::clone(&nodes), Arc::clone(&checker), stopped.clone());
        let random = Random::stream(seed, app as u64 + 1);
        operators.spawn(people::operator(nodes, checker, app, random, MAX_VIEW_AGE, stopped));
    }
    let databases = Databases::new(main, other);
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
                    remove_from(node, "");
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
                if !matches!(network, Network::Slow(_)) {
                    let what = format!("Network {network:?}");
                    unreachable(&self.nodes, &[node], lasts, &what, &self.checker).await;
                }
                proxy.set(Network::Whole);
            }
            Fault::Database(database) => {
                self.databases.fail(database, lasts, &self.nodes, &self.checker).await
            }
        }
        let kind = format!("{fault:?}");
        let kind = kind.split(['(', ' ']).next().unwrap_or_default();
        self.checker.count(&match fault {
            Fault::Database(database) => format!("faults: Database {database:?}"),
            Fault::Killed(_) | Fault::Paused(_) | Fault::Network(..) => format!("faults: {kind}"),
        });
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
                if began.elapsed() > self.checker.patience {
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
                    if began.elapsed() > self.checker.patience {
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
        if self.sabotage == Some(Sabotage::Record) {
            remove_from(&self.nodes.nodes[0], "app_key_released");
        }
        let (recorded, bytes) = self.ledgers.check(&self.nodes, checker).await;
        for (what, count) in checker.counts() {
            println!("{count:>8} {what}");
        }
        println!(
            "{recorded:>8} releases in the audit logs, of {} bytes each, which were looked at after {} kills",
            bytes / recorded.max(1),
            self.ledgers.noted()
        );
        for needed in ["freezes that all nodes have", "refused where it must be"] {
            if checker.counted(needed) == 0 {
                checker.violated(format!("0 {needed}: nothing was tested"));
            }
        }
    }
}

/// Removes the last record with these words from the log of a node that does not run, and all that follow.
fn remove_from(node: &nodes::Node, words: &str) {
    let text = std::fs::read_to_string(node.ledger()).expect("a log");
    let found = text.trim_end().rfind(words).unwrap_or_default();
    let end = text[..found].rfind('\n').map_or(0, |end| end + 1);
    std::fs::write(node.ledger(), &text[..end]).expect("a log");
}
