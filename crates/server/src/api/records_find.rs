//! Finding the leaves that a list of records asks for.

use std::sync::Arc;

use evidence::facet::facet;
use evidence::{Header, Identity, Kind};
use ledger::{Ledger, RecordError, StoredTree, Tenant};
use serde::{Deserialize, Serialize};
use store::{FacetQuery, LeafKey, RunKey, RunRow, TraceKey};

use super::records::kind_of;
use crate::ApiError;

/// Leaves looked through for one page at most. Reading 65,536 takes about 0.1 s.
const SCAN_LEAVES_MAX: u64 = 65_536;

/// Leaves read at once while looking through: a block under load.
const SCAN_WINDOW: u64 = 256;

/// Rows of a run read at once, and headers of them when the trace decides.
const RUN_ROWS: u32 = 512;

/// What a list of records asks for.
#[derive(Debug)]
pub(super) struct Filter {
    run_id: Option<String>,
    trace: Option<Trace>,
    kind: Option<Kind>,
}

#[derive(Debug)]
struct Trace {
    id: String,
    span: Option<([u8; 16], [u8; 8])>,
}

/// Where a page goes on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Position {
    /// At this record of the run.
    Seq(u64),
    /// Before this leaf, by its key.
    Before(i64),
}

/// The leaves of a page, each with the position after it.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) leaves: Vec<(LeafKey, Position)>,
    pub(super) next: Option<Position>,
}

impl Filter {
    pub(super) fn new(
        run_id: Option<String>,
        trace_id: Option<String>,
        span_id: Option<String>,
        kind: Option<&str>,
    ) -> Result<Self, ApiError> {
        let bad =
            |message: &str| ApiError::new(axum::http::StatusCode::BAD_REQUEST, "bad_parameter", message);
        let kind = kind.map(kind_of).transpose()?;
        let trace = match (trace_id, span_id) {
            (None, None) => None,
            (None, Some(_)) => {
                return Err(bad(
                    "query: span_id: needs trace_id; a span id is unique only within its trace",
                ));
            }
            (Some(id), None) => Some(Trace { id, span: None }),
            (Some(id), Some(span_id)) => {
                let TraceKey::W3c(trace) = TraceKey::parse(&id) else {
                    return Err(bad(
                        "query: trace_id: with span_id it must be 32 lower-case hex digits",
                    ));
                };
                // A span id is half a trace id in form.
                let TraceKey::W3c(padded) = TraceKey::parse(&format!("{span_id:0>32}")) else {
                    return Err(bad("query: span_id: must be 16 lower-case hex digits"));
                };
                let Some(span) = padded.last_chunk::<8>().filter(|_| span_id.len() == 16) else {
                    return Err(bad("query: span_id: must be 16 lower-case hex digits"));
                };
                Some(Trace {
                    id,
                    span: Some((trace, *span)),
                })
            }
        };
        Ok(Self { run_id, trace, kind })
    }

    /// Everything that must be the same on the next page.
    pub(super) fn scope(&self) -> impl Serialize + use<> {
        let trace = self.trace.as_ref().map(|trace| (trace.id.clone(), trace.span));
        (self.run_id.clone(), trace, self.kind.map(Kind::as_str))
    }

    /// The next page, of records before `before`.
    pub(super) fn find(
        &self,
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        before: LeafKey,
        from: Option<Position>,
        limit: u32,
    ) -> Result<Found, ApiError> {
        let rows = usize::try_from(limit).unwrap_or(usize::MAX);
        if self.run_id.is_none() && self.trace.is_none() {
            let before = match from {
                Some(Position::Before(key)) => LeafKey::from_i64(key),
                _ => before,
            };
            return match self.kind {
                Some(kind) if !kind.is_of_run() => by_kind(ledger, tenant, kind, before, limit),
                kind => scan(ledger, tenant, kind, before, rows),
            };
        }
        let Some(run) = self.run(ledger, tenant)? else {
            return Ok(Found::default());
        };
        if let Some((trace, span)) = self.trace.as_ref().and_then(|trace| trace.span) {
            let row = ledger
                .store()
                .run_record_find(run.key, &Identity::span(&trace, &span))?;
            let row = row.filter(|row| row.leaf < before && self.kind.is_none_or(|kind| kind == row.kind));
            let leaves = row
                .map(|row| (row.leaf, Position::Seq(row.run_seq + 1)))
                .into_iter()
                .collect();
            return Ok(Found { leaves, next: None });
        }
        let from = match from {
            Some(Position::Seq(seq)) => seq,
            _ => 0,
        };
        self.of_run(ledger, tenant, run.key, before, from, rows)
    }

    /// The run of both id and trace, as far as they are given.
    fn run(&self, ledger: &Ledger, tenant: &Tenant) -> Result<Option<RunRow>, ApiError> {
        let (store, tenant_no) = (ledger.store(), tenant.tenant_no);
        let run = match &self.trace {
            Some(trace) => store.run_find_by_trace(tenant_no, &TraceKey::parse(&trace.id))?,
            None => store.run_find(tenant_no, self.run_id.as_deref().unwrap_or_default())?,
        };
        Ok(run.filter(|run| {
            self.run_id
                .as_ref()
                .is_none_or(|run_id| *run_id == run.state.run_id)
        }))
    }

    fn of_run(
        &self,
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        run: RunKey,
        before: LeafKey,
        mut from: u64,
        limit: usize,
    ) -> Result<Found, ApiError> {
        let records = ledger.records(tenant);
        let mut found = Found::default();
        let end = from.saturating_add(SCAN_LEAVES_MAX);
        while from < end {
            let mut rows = records.of_run(run, from, RUN_ROWS)?;
            let whole = rows.len() == usize::try_from(RUN_ROWS).unwrap_or(usize::MAX);
            let Some(last) = rows.last() else { return Ok(found) };
            from = last.run_seq + 1;
            let read = rows.len();
            rows.retain(|row| row.leaf < before);
            let past = rows.len() < read;
            rows.retain(|row| self.kind.is_none_or(|kind| kind == row.kind));
            if let Some(trace) = &self.trace {
                // A run may have several traces; which one a record is of stands in its header.
                let leaves: Vec<LeafKey> = rows.iter().map(|row| row.leaf).collect();
                let headers = records.headers(&leaves)?;
                let mut of_trace = Vec::with_capacity(rows.len());
                for (row, header) in rows.into_iter().zip(headers) {
                    if decode(&header, row.leaf)?
                        .trace_id
                        .is_some_and(|id| id == trace.id)
                    {
                        of_trace.push(row);
                    }
                }
                rows = of_trace;
            }
            for row in rows {
                if found.leaves.len() == limit {
                    found.next = found.leaves.last().map(|(_, after)| *after);
                    return Ok(found);
                }
                found.leaves.push((row.leaf, Position::Seq(row.run_seq + 1)));
            }
            if past || !whole {
                return Ok(found);
            }
        }
        found.next = Some(Position::Seq(from));
        Ok(found)
    }
}

fn decode(header: &[u8], leaf: LeafKey) -> Result<Header<'_>, ApiError> {
    Header::decode(header).map_err(|source| {
        RecordError::Header {
            leaf: leaf.leaf_index(),
            source,
        }
        .into()
    })
}

/// The tenant's ledgers that have leaves before `before`, newest first, each with the end of its part.
fn parts(ledger: &Ledger, tenant: &Tenant, before: LeafKey) -> Result<Vec<(u32, u64)>, ApiError> {
    let mut parts = Vec::new();
    for epoch in tenant.epochs().iter().rev() {
        let ledger_no = epoch.row.ledger_no;
        if ledger_no > before.ledger_no() {
            continue;
        }
        let head = ledger.store().head_read(ledger_no)?.size.as_u64();
        let end = if ledger_no == before.ledger_no() {
            head.min(before.leaf_index())
        } else {
            head
        };
        parts.push((ledger_no, end));
    }
    Ok(parts)
}

/// Records of no run by kind: each has it as a facet.
fn by_kind(
    ledger: &Ledger,
    tenant: &Tenant,
    kind: Kind,
    before: LeafKey,
    limit: u32,
) -> Result<Found, ApiError> {
    let query = FacetQuery {
        facets: vec![facet("kind", kind.as_str())],
        as_of: Some(before),
        limit,
        newest_first: true,
        ..FacetQuery::default()
    };
    let page = ledger.store().facet_find(tenant.tenant_no, &query)?;
    let at = |leaf: LeafKey| Position::Before(leaf.as_i64());
    Ok(Found {
        leaves: page.leaves.into_iter().map(|leaf| (leaf, at(leaf))).collect(),
        next: page.next.map(at),
    })
}

/// Looks through the leaves, newest first; `None`: every kind.
fn scan(
    ledger: &Ledger,
    tenant: &Tenant,
    kind: Option<Kind>,
    before: LeafKey,
    limit: usize,
) -> Result<Found, ApiError> {
    let mut found = Found::default();
    let mut budget = SCAN_LEAVES_MAX;
    for (ledger_no, end) in parts(ledger, tenant, before)? {
        let tree = StoredTree::new(ledger.store(), ledger_no);
        let mut end = end;
        while end > 0 {
            if budget == 0 {
                found.next = Some(Position::Before(LeafKey::new(ledger_no, end).as_i64()));
                return Ok(found);
            }
            let first = end.saturating_sub(SCAN_WINDOW);
            let mut window = Vec::new();
            let mut wrong = None;
            tree.leaves(first..end, |index, leaf| {
                let leaf_key = LeafKey::new(ledger_no, index);
                match decode(leaf, leaf_key) {
                    Ok(header) if kind.is_none_or(|kind| kind == header.kind) => window.push(leaf_key),
                    Ok(_) => {}
                    Err(error) => wrong = Some(error),
                }
                Ok(())
            })?;
            if let Some(error) = wrong {
                return Err(error);
            }
            for leaf in window.into_iter().rev() {
                if found.leaves.len() == limit {
                    found.next = found.leaves.last().map(|(_, after)| *after);
                    return Ok(found);
                }
                found.leaves.push((leaf, Position::Before(leaf.as_i64())));
            }
            budget = budget.saturating_sub(end - first);
            end = first;
        }
    }
    Ok(found)
}
