//! Detects many refusals in a short time.

use std::collections::VecDeque;

use crate::config::DenialStorm;

/// Counts refusals, whether recorded or not.
#[derive(Debug)]
pub(super) struct Storm {
    count: u64,
    /// In seconds.
    window: u64,
    /// By second, oldest first: at most one entry more than the window has seconds.
    recent: VecDeque<(u64, u64)>,
    raging: Option<Raging>,
}

#[derive(Debug)]
struct Raging {
    /// Refusals since it began.
    total: u64,
    /// When the limit was last exceeded.
    last: u64,
}

impl Storm {
    pub(super) fn new(settings: DenialStorm) -> Self {
        let window = settings.window.as_secs().max(1);
        Self { count: settings.count, window, recent: VecDeque::new(), raging: None }
    }

    /// From now on this is a storm. One that rages goes on until it is over by the new definition.
    pub(super) fn change(&mut self, settings: DenialStorm) {
        self.count = settings.count;
        self.window = settings.window.as_secs().max(1);
    }

    /// Counts refusals at this time, in seconds since any fixed moment.
    pub(super) fn count(&mut self, refusals: u64, time: u64) {
        match self.recent.back_mut() {
            Some((last, count)) if *last >= time => *count = count.saturating_add(refusals),
            Some(_) | None => self.recent.push_back((time, refusals)),
        }
        let newest = self.recent.back().map_or(time, |(last, _)| *last);
        self.forget(newest);
        let (sum, count) = (self.sum(), self.count);
        match &mut self.raging {
            Some(raging) => {
                raging.total = raging.total.saturating_add(refusals);
                raging.last = if sum >= count { newest } else { raging.last };
            }
            None if sum >= count => self.raging = Some(Raging { total: sum, last: newest }),
            None => {}
        }
    }

    /// Advances to this time without new refusals. A storm ends when the limit was not exceeded for a
    /// whole window.
    pub(super) fn pass(&mut self, now: u64) {
        self.forget(now);
        let is_over = |raging: &mut Raging| now.saturating_sub(raging.last) > self.window;
        self.raging.take_if(is_over);
    }

    /// A sentence about the storm while it lasts.
    pub(super) fn sentence(&self) -> Option<String> {
        let raging = self.raging.as_ref()?;
        let Self { count, window, .. } = self;
        Some(format!("{} requests were refused, {count} or more within {window} s", raging.total))
    }

    pub(super) fn is_raging(&self) -> bool {
        self.raging.is_some()
    }

    fn forget(&mut self, now: u64) {
        while self.recent.front().is_some_and(|(time, _)| now.saturating_sub(*time) >= self.window) {
            self.recent.pop_front();
        }
    }

    fn sum(&self) -> u64 {
        self.recent.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn storm() -> Storm {
        Storm::new(DenialStorm { count: 10, window: Duration::from_secs(60) })
    }

    #[test]
    fn many_in_a_window_are_a_storm_and_the_same_number_over_an_hour_is_not() {
        let mut slow = storm();
        for count in 0..100 {
            slow.count(1, count * 10);
            assert!(!slow.is_raging(), "six a minute");
        }
        let mut fast = storm();
        for count in 0..9 {
            fast.count(1, 1000 + count);
        }
        assert!(!fast.is_raging());
        fast.count(1, 1009);
        assert!(
            fast.sentence().is_some_and(|text| text == "10 requests were refused, 10 or more within 60 s")
        );
    }

    #[test]
    fn a_storm_lasts_until_a_window_without_one() {
        let mut storm = storm();
        storm.count(10, 1000);
        for second in 1001..1200 {
            storm.count(1, second);
            storm.pass(second);
            assert!(storm.is_raging(), "{second}");
        }
        assert_eq!(storm.recent.len(), 60);
        for second in 1200..=1310 {
            storm.pass(second);
        }
        assert!(!storm.is_raging() && storm.recent.is_empty());
        storm.count(9, 2000);
        assert!(!storm.is_raging());
    }

    #[test]
    fn any_number_at_once_and_a_clock_that_goes_back_are_harmless() {
        let mut storm = storm();
        storm.count(1_000_000, 1000);
        assert!(storm.is_raging());
        storm.count(u64::MAX / 2, 5);
        storm.pass(0);
        assert!(storm.is_raging());
        storm.pass(2000);
        assert!(!storm.is_raging());
    }
}
