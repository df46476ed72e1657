//! The thread that follows the log for all targets.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::Shared;
use super::memory::Memory;
use super::notification::Notification;
use super::target::Target;
use crate::audit::{Progress, Reader, Record};
use crate::event_type::{Condition, EventType, Topic};

/// How often the log is checked for new records.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The most records read between two other checks.
const MAX_BATCH: usize = 10_000;
/// How often the progress of the targets is saved: after a change, and otherwise.
const SAVE_EVERY: Duration = Duration::from_secs(2);
const SAVE_ANYWAY: Duration = Duration::from_secs(60);
/// The most records that a start looks back for a target. More count as lost.
const MAX_CATCH_UP: u64 = 1_000_000;
/// The shortest time between two notifications of a type that anyone can cause; the next one counts those in
/// between.
const SPACE: Duration = Duration::from_secs(60);

pub(super) struct Follower {
    progress: Progress,
    shared: Arc<Shared>,
    memory: Memory,
    reader: Reader,
    /// The number of the last record that was read.
    read: u64,
    /// When each of these was reported last, and how many came since.
    spaced: HashMap<EventType, (Instant, u64)>,
    saved: Instant,
    /// The changes of the targets at the last save.
    saved_changes: u64,
    is_unreadable: bool,
}

/// The fields that decide whether a record is parsed at all.
#[derive(Deserialize)]
struct Glance<'a> {
    seq: u64,
    event: &'a str,
}

impl Follower {
    pub(super) fn new(log: &Path, progress: Progress, shared: Arc<Shared>, memory: Memory) -> Self {
        let newest = progress.acknowledged();
        let oldest = newest.saturating_sub(MAX_CATCH_UP);
        for target in &shared.targets {
            let missed = oldest.saturating_sub(target.seen());
            if missed > 0 {
                tracing::warn!(
                    target = target.name(),
                    missed,
                    "what is missed is too much to be looked through: so many records count as lost notifications"
                );
                target.saw(oldest, missed);
            }
        }
        let after = shared.targets.iter().map(|target| target.seen()).min().unwrap_or(newest);
        Self {
            progress,
            shared,
            memory,
            reader: Reader::after(log, after),
            read: after,
            spaced: HashMap::new(),
            saved: Instant::now(),
            saved_changes: 0,
            is_unreadable: false,
        }
    }

    /// Follows the log until told to end.
    pub(super) fn run(mut self) {
        while !self.shared.is_over() {
            let acknowledged = self.progress.acknowledged();
            let is_behind = match self.read(acknowledged) {
                Ok(is_behind) => {
                    self.is_unreadable = false;
                    is_behind
                }
                Err(error) => {
                    if !self.is_unreadable {
                        tracing::warn!(%error, "the audit log cannot be read: nobody is notified of what it holds");
                    }
                    self.is_unreadable = true;
                    false
                }
            };
            let since = self.saved.elapsed();
            if since >= SAVE_EVERY && (self.changes() != self.saved_changes || since >= SAVE_ANYWAY) {
                self.save();
            }
            if !is_behind {
                thread::park_timeout(LOOK_EVERY);
            }
        }
        self.save();
    }

    fn changes(&self) -> u64 {
        self.shared.targets.iter().map(|target| target.changes()).sum()
    }

    fn save(&mut self) {
        (self.saved, self.saved_changes) = (Instant::now(), self.changes());
        let known = self.shared.known_conditions();
        self.memory.save(self.shared.targets.iter().map(|target| &**target), &known);
    }

    /// Reads new records; returns whether there may be more.
    fn read(&mut self, acknowledged: u64) -> std::io::Result<bool> {
        self.reader.renew()?;
        let mut line = Vec::new();
        for _ in 0..MAX_BATCH {
            let Some(seq) = self.reader.next(acknowledged, &mut line)? else {
                return Ok(false);
            };
            self.count_missing(seq);
            self.record(&line);
            self.shared.targets.iter().for_each(|target| target.saw(seq, 0));
        }
        Ok(true)
    }

    /// Counts the records before `seq` that are in no file any more, each as a lost notification.
    fn count_missing(&mut self, seq: u64) {
        let read = std::mem::replace(&mut self.read, seq);
        for target in &self.shared.targets {
            let missing = seq.saturating_sub(1).saturating_sub(target.seen().max(read));
            if missing > 0 {
                tracing::warn!(
                    target = target.name(),
                    missing,
                    "records were moved away before they were read: so many count as lost notifications"
                );
                target.saw(seq - 1, missing);
            }
        }
    }

    fn record(&mut self, line: &[u8]) {
        let text = std::str::from_utf8(line).unwrap_or_default();
        let Ok(glance) = serde_json::from_str::<Glance<'_>>(text) else { return };
        let Some(event) = EventType::parse(glance.event) else { return };
        let Glance { seq, .. } = glance;
        // Fast path for routine events, of which there may be ten thousand a second.
        let most = event.most_severe();
        let wanting = |target: &&Arc<Target>| target.wants(Topic::Event(event), most) && target.seen() < seq;
        if !self.shared.targets.iter().any(|target| wanting(&target)) {
            return;
        }
        let Some(record) = Record::read(line) else { return };
        let Some(left_out) = self.turn(event) else { return };
        let notification = Arc::new(Notification::of_record(&record, line, event, left_out));
        let Notification { topic, severity, .. } = *notification;
        let storm = Condition::DenialStorm;
        let is_refusal = event.is_refusal() || event == EventType::Suppressed && record.source() == "kms";
        let is_in_storm = is_refusal && self.shared.is_in_storm.load(Ordering::Relaxed);
        for target in &self.shared.targets {
            let is_told_of_storm = || target.wants(Topic::Condition(storm), storm.severity());
            if target.wants(topic, severity) && target.seen() < seq && !(is_in_storm && is_told_of_storm()) {
                target.push(&notification);
            }
        }
    }

    /// Whether an event of this type is reported, and how many before it were not.
    fn turn(&mut self, event: EventType) -> Option<u64> {
        if !matches!(event, EventType::CredentialsRefused | EventType::Suppressed) {
            return Some(0);
        }
        let now = Instant::now();
        match self.spaced.get_mut(&event) {
            Some((last, left_out)) if now.duration_since(*last) < SPACE => {
                *left_out += 1;
                None
            }
            known => {
                let left_out = known.map_or(0, |(_, left_out)| *left_out);
                self.spaced.insert(event, (now, 0));
                Some(left_out)
            }
        }
    }
}
