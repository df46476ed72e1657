//! Checks the newest block of a node, if one node is enough. It is compared with earlier blocks of the same
//! node, with the times of blocks, and with the nodes before it in the configuration, so that a false number
//! of one node excludes no other node.

use std::time::{Duration, Instant};

use super::block::Block;
use super::bounds::{BLOCKS_A_SECOND, MAX_BACK, MAX_LEAP};
use super::error::NodeError;

/// How much older than a block that decided a block with a far lower number may be, in seconds. All nodes
/// share the time, so the newest block of an honest node is not older than this, whatever number another node
/// reports.
const MAX_OLDER: u64 = 60;

/// How long a node must not contradict its own numbers, or jump over those of the nodes before it.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The newest block of each node that has decided, in the order of the configuration.
#[derive(Debug)]
pub(super) struct Marks {
    of: Vec<Option<Mark>>,
    /// How long a mark counts; after that, a block that is further behind is too old anyway.
    lifetime: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    number: u64,
    /// The time of the block in seconds since 1970, at most our time, so that a time in the future has no
    /// effect.
    time: u64,
    at: Instant,
}

/// The time of a check.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    /// Seconds since 1970.
    pub(super) unix: u64,
}

impl Marks {
    pub(super) fn new(nodes: usize, lifetime: Duration) -> Self {
        Self { of: vec![None; nodes], lifetime }
    }

    fn current(&self, now: Now) -> impl Iterator<Item = (usize, Mark, Duration)> {
        let marks = self.of.iter().enumerate().filter_map(|(node, mark)| mark.map(|mark| (node, mark)));
        marks
            .map(move |(node, mark)| (node, mark, now.instant.saturating_duration_since(mark.at)))
            .filter(|(_, _, age)| *age < self.lifetime)
    }

    /// Refuses a block that is far behind, or further ahead than a chain can grow.
    pub(super) fn judge(&self, node: usize, newest: Block, now: Now) -> Result<(), NodeError> {
        let number = newest.number;
        for (marked, mark, age) in self.current(now) {
            let highest = mark.number;
            let is_remembered = age < REMEMBERED;
            let is_older = mark.time.saturating_sub(newest.timestamp) > MAX_OLDER;
            let contradicts_itself = marked == node && is_remembered;
            if highest.saturating_sub(number) > MAX_BACK && (is_older || contradicts_itself) {
                return Err(NodeError::FarBack { number, highest });
            }
            let elapsed = age.as_secs().max(newest.timestamp.min(now.unix).saturating_sub(mark.time));
            let leap = MAX_LEAP.saturating_add(BLOCKS_A_SECOND.saturating_mul(elapsed));
            if marked <= node && is_remembered && number.saturating_sub(highest) > leap {
                return Err(NodeError::FarAhead { number, highest });
            }
        }
        Ok(())
    }

    /// Records the block of a node that decided. A slightly lower block does not replace the highest one.
    pub(super) fn note(&mut self, node: usize, newest: Block, now: Now) {
        let number = newest.number;
        let time = newest.timestamp.min(now.unix);
        let before = self.current(now).find(|(marked, ..)| *marked == node).map(|(_, mark, _)| mark);
        let mark = match before {
            Some(mark) if (mark.number.saturating_sub(MAX_BACK)..mark.number).contains(&number) => return,
            Some(mark) => Mark { number, time: time.max(mark.time), at: now.instant },
            None => Mark { number, time, at: now.instant },
        };
        if let Some(kept) = self.of.get_mut(node) {
            *kept = Some(mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(300);
    /// The honest chain at the beginning of a case, and its block time.
    const START: u64 = 1_000_000;
    const BEGAN: u64 = 1_700_000_000;
    const INTERVAL: u64 = 12;

    /// The newest block that a node reports in a second: number and time, or nothing.
    type Says = fn(u64) -> Option<(u64, u64)>;

    fn honest(second: u64) -> Option<(u64, u64)> {
        lagging(second, 0)
    }

    /// An honest node that is some blocks behind.
    fn lagging(second: u64, blocks: u64) -> Option<(u64, u64)> {
        let slot = second / INTERVAL;
        Some((START + slot - blocks, BEGAN + (slot * INTERVAL) - blocks * INTERVAL))
    }

    /// A number ahead of the honest chain, with the current time.
    fn ahead(second: u64, by: u64) -> Option<(u64, u64)> {
        Some((START + second / INTERVAL + by, BEGAN + second))
    }

    /// Tries the nodes in order once a second, as the policy does, and returns the node that decides in each second.
    fn story(nodes: &[Says], seconds: u64) -> Vec<Option<usize>> {
        let begin = Instant::now();
        let mut marks = Marks::new(nodes.len(), LIFETIME);
        let mut deciders = Vec::new();
        for second in 0..seconds {
            let now = Now { instant: begin + Duration::from_secs(second), unix: BEGAN + second };
            let decides = nodes.iter().enumerate().find_map(|(node, says)| {
                let (number, timestamp) = says(second)?;
                let block = Block { number, hash: [0; 32], timestamp };
                let is_recent = now.unix.saturating_sub(timestamp) <= LIFETIME.as_secs();
                (is_recent && marks.judge(node, block, now).is_ok()).then_some((node, block))
            });
            deciders.push(decides.map(|(node, block)| {
                marks.note(node, block, now);
                node
            }));
        }
        deciders
    }

    /// The honest node is first, and unavailable from second 100 to second 110.
    fn flapping(second: u64) -> Option<(u64, u64)> {
        if (100..110).contains(&second) { None } else { honest(second) }
    }

    #[test]
    fn the_honest_node_decides_whenever_it_is_available() {
        let lies: [(&str, Says); 12] = [
            ("1 ahead", |second| ahead(second, 1)),
            ("100 ahead", |second| ahead(second, 100)),
            ("999 ahead", |second| ahead(second, 999)),
            ("999 ahead, a block old", |second| ahead(second, 999).map(|(number, time)| (number, time - 20))),
            ("2^63 ahead", |second| ahead(second, 1 << 63)),
            ("the last number", |second| Some((u64::MAX, BEGAN + second))),
            ("of the future", |second| Some((u64::MAX, BEGAN + second + 100))),
            ("ever faster", |second| ahead(second, 90 * second)),
            ("number 5", |second| Some((5, BEGAN + second))),
            ("number 5 and the time of the future", |second| Some((5, BEGAN + second + 100))),
            ("stands still", |_| Some((START, BEGAN))),
            ("goes back", |second| Some((START - second, BEGAN.saturating_sub(12 * second)))),
        ];
        for (lie, liar) in lies {
            // The second node decides while the first is unavailable; then the first decides at once.
            let deciders = story(&[flapping, liar], 400);
            for (second, decider) in deciders.iter().enumerate() {
                match second {
                    100..110 => assert_ne!(*decider, Some(0)),
                    _ => assert_eq!(*decider, Some(0), "{lie}: second {second}"),
                }
            }
            // The same without earlier blocks.
            fn late(second: u64) -> Option<(u64, u64)> {
                if second < 10 { None } else { honest(second) }
            }
            let deciders = story(&[late, liar], 400);
            assert!(deciders[10..].iter().all(|decider| *decider == Some(0)), "{lie}: {deciders:?}");
        }
    }

    #[test]
    fn honest_nodes_replace_a_node_with_false_numbers_at_once() {
        fn until(second: u64, by: u64) -> Option<(u64, u64)> {
            if second < 100 { ahead(second, by) } else { None }
        }
        let liars: [Says; 4] = [|s| until(s, 1), |s| until(s, 100), |s| until(s, 999), |s| until(s, 1 << 63)];
        let others: [Says; 4] = [honest, |s| lagging(s, 1), |s| lagging(s, 2), |s| lagging(s, 3)];
        for (lie, liar) in liars.into_iter().enumerate() {
            for (behind, other) in others.into_iter().enumerate() {
                let deciders = story(&[liar, other], 200);
                assert!(deciders[..100].iter().all(|decider| *decider == Some(0)));
                assert!(
                    deciders[100..].iter().all(|decider| *decider == Some(1)),
                    "lie {lie}, {behind} behind: {deciders:?}"
                );
            }
        }
        // A first number that is far too low expires in a minute.
        let deciders = story(&[|s| (s < 100).then_some((5, BEGAN + s)), honest], 200);
        assert!(deciders[160..].iter().all(|decider| *decider == Some(1)), "{deciders:?}");
    }

    #[test]
    fn no_node_takes_the_policy_far_back() {
        let cases: [(&str, Says); 4] = [
            ("another node that stands still", |s| if s < 100 { None } else { Some((START - 65, BEGAN)) }),
            ("one that was restarted", |s| (s >= 100).then_some((START - 10_000, BEGAN - 120_000))),
            ("one a minute behind", |s| (s >= 100).then_some((START - 60, BEGAN + 30))),
            ("one that goes back", |s| Some((START - 64 - s, BEGAN - 70 - s))),
        ];
        for (case, other) in cases {
            let gone: Says = |s| if s < 100 { honest(s) } else { None };
            let deciders = story(&[gone, other], 300);
            assert!(deciders[100..].iter().all(Option::is_none), "{case}: {deciders:?}");
        }
        // A node that contradicts itself, with false times, is not used for a minute.
        let liar: Says = |s| Some(if s < 100 { (START + s, BEGAN + s) } else { (START - 500, BEGAN + s) });
        let deciders = story(&[liar], 159);
        assert!(deciders[100..].iter().all(Option::is_none), "{deciders:?}");
    }

    #[test]
    fn honest_nodes_take_turns() {
        for behind in 0..=3 {
            let begin = Instant::now();
            let mut marks = Marks::new(2, LIFETIME);
            for second in 0..1_000 {
                let now = Now { instant: begin + Duration::from_secs(second), unix: BEGAN + second };
                let node = usize::from(second % 2 == 1);
                let (number, timestamp) =
                    lagging(second, if node == 1 { behind } else { 0 }).expect("a block");
                let block = Block { number, hash: [0; 32], timestamp };
                assert_eq!(marks.judge(node, block, now), Ok(()), "{behind} behind, second {second}");
                marks.note(node, block, now);
            }
        }
    }
}
