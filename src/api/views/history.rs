//! Releases and denials over time, for charts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::query::{Points, Window};
use super::{Building, Views, at};
use crate::clock::unix_now;
use crate::error::Result;
use crate::operator::DomainScope;

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DEFAULT_WINDOW: u64 = 6 * HOUR;
const DEFAULT_POINTS: u64 = 72;

/// Parameters of `GET /api/v1/history`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// The span until now, such as `6h` or `30d`.
    window: Option<Window>,
    /// The most points.
    points: Option<Points>,
}

/// Releases and denials in equal steps, the oldest first. The last step is not over yet.
#[derive(Debug, Serialize, JsonSchema)]
pub struct History {
    from: String,
    step_s: u64,
    points: Vec<Point>,
    building: Option<Building>,
}

/// One step.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Point {
    /// Its beginning.
    at: String,
    released: u64,
    /// Refused requests, also of callers whose evidence does not verify.
    denied: u64,
    /// Of releases since the last start; null where there were none, and for a credential of one domain.
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

/// The steps of a window that ends at `now`, Unix seconds: whole minutes, or whole hours from an hour on.
fn steps(now: u64, window: u64, points: u64) -> (u64, u64, u64) {
    let unit = if window.div_ceil(points) >= HOUR { HOUR } else { MINUTE };
    let step = window.div_ceil(points).div_ceil(unit).max(1) * unit;
    let steps = window.div_ceil(step);
    // Aligned, so that a step has the same records at each request.
    let end = (now / step + 1) * step;
    (end.saturating_sub(steps * step), step, steps)
}

impl Views {
    /// Releases and denials over time: of one domain for a credential of one, and then without latencies.
    ///
    /// # Errors
    /// No index.
    pub async fn history(&self, scope: &DomainScope, query: HistoryQuery) -> Result<History> {
        let window = query.window.map_or(DEFAULT_WINDOW, |Window(window)| window);
        let points = query.points.map_or(DEFAULT_POINTS, |Points(points)| points);
        let (from, step, count) = steps(unix_now(), window, points);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let newest = self.sources.events.acknowledged();
        let domain = scope.only().cloned();
        let is_limited = domain.is_some();
        let (counts, building) = self
            .inventory(move |inventory| {
                let counts = match &domain {
                    None => inventory.history(from * 1000, step, count)?,
                    Some(domain) => inventory.history_of(domain, from * 1000, step, count)?,
                };
                Ok((counts, Building::of(inventory, newest)?))
            })
            .await?;
        let points = counts.into_iter().zip(0..).map(|(counts, number)| {
            let begin = from + number * step;
            let latency = (!is_limited).then(|| self.sources.latency.between(begin, begin + step));
            let quantile = |part| latency.as_ref().and_then(|latency| latency.quantile(part));
            Point {
                at: at(begin * 1000),
                released: counts.releases,
                denied: counts.refusals,
                p50_ms: quantile(0.5),
                p99_ms: quantile(0.99),
            }
        });
        Ok(History { from: at(from * 1000), step_s: step, points: points.collect(), building })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_whole_cover_the_window_and_are_no_more_than_asked_for() {
        let now = 1_800_000_017;
        for window in [HOUR, 6 * HOUR, 24 * HOUR, 7 * 24 * HOUR, 30 * 24 * HOUR] {
            for points in [2, 24, 72, 500] {
                let (from, step, count) = steps(now, window, points);
                assert!(count <= points && count >= 1, "{window} {points}: {count}");
                assert!(step.is_multiple_of(if step >= HOUR { HOUR } else { MINUTE }), "{step}");
                assert!(from.is_multiple_of(step) && from <= now && from + count * step > now);
                assert!(count * step >= window && from + window <= now + step, "{window} {points}");
            }
        }
        assert_eq!(steps(now, 6 * HOUR, 72).1, 300);
    }
}
