//! The first place where two traces differ, by what their root hashes cover.
//!
//! Steps are compared chunk by chunk, so two long runs that part early are two
//! short reads.

use axum::extract::State;
use axum::response::Response;
use evidence::canonical::{self, Value};
use evidence::hex_string;
use evidence::record::StepView;
use ledger::{Ledger, StepPlace};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::RunRow;
use utoipa::{IntoParams, ToSchema};

use crate::api::answer::{ReadProblems, ok, raw};
use crate::api::run_steps::{Run, RunParams, each_step};
use crate::{ApiError, App, Caller, Query};

/// Steps of each trace held at once.
const CHUNK: usize = 128;

/// The two traces, by trace_id or run_id.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DiffQuery {
    left: String,
    right: String,
}

/// Where two traces part.
#[derive(Serialize, ToSchema)]
struct TraceDiff<'a> {
    /// Null when they are equal.
    divergence: Option<Divergence>,
    equal: bool,
    left: Side<'a>,
    right: Side<'a>,
}

/// One of the two.
#[derive(Serialize, ToSchema)]
struct Side<'a> {
    plan_hash: &'a str,
    root_hash: Option<String>,
    run_id: &'a str,
    seed: i64,
    total_steps: usize,
    trace_id: &'a str,
}

/// The first difference.
#[derive(Debug, Serialize, ToSchema)]
struct Divergence {
    /// `plan_hash`, `seed`, `length`, one of the seven hashed fields of a step, or `erased`.
    field: &'static str,
    /// What the left trace has; null also for a step that it has not.
    #[schema(value_type = Option<Object>)]
    left: Box<RawValue>,
    /// Of a step: which, counted from 0 in order.
    position: Option<usize>,
    #[schema(value_type = Option<Object>)]
    right: Box<RawValue>,
    /// Of a step: its index (the left one's where they differ).
    step_index: Option<u32>,
}

/// A step's hashed fields as canonical JSON, kept while two chunks are compared: equal values are equal
/// bytes. `None`: erased.
type Hashed = Option<[Vec<u8>; 7]>;

const FIELDS: [&str; 7] = [
    "step_index",
    "skill_name",
    "params",
    "status",
    "outcome_category",
    "outcome_code",
    "outcome_data",
];

/// Compares two traces.
#[utoipa::path(
    get, path = "/api/v1/traces/diff", tag = "traces", operation_id = "trace_diff",
    params(DiffQuery), responses((status = 200, description = "The first divergence", body = TraceDiff), ReadProblems),
)]
pub(super) async fn diff(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<DiffQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| answer(ledger, &caller, &query)).await
}

fn answer(ledger: &Ledger, caller: &Caller, query: &DiffQuery) -> Result<Response, ApiError> {
    let open = |id: &str| Run::open(ledger, &caller.tenant, "diff", id, &RunParams::default());
    let (left, right) = (open(&query.left)?, open(&query.right)?);
    let steps = |run: &Run| -> Result<Vec<StepPlace>, ApiError> {
        let mut places = run.places(ledger, &caller.tenant)?;
        // A root hash does not cover what came late.
        places.retain(|place| !place.late);
        Ok(places)
    };
    let (left_steps, right_steps) = (steps(&left)?, steps(&right)?);
    let same_hash = left
        .row
        .state
        .root_hash
        .is_some_and(|hash| right.row.state.root_hash == Some(hash));
    let divergence = match of_runs(&left.row, &right.row)? {
        None if !same_hash => of_steps(ledger, caller, &left_steps, &right_steps)?,
        divergence => divergence,
    };
    caller.answered(left_steps.len() + right_steps.len());
    ok(&TraceDiff {
        equal: divergence.is_none(),
        divergence,
        left: side(&left.row, left_steps.len()),
        right: side(&right.row, right_steps.len()),
    })
}

fn side(row: &RunRow, total_steps: usize) -> Side<'_> {
    let state = &row.state;
    Side {
        plan_hash: &state.plan_hash,
        root_hash: state.root_hash.as_ref().map(hex_string),
        run_id: &state.run_id,
        seed: state.seed,
        total_steps,
        trace_id: &state.trace_id,
    }
}

fn of_runs(left: &RunRow, right: &RunRow) -> Result<Option<Divergence>, ApiError> {
    let (left, right) = (&left.state, &right.state);
    if left.plan_hash != right.plan_hash {
        return divergence("plan_hash", text(&left.plan_hash), text(&right.plan_hash), None).map(Some);
    }
    if left.seed != right.seed {
        return divergence(
            "seed",
            json(Value::Int(left.seed)),
            json(Value::Int(right.seed)),
            None,
        )
        .map(Some);
    }
    Ok(None)
}

/// Of a step, `at` says which: its position and index.
fn divergence(
    field: &'static str,
    left: Vec<u8>,
    right: Vec<u8>,
    at: Option<(usize, u32)>,
) -> Result<Divergence, ApiError> {
    let (position, step_index) = at.unzip();
    Ok(Divergence {
        field,
        left: raw(left)?,
        position,
        right: raw(right)?,
        step_index,
    })
}

fn of_steps(
    ledger: &Ledger,
    caller: &Caller,
    left: &[StepPlace],
    right: &[StepPlace],
) -> Result<Option<Divergence>, ApiError> {
    for (chunk, (lefts, rights)) in left.chunks(CHUNK).zip(right.chunks(CHUNK)).enumerate() {
        let pairs = hashed(ledger, caller, lefts)?
            .into_iter()
            .zip(hashed(ledger, caller, rights)?);
        for (offset, pair) in pairs.enumerate() {
            let at = Some((chunk * CHUNK + offset, lefts[offset].step_index));
            let (Some(one), Some(other)) = pair else {
                return divergence("erased", json(Value::Null), json(Value::Null), at).map(Some);
            };
            for ((field, left), right) in FIELDS.into_iter().zip(one).zip(other) {
                if left != right {
                    return divergence(field, left, right, at).map(Some);
                }
            }
        }
    }
    if left.len() == right.len() {
        return Ok(None);
    }
    let position = left.len().min(right.len());
    let next = left.get(position).or_else(|| right.get(position));
    let at = next.map(|place| (position, place.step_index));
    divergence("length", count(left.len()), count(right.len()), at).map(Some)
}

fn hashed(ledger: &Ledger, caller: &Caller, places: &[StepPlace]) -> Result<Vec<Hashed>, ApiError> {
    let mut all = Vec::with_capacity(places.len());
    each_step(ledger, &caller.tenant, places, |step| {
        all.push(step.view.as_ref().map(|view| fields(step.place.step_index, view)));
        Ok(true)
    })?;
    Ok(all)
}

fn fields(step_index: u32, view: &StepView<'_>) -> [Vec<u8>; 7] {
    let step = &view.step;
    let stored = |raw: &RawValue| raw.get().as_bytes().to_vec();
    let null = || json(Value::Null);
    [
        json(Value::Int(i64::from(step_index))),
        text(&step.skill_name),
        stored(step.params),
        text(step.status.as_str()),
        text(&step.outcome_category),
        step.outcome_code.as_deref().map_or_else(null, text),
        step.outcome_data.map_or_else(null, stored),
    ]
}

#[allow(clippy::needless_pass_by_value)] // made for it
fn json(value: Value) -> Vec<u8> {
    canonical::to_vec(&value)
}

fn text(text: &str) -> Vec<u8> {
    json(Value::String(text.to_owned()))
}

fn count(count: usize) -> Vec<u8> {
    json(Value::Int(i64::try_from(count).unwrap_or(i64::MAX)))
}
