//! One target: its queue, its progress, and its losses.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::notification::Notification;
use crate::config::NotifyFilter;
use crate::event_type::{Severity, Topic};
use crate::metrics::Metrics;

/// The most notifications that wait for one target.
pub(super) const MAX_WAITING: usize = 1000;

/// The progress of a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Every record up to this number was delivered, lost, or not wanted.
    pub(super) after: u64,
    /// How many lost notifications it has not been told of.
    pub(super) lost: u64,
}

pub(super) struct Target {
    name: String,
    filter: NotifyFilter,
    queue: Mutex<Queue>,
    news: Notify,
    metrics: Arc<Metrics>,
}

/// The attempts to deliver one notification.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attempts {
    /// The first one.
    pub(super) begin: Option<Instant>,
    /// Those that failed by status since it was last put behind.
    pub(super) by_status: u32,
    /// Those that the target rejected as invalid.
    pub(super) refusals: u32,
    /// How often it was put behind the others.
    put_behind: u32,
}

impl Attempts {
    /// Whether the notification was put behind the others before.
    pub(super) fn were_put_behind(&self) -> bool {
        self.put_behind > 0
    }
}

#[derive(Debug)]
struct Waiting {
    notification: Arc<Notification>,
    attempts: Attempts,
}

#[derive(Debug)]
struct Queue {
    /// The notification being sent, which cannot be displaced by new ones.
    current: Option<Arc<Notification>>,
    /// Oldest first, and those that were put behind.
    waiting: VecDeque<Waiting>,
    lost: u64,
    /// The number of the last record that was considered for it.
    seen: u64,
    /// The number of changes so far.
    changes: u64,
}

impl Target {
    /// A known target continues at its place; a new one starts after the record `newest`.
    pub(super) fn new(
        name: &str,
        filter: NotifyFilter,
        known: Option<Place>,
        newest: u64,
        metrics: Arc<Metrics>,
    ) -> Self {
        let place = known.unwrap_or(Place { after: newest, lost: 0 });
        // A number above the newest is of another log.
        let seen = place.after.min(newest);
        metrics.set_notifications_waiting(name, 0);
        for outcome in ["delivered", "failed", "dropped"] {
            metrics.notified(name, outcome, 0);
        }
        let queue = Queue { current: None, waiting: VecDeque::new(), lost: place.lost, seen, changes: 0 };
        Self { name: name.to_owned(), filter, queue: Mutex::new(queue), news: Notify::new(), metrics }
    }

    /// Where its deliveries are counted.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn wants(&self, topic: Topic, severity: Severity) -> bool {
        self.filter.admits(topic, severity)
    }

    /// The last record that was considered for it.
    pub(super) fn seen(&self) -> u64 {
        self.queue().seen
    }

    /// Marks records up to this number as considered; `skipped` of them were only counted.
    pub(super) fn saw(&self, seq: u64, skipped: u64) {
        let mut queue = self.queue();
        queue.seen = queue.seen.max(seq);
        queue.lost += skipped;
        queue.changes += u64::from(skipped > 0);
    }

    /// Whether it has received everything.
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.queue();
        queue.current.is_none() && queue.waiting.is_empty()
    }

    /// The number of changes to the queue so far.
    pub(super) fn changes(&self) -> u64 {
        self.queue().changes
    }

    /// Where it continues after a restart.
    pub(super) fn place(&self) -> Place {
        let queue = self.queue();
        let undelivered = queue.undelivered().filter_map(|one| one.sequence).min();
        let after = undelivered.map_or(queue.seen, |first| first.saturating_sub(1));
        Place { after, lost: queue.lost }
    }

    /// Undelivered notifications.
    pub(super) fn pending(&self) -> Vec<Arc<Notification>> {
        self.queue().undelivered().cloned().collect()
    }

    /// Adds a notification without waiting: if too many wait, the oldest of the least severe is lost.
    pub(super) fn push(&self, notification: &Arc<Notification>) {
        self.add(Waiting { notification: Arc::clone(notification), attempts: Attempts::default() });
    }

    /// Puts the current one behind all others.
    pub(super) fn put_behind(&self, notification: Arc<Notification>, attempts: Attempts) {
        let attempts =
            Attempts { by_status: 0, put_behind: attempts.put_behind.saturating_add(1), ..attempts };
        self.queue().current = None;
        self.add(Waiting { notification, attempts });
    }

    fn add(&self, waiting: Waiting) {
        let mut queue = self.queue();
        queue.changes += 1;
        queue.waiting.push_back(waiting);
        if queue.waiting.len() > MAX_WAITING {
            let least = queue.waiting.iter().map(|one| one.notification.severity).min();
            let place = queue.waiting.iter().position(|one| Some(one.notification.severity) == least);
            if let Some(place) = place {
                queue.waiting.remove(place);
            }
            self.lose(&mut queue);
        }
        self.metrics.set_notifications_waiting(&self.name, queue.waiting.len());
        self.news.notify_one();
    }

    fn lose(&self, queue: &mut Queue) {
        queue.lost += 1;
        self.metrics.notified(&self.name, "dropped", 1);
    }

    /// Waits for the next one to send: the oldest of the most severe, and last those that were put behind.
    pub(super) async fn next(&self) -> (Arc<Notification>, Attempts) {
        loop {
            {
                let mut queue = self.queue();
                if let Some(Waiting { notification, attempts }) = queue.take_next() {
                    queue.current = Some(Arc::clone(&notification));
                    self.metrics.set_notifications_waiting(&self.name, queue.waiting.len());
                    return (notification, attempts);
                }
            }
            self.news.notified().await;
        }
    }

    /// Waits until there is one that was not put behind yet.
    pub(super) async fn fresh(&self) {
        while self.queue().waiting.iter().all(|one| one.attempts.were_put_behind()) {
            self.news.notified().await;
        }
    }

    /// How many lost notifications it has not been told of.
    pub(super) fn lost(&self) -> u64 {
        self.queue().lost
    }

    /// The current one was delivered, and told it of this many losses.
    pub(super) fn delivered(&self, told_lost: u64) {
        let mut queue = self.queue();
        queue.current = None;
        queue.changes += 1;
        queue.lost = queue.lost.saturating_sub(told_lost);
        self.metrics.notified(&self.name, "delivered", 1);
    }

    /// An attempt to send the current one failed.
    pub(super) fn failed(&self) {
        self.metrics.notified(&self.name, "failed", 1);
    }

    /// The current one is abandoned.
    pub(super) fn gave_up(&self) {
        let mut queue = self.queue();
        queue.current = None;
        queue.changes += 1;
        self.lose(&mut queue);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn undelivered(&self) -> impl Iterator<Item = &Arc<Notification>> {
        self.current.iter().chain(self.waiting.iter().map(|one| &one.notification))
    }

    fn take_next(&mut self) -> Option<Waiting> {
        let rank = |one: &Waiting| (one.attempts.put_behind, Reverse(one.notification.severity));
        let (place, _) = self.waiting.iter().enumerate().min_by_key(|(_, one)| rank(one))?;
        self.waiting.remove(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Record;
    use crate::event_type::EventType;

    fn target(known: Option<Place>) -> Target {
        let filter = NotifyFilter { min_severity: Severity::Info, types: None };
        Target::new("x", filter, known, 100, Arc::new(Metrics::new([])))
    }

    fn numbered(seq: u64, event: EventType) -> Arc<Notification> {
        let kind = event.name();
        let line = format!(r#"{{"seq":{seq},"time":"2026-01-01T00:00:00Z","event":"{kind}"}}"#);
        let record = Record::read(line.as_bytes()).unwrap();
        Arc::new(Notification::of_record(&record, line.as_bytes(), event, 0))
    }

    #[tokio::test]
    async fn what_matters_least_is_lost_first_and_the_loss_is_told() {
        let target = target(None);
        target.push(&numbered(101, EventType::Frozen));
        for seq in 102..102 + MAX_WAITING as u64 {
            target.push(&numbered(seq, EventType::Unfrozen));
        }
        target.saw(2000, 0);
        let waiting = target.pending();
        assert_eq!((waiting.len(), target.lost()), (MAX_WAITING, 1));
        assert_eq!((waiting[0].sequence, waiting[1].sequence), (Some(101), Some(103)));
        assert_eq!(target.place(), Place { after: 100, lost: 1 });
        assert_eq!(target.next().await.0.sequence, Some(101));
        assert_eq!(target.place().after, 100, "it is not delivered yet");
        target.delivered(1);
        assert_eq!(target.place(), Place { after: 102, lost: 0 });
        assert_eq!(target.next().await.0.sequence, Some(103));
        target.gave_up();
        assert_eq!(target.place(), Place { after: 103, lost: 1 });
        let text = target.metrics.render();
        for line in [
            r#"cvm_kms_notifications_total{outcome="delivered",target="x"} 1"#,
            r#"cvm_kms_notifications_total{outcome="dropped",target="x"} 2"#,
            r#"cvm_kms_notifications_total{outcome="failed",target="x"} 0"#,
            r#"cvm_kms_notifications_waiting{target="x"} 998"#,
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }

    #[tokio::test]
    async fn a_flood_takes_the_place_of_nothing_that_matters_more() {
        let target = target(None);
        let all = MAX_WAITING as u64;
        for seq in 0..all {
            target.push(&numbered(seq + 101, EventType::Frozen));
        }
        target.push(&numbered(5000, EventType::Reported));
        assert_eq!(target.pending().last().unwrap().sequence, Some(100 + all), "the new one is lost");
        target.push(&numbered(5001, EventType::Frozen));
        assert_eq!(target.pending()[0].sequence, Some(102), "the oldest is lost");
        assert_eq!(target.lost(), 2);
    }

    #[tokio::test]
    async fn the_most_severe_is_next_and_what_was_put_behind_is_last() {
        let target = target(None);
        for (seq, event) in [(101, EventType::Frozen), (102, EventType::Reported), (103, EventType::Frozen)] {
            target.push(&numbered(seq, event));
        }
        let (first, attempts) = target.next().await;
        assert_eq!(first.sequence, Some(101));
        target.put_behind(first, attempts);
        assert_eq!((target.place().after, target.pending().len()), (100, 3), "it is still to be delivered");
        let mut order = Vec::new();
        for _ in 0..3 {
            order.push(target.next().await.0.sequence);
            target.delivered(0);
        }
        assert_eq!(order, [Some(103), Some(102), Some(101)]);
        assert!(target.is_idle());
    }

    #[test]
    fn a_target_goes_on_where_it_was_in_the_same_log() {
        for (known, after) in [(None, 100), (Some(40), 40), (Some(100), 100), (Some(101), 100)] {
            let known = known.map(|after| Place { after, lost: 7 });
            let lost = known.map_or(0, |known| known.lost);
            assert_eq!(target(known).place(), Place { after, lost });
        }
    }
}
