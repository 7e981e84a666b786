//! When a failed attempt is made again, and how long after.
//!
//! Out of scope: the clock and the die. [`RetryPolicy::delay_seconds`] takes the draw as an argument.
//! Source: SPEC 7.1, "Retry".

use evidence::canonical::{Finite, Value};

use crate::read::{self, InputError};

/// Most attempts asked about at once: far more than any job makes.
pub const ATTEMPTS_MAX: usize = 1_000;
/// Most words that mark an error as worth another attempt; each is searched in every error.
pub const RETRYABLE_ERRORS_MAX: usize = 100;
/// Longest wait: a year. Beyond it nobody waits, and sums of times stay in range.
pub const DELAY_SECONDS_MAX: f64 = 31_536_000.0;
/// Most attempts a policy may allow.
pub const RETRIES_MAX: f64 = 1_000_000.0;

/// Factors of the fibonacci strategy; after the last it stays.
const FIBONACCI: [f64; 12] = [1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0, 89.0, 144.0];

/// How waits grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// base
    Fixed,
    /// base · n
    Linear,
    /// base · 2^(n−1)
    Exponential,
    /// base · 1, 1, 2, 3, 5 … 144, then constant
    Fibonacci,
}

impl Strategy {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Linear => "linear",
            Self::Exponential => "exponential",
            Self::Fibonacci => "fibonacci",
        }
    }

    /// The strategy of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "fixed" => Self::Fixed,
            "linear" => Self::Linear,
            "exponential" => Self::Exponential,
            "fibonacci" => Self::Fibonacci,
            _ => return None,
        })
    }

    fn factor(self, attempt: u32) -> f64 {
        let steps = attempt.saturating_sub(1);
        match self {
            Self::Fixed => 1.0,
            Self::Linear => f64::from(attempt),
            // Overflows to infinity, which the cap takes away.
            Self::Exponential => 2_f64.powi(i32::try_from(steps).unwrap_or(i32::MAX)),
            Self::Fibonacci => usize::try_from(steps)
                .ok()
                .and_then(|step| FIBONACCI.get(step))
                .copied()
                .unwrap_or(144.0),
        }
    }
}

/// How often, and how long after.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// How waits grow.
    pub strategy: Strategy,
    /// The wait after the first attempt, seconds.
    pub base_delay_seconds: f64,
    /// No wait is longer, seconds.
    pub max_delay_seconds: f64,
    /// The largest part of the wait that chance adds, 0 to 1. It never shortens a wait.
    pub jitter_factor: f64,
    /// Attempts in all.
    pub max_retries: u32,
    /// If not empty, only an error that contains one of these is tried again.
    pub retryable_errors: Vec<String>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            strategy: Strategy::Exponential,
            base_delay_seconds: 60.0,
            max_delay_seconds: 3600.0,
            jitter_factor: 0.2,
            max_retries: 3,
            retryable_errors: Vec::new(),
        }
    }
}

/// One line of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Planned {
    /// The attempt that failed, from 1.
    pub attempt: u32,
    /// The shortest wait that chance can give.
    pub min_delay_seconds: f64,
    /// A bound above the longest.
    pub max_delay_seconds: f64,
    /// Whether it is made again at all.
    pub will_retry: bool,
}

/// An attempt below 1: there is nothing to wait after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("attempts count from 1")]
pub struct NoSuchAttempt;

impl RetryPolicy {
    /// Reads the members of a policy; absent ones have their defaults.
    ///
    /// # Errors
    /// A member of the wrong kind or out of its range.
    pub fn read(value: &Value) -> Result<Self, InputError> {
        let defaults = Self::default();
        let bounded = |name: &str, default: f64, max: f64| match read::number(value, name)? {
            None => Ok(default),
            Some(number) if (0.0..=max).contains(&number) => Ok(number),
            Some(_) => Err(InputError::new(format!("{name} is not within 0 and {max}"))),
        };
        let strategy = match read::text(value, "strategy")? {
            None => defaults.strategy,
            Some(word) => Strategy::parse(&word).ok_or_else(|| {
                InputError::new("strategy is none of fixed, linear, exponential, fibonacci")
            })?,
        };
        let max_retries = bounded("max_retries", f64::from(defaults.max_retries), RETRIES_MAX)?;
        Ok(Self {
            strategy,
            base_delay_seconds: bounded(
                "base_delay_seconds",
                defaults.base_delay_seconds,
                DELAY_SECONDS_MAX,
            )?,
            max_delay_seconds: bounded("max_delay_seconds", defaults.max_delay_seconds, DELAY_SECONDS_MAX)?,
            jitter_factor: bounded("jitter_factor", defaults.jitter_factor, 1.0)?,
            max_retries: whole(max_retries).ok_or_else(|| InputError::new("max_retries is not whole"))?,
            retryable_errors: read::texts(value, "retryable_errors", RETRYABLE_ERRORS_MAX)?
                .unwrap_or_default(),
        })
    }

    /// Whether a failed attempt is made again.
    ///
    /// # Errors
    /// [`NoSuchAttempt`] for attempt 0.
    pub fn should_retry(&self, attempt: u32, error: &str) -> Result<bool, NoSuchAttempt> {
        if attempt == 0 {
            return Err(NoSuchAttempt);
        }
        let worth_it = self.retryable_errors.is_empty()
            || self
                .retryable_errors
                .iter()
                .any(|part| error.contains(part.as_str()));
        Ok(attempt < self.max_retries && worth_it)
    }

    /// The wait after a failed attempt, whole seconds, for a draw from [0, 1).
    ///
    /// # Errors
    /// [`NoSuchAttempt`] for attempt 0.
    pub fn delay_seconds(&self, attempt: u32, draw: f64) -> Result<f64, NoSuchAttempt> {
        if attempt == 0 {
            return Err(NoSuchAttempt);
        }
        // Nothing, however often doubled, is nothing: 0 times infinity is no number.
        let delay = if self.base_delay_seconds > 0.0 {
            (self.base_delay_seconds * self.strategy.factor(attempt)).min(f64::MAX)
        } else {
            0.0
        };
        let jitter = delay * self.jitter_factor * draw.clamp(0.0, 1.0);
        Ok((delay + jitter).floor().min(self.max_delay_seconds))
    }

    /// The bounds of the wait, and whether there is one.
    ///
    /// # Errors
    /// [`NoSuchAttempt`] for attempt 0.
    pub fn plan(&self, attempt: u32, error: &str) -> Result<Planned, NoSuchAttempt> {
        Ok(Planned {
            attempt,
            min_delay_seconds: self.delay_seconds(attempt, 0.0)?,
            max_delay_seconds: self.delay_seconds(attempt, 1.0)?,
            will_retry: self.should_retry(attempt, error)?,
        })
    }
}

fn whole(number: f64) -> Option<u32> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bounded by RETRIES_MAX
    (number.fract() == 0.0).then_some(number as u32)
}

/// The plan of an input object: a policy, `error?` and `attempts`.
///
/// # Errors
/// A member of the wrong kind, out of its range, or unknown; an attempt below 1.
pub fn plan(input: &Value) -> Result<Value, InputError> {
    const KNOWN: [&str; 8] = [
        "strategy",
        "base_delay_seconds",
        "max_delay_seconds",
        "jitter_factor",
        "max_retries",
        "retryable_errors",
        "error",
        "attempts",
    ];
    read::object(input, "the input", &KNOWN)?;
    let policy = RetryPolicy::read(input)?;
    let error = read::text(input, "error")?.unwrap_or_default();
    let attempts =
        read::list(input, "attempts", ATTEMPTS_MAX)?.ok_or_else(|| InputError::new("attempts is missing"))?;
    let mut planned = Vec::with_capacity(attempts.len());
    for attempt in attempts {
        let attempt = attempt
            .as_i64()
            .and_then(|attempt| u32::try_from(attempt).ok())
            .ok_or_else(|| InputError::new("attempts has an element that is no count from 1"))?;
        let line = policy
            .plan(attempt, &error)
            .map_err(|error| InputError::new(error.to_string()))?;
        planned.push(Value::object([
            ("attempt", Value::from(i64::from(line.attempt))),
            ("min_delay_seconds", seconds(line.min_delay_seconds)),
            ("max_delay_seconds", seconds(line.max_delay_seconds)),
            ("will_retry", Value::from(line.will_retry)),
        ]));
    }
    Ok(Value::object([("plan", Value::from(planned))]))
}

fn seconds(number: f64) -> Value {
    Value::from(Finite::new(number).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_lengthens_a_wait_and_the_cap_ends_it() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.delay_seconds(1, 0.0), Ok(60.0));
        assert_eq!(policy.delay_seconds(1, 0.999), Ok(71.0));
        assert_eq!(policy.delay_seconds(u32::MAX, 0.5), Ok(3600.0));
        assert_eq!(policy.delay_seconds(0, 0.5), Err(NoSuchAttempt));
        let at_once = RetryPolicy {
            base_delay_seconds: 0.0,
            ..policy
        };
        for attempt in [1, 1_024, 1_025, 1_026, u32::MAX] {
            assert_eq!(at_once.delay_seconds(attempt, 0.5), Ok(0.0), "{attempt}");
        }
    }

    #[test]
    fn an_error_that_matches_no_word_is_not_tried_again() {
        let policy = RetryPolicy {
            retryable_errors: vec!["timeout".to_owned()],
            ..RetryPolicy::default()
        };
        assert_eq!(policy.should_retry(2, "timeout after 5 s"), Ok(true));
        assert_eq!(policy.should_retry(2, "TIMEOUT"), Ok(false));
        assert_eq!(policy.should_retry(3, "timeout"), Ok(false));
    }
}
