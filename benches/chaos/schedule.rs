//! The faults of a run, all decided by its seed.

use std::fmt;
use std::time::Duration;

use crate::support::proxy::Network;

/// SplitMix64: the same numbers for the same seed, on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One of several independent sequences of a seed.
    pub(crate) fn stream(seed: u64, number: u64) -> Self {
        Self(Self(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95)).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.next() % (to - from))
    }
}

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A process is killed, and starts again in the end.
    Killed(usize),
    /// A process is suspended.
    Paused(usize),
    /// The network between a node and the database.
    Network(usize, Network),
    /// The database.
    Database(Database),
}

/// What becomes of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    /// Its processes are suspended.
    Paused,
    /// It is shut down in order, and starts again in the end.
    Restarted,
    /// It is shut down at once.
    Crashed,
    /// All nodes reach another one, with an older state.
    Replaced,
    /// An older dump is restored over it; in the end an operator repairs the fleet.
    RolledBack,
    /// It is shut down at once, and a standby takes over; in the end all nodes reach the old one for a while.
    FailedOver,
}

/// All of them, in the order of a run.
const DATABASES: [Database; 6] = [
    Database::Paused,
    Database::Replaced,
    Database::Crashed,
    Database::FailedOver,
    Database::RolledBack,
    Database::Restarted,
];

/// A fault with its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    /// Since the beginning.
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at.as_secs_f64(), self.lasts.as_secs_f64());
        write!(f, "{at:7.1} s, for {lasts:4.1} s: ")?;
        match self.fault {
            Fault::Killed(node) => write!(f, "node {node} is killed"),
            Fault::Paused(node) => write!(f, "node {node} is suspended"),
            Fault::Network(node, network) => write!(f, "the network of node {node}: {network:?}"),
            Fault::Database(database) => write!(f, "the database: {database:?}"),
        }
    }
}

/// No fault begins before this.
const QUIET: Duration = Duration::from_secs(3);
/// The database is left alone for this long after each fault, so that changes are shared in between.
const RECOVERY: Duration = Duration::from_secs(6);

/// The faults of a run, in order. All end within `time`. Different parts may fail at once.
pub(crate) fn schedule(seed: u64, nodes: usize, time: Duration) -> Vec<Planned> {
    let mut random = Random::new(seed);
    let (mut processes, mut networks) = (vec![QUIET; nodes], vec![QUIET; nodes]);
    let mut database = QUIET;
    // Each of them in turn, beginning anywhere, so that a short run has most of them.
    let mut database_turn = random.below(DATABASES.len());
    let (mut planned, mut at) = (Vec::new(), QUIET);
    while at < time {
        let node = random.below(nodes);
        let (fault, lasts, busy, rest) = match random.below(10) {
            0..=2 => {
                let fault = Fault::Killed(node);
                (fault, random.millis(500, 8_000), &mut processes[node], Duration::from_secs(2))
            }
            3..=4 => {
                let fault = Fault::Paused(node);
                (fault, random.millis(500, 9_000), &mut processes[node], Duration::from_secs(2))
            }
            5..=7 => {
                let network = match random.below(3) {
                    0 => Network::BlackHole,
                    1 => Network::Reset,
                    _ => Network::Slow(random.millis(100, 700)),
                };
                let fault = Fault::Network(node, network);
                (fault, random.millis(1_000, 12_000), &mut networks[node], Duration::from_secs(1))
            }
            _ => {
                let fault = Fault::Database(DATABASES[database_turn % DATABASES.len()]);
                (fault, random.millis(500, 8_000), &mut database, RECOVERY)
            }
        };
        if *busy <= at && at + lasts <= time {
            *busy = at + lasts + rest;
            planned.push(Planned { at, lasts, fault });
            if matches!(fault, Fault::Database(_)) {
                database_turn += 1;
            }
        }
        at += random.millis(200, 2_000);
    }
    planned
}
