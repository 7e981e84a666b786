//! A step as a trace shows it.

use evidence::Timestamp;
use evidence::record::StepView;
use ledger::StepPlace;
use serde::Serialize;
use serde_json::value::RawValue;
use store::Gone;
use utoipa::ToSchema;

use crate::api::answer::Number;

/// A step of a trace.
#[derive(Serialize, ToSchema)]
pub(super) struct TraceStepOut<'a> {
    /// The body is in an archive: here only the place is left.
    archived: bool,
    #[schema(value_type = f64)]
    cost_cents: Number,
    #[schema(value_type = f64)]
    duration_ms: Number,
    /// The body is erased: only the place is left.
    erased: bool,
    idempotency_key: Option<&'a str>,
    input_hash: Option<&'a str>,
    late: bool,
    leaf_index: u64,
    level: &'static str,
    outcome_category: &'a str,
    outcome_code: Option<&'a str>,
    #[schema(value_type = Option<Object>)]
    outcome_data: Option<&'a RawValue>,
    output_hash: Option<&'a str>,
    #[schema(value_type = Option<Object>)]
    params: Option<&'a RawValue>,
    record_id: String,
    replay_behavior: Option<&'a str>,
    retry_count: u32,
    #[schema(value_type = Option<Object>)]
    rng_state_before: Option<&'a RawValue>,
    skill_id: Option<&'a str>,
    skill_name: &'a str,
    source: &'a str,
    status: &'static str,
    step_index: u32,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    #[schema(value_type = Option<Object>)]
    tokens: Option<&'a RawValue>,
}

/// The step at that place. Where a body is gone, a word says how.
pub(super) fn shown<'a>(
    place: &StepPlace,
    record_id: String,
    view: Result<&'a StepView<'a>, Gone>,
) -> TraceStepOut<'a> {
    let gone = view.err();
    let word = gone.map_or("", Gone::as_str);
    let mut out = TraceStepOut {
        archived: gone == Some(Gone::Archived),
        cost_cents: Number(0.0),
        duration_ms: Number(0.0),
        erased: gone == Some(Gone::Erased),
        idempotency_key: None,
        input_hash: None,
        late: place.late,
        leaf_index: place.leaf.leaf_index(),
        level: word,
        outcome_category: word,
        outcome_code: None,
        outcome_data: None,
        output_hash: None,
        params: None,
        record_id,
        replay_behavior: None,
        retry_count: 0,
        rng_state_before: None,
        skill_id: None,
        skill_name: word,
        source: word,
        status: word,
        step_index: place.step_index,
        timestamp: place.occurred_at,
        tokens: None,
    };
    if let Ok(StepView { step, .. }) = view {
        out.cost_cents = Number(step.cost_cents);
        out.duration_ms = Number(step.duration_ms);
        out.idempotency_key = step.idempotency_key.as_deref();
        out.input_hash = step.input_hash.as_deref();
        out.level = step.status.level();
        out.outcome_category = &step.outcome_category;
        out.outcome_code = step.outcome_code.as_deref();
        out.outcome_data = step.outcome_data;
        out.output_hash = step.output_hash.as_deref();
        out.params = Some(step.params);
        out.replay_behavior = step.replay_behavior.as_deref();
        out.retry_count = step.retry_count;
        out.rng_state_before = step.rng_state_before;
        out.skill_id = step.skill_id.as_deref();
        out.skill_name = &step.skill_name;
        out.source = &step.source;
        out.status = step.status.as_str();
        out.tokens = step.tokens;
    }
    out
}
