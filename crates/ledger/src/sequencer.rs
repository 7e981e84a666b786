//! The sequencer: one thread that gives records their places, for all ledgers of the process.
//!
//! It commits at once when idle; what arrives during a commit is the next batch.
//! Nothing is acknowledged before the commit returned, nothing is signed before
//! it is durable, and after a write that failed nothing is written any more.
//!
//! Start at [`Sequencer::run`].

mod commit;
mod sign;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evidence::{Header, Timestamp};
use store::{Head, Store};
use tlog::{Frontier, SignerKey};

use crate::erase::Erasing;
use crate::high_water::HighWater;
use crate::queue::{Next, Reply, Submission};
use crate::tenant::{LedgerInfo, Refusal, Tenant};
use crate::tree::{StoredTree, TreeError};
use crate::{Inner, Outcomes, Salts, SubmitError};

/// A checkpoint is signed this long after the first commit that it covers: within the second that SPEC 2.4
/// allows, with half of it for the fsyncs.
const CHECKPOINT_DELAY: Duration = Duration::from_millis(500);

/// The writing side of one ledger.
struct Writer {
    ledger: Arc<LedgerInfo>,
    signer: SignerKey,
    head: Head,
    frontier: Frontier,
    /// Ordinal of the tenant's next run.
    next_run: u64,
    /// When it was last said that the clock is behind.
    warned: Option<Instant>,
    /// When the newest checkpoint must be signed; `None`: it covers everything.
    due: Option<Instant>,
}

/// See the module.
pub(crate) struct Sequencer {
    inner: Arc<Inner>,
    writers: HashMap<u32, Writer>,
    high_water: HighWater,
    random: Salts,
}

impl Sequencer {
    pub(crate) fn new(inner: Arc<Inner>, high_water: HighWater) -> Self {
        Self {
            inner,
            writers: HashMap::new(),
            high_water,
            random: Salts::default(),
        }
    }

    pub(crate) fn high_water(&mut self) -> &mut HighWater {
        &mut self.high_water
    }

    /// Takes up a ledger for writing: reads its right edge and checks it against the head. Gives why it is not taken up.
    pub(crate) fn add(
        &mut self,
        tenant: &Tenant,
        ledger: Arc<LedgerInfo>,
        signer: SignerKey,
    ) -> Result<Option<Refusal>, TreeError> {
        let store = self.inner.store.as_ref();
        let head = store.head_read(ledger.row.ledger_no)?;
        let frontier = StoredTree::new(store, ledger.row.ledger_no).frontier(head.size)?;
        if frontier.root() != head.root {
            let detail = "the last leaves do not hash to the head's root".to_owned();
            return Ok(Some(Refusal::Damaged(detail)));
        }
        let next_run = store.runs_total(tenant.tenant_no, None)?;
        let newest = last_recorded_at(store, ledger.row.ledger_no, head)?;
        let signed = store.checkpoint_newest(ledger.row.ledger_no)?;
        let covered = signed.map_or(0, |row| row.size.as_u64());
        let due = (covered < head.size.as_u64()).then(Instant::now);
        let no = ledger.row.ledger_no;
        ledger.recorded(newest);
        self.writers.insert(
            no,
            Writer {
                ledger,
                signer,
                head,
                frontier,
                next_run,
                warned: None,
                due,
            },
        );
        Ok(None)
    }

    /// Whether a ledger was taken up for writing.
    pub(crate) fn writes(&self, ledger_no: u32) -> bool {
        self.writers.contains_key(&ledger_no)
    }

    /// Places and commits until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        let inner = Arc::clone(&self.inner);
        let _exit = Exit(Arc::clone(&inner));
        loop {
            let deadline = self.writers.values().filter_map(|writer| writer.due).min();
            match inner.queue.next(deadline) {
                Next::Batch(batch) => self.commit(batch),
                Next::Task(task) => task(&mut self),
                Next::Deadline => self.sign_due(Instant::now()),
                Next::Closed => break,
            }
        }
        // On a clean shutdown the last checkpoint covers everything.
        for writer in self.writers.values_mut().filter(|writer| writer.due.is_some()) {
            writer.due = Some(Instant::now());
        }
        self.sign_due(Instant::now());
    }

    /// Places and commits one draft at once: for tasks, which run between batches.
    pub(crate) fn submit_now(
        &mut self,
        tenant: &Arc<Tenant>,
        draft: crate::Draft,
        at: Timestamp,
    ) -> Result<Result<crate::Placed, crate::Rejection>, SubmitError> {
        self.submit_group_now(tenant, vec![draft], at)?
            .into_iter()
            .next()
            .ok_or_else(|| SubmitError::Unknown("the commit answered nothing".into()))
    }

    /// The same of the record of an erasure, and with it erases.
    pub(crate) fn submit_erasing_now(
        &mut self,
        tenant: &Arc<Tenant>,
        draft: crate::Draft,
        erasing: Erasing,
        at: Timestamp,
    ) -> Result<Result<crate::Placed, crate::Rejection>, SubmitError> {
        self.submit_task(tenant, vec![draft], Some(Box::new(erasing)), at)?
            .into_iter()
            .next()
            .ok_or_else(|| SubmitError::Unknown("the commit answered nothing".into()))
    }

    /// The same of drafts of which all or none are written.
    pub(crate) fn submit_group_now(
        &mut self,
        tenant: &Arc<Tenant>,
        drafts: Vec<crate::Draft>,
        at: Timestamp,
    ) -> Result<Outcomes, SubmitError> {
        self.submit_task(tenant, drafts, None, at)
    }

    fn submit_task(
        &mut self,
        tenant: &Arc<Tenant>,
        drafts: Vec<crate::Draft>,
        erasing: Option<Box<Erasing>>,
        at: Timestamp,
    ) -> Result<Outcomes, SubmitError> {
        let (reply, mut answer) = Reply::new();
        let bytes = drafts.iter().map(crate::Draft::bytes).sum();
        self.commit(vec![Submission {
            tenant: Arc::clone(tenant),
            drafts: drafts.into(),
            at,
            group: true,
            reply,
            bytes,
            erasing,
        }]);
        answer
            .try_recv()
            .map_err(|_| SubmitError::Unknown("the commit was not answered".into()))?
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

/// However the thread ends, nobody waits for it any longer: a panic must not hang every sender.
struct Exit(Arc<Inner>);

impl Drop for Exit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop("the sequencer panicked".into());
        }
        self.0.queue.abandon();
    }
}

/// When the newest leaf was recorded; before all times without leaves.
pub(crate) fn last_recorded_at(
    store: &dyn Store,
    ledger_no: u32,
    head: Head,
) -> Result<Timestamp, TreeError> {
    let Some(last) = head.size.as_u64().checked_sub(1) else {
        return Ok(Timestamp::MIN);
    };
    let leaf = StoredTree::new(store, ledger_no).leaf(last)?;
    let header = Header::decode(&leaf).map_err(|error| TreeError::Damaged {
        ledger_no,
        leaf: last,
        reason: error.to_string(),
    })?;
    Ok(header.recorded_at)
}
