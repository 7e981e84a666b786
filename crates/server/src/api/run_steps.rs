//! Reads of one run: its first record, its steps in order, in pages.
//!
//! A page holds at most [`PAGE_STEPS_MAX`] steps; bodies are read a few at a
//! time and what an answer needs of each is kept, nothing else.
//!
//! Source: SPEC 5.

use std::sync::Arc;

use axum::http::StatusCode;
use evidence::record::{Facts, StepView};
use evidence::{Header, Kind, RunState};
use ledger::{
    Body, FOLDED_RECORDS_MAX, Ledger, Record, RunAt, StepPlace, Tenant, for_each_step, run_at, step_places_at,
};
use serde::Deserialize;
use store::{Gone, LeafKey, RunRow, TraceKey};
use utoipa::IntoParams;

use super::run_list::{as_of, bad, tree_size};
use crate::{ApiError, cursor};

/// Most entries of one answer about a run (SPEC 5): 10,000 steps of 250 bytes are 2.5 MB.
pub(crate) const PAGE_STEPS_MAX: usize = 10_000;

/// Bodies and headers held at once while a page is read.
const CHUNK: usize = 256;

/// Which part of a run.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RunParams {
    /// `next_cursor` of the answer before.
    pub(crate) cursor: Option<String>,
    /// The tree size to read at; the present one when absent.
    pub(crate) as_of: Option<u64>,
}

/// A run as it was in a tree, and its first record.
pub(crate) struct Run {
    /// Its state is that of the tree, and not of now.
    pub(crate) row: RunRow,
    pub(crate) started: Record,
    pub(crate) as_of: u64,
    /// Where this page begins.
    pub(crate) from: u64,
    /// What the cursor says besides: a tree size or a leaf of another list. 0 without cursor.
    pub(crate) beside: u64,
    past: Past,
    /// Leaves in the ledger now, or fewer.
    size: u64,
}

/// How a run's state in the tree is known.
enum Past {
    /// It has not changed since.
    Same,
    /// Its records were added up again; these were its traces.
    Folded(Vec<String>),
    /// It is not: what stands in the row is how the run began. Why, and what it is now.
    Unknown(&'static str, Box<RunState>),
}

/// Traces of a run that are looked for: each is a search of its own, near 15 µs.
pub(crate) const TRACES_MAX: u32 = 1_000;

impl Run {
    /// Finds a run by its id or one of its traces, as it was in the tree that is read.
    ///
    /// Answers that show more of it than ids, how it began and its records one by one say [`Run::known`] first.
    ///
    /// # Errors
    /// 404 when the tenant has none, or had none at that tree size; 400 for a cursor of something else.
    pub(crate) fn open(
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        read: &str,
        id: &str,
        params: &RunParams,
    ) -> Result<Self, ApiError> {
        let records = ledger.records(tenant);
        // The size first: what the row says then is of that tree, or of a larger one.
        let size = tree_size(ledger, tenant)?;
        let mut row = records.run(id)?.ok_or_else(ApiError::not_found)?;
        let (as_of, from, beside) = match &params.cursor {
            Some(cursor) => {
                let (size, (from, beside)) =
                    cursor::decode::<(u64, u64)>(&(read, &*tenant.tenant_id, &row.state.run_id), cursor)?;
                if params.as_of.is_some_and(|asked| asked != size) {
                    return Err(bad("query: as_of: the cursor was made at another tree size"));
                }
                (size, from, beside)
            }
            None => (as_of(ledger, tenant, params.as_of)?.min(size), 0, 0),
        };
        let before = LeafKey::new(tenant.ledger().row.ledger_no, as_of);
        if row.started_leaf >= before {
            return Err(ApiError::not_found());
        }
        let started = records
            .read(&[row.started_leaf])?
            .pop()
            .ok_or_else(ApiError::not_found)?;
        let past = match run_at(ledger.store(), &row, before)? {
            RunAt::Now => Past::Same,
            RunAt::Then(state, traces) => {
                row.state = *state;
                Past::Folded(traces)
            }
            RunAt::Long => Past::Unknown("it has many records", Box::new(row.state.clone())),
            RunAt::Archived => Past::Unknown("records of it are archived", Box::new(row.state.clone())),
        };
        if let (Past::Unknown(..), Some(body)) = (&past, started.body.bytes()) {
            let header = started.header()?;
            let facts =
                Facts::read(&header, body).map_err(|error| damaged(row.started_leaf.leaf_index(), &error))?;
            if let Facts::RunStarted(facts) = &facts {
                row.state = RunState::start(facts, header.recorded_at);
            }
        }
        Ok(Self {
            row,
            started,
            as_of,
            from,
            beside,
            past,
            size,
        })
    }

    /// For answers about what a run has added up to.
    ///
    /// # Errors
    /// 400 `as_of_too_far`: what it was in that tree cannot be told at the cost of a read.
    pub(crate) fn known(&self) -> Result<(), ApiError> {
        let Past::Unknown(why, _) = self.past else {
            return Ok(());
        };
        let message = format!(
            "query: as_of: the run has changed since, and what it was then is not told, as {why} \
             (at most {FOLDED_RECORDS_MAX} are added up again): read it without as_of and cursor"
        );
        Err(ApiError::new(StatusCode::BAD_REQUEST, "as_of_too_far", message))
    }

    /// What the run had added up to, or, where that is not known, what it has added up to now; and the tree size that
    /// this is of.
    pub(crate) fn totals(&self) -> (&RunState, u64) {
        match &self.past {
            Past::Unknown(_, now) => (now, self.size),
            _ => (&self.row.state, self.as_of),
        }
    }

    /// The traces that the run had, at most [`TRACES_MAX`], and whether those are all.
    pub(crate) fn traces(&self, ledger: &Ledger) -> Result<(Vec<String>, bool), ApiError> {
        let mut traces = if let Past::Folded(traces) = &self.past {
            traces.clone()
        } else {
            let traces = ledger.store().run_traces(self.row.key, TRACES_MAX + 1)?;
            traces.iter().map(TraceKey::text).collect()
        };
        let max = usize::try_from(TRACES_MAX).unwrap_or(usize::MAX);
        let whole = traces.len() <= max;
        traces.truncate(max);
        Ok((traces, whole))
    }

    /// The cursor of the page that begins there.
    pub(crate) fn cursor(
        &self,
        tenant: &Tenant,
        read: &str,
        from: u64,
        beside: u64,
    ) -> Result<String, ApiError> {
        cursor::encode(
            &(read, &*tenant.tenant_id, &self.row.state.run_id),
            self.as_of,
            &(from, beside),
        )
    }

    /// Whether a leaf was there at the tree size of this read.
    pub(crate) fn sees(&self, tenant: &Tenant, leaf: LeafKey) -> bool {
        leaf < LeafKey::new(tenant.ledger().row.ledger_no, self.as_of)
    }

    /// Every step's place, in order.
    pub(crate) fn places(&self, ledger: &Ledger, tenant: &Tenant) -> Result<Vec<StepPlace>, ApiError> {
        let before = LeafKey::new(tenant.ledger().row.ledger_no, self.as_of);
        Ok(step_places_at(ledger.store(), &self.row, Some(before))?)
    }
}

/// A step on its way into an answer.
pub(crate) struct StepRead<'a> {
    pub(crate) place: &'a StepPlace,
    pub(crate) header: Header<'a>,
    pub(crate) view: Result<StepView<'a>, Gone>,
}

/// Calls `each` with the steps at the given places, in order, until it says `false`.
pub(crate) fn each_step(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    places: &[StepPlace],
    mut each: impl FnMut(&StepRead<'_>) -> Result<bool, ApiError>,
) -> Result<(), ApiError> {
    let records = ledger.records(tenant);
    for chunk in places.chunks(CHUNK) {
        let leaves: Vec<LeafKey> = chunk.iter().map(|place| place.leaf).collect();
        let mut headers = records.headers(&leaves)?.into_iter();
        let mut stopped = false;
        let mut failed = None;
        for_each_step(ledger.store(), chunk, |place, body| {
            let header = headers.next().unwrap_or_default();
            if stopped || failed.is_some() {
                return Ok(());
            }
            match read_step(place, &header, body).and_then(|step| each(&step)) {
                Ok(more) => stopped = !more,
                Err(error) => failed = Some(error),
            }
            Ok(())
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if stopped {
            break;
        }
    }
    Ok(())
}

fn read_step<'a>(
    place: &'a StepPlace,
    header: &'a [u8],
    body: Body<&'a [u8]>,
) -> Result<StepRead<'a>, ApiError> {
    let leaf = place.leaf.leaf_index();
    let header = Header::decode(header).map_err(|error| damaged(leaf, &error))?;
    let view = match body {
        Body::There(body) => Ok(StepView::read(body).map_err(|error| damaged(leaf, &error))?),
        Body::Gone(gone) => Err(gone),
    };
    Ok(StepRead { place, header, view })
}

/// Stored evidence that cannot be read.
pub(crate) fn damaged(leaf: u64, error: &dyn std::fmt::Display) -> ApiError {
    tracing::error!(leaf, %error, "stored evidence cannot be read");
    let message = format!("leaf {leaf} cannot be read: {error}");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", message)
}

/// The leaf of the record that a run has once, when it has it.
pub(crate) fn once(ledger: &Ledger, run: &RunRow, kind: Kind) -> Result<Option<LeafKey>, ApiError> {
    let found = ledger
        .store()
        .run_record_find(run.key, &evidence::Identity::once(kind))?;
    Ok(found.map(|row| row.leaf))
}
