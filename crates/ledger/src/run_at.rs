//! A run as it was at a tree size: what its records up to there add up to.
//!
//! The projected row says what all records of a run add up to. A read at an earlier tree size must not show what
//! later leaves say, so the records before it are folded anew, by the function that writer and verifier fold with.
//! That costs what reading them costs; a run that has not changed since costs one look.
//!
//! Source: SPEC 2.6 (`as_of`).

use std::collections::BTreeSet;

use evidence::record::{BODY_BYTES_MAX, ErasedRecord, Facts};
use evidence::{Header, Kind, RunState};
use store::{Gone, LeafKey, RunRow, Store, codec};

use crate::{Body, RecordError};

/// Most records of a run that are folded anew for one read: with their bodies some 0.1 s.
pub const FOLDED_RECORDS_MAX: usize = 10_000;

/// Rows, leaves and bodies held at once.
const ROWS_READ: u32 = 256;

/// What a run was.
#[derive(Debug)]
pub enum RunAt {
    /// The same as now.
    Now,
    /// This, with these traces, in the order of their ids.
    Then(Box<RunState>, Vec<String>),
    /// It has changed since, and before that it had more than [`FOLDED_RECORDS_MAX`] records.
    Long,
    /// It has changed since, and a record of before is in an archive, or missing.
    Archived,
}

/// What a run was before the leaf `as_of`.
///
/// # Errors
/// A record cannot be read.
pub fn run_at(store: &dyn Store, run: &RunRow, as_of: LeafKey) -> Result<RunAt, RecordError> {
    let newest = store.run_records(run.key, run.state.record_count.saturating_sub(1), 1)?;
    if newest.first().is_none_or(|row| row.leaf < as_of) {
        return Ok(RunAt::Now);
    }
    let (mut state, mut traces, mut from) = (None::<RunState>, BTreeSet::new(), 0);
    loop {
        let mut rows = store.run_records(run.key, from, ROWS_READ)?;
        rows.retain(|row| row.leaf < as_of);
        let Some(last) = rows.last() else { break };
        from = last.run_seq.saturating_add(1);
        if from > FOLDED_RECORDS_MAX as u64 {
            return Ok(RunAt::Long);
        }
        let leaves: Vec<LeafKey> = rows.iter().map(|row| row.leaf).collect();
        let headers = crate::records::headers(store, &leaves)?;
        for (row, leaf) in rows.iter().zip(&headers) {
            let index = row.leaf.leaf_index();
            let header =
                Header::decode(leaf).map_err(|source| RecordError::Header { leaf: index, source })?;
            let facts = if adds_up(row.kind) {
                match facts_of(store, row.leaf, &header, row.step_index)? {
                    Some(facts) => facts,
                    None => return Ok(RunAt::Archived),
                }
            } else {
                Facts::Other
            };
            traces.extend(header.trace_id.as_deref().map(str::to_owned));
            match (&mut state, &facts) {
                (None, Facts::RunStarted(started)) => {
                    traces.insert(started.trace_id.clone());
                    state = Some(RunState::start(started, header.recorded_at));
                }
                (None, _) => {}
                (Some(state), facts) => {
                    state.apply(facts, header.correlation_id.as_deref(), header.recorded_at);
                }
            }
        }
    }
    Ok(match state {
        Some(state) => RunAt::Then(Box::new(state), traces.into_iter().collect()),
        // Its first record is not before that leaf: whoever asks has seen to it.
        None => RunAt::Now,
    })
}

/// Whether a run adds up from bodies of this kind.
pub(crate) const fn adds_up(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::RunStarted | Kind::RunCompleted | Kind::TraceStep | Kind::TraceCompleted | Kind::TraceAborted
    )
}

/// What a stored record says; `None`: it is archived, or missing.
fn facts_of(
    store: &dyn Store,
    leaf: LeafKey,
    header: &Header<'_>,
    step_index: Option<u32>,
) -> Result<Option<Facts>, RecordError> {
    let unreadable = |reason: String| RecordError::Body {
        leaf: leaf.leaf_index(),
        reason,
    };
    match crate::body::stored(store, &[leaf])?.pop() {
        Some(Body::There(row)) => {
            let body =
                codec::unpack(&row.body, BODY_BYTES_MAX).map_err(|error| unreadable(error.to_string()))?;
            let facts = Facts::read(header, &body).map_err(|error| unreadable(error.to_string()))?;
            Ok(Some(facts))
        }
        Some(Body::Gone(Gone::Erased)) => {
            let kept = ErasedRecord {
                record_id: header.id,
                identity: None,
                step_index,
            };
            Ok(Some(Facts::erased(header, &kept)))
        }
        _ => Ok(None),
    }
}
