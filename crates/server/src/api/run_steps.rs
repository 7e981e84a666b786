//! Reads of one run: its first record, its steps in order, in pages.
//!
//! A page holds at most [`PAGE_STEPS_MAX`] steps; bodies are read a few at a
//! time and what an answer needs of each is kept, nothing else.
//!
//! Source: SPEC 5.

use std::sync::Arc;

use axum::http::StatusCode;
use evidence::record::StepView;
use evidence::{Header, Kind};
use ledger::{Body, Ledger, Record, StepPlace, Tenant, for_each_step, step_places};
use serde::Deserialize;
use store::{Gone, LeafKey, RunRow};
use utoipa::IntoParams;

use super::run_list::{as_of, bad};
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

/// A run, its first record and the tree it is read in.
pub(crate) struct Run {
    pub(crate) row: RunRow,
    pub(crate) started: Record,
    pub(crate) as_of: u64,
    /// Where this page begins.
    pub(crate) from: u64,
}

impl Run {
    /// Finds a run by its id or one of its traces.
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
        let row = records.run(id)?.ok_or_else(ApiError::not_found)?;
        let (as_of, from) = match &params.cursor {
            Some(cursor) => {
                let (size, from) =
                    cursor::decode::<u64>(&(read, &*tenant.tenant_id, &row.state.run_id), cursor)?;
                if params.as_of.is_some_and(|asked| asked != size) {
                    return Err(bad("query: as_of: the cursor was made at another tree size"));
                }
                (size, from)
            }
            None => (as_of(ledger, tenant, params.as_of)?, 0),
        };
        if row.started_leaf >= LeafKey::new(tenant.ledger().row.ledger_no, as_of) {
            return Err(ApiError::not_found());
        }
        let started = records
            .read(&[row.started_leaf])?
            .pop()
            .ok_or_else(ApiError::not_found)?;
        Ok(Self {
            row,
            started,
            as_of,
            from,
        })
    }

    /// The cursor of the page that begins there.
    pub(crate) fn cursor(&self, tenant: &Tenant, read: &str, from: u64) -> Result<String, ApiError> {
        cursor::encode(
            &(read, &*tenant.tenant_id, &self.row.state.run_id),
            self.as_of,
            &from,
        )
    }

    /// Whether a leaf was there at the tree size of this read.
    pub(crate) fn sees(&self, tenant: &Tenant, leaf: LeafKey) -> bool {
        leaf < LeafKey::new(tenant.ledger().row.ledger_no, self.as_of)
    }

    /// Every step's place, in order.
    pub(crate) fn places(&self, ledger: &Ledger, tenant: &Tenant) -> Result<Vec<StepPlace>, ApiError> {
        let mut places = step_places(ledger.store(), &self.row)?;
        places.retain(|place| self.sees(tenant, place.leaf));
        Ok(places)
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
