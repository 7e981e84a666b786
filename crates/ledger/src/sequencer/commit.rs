//! One batch: placed, appended in one transaction, answered; what becomes of it when the append fails.
//!
//! Start at [`Sequencer::commit`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evidence::Kind;
use evidence::record::Facts;
use store::{AppendError, Batch, Head, LeafKey, PrunedRow, RunKey, StoreError};

use super::{CHECKPOINT_DELAY, Sequencer, Writer, last_recorded_at};
use crate::place::{After, Place, Placer};
use crate::queue::Submission;
use crate::tenant::Refusal;
use crate::tree::{StoredTree, TreeError};
use crate::{Bind, Draft, Outcomes, SubmitError};

/// Attempts to place one batch when the head moved under it. Only another writer can move it, and there
/// should be none.
const PLACE_ATTEMPTS: u32 = 3;

/// A clock that is behind the ledger by more is worth a line in the log: requests overtake one another by
/// seconds at most, as none lives longer.
const CLOCK_BEHIND_MICROS: i64 = 60 * 1_000_000;

/// One such line a ledger and minute: every batch sees the same clock.
const CLOCK_WARNING_EVERY: Duration = Duration::from_mins(1);

impl Sequencer {
    pub(super) fn commit(&mut self, submissions: Vec<Submission>) {
        let mut by_ledger: BTreeMap<u32, Vec<Submission>> = BTreeMap::new();
        for submission in submissions {
            let ledger = submission.tenant.ledger();
            match self.inner.refusal(&ledger) {
                Some(error) => submission.reply.send(Err(error)),
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
                tenant,
                ledger_no,
                head: writer.head,
                frontier: writer.frontier.clone(),
                next_run: writer.next_run,
                last_recorded_at: writer.ledger.newest(),
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
            writer.ledger.recorded(left.last_recorded_at);
            // In the commit of its record, and not without it.
            let first = outcomes.len() - submissions.len();
            for (submission, outcomes) in submissions.iter().zip(&outcomes[first..]) {
                if let Some(erasing) = submission
                    .erasing
                    .as_ref()
                    .filter(|_| outcomes.iter().all(Result::is_ok))
                {
                    batch.erased.extend_from_slice(&erasing.rows);
                    batch.refolded.extend(erasing.refolded.clone());
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
                let records = batch.run_records.iter();
                let sealed: Vec<RunKey> = records
                    .filter(|row| row.kind == Kind::EvidenceIntegrity)
                    .map(|row| row.run)
                    .collect();
                self.inner.names.changed(&batch.runs, &sealed);
                self.inner.names.changed(&batch.refolded, &[]);
                crate::retention::committed(&self.inner.retention, batch);
            }
            for submission in by_ledger.values().flatten() {
                if let Some(run) = submission.erasing.as_ref().and_then(|erasing| erasing.run) {
                    submission.tenant.erased(run);
                }
            }
        }
        for (
            ledger_no,
            After {
                frontier, next_run, ..
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

    /// Takes in what another writer made of a ledger. Nothing was written that this could be about, so a store that cannot
    /// answer is asked again by the next batch, whose head has moved then too.
    fn reload(&mut self, ledger_no: u32) -> Result<(), Failure> {
        let Some(writer) = self.writers.get_mut(&ledger_no) else {
            return Ok(());
        };
        let store = self.inner.store.as_ref();
        let unread = |error: TreeError| place_failure(ledger_no, error.into());
        let refused = |refusal| Err(Failure::Ledger(ledger_no, refusal));
        let head = store.head_read(ledger_no).map_err(|error| unread(error.into()))?;
        if head.size < writer.head.size {
            let detail = format!("the ledger has {} leaves, it had {}", head.size, writer.head.size);
            return refused(Refusal::RolledBack(detail));
        }
        let tree = StoredTree::new(store, ledger_no);
        let frontier = tree.frontier(head.size).map_err(unread)?;
        if frontier.root() != head.root {
            let detail = "the last block's root is not that of the leaves".to_owned();
            return refused(Refusal::Damaged(detail));
        }
        // What this process committed is to be found again in what has grown: only then is it the same ledger.
        let before = tree.frontier(writer.head.size).map_err(unread)?;
        if before.root() != writer.head.root {
            let detail = format!("the first {} leaves are others than they were", writer.head.size);
            return refused(Refusal::RolledBack(detail));
        }
        let next_run = store
            .runs_total(writer.ledger.row.tenant_no, None)
            .map_err(|error| unread(error.into()))?;
        let newest = last_recorded_at(store, ledger_no, head).map_err(unread)?;
        writer.ledger.recorded(newest);
        (writer.head, writer.frontier, writer.next_run) = (head, frontier, next_run);
        Ok(())
    }
}

/// Says it when the clock is far behind the ledger, whose records then stand under the time of its last one.
fn warn_of_clock(writer: &mut Writer, submissions: &[Submission]) {
    let newest = writer.ledger.newest();
    let behind = |submission: &&Submission| newest.micros_since(submission.at) > CLOCK_BEHIND_MICROS;
    let Some(late) = submissions.iter().find(behind) else {
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
        ledger = %newest,
        "the clock is behind the ledger: records stand under the time of the ledger's last one until it has caught up"
    );
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
    // What one draft alone meets stays its own; of more, none is placed if one could not be written.
    if submission.group
        && submission.drafts.len() > 1
        && let Some(rejection) = placer.refused_of_group(&submission.drafts, submission.at)
    {
        return Ok(vec![Err(rejection); submission.drafts.len()]);
    }
    let mut outcomes: Outcomes = Vec::with_capacity(submission.drafts.len());
    let of_new_run = |draft: &Draft| matches!(draft.bind, Bind::NewRun(_));
    let whole_run = submission.group && submission.drafts.front().is_some_and(of_new_run);
    for draft in &submission.drafts {
        let first = outcomes.first().filter(|_| submission.group);
        let first = first.map(|first| first.as_ref().ok().copied());
        outcomes.push(match first {
            Some(None) => Err(crate::Rejection::Group),
            // The run was there, so all of the group is: nothing of another is added to it.
            Some(Some(first)) if whole_run && !first.fresh => placer.known_of_run(draft, first.receipt)?,
            _ => placer.place(draft, submission.at)?,
        });
        debug_assert!(!matches!(draft.facts, Facts::RunStarted(_)) || draft.identity.is_some());
    }
    Ok(outcomes)
}

fn answer(by_ledger: BTreeMap<u32, Vec<Submission>>, outcomes: Vec<Outcomes>) {
    for (submission, outcomes) in by_ledger.into_values().flatten().zip(outcomes) {
        submission.reply.send(Ok(outcomes));
    }
}

fn refuse(by_ledger: BTreeMap<u32, Vec<Submission>>, error: &SubmitError) {
    for submission in by_ledger.into_values().flatten() {
        submission.reply.send(Err(error.clone()));
    }
}
