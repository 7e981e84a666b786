//! What the service does: takes drafts, places them, answers for them.
//!
//! In scope: sequencing, receipts, checkpoints, rollback refusal, tenants, the
//! ends of runs, verification, rebuild, recovery. Out of scope: HTTP and OTLP
//! (server), SQL (store), what a run's records add up to (evidence).
//!
//! Start at [`Ledger`] and [`Draft`].

pub mod admin;
mod api_keys;
mod archive;
pub mod audit;
mod background;
mod body;
mod capture;
mod counters;
mod draft;
mod epochs;
mod erase;
mod erased_key;
mod files;
mod high_water;
pub mod hold;
pub mod incident;
mod integrity;
mod jobs;
mod keys;
mod lately;
pub mod lineage;
mod lines;
mod names;
pub mod once;
mod open;
mod outcome;
pub mod own;
mod place;
mod principals;
pub mod provenance;
mod queue;
mod rebuild;
mod records;
mod recover;
pub mod replay;
mod retention;
mod run_at;
mod sequencer;
mod settings;
mod settle;
mod steps;
mod sweep;
mod tenant;
mod trace_diff;
mod tree;
pub mod verify;

use std::fs::File;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use evidence::{Identity, Kind, Timestamp};
use store::Store;

pub use api_keys::{
    ApiKey, ApiKeys, Changer, GivenKey, KEY_CHANGES_A_DAY_MAX, KEY_NAME_BYTES_MAX, KEYS_LIVE_MAX, KeyError,
    KeyRefused, LoadError, NewKey, read_keys,
};
pub use background::{Behind, FINDINGS_KEPT, OnRecord, SCRUB_MICROS, Verifier};
pub use body::Body;
pub use capture::{ActivityCaptured, CaptureError, ContextMissing};
pub use counters::{Counters, Counts};
pub use draft::{Bind, BodyTooLarge, Draft, RunSeen, Salts, SealedBody, TraceBind};
pub use epochs::offline_refusal;
pub use erase::{EraseAsked, EraseError, EraseTurn, Erasure, PlannedThere, Remains, StepOutput};
pub use high_water::{HighWater, Mark};
pub use hold::{HoldError, HoldMark, HoldRead};
pub use incident::{Incident, IncidentError, IncidentMark, IncidentReceipts};
pub use integrity::{IntegrityError, RunIntegrity};
pub use jobs::{
    AuditRead, ContractGuard, EvidenceRead, HEALTH_BYTES_MAX, HEALTH_NODES_MAX, JOB_ATTEMPTS_MAX,
    JOB_BYTES_MAX, JOB_DEPTH_MAX, JOB_EVENTS_MAX, JOB_STEPS_MAX, JOB_TEXT_BYTES_MAX, JobAct, JobDone,
    JobError, JobGlance, JobGuard, JobNext, JobTurn, JobVerdict, JobView, Moment, NewJob,
    PROGRESS_METADATA_BYTES_MAX, ProgressWatch, ReadyAct, ResolutionRead, RolloutRead, STEP_BYTES_MAX,
    TARGET_BYTES_MAX, rollout,
};
pub use keys::KeyFolder;
pub(crate) use names::Life;
pub use names::RunNames;
pub use open::{OpenError, Options, lock};
pub use outcome::{Outcomes, Placed, Receipt, Rejection, SubmitError, WriteError};
pub use principals::LastSignin;
pub use rebuild::{rebuild, rebuild_with};
pub use records::{FOUND_BYTES_MAX, FOUND_RECORDS_MAX, FoundRecords, Record, RecordError, Records, run_of};
pub use recover::{REASON_BYTES_MAX, RecoverError};
pub use retention::{RetentionError, RetentionSettings};
pub use run_at::{FOLDED_BYTES_MAX, FOLDED_RECORDS_MAX, RunAt, run_at, run_newest_leaf};
pub use settings::{Setting, SettingError};
pub use settle::{EndRun, SettleError};
pub use steps::{RUN_STEPS_MAX, StepPlace, step_places, step_places_at};
pub use tenant::{
    INSTANCE, LedgerInfo, Refusal, TENANT_BYTES_MAX, Tenant, is_origin, is_tenant_name, no_tenant, origin_of,
};
pub use trace_diff::{Divergence, TraceDiff, began_with, trace_diff};
pub use tree::{StoredTree, TreeError};

use queue::{Answer, Queue, Reply, Submission};

/// Why the store has stopped, when no commit of its failed.
pub(crate) const LOG_STAYS: &str = "the database's log cannot be carried over into its file";

/// How long work that gives way waits before it looks again.
const GIVE_WAY: std::time::Duration = std::time::Duration::from_millis(20);

fn submission(
    tenant: &Arc<Tenant>,
    mut drafts: Vec<Draft>,
    at: Timestamp,
    group: bool,
) -> (Submission, Answer) {
    drafts.iter_mut().for_each(Draft::know_by_body);
    let (reply, answer) = Reply::new();
    let submission = Submission {
        tenant: Arc::clone(tenant),
        bytes: drafts.iter().map(Draft::bytes).sum(),
        drafts: drafts.into(),
        at,
        group,
        reply,
        erasing: None,
    };
    (submission, answer)
}

/// A running ledger service over one data folder. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: KeyFolder,
    pub(crate) erased_key: erased_key::ErasedKey,
    pub(crate) tenants: tenant::Tenants,
    pub(crate) api_keys: ApiKeys,
    pub(crate) queue: Queue,
    /// Held by who submits ahead of others.
    ahead: Mutex<()>,
    pub(crate) counters: Counters,
    pub(crate) jobs: jobs::Jobs,
    pub(crate) names: names::Names,
    pub(crate) lately: lately::Lately,
    pub(crate) migrated: OnceLock<(usize, usize)>,
    stopped: RwLock<Option<String>>,
    closing: AtomicBool,
    pub(crate) settings: Mutex<()>,
    pub(crate) retention: Mutex<retention::AllWalks>,
    /// Held while an archive is written, until a record names it, and while others are swept.
    pub(crate) archives: Mutex<retention::Named>,
    pub(crate) running: own::Running,
    pub(crate) sealing: Mutex<std::collections::HashMap<u32, integrity::Sealing>>,
    /// Runs that are due and cannot be read, and when it was last tried.
    pub(crate) unsettled: Mutex<std::collections::HashMap<store::RunKey, Timestamp>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    _lock: Option<File>,
}

impl Inner {
    pub(crate) fn stopped(&self) -> Option<String> {
        let stopped = self
            .stopped
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        // The log is carried over beside the commits: what fails there, fails between them.
        stopped.or_else(|| self.store.is_stopped().then(|| LOG_STAYS.to_owned()))
    }

    /// Why a ledger takes nothing, if it does not.
    pub(crate) fn refusal(&self, ledger: &LedgerInfo) -> Option<SubmitError> {
        if let Some(reason) = self.stopped() {
            return Some(SubmitError::Stopped(reason));
        }
        let refusal = ledger.refusal()?;
        Some(SubmitError::Refused(refusal.to_string()))
    }

    pub(crate) fn stop(&self, reason: String) {
        self.stopped
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(reason);
    }
}

impl Ledger {
    /// How it runs.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// What is kept, for reading. Its methods block.
    pub fn store(&self) -> &dyn Store {
        self.inner.store.as_ref()
    }

    /// A tenant by name.
    pub fn tenant(&self, tenant_id: &str) -> Option<Arc<Tenant>> {
        self.inner.tenants.find(tenant_id)
    }

    /// Every tenant, by name.
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.inner.tenants.all()
    }

    /// Counters since the start.
    pub fn counts(&self) -> Counts {
        self.inner.counters.read()
    }

    /// Records that wait for the sequencer.
    pub fn queue_depth(&self) -> usize {
        self.inner.queue.depth()
    }

    /// Whether so little waits for the sequencer, in records and in bytes, that nobody is refused soon.
    pub fn has_room(&self) -> bool {
        self.inner.queue.has_room()
    }

    /// The schema version that the opening found (0: a new database), and the one it left, if it migrated.
    pub fn migrated(&self) -> Option<(usize, usize)> {
        self.inner.migrated.get().copied()
    }

    /// Why nothing is written any more; `None`: it is.
    pub fn stopped(&self) -> Option<String> {
        self.inner.stopped()
    }

    /// Has them at hand once the run has its first record: said before that is submitted by who will add to the run.
    pub fn expect_run(&self, tenant: &Tenant, run_id: &Arc<str>) {
        self.inner.names.expect(tenant.tenant_no, run_id);
    }

    /// What each record of a run repeats of it, when that is at hand.
    pub fn run_names_at_hand(&self, tenant: &Tenant, run_id: &Arc<str>) -> Option<RunNames> {
        self.inner.names.get(tenant.tenant_no, run_id)
    }

    /// The same from the store, which blocks; none of a run that is not there.
    ///
    /// # Errors
    /// The store cannot answer.
    pub fn run_names(
        &self,
        tenant: &Tenant,
        run_id: &Arc<str>,
    ) -> Result<Option<RunNames>, store::StoreError> {
        self.expect_run(tenant, run_id);
        let Some(row) = self.store().run_find(tenant.tenant_no, run_id)? else {
            self.inner.names.drop(tenant.tenant_no, run_id);
            return Ok(None);
        };
        let names = RunNames::of(&row);
        self.inner.names.keep(tenant.tenant_no, run_id, names.clone());
        Ok(Some(names))
    }

    /// Whether a step of a run may be begun, when that is at hand.
    pub(crate) fn run_life_at_hand(&self, tenant: &Tenant, run_id: &Arc<str>) -> Option<Life> {
        self.inner.names.life(tenant.tenant_no, run_id)
    }

    /// The same from the store, which blocks; none of a run that is not there.
    pub(crate) fn run_life(
        &self,
        tenant: &Tenant,
        run_id: &Arc<str>,
    ) -> Result<Option<Life>, store::StoreError> {
        self.expect_run(tenant, run_id);
        let Some(row) = self.store().run_find(tenant.tenant_no, run_id)? else {
            self.inner.names.drop(tenant.tenant_no, run_id);
            return Ok(None);
        };
        let seal = Identity::once(Kind::EvidenceIntegrity);
        let sealed = self.store().run_record_find(row.key, &seal)?.is_some();
        Ok(Some(self.inner.names.keep_life(run_id, &row, sealed)))
    }

    /// Submits drafts, received `at`; each is judged by itself, in order.
    ///
    /// Returns when they are durable. Dropping the future does not take them back. Of many, some may be durable before the
    /// others; an error after that is [`SubmitError::Unknown`], and what came behind it is not written.
    pub async fn submit(
        &self,
        tenant: &Arc<Tenant>,
        drafts: Vec<Draft>,
        at: Timestamp,
    ) -> Result<Outcomes, SubmitError> {
        self.enqueue(tenant, drafts, at, false)?
            .await
            .map_err(|_| self.unanswered())?
    }

    /// Submits drafts of which all or none are written. If the first is rejected for what is on record, the others are with
    /// [`Rejection::Group`]; if any is for what it is itself ([`Rejection::Redacted`], [`Rejection::LeafTooLarge`]), all are
    /// for that. Only the first may depend on what is on record; what is known already keeps its first receipt.
    pub async fn submit_group(
        &self,
        tenant: &Arc<Tenant>,
        drafts: Vec<Draft>,
        at: Timestamp,
    ) -> Result<Outcomes, SubmitError> {
        self.enqueue(tenant, drafts, at, true)?
            .await
            .map_err(|_| self.unanswered())?
    }

    /// The same from a thread that may block.
    pub fn submit_blocking(
        &self,
        tenant: &Arc<Tenant>,
        drafts: Vec<Draft>,
        at: Timestamp,
        group: bool,
    ) -> Result<Outcomes, SubmitError> {
        self.enqueue(tenant, drafts, at, group)?
            .blocking_recv()
            .map_err(|_| self.unanswered())?
    }

    /// Submits drafts of some tenants before all that waits, however much that is, and blocks until they are durable: for
    /// a few records that somebody may want to read. One call at a time; a second one waits for the first.
    ///
    /// With `hurry` commits are kept small for two seconds, so that the next such call waits for less.
    pub fn submit_ahead_blocking(
        &self,
        of_tenants: Vec<(Arc<Tenant>, Vec<Draft>)>,
        at: Timestamp,
        hurry: bool,
    ) -> Vec<Result<Outcomes, SubmitError>> {
        let _one = self.inner.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let (submissions, answers): (Vec<_>, Vec<_>) = of_tenants
            .into_iter()
            .map(|(tenant, drafts)| submission(&tenant, drafts, at, false))
            .unzip();
        let pushed = match self.inner.stopped() {
            Some(reason) => Err(SubmitError::Stopped(reason)),
            None => self.inner.queue.push_ahead(submissions, hurry),
        };
        let of = |answer: Answer| {
            pushed.clone()?;
            answer.blocking_recv().map_err(|_| self.unanswered())?
        };
        answers.into_iter().map(of).collect()
    }

    /// The sequencer ended without an answer: it was closing, or it panicked, perhaps after the commit.
    fn unanswered(&self) -> SubmitError {
        self.inner
            .stopped()
            .map_or(SubmitError::Closing, SubmitError::Unknown)
    }

    fn enqueue(
        &self,
        tenant: &Arc<Tenant>,
        drafts: Vec<Draft>,
        at: Timestamp,
        group: bool,
    ) -> Result<Answer, SubmitError> {
        if let Some(reason) = self.inner.stopped() {
            return Err(SubmitError::Stopped(reason));
        }
        let (submission, answer) = submission(tenant, drafts, at, group);
        if submission.drafts.is_empty() {
            submission.reply.send(Ok(Vec::new()));
            return Ok(answer);
        }
        self.inner
            .queue
            .push(submission)
            .inspect_err(|_| self.inner.counters.refused())?;
        Ok(answer)
    }

    /// Makes a tenant, or gives the one of that name. Blocks until its record is durable.
    ///
    /// # Errors
    /// The name may not be a tenant's, or the folder cannot be written to.
    pub fn tenant_create(&self, tenant_id: &str, at: Timestamp) -> Result<Arc<Tenant>, TenantError> {
        if !is_tenant_name(tenant_id) {
            return Err(TenantError::Name);
        }
        let (reply, answer) = std::sync::mpsc::channel();
        let name = tenant_id.to_owned();
        let queued = self.inner.queue.push_task(Box::new(move |sequencer| {
            // The asker may have gone; the tenant stays.
            drop(reply.send(tenant::create(sequencer, &name, at)));
        }));
        let closing = || TenantError::Submit(SubmitError::Closing);
        if queued {
            answer.recv().map_err(|_| closing())?
        } else {
            Err(closing())
        }
    }

    /// Makes all projections anew, while nothing else is written. Blocks; gives the records that stand in them.
    ///
    /// # Errors
    /// Why not; the old projections stand.
    pub fn rebuild(&self) -> Result<u64, own::RebuildError> {
        self.rebuild_watched(&Arc::default())
    }

    /// The same, counted by leaves and stopped between two steps.
    pub(crate) fn rebuild_watched(&self, watch: &Arc<own::Watch>) -> Result<u64, own::RebuildError> {
        let mut total = 0;
        for row in self.store().ledgers_list()? {
            total += self.store().head_read(row.ledger_no)?.size.as_u64();
        }
        watch.total.store(total, Ordering::Relaxed);
        let (reply, answer) = std::sync::mpsc::channel();
        let told = Arc::clone(watch);
        let queued = self.inner.queue.push_task(Box::new(move |sequencer| {
            let inner = Arc::clone(sequencer.inner());
            let progress = &mut |done| {
                told.done.store(done, Ordering::Relaxed);
                if told.is_stopped() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            let failed = |error: &dyn std::fmt::Display| own::RebuildError::Failed(error.to_string());
            let rebuilt = match inner.stopped() {
                Some(reason) => Err(failed(&SubmitError::Stopped(reason))),
                None => rebuild_with(inner.store.as_ref(), Some(&inner.options.archive()), progress).map_err(
                    |error| match error {
                        // One that writes no more does not the next time either.
                        error if inner.store.is_stopped() => failed(&error),
                        error => error.into(),
                    },
                ),
            };
            match &rebuilt {
                // What jobs are is read from what is new now.
                Ok(_) => inner.jobs.forget(),
                Err(error) if inner.stopped().is_none() && inner.store.is_stopped() => {
                    inner.stop(format!("the projections could not be written: {error}"));
                }
                Err(_) => {}
            }
            // The asker may have gone; the projections are new all the same.
            let _ = reply.send(rebuilt);
        }));
        let closing = || own::RebuildError::Failed(SubmitError::Closing.to_string());
        if !queued {
            return Err(closing());
        }
        match answer.recv() {
            Ok(Err(_)) if watch.is_stopped() => Err(own::RebuildError::Stopped),
            Ok(rebuilt) => rebuilt,
            Err(_) => Err(closing()),
        }
    }

    /// Waits while so much waits for the sequencer that others would soon be refused: long work gives way.
    pub(crate) fn give_way(&self) {
        while self.queue_depth() > queue::QUEUE_RECORDS_MAX / 2 && !self.is_closing() {
            std::thread::sleep(GIVE_WAY);
        }
    }

    /// Nothing is taken in any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.inner.closing.load(Ordering::Acquire)
    }

    /// Signs a checkpoint over everything committed so far, now. Blocks.
    pub fn checkpoint_now(&self, tenant: &Tenant) {
        let (done, wait) = std::sync::mpsc::channel();
        let ledger_no = tenant.ledger().row.ledger_no;
        if self.inner.queue.push_task(Box::new(move |sequencer| {
            sequencer.sign_now(ledger_no);
            let _ = done.send(());
        })) {
            let _ = wait.recv();
        }
    }

    /// Takes nothing in any more, finishes what waits, signs the last checkpoints. Blocks.
    pub fn close(&self) {
        self.inner.closing.store(true, Ordering::Release);
        self.own_interrupt();
        self.inner.queue.close();
        let thread = self
            .inner
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the sequencer panicked");
        }
        self.inner.store.tidy();
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ledger({})", self.inner.options.data_dir.display())
    }
}

/// Why a tenant was not made.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// Not `[a-z0-9][a-z0-9._-]*` of at most 63 bytes.
    #[error(
        "a tenant's name is 1 to 63 characters a-z, 0-9, '.', '_' or '-', and begins with a letter or digit"
    )]
    Name,
    /// Its record could not be written.
    #[error(transparent)]
    Submit(SubmitError),
    /// Its key, mark or row could not be written.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its ledger is refused for writing.
    #[error("{0}")]
    Refused(Refusal),
}
