//! How far a job is.

use super::Stage;
use crate::Timestamp;
use crate::canonical::{Finite, INTEGER_MAX, Value};

/// What people look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// 0 to 100; never less within an attempt.
    pub percentage: f64,
    /// Where the job stands.
    pub stage: Stage,
    /// For people.
    pub message: Option<String>,
    /// Steps done, as last said.
    pub current_step: u32,
    /// Steps in all.
    pub total_steps: Option<u32>,
    /// Seconds left, if the rest takes as long as what is done; at most [`INTEGER_MAX`].
    pub eta_seconds: Option<u64>,
    /// When this attempt began; `None`: it has not.
    pub started_at: Option<Timestamp>,
    /// The last change.
    pub updated_at: Timestamp,
    /// What callers said beside it, merged.
    pub metadata: Value,
}

/// What a caller says about progress.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProgressUpdate {
    /// Clamped to 0 to 100; steps win over it.
    pub percentage: Option<Finite>,
    /// Else a starting job is running now.
    pub stage: Option<Stage>,
    /// For people.
    pub message: Option<String>,
    /// Steps done.
    pub current_step: Option<u32>,
    /// Merged; an object.
    pub metadata: Option<Value>,
}

/// Nothing follows a terminal stage, and nothing goes on that was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the job is {}", .0.as_str())]
pub struct Ended(pub Stage);

impl Progress {
    /// Of a job that waits.
    pub fn queued(total_steps: Option<u32>, at: Timestamp) -> Self {
        Self {
            percentage: 0.0,
            stage: Stage::Queued,
            message: None,
            current_step: 0,
            total_steps,
            eta_seconds: None,
            started_at: None,
            updated_at: at,
            metadata: Value::Object(Vec::new()),
        }
    }

    /// An attempt begins: 0 %, starting.
    ///
    /// # Errors
    /// It is not queued.
    pub fn start(&mut self, at: Timestamp) -> Result<(), Ended> {
        if self.stage != Stage::Queued {
            return Err(Ended(self.stage));
        }
        *self = Self {
            stage: Stage::Starting,
            started_at: Some(at),
            ..Self::queued(self.total_steps, at)
        };
        Ok(())
    }

    /// It went on.
    ///
    /// # Errors
    /// No attempt is under way.
    pub fn update(&mut self, update: &ProgressUpdate, at: Timestamp) -> Result<(), Ended> {
        self.must_be_under_way()?;
        if let Some(step) = update.current_step {
            self.current_step = step;
        }
        let given = match (update.current_step, self.total_steps) {
            (Some(step), Some(total)) if total > 0 => Some(f64::from(step) / f64::from(total) * 100.0),
            _ => update.percentage.map(Finite::get),
        };
        if let Some(given) = given {
            self.percentage = given.clamp(0.0, 100.0).max(self.percentage);
        }
        self.stage = match (update.stage, self.stage) {
            (None, Stage::Starting) => Stage::Running,
            (Some(stage), _) | (None, stage) => stage,
        };
        if let Some(message) = &update.message {
            self.message = Some(message.clone());
        }
        for (key, value) in update.metadata.iter().filter_map(Value::as_object).flatten() {
            self.metadata.insert(key.clone(), value.clone());
        }
        self.updated_at = at;
        self.eta_seconds = self.eta(at);
        Ok(())
    }

    /// It is done: 100 %, nothing left.
    ///
    /// # Errors
    /// No attempt is under way.
    pub fn complete(&mut self, at: Timestamp) -> Result<(), Ended> {
        self.must_be_under_way()?;
        self.end(Stage::Completed, "Completed", at);
        (self.percentage, self.eta_seconds) = (100.0, Some(0));
        Ok(())
    }

    /// The last attempt failed: the percentage stays.
    ///
    /// # Errors
    /// No attempt is under way.
    pub fn fail(&mut self, message: &str, at: Timestamp) -> Result<(), Ended> {
        self.must_be_under_way()?;
        self.end(
            Stage::Failed,
            if message.is_empty() { "Failed" } else { message },
            at,
        );
        Ok(())
    }

    /// An attempt failed and another one will be made.
    ///
    /// # Errors
    /// No attempt is under way.
    pub fn queue_again(&mut self, message: &str, at: Timestamp) -> Result<(), Ended> {
        self.must_be_under_way()?;
        self.end(Stage::Queued, message, at);
        Ok(())
    }

    /// Somebody called it off.
    ///
    /// # Errors
    /// It has ended.
    pub fn cancel(&mut self, message: &str, at: Timestamp) -> Result<(), Ended> {
        if self.stage.is_terminal() {
            return Err(Ended(self.stage));
        }
        self.end(Stage::Cancelled, message, at);
        Ok(())
    }

    fn must_be_under_way(&self) -> Result<(), Ended> {
        if self.stage.is_under_way() {
            Ok(())
        } else {
            Err(Ended(self.stage))
        }
    }

    fn end(&mut self, stage: Stage, message: &str, at: Timestamp) {
        self.stage = stage;
        self.message = Some(message.to_owned());
        self.eta_seconds = None;
        self.updated_at = at;
    }

    /// ⌊(100−p)·elapsed/p⌋; none where JSON cannot hold it, which is no time that anybody waits.
    fn eta(&self, at: Timestamp) -> Option<u64> {
        let micros = at.micros_since(self.started_at?);
        if self.percentage <= 0.0 || micros <= 0 {
            return None;
        }
        #[allow(clippy::cast_precision_loss)] // exact up to 285 years
        let elapsed = micros as f64 / 1_000_000.0;
        let left = ((100.0 - self.percentage) * elapsed / self.percentage).floor();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // not negative; `as` saturates
        let left = left as u64;
        (left <= INTEGER_MAX.unsigned_abs()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000).unwrap()
    }

    fn percent(percentage: f64) -> ProgressUpdate {
        ProgressUpdate {
            percentage: Finite::new(percentage),
            ..ProgressUpdate::default()
        }
    }

    #[test]
    fn progress_never_goes_back_within_an_attempt_and_begins_anew_with_the_next() {
        let mut progress = Progress::queued(Some(4), at(0));
        assert_eq!(progress.update(&percent(1.0), at(0)), Err(Ended(Stage::Queued)));
        progress.start(at(0)).unwrap();
        progress.update(&percent(60.0), at(30)).unwrap();
        assert_eq!((progress.stage, progress.eta_seconds), (Stage::Running, Some(20)));
        progress.update(&percent(20.0), at(30)).unwrap();
        assert!((progress.percentage - 60.0).abs() < f64::EPSILON);
        progress.queue_again("boom", at(31)).unwrap();
        progress.start(at(40)).unwrap();
        assert_eq!(
            (progress.percentage.to_bits(), progress.message.as_deref()),
            (0.0_f64.to_bits(), None)
        );
    }

    #[test]
    fn a_time_left_that_json_cannot_hold_is_not_said() {
        let mut progress = Progress::queued(None, at(0));
        progress.start(at(0)).unwrap();
        progress.update(&percent(1e-300), at(30)).unwrap();
        assert_eq!(progress.eta_seconds, None);
        progress.update(&percent(1e-6), at(30)).unwrap();
        assert!(progress.eta_seconds.is_some());
    }

    #[test]
    fn nothing_follows_a_terminal_stage() {
        for end in 0..3 {
            let mut progress = Progress::queued(None, at(0));
            progress.start(at(0)).unwrap();
            let stage = match end {
                0 => progress.complete(at(1)).map(|()| Stage::Completed),
                1 => progress.fail("x", at(1)).map(|()| Stage::Failed),
                _ => progress.cancel("x", at(1)).map(|()| Stage::Cancelled),
            }
            .unwrap();
            let ended = Err(Ended(stage));
            assert_eq!(progress.start(at(2)), ended);
            assert_eq!(progress.update(&percent(5.0), at(2)), ended);
            assert_eq!(progress.complete(at(2)), ended);
            assert_eq!(progress.fail("y", at(2)), ended);
            assert_eq!(progress.cancel("y", at(2)), ended);
            assert_eq!(progress.stage, stage);
        }
    }
}
