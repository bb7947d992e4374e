//! Waiting between tries: exponential, with full jitter.

use std::time::Duration;

use crate::api::ApiError;
use crate::report::Report;
use crate::stop::{Stop, StopLevel};

/// The first wait is up to this long.
const FIRST: Duration = Duration::from_secs(2);
/// No wait is longer than this, unless the service asks for it.
const LONGEST: Duration = Duration::from_secs(300);

/// The waits of one series of tries.
#[derive(Debug, Default)]
pub struct BackOff {
    tries: u32,
}

impl BackOff {
    /// The next wait: between half and all of a bound that doubles. The jitter comes after the cap: with the
    /// cap last, all runners would ask again at the same moment after a long outage. A longer wait that the
    /// service asked for wins, lengthened by up to a tenth.
    pub fn next_wait(&mut self, asked_for: Option<Duration>) -> Duration {
        let bound = LONGEST.min(FIRST * 2_u32.saturating_pow(self.tries.min(16)));
        self.tries += 1;
        let own = bound.mul_f64(0.5 + 0.5 * random());
        own.max(asked_for.map_or(Duration::ZERO, |time| time.mul_f64(1.0 + 0.1 * random())))
    }
}

/// Repeats a request until it succeeds or is refused; `None` when the runner is to stop first: at `level` or
/// above.
///
/// # Errors
/// When it is refused.
pub fn until_answered<T>(
    what: &str,
    stop: (&Stop, StopLevel),
    report: &Report,
    mut request: impl FnMut() -> Result<T, ApiError>,
) -> Result<Option<T>, ApiError> {
    let (stop, level) = stop;
    let mut back_off = BackOff::default();
    loop {
        let error = match request() {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) if error.is_temporary() => error,
            Err(error) => return Err(error),
        };
        let wait = back_off.next_wait(error.retry_after());
        report.waiting(what, &error.to_string(), wait);
        if stop.wait(wait, level) {
            return Ok(None);
        }
    }
}

/// A random number in [0, 1).
fn random() -> f64 {
    // Jitter only; where the system gives no random bytes, there is none.
    f64::from(getrandom::u32().unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_are_jittered_below_it() {
        let mut back_off = BackOff::default();
        for bound in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300] {
            let wait = back_off.next_wait(None).as_secs_f64();
            assert!((0.5 * f64::from(bound)..=f64::from(bound)).contains(&wait), "{wait} of {bound}");
        }
    }

    #[test]
    fn what_the_service_asks_for_is_kept() {
        let wait = BackOff::default().next_wait(Some(Duration::from_secs(1000))).as_secs_f64();
        assert!((1000.0..=1100.0).contains(&wait));
        let short = BackOff::default().next_wait(Some(Duration::ZERO));
        assert!(short >= Duration::from_secs(1));
    }
}
