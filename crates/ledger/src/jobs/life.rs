//! The life of a job: created, started, going on, ended. What an act comes to is decided here, given where the job
//! stands; the commit is in `turn.rs`.

use std::sync::Arc;

use audit::InputError;
use audit::governance::Health;
use audit::retry::RetryPolicy;
use evidence::canonical::{Finite, Value, to_vec};
use evidence::job::{JobState, ProgressUpdate, Stage};
use evidence::record::{JobEventType, RuleBroken};
use evidence::{Timestamp, canonical};
use store::LeafKey;

use super::slots::JobGuard;
use super::turn::{Next, Turn};
use super::{
    HEALTH_BYTES_MAX, JOB_ATTEMPTS_MAX, JOB_BYTES_MAX, JOB_STEPS_MAX, JOB_TEXT_BYTES_MAX, JobDone, JobError,
    JobView, Moment, PROGRESS_METADATA_BYTES_MAX, STEP_BYTES_MAX, policy_of,
};
use crate::{Ledger, Placed, Receipt, Tenant, records};

/// A job to create.
#[derive(Clone, Debug, Default)]
pub struct NewJob {
    /// Given by the caller, or made.
    pub job_id: String,
    /// What it runs.
    pub handler: String,
    /// The contract that it runs under.
    pub contract_id: Option<String>,
    /// Hashed, not kept; null is none.
    pub payload: Value,
    /// Steps in all, for progress.
    pub total_steps: Option<u32>,
    /// A retry policy; null is the defaults.
    pub retry: Value,
}

/// Members of a retry policy.
const RETRY_MEMBERS: [&str; 6] = [
    "base_delay_seconds",
    "jitter_factor",
    "max_delay_seconds",
    "max_retries",
    "retryable_errors",
    "strategy",
];

/// What a step says of itself, of its status.
const STEP_STATUSES: [&str; 3] = ["COMPLETED", "FAILED", "SKIPPED"];

impl NewJob {
    fn check(&self) -> Result<(), JobError> {
        if self.retry.is_null() {
            return Ok(());
        }
        let members = self.retry.as_object().unwrap_or_default();
        let unknown = members
            .iter()
            .find(|(key, _)| !RETRY_MEMBERS.contains(&key.as_str()));
        if self.retry.as_object().is_none() || unknown.is_some() {
            let rule = match unknown {
                Some((key, _)) => format!("has the unknown member {key:?}"),
                None => "must be an object".to_owned(),
            };
            return Err(broken("retry", rule));
        }
        let policy = RetryPolicy::read(&self.retry).map_err(|error| JobError::Input("retry", error))?;
        if policy.max_retries > JOB_ATTEMPTS_MAX {
            return Err(broken(
                "retry",
                format!("max_retries must be at most {JOB_ATTEMPTS_MAX}"),
            ));
        }
        if to_vec(&self.retry).len() > STEP_BYTES_MAX {
            return Err(broken(
                "retry",
                format!("must have at most {STEP_BYTES_MAX} bytes"),
            ));
        }
        Ok(())
    }
}

fn broken(field: &'static str, rule: impl Into<String>) -> JobError {
    JobError::Rule(RuleBroken {
        field,
        rule: rule.into(),
    })
}

/// SHA-256 of the canonical form; absent when null.
fn hash_of(value: &Value) -> Option<String> {
    (!value.is_null()).then(|| canonical::sha256_hex(&to_vec(value)))
}

fn short(field: &'static str, text: &str) -> Result<(), JobError> {
    if text.len() > JOB_TEXT_BYTES_MAX {
        return Err(broken(
            field,
            format!("must have at most {JOB_TEXT_BYTES_MAX} bytes"),
        ));
    }
    Ok(())
}

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

/// Something to be done with a job.
#[derive(Clone, Debug)]
pub enum JobAct {
    /// It comes to be. The same again gives the first receipt; an id that is another job's is a conflict.
    Create(NewJob),
    /// An attempt begins; of a queued job.
    Start,
    /// It went on.
    Progress(ProgressUpdate),
    /// A step was done, or not. The same again gives the first receipt; another under its index, in the same attempt,
    /// is a conflict.
    Step {
        /// From 0, in any order.
        step_index: u32,
        /// COMPLETED, FAILED, SKIPPED.
        status: String,
        /// An object, or null.
        output: Value,
    },
    /// Snapshots of health; null is none. `before` is recorded once a job, `after` once an attempt.
    Health {
        /// Before the job.
        before: Value,
        /// After the attempt.
        after: Value,
    },
    /// It is done. Under a contract it is judged, in the same commit.
    Complete(Value),
    /// The attempt failed, and why. With an attempt left the job is queued again; else it has failed and, under a
    /// contract, is judged in the same commit.
    Fail(String),
    /// It is called off, and why; it is not judged.
    Cancel(String),
}

impl JobGuard {
    /// What an act comes to, given where the job stands. Blocks; the job must be loaded.
    ///
    /// # Errors
    /// [`JobError`]; nothing was written.
    pub fn decide(&self, act: &JobAct, moment: &Moment) -> Result<Next, JobError> {
        if let JobAct::Create(new) = act {
            return self.create(new, moment);
        }
        let state = self.state().ok_or(JobError::Unknown)?;
        match act {
            JobAct::Create(_) => Err(JobError::Unknown),
            JobAct::Start => self.start(state, moment),
            JobAct::Progress(update) => self.progress(state, update, moment),
            JobAct::Step {
                step_index,
                status,
                output,
            } => self.step(state, (*step_index, status, output), moment),
            JobAct::Health { before, after } => self.health(state, (before, after), moment),
            JobAct::Complete(result) => self.complete(state, result, moment),
            JobAct::Fail(error) => self.fail(state, error, moment),
            JobAct::Cancel(reason) => self.cancel(state, reason, moment),
        }
    }

    fn turn(&self, state: &JobState, moment: &Moment) -> Turn {
        Turn::of(&self.tenant, state, moment)
    }

    fn create(&self, new: &NewJob, moment: &Moment) -> Result<Next, JobError> {
        new.check()?;
        let contract = match &new.contract_id {
            None => None,
            Some(contract_id) => {
                let contract = self.ledger.contract_of(&self.tenant, contract_id)?;
                Some(contract.ok_or_else(|| broken("contract_id", "there is no such contract"))?)
            }
        };
        let payload_hash = hash_of(&new.payload);
        if let Some(state) = self.state() {
            let receipt = self.ledger.receipt_at(LeafKey::from_i64(state.created_place))?;
            let same = state.handler == new.handler
                && state.contract_id == new.contract_id
                && state.payload_hash == payload_hash
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
            event.payload_hash = payload_hash;
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
        if update.stage.is_some_and(|stage| !stage.is_under_way()) {
            return Err(broken("stage", "must be one of starting, running, completing"));
        }
        short("message", update.message.as_deref().unwrap_or_default())?;
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
        (step_index, status, output): (u32, &str, &Value),
        moment: &Moment,
    ) -> Result<Next, JobError> {
        if !STEP_STATUSES.contains(&status) {
            return Err(broken(
                "status",
                format!("must be one of {}", STEP_STATUSES.join(", ")),
            ));
        }
        if !output.is_null() && output.as_object().is_none() {
            return Err(broken("output", "must be an object"));
        }
        let mut step = Value::object([("output", output.clone())]);
        step.insert("status", status);
        step.insert("step_index", i64::from(step_index));
        let state = under_way(state)?;
        let mut kept = step.clone();
        kept.insert("attempt_number", i64::from(state.attempt_number));
        let text = to_vec(&kept);
        if text.len() > STEP_BYTES_MAX {
            return Err(broken(
                "output",
                format!("must have at most {STEP_BYTES_MAX} bytes"),
            ));
        }
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
            event.metadata.insert("step", step);
        })?;
        Ok(write(turn))
    }

    fn health(
        &self,
        state: &JobState,
        (before, after): (&Value, &Value),
        moment: &Moment,
    ) -> Result<Next, JobError> {
        for (field, snapshot) in [("before", before), ("after", after)] {
            if to_vec(snapshot).len() > HEALTH_BYTES_MAX {
                return Err(broken(
                    field,
                    format!("must have at most {HEALTH_BYTES_MAX} bytes"),
                ));
            }
            Health::read(snapshot, field).map_err(|error: InputError| JobError::Input(field, error))?;
        }
        if before.is_null() && after.is_null() {
            return Err(broken("before", "or after must be given"));
        }
        if state.stage().is_terminal() {
            return Err(JobError::Stage(state.stage()));
        }
        let first_receipt = || self.ledger.receipt_at(LeafKey::from_i64(state.health_place));
        let mut health = Value::Object(Vec::new());
        for (name, given, first) in [
            ("before", before, &state.health_before),
            ("after", after, &state.health_after),
        ] {
            match first {
                _ if given.is_null() => {}
                None => drop(health.insert(name, given.clone())),
                Some(first) if first == given => {}
                Some(_) => return Err(JobError::Conflict(first_receipt()?)),
            }
        }
        if health.as_object().is_none_or(<[_]>::is_empty) {
            return Ok(again(first_receipt()?, state));
        }
        fits(state, to_vec(&health).len())?;
        let mut turn = self.turn(state, moment);
        turn.event(JobEventType::Progress, state.stage(), |event| {
            event.metadata.insert("health", health);
        })?;
        Ok(write(turn))
    }

    fn complete(&self, state: &JobState, result: &Value, moment: &Moment) -> Result<Next, JobError> {
        let state = under_way(state)?;
        let mut turn = self.turn(state, moment);
        let ended = self.ledger.job_judged(&mut turn, state, Stage::Completed)?;
        let duration = millis(state.progress.started_at.unwrap_or(turn.at), turn.at);
        turn.event(JobEventType::Completed, Stage::Completed, |event| {
            event.duration_ms = Some(duration);
            event.result_hash = hash_of(result);
            ended.note(&mut event.metadata);
        })?;
        Ok(write(turn))
    }

    fn fail(&self, state: &JobState, error: &str, moment: &Moment) -> Result<Next, JobError> {
        short("error", error)?;
        let state = under_way(state)?;
        let mut turn = self.turn(state, moment);
        let policy = policy_of(&state.retry);
        // Attempts count from 1.
        let will_retry = policy.should_retry(state.attempt_number, error).unwrap_or(false);
        let delay = policy
            .delay_seconds(state.attempt_number, moment.draw)
            .unwrap_or(0.0);
        let delay_seconds = Finite::new(delay).unwrap_or_default();
        #[allow(clippy::cast_possible_truncation)] // whole seconds of at most a year
        let next = turn.at.checked_add_micros(delay as i64 * 1_000_000);
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
        if reason.is_empty() {
            return Err(broken("reason", "must not be empty"));
        }
        short("reason", reason)?;
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
        self.state().map(JobView::of).ok_or(JobError::Unknown)
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
        let mut guard = self.job_guard(tenant, job_id)?;
        match guard.decide(act, moment)? {
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
    if state.bytes + more > JOB_BYTES_MAX {
        return Err(JobError::Full(
            "the job's steps and snapshots say as much as they may",
        ));
    }
    Ok(())
}
