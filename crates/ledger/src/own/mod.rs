//! Deponent's own long work as jobs (SPEC 7.1): on record, with its progress, cancelled when somebody says so, and
//! taken up again after a crash.
//!
//! Such a job stands in the ledger of the tenant it is done for, under a handler that begins with [`OWN_PREFIX`].
//! Clients read it like any other; what is done with it is done by the work alone. Of a tenant one of each kind runs
//! at a time. Work is not refused because its job cannot be written: a ledger that takes no records is what
//! verification is for.
//!
//! How far it is is shown twice a second; it goes on record by steps of five per cent.
//!
//! In scope: the job. `imports.rs`, `archiving.rs` and `rebuilding.rs` have the work; verification on demand is the
//! server's. Start at [`OwnJob::begin`].

mod archiving;
mod imports;
mod rebuilding;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use evidence::Timestamp;
use evidence::canonical::{Finite, Value};
use evidence::facet::facet;
use evidence::job::{ProgressUpdate, Stage};
use evidence::record::JobEvent;
use store::{FacetQuery, LeafKey};

pub use imports::ImportedAsJob;
pub use rebuilding::RebuildError;

use crate::{JOB_TEXT_BYTES_MAX, JobAct, JobDone, JobError, Ledger, Moment, NewJob, Tenant};

/// What the handlers of Deponent's own jobs begin with. No client creates or moves one.
pub const OWN_PREFIX: &str = "deponent.";

/// The error of an attempt that a crash or a stop of the process ended. Nothing else is tried again.
const INTERRUPTED: &str = "interrupted: the process stopped";

/// Progress is looked at, shown and told this often.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Progress goes on record each time it has grown by this much: twenty records at most.
const SAY_PERCENT: f64 = 5.0;

/// Jobs of a tenant and handler looked at for some that were interrupted: one runs at a time, and each is taken up.
const LOOKED_AT_MAX: u32 = 4;

/// What Deponent itself does for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnWork {
    /// A full verification of a tenant's ledgers, on demand.
    Verification,
    /// Records of a file of provenance logs.
    ProvenanceImport,
    /// Records of an audit log.
    LineageImport,
    /// Archives of what was kept long enough.
    Archiving,
    /// All projections anew; a job of the instance.
    Rebuild,
}

impl OwnWork {
    /// All, in the order in which they are taken up again: what others rest on first, what takes longest last.
    pub const ALL: [Self; 5] = [
        Self::Rebuild,
        Self::ProvenanceImport,
        Self::LineageImport,
        Self::Archiving,
        Self::Verification,
    ];

    /// The handler of its jobs.
    pub const fn handler(self) -> &'static str {
        match self {
            Self::Verification => "deponent.verification",
            Self::ProvenanceImport => "deponent.provenance-import",
            Self::LineageImport => "deponent.lineage-import",
            Self::Archiving => "deponent.archiving",
            Self::Rebuild => "deponent.rebuild",
        }
    }

    /// Whether words of progress can be written while it goes on: a rebuild has the writer to itself.
    const fn is_recorded_meanwhile(self) -> bool {
        !matches!(self, Self::Rebuild)
    }
}

/// The time, and ids for what is written: for work that goes on without anybody asking again.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Reads the clock.
    pub now: fn() -> Timestamp,
    /// Makes an id that was never made before.
    pub new_id: fn(Timestamp) -> String,
}

impl Clock {
    fn moment(self) -> Moment {
        Moment {
            at: (self.now)(),
            // Another attempt of these never waits.
            draw: 0.0,
            new_id: self.new_id,
        }
    }
}

/// What work and its job know of each other.
#[derive(Debug, Default)]
pub struct Watch {
    /// How much is done, in the work's own unit.
    pub done: AtomicU64,
    /// How much there is to do, as far as is known.
    pub total: AtomicU64,
    /// Whether it is to stop, between two batches.
    pub stop: AtomicBool,
    /// Why it was called off; when it is to stop without a reason, the process ends.
    reason: OnceLock<String>,
}

impl Watch {
    /// Tells the work to stop, and why. The first reason counts.
    pub fn call_off(&self, reason: String) {
        let _ = self.reason.set(reason);
        self.stop.store(true, Ordering::Release);
    }

    /// Whether the work is to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn add(&self, done: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
    }

    /// Whatever is done counts only once the ledger has it, so a total may grow meanwhile.
    fn percentage(&self) -> f64 {
        let (done, total) = (
            self.done.load(Ordering::Relaxed),
            self.total.load(Ordering::Relaxed),
        );
        #[allow(clippy::cast_precision_loss)] // of a percentage
        let percentage = 100.0 * done as f64 / total.max(1) as f64;
        percentage.min(100.0)
    }
}

/// How far work is, for who asked for it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Its job.
    pub job_id: &'a str,
    /// How much is done.
    pub done: u64,
    /// How much there is to do, as far as is known.
    pub total: u64,
}

/// Told from time to time how far work is, first before it begins. `Break` calls it off.
pub type Tell<'a> = &'a mut (dyn FnMut(Told<'_>) -> ControlFlow<String> + Send);

/// Nobody asked for it.
pub fn untold(_: Told<'_>) -> ControlFlow<String> {
    ControlFlow::Continue(())
}

/// Of a tenant one of each kind runs at a time; this one does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is running for {tenant_id} as job {job_id}; wait for it or call it off", .work.handler())]
pub struct OwnBusy {
    /// What runs.
    pub work: OwnWork,
    /// For whom.
    pub tenant_id: Arc<str>,
    /// As which job.
    pub job_id: Arc<str>,
}

/// What runs in this process.
#[derive(Debug, Default)]
pub(crate) struct Running {
    jobs: Mutex<HashMap<(u32, OwnWork), (Arc<str>, Arc<Watch>)>>,
    /// The process ends.
    interrupted: AtomicBool,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<(u32, OwnWork), (Arc<str>, Arc<Watch>)>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, tenant: &Tenant, job_id: &str) -> Option<Arc<Watch>> {
        let running = self.lock();
        let mut of_tenant = running.iter().filter(|((no, _), _)| *no == tenant.tenant_no);
        of_tenant
            .find(|(_, (id, _))| **id == *job_id)
            .map(|(_, (_, watch))| Arc::clone(watch))
    }

    /// The process ends: everything stops between two batches, and goes on at the next start.
    pub(crate) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Release);
        for (_, watch) in self.lock().values() {
            watch.stop.store(true, Ordering::Release);
        }
    }
}

/// How work ended.
#[derive(Debug)]
pub enum OwnEnd {
    /// It is done; what came of it.
    Done(Value),
    /// It could not be done, and why.
    Failed(String),
    /// It was told to stop.
    Stopped,
}

/// A job of Deponent's own, which has the place of its kind.
#[derive(Debug)]
pub struct OwnJob {
    ledger: Ledger,
    tenant: Arc<Tenant>,
    work: OwnWork,
    job_id: Arc<str>,
    watch: Arc<Watch>,
    clock: Clock,
    /// It cannot be written: nothing more is tried.
    unwritten: AtomicBool,
    ended: AtomicBool,
}

impl OwnJob {
    /// A job that begins now; `about` says in a few words what it is about. Blocks.
    ///
    /// # Errors
    /// [`OwnBusy`]. A job that cannot be written is none.
    pub fn begin(
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        (work, about): (OwnWork, Option<&str>),
        job_id: Option<&Arc<str>>,
        watch: &Arc<Watch>,
        clock: Clock,
    ) -> Result<Self, OwnBusy> {
        let made = || (clock.new_id)((clock.now)()).into();
        let job = Self::enter(
            ledger,
            tenant,
            work,
            job_id.map_or_else(made, Arc::clone),
            watch,
            clock,
        )?;
        let retry = Value::object([
            ("base_delay_seconds", Value::Int(0)),
            ("retryable_errors", Value::Array(vec![INTERRUPTED.into()])),
        ]);
        let new = NewJob {
            job_id: job.job_id.to_string(),
            handler: work.handler().to_owned(),
            payload: about.map_or(Value::Null, |about| Value::object([("about", about)])),
            retry,
            ..NewJob::default()
        };
        if job.act(&JobAct::Create(new)).is_none() || job.act(&JobAct::Start).is_none() {
            job.unwritten.store(true, Ordering::Relaxed);
        }
        job.say_about(about);
        Ok(job)
    }

    /// Takes up a job that was interrupted, as its next attempt; `None`: it has ended, no attempt is left, or it cannot
    /// be written. Blocks.
    ///
    /// # Errors
    /// [`OwnBusy`].
    pub fn take_up(
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        (work, about): (OwnWork, Option<&str>),
        job_id: &Arc<str>,
        watch: &Arc<Watch>,
        clock: Clock,
    ) -> Result<Option<Self>, OwnBusy> {
        let job = Self::enter(ledger, tenant, work, Arc::clone(job_id), watch, clock)?;
        if job.again().is_none() {
            job.ended.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        job.say_about(about);
        Ok(Some(job))
    }

    fn enter(
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        work: OwnWork,
        job_id: Arc<str>,
        watch: &Arc<Watch>,
        clock: Clock,
    ) -> Result<Self, OwnBusy> {
        let mut running = ledger.inner.running.lock();
        if let Some((running, _)) = running.get(&(tenant.tenant_no, work)) {
            return Err(OwnBusy {
                work,
                tenant_id: Arc::clone(&tenant.tenant_id),
                job_id: Arc::clone(running),
            });
        }
        let place = (Arc::clone(&job_id), Arc::clone(watch));
        running.insert((tenant.tenant_no, work), place);
        Ok(Self {
            ledger: ledger.clone(),
            tenant: Arc::clone(tenant),
            work,
            job_id,
            watch: Arc::clone(watch),
            clock,
            unwritten: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        })
    }

    fn again(&self) -> Option<()> {
        let mut stage = self.ledger.job(&self.tenant, &self.job_id).ok()?.progress.stage;
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
        self.act(&JobAct::Start).map(drop)
    }

    fn say_about(&self, about: Option<&str>) {
        let Some(about) = about else { return };
        self.act(&JobAct::Progress(ProgressUpdate {
            message: Some(cut(about.to_owned())),
            ..ProgressUpdate::default()
        }));
    }

    /// Its id.
    pub fn job_id(&self) -> &Arc<str> {
        &self.job_id
    }

    /// Does the work, and says from time to time how far it is. Blocks.
    pub fn during<T>(&self, tell: Tell<'_>, work: impl FnOnce(&Watch) -> T) -> T {
        self.tell(tell);
        std::thread::scope(|scope| {
            let (ended, end) = channel::<()>();
            scope.spawn(move || self.say(tell, &end));
            let result = work(&self.watch);
            drop(ended);
            result
        })
    }

    fn tell(&self, tell: Tell<'_>) {
        let told = Told {
            job_id: &self.job_id,
            done: self.watch.done.load(Ordering::Relaxed),
            total: self.watch.total.load(Ordering::Relaxed),
        };
        if let ControlFlow::Break(reason) = tell(told) {
            self.watch.call_off(reason);
        }
    }

    fn say(&self, tell: Tell<'_>, end: &Receiver<()>) {
        let (mut said, mut shown) = (0.0, 0.0);
        while end.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            self.tell(tell);
            let percentage = self.watch.percentage();
            if self.watch.is_stopped() || percentage <= shown {
                continue;
            }
            shown = percentage;
            if percentage >= said + SAY_PERCENT && self.work.is_recorded_meanwhile() {
                said = percentage;
                self.act(&JobAct::Progress(update(percentage)));
            } else {
                self.show(percentage);
            }
        }
    }

    /// Shows progress to who looks at the job, without a record of it.
    fn show(&self, percentage: f64) {
        let at = (self.clock.now)();
        self.ledger
            .job_show(&self.tenant, &self.job_id, &update(percentage), at);
    }

    /// Ends the job as the work has ended. Blocks.
    pub fn end(self, how: OwnEnd) {
        self.ended.store(true, Ordering::Relaxed);
        match how {
            OwnEnd::Done(result) => {
                self.act(&JobAct::Complete(result));
            }
            OwnEnd::Failed(reason) => {
                self.act(&JobAct::Fail(cut(reason)));
            }
            // Without a reason the process ends: the job goes on at the next start.
            OwnEnd::Stopped => {
                if let Some(reason) = self.watch.reason.get() {
                    self.say_last(None);
                    self.act(&JobAct::Cancel(cut(reason.clone())));
                }
            }
        }
    }

    /// The same with what came of it as progress too: results are kept as hashes only.
    fn end_with_counts(self, how: OwnEnd) {
        if let OwnEnd::Done(counts) = &how {
            self.say_last(Some(counts.clone()));
        }
        self.end(how);
    }

    /// What was shown goes on record, so that nothing goes back when the job ends.
    fn say_last(&self, counts: Option<Value>) {
        self.act(&JobAct::Progress(ProgressUpdate {
            stage: Some(Stage::Completing),
            metadata: counts,
            ..update(self.watch.percentage())
        }));
    }

    /// The job is not wanted any more, and why. Blocks.
    pub fn give_up(self, reason: &str) {
        self.ended.store(true, Ordering::Relaxed);
        self.act(&JobAct::Cancel(reason.to_owned()));
    }

    /// What cannot be written is logged: the work goes on without it.
    fn act(&self, act: &JobAct) -> Option<JobDone> {
        if self.unwritten.load(Ordering::Relaxed) {
            return None;
        }
        let done = self
            .ledger
            .job_act(&self.tenant, &self.job_id, act, &self.clock.moment());
        done.inspect_err(|error| {
            tracing::warn!(job_id = %self.job_id, %error, "a job of Deponent's own cannot be written");
        })
        .ok()
    }
}

impl Drop for OwnJob {
    fn drop(&mut self) {
        // Only a panic leaves the work without an end.
        if !self.ended.load(Ordering::Relaxed) {
            let reason = "the work panicked; the log has the cause".to_owned();
            self.act(&JobAct::Fail(reason));
        }
        let place = (self.tenant.tenant_no, self.work);
        self.ledger.inner.running.lock().remove(&place);
    }
}

fn update(percentage: f64) -> ProgressUpdate {
    ProgressUpdate {
        percentage: Finite::new(percentage),
        ..ProgressUpdate::default()
    }
}

/// As much of a text as a job keeps.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(JOB_TEXT_BYTES_MAX));
    text
}

impl Ledger {
    /// The newest jobs of that kind that have not ended: a crash has left them so, unless they run. Blocks.
    pub fn own_without_end(&self, tenant: &Arc<Tenant>, work: OwnWork) -> Vec<Arc<str>> {
        let query = FacetQuery {
            facets: vec![facet("job.handler", work.handler())],
            limit: LOOKED_AT_MAX,
            newest_first: true,
            ..FacetQuery::default()
        };
        let found = self.store().facet_find(tenant.tenant_no, &query);
        let without_end = |leaf: &LeafKey| {
            // Each for itself: one that is damaged keeps no other from being taken up.
            let record = self.records(tenant).read(&[*leaf]).ok()?.pop()?;
            let (created, _) = JobEvent::read(record.body.bytes()?).ok()?;
            let view = self.job(tenant, &created.job_id).ok()?;
            (!view.progress.stage.is_terminal()).then(|| created.job_id.into())
        };
        let leaves = found.map(|found| found.leaves).unwrap_or_default();
        leaves.iter().filter_map(without_end).collect()
    }

    /// Takes up a job that a crash or a stop of the process has interrupted; verifications are the server's. Blocks for
    /// long.
    pub fn own_resume(&self, tenant: &Arc<Tenant>, work: OwnWork, job_id: &Arc<str>, clock: Clock) {
        match work {
            OwnWork::Verification => {}
            OwnWork::ProvenanceImport | OwnWork::LineageImport => {
                self.import_resume(tenant, work, job_id, clock);
            }
            OwnWork::Archiving => self.archiving_resume(tenant, job_id, clock),
            OwnWork::Rebuild => self.rebuild_resume(clock),
        }
    }

    /// The process ends: what runs stops between two batches and goes on at the next start, and nothing is taken up.
    pub fn own_interrupt(&self) {
        self.inner.running.interrupt();
    }

    /// Whether it was said that the process ends.
    pub fn own_interrupted(&self) -> bool {
        self.inner.running.interrupted.load(Ordering::Acquire)
    }

    /// Calls work of Deponent's own off. It stops between two batches, and its job ends then; a job that nothing works
    /// on ends at once. Blocks.
    ///
    /// # Errors
    /// [`JobError::Stage`] when it has ended, [`JobError::Rule`] for a reason that is none.
    pub fn own_cancel(
        &self,
        tenant: &Arc<Tenant>,
        job_id: &str,
        reason: String,
        clock: Clock,
    ) -> Result<(), JobError> {
        if self.own_call_off(tenant, job_id, &reason)? {
            return Ok(());
        }
        let act = JobAct::Cancel(reason);
        self.job_act(tenant, job_id, &act, &clock.moment()).map(drop)
    }

    /// The first half of it, which waits for nobody: `false` when nobody is at that work.
    ///
    /// # Errors
    /// The reason is none.
    pub fn own_call_off(&self, tenant: &Arc<Tenant>, job_id: &str, reason: &str) -> Result<bool, JobError> {
        JobAct::Cancel(reason.to_owned()).ready(&tenant.rules())?;
        let watch = self.inner.running.find(tenant, job_id);
        if let Some(watch) = &watch {
            watch.call_off(reason.to_owned());
        }
        Ok(watch.is_some())
    }
}

#[cfg(test)]
mod tests;
