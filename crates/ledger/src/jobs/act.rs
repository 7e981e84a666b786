//! An act, looked at before the job is: redacted, within its bounds, what is only hashed as its hash.
//!
//! All of this needs no job, so it is done before the job's lock is waited for, and what waits is small. Redaction
//! comes first: what is compared with what was recorded, and what an event's hash covers, is what is kept (SPEC 6.4).
//! What identifies (`job_id`, `contract_id`) is left as it is.
//!
//! Out of scope: whether the act may follow where the job stands (`life.rs`). Start at [`JobAct::ready`].

use audit::InputError;
use audit::governance::{Health, target_of};
use audit::retry::RetryPolicy;
use evidence::canonical::{self, Limits, Value, parse, to_vec};
use evidence::job::ProgressUpdate;
use evidence::record::{RuleBroken, is_blank};
use evidence::redact::Redactor;

use super::{
    HEALTH_BYTES_MAX, HEALTH_NODES_MAX, JOB_ATTEMPTS_MAX, JOB_DEPTH_MAX, JOB_TEXT_BYTES_MAX, JobError,
    PROGRESS_METADATA_BYTES_MAX, STEP_BYTES_MAX, TARGET_BYTES_MAX,
};
use crate::BodyTooLarge;

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

/// An act that was looked at.
#[derive(Clone, Debug)]
pub struct ReadyAct(pub(super) Ready);

#[derive(Clone, Debug)]
pub(super) enum Ready {
    Create(Create),
    Start,
    Progress(ProgressUpdate),
    Step { step_index: u32, step: Value },
    Health { before: Value, after: Value },
    Complete { result_hash: Option<String> },
    Fail(String),
    Cancel(String),
}

/// A job to create, without its payload.
#[derive(Clone, Debug)]
pub(super) struct Create {
    pub(super) job_id: String,
    pub(super) handler: String,
    pub(super) contract_id: Option<String>,
    pub(super) payload_hash: Option<String>,
    pub(super) total_steps: Option<u32>,
    pub(super) retry: Value,
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

impl ReadyAct {
    /// Whether it may end the job, so that it is judged.
    pub const fn judges(&self) -> bool {
        matches!(self.0, Ready::Complete { .. } | Ready::Fail(_))
    }
}

impl JobAct {
    /// Redacts the act by a tenant's rules and looks at everything that does not depend on the job.
    ///
    /// # Errors
    /// [`JobError::Rule`], [`JobError::Input`] or [`JobError::Body`].
    pub fn ready(self, rules: &Redactor) -> Result<ReadyAct, JobError> {
        Ok(ReadyAct(match self {
            Self::Create(new) => Ready::Create(new.ready(rules)?),
            Self::Start => Ready::Start,
            Self::Progress(update) => Ready::Progress(progress(rules, update)?),
            Self::Step {
                step_index,
                status,
                output,
            } => step(rules, step_index, &status, output)?,
            Self::Health { before, after } => health(rules, before, after)?,
            Self::Complete(result) => Ready::Complete {
                result_hash: hash_of(rules, "result", result)?,
            },
            Self::Fail(error) => Ready::Fail(prose(rules, "error", error)?),
            Self::Cancel(reason) => {
                if is_blank(&reason) {
                    return Err(broken("reason", "must say something"));
                }
                Ready::Cancel(prose(rules, "reason", reason)?)
            }
        }))
    }
}

impl NewJob {
    fn ready(self, rules: &Redactor) -> Result<Create, JobError> {
        let retry = redacted(rules, "retry", self.retry)?;
        check_retry(&retry)?;
        Ok(Create {
            job_id: self.job_id,
            handler: redacted_text(rules, "handler", self.handler)?,
            contract_id: self.contract_id,
            payload_hash: hash_of(rules, "payload", self.payload)?,
            total_steps: self.total_steps,
            retry,
        })
    }
}

fn check_retry(retry: &Value) -> Result<(), JobError> {
    if retry.is_null() {
        return Ok(());
    }
    let members = retry.as_object().unwrap_or_default();
    let unknown = members
        .iter()
        .find(|(key, _)| !RETRY_MEMBERS.contains(&key.as_str()));
    if retry.as_object().is_none() || unknown.is_some() {
        let rule = match unknown {
            Some((key, _)) => format!("has the unknown member {key:?}"),
            None => "must be an object".to_owned(),
        };
        return Err(broken("retry", rule));
    }
    let policy = RetryPolicy::read(retry).map_err(|error| JobError::Input("retry", error))?;
    if policy.max_retries > JOB_ATTEMPTS_MAX {
        return Err(broken(
            "retry",
            format!("max_retries must be at most {JOB_ATTEMPTS_MAX}"),
        ));
    }
    at_most("retry", to_vec(retry).len(), STEP_BYTES_MAX)
}

fn progress(rules: &Redactor, mut update: ProgressUpdate) -> Result<ProgressUpdate, JobError> {
    if update.stage.is_some_and(|stage| !stage.is_under_way()) {
        return Err(broken("stage", "must be one of starting, running, completing"));
    }
    if let Some(message) = update.message.take() {
        update.message = Some(prose(rules, "message", message)?);
    }
    if let Some(metadata) = update.metadata.take() {
        let metadata = redacted(rules, "metadata", metadata)?;
        readable("metadata", &metadata)?;
        at_most("metadata", to_vec(&metadata).len(), PROGRESS_METADATA_BYTES_MAX)?;
        update.metadata = Some(metadata);
    }
    Ok(update)
}

fn step(rules: &Redactor, step_index: u32, status: &str, output: Value) -> Result<Ready, JobError> {
    if !STEP_STATUSES.contains(&status) {
        let rule = format!("must be one of {}", STEP_STATUSES.join(", "));
        return Err(broken("status", rule));
    }
    if !output.is_null() && output.as_object().is_none() {
        return Err(broken("output", "must be an object"));
    }
    let output = redacted(rules, "output", output)?;
    readable("output", &output)?;
    if target_of(&output).is_some_and(|target| target.len() > TARGET_BYTES_MAX) {
        let rule = format!("must have a target of at most {TARGET_BYTES_MAX} bytes");
        return Err(broken("output", rule));
    }
    let mut step = Value::object([("output", output)]);
    step.insert("status", status);
    step.insert("step_index", i64::from(step_index));
    at_most("output", to_vec(&step).len(), STEP_BYTES_MAX)?;
    Ok(Ready::Step { step_index, step })
}

fn health(rules: &Redactor, before: Value, after: Value) -> Result<Ready, JobError> {
    let snapshot = |field: &'static str, value: Value| {
        let value = redacted(rules, field, value)?;
        at_most(field, to_vec(&value).len(), HEALTH_BYTES_MAX)?;
        if readable(field, &value)? > HEALTH_NODES_MAX {
            return Err(broken(
                field,
                format!("must hold at most {HEALTH_NODES_MAX} values"),
            ));
        }
        let health =
            Health::read(&value, field).map_err(|error: InputError| JobError::Input(field, error))?;
        let long = |name: &&str| name.len() > TARGET_BYTES_MAX;
        if health.is_some_and(|health| health.capabilities().iter().any(long)) {
            let rule = format!("must have names of at most {TARGET_BYTES_MAX} bytes");
            return Err(broken(field, rule));
        }
        Ok(value)
    };
    let (before, after) = (snapshot("before", before)?, snapshot("after", after)?);
    if before.is_null() && after.is_null() {
        return Err(broken("before", "or after must be given"));
    }
    Ok(Ready::Health { before, after })
}

pub(super) fn broken(field: &'static str, rule: impl Into<String>) -> JobError {
    JobError::Rule(RuleBroken {
        field,
        rule: rule.into(),
    })
}

fn at_most(field: &'static str, bytes: usize, most: usize) -> Result<(), JobError> {
    if bytes > most {
        return Err(broken(field, format!("must have at most {most} bytes")));
    }
    Ok(())
}

/// SHA-256 of the canonical form; absent when null.
fn hash_of(rules: &Redactor, field: &str, value: Value) -> Result<Option<String>, JobError> {
    let value = redacted(rules, field, value)?;
    Ok((!value.is_null()).then(|| canonical::sha256_hex(&to_vec(&value))))
}

fn prose(rules: &Redactor, field: &'static str, text: String) -> Result<String, JobError> {
    at_most(field, text.len(), JOB_TEXT_BYTES_MAX)?;
    let text = redacted_text(rules, field, text)?;
    // A marker may be longer than what it stands for.
    at_most(field, text.len(), JOB_TEXT_BYTES_MAX)?;
    Ok(text)
}

pub(super) fn redacted_text(rules: &Redactor, field: &str, text: String) -> Result<String, JobError> {
    match redacted(rules, field, Value::String(text))? {
        Value::String(text) => Ok(text),
        // Redaction keeps the shape.
        _ => Ok(String::new()),
    }
}

/// The value as it stands under that name in a request, redacted.
fn redacted(rules: &Redactor, field: &str, value: Value) -> Result<Value, JobError> {
    if value.is_null() {
        return Ok(value);
    }
    let request = [b"{\"", field.as_bytes(), b"\":", &to_vec(&value), b"}"].concat();
    let Some(kept) = rules.request(&request).map_err(BodyTooLarge::from)? else {
        return Ok(value);
    };
    let limits = Limits {
        depth_max: canonical::DEPTH_CEILING,
        nodes_max: u32::MAX,
    };
    // What was written canonically is read again, with its one member.
    match parse(&kept, limits) {
        Ok(Value::Object(mut members)) => Ok(members.pop().map(|(_, value)| value).unwrap_or_default()),
        _ => Err(broken("body", "cannot be redacted")),
    }
}

/// 422 for what could not be read back out of an event; else how many values it holds.
fn readable(field: &'static str, value: &Value) -> Result<usize, JobError> {
    let (depth, nodes) = shape(value);
    if depth > JOB_DEPTH_MAX {
        return Err(broken(
            field,
            format!("must be nested at most {JOB_DEPTH_MAX} deep"),
        ));
    }
    Ok(nodes)
}

/// Arrays and objects open at once at most, and values in all. Recursion is as deep as the value, which was parsed
/// within [`canonical::DEPTH_CEILING`].
fn shape(value: &Value) -> (usize, usize) {
    let inner = |shapes: &mut dyn Iterator<Item = (usize, usize)>| {
        shapes.fold((1, 1), |(depth, nodes), (inner, more)| {
            (depth.max(inner + 1), nodes + more)
        })
    };
    match value {
        Value::Array(elements) => inner(&mut elements.iter().map(shape)),
        Value::Object(members) => inner(&mut members.iter().map(|(_, value)| shape(value))),
        _ => (0, 1),
    }
}
