//! A rebuild as a job of the instance.
//!
//! It has the ledger's writer to itself, so nothing is written of it meanwhile; how far it is is shown. It is one
//! transaction: whoever stops it, the old projections stand. Which jobs there are is read from what is rebuilt, so one
//! that was interrupted is not gone on with, but done again as another, and ended once projections are right.

use std::sync::Arc;
use std::time::{Duration, Instant};

use evidence::canonical::Value;
use store::StoreError;

use super::{Clock, LOOK_EVERY, OwnBusy, OwnEnd, OwnJob, OwnWork, Tell, Watch, untold};
use crate::{INSTANCE, Ledger};

/// Rebuilds that were interrupted one after the other before nobody begins another: what ends them will end the next.
const INTERRUPTED_MAX: usize = 3;

/// How often one rebuild is tried while the store cannot answer: with [`TRIED_AGAIN_AFTER`] that lasts 7.5 s and as long as
/// the store takes to say so, in which a lock or a busy disk is over. What lasts longer is tried at the next start.
const TRIES_MAX: u32 = 5;

/// How long the store is left alone then, and each time twice as long.
const TRIED_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Why projections are not new. The old ones stand.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// One is running.
    #[error(transparent)]
    Busy(#[from] OwnBusy),
    /// It was told to stop.
    #[error("it was called off; the projections are as they were")]
    Stopped,
    /// The store cannot answer now, however often it was tried.
    #[error("{0}")]
    Unavailable(String),
    /// Evidence cannot be read, or projections cannot be written.
    #[error("{0}")]
    Failed(String),
}

impl From<StoreError> for RebuildError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(_) => Self::Unavailable(error.to_string()),
            StoreError::Damaged { .. } | StoreError::Refused(_) => Self::Failed(error.to_string()),
        }
    }
}

impl Ledger {
    /// Makes all projections anew, as a job. Blocks; gives the records that stand in them, and the job.
    ///
    /// # Errors
    /// [`RebuildError`].
    pub fn rebuild_job(&self, clock: Clock, tell: Tell<'_>) -> Result<(u64, Arc<str>), RebuildError> {
        let instance = self
            .tenant(INSTANCE)
            .ok_or_else(|| RebuildError::Failed("the instance has no ledger".into()))?;
        let watch = Arc::<Watch>::default();
        let about = (OwnWork::Rebuild, None);
        let job = OwnJob::begin(self, &instance, about, None, &watch, clock)?;
        let job_id = Arc::clone(job.job_id());
        let result = job.during(tell, |_| self.rebuild_tried(&watch));
        let how = match &result {
            Ok(records) => OwnEnd::Done(Value::object([("records", Value::from(*records))])),
            Err(RebuildError::Stopped) => OwnEnd::Stopped,
            Err(error) => OwnEnd::Failed(error.to_string()),
        };
        job.end_with_counts(how);
        match &result {
            Ok(_) => {
                let reason = format!("it was interrupted, and done again as job {job_id}");
                self.rebuilds_give_up(clock, &reason);
            }
            // It would be tried at every start, and cannot be done. What the store could not answer is.
            Err(RebuildError::Failed(_)) if !self.own_interrupted() => {
                let reason = format!("it was interrupted, and cannot be done again: see job {job_id}");
                self.rebuilds_give_up(clock, &reason);
            }
            Err(_) => {}
        }
        result.map(|records| (records, job_id))
    }

    /// Again, as long as the store cannot answer.
    fn rebuild_tried(&self, watch: &Arc<Watch>) -> Result<u64, RebuildError> {
        let mut wait = TRIED_AGAIN_AFTER;
        for _ in 1..TRIES_MAX {
            match self.rebuild_watched(watch) {
                Err(RebuildError::Unavailable(why)) => tracing::warn!(why, "a rebuild is tried again"),
                done => return done,
            }
            let failed = Instant::now();
            while failed.elapsed() < wait {
                if watch.is_stopped() || self.is_closing() {
                    return Err(RebuildError::Stopped);
                }
                std::thread::sleep(LOOK_EVERY);
            }
            wait *= 2;
        }
        self.rebuild_watched(watch)
    }

    /// One that was interrupted is done again.
    pub(super) fn rebuild_resume(&self, clock: Clock) {
        let Some(instance) = self.tenant(INSTANCE) else {
            return;
        };
        match self.own_without_end(&instance, OwnWork::Rebuild).len() {
            // Another one has ended it.
            0 => {}
            interrupted if interrupted < INTERRUPTED_MAX => match self.rebuild_job(clock, &mut untold) {
                Ok((records, job_id)) => tracing::info!(%job_id, records, "projections are rebuilt"),
                Err(error) => tracing::error!(%error, "projections cannot be rebuilt"),
            },
            _ => self.rebuilds_give_up(
                clock,
                "it was interrupted, as those before it were; begin it anew with `deponent ledger rebuild`",
            ),
        }
    }

    fn rebuilds_give_up(&self, clock: Clock, reason: &str) {
        let Some(instance) = self.tenant(INSTANCE) else {
            return;
        };
        for job_id in self.own_without_end(&instance, OwnWork::Rebuild) {
            // One that runs is not given up.
            if self.inner.running.find(&instance, &job_id).is_none()
                && let Err(error) = self.own_cancel(&instance, &job_id, reason.to_owned(), clock)
            {
                tracing::warn!(%job_id, %error, "an interrupted rebuild cannot be ended");
            }
        }
    }
}
