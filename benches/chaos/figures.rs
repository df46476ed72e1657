//! `--figures`: how long after the answer to a freeze each node still releases keys of what is frozen, at full load. Once while all is well,
//! then while the database fails over, is restarted, and is out of reach of one node.
//!
//! Full load: each node has as many callers of each app as [`LINES`], which ask again as soon as they are answered. How busy the
//! processors were is printed too. Unless a node is cut off from the database, more than [`BOUND`] fails the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::timeout;

use crate::nodes::{Node, Nodes, Sharing};
use crate::people;
use crate::support::postgres::Postgres;
use crate::support::proxy::Network;
use crate::support::{Identity, http};
use crate::{APPS, MAX_VIEW_AGE, RECOVERY};

/// The callers of an app at a node.
const LINES: usize = 2;
/// How often an app is frozen.
const FREEZES: usize = 40;
/// How often the database fails in each way.
const FAILURES: usize = 3;
/// The longest time that is allowed.
const BOUND: Duration = Duration::from_secs(2);

/// A caller.
struct Line {
    app: usize,
    node: usize,
    /// When it last got keys, in microseconds since the beginning.
    released: AtomicU64,
    /// When it sent the last request that was refused.
    refused: AtomicU64,
}

struct Load {
    began: Instant,
    lines: Vec<Line>,
    answers: AtomicUsize,
}

/// Measures with this number of nodes. How often the bound was exceeded.
pub(crate) async fn measure(count: usize) -> usize {
    let mut database = Postgres::start().await;
    let toml = format!("core.postgres.max_view_age = \"{}s\"", MAX_VIEW_AGE.as_secs());
    let nodes = Arc::new(Nodes::start(count, &[&database], &toml, Sharing::All).await);
    let load = Arc::new(Load::new(count));
    let mut callers = load.start(&nodes);
    load.all(&nodes, |_| true, Line::released, load.now()).await;
    println!(
        "{count} nodes, each with {} callers that ask again at once; from the answer to a freeze to the last release, in milliseconds:",
        APPS * LINES
    );
    let (began, answers, busy) = (Instant::now(), load.answers.load(Ordering::Relaxed), processors());
    let mut times = vec![Vec::new(); count];
    for turn in 0..FREEZES {
        let frozen = load.freeze(&nodes, turn, turn % count).await;
        times.iter_mut().zip(&frozen.times).for_each(|(times, time)| times.push(*time));
        load.thaw(&nodes, turn, turn % count).await;
    }
    let answers = load.answers.load(Ordering::Relaxed) - answers;
    let busy = processors() - busy;
    for (node, times) in times.iter_mut().enumerate() {
        times.sort_unstable();
        let [median, last] = [times[times.len() / 2], times[times.len() - 1]].map(millis);
        println!("  node {node}: median {median:7.1}, longest {last:7.1}");
    }
    let mut longest = times.iter().flatten().max().copied().unwrap_or_default();
    println!(
        "  longest {:.1} of {FREEZES} freezes; {:.0} answers a second, {:.2} processors busy",
        millis(longest),
        answers as f64 / began.elapsed().as_secs_f64(),
        busy.as_secs_f64() / began.elapsed().as_secs_f64()
    );
    for turn in 0..FAILURES {
        let standby = database.standby().await;
        let failed = Instant::now();
        block_in_place(|| database.stop());
        let follow = async {
            standby.promote().await;
            nodes.nodes.iter().for_each(|node| node.proxies[0].forward_to(&standby.socket()));
        };
        let (frozen, ()) = tokio::join!(load.freeze(&nodes, turn, turn % count), follow);
        frozen.print("the database fails over", failed);
        longest = longest.max(frozen.longest());
        database = standby;
        load.thaw(&nodes, turn, turn % count).await;
    }
    for turn in 0..FAILURES {
        let failed = Instant::now();
        block_in_place(|| database.stop());
        let (frozen, ()) = tokio::join!(load.freeze(&nodes, turn, turn % count), database.resume());
        frozen.print("the database is restarted", failed);
        longest = longest.max(frozen.longest());
        load.thaw(&nodes, turn, turn % count).await;
    }
    for turn in 0..FAILURES {
        let failed = Instant::now();
        let cut = &nodes.nodes[(turn + 1) % count].proxies[0];
        cut.set(Network::BlackHole);
        load.freeze(&nodes, turn, turn % count).await.print("one node does not reach the database", failed);
        cut.set(Network::Whole);
        load.thaw(&nodes, turn, turn % count).await;
    }
    callers.shutdown().await;
    usize::from(longest > BOUND)
}

fn millis(time: Duration) -> f64 {
    1000.0 * time.as_secs_f64()
}

/// The time for which the processors of this machine were busy.
fn processors() -> Duration {
    let text = std::fs::read_to_string("/proc/stat").expect("Linux");
    let fields: Vec<u64> = text
        .lines()
        .next()
        .expect("a line")
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    // In hundredths of a second: user, nice, system; then idle and waiting; interrupts.
    Duration::from_millis(10 * (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]))
}

/// What came of a freeze.
struct Frozen {
    answered: Instant,
    is_shared: bool,
    /// For each node, from the answer to the last release; none if there was none.
    times: Vec<Duration>,
}

impl Frozen {
    fn print(&self, what: &str, failed: Instant) {
        println!(
            "  {what}: answered after {:.1} (shared: {}), the last release {:.1} later",
            millis(self.answered - failed),
            self.is_shared,
            millis(self.longest())
        );
    }

    fn longest(&self) -> Duration {
        self.times.iter().max().copied().unwrap_or_default()
    }
}

impl Line {
    fn released(&self) -> u64 {
        self.released.load(Ordering::Relaxed)
    }

    fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    async fn ask(&self, node: &Node, nodes: &Nodes, number: u8, load: &Load) {
        let caller =
            node.caller().shows(&Identity::self_issued(&people::instance(nodes, self.app, number))).http1();
        loop {
            if let Ok(mut connection) = caller.connect().await {
                loop {
                    let sent = load.now();
                    let Ok(answer) = connection.try_send(http::json("GetAppKey", json!({}))).await else {
                        break;
                    };
                    match answer.status {
                        200 => self.released.store(load.now(), Ordering::Relaxed),
                        _ => self.refused.store(sent, Ordering::Relaxed),
                    }
                    load.answers.fetch_add(1, Ordering::Relaxed);
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Load {
    fn new(nodes: usize) -> Self {
        let line = |number| Line {
            app: number / LINES % APPS,
            node: number / LINES / APPS,
            released: AtomicU64::default(),
            refused: AtomicU64::default(),
        };
        let lines = (0..nodes * APPS * LINES).map(line).collect();
        Self { began: Instant::now(), lines, answers: AtomicUsize::default() }
    }

    /// Microseconds since the beginning.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn start(self: &Arc<Self>, nodes: &Arc<Nodes>) -> JoinSet<()> {
        let mut callers = JoinSet::new();
        for app in 0..APPS {
            nodes.world().allow_app(&people::instance(nodes, app, 0));
        }
        for number in 0..self.lines.len() {
            let (load, nodes) = (Arc::clone(self), Arc::clone(nodes));
            callers.spawn(async move {
                let line = &load.lines[number];
                let instance = u8::try_from(number % LINES).expect("few");
                line.ask(&nodes.nodes[line.node], &nodes, instance, &load).await;
            });
        }
        callers
    }

    /// Waits until for each of these lines, `time` is later than `since`.
    async fn all(
        &self,
        nodes: &Nodes,
        which: impl Fn(&Line) -> bool,
        time: impl Fn(&Line) -> u64,
        since: u64,
    ) {
        let waited = timeout(RECOVERY, async {
            while self.lines.iter().any(|line| which(line) && time(line) <= since) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if waited.await.is_err() {
            let late = self.lines.iter().find(|line| which(line) && time(line) <= since).expect("one");
            panic!("app {} at node {}: {}", late.app, late.node, nodes.nodes[late.node].said());
        }
    }

    /// Freezes an app on a node, and waits until all nodes refuse it.
    async fn freeze(&self, nodes: &Nodes, turn: usize, node: usize) -> Frozen {
        let app = turn % APPS;
        let is_shared = people::freeze_id(&nodes.nodes[node], people::app_id(app)).await.expect("a freeze");
        let (answered, since) = (Instant::now(), self.now());
        self.all(nodes, |line| line.app == app, Line::refused, since).await;
        let last = |node: usize| {
            let lines = self.lines.iter().filter(|line| (line.app, line.node) == (app, node));
            let last = lines.map(Line::released).max().unwrap_or_default();
            Duration::from_micros(last.saturating_sub(since))
        };
        Frozen { answered, is_shared, times: (0..nodes.nodes.len()).map(last).collect() }
    }

    /// Unfreezes it, and waits until all nodes release all apps again.
    async fn thaw(&self, nodes: &Nodes, turn: usize, node: usize) {
        let began = Instant::now();
        while !people::unfreeze_id(&nodes.nodes[node], people::app_id(turn % APPS)).await {
            assert!(began.elapsed() < RECOVERY, "it cannot be unfrozen: {}", nodes.nodes[node].said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.all(nodes, |_| true, Line::released, self.now()).await;
    }
}
