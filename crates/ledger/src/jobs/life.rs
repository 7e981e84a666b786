//! The life of a job: created, started, going on, ended. Each step blocks until it is durable.

use std::sync::Arc;

use audit::InputError;
use audit::governance::Health;
use audit::retry::RetryPolicy;
use evidence::canonical::{Finite, Value, to_vec};
use evidence::job::{JobState, ProgressUpdate, Stage};
use evidence::record::{JobEventType, RuleBroken};
use evidence::{Timestamp, canonical};
use store::LeafKey;

use super::slots::Held;
use super::turn::Turn;
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

/// The state of a job that is there.
fn known(held: &Held) -> Result<&JobState, JobError> {
    held.state.as_ref().ok_or(JobError::Unknown)
}

/// The state of a job of which an attempt is under way.
fn under_way(held: &Held) -> Result<&JobState, JobError> {
    let state = known(held)?;
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

impl Ledger {
    /// Creates a job. The same again gives the first receipt.
    ///
    /// # Errors
    /// [`JobError::Conflict`] when the id is another job's; [`JobError::Rule`].
    pub fn job_create(
        &self,
        tenant: &Arc<Tenant>,
        new: &NewJob,
        moment: &Moment,
    ) -> Result<JobDone, JobError> {
        new.check()?;
        let contract = match &new.contract_id {
            None => None,
            Some(contract_id) => Some(
                self.contract_of(tenant, contract_id)?
                    .ok_or_else(|| broken("contract_id", "there is no such contract"))?,
            ),
        };
        self.with_job(tenant, &new.job_id, |held| {
            let payload_hash = hash_of(&new.payload);
            if let Some(state) = &held.state {
                let receipt = self.receipt_at(LeafKey::from_i64(state.created_place))?;
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
            let mut turn = Turn::first(tenant, &new.job_id, moment);
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
            self.job_commit(held, turn)
        })
    }

    /// Begins an attempt.
    ///
    /// # Errors
    /// [`JobError::Stage`] unless the job is queued.
    pub fn job_start(
        &self,
        tenant: &Arc<Tenant>,
        job_id: &str,
        moment: &Moment,
    ) -> Result<JobDone, JobError> {
        self.with_job(tenant, job_id, |held| {
            let state = known(held)?;
            if state.stage() != Stage::Queued {
                return Err(JobError::Stage(state.stage()));
            }
            let handler = state.handler.clone();
            let mut turn = Turn::of(tenant, state, moment);
            turn.event(JobEventType::Started, Stage::Starting, |event| {
                event.handler = Some(handler);
            })?;
            self.job_commit(held, turn)
        })
    }

    /// Records progress.
    ///
    /// # Errors
    /// [`JobError::Stage`] unless an attempt is under way; a terminal stage has its own call.
    pub fn job_progress(
        &self,
        tenant: &Arc<Tenant>,
        job_id: &str,
        update: &ProgressUpdate,
        moment: &Moment,
    ) -> Result<JobDone, JobError> {
        if update.stage.is_some_and(|stage| !stage.is_under_way()) {
            return Err(broken("stage", "must be one of starting, running, completing"));
        }
        short("message", update.message.as_deref().unwrap_or_default())?;
        self.with_job(tenant, job_id, |held| {
            let state = under_way(held)?;
            let mut after = state.progress.clone();
            after
                .update(update, moment.at.max(state.last_at))
                .map_err(|ended| JobError::Stage(ended.0))?;
            if to_vec(&after.metadata).len() > PROGRESS_METADATA_BYTES_MAX {
                let rule = format!("must have at most {PROGRESS_METADATA_BYTES_MAX} bytes, merged");
                return Err(broken("metadata", rule));
            }
            let mut turn = Turn::of(tenant, state, moment);
            turn.event(JobEventType::Progress, after.stage, |event| {
                event.metadata.insert("progress", update.to_value());
            })?;
            self.job_commit(held, turn)
        })
    }

    /// Records a step. The same step again gives the first receipt.
    ///
    /// # Errors
    /// [`JobError::Stage`] unless an attempt is under way; [`JobError::Conflict`] when the index was recorded with
    /// other content in this attempt.
    pub fn job_step(
        &self,
        tenant: &Arc<Tenant>,
        job_id: &str,
        step_index: u32,
        status: &str,
        output: &Value,
        moment: &Moment,
    ) -> Result<JobDone, JobError> {
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
        self.with_job(tenant, job_id, |held| {
            let state = under_way(held)?;
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
                let receipt = self.receipt_at(LeafKey::from_i64(first.place))?;
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
            let stage = going_on(state.stage());
            let mut turn = Turn::of(tenant, state, moment);
            turn.event(JobEventType::Progress, stage, |event| {
                event.metadata.insert("step", step);
            })?;
            self.job_commit(held, turn)
        })
    }

    /// Records snapshots of health, before and after; null is none. The same again gives what was recorded first.
    ///
    /// # Errors
    /// [`JobError::Conflict`] when another one was recorded: `before` once a job, `after` once an attempt.
    pub fn job_health(
        &self,
        tenant: &Arc<Tenant>,
        job_id: &str,
        before: &Value,
        after: &Value,
        moment: &Moment,
    ) -> Result<JobDone, JobError> {
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
        self.with_job(tenant, job_id, |held| {
            let state = known(held)?;
            if state.stage().is_terminal() {
                return Err(JobError::Stage(state.stage()));
            }
            let mut health = Value::Object(Vec::new());
            for (name, given, first) in [
                ("before", before, &state.health_before),
                ("after", after, &state.health_after),
            ] {
                match first {
                    _ if given.is_null() => {}
                    None => drop(health.insert(name, given.clone())),
                    Some(first) if first == given => {}
                    Some(_) => {
                        return Err(JobError::Conflict(
                            self.receipt_at(LeafKey::from_i64(state.health_place))?,
                        ));
                    }
                }
            }
            if health.as_object().is_none_or(<[_]>::is_empty) {
                return Ok(again(
                    self.receipt_at(LeafKey::from_i64(state.health_place))?,
                    state,
                ));
            }
            fits(state, to_vec(&health).len())?;
            let mut turn = Turn::of(tenant, state, moment);
            turn.event(JobEventType::Progress, state.stage(), |event| {
                event.metadata.insert("health", health);
            })?;
            self.job_commit(held, turn)
        })
    }

    /// Completes a job and, under a contract, judges it: one commit.
    ///
    /// # Errors
    /// [`JobError::Stage`] unless an attempt is under way: a second completion is told so.
    pub fn job_complete(
        &self,
        tenant: &Arc<Tenant>,
        job_id: &str,
        result: &Value,
        moment: &Moment,
    ) -> Result<JobDone, JobError> {
        self.with_job(tenant, job_id, |held| {
            let state = under_way(held)?;
            let mut turn = Turn::of(tenant, state, moment);
            let ended = self.job_judged(&mut turn, state, Stage::Completed)?;
            let began = state.progress.started_at.unwrap_or(turn.at);
            let duration = millis(began, turn.at);
            turn.event(JobEventType::Completed, Stage::Completed, |event| {
                event.duration_ms = Some(duration);
                event.result_hash = hash_of(result);
                ended.note(&mut event.metadata);
            })?;
            self.job_commit(held, turn)
        })
    }

    /// Ends an attempt that failed. With an attempt left the job is queued again; else it has failed and, under a
    /// contract, is judged: one commit.
    ///
    /// # Errors
    /// [`JobError::Stage`] unless an attempt is under way.
    pub fn job_fail(
        &self,
        tenant: &Arc<Tenant>,
        job_id: &str,
        error: &str,
        moment: &Moment,
    ) -> Result<JobDone, JobError> {
        short("error", error)?;
        self.with_job(tenant, job_id, |held| {
            let state = under_way(held)?;
            let mut turn = Turn::of(tenant, state, moment);
            let policy = policy_of(&state.retry);
            // Attempts count from 1.
            let will_retry = policy.should_retry(state.attempt_number, error).unwrap_or(false);
            let delay = policy
                .delay_seconds(state.attempt_number, moment.draw)
                .unwrap_or(0.0);
            let delay_seconds = Finite::new(delay).unwrap_or_default();
            #[allow(clippy::cast_possible_truncation)] // whole seconds of at most a year
            let next = turn
                .at
                .checked_add_micros(delay as i64 * 1_000_000)
                .unwrap_or(Timestamp::MAX);
            let next_attempt_at = next.to_string();
            let began = state.progress.started_at.unwrap_or(turn.at);
            let duration = millis(began, turn.at);
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
                    event.metadata.insert("next_attempt_at", next_attempt_at.as_str());
                })?;
            } else {
                let ended = self.job_judged(&mut turn, state, Stage::Failed)?;
                turn.event(JobEventType::DeadLettered, Stage::Failed, |event| {
                    event.error = Some(error.to_owned());
                    ended.note(&mut event.metadata);
                })?;
            }
            self.job_commit(held, turn)
        })
    }

    /// Calls a job off; it is not judged.
    ///
    /// # Errors
    /// [`JobError::Stage`] when it has ended.
    pub fn job_cancel(
        &self,
        tenant: &Arc<Tenant>,
        job_id: &str,
        reason: &str,
        moment: &Moment,
    ) -> Result<JobDone, JobError> {
        if reason.is_empty() {
            return Err(broken("reason", "must not be empty"));
        }
        short("reason", reason)?;
        self.with_job(tenant, job_id, |held| {
            let state = known(held)?;
            if state.stage().is_terminal() {
                return Err(JobError::Stage(state.stage()));
            }
            let mut turn = Turn::of(tenant, state, moment);
            turn.event(JobEventType::Cancelled, Stage::Cancelled, |event| {
                event.metadata.insert("reason", reason);
            })?;
            self.job_commit(held, turn)
        })
    }

    /// A job as it is now. Blocks.
    ///
    /// # Errors
    /// [`JobError::Unknown`].
    pub fn job(&self, tenant: &Arc<Tenant>, job_id: &str) -> Result<JobView, JobError> {
        self.with_job(tenant, job_id, |held| Ok(JobView::of(known(held)?)))
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
fn again(receipt: Receipt, state: &JobState) -> JobDone {
    JobDone {
        placed: Placed {
            receipt,
            fresh: false,
        },
        job: JobView::of(state),
        verdict: None,
    }
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
