//! The ends of runs: completed and aborted by callers, settled and abandoned by the server.
//!
//! The record of a trace's end holds the hash over its steps, so it is made from
//! what is read, and placed only if nothing came in between (`expect_run_seq`).
//! A crash before the commit leaves the run as it was: a caller asks again, the
//! server finds it due again.

use std::sync::{Arc, PoisonError};

use evidence::record::{Facts, RunCompleted, TraceEnded};
use evidence::{ActorType, Identity, Kind, Origin, SourceDomain, Timestamp, TraceStatus};
use store::{RunKey, RunRow};

use crate::steps::{self, AtEnd};
use crate::{
    Bind, Draft, Ledger, Placed, RecordError, Rejection, RunSeen, Salts, SealedBody, SubmitError, Tenant,
};

/// Attempts to end a run while steps keep coming: each one reads the run anew.
const END_ATTEMPTS: u32 = 50;

/// Runs settled in one pass of the server: 10 steps each are read and hashed in about 50 ms.
const SETTLE_RUNS: u32 = 500;

/// Due runs looked through for some that may be settled: 400 bytes each, 100 MB when that many ledgers are refused.
const SETTLE_LOOK_MAX: u32 = 256_000;

/// A damaged run is not read again before: it may be long, stays due for ever, and is logged each time.
const DAMAGED_AGAIN_MICROS: i64 = 10 * 60 * 1_000_000;

/// Damaged runs that are known as such, 5 MB; of more each pass reads some.
const DAMAGED_MAX: usize = 100_000;

/// How a run ends.
#[derive(Clone, Debug)]
pub enum EndRun {
    /// A caller completes it. With SHA-256 of what was sent.
    Completed(RunCompleted, [u8; 32]),
    /// A caller aborts it: the reason, and SHA-256 of what was sent.
    Aborted(String, [u8; 32]),
    /// Its root span ended and no more is waited for.
    Settled,
    /// It was silent for too long; the reason.
    Abandoned(String),
}

/// Why a run was not ended.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// No such run.
    #[error("the run does not exist")]
    RunUnknown,
    /// The ledger refused the record.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Nothing was written, as far as is known.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The run cannot be read.
    #[error(transparent)]
    Read(#[from] RecordError),
    /// The body is too large.
    #[error(transparent)]
    Body(#[from] crate::BodyTooLarge),
}

impl Ledger {
    /// Ends a run and gives the receipt of the record that says so. Blocks.
    ///
    /// # Errors
    /// [`Rejection::RunEnded`] when it has ended otherwise, or by the server; [`Rejection::Conflict`] when a caller ended
    /// it with other content. The same end again is the first receipt.
    pub fn end_run(
        &self,
        tenant: &Arc<Tenant>,
        run_id: &str,
        how: &EndRun,
        at: Timestamp,
    ) -> Result<Placed, SettleError> {
        let mut salts = tenant.salts();
        for _ in 0..END_ATTEMPTS {
            let erasures = tenant.erasures();
            let run = self
                .store()
                .run_find(tenant.tenant_no, run_id)
                .map_err(RecordError::from)?
                .ok_or(SettleError::RunUnknown)?;
            let drafts = end_drafts(self, (&run, erasures), how, at, &mut salts)?;
            match self.submit_blocking(tenant, drafts, at, true)?.into_iter().next() {
                Some(Err(Rejection::RunMoved)) => {}
                // No caller sent another end that this one could contradict: the run is over, as before it was settled.
                Some(Err(Rejection::Conflict(_)))
                    if matches!(how, EndRun::Aborted(..)) && self.ended_by_server(tenant, &run)? =>
                {
                    return Err(Rejection::RunEnded.into());
                }
                Some(outcome) => return Ok(outcome?),
                None => break,
            }
        }
        Err(Rejection::RunMoved.into())
    }

    /// Whether the end of the run's trace on record is the server's own.
    fn ended_by_server(&self, tenant: &Arc<Tenant>, run: &RunRow) -> Result<bool, RecordError> {
        let end = Identity::once(Kind::TraceCompleted);
        let Some(row) = self.store().run_record_find(run.key, &end)? else {
            return Ok(false);
        };
        let headers = self.records(tenant).headers(&[row.leaf])?;
        Ok(headers
            .first()
            .and_then(|header| crate::integrity::ended(header))
            .is_some_and(|(.., by_server)| by_server))
    }

    /// Settles runs whose root span ended and aborts those that fell silent; says how many. Blocks.
    ///
    /// What keeps one tenant's runs from being settled is logged, and keeps no other's.
    ///
    /// # Errors
    /// Those that are due cannot be found.
    pub fn settle_due(&self, at: Timestamp) -> Result<usize, SettleError> {
        let options = self.options();
        let before = |micros: i64| at.checked_add_micros(-micros).unwrap_or(Timestamp::MIN);
        let tenants: Vec<_> = self
            .tenants()
            .into_iter()
            .filter(|tenant| tenant.ledger().refusal().is_none())
            // Before the runs are read, whose rows say what is erased, too.
            .map(|tenant| (tenant.erasures(), tenant))
            .collect();
        let (ended, running) = (
            before(options.seal_after_micros),
            before(options.abandon_after_micros),
        );
        let mut unsettled = self
            .inner
            .unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A time that is still to come was under another clock.
        unsettled.retain(|_, tried_at| (0..DAMAGED_AGAIN_MICROS).contains(&at.micros_since(*tried_at)));
        let mut limit = SETTLE_RUNS;
        let mut due = loop {
            let mut due = self
                .store()
                .runs_due(ended, running, limit)
                .map_err(RecordError::from)?;
            let all = due.len() < usize::try_from(limit).unwrap_or(usize::MAX);
            due.retain(|run| {
                let is_taken = |(_, tenant): &(u64, Arc<Tenant>)| tenant.tenant_no == run.key.tenant_no();
                !unsettled.contains_key(&run.key) && tenants.iter().any(is_taken)
            });
            // Runs of refused ledgers and damaged ones stay due for ever; they must not crowd out the others.
            if all || !due.is_empty() || limit >= SETTLE_LOOK_MAX {
                break due;
            }
            limit = limit.saturating_mul(8);
        };
        drop(unsettled);
        due.truncate(usize::try_from(SETTLE_RUNS).unwrap_or(usize::MAX));
        // One submission a tenant.
        due.sort_by_key(|run| run.key.tenant_no());
        let mut settled = 0;
        for batch in due.chunk_by(|a, b| a.key.tenant_no() == b.key.tenant_no()) {
            let Some((erasures, tenant)) = tenants
                .iter()
                .find(|(_, tenant)| tenant.tenant_no == batch[0].key.tenant_no())
            else {
                continue;
            };
            match self.settle_runs(tenant, (batch, *erasures), at) {
                Ok(more) => settled += more,
                Err(error) => {
                    tracing::error!(tenant_id = &*tenant.tenant_id, %error, "cannot settle the runs that are due");
                }
            }
        }
        Ok(settled)
    }

    /// One submission for many runs; each stands by itself.
    fn settle_runs(
        &self,
        tenant: &Arc<Tenant>,
        (runs, erasures): (&[RunRow], u64),
        at: Timestamp,
    ) -> Result<usize, SettleError> {
        let mut salts = tenant.salts();
        let mut drafts = Vec::with_capacity(runs.len());
        for run in runs {
            let how = if run.state.ended() {
                EndRun::Settled
            } else {
                let silent = in_words(self.options().abandon_after_micros);
                EndRun::Abandoned(format!("abandoned: no record for {silent}"))
            };
            match end_drafts(self, (run, erasures), &how, at, &mut salts) {
                Ok(more) => drafts.extend(more),
                // Its end came after its row was read: it is due once more, as one that has ended.
                Err(SettleError::Rejected(_)) if self.has_moved(run) => {}
                // One damaged run must not keep the others from being settled.
                Err(error) => {
                    tracing::error!(run_id = run.state.run_id, %error, "cannot settle a run");
                    let stays_so = match &error {
                        SettleError::Read(error) => error.is_damage(),
                        // Its records say that it has ended, and its row that it goes on.
                        SettleError::Rejected(_) => true,
                        _ => false,
                    };
                    if stays_so {
                        self.set_aside(run.key, at);
                    }
                }
            }
        }
        let outcomes = self.submit_blocking(tenant, drafts, at, false)?;
        // A run that moved is found due again, later.
        Ok(outcomes
            .iter()
            .filter(|outcome| outcome.as_ref().is_ok_and(|placed| placed.fresh))
            .count())
    }

    /// Whether a run has other records by now than its row told.
    fn has_moved(&self, run: &RunRow) -> bool {
        let now = self.store().run_find(run.key.tenant_no(), &run.state.run_id);
        now.is_ok_and(|now| now.is_some_and(|now| now.state.record_count != run.state.record_count))
    }

    fn set_aside(&self, run: RunKey, at: Timestamp) {
        let mut unsettled = self
            .inner
            .unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if unsettled.len() < DAMAGED_MAX {
            unsettled.insert(run, at);
        }
    }
}

fn end_drafts(
    ledger: &Ledger,
    (run, erasures): (&RunRow, u64),
    how: &EndRun,
    at: Timestamp,
    salts: &mut Salts,
) -> Result<Vec<Draft>, SettleError> {
    let row = &run.state;
    let AtEnd {
        state,
        root_hash,
        total_steps,
    } = if row.settled {
        // Ended already: what follows is the same again, or a conflict; the recorded hash stands.
        AtEnd {
            state: row.clone(),
            root_hash: row.root_hash,
            total_steps: row.total_steps,
        }
    } else {
        steps::at_end(ledger.store(), run)?
    };
    // Whatever its row says: a run that goes on is not settled, and one that has ended does not end in another way.
    match (how, state.ended()) {
        _ if row.settled => {}
        (EndRun::Settled, false) => {
            let damaged = RecordError::Body {
                leaf: run.started_leaf.leaf_index(),
                reason: "the run is said to have ended, and none of its records says so".to_owned(),
            };
            return Err(damaged.into());
        }
        (EndRun::Settled, true) | (_, false) => {}
        (_, true) => return Err(Rejection::RunEnded.into()),
    }
    let (status, reason) = match how {
        EndRun::Completed(end, _) => (
            if end.failed {
                TraceStatus::Failed
            } else {
                TraceStatus::Completed
            },
            None,
        ),
        EndRun::Aborted(reason, _) | EndRun::Abandoned(reason) => {
            (TraceStatus::Aborted, Some(reason.clone()))
        }
        EndRun::Settled => (state.status, None),
    };
    let by_caller = matches!(how, EndRun::Completed(..) | EndRun::Aborted(..));
    let ended = TraceEnded {
        status: status.as_str().into(),
        reason,
        root_hash,
        plan_hash: state.plan_hash.clone(),
        seed: state.seed,
        total_steps,
    };
    let run_id: Arc<str> = state.run_id.as_str().into();
    let draft = |kind: Kind, facts: Facts, content: Option<[u8; 32]>, body: SealedBody, seq: u64| Draft {
        kind,
        bind: Bind::Run(Arc::clone(&run_id)),
        identity: Some(Identity::once(kind)),
        content,
        trace_id: Some(state.trace_id.as_str().into()),
        correlation_id: state.correlation_id.as_deref().map(Into::into),
        // As the run's steps: the run has one agent, and who ends it speaks for that.
        actor: if by_caller {
            (ActorType::Agent, state.agent_id.as_deref().map(Into::into))
        } else {
            (ActorType::System, None)
        },
        occurred_at: at,
        source_domain: SourceDomain::Activity,
        source_component: if by_caller { "api" } else { "ledger" },
        origin: Origin::System,
        body,
        facts,
        expect_run_seq: Some(RunSeen {
            run_seq: seq,
            erasures,
        }),
    };
    let mut drafts = Vec::with_capacity(2);
    let mut next_seq = row.record_count;
    let mut content = None;
    match how {
        EndRun::Completed(end, sent) => {
            let salt = salts.next_salt();
            let body = end.encode(&evidence::content_mac(&salt, sent));
            let sealed = salts.seal_under(Kind::RunCompleted, salt, &body)?;
            let mut completed = draft(
                Kind::RunCompleted,
                Facts::RunCompleted(end.facts()),
                Some(*sent),
                sealed,
                next_seq,
            );
            completed.occurred_at = end.completed_at.unwrap_or(at);
            drafts.push(completed);
            next_seq += 1;
        }
        EndRun::Aborted(_, sent) => content = Some(*sent),
        EndRun::Settled | EndRun::Abandoned(_) => {}
    }
    let salt = salts.next_salt();
    let mac = content.map(|content| evidence::content_mac(&salt, &content));
    let sealed = salts.seal_under(ended.kind(), salt, &ended.encode(mac.as_ref()))?;
    drafts.push(draft(
        ended.kind(),
        Facts::TraceEnded(ended.facts()),
        content,
        sealed,
        next_seq,
    ));
    Ok(drafts)
}

/// A time in words, in the largest unit of which it is a whole number.
fn in_words(micros: i64) -> String {
    [(3_600_000_000_i64, "h"), (60_000_000, "min"), (1_000_000, "s")]
        .into_iter()
        .find(|(unit, _)| micros % unit == 0)
        .map_or_else(
            || format!("{} ms", micros / 1_000),
            |(unit, word)| format!("{} {word}", micros / unit),
        )
}

#[cfg(test)]
mod tests {
    #[test]
    fn how_long_a_run_was_silent_is_said_whole() {
        let said = [86_400_000, 5_400_000, 90_000, 1_500].map(|millis| super::in_words(millis * 1_000));
        assert_eq!(said, ["24 h", "90 min", "90 s", "1500 ms"]);
    }
}
