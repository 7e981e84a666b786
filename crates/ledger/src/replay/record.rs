//! What is on record of an enforcement: one `replay.enforced` of the run for each, found again by its identity.
//!
//! Out of scope: what it decides ([`super`]); what a run's records add up to ([`super::report`]).

use std::sync::Arc;

use evidence::record::{Facts, ReplayEnforced, ReplayOutcome};
use evidence::{ActorType, Identity, Kind, Origin, SourceDomain, Timestamp};
use store::Gone;

use super::{Pass, Replay, ReplayError, ReplayStep};
use crate::once::OnceError;
use crate::{Bind, Body, Draft, Placed, Record, RecordError, Rejection, RunNames, SubmitError};

impl Replay {
    /// The record that has this identity within a run; blocks.
    fn record_of_run(&self, run_id: &str, identity: &Identity) -> Result<Option<Record>, ReplayError> {
        let store = self.ledger.store();
        let found = store.run_find(self.tenant.tenant_no, run_id);
        let Some(run) = found.map_err(RecordError::from)? else {
            return Ok(None);
        };
        let row = store.run_record_find(run.key, identity);
        let Some(row) = row.map_err(RecordError::from)? else {
            return Ok(None);
        };
        Ok(self.ledger.records(&self.tenant).read(&[row.leaf])?.pop())
    }

    /// What is on record of a pass already.
    pub(super) async fn brought(&self, pass: &Pass) -> Result<Option<Record>, ReplayError> {
        let first = record_of(&pass.step, pass.event_id.clone(), ReplayOutcome::Executed);
        let (run_id, identity) = (pass.step.run_id.clone(), first.identity());
        self.reading(move |replay| replay.record_of_run(&run_id, &identity))
            .await
    }

    /// Refuses an output when another one is on record of the pass. When the body of that is gone nobody can tell.
    pub(super) async fn refuse_other(&self, pass: &Pass, output_hash: &str) -> Result<(), ReplayError> {
        let Some(first) = self.brought(pass).await? else {
            return Ok(());
        };
        let Body::There(body) = &first.body else {
            return Ok(());
        };
        let known = ReplayEnforced::read(body).and_then(|enforced| enforced.output_hash);
        if known.as_deref() == Some(output_hash) {
            return Ok(());
        }
        Err(ReplayError::Rejected(Rejection::Conflict(first.receipt()?)))
    }

    /// Whether what is on record of a pass is erased: what is brought again is the first then, whatever it is.
    pub(super) async fn is_erased(&self, pass: &Pass) -> Result<bool, ReplayError> {
        let first = self.brought(pass).await?;
        Ok(first.is_some_and(|first| first.body.gone() == Some(Gone::Erased)))
    }

    /// Puts it on record that the key is known with another input.
    pub(super) async fn violated(
        &self,
        step: &ReplayStep,
        names: &RunNames,
        known: Option<String>,
        at: Timestamp,
    ) -> Result<ReplayError, ReplayError> {
        let mut record = record_of(step, event_id()?, ReplayOutcome::Violation);
        record.known_input_hash.clone_from(&known);
        self.write(self.draft(&step.run_id, names, &record, at)?, at)
            .await?;
        Ok(ReplayError::IdempotencyViolation {
            key: step.key().unwrap_or_default().to_owned(),
            expected_hash: known.unwrap_or_default(),
            actual_hash: step.input_hash.clone().unwrap_or_default(),
        })
    }

    pub(super) fn draft(
        &self,
        run_id: &str,
        names: &RunNames,
        record: &ReplayEnforced,
        at: Timestamp,
    ) -> Result<Draft, ReplayError> {
        let actor = names.agent_id.clone().or_else(|| self.principal.clone());
        Ok(Draft {
            kind: Kind::ReplayEnforced,
            bind: Bind::Run(run_id.into()),
            identity: Some(record.identity()),
            // What is compared is the hash of the output, which stands in the body ([`Self::refuse_other`]).
            content: None,
            trace_id: Some(Arc::clone(&names.trace_id)),
            correlation_id: names.correlation_id.clone(),
            actor: (ActorType::Agent, actor),
            occurred_at: at,
            source_domain: SourceDomain::Activity,
            source_component: "replay",
            origin: Origin::Replay,
            body: self.tenant.salts().seal(Kind::ReplayEnforced, &record.encode())?,
            facts: Facts::Other,
            expect_run_seq: None,
        })
    }

    pub(super) async fn write(&self, draft: Draft, at: Timestamp) -> Result<Placed, ReplayError> {
        let outcomes = self.ledger.submit(&self.tenant, vec![draft], at).await?;
        match outcomes.into_iter().next() {
            Some(Ok(placed)) => Ok(placed),
            Some(Err(Rejection::RunUnknown)) => Err(ReplayError::RunUnknown),
            Some(Err(rejection)) => Err(ReplayError::Rejected(rejection)),
            None => Err(ReplayError::Submit(SubmitError::Closing)),
        }
    }
}

pub(super) fn record_of(step: &ReplayStep, event_id: String, outcome: ReplayOutcome) -> ReplayEnforced {
    ReplayEnforced {
        event_id,
        step_index: step.step_index,
        behavior: step.behavior,
        outcome,
        checked: false,
        idempotency_key: step.key().map(str::to_owned),
        input_hash: step.input_hash.clone(),
        known_input_hash: None,
        expected_hash: step.output_hash.clone(),
        output_hash: None,
        stored_hash: None,
        output: None,
    }
}

/// 32 hex digits.
pub(super) fn event_id() -> Result<String, ReplayError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| OnceError::Unavailable(error.to_string()))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
