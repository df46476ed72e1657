//! When callers who were turned away should come again: later the more there is to do, and not all at the same time.

use std::time::Duration;

/// How much work may wait without a longer pause.
const FEW: usize = 16;
/// The longest time that is expected of the queue, so that nobody is sent away for much longer than a minute.
const LONGEST: Duration = Duration::from_secs(40);

/// Whole seconds, with jitter: 1 if little waits, and otherwise more by half to one and a half of the time in which what waits
/// will be done.
pub(super) fn after(waiting: usize, time: Duration) -> u64 {
    let mut random = [0; 2];
    // Without randomness everybody gets the middle.
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        random = [0x80, 0];
    }
    after_with(waiting, time, f64::from(u16::from_be_bytes(random)) / 65_536.0)
}

/// [`after`], with a random number from 0 up to 1.
fn after_with(waiting: usize, time: Duration, random: f64) -> u64 {
    if waiting < FEW {
        return 1;
    }
    // The second random part spreads callers also where the queue is done within a second.
    let more = time.min(LONGEST).mul_f64(0.5 + random) + Duration::from_secs_f64(2.0 * random);
    1 + more.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_the_queue_is_spread_and_has_an_end() {
        let of = |waiting, seconds, random| after_with(waiting, Duration::from_millis(seconds), random);
        let last = 65_535.0 / 65_536.0;
        for (waiting, milliseconds, earliest, latest) in [
            (0, 0, 1, 1),
            (FEW - 1, 100_000, 1, 1),
            (FEW, 10, 1, 3),
            (1000, 1000, 1, 4),
            (1000, 10_000, 6, 17),
            (10_000, 40_000, 21, 62),
            (1_000_000, 4_000_000, 21, 62),
        ] {
            assert_eq!(of(waiting, milliseconds, 0.0), earliest, "{waiting} {milliseconds}");
            let end = of(waiting, milliseconds, last);
            assert!(
                end <= latest && (earliest == latest || end > earliest),
                "{waiting} {milliseconds}: {end}"
            );
        }
        let seen: std::collections::BTreeSet<_> = (0..200).map(|_| after(1000, LONGEST)).collect();
        assert!(seen.len() > 5, "{seen:?}");
    }
}
