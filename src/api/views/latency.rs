//! The latency of releases over time: the histograms of the metrics, once a minute, in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::unix_now;
use crate::metrics::Metrics;

/// How many minutes are kept: a day.
const MINUTES: usize = 24 * 60;
/// How many hours are kept: 31 days.
const HOURS: usize = 31 * 24;
const MINUTE: Duration = Duration::from_secs(60);

/// The latency of releases, since the start of the process.
#[derive(Debug)]
pub struct LatencyLog {
    metrics: Arc<Metrics>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// At the last look.
    total: Buckets,
    /// By minute since 1970, oldest first.
    minutes: VecDeque<(u64, Buckets)>,
    /// By hour.
    hours: VecDeque<(u64, Buckets)>,
}

/// How many requests took at most so long: upper bounds in seconds, and the number in each bucket. Requests above the
/// last bound are in a bucket whose bound is infinite.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Buckets(Vec<(f64, u64)>);

impl LatencyLog {
    /// Over the histograms of these metrics.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, told: Mutex::default() }
    }

    /// Looks once a minute, until dropped.
    pub async fn refresh_loop(&self) {
        let mut tick = tokio::time::interval(MINUTE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.look(unix_now());
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what has come since the last look to the current minute and hour.
    fn look(&self, now: u64) {
        let total = Buckets(self.metrics.release_latency());
        let mut told = self.told();
        let new = total.since(&told.total);
        if new.count() > 0 {
            add(&mut told.minutes, now / 60, &new, MINUTES);
            add(&mut told.hours, now / 3600, &new, HOURS);
        }
        told.total = total;
    }

    /// The requests between two times, Unix seconds: by minute as long as those are kept, then by hour.
    pub(super) fn between(&self, from: u64, to: u64) -> Buckets {
        let told = self.told();
        let kept_minutes = told.minutes.front().map_or(u64::MAX, |(minute, _)| minute * 60);
        let (series, size) = match from >= kept_minutes || told.minutes.len() < MINUTES {
            true => (&told.minutes, 60),
            false => (&told.hours, 3600),
        };
        let mut sum = Buckets::default();
        for (at, buckets) in series {
            if (from..to).contains(&(at * size)) {
                sum.add(buckets);
            }
        }
        sum
    }

    /// Those of the last day, up to now.
    pub(super) fn last_day(&self) -> Buckets {
        let now = unix_now();
        self.look(now);
        self.between(now.saturating_sub(86_400), now + 1)
    }
}

fn add(series: &mut VecDeque<(u64, Buckets)>, at: u64, new: &Buckets, max: usize) {
    match series.back_mut() {
        // Also after a clock has gone back: the series stays in order.
        Some((last, buckets)) if *last >= at => buckets.add(new),
        _ => series.push_back((at, new.clone())),
    }
    if series.len() > max {
        series.pop_front();
    }
}

impl Buckets {
    fn count(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    fn add(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
            return;
        }
        for ((_, count), (_, more)) in self.0.iter_mut().zip(&other.0) {
            *count += more;
        }
    }

    fn since(&self, before: &Self) -> Self {
        let known = before.0.iter().map(|(_, count)| *count).chain(std::iter::repeat(0));
        Self(
            self.0
                .iter()
                .zip(known)
                .map(|((bound, count), known)| (*bound, count.saturating_sub(known)))
                .collect(),
        )
    }

    /// The quantile `q` in milliseconds, as Prometheus estimates it: linear inside a bucket, and the last finite bound
    /// beyond that; `None` without requests.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        let rank = (count > 0).then_some(q * count as f64)?;
        let (mut below, mut lower) = (0_u64, 0.0);
        for (upper, within) in &self.0 {
            let reached = below + within;
            if reached as f64 >= rank && *within > 0 {
                let place = (rank - below as f64) / *within as f64;
                let seconds = if upper.is_finite() { lower + (upper - lower) * place } else { lower };
                return Some((seconds * 1e5).round() / 100.0);
            }
            (below, lower) = (reached, if upper.is_finite() { *upper } else { lower });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_estimated_inside_its_bucket() {
        let buckets = Buckets(vec![(0.001, 0), (0.01, 90), (0.1, 10), (f64::INFINITY, 0)]);
        assert_eq!(buckets.quantile(0.5), Some(6.0));
        assert_eq!(buckets.quantile(0.99), Some(91.0));
        assert_eq!(Buckets(vec![(0.1, 0), (f64::INFINITY, 4)]).quantile(0.5), Some(100.0));
        assert_eq!(Buckets(vec![(0.1, 0)]).quantile(0.5), None);
        assert_eq!(Buckets::default().quantile(0.5), None);
    }

    #[test]
    fn a_series_is_bounded_and_stays_in_order_when_the_clock_goes_back() {
        let one = Buckets(vec![(0.1, 1)]);
        let mut series = VecDeque::new();
        for at in [10, 11, 5, 12, 13] {
            add(&mut series, at, &one, 3);
        }
        let counts: Vec<_> = series.iter().map(|(at, buckets)| (*at, buckets.count())).collect();
        assert_eq!(counts, [(11, 2), (12, 1), (13, 1)]);
    }
}
