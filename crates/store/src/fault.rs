//! A store that fails on purpose: each armed [`Fault`] happens once.
//!
//! Every write is to be tested in both failures, lost and lost-but-persisted.
//! What is not armed passes through to the store behind.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evidence::{Finding, Identity, Timestamp};
use tlog::{Hash, TreeSize};

use crate::{
    AppendError, Batch, BatchKnown, BatchQuery, BodyRef, BodyRow, CheckpointRow, ExpectedRows, FacetPage,
    FacetQuery, FacetRow, Gone, Head, LeafBlock, LeafKey, LedgerRow, RowMissing, RunKey, RunPage, RunQuery,
    RunRecordRow, RunRow, Scrubbed, Snapshot, Store, StoreError, TenantRow, TraceKey,
};

/// What fails, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A batch is not written, and the store says so.
    AppendRefused,
    /// A batch is not written; the outcome is unknown.
    AppendLost,
    /// A batch is written; the outcome is unknown.
    AppendUnacknowledged,
    /// A batch is written, but its fsync failed: the outcome is unknown and the store stops for good.
    AppendUnsynced,
    /// A batch is not written: its first ledger's head is said to have moved.
    HeadMoved,
    /// The appending thread panics before anything is written.
    AppendPanic,
    /// A checkpoint is not kept.
    CheckpointLost,
    /// A checkpoint is kept, and an error is answered.
    CheckpointUnacknowledged,
    /// A ledger is not made.
    LedgerLost,
    /// A ledger is made, and an error is answered.
    LedgerUnacknowledged,
    /// The projections are not made anew: their transaction failed, and the store stops for good.
    RebuildFailed,
    /// A read fails for now.
    Read,
    /// A read of a head fails for now; other reads pass.
    HeadRead,
    /// A read by this method of [`Store`] fails for now; other reads pass.
    ReadBy(&'static str),
}

/// What happens before a read.
type Hook = Box<dyn FnOnce() + Send>;

/// A store that fails where it is told to.
pub struct FaultStore {
    inner: Arc<dyn Store>,
    armed: Mutex<Vec<Fault>>,
    stopped: AtomicBool,
    held: Mutex<Held>,
    /// How long each append takes beside what it takes.
    slow: Mutex<Duration>,
    held_changed: Condvar,
    /// Before which read by which method, counted down, and what.
    before: Mutex<Vec<(&'static str, u32, Hook)>>,
}

/// Whether appends are to wait, and how many do.
#[derive(Default)]
struct Held {
    on: bool,
    waiting: u32,
}

/// How long [`Hold::met`] waits: longer than the slowest machine takes to get to an append.
const MET_WAIT: Duration = Duration::from_mins(2);

/// While it lives, appends wait ([`FaultStore::hold`]).
pub struct Hold<'a>(&'a FaultStore);

impl Hold<'_> {
    /// Waits until an append waits for it; `false`: none came in two minutes.
    pub fn met(&self) -> bool {
        let nobody = |held: &mut Held| held.waiting == 0;
        let waited = self
            .0
            .held_changed
            .wait_timeout_while(lock(&self.0.held), MET_WAIT, nobody);
        let (held, _) = waited.unwrap_or_else(PoisonError::into_inner);
        held.waiting > 0
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        lock(&self.0.held).on = false;
        self.0.held_changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(fault: Fault) -> StoreError {
    StoreError::Unavailable(format!("fault: {fault:?}"))
}

impl FaultStore {
    /// Wraps a store; nothing fails yet.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            armed: Mutex::default(),
            stopped: AtomicBool::new(false),
            held: Mutex::default(),
            slow: Mutex::default(),
            held_changed: Condvar::new(),
            before: Mutex::default(),
        }
    }

    /// Does something before the `read`th next read by that method, counted from 1: what comes in between.
    pub fn before(&self, method: &'static str, read: u32, then: impl FnOnce() + Send + 'static) {
        lock(&self.before).push((method, read, Box::new(then)));
    }

    fn hooks(&self, method: &'static str) {
        let mut due = Vec::new();
        let mut before = lock(&self.before);
        for (of, mut left, hook) in std::mem::take(&mut *before) {
            left -= u32::from(of == method);
            if left == 0 {
                due.push(hook);
            } else {
                before.push((of, left, hook));
            }
        }
        drop(before);
        for hook in due {
            hook();
        }
    }

    /// Each append from now on takes so much longer: what lasts can be met on its way.
    pub fn slow_appends(&self, longer: Duration) {
        *lock(&self.slow) = longer;
    }

    /// The next operation that the fault is about fails so. Armed twice, it happens twice.
    pub fn arm(&self, fault: Fault) {
        lock(&self.armed).push(fault);
    }

    /// Faults that have not happened yet.
    pub fn armed(&self) -> Vec<Fault> {
        lock(&self.armed).clone()
    }

    /// Makes appends wait until the guard is dropped.
    pub fn hold(&self) -> Hold<'_> {
        lock(&self.held).on = true;
        Hold(self)
    }

    /// The first armed fault of those given, disarmed.
    fn take(&self, of: &[Fault]) -> Option<Fault> {
        let mut armed = lock(&self.armed);
        let place = armed.iter().position(|fault| of.contains(fault))?;
        Some(armed.remove(place))
    }

    fn read_fault(&self, method: &'static str) -> Result<(), StoreError> {
        if let Some(fault) = self.take(&[Fault::Read, Fault::ReadBy(method)]) {
            return Err(unavailable(fault));
        }
        self.hooks(method);
        Ok(())
    }
}

impl std::fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FaultStore({:?})", self.armed())
    }
}

macro_rules! reads {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {$(
        fn $name(&self, $($arg: $ty),*) -> Result<$out, StoreError> {
            self.read_fault(stringify!($name))?;
            self.inner.$name($($arg),*)
        }
    )*};
}

impl Store for FaultStore {
    fn batch_append(&self, batches: &[Batch]) -> Result<(), AppendError> {
        let mut held = lock(&self.held);
        held.waiting += 1;
        self.held_changed.notify_all();
        while held.on {
            held = self
                .held_changed
                .wait(held)
                .unwrap_or_else(PoisonError::into_inner);
        }
        held.waiting -= 1;
        drop(held);
        let slow = *lock(&self.slow);
        if !slow.is_zero() {
            std::thread::sleep(slow);
        }
        if self.is_stopped() {
            return Err(AppendError::Refused("writing has stopped".into()));
        }
        let fault = self.take(&[
            Fault::AppendRefused,
            Fault::AppendLost,
            Fault::AppendUnacknowledged,
            Fault::AppendUnsynced,
            Fault::HeadMoved,
            Fault::AppendPanic,
        ]);
        let Some(fault) = fault else {
            return self.inner.batch_append(batches);
        };
        let unknown = || AppendError::Unknown(format!("fault: {fault:?}"));
        match fault {
            Fault::AppendLost => Err(unknown()),
            Fault::AppendUnacknowledged => self.inner.batch_append(batches).and_then(|()| Err(unknown())),
            Fault::AppendUnsynced => {
                self.stopped.store(true, Ordering::Release);
                self.inner.batch_append(batches).and_then(|()| Err(unknown()))
            }
            Fault::HeadMoved => Err(AppendError::HeadMoved(
                batches.first().map_or(0, |batch| batch.ledger_no),
            )),
            Fault::AppendPanic => panic!("fault: {fault:?}"),
            _ => Err(AppendError::Refused(format!("fault: {fault:?}"))),
        }
    }

    fn checkpoints_append(&self, checkpoints: &[(u32, CheckpointRow)]) -> Result<(), StoreError> {
        match self.take(&[Fault::CheckpointLost, Fault::CheckpointUnacknowledged]) {
            None => self.inner.checkpoints_append(checkpoints),
            Some(fault @ Fault::CheckpointUnacknowledged) => self
                .inner
                .checkpoints_append(checkpoints)
                .and(Err(unavailable(fault))),
            Some(fault) => Err(unavailable(fault)),
        }
    }

    fn ledger_create(&self, row: &LedgerRow) -> Result<(), StoreError> {
        match self.take(&[Fault::LedgerLost, Fault::LedgerUnacknowledged]) {
            None => self.inner.ledger_create(row),
            Some(fault @ Fault::LedgerUnacknowledged) => {
                self.inner.ledger_create(row).and(Err(unavailable(fault)))
            }
            Some(fault) => Err(unavailable(fault)),
        }
    }

    fn head_read(&self, ledger_no: u32) -> Result<Head, StoreError> {
        if let Some(fault) = self.take(&[Fault::HeadRead]) {
            return Err(unavailable(fault));
        }
        self.read_fault("head_read")?;
        self.inner.head_read(ledger_no)
    }

    fn projections_replace(
        &self,
        batches: &mut dyn Iterator<Item = Result<Batch, StoreError>>,
    ) -> Result<(), StoreError> {
        if self.is_stopped() {
            return Err(StoreError::Refused("writing has stopped".into()));
        }
        if let Some(fault) = self.take(&[Fault::RebuildFailed]) {
            self.stopped.store(true, Ordering::Release);
            return Err(unavailable(fault));
        }
        self.inner.projections_replace(batches)
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire) || self.inner.is_stopped()
    }

    fn tidy(&self) {
        self.inner.tidy();
    }

    fn scrub(&self) -> Result<Scrubbed, StoreError> {
        self.inner.scrub()
    }

    fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }

    reads! {
        fn ledgers_list() -> Vec<LedgerRow>;
        fn tenants_list() -> Vec<TenantRow>;
        fn batch_lookup(tenant_no: u32, query: &BatchQuery) -> BatchKnown;
        fn checkpoint_newest(ledger_no: u32) -> Option<CheckpointRow>;
        fn checkpoints_read(ledger_no: u32, from: TreeSize, limit: u32) -> Vec<CheckpointRow>;
        fn blocks_read(ledger_no: u32, first: u64, limit: u32) -> Vec<LeafBlock>;
        fn leaves_get(leaves: &[LeafKey]) -> Vec<Option<Vec<u8>>>;
        fn leaf_since(ledger_no: u32, at: Timestamp) -> u64;
        fn nodes_read(ledger_no: u32, level: u8, first: u64, limit: u32) -> Vec<Hash>;
        fn bodies_visit(
            ledger_no: u32,
            first: u64,
            end: u64,
            visit: &mut dyn FnMut(BodyRef<'_>) -> ControlFlow<()>
        ) -> ();
        fn bodies_page(leaves: &[LeafKey], bytes_max: usize) -> (Vec<BodyRow>, usize);
        fn bodies_there(leaves: &[LeafKey]) -> Vec<LeafKey>;
        fn bodies_gone(leaves: &[LeafKey]) -> Vec<Gone>;
        fn run_find(tenant_no: u32, run_id: &str) -> Option<RunRow>;
        fn run_find_by_trace(tenant_no: u32, trace: &TraceKey) -> Option<RunRow>;
        fn run_environments(run: RunKey, limit: u32) -> Vec<RunRecordRow>;
        fn run_traces(run: RunKey, limit: u32) -> Vec<TraceKey>;
        fn run_record_find(run: RunKey, identity: &Identity) -> Option<RunRecordRow>;
        fn runs_list(query: &RunQuery) -> RunPage;
        fn runs_count(query: &RunQuery, max: u32) -> u32;
        fn runs_total(tenant_no: u32, as_of: Option<LeafKey>) -> u64;
        fn runs_read(from: RunKey, limit: u32) -> Vec<RunRow>;
        fn runs_due(ended_before: Timestamp, running_before: Timestamp, limit: u32) -> Vec<RunRow>;
        fn facet_find(tenant_no: u32, query: &FacetQuery) -> FacetPage;
        fn facets_read(tenant_no: u32, after: Option<&FacetRow>, limit: u32) -> Vec<FacetRow>;
        fn facet_count(tenant_no: u32, query: &FacetQuery, max: u32) -> (u64, bool);
        fn is_pruned(leaf: LeafKey) -> bool;
        fn self_check(only_ledger: bool) -> Vec<Finding>;
        fn snapshot(tenant_no: u32, only_ledger: bool) -> Snapshot;
        fn runs_get(keys: &[RunKey]) -> Vec<Result<Option<RunRow>, StoreError>>;
        fn run_records(run: RunKey, from_seq: u64, limit: u32) -> Vec<RunRecordRow>;
        fn run_snapshot(run: RunKey) -> Option<(RunRow, Vec<RunRecordRow>)>;
        fn rows_missing(expected: &ExpectedRows) -> Vec<RowMissing>;
        fn run_record_keys(tenant_no: u32, after: Option<(RunKey, u64)>, limit: u32) -> Vec<(RunKey, u64, LeafKey)>;
    }
}
