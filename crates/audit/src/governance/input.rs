//! What an audit is about: the contract, what was done, what was seen before and after.

use std::collections::BTreeSet;

use evidence::Timestamp;
use evidence::canonical::{Finite, Limits, Value, parse, to_vec};

use super::health::{Health, as_text};
use crate::read::{self, InputError};

/// Most capabilities of a contract. Each is compared with each target once, by lookup.
pub const SCOPE_ENTRIES_MAX: usize = 10_000;
/// Most steps of a job. With the largest body this bounds the memory of an audit.
pub const STEP_RESULTS_MAX: usize = 100_000;
/// Most signals given to one audit.
pub const SIGNALS_MAX: usize = 100_000;

/// One step of the job.
#[derive(Clone, Debug, PartialEq)]
pub struct StepResult {
    /// As recorded; only `COMPLETED` counts as done.
    pub status: String,
    /// Whether its output names a way back, or it needs none.
    pub can_be_undone: bool,
    target: Option<String>,
}

impl StepResult {
    /// What the step acted on; text, or the JSON of what stood in its place.
    pub fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// Whether it was done.
    pub fn completed(&self) -> bool {
        self.status == "COMPLETED"
    }
}

/// A recorded governance signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// What it is about.
    pub signal_type: String,
    /// The capability it is about.
    pub scope: String,
    /// Block, else allow.
    pub block: bool,
    /// When it was given.
    pub at: Timestamp,
}

/// When the job ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JobTimes {
    /// Its start.
    pub started_at: Timestamp,
    /// Its end.
    pub completed_at: Timestamp,
    /// As measured, seconds.
    pub duration_seconds: Finite,
}

/// The frozen evidence of one job.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditInput {
    /// The job.
    pub job_id: String,
    /// Its contract.
    pub contract_id: String,
    /// The stage in capitals; only `COMPLETED` is a completed job.
    pub job_status: String,
    /// Capabilities the job may affect.
    pub contract_scope: BTreeSet<String>,
    /// As in the contract.
    pub proposed_changes: Value,
    /// Steps as planned, kept with the evidence; no check reads them.
    pub steps_executed: Vec<Value>,
    /// Steps as they went.
    pub step_results: Vec<StepResult>,
    /// As recorded; null is missing.
    pub health_before: Value,
    /// As recorded; null is missing.
    pub health_after: Value,
    /// The window the change was allowed in.
    pub window_start: Option<Timestamp>,
    /// Its end, inclusive.
    pub window_end: Option<Timestamp>,
    /// When the job ran.
    pub times: JobTimes,
    /// Recorded signals; `None` if they were not supplied.
    pub signals: Option<Vec<Signal>>,
    before: Option<Health>,
    after: Option<Health>,
    /// The steps as they went, each as its canonical JSON: as values they take thirty times as much memory.
    results: Vec<Box<str>>,
}

const FLAT: [&str; 16] = [
    "job_id",
    "contract_id",
    "job_status",
    "contract_scope",
    "proposed_changes",
    "steps_executed",
    "step_results",
    "health_before",
    "health_after",
    "activation_window_start",
    "activation_window_end",
    "job_started_at",
    "job_completed_at",
    "execution_duration_seconds",
    "signals",
    "execution_result",
];

impl AuditInput {
    /// Reads an input object, in the flat form or with `execution_result`.
    ///
    /// # Errors
    /// A member that is missing, unknown, of the wrong kind or too long; a time without offset.
    pub fn read(input: &Value) -> Result<Self, InputError> {
        let contract = Contract::read(input)?;
        if let Some(execution) = read::given(input, "execution_result") {
            const INSTEAD: [&str; 6] = [
                "step_results",
                "health_before",
                "health_after",
                "job_started_at",
                "job_completed_at",
                "execution_duration_seconds",
            ];
            if let Some(both) = INSTEAD.iter().find(|name| input.get(name).is_some()) {
                return Err(InputError::new(format!("{both} stands beside execution_result")));
            }
            let job = from_execution(contract, execution)?;
            if read::given(execution, "step_results").is_none() {
                return Err(InputError::new("execution_result has no step_results"));
            }
            return Ok(job);
        }
        let steps = read::list(input, "step_results", STEP_RESULTS_MAX)?
            .ok_or_else(|| InputError::new("step_results is missing"))?;
        contract.flat(input, values(steps), Health::read)
    }

    /// Reads an input object in the flat form without `step_results`, which are given as texts of JSON: one at a
    /// time is read, so that memory is bounded by the texts.
    ///
    /// It is what is on record: a snapshot that would not be taken any more decides nothing, as a missing one.
    ///
    /// # Errors
    /// As [`AuditInput::read`].
    pub fn read_with_steps<'t>(
        input: &Value,
        steps: impl Iterator<Item = &'t str>,
    ) -> Result<Self, InputError> {
        let steps = steps.map(|text| {
            let value = parse(text.as_bytes(), Limits::default())
                .map_err(|_| InputError::new("step_results has an element that is no JSON"))?;
            read_step(&value)
        });
        Contract::read(input)?.flat(input, steps, |snapshot, what| {
            Ok(Health::read(snapshot, what).unwrap_or_default())
        })
    }

    /// Everything the verdict rests on, in one form, as canonical JSON: the two input forms of one job have the same.
    /// Absent signals and times are left out.
    pub fn to_json(&self) -> Vec<u8> {
        let steps: usize = self.results.iter().map(|step| step.len() + 1).sum();
        let mut json = Vec::with_capacity(steps + 4096);
        let value = self.without_steps();
        for (name, member) in value.as_object().unwrap_or_default() {
            json.push(if json.is_empty() { b'{' } else { b',' });
            json.push(b'"');
            json.extend_from_slice(name.as_bytes());
            json.extend_from_slice(b"\":");
            if name != "step_results" {
                json.extend_from_slice(&to_vec(member));
                continue;
            }
            json.push(b'[');
            json.extend_from_slice(self.results.join(",").as_bytes());
            json.push(b']');
        }
        json.push(b'}');
        json
    }

    /// The same as a value, with null for the steps.
    fn without_steps(&self) -> Value {
        let time = |at: Timestamp| Value::from(at.to_string());
        let mut value = Value::object([
            ("job_id", Value::from(self.job_id.as_str())),
            ("contract_id", Value::from(self.contract_id.as_str())),
            ("job_status", Value::from(self.job_status.as_str())),
            (
                "contract_scope",
                Value::from(
                    self.contract_scope
                        .iter()
                        .map(|entry| Value::from(entry.as_str()))
                        .collect::<Vec<_>>(),
                ),
            ),
            ("proposed_changes", self.proposed_changes.clone()),
            ("steps_executed", Value::from(self.steps_executed.clone())),
            ("step_results", Value::Null),
            ("health_before", self.health_before.clone()),
            ("health_after", self.health_after.clone()),
            ("job_started_at", time(self.times.started_at)),
            ("job_completed_at", time(self.times.completed_at)),
            (
                "execution_duration_seconds",
                Value::from(self.times.duration_seconds),
            ),
        ]);
        if let Some(start) = self.window_start {
            value.insert("activation_window_start", time(start));
        }
        if let Some(end) = self.window_end {
            value.insert("activation_window_end", time(end));
        }
        if let Some(signals) = &self.signals {
            let signals: Vec<Value> = signals
                .iter()
                .map(|signal| {
                    Value::object([
                        ("signal_type", Value::from(signal.signal_type.as_str())),
                        ("scope", Value::from(signal.scope.as_str())),
                        (
                            "decision",
                            Value::from(if signal.block { "block" } else { "allow" }),
                        ),
                        ("at", time(signal.at)),
                    ])
                })
                .collect();
            value.insert("signals", signals);
        }
        value
    }

    /// Whether the job was completed.
    pub fn job_completed(&self) -> bool {
        self.job_status == "COMPLETED"
    }

    /// Targets of all steps, whatever became of them.
    pub fn executed_targets(&self) -> BTreeSet<&str> {
        self.step_results.iter().filter_map(StepResult::target).collect()
    }

    /// Targets of the steps that were done.
    pub fn completed_targets(&self) -> BTreeSet<&str> {
        let done = self.step_results.iter().filter(|step| step.completed());
        done.filter_map(StepResult::target).collect()
    }

    /// What the contract proposes to change: `capability_name`, else `scope`, of the one object or of each
    /// object of the list.
    pub fn proposed_targets(&self) -> BTreeSet<&str> {
        let changes = self.changes().iter();
        changes
            .filter_map(|change| proposed_target(change)?.as_str())
            .collect()
    }

    /// Places of the changes whose target is no text, from 0.
    pub fn proposals_without_text(&self) -> Vec<usize> {
        let places = self.changes().iter().enumerate();
        places
            .filter(|(_, change)| proposed_target(change).is_some_and(|target| target.as_str().is_none()))
            .map(|(place, _)| place)
            .collect()
    }

    /// The proposed changes, also when they are but one.
    fn changes(&self) -> &[Value] {
        let one = std::slice::from_ref(&self.proposed_changes);
        self.proposed_changes.as_array().unwrap_or(one)
    }

    /// Both snapshots, if both were taken.
    pub fn snapshots(&self) -> Option<(&Health, &Health)> {
        self.before.as_ref().zip(self.after.as_ref())
    }

    /// Whether the first is there to be judged, and the second.
    pub fn snapshots_taken(&self) -> (bool, bool) {
        (self.before.is_some(), self.after.is_some())
    }
}

/// What a change is to, text or not: `capability_name`, else `scope`. Null and an empty text are as absent.
fn proposed_target(change: &Value) -> Option<&Value> {
    ["capability_name", "scope"]
        .iter()
        .filter_map(|name| read::given(change, name))
        .find(|target| target.as_str() != Some(""))
}

/// What is known of a job before its execution is read.
struct Contract {
    job_id: String,
    id: String,
    job_status: String,
    scope: Vec<String>,
    proposed_changes: Value,
    window_start: Option<Timestamp>,
    window_end: Option<Timestamp>,
    steps_executed: Vec<Value>,
    signals: Option<Vec<Signal>>,
}

/// A step as the checks see it, and as canonical JSON.
type ReadStep = Result<(StepResult, Box<str>), InputError>;

/// How a snapshot is read.
type ReadHealth = fn(&Value, &str) -> Result<Option<Health>, InputError>;

impl Contract {
    fn read(input: &Value) -> Result<Self, InputError> {
        read::object(input, "the input", &FLAT)?;
        Ok(Self {
            job_id: read::required_text(input, "job_id")?,
            id: read::required_text(input, "contract_id")?,
            job_status: read::text(input, "job_status")?.unwrap_or_default(),
            scope: read::texts(input, "contract_scope", SCOPE_ENTRIES_MAX)?
                .ok_or_else(|| InputError::new("contract_scope is missing"))?,
            proposed_changes: input.get("proposed_changes").cloned().unwrap_or_default(),
            window_start: read::time(input, "activation_window_start")?,
            window_end: read::time(input, "activation_window_end")?,
            steps_executed: read::list(input, "steps_executed", STEP_RESULTS_MAX)?
                .unwrap_or_default()
                .to_vec(),
            signals: read::list(input, "signals", SIGNALS_MAX)?
                .map(|signals| signals.iter().map(read_signal).collect())
                .transpose()?,
        })
    }

    fn flat(
        self,
        input: &Value,
        steps: impl Iterator<Item = ReadStep>,
        read_health: ReadHealth,
    ) -> Result<AuditInput, InputError> {
        let times = JobTimes {
            started_at: read::required_time(input, "job_started_at")?,
            completed_at: read::required_time(input, "job_completed_at")?,
            duration_seconds: duration(input, "execution_duration_seconds")?,
        };
        let snapshot = |name| input.get(name).cloned().unwrap_or_default();
        let (before, after) = (snapshot("health_before"), snapshot("health_after"));
        self.with(steps, before, after, times, read_health)
    }

    fn with(
        self,
        steps: impl Iterator<Item = ReadStep>,
        health_before: Value,
        health_after: Value,
        times: JobTimes,
        read_health: ReadHealth,
    ) -> Result<AuditInput, InputError> {
        let (step_results, results) = steps.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        Ok(AuditInput {
            job_id: self.job_id,
            contract_id: self.id,
            job_status: self.job_status,
            contract_scope: self.scope.into_iter().collect(),
            proposed_changes: self.proposed_changes,
            steps_executed: self.steps_executed,
            step_results,
            before: read_health(&health_before, "health_before")?,
            after: read_health(&health_after, "health_after")?,
            health_before,
            health_after,
            window_start: self.window_start,
            window_end: self.window_end,
            times,
            signals: self.signals,
            results,
        })
    }
}

/// The words of a step's status (SPEC 7.1).
const STEP_STATUSES: [&str; 3] = ["COMPLETED", "FAILED", "SKIPPED"];

/// What stands for a status in inputs of the older implementation: another word than `COMPLETED`, so not done.
const NOT_DONE: &str = "completed";

/// Steps as they are sent. A step of which nobody says what became of it must not pass for one that was not done.
fn values(steps: &[Value]) -> impl Iterator<Item = ReadStep> {
    steps.iter().enumerate().map(|(place, value)| {
        let read = read_step(value)?;
        let status = read.0.status.as_str();
        if STEP_STATUSES.contains(&status) || status == NOT_DONE {
            return Ok(read);
        }
        Err(InputError::new(format!(
            "step {place} of step_results has the status {status:?}, which is none of {}",
            STEP_STATUSES.join(", ")
        )))
    })
}

/// Makes an input of a job's execution evidence: `step_results`, `steps_executed`, `health_observations`
/// {before, after}, `timing` {started_at, completed_at, duration_seconds}. Without `step_results` no step was taken.
///
/// # Errors
/// As [`AuditInput::read`]. A missing time is an error: the time of the audit is not that of the job.
pub fn create_audit_input_from_evidence(
    job_id: &str,
    contract_id: &str,
    job_status: &str,
    contract_scope: &[String],
    proposed_changes: &Value,
    execution_result: &Value,
    window: (Option<Timestamp>, Option<Timestamp>),
) -> Result<AuditInput, InputError> {
    let contract = Contract {
        job_id: job_id.to_owned(),
        id: contract_id.to_owned(),
        job_status: job_status.to_owned(),
        scope: contract_scope.to_vec(),
        proposed_changes: proposed_changes.clone(),
        window_start: window.0,
        window_end: window.1,
        steps_executed: Vec::new(),
        signals: None,
    };
    from_execution(contract, execution_result)
}

fn from_execution(mut contract: Contract, execution: &Value) -> Result<AuditInput, InputError> {
    read::object(
        execution,
        "execution_result",
        &["step_results", "steps_executed", "health_observations", "timing"],
    )?;
    let health = read::given(execution, "health_observations");
    if let Some(health) = health {
        read::object(health, "health_observations", &["before", "after"])?;
    }
    let snapshot = |name| {
        health
            .and_then(|health| health.get(name))
            .cloned()
            .unwrap_or_default()
    };
    let timing =
        read::given(execution, "timing").ok_or_else(|| InputError::new("execution_result has no timing"))?;
    read::object(
        timing,
        "timing",
        &["started_at", "completed_at", "duration_seconds"],
    )?;
    let times = JobTimes {
        started_at: read::required_time(timing, "started_at")?,
        completed_at: read::required_time(timing, "completed_at")?,
        duration_seconds: duration(timing, "duration_seconds")?,
    };
    if let Some(steps) = read::list(execution, "steps_executed", STEP_RESULTS_MAX)? {
        contract.steps_executed = steps.to_vec();
    }
    let results = read::list(execution, "step_results", STEP_RESULTS_MAX)?.unwrap_or_default();
    let (before, after) = (snapshot("before"), snapshot("after"));
    contract.with(values(results), before, after, times, Health::read)
}

fn duration(value: &Value, name: &str) -> Result<Finite, InputError> {
    let seconds = read::number(value, name)?.unwrap_or(0.0);
    Finite::new(seconds)
        .filter(|_| seconds >= 0.0)
        .ok_or_else(|| InputError::new(format!("{name} is negative")))
}

fn read_step(value: &Value) -> ReadStep {
    if value.as_object().is_none() {
        return Err(InputError::new("step_results has an element that is no object"));
    }
    let output = value.get("output").unwrap_or(&Value::Null);
    if !output.is_null() && output.as_object().is_none() {
        return Err(InputError::new("a step's output is neither an object nor null"));
    }
    let step = StepResult {
        status: read::text(value, "status")?.unwrap_or_default(),
        can_be_undone: can_be_undone(output),
        target: target_of(output),
    };
    Ok((step, String::from_utf8_lossy(&to_vec(value)).into()))
}

/// What a step with that output acted on; `None`: nothing. What is no text counts as its JSON.
pub fn target_of(output: &Value) -> Option<String> {
    read::given(output, "target")
        .map(as_text)
        .filter(|target| !target.is_empty())
}

/// Steps that change nothing which could be taken back.
const NEEDS_NO_WAY_BACK: [&str; 3] = ["noop", "configuration_change", "unknown"];

fn can_be_undone(output: &Value) -> bool {
    let named = match output.get("rollback_action") {
        None | Some(Value::Null | Value::Bool(false) | Value::Int(0)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(elements)) => !elements.is_empty(),
        Some(Value::Object(members)) => !members.is_empty(),
        Some(_) => true,
    };
    let word = ["step_type", "handler"]
        .iter()
        .filter_map(|name| output.get(name).and_then(Value::as_str))
        .find(|word| !word.is_empty());
    named || word.is_some_and(|word| NEEDS_NO_WAY_BACK.contains(&word))
}

fn read_signal(value: &Value) -> Result<Signal, InputError> {
    // The last two stand beside them in the answer to a signal that is recorded, and no check reads them.
    let members = ["signal_type", "scope", "decision", "at", "signal_id", "receipt"];
    read::object(value, "a signal", &members)?;
    let block = match read::required_text(value, "decision")?.as_str() {
        "allow" => false,
        "block" => true,
        other => {
            return Err(InputError::new(format!(
                "a signal's decision is neither allow nor block: {other:?}"
            )));
        }
    };
    Ok(Signal {
        signal_type: read::required_text(value, "signal_type")?,
        scope: read::required_text(value, "scope")?,
        block,
        at: read::required_time(value, "at")?,
    })
}
