//! The steps of a run in order, and the hash over them.
//!
//! REST steps stand in the order of their index. Spans stand in the order of
//! start time, then span id, numbered after them. Late spans come last: order and
//! hash of the others stay as they were when the trace ended.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use evidence::record::{ErasedRecord, Facts, StepView, root_hash, step_hash};
use evidence::{Kind, RecordId, RunState, Timestamp};
use serde::Deserialize;
use store::{Gone, LeafKey, RunRow, Store};

use crate::erase::erasure_in;
use crate::verify::Erasures;
use crate::{Body, RecordError, records};

/// Rows of a run read at once.
const ROWS_READ: u32 = 10_000;

/// Most steps of one run that are put in order: 40 bytes each, 40 MB.
pub const RUN_STEPS_MAX: usize = 1_000_000;

/// What is wrong where the rows of a run name a record that says otherwise of itself.
const MISPLACED: &str = "it is not of the record that the run has at that place";

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepPlace {
    /// Given, or assigned by order.
    pub step_index: u32,
    /// Its leaf.
    pub leaf: LeafKey,
    /// Its place in the run.
    pub run_seq: u64,
    /// When it began.
    pub occurred_at: Timestamp,
    /// It came after the trace's end was recorded.
    pub late: bool,
}

/// The steps of a run, in order. At most [`RUN_STEPS_MAX`]; more is an error, not a cut.
///
/// # Errors
/// The run's rows cannot be read, or one of them is not there: it might be a step's.
pub fn step_places(store: &dyn Store, run: &RunRow) -> Result<Vec<StepPlace>, RecordError> {
    step_places_at(store, run, None)
}

/// The same of the steps before a leaf: in the order, and under the indexes, that they had then.
pub fn step_places_at(
    store: &dyn Store,
    run: &RunRow,
    before: Option<LeafKey>,
) -> Result<Vec<StepPlace>, RecordError> {
    struct Row {
        given: Option<u32>,
        place: StepPlace,
    }
    let mut rows: Vec<Row> = Vec::new();
    let (mut from, mut ended) = (0, false);
    // Records of a run are numbered without a gap: a row that was taken away would hide what it names from who reads, and
    // from the hash over the steps.
    let mut seen_up_to = 0;
    let hidden = |run_seq: u64| RecordError::Body {
        leaf: run.started_leaf.leaf_index(),
        reason: format!("the run that it begins has a record {run_seq}, and no row names it"),
    };
    loop {
        let page = store.run_records(run.key, from, ROWS_READ)?;
        let Some(last) = page.last() else { break };
        from = last.run_seq + 1;
        let beyond = before.is_some_and(|before| last.leaf >= before);
        let whole = page.len() < ROWS_READ as usize || beyond;
        // Records of a run are in ledger order.
        let seen = page
            .into_iter()
            .take_while(|row| before.is_none_or(|before| row.leaf < before));
        for row in seen {
            if row.run_seq != seen_up_to {
                return Err(hidden(seen_up_to));
            }
            seen_up_to += 1;
            ended |= matches!(row.kind, Kind::TraceCompleted | Kind::TraceAborted);
            if row.kind == Kind::TraceStep {
                let place = StepPlace {
                    step_index: row.step_index.unwrap_or(0),
                    leaf: row.leaf,
                    run_seq: row.run_seq,
                    occurred_at: row.occurred_at,
                    late: ended,
                };
                rows.push(Row {
                    given: row.step_index,
                    place,
                });
            }
        }
        if rows.len() > RUN_STEPS_MAX {
            let reason = format!("the run has more than {RUN_STEPS_MAX} steps");
            return Err(RecordError::Body {
                leaf: run.started_leaf.leaf_index(),
                reason,
            });
        }
        // Not by asking once more: a damaged row with the largest run_seq of all would be found for ever.
        if whole {
            break;
        }
    }
    if before.is_none() && seen_up_to < run.state.record_count {
        return Err(hidden(seen_up_to));
    }
    rows.sort_by_key(|row| {
        let place = row.place;
        // Given indexes first, in their order; then by time.
        (
            place.late,
            row.given.is_none(),
            row.given,
            place.occurred_at,
            place.run_seq,
        )
    });
    let mut first = 0;
    while first < rows.len() {
        let key = |row: &Row| (row.place.late, row.given.is_some(), row.place.occurred_at);
        let ties = rows[first..]
            .iter()
            .take_while(|row| key(row) == key(&rows[first]))
            .count();
        if ties > 1 && rows[first].given.is_none() {
            let leaves: Vec<LeafKey> = rows[first..first + ties]
                .iter()
                .map(|row| row.place.leaf)
                .collect();
            let ids = span_ids(store, run.key.tenant_no(), &leaves)?;
            rows[first..first + ties].sort_by_key(|row| ids.get(&row.place.leaf).copied());
        }
        first += ties;
    }
    let mut next = 0;
    Ok(rows
        .into_iter()
        .map(|row| {
            let step_index = row.given.unwrap_or(next);
            next = next.max(step_index.saturating_add(1));
            StepPlace {
                step_index,
                ..row.place
            }
        })
        .collect())
}

/// Calls `each` with every step and its body, in order, holding few bodies at once.
pub(crate) fn for_each_step(
    store: &dyn Store,
    places: &[StepPlace],
    mut each: impl FnMut(&StepPlace, Body<&[u8]>) -> Result<(), RecordError>,
) -> Result<(), RecordError> {
    let leaves: Vec<LeafKey> = places.iter().map(|place| place.leaf).collect();
    let mut rest = places.iter();
    records::each(store, &leaves, |record| {
        let Some(place) = rest.next() else {
            return Ok(ControlFlow::Break(()));
        };
        each(place, record.body.as_deref())?;
        Ok(ControlFlow::Continue(()))
    })
}

/// What the end of a run says of it.
pub(crate) struct AtEnd {
    /// What its start and its steps add up to.
    pub(crate) state: RunState,
    /// SPEC 4.2; none when a body is gone: then it can no longer be made.
    pub(crate) root_hash: Option<[u8; 32]>,
    /// How many steps the root hash covers.
    pub(crate) total_steps: u32,
}

/// What the records of a run say for its end, late steps left out. Not its row: nobody signs that, and the end is signed
/// for good. Where one of them is in an archive, or missing, the row is all there is.
pub(crate) fn at_end(store: &dyn Store, run: &RunRow) -> Result<AtEnd, RecordError> {
    let mut places = step_places(store, run)?;
    places.retain(|place| !place.late);
    let total_steps = u32::try_from(places.len()).unwrap_or(u32::MAX);
    // A run adds up in the order of its records; the hashes stand in that of its steps.
    let mut hashes = vec![[0; 32]; places.len()];
    let mut steps: Vec<(usize, StepPlace)> = places.into_iter().enumerate().collect();
    steps.sort_unstable_by_key(|(_, place)| place.run_seq);
    let mut leaves = vec![run.started_leaf];
    leaves.extend(steps.iter().map(|(_, place)| place.leaf));
    let mut steps = steps.into_iter();
    let mut erasures: Option<Erasures<'_>> = None;
    let (mut state, mut is_whole, mut is_there) = (None::<RunState>, true, true);
    records::each(store, &leaves, |record| {
        let damaged = |reason: String| RecordError::Body {
            leaf: record.leaf.leaf_index(),
            reason,
        };
        let header = record.header()?;
        let facts = match &record.body {
            Body::There(body) => Facts::read(&header, body).map_err(|error| damaged(error.to_string()))?,
            Body::Gone(Gone::Erased) => {
                is_whole = false;
                let erasures = match &mut erasures {
                    Some(erasures) => erasures,
                    none => none.insert(Erasures::unread(store, run.key.tenant_no())?),
                };
                let kept = erasures.kept_of(record.leaf, header.id)?;
                Facts::erased(&header, &kept.unwrap_or_else(|| ErasedRecord::unknown(header.id)))
            }
            Body::Gone(Gone::Archived | Gone::Missing) => {
                is_there = false;
                return Ok(ControlFlow::Break(()));
            }
        };
        let stands_at = |run_seq: u64| {
            let at = header.run.as_ref();
            at.is_some_and(|at| at.run_seq == run_seq && at.run_id == run.state.run_id)
        };
        match (&mut state, &facts) {
            (None, Facts::RunStarted(started)) if stands_at(0) => {
                let mut start = RunState::start(started, header.recorded_at);
                if start.correlation_id.is_none() {
                    // That of the first record that has one, and those that are no steps are not read.
                    start.correlation_id.clone_from(&run.state.correlation_id);
                }
                state = Some(start);
            }
            (Some(state), _) if facts.is_step() => {
                let Some((nth, place)) = steps.next() else {
                    return Ok(ControlFlow::Break(()));
                };
                let given = facts.step_index();
                if !stands_at(place.run_seq)
                    || header.occurred_at != place.occurred_at
                    || given.is_some_and(|given| given != place.step_index)
                {
                    return Err(damaged(MISPLACED.to_owned()));
                }
                state.apply(&facts, header.correlation_id.as_deref(), header.recorded_at);
                if let Body::There(body) = &record.body {
                    let view = StepView::read(body).map_err(|error| damaged(error.to_string()))?;
                    hashes[nth] = step_hash(place.step_index, &view.step);
                }
            }
            _ => return Err(damaged(MISPLACED.to_owned())),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let state = state.filter(|_| is_there);
    let state = state.unwrap_or_else(|| run.state.clone());
    let root_hash = (is_there && is_whole).then(|| root_hash(&state.plan_hash, state.seed, &hashes));
    Ok(AtEnd {
        state,
        root_hash,
        total_steps,
    })
}

/// The ids of spans, in hex. An erased one has its from the record of its erasure, so that it and the others stand where
/// they stood; one that an older build erased has none. Where one is archived none is given: some ids would order a few
/// of them, and the others not.
fn span_ids(
    store: &dyn Store,
    tenant_no: u32,
    leaves: &[LeafKey],
) -> Result<BTreeMap<LeafKey, [u8; 16]>, RecordError> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        #[serde(borrow)]
        otel: Option<Otel<'a>>,
    }
    #[derive(Deserialize)]
    struct Otel<'a> {
        span_id: &'a str,
    }
    let mut ids = BTreeMap::new();
    records::each(store, leaves, |record| {
        let body = match &record.body {
            Body::There(body) => body,
            Body::Gone(Gone::Erased) => {
                if let Some(id) = erased_span_id(store, tenant_no, record.header()?.id)? {
                    ids.insert(record.leaf, id);
                }
                return Ok(ControlFlow::Continue(()));
            }
            Body::Gone(Gone::Archived | Gone::Missing) => {
                ids.clear();
                return Ok(ControlFlow::Break(()));
            }
        };
        let wire: Wire<'_> = serde_json::from_slice(body).map_err(|error| RecordError::Body {
            leaf: record.leaf.leaf_index(),
            reason: error.to_string(),
        })?;
        let id = wire
            .otel
            .and_then(|otel| otel.span_id.as_bytes().try_into().ok())
            .unwrap_or_default();
        ids.insert(record.leaf, id);
        Ok::<_, RecordError>(ControlFlow::Continue(()))
    })?;
    Ok(ids)
}

/// What the record of its erasure keeps of a span's id: an erasure takes one step, with what tells of it. One that cannot
/// be read is the verification's to find, and keeps nobody from reading the run.
fn erased_span_id(store: &dyn Store, tenant_no: u32, id: RecordId) -> Result<Option<[u8; 16]>, RecordError> {
    let Some((_, erasure)) = erasure_in(store, tenant_no, id)? else {
        return Ok(None);
    };
    let kept = erasure.erased.into_iter().find(|record| record.record_id == id);
    let span_id = kept.and_then(|record| record.span_id);
    Ok(span_id.and_then(|span_id| evidence::hex_string(&span_id).as_bytes().try_into().ok()))
}
