//! Reads of one run: its first record, its steps in order, in pages.
//!
//! A page holds at most [`PAGE_STEPS_MAX`] steps; bodies are read a few at a
//! time and what an answer needs of each is kept, nothing else.
//!
//! Source: SPEC 5.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::http::StatusCode;
use evidence::record::{ErasedRecord, Facts, StepView};
use evidence::{Header, Kind, RunState, Timestamp};
use ledger::{
    Body, FOLDED_BYTES_MAX, FOLDED_RECORDS_MAX, INSTANCE, Ledger, Record, RunAt, StepPlace, Tenant, run_at,
    run_newest_leaf, step_places_at,
};
use serde::{Deserialize, Serialize};
use store::{Gone, LeafKey, RunRow, TraceKey};
use utoipa::IntoParams;

use super::run_list::{bad, tree_size, within};
use crate::{ApiError, cursor};

/// Most entries of one answer about a run (SPEC 5): 10,000 steps of 250 bytes are 2.5 MB.
pub(crate) const PAGE_STEPS_MAX: usize = 10_000;

/// Rows of a run read at once: 100 bytes each.
const ROWS_READ: u32 = 10_000;

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
    /// Its state is that of the tree when the run has not changed since, or after [`Run::known`]; else how it began.
    pub(crate) row: RunRow,
    pub(crate) started: Record,
    pub(crate) as_of: u64,
    /// Where this page begins.
    pub(crate) from: u64,
    /// What the cursor says besides: a tree size or a leaf of another list. 0 without cursor.
    pub(crate) beside: u64,
    /// The time that the first page was about, which those that follow are about too: the run may have gone on.
    pub(crate) stretch: Option<(Timestamp, Timestamp)>,
    before: LeafKey,
    past: Past,
    /// Leaves in the ledger now, or fewer.
    size: u64,
    /// The instance's ledger that is written to: what a cursor says of the instance is of that one.
    instance_no: Option<u32>,
}

/// How a run's state in the tree is known.
enum Past {
    /// It has not changed since.
    Same,
    /// It has, to this. Its records were not added up again yet.
    Changed(RunRow),
    /// They were; these were its traces.
    Folded(Vec<String>),
    /// They are not added up: why, and what the run is now.
    Unknown(&'static str, RunRow),
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
        // The size first: what the row says then is of that tree, or of a larger one.
        let size = tree_size(ledger, tenant)?;
        let row = ledger.records(tenant).run(id)?.ok_or_else(ApiError::not_found)?;
        Self::of_row(ledger, tenant, read, params, size, row)
    }

    /// The same of a tree size, and the run's row that was read after it.
    fn of_row(
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        read: &str,
        params: &RunParams,
        size: u64,
        mut row: RunRow,
    ) -> Result<Self, ApiError> {
        let ledger_no = tenant.ledger().row.ledger_no;
        let instance_no = instance_no(ledger);
        let newest = run_newest_leaf(ledger.store(), &row)?;
        // The run may have gone on between the two. The tree that ends with its newest record has all that the row
        // adds up and nothing that it does not, so that who asks for the present is answered from the row alone.
        let of_row = newest.filter(|newest| newest.ledger_no() == ledger_no);
        let size = of_row.map_or(size, |newest| size.max(newest.leaf_index() + 1));
        let (as_of, Position(from, beside, stretch)) = match &params.cursor {
            Some(cursor) => {
                let (size, position) = cursor::decode::<Position>(
                    &(read, &*tenant.tenant_id, &row.state.run_id, instance_no),
                    ledger_no,
                    cursor,
                )?;
                if params.as_of.is_some_and(|asked| asked != size) {
                    return Err(bad("query: as_of: the cursor was made at another tree size"));
                }
                (size, position)
            }
            None => (within(params.as_of, size)?, Position::default()),
        };
        let before = LeafKey::new(ledger_no, as_of);
        if row.started_leaf >= before {
            return Err(ApiError::not_found());
        }
        let started = ledger
            .records(tenant)
            .read(&[row.started_leaf])?
            .pop()
            .ok_or_else(ApiError::not_found)?;
        let past = if newest.is_some_and(|newest| newest >= before) {
            let began = began(&started)?;
            let now = row.clone();
            row.state = began;
            Past::Changed(now)
        } else {
            Past::Same
        };
        Ok(Self {
            row,
            started,
            as_of,
            from,
            beside,
            stretch,
            before,
            past,
            size,
            instance_no,
        })
    }

    /// Whether the run had a record of that kind in the tree. Reads its rows, and no body.
    ///
    /// # Errors
    /// They cannot be read.
    pub(crate) fn has(&self, ledger: &Ledger, kind: Kind) -> Result<bool, ApiError> {
        let mut from = 0;
        loop {
            let rows = ledger.store().run_records(self.row.key, from, ROWS_READ)?;
            let Some(last) = rows.last() else {
                return Ok(false);
            };
            if rows.iter().any(|row| row.kind == kind && row.leaf < self.before) {
                return Ok(true);
            }
            if last.leaf >= self.before {
                return Ok(false);
            }
            from = last.run_seq + 1;
        }
    }

    /// Adds its records up again, if that was not done and can be.
    fn fold(&mut self, ledger: &Ledger) -> Result<(), ApiError> {
        let Past::Changed(now) = &self.past else {
            return Ok(());
        };
        let unknown = |why| Past::Unknown(why, now.clone());
        self.past = match run_at(ledger.store(), now, self.before)? {
            RunAt::Then(state, traces) => {
                self.row.state = *state;
                Past::Folded(traces)
            }
            RunAt::Now => {
                self.row.state = now.state.clone();
                Past::Same
            }
            RunAt::Long => unknown("its records are too many or too large"),
            RunAt::Archived => unknown("records of it are archived"),
        };
        Ok(())
    }

    /// For answers about what a run has added up to.
    ///
    /// # Errors
    /// 400 `as_of_too_far`: what it was in that tree cannot be told at the cost of a read.
    pub(crate) fn known(&mut self, ledger: &Ledger) -> Result<(), ApiError> {
        self.fold(ledger)?;
        let Past::Unknown(why, _) = self.past else {
            return Ok(());
        };
        let message = format!(
            "query: as_of: the run has changed since, and what it was then is not told, as {why} \
             (at most {FOLDED_RECORDS_MAX} records of {} MiB are added up again): read it without as_of",
            FOLDED_BYTES_MAX / (1024 * 1024)
        );
        Err(ApiError::new(StatusCode::BAD_REQUEST, "as_of_too_far", message))
    }

    /// The time that all pages of this read are about: on the first it follows from what the run had added up to.
    ///
    /// # Errors
    /// As [`Run::known`] on the first page; those of `first`.
    pub(crate) fn stretch(
        &mut self,
        ledger: &Ledger,
        first: impl FnOnce(&Self) -> Result<(Timestamp, Timestamp), ApiError>,
    ) -> Result<(Timestamp, Timestamp), ApiError> {
        if let Some(stretch) = self.stretch {
            return Ok(stretch);
        }
        self.known(ledger)?;
        let stretch = first(self)?;
        self.stretch = Some(stretch);
        Ok(stretch)
    }

    /// What the run had added up to, or, where that is not known, what it has added up to now; and the tree size that
    /// this is of.
    pub(crate) fn totals(&mut self, ledger: &Ledger) -> Result<(&RunState, u64), ApiError> {
        self.fold(ledger)?;
        Ok(match &self.past {
            Past::Unknown(_, now) => (&now.state, self.size),
            _ => (&self.row.state, self.as_of),
        })
    }

    /// The traces that the run had, at most [`TRACES_MAX`], and whether those are all and no others. Where it cannot be
    /// told which it had, on pages after the first, those that it has now.
    pub(crate) fn traces(&mut self, ledger: &Ledger) -> Result<(Vec<String>, bool), ApiError> {
        self.fold(ledger)?;
        let mut traces = if let Past::Folded(traces) = &self.past {
            traces.clone()
        } else {
            let traces = ledger.store().run_traces(self.row.key, TRACES_MAX + 1)?;
            traces.iter().map(TraceKey::text).collect()
        };
        let max = usize::try_from(TRACES_MAX).unwrap_or(usize::MAX);
        let whole = traces.len() <= max && !matches!(self.past, Past::Unknown(..));
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
            &(read, &*tenant.tenant_id, &self.row.state.run_id, self.instance_no),
            (self.before.ledger_no(), self.as_of),
            &Position(from, beside, self.stretch),
        )
    }

    /// Whether a leaf was there at the tree size of this read.
    pub(crate) fn sees(&self, leaf: LeafKey) -> bool {
        leaf < self.before
    }

    /// Every step's place, in order.
    pub(crate) fn places(&self, ledger: &Ledger) -> Result<Vec<StepPlace>, ApiError> {
        Ok(step_places_at(ledger.store(), &self.row, Some(self.before))?)
    }
}

/// The number of the instance's ledger that is written to.
fn instance_no(ledger: &Ledger) -> Option<u32> {
    let instance = ledger.tenant(INSTANCE)?;
    Some(instance.ledger().row.ledger_no)
}

/// Where a page begins, as a cursor says it: what it counts, what the other list counts, and what time the read is about.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Position(u64, u64, Option<(Timestamp, Timestamp)>);

/// A run after its first record. What is said of one whose body is gone stands in the header.
fn began(started: &Record) -> Result<RunState, ApiError> {
    let header = started.header()?;
    let facts = match started.body.bytes() {
        Some(body) => {
            Facts::read(&header, body).map_err(|error| damaged(started.leaf.leaf_index(), &error))?
        }
        None => Facts::erased(&header, &ErasedRecord::unknown(header.id)),
    };
    match facts {
        Facts::RunStarted(facts) => Ok(RunState::start(&facts, header.recorded_at)),
        _ => Err(damaged(
            started.leaf.leaf_index(),
            &"a run that begins with another record",
        )),
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
    let leaves: Vec<LeafKey> = places.iter().map(|place| place.leaf).collect();
    let mut rest = places.iter();
    ledger.records(tenant).each(&leaves, |record| {
        let Some(place) = rest.next() else {
            return Ok(ControlFlow::Break(()));
        };
        let goes_on = each(&read_step(place, &record)?)?;
        Ok(if goes_on {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    })
}

fn read_step<'a>(place: &'a StepPlace, record: &'a Record) -> Result<StepRead<'a>, ApiError> {
    let header = record.header()?;
    let view = match record.body.as_deref() {
        Body::There(body) => {
            Ok(StepView::read(body).map_err(|error| damaged(place.leaf.leaf_index(), &error))?)
        }
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
