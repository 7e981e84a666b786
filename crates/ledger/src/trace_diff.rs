//! The first place where two traces differ, by what their root hashes cover.
//!
//! Steps are compared chunk by chunk, so two long runs that part early are two
//! short reads.

use evidence::canonical::{self, Value};
use evidence::record::StepView;
use serde_json::value::RawValue;
use store::{Gone, RunRow, Store};

use crate::steps::for_each_step;
use crate::{Body, RecordError, StepPlace, step_places};

/// Steps of each trace held at once.
const CHUNK: usize = 128;

/// Where two traces part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceDiff {
    /// `None`: as far as they go, they are equal.
    pub divergence: Option<Divergence>,
    /// Whether they are equal; `None`: a root hash is missing, and so is the step that would tell, be it gone or yet to
    /// come. What differs where both have a step stays so.
    pub equal: Option<bool>,
    /// Steps of the left trace that its root hash covers.
    pub left_steps: usize,
    /// The same of the right one.
    pub right_steps: usize,
}

/// The first difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// `plan_hash`, `seed`, `length`, one of the seven hashed fields of a step; or `erased`, `archived`,
    /// `missing`: a step, or without one what a run began with, says nothing any more, and nothing behind it was
    /// compared.
    pub field: &'static str,
    /// What the left trace has, canonical JSON; null also for a step that it has not.
    pub left: Vec<u8>,
    /// What the right one has.
    pub right: Vec<u8>,
    /// Of a step: which, counted from 0 in order, and its index (the left one's where they differ).
    pub step: Option<(usize, u32)>,
}

impl Divergence {
    /// Whether something says nothing any more, which leaves open what it said.
    fn is_gone(&self) -> bool {
        [Gone::Archived, Gone::Erased, Gone::Missing]
            .iter()
            .any(|gone| gone.as_str() == self.field)
    }
}

/// A step's hashed fields as canonical JSON, kept while two chunks are compared: equal values are equal
/// bytes.
type Hashed = Body<[Vec<u8>; 7]>;

/// What differs where one trace has no more steps.
const LENGTH: &str = "length";

const FIELDS: [&str; 7] = [
    "step_index",
    "skill_name",
    "params",
    "status",
    "outcome_category",
    "outcome_code",
    "outcome_data",
];

/// Compares the traces of two runs. Blocks.
///
/// # Errors
/// They cannot be read.
pub fn trace_diff(store: &dyn Store, left: &RunRow, right: &RunRow) -> Result<TraceDiff, RecordError> {
    let steps = |run: &RunRow| -> Result<Vec<StepPlace>, RecordError> {
        let mut places = step_places(store, run)?;
        // A root hash does not cover what came late.
        places.retain(|place| !place.late);
        Ok(places)
    };
    let (left_steps, right_steps) = (steps(left)?, steps(right)?);
    let same_hash = left
        .state
        .root_hash
        .is_some_and(|hash| right.state.root_hash == Some(hash));
    let divergence = if same_hash {
        None
    } else {
        match of_runs(left, right) {
            None => of_steps(store, &left_steps, &right_steps)?,
            divergence => divergence,
        }
    };
    let ended = |run: &RunRow| run.state.root_hash.is_some();
    let is_told = match &divergence {
        // The shorter one may catch up.
        Some(at) if at.field == LENGTH && left_steps.len() < right_steps.len() => ended(left),
        Some(at) if at.field == LENGTH => ended(right),
        Some(at) if !at.is_gone() => true,
        _ => ended(left) && ended(right),
    };
    let equal = is_told.then_some(divergence.is_none());
    Ok(TraceDiff {
        divergence,
        equal,
        left_steps: left_steps.len(),
        right_steps: right_steps.len(),
    })
}

/// Seed and hash of the plan that a run began with; `None`: erased. An archived run keeps them.
pub fn began_with(run: &RunRow) -> Option<(i64, &str)> {
    let state = &run.state;
    // Of no plan can the hash be empty.
    (!state.plan_hash.is_empty()).then_some((state.seed, state.plan_hash.as_str()))
}

fn of_runs(left: &RunRow, right: &RunRow) -> Option<Divergence> {
    let differs = |field, left, right| {
        Some(Divergence {
            field,
            left,
            right,
            step: None,
        })
    };
    let (Some((left_seed, left_plan)), Some((right_seed, right_plan))) =
        (began_with(left), began_with(right))
    else {
        return differs(Gone::Erased.as_str(), json(Value::Null), json(Value::Null));
    };
    if left_plan != right_plan {
        return differs("plan_hash", text(left_plan), text(right_plan));
    }
    if left_seed != right_seed {
        return differs("seed", json(Value::Int(left_seed)), json(Value::Int(right_seed)));
    }
    None
}

fn of_steps(
    store: &dyn Store,
    left: &[StepPlace],
    right: &[StepPlace],
) -> Result<Option<Divergence>, RecordError> {
    let differs = |field, left, right, step| {
        Ok(Some(Divergence {
            field,
            left,
            right,
            step,
        }))
    };
    for (chunk, (lefts, rights)) in left.chunks(CHUNK).zip(right.chunks(CHUNK)).enumerate() {
        let pairs = hashed(store, lefts)?.into_iter().zip(hashed(store, rights)?);
        for (offset, pair) in pairs.enumerate() {
            let at = Some((chunk * CHUNK + offset, lefts[offset].step_index));
            let (one, other) = match pair {
                (Body::There(one), Body::There(other)) => (one, other),
                (Body::Gone(gone), _) | (_, Body::Gone(gone)) => {
                    return differs(gone.as_str(), json(Value::Null), json(Value::Null), at);
                }
            };
            for ((field, left), right) in FIELDS.into_iter().zip(one).zip(other) {
                if left != right {
                    return differs(field, left, right, at);
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
    differs(LENGTH, count(left.len()), count(right.len()), at)
}

fn hashed(store: &dyn Store, places: &[StepPlace]) -> Result<Vec<Hashed>, RecordError> {
    let mut all = Vec::with_capacity(places.len());
    for_each_step(store, places, |place, body| {
        all.push(match body {
            Body::There(body) => {
                let view = StepView::read(body).map_err(|error| RecordError::Body {
                    leaf: place.leaf.leaf_index(),
                    reason: error.to_string(),
                })?;
                Body::There(fields(place.step_index, &view))
            }
            Body::Gone(gone) => Body::Gone(gone),
        });
        Ok(())
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
