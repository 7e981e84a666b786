//! What the records of a run add up to, as facts that are judged.

use std::collections::{HashMap, HashSet};

use ::audit::completeness::Counted;
use ::audit::integrity::{Class, Facts as Gathered, Failure, FailureReason};
use evidence::record::{ACTIVITY_COMPLETIONS_MAX, ActivityEvidence, CaptureFailure, StepEvidence};
use evidence::{Identity, Kind, Timestamp};
use serde::Deserialize;
use store::{RunRecordRow, RunRow};

/// Kinds whose bodies are looked at.
pub(super) const fn counts(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::TraceStep
            | Kind::RunCompleted
            | Kind::EvidenceActivity
            | Kind::EvidenceCaptureFailure
            | Kind::EvidenceEnvironment
            | Kind::EvidenceProvider
    )
}

/// By how much a sender's clock may differ from the server's: one that is kept by NTP differs by less, and of tokens as
/// much is allowed. Times of one clock are compared exactly.
const CLOCKS_APART_MICROS: i64 = 60 * 1_000_000;

/// Whether a time lies behind that of another clock by more than clocks differ.
const fn is_ahead(time: Timestamp, by_other: Timestamp) -> bool {
    time.micros_since(by_other) > CLOCKS_APART_MICROS
}

/// Places of the classes in [`Class::JUDGED`].
const ENVIRONMENT: usize = 0;

const ACTIVITY: usize = 1;

const PROVIDER: usize = 2;

const POLICY: usize = 3;

const TRACES: usize = 4;

const STEPS: usize = 5;

/// What is counted on the way through a run.
pub(super) struct Tally {
    otlp: bool,
    start: Start,
    created_at: Timestamp,
    counts: [u64; 6],
    gathered: Gathered,
    traces: HashSet<String>,
    spans: HashSet<(String, String)>,
    parents: Vec<(String, String)>,
    root: bool,
    tools: u64,
    tools_without_result: u64,
    boundaries: u64,
    boundaries_with_content: u64,
    dropped: Option<u64>,
    declared_steps: Option<u64>,
    clock_faults: u64,
    /// Fingerprints of posted activities, which may be completed later.
    posted: HashMap<u32, (bool, bool)>,
    /// Indexes of steps that were given one.
    step_indexes: Vec<u32>,
    /// Steps and posted evidence whose bodies are gone: what they would have decided nobody knows.
    gone_steps: u64,
    gone_activities: HashSet<Option<Identity>>,
    gone_environments: u64,
    gone_providers: u64,
}

impl Tally {
    pub(super) fn new(run: &RunRow) -> Self {
        Self {
            otlp: run.state.otlp,
            start: Start::of(run),
            created_at: run.state.created_at,
            counts: [0; 6],
            gathered: Gathered::default(),
            traces: HashSet::new(),
            spans: HashSet::new(),
            parents: Vec::new(),
            root: false,
            tools: 0,
            tools_without_result: 0,
            boundaries: 0,
            boundaries_with_content: 0,
            dropped: None,
            declared_steps: None,
            clock_faults: u64::from(ends_before_start(run)) + u64::from(is_in_the_future(run)),
            posted: HashMap::new(),
            step_indexes: Vec::new(),
            gone_steps: 0,
            gone_activities: HashSet::new(),
            gone_environments: 0,
            gone_providers: 0,
        }
    }

    /// Whether a step may have been recorded before it happened: its header, of which that is read, is asked for. Most
    /// steps of short runs are over before the first is recorded.
    pub(super) const fn may_be_ahead(&self, row: &RunRecordRow) -> bool {
        matches!(row.kind, Kind::TraceStep) && is_ahead(row.occurred_at, self.created_at)
    }

    /// When one of those steps was recorded.
    pub(super) fn recorded(&mut self, row: &RunRecordRow, recorded_at: Timestamp) {
        self.clock_faults += u64::from(is_ahead(row.occurred_at, recorded_at));
    }

    /// `body` is absent when it is gone, or not needed.
    pub(super) fn take(&mut self, row: &RunRecordRow, body: Option<&[u8]>) {
        match row.kind {
            Kind::TraceStep => {
                self.counts[STEPS] += 1;
                self.step_indexes.extend(row.step_index);
                self.clock_faults += u64::from(self.start.is_after(row.occurred_at));
                match body.and_then(StepEvidence::read) {
                    Some(step) => self.step(step),
                    None => self.gone_steps += 1,
                }
            }
            Kind::EvidenceEnvironment => {
                self.counts[ENVIRONMENT] += 1;
                self.gone_environments += u64::from(body.is_none());
                self.dropped_of(body);
            }
            Kind::EvidenceActivity => {
                if let Some(activity) = body.and_then(ActivityEvidence::read) {
                    self.activity(&activity);
                } else {
                    self.counts[ACTIVITY] += 1;
                    self.gone_activities.insert(row.identity);
                }
            }
            Kind::EvidenceProvider => {
                #[derive(Deserialize)]
                struct Wire {
                    requested_at: Option<Timestamp>,
                    responded_at: Option<Timestamp>,
                }
                self.counts[PROVIDER] += 1;
                match body.and_then(|body| serde_json::from_slice::<Wire>(body).ok()) {
                    Some(times) => {
                        let both = times.requested_at.zip(times.responded_at);
                        let is_fault = both.is_some_and(|(requested, responded)| responded < requested);
                        self.clock_faults += u64::from(is_fault);
                    }
                    None => self.gone_providers += 1,
                }
            }
            Kind::EvidencePolicyDecision => self.counts[POLICY] += 1,
            Kind::EvidenceCaptureFailure => {
                self.gathered.fail(match body.and_then(CaptureFailure::read) {
                    Some(failure) => Failure {
                        class: failure.evidence_class,
                        reason: failure.failure_reason,
                        resolution: failure.resolution,
                        error_message: failure.error_message,
                    },
                    // Of which class it was is not known; that there was one is.
                    None => Failure {
                        class: Class::Integrity,
                        reason: FailureReason::CaptureFailed,
                        resolution: FailureReason::CaptureFailed.default_resolution(),
                        error_message: Some("what failed is on record no more".to_owned()),
                    },
                });
            }
            Kind::RunCompleted => {
                #[derive(Deserialize)]
                struct Wire {
                    declared_steps: Option<u64>,
                }
                self.declared_steps = body
                    .and_then(|body| serde_json::from_slice::<Wire>(body).ok())
                    .and_then(|wire| wire.declared_steps);
            }
            _ => {}
        }
    }

    fn step(&mut self, step: StepEvidence) {
        self.counts[ACTIVITY] += u64::from(step.activity);
        self.counts[PROVIDER] += u64::from(step.provider);
        self.counts[POLICY] += u64::from(step.policy);
        if step.activity {
            self.boundaries += 1;
            self.boundaries_with_content += u64::from(step.fingerprints == (true, true));
            if !step.inference {
                self.tools += 1;
                self.tools_without_result += u64::from(!step.outcome);
            }
        }
        let Some(span) = step.span else { return };
        *self.dropped.get_or_insert(0) += span.dropped;
        self.clock_faults += u64::from(span.end != 0 && span.end < span.start);
        match span.parent_span_id {
            None => self.root = true,
            Some(parent) => self.parents.push((span.id.0.clone(), parent)),
        }
        self.traces.insert(span.id.0.clone());
        self.spans.insert(span.id);
    }

    fn activity(&mut self, activity: &ActivityEvidence) {
        let posted = self.posted.entry(activity.step_index).or_default();
        posted.0 |= activity.prompt_fingerprint.is_some();
        posted.1 |= activity.response_fingerprint.is_some();
        self.counts[ACTIVITY] += u64::from(activity.completion == 0);
    }

    /// How many of the activities that are gone completed another: by their identities, as far as their steps are known.
    /// Spans are numbered as they stand.
    fn gone_completions(&self) -> usize {
        if self.gone_activities.is_empty() {
            return 0;
        }
        let steps: HashSet<u32> = self
            .step_indexes
            .iter()
            .chain(self.posted.keys())
            .copied()
            .chain(0..u32::try_from(self.counts[STEPS]).unwrap_or(u32::MAX))
            .collect();
        let completions =
            |step| (1..=ACTIVITY_COMPLETIONS_MAX).map(move |number| Identity::activity(step, number));
        steps
            .into_iter()
            .flat_map(completions)
            .filter(|identity| self.gone_activities.contains(&Some(*identity)))
            .count()
    }

    fn dropped_of(&mut self, body: Option<&[u8]>) {
        #[derive(Deserialize)]
        struct Wire {
            dropped_attributes_count: Option<u64>,
        }
        let dropped = body
            .and_then(|body| serde_json::from_slice::<Wire>(body).ok())
            .and_then(|wire| wire.dropped_attributes_count);
        if let Some(dropped) = dropped {
            *self.dropped.get_or_insert(0) += dropped;
        }
    }

    pub(super) fn finish(mut self, run: &RunRow) -> (Gathered, Counted) {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        self.counts[ACTIVITY] = self.counts[ACTIVITY].saturating_sub(count(self.gone_completions()));
        // A run that was started by REST has a trace of its own.
        self.counts[TRACES] = count(self.traces.len()) + u64::from(!self.otlp);
        let orphans = self
            .parents
            .iter()
            .filter(|parent| !self.spans.contains(*parent))
            .count();
        let posted_with_content = self
            .posted
            .values()
            .filter(|prints| **prints == (true, true))
            .count();
        let boundaries = self.boundaries + count(self.posted.len());
        let with_content = self.boundaries_with_content + count(posted_with_content);
        // What a body that is gone could have decided otherwise is not known. A fault that others show stays one.
        let known = |gone: bool, faults: u64| (!gone || faults > 0).then_some(faults);
        let no_step_gone = self.gone_steps == 0;
        let root_present = match (self.otlp, self.root, no_step_gone) {
            (true, false, false) => None,
            (otlp, root, _) => Some(!otlp || root),
        };
        let content = if no_step_gone && self.gone_activities.is_empty() {
            (boundaries > 0).then_some(with_content)
        } else {
            // What a posted activity lacks may be in a part of it that is gone.
            let step_without = self.boundaries > self.boundaries_with_content;
            let posted_without = self.gone_activities.is_empty() && posted_with_content < self.posted.len();
            (step_without || posted_without).then_some(with_content)
        };
        let counted = Counted {
            root_present,
            // The parent that is missing may be the step that is gone.
            orphan_parents: no_step_gone.then(|| count(orphans)),
            // Without a call to a tool on record nobody knows whether there was one.
            unpaired_tool_calls: (self.tools > 0)
                .then_some(self.tools_without_result)
                .and_then(|faults| known(!no_step_gone, faults)),
            dropped: self
                .dropped
                .and_then(|dropped| known(!no_step_gone || self.gone_environments > 0, dropped)),
            declared_steps: self.declared_steps,
            seen_steps: self.counts[STEPS],
            boundaries,
            boundaries_with_content: content,
            // A fault is one without steps, too.
            clock_faults: (self.counts[STEPS] > 0 || self.clock_faults > 0)
                .then_some(self.clock_faults)
                .and_then(|faults| known(!no_step_gone || self.gone_providers > 0, faults)),
            late: Some(u64::from(run.state.late_count)),
        };
        let mut gathered = self.gathered;
        gathered.counts = self.counts;
        gathered.terminal = run.state.settled;
        gathered.supersede_observed();
        (gathered, counted)
    }
}

/// When a run began, and by how much a time of its sender may lie before that.
struct Start {
    at: Timestamp,
    apart_micros: i64,
}

impl Start {
    /// A start that lies further before its record than clocks differ is its sender's, and a time before it too. Any other
    /// may be the server's, which stands where none is given, and lies a little before the record of a request that
    /// another overtook.
    const fn of(run: &RunRow) -> Self {
        let state = &run.state;
        let is_senders = is_ahead(state.created_at, state.started_at);
        Self {
            at: state.started_at,
            apart_micros: if is_senders { 0 } else { CLOCKS_APART_MICROS },
        }
    }

    /// Whether what is said to have happened then was before the run.
    const fn is_after(&self, said: Timestamp) -> bool {
        self.at.micros_since(said) > self.apart_micros
    }
}

/// Whether a run ended before it began.
fn ends_before_start(run: &RunRow) -> bool {
    run.state
        .completed_at
        .is_some_and(|end| Start::of(run).is_after(end))
}

/// Whether a run began, or ended, after what was recorded of it.
fn is_in_the_future(run: &RunRow) -> bool {
    let state = &run.state;
    is_ahead(state.started_at, state.created_at)
        || state
            .completed_at
            .is_some_and(|end| is_ahead(end, state.last_recorded_at))
}
