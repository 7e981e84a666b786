//! A run as it was at a tree size: what its records up to there add up to.
//!
//! The projected row says what all records of a run add up to. A read at an earlier tree size must not show what
//! later leaves say, so the records before it are folded anew, by the function that writer and verifier fold with.
//! That costs what reading them costs; a run that has not changed since costs one look.
//!
//! Source: SPEC 2.6 (`as_of`).

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use evidence::record::{ErasedRecord, Facts};
use evidence::{Header, Kind, RunState};
use store::{Gone, LeafKey, RunRecordRow, RunRow, Store};

use crate::verify::Erasures;
use crate::{Body, RecordError};

/// Most records of a run that are folded anew for one read: some 0.1 s, with bodies as they mostly are.
pub const FOLDED_RECORDS_MAX: usize = 10_000;

/// Most bytes of their bodies, unpacked: as many as 10,000 of 3 KiB, some 0.2 s to unpack and parse. A read with
/// `as_of` costs its sender nothing, and a body may have 16 MiB.
pub const FOLDED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Rows and leaves held at once.
const ROWS_READ: u32 = 256;

/// What a run was.
#[derive(Debug)]
pub enum RunAt {
    /// The same as now.
    Now,
    /// This, with these traces, in the order of their ids.
    Then(Box<RunState>, Vec<String>),
    /// It has changed since, and before that it had more than [`FOLDED_RECORDS_MAX`] records, or they more than
    /// [`FOLDED_BYTES_MAX`].
    Long,
    /// It has changed since, and a record of before is in an archive, or missing.
    Archived,
}

/// The leaf of the newest record of those that a run's row adds up; none: it is not there.
///
/// # Errors
/// The store cannot answer.
pub fn run_newest_leaf(store: &dyn Store, run: &RunRow) -> Result<Option<LeafKey>, RecordError> {
    let newest = store.run_records(run.key, run.state.record_count.saturating_sub(1), 1)?;
    Ok(newest.first().map(|row| row.leaf))
}

/// Whether a run has a record at the leaf `as_of` or behind it.
fn run_changed_since(store: &dyn Store, run: &RunRow, as_of: LeafKey) -> Result<bool, RecordError> {
    Ok(run_newest_leaf(store, run)?.is_some_and(|newest| newest >= as_of))
}

/// What a run was before the leaf `as_of`.
///
/// # Errors
/// A record cannot be read.
pub fn run_at(store: &dyn Store, run: &RunRow, as_of: LeafKey) -> Result<RunAt, RecordError> {
    if !run_changed_since(store, run, as_of)? {
        return Ok(RunAt::Now);
    }
    // Told at once, and not after all the others were read.
    let one_more = store.run_records(run.key, FOLDED_RECORDS_MAX as u64, 1)?;
    if one_more.first().is_some_and(|row| row.leaf < as_of) {
        return Ok(RunAt::Long);
    }
    let erasures = Erasures::unread(store, run.key.tenant_no())?;
    let (mut state, mut traces, mut from, mut bytes) = (None::<RunState>, BTreeSet::new(), 0, 0);
    loop {
        let mut rows = store.run_records(run.key, from, ROWS_READ)?;
        rows.retain(|row| row.leaf < as_of);
        let Some(last) = rows.last() else { break };
        from = last.run_seq.saturating_add(1);
        let leaves: Vec<LeafKey> = rows.iter().map(|row| row.leaf).collect();
        let leaves = crate::records::headers(store, &leaves)?;
        let mut headers = Vec::with_capacity(rows.len());
        for (row, leaf) in rows.iter().zip(&leaves) {
            headers.push(crate::records::decode(row.leaf, leaf)?);
        }
        let facts = match facts_of(store, &erasures, &rows, &headers, &mut bytes)? {
            Said::All(facts) => facts,
            Said::Long => return Ok(RunAt::Long),
            Said::Archived => return Ok(RunAt::Archived),
        };
        for (header, facts) in headers.iter().zip(&facts) {
            traces.extend(header.trace_id.as_deref().map(str::to_owned));
            match (&mut state, facts) {
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

/// What records say.
enum Said {
    /// Of each record, in their order.
    All(Vec<Facts>),
    /// Their bodies are longer than [`FOLDED_BYTES_MAX`], with those of before.
    Long,
    /// A body is archived, or missing.
    Archived,
}

/// What records say of a run; `bytes` is what their bodies came to, and those of the records before.
fn facts_of(
    store: &dyn Store,
    erasures: &Erasures<'_>,
    rows: &[RunRecordRow],
    headers: &[Header<'_>],
    bytes: &mut usize,
) -> Result<Said, RecordError> {
    let told: Vec<usize> = (0..rows.len())
        .filter(|&place| adds_up(rows[place].kind))
        .collect();
    let leaves: Vec<LeafKey> = told.iter().map(|&place| rows[place].leaf).collect();
    let mut said = Said::All(vec![Facts::Other; rows.len()]);
    let (mut places, mut body) = (told.into_iter(), Vec::new());
    crate::body::each_stored::<RecordError>(store, &leaves, |leaf, stored| {
        let (Some(place), Said::All(facts)) = (places.next(), &mut said) else {
            return Ok(ControlFlow::Break(()));
        };
        let header = &headers[place];
        facts[place] = match stored {
            Body::There(row) => {
                crate::body::open(header, &row, &mut body)?;
                *bytes += body.len();
                if *bytes > FOLDED_BYTES_MAX {
                    said = Said::Long;
                    return Ok(ControlFlow::Break(()));
                }
                Facts::read(header, &body).map_err(|error| RecordError::Body {
                    leaf: leaf.leaf_index(),
                    reason: error.to_string(),
                })?
            }
            Body::Gone(Gone::Erased) => {
                let kept = erasures.kept_of(leaf, header.id)?;
                Facts::erased(header, &kept.unwrap_or_else(|| ErasedRecord::unknown(header.id)))
            }
            Body::Gone(_) => {
                said = Said::Archived;
                return Ok(ControlFlow::Break(()));
            }
        };
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(said)
}
