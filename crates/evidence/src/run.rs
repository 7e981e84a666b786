//! What the records of a run add up to.
//!
//! [`RunState::apply`] folds one record after another, in ledger order, into the
//! state that lists and envelopes show. The sequencer, `ledger rebuild` and
//! verification all fold with this function, so a projected column can only
//! disagree with its records when somebody changed one of them.
//!
//! Out of scope: refusing records (the sequencer does, before it folds), and
//! what is read from bodies when a run is shown.
//!
//! Source: SPEC 4.1–4.3, 2.5.

use crate::Kind;
use crate::cost::NanoCents;
use crate::header::words;
use crate::record::{
    ErasedFacts, Facts, RunCompletedFacts, RunStartedFacts, StepFacts, StepStatus, TraceEndedFacts,
};
use crate::time::Timestamp;

words! {
    /// The state of a trace: running, then one of the others, for ever.
    TraceStatus {
        Running = "running", Completed = "completed", Failed = "failed", Aborted = "aborted",
        /// It ended; how is erased.
        Ended = "ended",
    }
}

words! {
    /// The state of a run as the Logs API shows it.
    ExecutionStatus {
        Running = "RUNNING", Succeeded = "SUCCEEDED", Failed = "FAILED", Aborted = "ABORTED", Timeout = "TIMEOUT",
        /// It ended; how is erased.
        Ended = "ENDED",
    }
}

/// What the records of a run add up to.
#[derive(Clone, Debug, PartialEq)]
pub struct RunState {
    /// The run.
    pub run_id: String,
    /// Its (first) trace.
    pub trace_id: String,
    /// Given, else that of the first record that has one, else the run id.
    pub correlation_id: Option<String>,
    /// Given, else that of the first step that names one.
    pub agent_id: Option<String>,
    /// The run it belongs to.
    pub parent_run_id: Option<String>,
    /// API, SDK, SYSTEM, SYNTHETIC, WORKER.
    pub source: String,
    /// Made up.
    pub is_synthetic: bool,
    /// SPEC 4.2.
    pub seed: i64,
    /// SPEC 4.2.
    pub plan_hash: String,
    /// Made from spans.
    pub otlp: bool,
    /// Given; for spans the earliest start.
    pub started_at: Timestamp,
    /// recorded_at of the run.started.
    pub created_at: Timestamp,
    /// running, completed, failed, aborted.
    pub status: TraceStatus,
    /// The same as the Logs API names it, TIMEOUT told apart.
    pub execution_status: ExecutionStatus,
    /// When it ended, by the sender's clock.
    pub completed_at: Option<Timestamp>,
    /// As completed, else the first inference step's.
    pub provider: Option<String>,
    /// As completed, else the first inference step's.
    pub model: Option<String>,
    /// As completed, else the sum over inference steps.
    pub input_tokens: i64,
    /// As completed, else the sum over inference steps.
    pub output_tokens: i64,
    /// As completed, else the sum over the steps that count.
    pub cost: NanoCents,
    /// Steps, late ones left out.
    pub total_steps: u32,
    /// Of them, success.
    pub success_count: u32,
    /// Of them, failure.
    pub failure_count: u32,
    /// Sum of the steps' durations; for spans that of the root.
    pub duration_micros: i64,
    /// SPEC 4.2; recorded with the end of the trace.
    pub root_hash: Option<[u8; 32]>,
    /// Spans that came after the end of the trace was recorded.
    pub late_count: u32,
    /// Records of the run, late ones included: the next run_seq.
    pub record_count: u64,
    /// recorded_at of the newest record.
    pub last_recorded_at: Timestamp,
    /// Start of the first inference step: what `provider` and `model` stem from until a caller says.
    pub first_inference_at: Option<Timestamp>,
    /// Whether a caller gave tokens or provider; then steps no longer change them.
    pub declared: Declared,
    /// The trace's end is recorded.
    pub settled: bool,
}

/// Which totals a caller gave with the end of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declared(u8);

impl Declared {
    const PROVIDER: u8 = 1;
    const MODEL: u8 = 2;
    const INPUT: u8 = 4;
    const OUTPUT: u8 = 8;
    const COST: u8 = 16;

    /// From the stored number.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The number to store.
    pub const fn bits(self) -> u8 {
        self.0
    }

    const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

impl RunState {
    /// The state after the run's first record.
    pub fn start(facts: &RunStartedFacts, recorded_at: Timestamp) -> Self {
        Self {
            run_id: facts.run_id.clone(),
            trace_id: facts.trace_id.clone(),
            correlation_id: facts.correlation_id.clone(),
            agent_id: facts.agent_id.clone(),
            parent_run_id: facts.parent_run_id.clone(),
            source: facts.source.clone(),
            is_synthetic: facts.is_synthetic,
            seed: facts.seed,
            plan_hash: facts.plan_hash.clone(),
            otlp: facts.otlp,
            started_at: facts.started_at,
            created_at: recorded_at,
            status: TraceStatus::Running,
            execution_status: ExecutionStatus::Running,
            completed_at: None,
            provider: None,
            model: None,
            input_tokens: 0,
            output_tokens: 0,
            cost: NanoCents::default(),
            total_steps: 0,
            success_count: 0,
            failure_count: 0,
            duration_micros: 0,
            root_hash: None,
            late_count: 0,
            record_count: 1,
            last_recorded_at: recorded_at,
            first_inference_at: None,
            declared: Declared::default(),
            settled: false,
        }
    }

    /// Folds the next record of the run.
    pub fn apply(&mut self, facts: &Facts, correlation_id: Option<&str>, recorded_at: Timestamp) {
        self.record_count += 1;
        self.last_recorded_at = self.last_recorded_at.max(recorded_at);
        if self.settled {
            // What the end of the trace said stays; what follows is only counted.
            self.late_count = self.late_count.saturating_add(u32::from(facts.is_step()));
            return;
        }
        if self.correlation_id.is_none() {
            self.correlation_id = correlation_id.map(str::to_owned);
        }
        match facts {
            Facts::Step(step) => self.apply_step(step),
            Facts::RunCompleted(end) => self.apply_run_completed(end),
            Facts::TraceEnded(end) => self.apply_trace_ended(end, recorded_at),
            Facts::Erased(erased) => self.apply_erased(erased),
            // What is of no run adds nothing to one.
            _ => {}
        }
    }

    fn apply_step(&mut self, step: &StepFacts) {
        self.total_steps = self.total_steps.saturating_add(1);
        match step.status {
            StepStatus::Success => self.success_count = self.success_count.saturating_add(1),
            StepStatus::Failure => self.failure_count = self.failure_count.saturating_add(1),
            StepStatus::Retry | StepStatus::Skipped => {}
        }
        if self.agent_id.is_none() {
            self.agent_id.clone_from(&step.agent);
        }
        // A REST step's cost counts whatever it did; of spans only inference counts, for agent
        // spans repeat the sums of their children.
        if (step.inference || step.span.is_none()) && !self.declared.has(Declared::COST) {
            self.cost = self.cost.plus(step.cost);
        }
        if step.inference {
            self.apply_inference(step);
        }
        if step.span.is_none() {
            self.duration_micros = self.duration_micros.saturating_add(step.duration_micros);
        } else if self.otlp {
            self.started_at = self.started_at.min(step.started_at);
        }
        if step.root {
            self.duration_micros = self.duration_micros.saturating_add(step.duration_micros);
            if let Some(at) = step.ended_at.filter(|_| self.otlp) {
                self.apply_root_end(step.status == StepStatus::Failure, at);
            }
        }
    }

    /// Of several roots the one that ends last says how the run ended, of those that end together one that failed: so
    /// it does not matter in which order they came.
    fn apply_root_end(&mut self, failed: bool, at: Timestamp) {
        let decides = match self.status {
            TraceStatus::Running => true,
            // The root whose end is erased may have ended later.
            TraceStatus::Ended => false,
            _ => self
                .completed_at
                .is_none_or(|before| at > before || (at == before && failed)),
        };
        if decides {
            let status = if failed {
                TraceStatus::Failed
            } else {
                TraceStatus::Completed
            };
            self.end(status, Some(at));
        }
    }

    fn apply_inference(&mut self, step: &StepFacts) {
        if !self.declared.has(Declared::INPUT) {
            self.input_tokens = self.input_tokens.saturating_add(step.input_tokens.unwrap_or(0));
        }
        if !self.declared.has(Declared::OUTPUT) {
            self.output_tokens = self.output_tokens.saturating_add(step.output_tokens.unwrap_or(0));
        }
        if self
            .first_inference_at
            .is_none_or(|first| step.started_at < first)
        {
            self.first_inference_at = Some(step.started_at);
            if !self.declared.has(Declared::PROVIDER) {
                self.provider.clone_from(&step.provider);
            }
            if !self.declared.has(Declared::MODEL) {
                self.model.clone_from(&step.model);
            }
        }
    }

    fn apply_run_completed(&mut self, end: &RunCompletedFacts) {
        let mut bits = 0;
        if let Some(provider) = &end.provider {
            (self.provider, bits) = (Some(provider.clone()), bits | Declared::PROVIDER);
        }
        if let Some(model) = &end.model {
            (self.model, bits) = (Some(model.clone()), bits | Declared::MODEL);
        }
        if let Some(tokens) = end.input_tokens {
            (self.input_tokens, bits) = (tokens, bits | Declared::INPUT);
        }
        if let Some(tokens) = end.output_tokens {
            (self.output_tokens, bits) = (tokens, bits | Declared::OUTPUT);
        }
        if let Some(cost) = end.cost {
            (self.cost, bits) = (cost, bits | Declared::COST);
        }
        self.declared = Declared(bits);
        if self.status == TraceStatus::Running {
            self.end(
                if end.failed {
                    TraceStatus::Failed
                } else {
                    TraceStatus::Completed
                },
                end.completed_at,
            );
            if end.termination_reason.as_deref() == Some("timeout") {
                self.execution_status = ExecutionStatus::Timeout;
            }
        }
    }

    fn apply_trace_ended(&mut self, end: &TraceEndedFacts, recorded_at: Timestamp) {
        let decides = match self.status {
            TraceStatus::Running => true,
            // The record that said how it ended is erased; this one may still say it.
            TraceStatus::Ended => end.status.is_some(),
            // Builds weighed several roots differently: what was recorded when the run was settled stays so.
            status => self.otlp && end.status.is_some_and(|said| said != status),
        };
        if decides {
            // The server settles a run of spans after its end, so when that was is not known.
            let at = self
                .completed_at
                .or_else(|| (end.aborted || !self.otlp).then_some(recorded_at));
            self.end(end.status.unwrap_or(TraceStatus::Ended), at);
        }
        self.root_hash = end.root_hash;
        self.settled = true;
    }

    fn end(&mut self, status: TraceStatus, at: Option<Timestamp>) {
        self.status = status;
        self.completed_at = at;
        self.execution_status = match status {
            TraceStatus::Running => ExecutionStatus::Running,
            TraceStatus::Completed => ExecutionStatus::Succeeded,
            TraceStatus::Failed => ExecutionStatus::Failed,
            TraceStatus::Aborted => ExecutionStatus::Aborted,
            TraceStatus::Ended => ExecutionStatus::Ended,
        };
    }

    /// Of what is erased only the header is left: that there was a step, that the run ended and when. When a span ended
    /// stood in its body.
    fn apply_erased(&mut self, erased: &ErasedFacts) {
        match erased.kind {
            Kind::TraceStep => {
                self.total_steps = self.total_steps.saturating_add(1);
                if self.otlp {
                    self.started_at = self.started_at.min(erased.occurred_at);
                    if erased.root_ended {
                        self.end(TraceStatus::Ended, None);
                    }
                }
            }
            Kind::RunCompleted if self.status == TraceStatus::Running => {
                self.end(TraceStatus::Ended, Some(erased.occurred_at));
            }
            _ => {}
        }
    }

    /// Whether the trace has ended: no REST step may follow; a span may until, and late after, the end is recorded.
    pub fn ended(&self) -> bool {
        self.status != TraceStatus::Running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros).unwrap()
    }

    fn run(otlp: bool) -> RunState {
        let facts = RunStartedFacts {
            run_id: "r".into(),
            trace_id: "t".into(),
            correlation_id: None,
            agent_id: None,
            parent_run_id: None,
            source: "SDK".into(),
            is_synthetic: false,
            seed: 42,
            plan_hash: String::new(),
            started_at: at(50),
            otlp,
        };
        RunState::start(&facts, at(100))
    }

    fn span(start: i64, root: bool, inference: bool) -> StepFacts {
        StepFacts {
            step_index: None,
            span: Some(([1; 16], [2; 8])),
            root,
            status: StepStatus::Success,
            started_at: at(start),
            ended_at: Some(at(start + 10)),
            duration_micros: 10,
            cost: NanoCents::new(5),
            inference,
            provider: inference.then(|| format!("p{start}")),
            model: inference.then(|| "m".into()),
            input_tokens: inference.then_some(3),
            output_tokens: inference.then_some(2),
            agent: None,
            idempotency_key: None,
        }
    }

    #[test]
    fn only_inference_spans_count_and_the_earliest_names_the_provider() {
        let mut run = run(true);
        for step in [
            span(40, false, true),
            span(20, false, true),
            span(30, false, false),
        ] {
            run.apply(&Facts::Step(step), None, at(200));
        }
        assert_eq!((run.input_tokens, run.output_tokens, run.cost.get()), (6, 4, 10));
        assert_eq!(run.provider.as_deref(), Some("p20"));
        assert_eq!(run.started_at, at(20));
        assert_eq!((run.total_steps, run.record_count), (3, 4));
    }

    #[test]
    fn the_root_spans_end_completes_a_run_of_spans_and_no_other() {
        let mut spans = run(true);
        spans.apply(&Facts::Step(span(10, true, false)), None, at(200));
        assert_eq!(
            (spans.status, spans.completed_at),
            (TraceStatus::Completed, Some(at(20)))
        );
        let mut rest = run(false);
        rest.apply(&Facts::Step(span(10, true, false)), None, at(200));
        assert_eq!(rest.status, TraceStatus::Running);
    }

    fn root(end: i64, status: StepStatus) -> Facts {
        Facts::Step(StepFacts {
            status,
            ended_at: Some(at(end)),
            ..span(10, true, false)
        })
    }

    fn erased_root(root_ended: bool) -> Facts {
        Facts::Erased(ErasedFacts {
            kind: Kind::TraceStep,
            occurred_at: at(10),
            root_ended,
            step_index: None,
            incident: None,
            identity: None,
        })
    }

    fn settled(status: Option<TraceStatus>) -> Facts {
        Facts::TraceEnded(TraceEndedFacts {
            aborted: false,
            status,
            reason: None,
            root_hash: None,
        })
    }

    #[test]
    fn of_several_roots_the_last_end_decides_whatever_came_first() {
        use StepStatus::{Failure, Success};
        for (roots, status, end) in [
            ([(20, Success), (30, Failure)], TraceStatus::Failed, 30),
            ([(20, Failure), (30, Success)], TraceStatus::Completed, 30),
            ([(20, Success), (20, Failure)], TraceStatus::Failed, 20),
        ] {
            let [first, second] = roots.map(|(end, status)| root(end, status));
            for order in [[&first, &second], [&second, &first]] {
                let mut run = run(true);
                for facts in order {
                    run.apply(facts, None, at(200));
                }
                assert_eq!(
                    (run.status, run.completed_at),
                    (status, Some(at(end))),
                    "{roots:?}"
                );
                // What is settled stays so.
                run.apply(&settled(Some(status)), None, at(300));
                run.apply(&root(90, Failure), None, at(400));
                assert_eq!(
                    (run.status, run.completed_at),
                    (status, Some(at(end))),
                    "{roots:?}"
                );
            }
        }
    }

    #[test]
    fn what_the_end_of_a_run_of_spans_says_wins_over_its_roots() {
        let roots = [root(20, StepStatus::Success), root(30, StepStatus::Failure)];
        // As a build that let the first root decide has recorded it; then nothing, as it is erased.
        for (said, status, execution) in [
            (
                Some(TraceStatus::Completed),
                TraceStatus::Completed,
                ExecutionStatus::Succeeded,
            ),
            (None, TraceStatus::Failed, ExecutionStatus::Failed),
        ] {
            let mut run = run(true);
            for facts in &roots {
                run.apply(facts, None, at(200));
            }
            run.apply(&settled(said), None, at(300));
            assert_eq!(
                (run.status, run.execution_status, run.completed_at),
                (status, execution, Some(at(30)))
            );
        }
    }

    #[test]
    fn a_run_whose_root_is_erased_has_ended_and_nobody_knows_how_nor_when() {
        let known = root(30, StepStatus::Success);
        for order in [
            vec![erased_root(true)],
            vec![erased_root(true), known.clone()],
            vec![known, erased_root(true)],
        ] {
            let mut run = run(true);
            for facts in &order {
                run.apply(facts, None, at(200));
            }
            assert_eq!((run.status, run.completed_at), (TraceStatus::Ended, None));
            run.apply(&settled(None), None, at(300));
            assert_eq!((run.status, run.completed_at), (TraceStatus::Ended, None));
        }
        // The end of the trace may still say how.
        for erased in [erased_root(true), erased_root(false)] {
            let mut run = run(true);
            run.apply(&erased, None, at(200));
            run.apply(&settled(Some(TraceStatus::Failed)), None, at(300));
            assert_eq!((run.status, run.completed_at), (TraceStatus::Failed, None));
        }
        let mut rest = run(false);
        rest.apply(&erased_root(true), None, at(200));
        assert_eq!(rest.status, TraceStatus::Running, "no span ends a run of REST");
    }

    #[test]
    fn after_the_recorded_end_steps_are_late_and_totals_stay() {
        let mut run = run(true);
        run.apply(&Facts::Step(span(10, true, true)), None, at(200));
        let end = TraceEndedFacts {
            aborted: false,
            status: Some(TraceStatus::Completed),
            reason: None,
            root_hash: Some([7; 32]),
        };
        run.apply(&Facts::TraceEnded(end), None, at(300));
        run.apply(&Facts::Step(span(11, false, true)), None, at(400));
        assert_eq!((run.total_steps, run.late_count, run.input_tokens), (1, 1, 3));
        assert_eq!(
            (run.root_hash, run.settled, run.record_count),
            (Some([7; 32]), true, 4)
        );
    }

    #[test]
    fn a_terminal_state_stays_and_declared_totals_win() {
        let mut run = run(false);
        let end = RunCompletedFacts {
            failed: true,
            provider: Some("given".into()),
            model: None,
            input_tokens: Some(9),
            output_tokens: None,
            cost: None,
            termination_reason: Some("timeout".into()),
            completed_at: Some(at(500)),
        };
        run.apply(&Facts::RunCompleted(end), None, at(300));
        assert_eq!(run.execution_status, ExecutionStatus::Timeout);
        let abort = TraceEndedFacts {
            aborted: true,
            status: Some(TraceStatus::Aborted),
            reason: None,
            root_hash: Some([1; 32]),
        };
        run.apply(&Facts::TraceEnded(abort), None, at(400));
        assert_eq!(
            (run.status, run.provider.as_deref(), run.input_tokens),
            (TraceStatus::Failed, Some("given"), 9)
        );
    }
}
