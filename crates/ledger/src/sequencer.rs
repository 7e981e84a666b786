//! The sequencer: one thread that gives records their places, for all ledgers of the process.
//!
//! It commits at once when idle; what arrives during a commit is the next batch.
//! Nothing is acknowledged before the commit returned, nothing is signed before
//! it is durable, and after a write that failed nothing is written any more.
//!
//! Start at [`Sequencer::run`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evidence::record::Facts;
use evidence::{Header, Timestamp};
use store::{AppendError, Batch, CheckpointRow, Head, LeafKey, PrunedRow, Store, StoreError};
use tlog::{Checkpoint, Frontier, SignerKey};

use crate::erase::Erasing;
use crate::high_water::{HighWater, Mark};
use crate::place::{After, Place, Placer};
use crate::queue::{Next, Submission};
use crate::tenant::{LedgerInfo, Refusal, Tenant};
use crate::tree::{StoredTree, TreeError};
use crate::{Inner, Outcomes, Salts, SubmitError};

/// A checkpoint is signed this long after the first commit that it covers: within the second that SPEC 2.4
/// allows, with half of it for the fsyncs.
const CHECKPOINT_DELAY: Duration = Duration::from_millis(500);

/// Attempts to place one batch when the head moved under it. Only another writer can move it, and there
/// should be none.
const PLACE_ATTEMPTS: u32 = 3;

/// A clock that is behind the ledger by more is worth a line in the log: requests overtake one another by
/// seconds at most, as none lives longer.
const CLOCK_BEHIND_MICROS: i64 = 60 * 1_000_000;

/// One such line a ledger and minute: every batch sees the same clock.
const CLOCK_WARNING_EVERY: Duration = Duration::from_mins(1);

/// The writing side of one ledger.
struct Writer {
    ledger: Arc<LedgerInfo>,
    signer: SignerKey,
    head: Head,
    frontier: Frontier,
    /// Ordinal of the tenant's next run.
    next_run: u64,
    /// Of the newest leaf. No leaf is recorded before it.
    last_recorded_at: Timestamp,
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

    /// Takes up a ledger for writing: reads its right edge and checks it against the head.
    pub(crate) fn add(
        &mut self,
        tenant: &Tenant,
        ledger: Arc<LedgerInfo>,
        signer: SignerKey,
    ) -> Result<(), Refusal> {
        let store = self.inner.store.as_ref();
        let damaged = |error: &dyn std::fmt::Display| Refusal::Damaged(error.to_string());
        let head = store
            .head_read(ledger.row.ledger_no)
            .map_err(|error| damaged(&error))?;
        let frontier = StoredTree::new(store, ledger.row.ledger_no)
            .frontier(head.size)
            .map_err(|error| damaged(&error))?;
        if frontier.root() != head.root {
            return Err(Refusal::Damaged(
                "the last leaves do not hash to the head's root".into(),
            ));
        }
        let next_run = store
            .runs_total(tenant.tenant_no, None)
            .map_err(|error| damaged(&error))?;
        let last_recorded_at =
            last_recorded_at(store, ledger.row.ledger_no, head).map_err(|error| damaged(&error))?;
        let signed = store
            .checkpoint_newest(ledger.row.ledger_no)
            .map_err(|error| damaged(&error))?;
        let covered = signed.map_or(0, |row| row.size.as_u64());
        let due = (covered < head.size.as_u64()).then(Instant::now);
        let no = ledger.row.ledger_no;
        self.writers.insert(
            no,
            Writer {
                ledger,
                signer,
                head,
                frontier,
                next_run,
                last_recorded_at,
                warned: None,
                due,
            },
        );
        Ok(())
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

    fn commit(&mut self, submissions: Vec<Submission>) {
        let mut by_ledger: BTreeMap<u32, Vec<Submission>> = BTreeMap::new();
        for submission in submissions {
            let ledger = submission.tenant.ledger();
            let refusal = match self.inner.stopped() {
                Some(reason) => Some(SubmitError::Stopped(reason)),
                None => ledger
                    .refusal()
                    .map(|refusal| SubmitError::Refused(refusal.to_string())),
            };
            match refusal {
                // A sender that has gone does not want its answer; the records stand all the same.
                Some(error) => drop(submission.reply.send(Err(error))),
                None => by_ledger
                    .entry(ledger.row.ledger_no)
                    .or_default()
                    .push(submission),
            }
        }
        let mut attempts = 0;
        while !by_ledger.is_empty() {
            attempts += 1;
            match self.attempt(&by_ledger) {
                Ok(outcomes) => return answer(by_ledger, outcomes),
                Err(Failure::Again) if attempts < PLACE_ATTEMPTS => {}
                Err(Failure::Again) => {
                    return refuse(
                        by_ledger,
                        &SubmitError::Unknown("another writer moves this ledger".into()),
                    );
                }
                Err(Failure::Stop(error)) => {
                    tracing::error!(%error, "a write failed: nothing is written any more until a restart");
                    self.inner.stop(error.to_string());
                    return refuse(by_ledger, &error);
                }
                Err(Failure::Busy(error)) => return refuse(by_ledger, &error),
                Err(Failure::Ledger(ledger_no, refusal)) => {
                    // The other ledgers go on without it.
                    if let Some(writer) = self.writers.get(&ledger_no) {
                        writer.ledger.refuse(refusal.clone());
                    }
                    if let Some(submissions) = by_ledger.remove(&ledger_no) {
                        let error = SubmitError::Refused(refusal.to_string());
                        refuse(BTreeMap::from([(ledger_no, submissions)]), &error);
                    }
                    attempts = 0;
                }
            }
        }
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
        let (reply, mut answer) = tokio::sync::oneshot::channel();
        let bytes = drafts.iter().map(crate::Draft::bytes).sum();
        self.commit(vec![Submission {
            tenant: Arc::clone(tenant),
            drafts,
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

    /// One try: place everything, append it in one transaction, move on.
    fn attempt(&mut self, by_ledger: &BTreeMap<u32, Vec<Submission>>) -> Result<Vec<Outcomes>, Failure> {
        let store = Arc::clone(&self.inner.store);
        let mut batches = Vec::with_capacity(by_ledger.len());
        let mut after = Vec::with_capacity(by_ledger.len());
        let mut outcomes = Vec::new();
        for (&ledger_no, submissions) in by_ledger {
            let Some(writer) = self.writers.get_mut(&ledger_no) else {
                return Err(Failure::Ledger(
                    ledger_no,
                    Refusal::Damaged("no writer for this ledger".into()),
                ));
            };
            warn_of_clock(writer, submissions);
            let tenant = &submissions[0].tenant;
            let place = Place {
                store: store.as_ref(),
                tenant_no: tenant.tenant_no,
                tenant_id: &tenant.tenant_id,
                ledger_no,
                head: writer.head,
                frontier: writer.frontier.clone(),
                next_run: writer.next_run,
                last_recorded_at: writer.last_recorded_at,
                erasures: tenant.erasures(),
                erased_key: &self.inner.erased_key,
            };
            let drafts = submissions.iter().flat_map(|submission| &submission.drafts);
            let placed = (|| {
                let mut placer = Placer::new(place, &mut self.random, drafts)?;
                for submission in submissions {
                    outcomes.push(place_submission(&mut placer, submission)?);
                }
                Ok(placer.finish())
            })();
            let (mut batch, left) = placed.map_err(|error| place_failure(ledger_no, error))?;
            // In the commit of its record, and not without it.
            let first = outcomes.len() - submissions.len();
            for (submission, outcomes) in submissions.iter().zip(&outcomes[first..]) {
                if let Some(erasing) = submission
                    .erasing
                    .as_ref()
                    .filter(|_| outcomes.iter().all(Result::is_ok))
                {
                    batch.erased.extend_from_slice(&erasing.rows);
                    batch.refolded.extend_from_slice(&erasing.runs);
                    let by = outcomes.first().and_then(|outcome| outcome.as_ref().ok());
                    let by = by.map_or(0, |placed| placed.receipt.leaf_index);
                    batch.pruned.extend(erasing.pruned.iter().map(|row| PrunedRow {
                        by: LeafKey::new(ledger_no, by),
                        ..*row
                    }));
                }
            }
            after.push((ledger_no, left));
            batches.push(batch);
        }
        batches.retain(|batch: &Batch| !batch.blocks.is_empty());
        if !batches.is_empty() {
            self.append(&batches, &after)?;
            for batch in &batches {
                self.inner.names.changed(&batch.runs);
                self.inner.names.changed(&batch.refolded);
            }
            let submissions = by_ledger.values().flatten();
            for submission in submissions.filter(|submission| submission.erasing.is_some()) {
                submission.tenant.erased();
            }
        }
        for (
            ledger_no,
            After {
                frontier,
                next_run,
                last_recorded_at,
            },
        ) in after
        {
            if let Some(writer) = self.writers.get_mut(&ledger_no) {
                if frontier.size() != writer.head.size {
                    writer
                        .due
                        .get_or_insert_with(|| Instant::now() + CHECKPOINT_DELAY);
                }
                writer.head = Head {
                    size: frontier.size(),
                    root: frontier.root(),
                };
                writer.frontier = frontier;
                writer.next_run = next_run;
                writer.last_recorded_at = last_recorded_at;
            }
        }
        Ok(outcomes)
    }

    fn append(&mut self, batches: &[Batch], after: &[(u32, After)]) -> Result<(), Failure> {
        let started = Instant::now();
        match self.inner.store.batch_append(batches) {
            Ok(()) => {
                let records = batches.iter().map(|batch| batch.bodies.len()).sum();
                self.inner.counters.committed(records, started.elapsed());
                if self.inner.store.is_stopped() {
                    // This commit is durable; what the store does after one failed, and no other may follow.
                    self.inner.stop(crate::LOG_STAYS.into());
                }
                Ok(())
            }
            Err(AppendError::HeadMoved(ledger_no)) => {
                self.reload(ledger_no)?;
                Err(Failure::Again)
            }
            Err(AppendError::Refused(reason)) => Err(Failure::Stop(SubmitError::Stopped(reason))),
            Err(AppendError::Unavailable(reason)) => Err(Failure::Busy(SubmitError::Unknown(format!(
                "nothing was written: {reason}"
            )))),
            // The commit may have happened. Nothing else is written before that is known.
            Err(AppendError::Unknown(reason)) => {
                if self.inner.store.is_stopped() {
                    // The disk failed under the commit: even what can be read back may not survive a power loss.
                    return Err(Failure::Stop(SubmitError::Unknown(reason)));
                }
                let mut moved = 0;
                for batch in batches {
                    let head = self
                        .inner
                        .store
                        .head_read(batch.ledger_no)
                        .map_err(|error| stop(&error))?;
                    let expected = after.iter().find(|(ledger_no, ..)| *ledger_no == batch.ledger_no);
                    if expected.is_some_and(|(_, a)| {
                        a.frontier.size() == head.size && a.frontier.root() == head.root
                    }) {
                        moved += 1;
                    }
                }
                // All or none: one transaction carried them.
                if moved == batches.len() {
                    Ok(())
                } else {
                    Err(Failure::Again)
                }
            }
        }
    }

    fn reload(&mut self, ledger_no: u32) -> Result<(), Failure> {
        let Some(writer) = self.writers.get_mut(&ledger_no) else {
            return Ok(());
        };
        let store = self.inner.store.as_ref();
        let head = store.head_read(ledger_no).map_err(|error| stop(&error))?;
        let damaged = |reason: String| Failure::Ledger(ledger_no, Refusal::Damaged(reason));
        if head.size < writer.head.size {
            let detail = format!("the ledger has {} leaves, it had {}", head.size, writer.head.size);
            return Err(Failure::Ledger(ledger_no, Refusal::RolledBack(detail)));
        }
        let frontier = StoredTree::new(store, ledger_no)
            .frontier(head.size)
            .map_err(|error| damaged(error.to_string()))?;
        if frontier.root() != head.root {
            let detail = "the last block's root is not that of the leaves".to_owned();
            return Err(damaged(detail));
        }
        // What this process committed is to be found again in what has grown: only then is it the same ledger.
        let before = StoredTree::new(store, ledger_no)
            .frontier(writer.head.size)
            .map_err(|error| damaged(error.to_string()))?;
        if before.root() != writer.head.root {
            let detail = format!("the first {} leaves are others than they were", writer.head.size);
            return Err(Failure::Ledger(ledger_no, Refusal::RolledBack(detail)));
        }
        writer.next_run = store
            .runs_total(writer.ledger.row.tenant_no, None)
            .map_err(|error| stop(&error))?;
        writer.last_recorded_at =
            last_recorded_at(store, ledger_no, head).map_err(|error| damaged(error.to_string()))?;
        (writer.head, writer.frontier) = (head, frontier);
        Ok(())
    }

    /// Signs what is due: mark first, then the signature, so that no signature is ever ahead of the mark.
    fn sign_due(&mut self, now: Instant) {
        if self.inner.stopped().is_some() {
            self.writers.values_mut().for_each(|writer| writer.due = None);
            return;
        }
        let mut signing = Vec::new();
        for writer in self.writers.values_mut() {
            if writer.due.is_none_or(|due| due > now) {
                continue;
            }
            writer.due = None;
            if writer.ledger.refusal().is_some() {
                continue;
            }
            let mark = self.high_water.get(&writer.ledger.row.origin);
            match unsafe_to_sign(self.inner.store.as_ref(), writer, mark) {
                Ok(None) => signing.push(writer),
                Ok(Some(refusal)) => {
                    tracing::error!(origin = writer.ledger.row.origin, %refusal, "refusing to sign");
                    writer.ledger.refuse(refusal);
                }
                Err(error) => {
                    tracing::error!(origin = writer.ledger.row.origin, %error, "cannot read the head before signing");
                    writer.due = Some(now + CHECKPOINT_DELAY);
                }
            }
        }
        if signing.is_empty() {
            return;
        }
        let marks: Vec<(String, Mark)> = signing
            .iter()
            .map(|w| {
                (
                    w.ledger.row.origin.clone(),
                    Mark {
                        size: w.head.size,
                        root: w.head.root,
                    },
                )
            })
            .collect();
        // Crash before: nothing signed. Crash after: the mark is ahead of the last signature, and the
        // database holds that much; the next start signs it.
        if let Err(error) = self.high_water.raise(&marks) {
            tracing::error!(%error, "cannot write the high-water file: nothing is written any more until a restart");
            self.inner
                .stop(format!("the high-water file cannot be written: {error}"));
            return;
        }
        for writer in signing {
            let row = &writer.ledger.row;
            let checkpoint = match Checkpoint::new(&row.origin, writer.head.size, writer.head.root) {
                Ok(checkpoint) => checkpoint,
                Err(error) => {
                    tracing::error!(%error, "an origin that no checkpoint can have");
                    continue;
                }
            };
            let note = checkpoint.sign(&writer.signer);
            // Ed25519 is deterministic: signing the same head again gives the same note, so a crash here
            // re-publishes and never replaces.
            let stored = CheckpointRow {
                size: writer.head.size,
                note,
            };
            if let Err(error) = self.inner.store.checkpoint_append(row.ledger_no, &stored) {
                tracing::error!(%error, "cannot keep a checkpoint: nothing is written any more until a restart");
                self.inner.stop(format!("a checkpoint cannot be kept: {error}"));
                return;
            }
            self.inner.counters.signed();
        }
    }

    /// Signs now whatever is not covered yet, and says which size the ledger's newest checkpoint has.
    pub(crate) fn sign_now(&mut self, ledger_no: u32) {
        let now = Instant::now();
        if let Some(writer) = self.writers.get_mut(&ledger_no)
            && writer.due.is_some()
        {
            writer.due = Some(now);
            self.sign_due(now);
        }
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
fn last_recorded_at(store: &dyn Store, ledger_no: u32, head: Head) -> Result<Timestamp, TreeError> {
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

/// Says it when the clock is far behind the ledger, whose records then stand under the time of its last one.
fn warn_of_clock(writer: &mut Writer, submissions: &[Submission]) {
    let behind = |submission: &Submission| {
        writer.last_recorded_at.as_micros() - submission.at.as_micros() > CLOCK_BEHIND_MICROS
    };
    let Some(late) = submissions.iter().find(|submission| behind(submission)) else {
        return;
    };
    if writer
        .warned
        .is_some_and(|warned| warned.elapsed() < CLOCK_WARNING_EVERY)
    {
        return;
    }
    writer.warned = Some(Instant::now());
    tracing::warn!(
        origin = writer.ledger.row.origin,
        clock = %late.at,
        ledger = %writer.last_recorded_at,
        "the clock is behind the ledger: records stand under the time of the ledger's last one until it has caught up"
    );
}

/// Whether the stored ledger is what this writer believes and not behind the mark.
fn unsafe_to_sign(
    store: &dyn Store,
    writer: &Writer,
    mark: Option<Mark>,
) -> Result<Option<Refusal>, StoreError> {
    let head = store.head_read(writer.ledger.row.ledger_no)?;
    if head != writer.head {
        let detail = format!(
            "the stored head has {} leaves, {} were committed",
            head.size, writer.head.size
        );
        return Ok(Some(Refusal::RolledBack(detail)));
    }
    Ok(match mark {
        None => Some(Refusal::RolledBack("the high-water mark is missing".into())),
        Some(mark) if head.size < mark.size => Some(Refusal::RolledBack(format!(
            "the ledger has {} leaves, {} were signed",
            head.size, mark.size
        ))),
        Some(mark) if head.size == mark.size && head.root != mark.root => Some(Refusal::RolledBack(format!(
            "another root was signed at {} leaves",
            mark.size
        ))),
        Some(_) => None,
    })
}

enum Failure {
    /// Place the batch anew.
    Again,
    /// Nothing may be written any more.
    Stop(SubmitError),
    /// The store cannot answer now; nothing was written.
    Busy(SubmitError),
    /// One ledger may not be written to.
    Ledger(u32, Refusal),
}

fn stop(error: &StoreError) -> Failure {
    Failure::Stop(SubmitError::Unknown(error.to_string()))
}

fn place_failure(ledger_no: u32, error: crate::place::PlaceError) -> Failure {
    use crate::place::PlaceError;
    match error {
        PlaceError::Store(StoreError::Unavailable(reason))
        | PlaceError::Tree(TreeError::Store(StoreError::Unavailable(reason))) => {
            Failure::Busy(SubmitError::Unknown(format!("nothing was written: {reason}")))
        }
        other => Failure::Ledger(ledger_no, Refusal::Damaged(other.to_string())),
    }
}

fn place_submission(
    placer: &mut Placer<'_>,
    submission: &Submission,
) -> Result<Outcomes, crate::place::PlaceError> {
    let mut outcomes: Outcomes = Vec::with_capacity(submission.drafts.len());
    for draft in &submission.drafts {
        let refused = submission.group && outcomes.first().is_some_and(Result::is_err);
        outcomes.push(if refused {
            Err(crate::Rejection::Group)
        } else {
            placer.place(draft, submission.at)?
        });
        debug_assert!(!matches!(draft.facts, Facts::RunStarted(_)) || draft.identity.is_some());
    }
    Ok(outcomes)
}

fn answer(by_ledger: BTreeMap<u32, Vec<Submission>>, outcomes: Vec<Outcomes>) {
    for (submission, outcomes) in by_ledger.into_values().flatten().zip(outcomes) {
        drop(submission.reply.send(Ok(outcomes)));
    }
}

fn refuse(by_ledger: BTreeMap<u32, Vec<Submission>>, error: &SubmitError) {
    for submission in by_ledger.into_values().flatten() {
        drop(submission.reply.send(Err(error.clone())));
    }
}
