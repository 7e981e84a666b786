//! The fold of a job's events.

use std::collections::BTreeMap;

use super::{Progress, ProgressUpdate, Stage};
use crate::Timestamp;
use crate::canonical::{Finite, Value, to_vec};
use crate::record::{JobEvent, JobEventType};

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// From 1.
    pub attempt_number: u32,
    /// When it failed.
    pub timestamp: Timestamp,
    /// Why.
    pub error: String,
    /// The wait before the next, were there one; seconds.
    pub delay_seconds: Finite,
    /// Whether there is a next.
    pub will_retry: bool,
    /// Not before.
    pub next_attempt_at: Option<Timestamp>,
}

/// A step as it is kept while the job goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptStep {
    /// Canonical JSON of {attempt_number, output, status, step_index}; empty once the job has ended.
    pub text: Box<str>,
    /// Where its record is; means something to the writer only.
    pub place: i64,
}

/// A job, folded from its events.
#[derive(Clone, Debug, PartialEq)]
pub struct JobState {
    /// The job.
    pub job_id: String,
    /// What it runs.
    pub handler: String,
    /// The contract that it runs under.
    pub contract_id: Option<String>,
    /// SHA-256 of the canonical payload.
    pub payload_hash: Option<String>,
    /// SHA-256 of the canonical result.
    pub result_hash: Option<String>,
    /// Retry policy as given; null: the defaults.
    pub retry: Value,
    /// How far it is, and its stage.
    pub progress: Progress,
    /// The current attempt, or the next one while it is queued.
    pub attempt_number: u32,
    /// When it was created.
    pub created_at: Timestamp,
    /// When the first attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended for good.
    pub ended_at: Option<Timestamp>,
    /// Attempts that failed, in order.
    pub history: Vec<Attempt>,
    /// By attempt and index.
    pub steps: BTreeMap<(u32, u32), KeptStep>,
    /// How many there are.
    pub steps_total: u32,
    /// Of them, those of the current attempt.
    pub attempt_steps: u32,
    /// Before the first attempt; never replaced.
    pub health_before: Option<Value>,
    /// After the current attempt.
    pub health_after: Option<Value>,
    /// Where the record of the snapshot before is.
    pub health_before_place: i64,
    /// Where the record of the snapshot after is.
    pub health_after_place: i64,
    /// Hash of the last event: the next one names it.
    pub tip: String,
    /// Where the record of the last event is.
    pub last_place: i64,
    /// Of the last event: the next one is not before it.
    pub last_at: Timestamp,
    /// How many events it has.
    pub events: u64,
    /// Where the record of its creation is; means something to the writer only.
    pub created_place: i64,
    /// Why it was cancelled.
    pub cancel_reason: Option<String>,
    /// Of its end: leaves that were there when its evidence was gathered.
    pub evidence_tree_size: Option<u64>,
    /// Of its end: the incident that its verdict opened.
    pub incident_id: Option<String>,
    /// What its steps and snapshots have said, of all attempts: it only grows.
    pub said_bytes: usize,
    /// About how much memory it holds.
    pub bytes: usize,
    /// Of them, what progress carries beside itself.
    metadata_bytes: usize,
}

/// What an event holds beside its text: a key, a place, the tree around them.
const STEP_OVERHEAD_BYTES: usize = 96;

impl JobState {
    /// A job from its first event; `None`: that is not how one begins.
    pub fn begin(event: &JobEvent, hash: &str, place: i64) -> Option<Self> {
        if event.event_type != JobEventType::Created {
            return None;
        }
        let text = |name: &str| {
            event
                .metadata
                .get(name)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let total = event.metadata.get("total_steps").and_then(Value::as_u64);
        let total = total.and_then(|total| u32::try_from(total).ok());
        let (body, _) = event.encode();
        Some(Self {
            job_id: event.job_id.clone(),
            handler: event.handler.clone().unwrap_or_default(),
            contract_id: text("contract_id"),
            payload_hash: event.payload_hash.clone(),
            result_hash: None,
            retry: event.metadata.get("retry").cloned().unwrap_or_default(),
            progress: Progress::queued(total, event.timestamp),
            attempt_number: 1,
            created_at: event.timestamp,
            started_at: None,
            ended_at: None,
            history: Vec::new(),
            steps: BTreeMap::new(),
            steps_total: 0,
            attempt_steps: 0,
            health_before: None,
            health_after: None,
            health_before_place: place,
            health_after_place: place,
            tip: hash.to_owned(),
            last_place: place,
            last_at: event.timestamp,
            events: 1,
            created_place: place,
            cancel_reason: None,
            evidence_tree_size: None,
            incident_id: None,
            said_bytes: 0,
            bytes: size_of::<Self>() + 2 * body.len(),
            metadata_bytes: 0,
        })
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        self.progress.stage
    }

    /// Takes the next event.
    ///
    /// The writer decided that it may follow; one that may not leaves the stage as it is.
    pub fn apply(&mut self, event: &JobEvent, hash: &str, place: i64) {
        let at = event.timestamp;
        let member = |name: &str| event.metadata.get(name);
        let error = || event.error.clone().unwrap_or_default();
        match event.event_type {
            JobEventType::Created | JobEventType::Scheduled => {}
            JobEventType::Started => {
                if self.progress.start(at).is_ok() {
                    self.attempt_number = event.attempt_number;
                    self.started_at.get_or_insert(at);
                    let gone = self.health_after.take();
                    self.bytes = self
                        .bytes
                        .saturating_sub(gone.map_or(0, |gone| to_vec(&gone).len()));
                    self.attempt_steps = 0;
                    self.progress_changed();
                }
            }
            JobEventType::Progress => self.went_on(event, place),
            JobEventType::Completed => {
                if self.progress.complete(at).is_ok() {
                    self.result_hash.clone_from(&event.result_hash);
                    self.ended(event);
                }
            }
            JobEventType::Failed => {
                let attempt = Attempt {
                    attempt_number: event.attempt_number,
                    timestamp: at,
                    error: error(),
                    delay_seconds: member("delay_seconds")
                        .and_then(Value::as_f64)
                        .and_then(Finite::new)
                        .unwrap_or_default(),
                    will_retry: member("will_retry").and_then(Value::as_bool) == Some(true),
                    next_attempt_at: member("next_attempt_at")
                        .and_then(Value::as_str)
                        .and_then(|text| Timestamp::parse(text).ok()),
                };
                self.bytes += size_of::<Attempt>() + attempt.error.len();
                self.history.push(attempt);
            }
            JobEventType::Retried => {
                if self.progress.queue_again(&error(), at).is_ok() {
                    self.attempt_number = event.attempt_number.saturating_add(1);
                }
            }
            JobEventType::DeadLettered => {
                if self.progress.fail(&error(), at).is_ok() {
                    self.ended(event);
                }
            }
            JobEventType::Cancelled => {
                let reason = member("reason").and_then(Value::as_str).unwrap_or_default();
                if self.progress.cancel(reason, at).is_ok() {
                    self.cancel_reason = Some(reason.to_owned());
                    self.ended(event);
                }
            }
        }
        hash.clone_into(&mut self.tip);
        self.last_place = place;
        self.last_at = self.last_at.max(at);
        self.events += 1;
    }

    fn went_on(&mut self, event: &JobEvent, place: i64) {
        if let Some(progress) = event.metadata.get("progress") {
            // Refused only where the writer would have refused it.
            let _ = self.progress.update(&update_of(progress), event.timestamp);
            self.progress_changed();
        } else if let Some(step) = event.metadata.get("step") {
            let index = step.get("step_index").and_then(Value::as_u64);
            let Some(index) = index.and_then(|index| u32::try_from(index).ok()) else {
                return;
            };
            let mut step = step.clone();
            step.insert("attempt_number", Value::Int(event.attempt_number.into()));
            let text = String::from_utf8(to_vec(&step))
                .unwrap_or_default()
                .into_boxed_str();
            self.bytes += text.len() + STEP_OVERHEAD_BYTES;
            self.said_bytes += text.len() + STEP_OVERHEAD_BYTES;
            let kept = KeptStep { text, place };
            if self.steps.insert((event.attempt_number, index), kept).is_none() {
                self.attempt_steps += 1;
                self.steps_total += 1;
            }
            // A step is progress: as many are done as were recorded, unless more were said to be.
            let update = ProgressUpdate {
                current_step: Some(self.attempt_steps.max(self.progress.current_step)),
                ..ProgressUpdate::default()
            };
            // Refused only where the step would have been.
            let _ = self.progress.update(&update, event.timestamp);
        } else if let Some(health) = event.metadata.get("health") {
            let kept = [
                ("before", &mut self.health_before, &mut self.health_before_place),
                ("after", &mut self.health_after, &mut self.health_after_place),
            ];
            for (name, first, first_place) in kept {
                let Some(snapshot) = health.get(name).filter(|_| first.is_none()) else {
                    continue;
                };
                let bytes = to_vec(snapshot).len();
                self.bytes += bytes;
                self.said_bytes += bytes;
                (*first, *first_place) = (Some(snapshot.clone()), place);
            }
        }
    }

    /// Counts what progress carries now: what it carried before is held no longer.
    fn progress_changed(&mut self) {
        let bytes = to_vec(&self.progress.metadata).len();
        self.bytes = self.bytes.saturating_sub(self.metadata_bytes) + bytes;
        self.metadata_bytes = bytes;
    }

    fn ended(&mut self, event: &JobEvent) {
        self.ended_at = Some(event.timestamp);
        let member = |name: &str| event.metadata.get(name);
        self.evidence_tree_size = member("evidence_tree_size").and_then(Value::as_u64);
        self.incident_id = member("incident_id").and_then(Value::as_str).map(str::to_owned);
    }

    /// Lets go of what the steps said: an ended job is asked for its stage, not for its steps.
    pub fn forget_steps(&mut self) {
        for step in self.steps.values_mut() {
            self.bytes = self.bytes.saturating_sub(step.text.len());
            step.text = Box::default();
        }
    }
}

impl ProgressUpdate {
    /// As it stands in an event.
    pub fn to_value(&self) -> Value {
        let mut value = Value::Object(Vec::new());
        if let Some(percentage) = self.percentage {
            value.insert("percentage", percentage);
        }
        if let Some(stage) = self.stage {
            value.insert("stage", stage.as_str());
        }
        if let Some(message) = &self.message {
            value.insert("message", message.as_str());
        }
        if let Some(step) = self.current_step {
            value.insert("current_step", Value::Int(step.into()));
        }
        if let Some(metadata) = &self.metadata {
            value.insert("metadata", metadata.clone());
        }
        value
    }
}

fn update_of(value: &Value) -> ProgressUpdate {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    ProgressUpdate {
        percentage: value
            .get("percentage")
            .and_then(Value::as_f64)
            .and_then(Finite::new),
        stage: text("stage").and_then(Stage::parse),
        message: text("message").map(str::to_owned),
        current_step: value
            .get("current_step")
            .and_then(Value::as_u64)
            .and_then(|step| u32::try_from(step).ok()),
        metadata: value.get("metadata").cloned(),
    }
}
