//! The beat of a node: each second it says which head it has, and answers the challenges of the others, so that they know that
//! they see what it writes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::head::HeadId;
use super::seal::NodeId;

/// The kind of these reports.
pub(super) const KIND: &str = "beat";
/// The most bytes of a beat.
pub(super) const MAX_BEAT: usize = 16 << 10;
/// The most nodes of a fleet.
pub(super) const MAX_NODES: usize = 128;
/// The most own challenges that are remembered.
const MAX_CHALLENGES: usize = 4096;

/// 16 random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Challenge(#[serde(with = "hex::serde")] pub(super) [u8; 16]);

impl Challenge {
    /// A new one; `None` if the system has no randomness.
    pub(super) fn new() -> Option<Self> {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        Some(Self(bytes))
    }
}

/// What a node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Beat {
    /// What people call it.
    pub(super) name: String,
    pub(super) challenge: Challenge,
    /// Another one after each start; older versions do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<Challenge>,
    /// Its clock, Unix milliseconds; older versions do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) time_ms: Option<u64>,
    /// The head that it has adopted.
    pub(super) head: Option<HeadId>,
    /// The last challenge of each other node.
    pub(super) answers: Vec<Answer>,
}

/// The answer to a challenge of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) node: NodeId,
    pub(super) challenge: Challenge,
}

impl Beat {
    /// Reads one.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        if body.len() > MAX_BEAT {
            return Err("it is too large".to_owned());
        }
        let beat: Self = kms_attest::json::from_utf8(body).map_err(|error| error.to_string())?;
        if beat.answers.len() > MAX_NODES {
            return Err("it has too many answers".to_owned());
        }
        Ok(beat)
    }

    /// Its bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers")
    }
}

/// The challenges of this node, with the time at which each was made.
#[derive(Debug, Default)]
pub(super) struct Challenges(BTreeMap<Challenge, Instant>);

impl Challenges {
    /// Remembers one, and forgets those that are too old to count.
    pub(super) fn remember(&mut self, challenge: Challenge, at: Instant, max_age: Duration) {
        self.0.retain(|_, made| at.saturating_duration_since(*made) <= max_age);
        // Whoever wakes this node all the time must not keep it from remembering the newest.
        if self.0.len() >= MAX_CHALLENGES
            && let Some(oldest) = self.0.iter().min_by_key(|(_, made)| **made).map(|(oldest, _)| *oldest)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(challenge, at);
    }

    /// When a challenge was made.
    pub(super) fn made(&self, challenge: Challenge) -> Option<Instant> {
        self.0.get(&challenge).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_challenges_are_remembered_however_many_there_are() {
        let (mut challenges, start, hour) =
            (Challenges::default(), Instant::now(), Duration::from_secs(3600));
        let challenge = |number: usize| Challenge(u128::try_from(number).unwrap().to_be_bytes());
        for number in 0..=MAX_CHALLENGES {
            let at = start + Duration::from_millis(number as u64);
            challenges.remember(challenge(number), at, hour);
            assert_eq!(challenges.made(challenge(number)), Some(at));
        }
        assert_eq!(challenges.0.len(), MAX_CHALLENGES);
        assert_eq!(challenges.made(challenge(0)), None, "the oldest");
        challenges.remember(challenge(9999), start + 2 * hour, hour);
        assert_eq!(challenges.0.len(), 1, "what is too old to count");
    }
}
