//! The life of a job: created, started, going on, ended. What an act comes to is decided here, given where the job
//! stands; the commit is in `turn.rs`.

use std::sync::Arc;

use evidence::Timestamp;
use evidence::canonical::{Finite, Value, to_vec};
use evidence::job::{JobState, ProgressUpdate, Stage};
use evidence::record::JobEventType;
use store::LeafKey;

use super::act::{Create, Ready, ReadyAct, broken};
use super::slots::JobGuard;
use super::turn::{Next, Turn};
use super::{
    JOB_BYTES_MAX, JOB_STEPS_MAX, JobAct, JobDone, JobError, JobView, Moment, PROGRESS_METADATA_BYTES_MAX,
    policy_of,
};
use crate::{Ledger, Placed, Receipt, Tenant, records};

/// The state of a job of which an attempt is under way.
fn under_way(state: &JobState) -> Result<&JobState, JobError> {
    if state.stage().is_under_way() {
        Ok(state)
    } else {
        Err(JobError::Stage(state.stage()))
    }
}

/// Milliseconds from there to here.
fn millis(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.micros_since(from) / 1_000).unwrap_or(0)
}

impl JobGuard {
    /// What an act comes to, given where the job stands. Blocks; the job must be loaded.
    ///
    /// # Errors
    /// [`JobError`]; nothing was written.
    pub fn decide(&self, act: &ReadyAct, moment: &Moment) -> Result<Next, JobError> {
        if let Ready::Create(new) = &act.0 {
            return self.create(new, moment);
        }
        let state = self.state().ok_or(JobError::Unknown)?;
        match &act.0 {
            Ready::Create(_) => Err(JobError::Unknown),
            Ready::Start => self.start(state, moment),
            Ready::Progress(update) => self.progress(state, update, moment),
            Ready::Step { step_index, step } => self.step(state, (*step_index, step), moment),
            Ready::Health { before, after } => self.health(state, (before, after), moment),
            Ready::Complete { result_hash } => self.complete(state, result_hash.as_ref(), moment),
            Ready::Fail(error) => self.fail(state, error, moment),
            Ready::Cancel(reason) => self.cancel(state, reason, moment),
        }
    }

    fn turn(&self, state: &JobState, moment: &Moment) -> Turn {
        Turn::of(&self.tenant, state, moment)
    }

    fn create(&self, new: &Create, moment: &Moment) -> Result<Next, JobError> {
        let contract = match &new.contract_id {
            None => None,
            Some(contract_id) => {
                let contract = self.ledger.contract_of(&self.tenant, contract_id)?;
                Some(contract.ok_or_else(|| broken("contract_id", "there is no such contract"))?)
            }
        };
        if let Some(state) = self.state() {
            let receipt = self.ledger.receipt_at(LeafKey::from_i64(state.created_place))?;
            let same = state.handler == new.handler
                && state.contract_id == new.contract_id
                && state.payload_hash == new.payload_hash
                && state.progress.total_steps == new.total_steps
                && state.retry == new.retry;
            return if same {
                Ok(again(receipt, state))
            } else {
                Err(JobError::Conflict(receipt))
            };
        }
        let mut turn = Turn::first(&self.tenant, &new.job_id, moment);
        turn.event(JobEventType::Created, Stage::Queued, |event| {
            event.handler = Some(new.handler.clone());
            event.payload_hash.clone_from(&new.payload_hash);
            if let Some(contract_id) = &new.contract_id {
                event.metadata.insert("contract_id", contract_id.as_str());
            }
            if !new.retry.is_null() {
                event.metadata.insert("retry", new.retry.clone());
            }
            if let Some(total) = new.total_steps {
                event.metadata.insert("total_steps", i64::from(total));
            }
        })?;
        let window = contract.and_then(|contract| contract.activation_window_start);
        if let Some(start) = window.filter(|start| *start > turn.at) {
            turn.event(JobEventType::Scheduled, Stage::Queued, |event| {
                event
                    .metadata
                    .insert("activation_window_start", start.to_string());
            })?;
        }
        Ok(write(turn))
    }

    fn start(&self, state: &JobState, moment: &Moment) -> Result<Next, JobError> {
        if state.stage() != Stage::Queued {
            return Err(JobError::Stage(state.stage()));
        }
        let mut turn = self.turn(state, moment);
        turn.event(JobEventType::Started, Stage::Starting, |event| {
            event.handler = Some(state.handler.clone());
        })?;
        Ok(write(turn))
    }

    fn progress(&self, state: &JobState, update: &ProgressUpdate, moment: &Moment) -> Result<Next, JobError> {
        let state = under_way(state)?;
        let mut turn = self.turn(state, moment);
        let mut after = state.progress.clone();
        after
            .update(update, turn.at)
            .map_err(|ended| JobError::Stage(ended.0))?;
        if to_vec(&after.metadata).len() > PROGRESS_METADATA_BYTES_MAX {
            let rule = format!("must have at most {PROGRESS_METADATA_BYTES_MAX} bytes, merged");
            return Err(broken("metadata", rule));
        }
        turn.event(JobEventType::Progress, after.stage, |event| {
            event.metadata.insert("progress", update.to_value());
        })?;
        Ok(write(turn))
    }

    fn step(
        &self,
        state: &JobState,
        (step_index, step): (u32, &Value),
        moment: &Moment,
    ) -> Result<Next, JobError> {
        let state = under_way(state)?;
        let mut kept = step.clone();
        kept.insert("attempt_number", i64::from(state.attempt_number));
        let text = to_vec(&kept);
        if let Some(first) = state.steps.get(&(state.attempt_number, step_index)) {
            let receipt = self.ledger.receipt_at(LeafKey::from_i64(first.place))?;
            return if first.text.as_bytes() == text {
                Ok(again(receipt, state))
            } else {
                Err(JobError::Conflict(receipt))
            };
        }
        if state.steps_total >= JOB_STEPS_MAX {
            return Err(JobError::Full("the job has as many steps as it may"));
        }
        fits(state, text.len())?;
        let mut turn = self.turn(state, moment);
        turn.event(JobEventType::Progress, going_on(state.stage()), |event| {
            event.metadata.insert("step", step.clone());
        })?;
        Ok(write(turn))
    }

    fn health(
        &self,
        state: &JobState,
        (before, after): (&Value, &Value),
        moment: &Moment,
    ) -> Result<Next, JobError> {
        if state.stage().is_terminal() {
            return Err(JobError::Stage(state.stage()));
        }
        let mut health = Value::Object(Vec::new());
        let mut known = None;
        for (name, given, first, place) in [
            ("before", before, &state.health_before, state.health_before_place),
            ("after", after, &state.health_after, state.health_after_place),
        ] {
            match first {
                _ if given.is_null() => {}
                // The attempt that is about to begin would forget it: no audit would ever see what was taken here.
                None if name == "after" && state.stage() == Stage::Queued => {
                    return Err(JobError::Stage(state.stage()));
                }
                None => drop(health.insert(name, given.clone())),
                Some(first) if first == given => known = known.or(Some(place)),
                Some(_) => {
                    let receipt = self.ledger.receipt_at(LeafKey::from_i64(place))?;
                    return Err(JobError::Conflict(receipt));
                }
            }
        }
        if let Some(place) = known.filter(|_| health.as_object().is_none_or(<[_]>::is_empty)) {
            return Ok(again(self.ledger.receipt_at(LeafKey::from_i64(place))?, state));
        }
        fits(state, to_vec(&health).len())?;
        let mut turn = self.turn(state, moment);
        turn.event(JobEventType::Progress, state.stage(), |event| {
            event.metadata.insert("health", health);
        })?;
        Ok(write(turn))
    }

    fn complete(
        &self,
        state: &JobState,
        result_hash: Option<&String>,
        moment: &Moment,
    ) -> Result<Next, JobError> {
        let state = under_way(state)?;
        let mut turn = self.turn(state, moment);
        let ended = self.ledger.job_judged(&mut turn, state, Stage::Completed)?;
        let duration = millis(state.progress.started_at.unwrap_or(turn.at), turn.at);
        turn.event(JobEventType::Completed, Stage::Completed, |event| {
            event.duration_ms = Some(duration);
            event.result_hash = result_hash.cloned();
            ended.note(&mut event.metadata);
        })?;
        Ok(write(turn))
    }

    fn fail(&self, state: &JobState, error: &str, moment: &Moment) -> Result<Next, JobError> {
        let state = under_way(state)?;
        let mut turn = self.turn(state, moment);
        let policy = policy_of(&state.retry);
        // Attempts count from 1.
        let will_retry = policy.should_retry(state.attempt_number, error).unwrap_or(false);
        let delay = policy
            .delay_seconds(state.attempt_number, moment.draw)
            .unwrap_or(0.0);
        let delay_seconds = Finite::new(delay).unwrap_or_default();
        // By the clock, as the runner waits by it: the ledger's time stands still while that is behind.
        #[allow(clippy::cast_possible_truncation)] // whole seconds of at most a year
        let next = moment.at.checked_add_micros(delay as i64 * 1_000_000);
        let next_attempt_at = next.unwrap_or(Timestamp::MAX).to_string();
        let duration = millis(state.progress.started_at.unwrap_or(turn.at), turn.at);
        let after = if will_retry { Stage::Queued } else { Stage::Failed };
        turn.event(JobEventType::Failed, after, |event| {
            event.error = Some(error.to_owned());
            event.duration_ms = Some(duration);
            event.metadata.insert("delay_seconds", delay_seconds);
            event.metadata.insert("will_retry", will_retry);
            if will_retry {
                event.metadata.insert("next_attempt_at", next_attempt_at.as_str());
            }
        })?;
        if will_retry {
            turn.event(JobEventType::Retried, Stage::Queued, |event| {
                event.error = Some(error.to_owned());
                event.metadata.insert("delay_seconds", delay_seconds);
                event.metadata.insert("next_attempt_at", next_attempt_at);
            })?;
            return Ok(write(turn));
        }
        let ended = self.ledger.job_judged(&mut turn, state, Stage::Failed)?;
        turn.event(JobEventType::DeadLettered, Stage::Failed, |event| {
            event.error = Some(error.to_owned());
            ended.note(&mut event.metadata);
        })?;
        Ok(write(turn))
    }

    fn cancel(&self, state: &JobState, reason: &str, moment: &Moment) -> Result<Next, JobError> {
        if state.stage().is_terminal() {
            return Err(JobError::Stage(state.stage()));
        }
        let mut turn = self.turn(state, moment);
        turn.event(JobEventType::Cancelled, Stage::Cancelled, |event| {
            event.metadata.insert("reason", reason);
        })?;
        Ok(write(turn))
    }

    /// The job as it is shown.
    ///
    /// # Errors
    /// [`JobError::Unknown`].
    pub fn view(&self) -> Result<JobView, JobError> {
        let mut view = self.state().map(JobView::of).ok_or(JobError::Unknown)?;
        if let Some(progress) = self.shown() {
            view.progress.clone_from(progress);
        }
        Ok(view)
    }
}

impl Ledger {
    /// Does something with a job. Blocks until it is durable.
    ///
    /// # Errors
    /// [`JobError::Stage`] where it may not follow; then nothing was written.
    pub fn job_act(
        &self,
        tenant: &Arc<Tenant>,
        job_id: &str,
        act: &JobAct,
        moment: &Moment,
    ) -> Result<JobDone, JobError> {
        let act = act.clone().ready(&tenant.rules())?;
        let mut guard = self.job_guard(tenant, job_id)?;
        match guard.decide(&act, moment)? {
            Next::Write(turn) => guard.commit_blocking(*turn),
            Next::Done(done) => Ok(*done),
        }
    }

    /// A job as it is now. Blocks.
    ///
    /// # Errors
    /// [`JobError::Unknown`].
    pub fn job(&self, tenant: &Arc<Tenant>, job_id: &str) -> Result<JobView, JobError> {
        self.job_guard(tenant, job_id)?.view()
    }

    /// The receipt of a record that is there.
    pub(super) fn receipt_at(&self, leaf: LeafKey) -> Result<Receipt, JobError> {
        let record = records::read(self.store(), &[leaf])?
            .pop()
            .ok_or(JobError::Unknown)?;
        Ok(record.receipt()?)
    }
}

/// What was recorded before.
fn again(receipt: Receipt, state: &JobState) -> Next {
    Next::Done(Box::new(JobDone {
        placed: Placed {
            receipt,
            fresh: false,
        },
        job: JobView::of(state),
        verdict: None,
    }))
}

fn write(turn: Turn) -> Next {
    Next::Write(Box::new(turn))
}

/// A step sets a starting job running, as any word of progress does.
fn going_on(stage: Stage) -> Stage {
    if stage == Stage::Starting {
        Stage::Running
    } else {
        stage
    }
}

fn fits(state: &JobState, more: usize) -> Result<(), JobError> {
    if state.said_bytes + more > JOB_BYTES_MAX {
        return Err(JobError::Full(
            "the job's steps and snapshots say as much as they may",
        ));
    }
    Ok(())
}
