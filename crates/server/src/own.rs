//! Deponent's own long work as jobs (SPEC 7.1): on record, with its progress, cancelled when somebody says so, and
//! taken up again after a crash.
//!
//! Such a job stands in the ledger of the tenant it is done for, under a handler that begins with [`PREFIX`]. Clients
//! read it like any other; what is done with it is done by the work alone. Work is not refused because its job cannot
//! be written: a ledger that takes no records is what verification is for.
//!
//! Out of scope: the work itself ([`crate::verifications`]). Start at [`OwnJob::begin`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use evidence::canonical::{Finite, Value};
use evidence::facet::facet;
use evidence::job::{ProgressUpdate, Stage};
use evidence::record::JobEvent;
use ledger::{JobAct, JobDone, JobError, NewJob, Tenant};
use store::FacetQuery;

use crate::api::jobs::moment;
use crate::{ApiError, App};

/// What the handlers of Deponent's own jobs begin with. No client creates or moves one.
pub(crate) const PREFIX: &str = "deponent.";

/// The error of an attempt that a crash or a stop of the server ended. Nothing else is tried again.
const INTERRUPTED: &str = "interrupted: the server stopped";

/// Progress is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Progress goes on record each time it has grown by this much: twenty records at most.
const SAY_PERCENT: f64 = 5.0;

/// Jobs of a tenant and handler looked at for one that was interrupted: one runs at a time.
const LOOKED_AT_MAX: u32 = 4;

/// A job of Deponent's own.
#[derive(Clone, Debug)]
pub(crate) struct OwnJob {
    app: App,
    tenant: Arc<Tenant>,
    job_id: Arc<str>,
}

/// What work and its job know of each other.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// How much is done, in the work's own unit.
    pub(crate) done: AtomicU64,
    /// Whether it is to stop.
    pub(crate) stop: AtomicBool,
}

impl OwnJob {
    /// A job that begins now. Blocks. `None`: it cannot be written.
    pub(crate) fn begin(app: &App, tenant: &Arc<Tenant>, job_id: &Arc<str>, handler: &str) -> Option<Self> {
        let job = Self {
            app: app.clone(),
            tenant: Arc::clone(tenant),
            job_id: Arc::clone(job_id),
        };
        let retry = Value::object([
            ("base_delay_seconds", Value::Int(0)),
            ("retryable_errors", Value::Array(vec![INTERRUPTED.into()])),
        ]);
        let new = NewJob {
            job_id: job_id.to_string(),
            handler: handler.to_owned(),
            retry,
            ..NewJob::default()
        };
        job.act(&JobAct::Create(new))?;
        job.act(&JobAct::Start)?;
        Some(job)
    }

    /// The newest jobs of that handler that have not ended: a crash has left them so, unless they run. Blocks.
    pub(crate) fn without_end(app: &App, tenant: &Arc<Tenant>, handler: &str) -> Vec<Self> {
        let query = FacetQuery {
            facets: vec![facet("job.handler", handler)],
            limit: LOOKED_AT_MAX,
            newest_first: true,
            ..FacetQuery::default()
        };
        let find = || {
            let found = app.ledger.store().facet_find(tenant.tenant_no, &query).ok()?;
            app.ledger.records(tenant).read(&found.leaves).ok()
        };
        let without_end = |record: &ledger::Record| {
            let (created, _) = JobEvent::read(record.body.as_deref()?).ok()?;
            let view = app.ledger.job(tenant, &created.job_id).ok()?;
            let job = Self {
                app: app.clone(),
                tenant: Arc::clone(tenant),
                job_id: created.job_id.into(),
            };
            (!view.progress.stage.is_terminal()).then_some(job)
        };
        find()
            .unwrap_or_default()
            .iter()
            .filter_map(without_end)
            .collect()
    }

    /// Begins the next attempt of a job that was interrupted; `false`: none is left, or it cannot be written. Blocks.
    pub(crate) fn again(&self) -> bool {
        let begin = || {
            let mut stage = self
                .app
                .ledger
                .job(&self.tenant, &self.job_id)
                .ok()?
                .progress
                .stage;
            if stage.is_under_way() {
                stage = self
                    .act(&JobAct::Fail(INTERRUPTED.to_owned()))?
                    .job
                    .progress
                    .stage;
            }
            if stage != Stage::Queued {
                return None;
            }
            self.act(&JobAct::Start)
        };
        begin().is_some()
    }

    /// The job is not wanted any more, and why. Blocks.
    pub(crate) fn give_up(&self, reason: &str) {
        self.act(&JobAct::Cancel(reason.to_owned()));
    }

    pub(crate) fn job_id(&self) -> &Arc<str> {
        &self.job_id
    }

    /// Does the work and says from time to time how far it is: so much of `total` is done. Blocks.
    pub(crate) fn during<T>(&self, watch: &Watch, total: u64, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            let (ended, end) = channel::<()>();
            scope.spawn(move || self.say(watch, total, &end));
            let result = work();
            drop(ended);
            result
        })
    }

    fn say(&self, watch: &Watch, total: u64, end: &Receiver<()>) {
        let mut said = 0.0;
        while end.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            #[allow(clippy::cast_precision_loss)] // of a percentage
            let percentage = 100.0 * watch.done.load(Ordering::Relaxed) as f64 / total.max(1) as f64;
            if percentage >= said + SAY_PERCENT && !watch.stop.load(Ordering::Relaxed) {
                said = percentage;
                self.act(&JobAct::Progress(ProgressUpdate {
                    percentage: Finite::new(percentage),
                    ..ProgressUpdate::default()
                }));
            }
        }
    }

    /// The work is done. Blocks.
    pub(crate) fn complete(&self, result: Value) {
        self.act(&JobAct::Complete(result));
    }

    /// The work could not be done, and why. Blocks.
    pub(crate) fn fail(&self, mut reason: String) {
        reason.truncate(reason.floor_char_boundary(ledger::JOB_TEXT_BYTES_MAX));
        self.act(&JobAct::Fail(reason));
    }

    /// What cannot be written is logged: the work goes on without it.
    fn act(&self, act: &JobAct) -> Option<JobDone> {
        match self.try_act(act) {
            Ok(done) => Some(done),
            Err(error) => {
                tracing::warn!(job_id = %self.job_id, %error, "a job of Deponent's own cannot be written");
                None
            }
        }
    }

    fn try_act(&self, act: &JobAct) -> Result<JobDone, JobError> {
        let moment = moment((self.app.clock)());
        self.app.ledger.job_act(&self.tenant, &self.job_id, act, &moment)
    }

    /// Calls a job off: on record first, then it is told to stop. Blocks.
    ///
    /// # Errors
    /// 409: it has ended already.
    pub(crate) fn cancel(
        app: &App,
        tenant: &Arc<Tenant>,
        job_id: &Arc<str>,
        reason: String,
        watch: &Watch,
    ) -> Result<(), ApiError> {
        let job = Self {
            app: app.clone(),
            tenant: Arc::clone(tenant),
            job_id: Arc::clone(job_id),
        };
        match job.try_act(&JobAct::Cancel(reason)) {
            // Work whose job could not be written is stopped all the same.
            Ok(_) | Err(JobError::Unknown | JobError::Submit(_)) => {
                watch.stop.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use evidence::Timestamp;
    use ledger::{JobView, Ledger, Options};

    use super::*;

    fn clock() -> Timestamp {
        Timestamp::parse("2026-11-21T10:00:00Z").unwrap()
    }

    struct Bed {
        app: App,
        tenant: Arc<Tenant>,
        id: Arc<str>,
        _folder: tempfile::TempDir,
    }

    impl Bed {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let ledger = Ledger::open(Options::new(folder.path()), clock()).unwrap();
            let tenant = ledger.tenant_create("default", clock()).unwrap();
            Self {
                app: App::new(ledger, clock),
                tenant,
                id: "v-1".into(),
                _folder: folder,
            }
        }

        fn begin(&self) -> OwnJob {
            OwnJob::begin(&self.app, &self.tenant, &self.id, "deponent.verification").unwrap()
        }

        fn resume(&self) -> bool {
            let jobs = OwnJob::without_end(&self.app, &self.tenant, "deponent.verification");
            jobs.first().is_some_and(OwnJob::again)
        }

        fn job(&self) -> JobView {
            self.app.ledger.job(&self.tenant, &self.id).unwrap()
        }
    }

    #[test]
    fn work_says_how_far_it_is_while_it_goes_on() {
        let bed = Bed::new();
        let (job, watch) = (bed.begin(), Watch::default());
        let seen = job.during(&watch, 200, || {
            watch.done.store(100, Ordering::Relaxed);
            sleep(LOOK_EVERY * 3);
            bed.job().progress
        });
        assert_eq!(
            (seen.percentage.to_bits(), seen.stage),
            (50.0_f64.to_bits(), Stage::Running)
        );
        job.complete(Value::object([("level", "VALID")]));
        let ended = bed.job();
        assert_eq!(ended.progress.stage, Stage::Completed);
        assert!(ended.result_hash.is_some());
    }

    #[test]
    fn what_a_crash_interrupts_is_taken_up_again_and_not_for_ever() {
        let bed = Bed::new();
        assert!(!bed.resume());
        bed.begin();
        for attempt in [2, 3] {
            assert!(bed.resume());
            assert_eq!(
                (bed.job().attempt_number, bed.job().progress.stage),
                (attempt, Stage::Starting)
            );
        }
        assert!(!bed.resume());
        assert_eq!(bed.job().progress.stage, Stage::Failed);
        assert!(!bed.resume());
    }

    #[test]
    fn a_verification_that_was_interrupted_is_done_at_the_next_start() {
        let bed = Bed::new();
        bed.begin();
        bed.app.verifications_resume();
        let ended = bed.job();
        assert_eq!(
            (ended.progress.stage, ended.attempt_number),
            (Stage::Completed, 2)
        );
        assert!(bed.app.verifications.find(&bed.tenant, &bed.id).is_some());
    }

    #[test]
    fn a_verification_that_is_asked_for_at_the_start_takes_the_place_of_the_one_before() {
        let bed = Bed::new();
        bed.begin();
        let asked = bed.app.verification_begin(&bed.tenant, clock()).unwrap();
        bed.app.verifications_resume();
        // The old one is given up; the new one goes on as it was.
        assert_eq!(bed.job().progress.stage, Stage::Cancelled);
        let mut waiting = asked.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(waiting.ended());
        let new = bed.app.ledger.job(&bed.tenant, &asked.id).unwrap();
        assert_eq!((new.progress.stage, new.attempt_number), (Stage::Completed, 1));
    }

    #[test]
    fn work_that_failed_for_another_reason_is_not_tried_again() {
        let bed = Bed::new();
        bed.begin().fail("é".repeat(ledger::JOB_TEXT_BYTES_MAX));
        assert_eq!(bed.job().progress.stage, Stage::Failed);
    }

    #[test]
    fn what_is_called_off_is_on_record_and_told_to_stop_and_what_has_ended_is_not() {
        let bed = Bed::new();
        let (job, watch) = (bed.begin(), Watch::default());
        let cancel = |watch| OwnJob::cancel(&bed.app, &bed.tenant, &bed.id, "too long".into(), watch);
        cancel(&watch).unwrap();
        assert!(watch.stop.load(Ordering::Relaxed));
        assert_eq!(bed.job().cancel_reason.as_deref(), Some("too long"));
        // The work is stopped, and adds nothing to its job.
        let outcome = job.during(&watch, 1, || bed.app.verifier().unwrap());
        let stopped = outcome.scrub_tenant(&bed.tenant, clock(), &watch.done, &watch.stop);
        assert!(stopped.is_err());
        let again = Watch::default();
        assert_eq!(cancel(&again).unwrap_err().status.as_u16(), 409);
        assert!(!again.stop.load(Ordering::Relaxed));
    }
}
