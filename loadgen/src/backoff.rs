//! How long a client waits before it connects again.

use std::fmt;
use std::time::Duration;

use crate::cli::duration;

/// The longest wait that a server may ask for in its Close.
pub const RETRY_HINT_MAX: Duration = Duration::from_secs(600);
/// Doublings after which the longest wait is surely reached.
const DOUBLINGS_MAX: u32 = 40;

/// What a client does whose connection has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reconnect {
    /// It stays away.
    #[default]
    None,
    /// It connects again, later each time that it fails.
    Backoff(Backoff),
}

/// Waits that double with each failure, with jitter, within limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
}

impl Reconnect {
    /// Reads `none`, `backoff` or `backoff:100ms..10s`.
    ///
    /// # Errors
    /// One line that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "give none, backoff, or backoff:FIRST..MAX such as backoff:100ms..10s".to_owned();
        let limits = match text {
            "none" => return Ok(Self::None),
            "backoff" => "100ms..10s",
            _ => text.strip_prefix("backoff:").ok_or_else(wrong)?,
        };
        let (first, max) = limits.split_once("..").ok_or_else(wrong)?;
        let (first, max) = (duration(first)?, duration(max)?);
        // With waits below a millisecond a server that refuses would be hammered at the speed of this machine.
        if first < Duration::from_millis(1) || max < first {
            return Err(format!("the first wait is 1ms or more, and not above the last: {}", wrong()));
        }
        Ok(Self::Backoff(Backoff { first, max }))
    }
}

impl fmt::Display for Reconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Backoff(it) => write!(f, "backoff:{:?}..{:?}", it.first, it.max),
        }
    }
}

impl Backoff {
    /// The wait after so many failures in a row; a server's hint is obeyed instead, up to [`RETRY_HINT_MAX`].
    pub fn delay(&self, failures: u32, hint: Option<Duration>, rng: &mut fastrand::Rng) -> Duration {
        if let Some(hint) = hint {
            return hint.min(RETRY_HINT_MAX);
        }
        let factor = 2f64.powi(failures.min(DOUBLINGS_MAX) as i32);
        let longest = (self.first.as_secs_f64() * factor).min(self.max.as_secs_f64());
        // Half of it is chance: those who were thrown out together do not come back together.
        Duration::from_secs_f64(longest * (0.5 + 0.5 * rng.f64()))
    }
}

/// The wait that a Close asks for in its reason: `retry=3120`, in milliseconds, alone or among other words.
pub fn retry_hint(reason: &str) -> Option<Duration> {
    let words = reason.split([' ', ';', ',']);
    let digits = words.filter_map(|word| word.strip_prefix("retry=")).next()?;
    digits.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(text: &str) -> Backoff {
        match Reconnect::parse(text) {
            Ok(Reconnect::Backoff(it)) => it,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn waits_double_up_to_their_limit_and_are_half_chance() {
        let (it, mut rng) = (backoff("backoff:100ms..1s"), fastrand::Rng::with_seed(1));
        for (failures, longest_ms) in
            [(0, 100), (1, 200), (3, 800), (4, 1_000), (9, 1_000), (u32::MAX, 1_000)]
        {
            let waits: Vec<f64> =
                (0..1_000).map(|_| it.delay(failures, None, &mut rng).as_secs_f64() * 1e3).collect();
            let longest = f64::from(longest_ms);
            assert!(waits.iter().all(|ms| (longest / 2.0..=longest).contains(ms)), "{failures}");
            let mean = waits.iter().sum::<f64>() / 1e3;
            assert!((mean / longest - 0.75).abs() < 0.02, "{failures}: {mean}");
        }
    }

    #[test]
    fn a_hint_is_obeyed_within_reason() {
        let (it, mut rng) = (backoff("backoff"), fastrand::Rng::with_seed(1));
        let mut delay = |hint: Duration| it.delay(7, Some(hint), &mut rng);
        assert_eq!(delay(Duration::from_millis(3_120)), Duration::from_millis(3_120));
        assert_eq!(delay(RETRY_HINT_MAX), RETRY_HINT_MAX);
        assert_eq!(delay(RETRY_HINT_MAX + Duration::from_millis(1)), RETRY_HINT_MAX);
    }

    #[test]
    fn hints_in_reasons() {
        let ms = |reason| retry_hint(reason).map(|it| it.as_millis());
        assert_eq!(
            (ms("retry=3120"), ms("restart; retry=5"), ms("full, retry=0")),
            (Some(3_120), Some(5), Some(0))
        );
        for none in ["", "retry", "retry=", "retry=x", "retry=-5", "noretry=5", "retry=99999999999999999999"]
        {
            assert_eq!(ms(none), None, "{none}");
        }
    }

    #[test]
    fn as_typed() {
        assert_eq!(Reconnect::parse("none"), Ok(Reconnect::None));
        assert_eq!(Reconnect::parse("backoff").expect("sound").to_string(), "backoff:100ms..10s");
        for bad in ["", "yes", "backoff:", "backoff:1s", "backoff:0s..1s", "backoff:2s..1s"] {
            assert!(!Reconnect::parse(bad).expect_err(bad).contains('\n'));
        }
    }
}
