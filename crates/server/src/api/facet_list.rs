//! Pages of records that share facets, newest first.
//!
//! An entry that cannot be shown because a body that it is made of was altered, or taken away without a record that says
//! so, ends no list: the page names it ([`DamagedEntry`]) and goes on.
//!
//! As in lists of runs, the tree size of the first page and its total go with the
//! cursor, so that paging does not shift under new records.

use std::ops::ControlFlow;
use std::sync::Arc;

use evidence::RecordId;
use ledger::{Ledger, Record, RecordError, Tenant};
use serde::Serialize;
use store::{FacetQuery, Gone, LeafKey};
use utoipa::ToSchema;

use super::records::epoch_of;
use super::run_list::{self, Filters, LIMIT_DEFAULT, LIMIT_MAX, TOTAL_EXACT_MAX};
use crate::{ApiError, cursor, extract};

/// Which page of which list.
#[derive(Debug)]
pub(crate) struct ListParams {
    /// Its name: a cursor of another list is refused.
    pub(crate) list: &'static str,
    /// All must hold; at least one.
    pub(crate) facets: Vec<String>,
    /// What the facets were made of, as given.
    pub(crate) filters: Filters,
    pub(crate) limit: Option<u32>,
    pub(crate) offset: Option<u64>,
    pub(crate) cursor: Option<String>,
    pub(crate) as_of: Option<u64>,
}

/// Text of the entries of one page, in bytes; the one that passes it is the page's last. A summary and each reason have
/// up to 64 KiB, and a page 500 entries.
pub(crate) const PAGE_TEXT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A page of leaves, and what every list says beside its entries.
#[derive(Debug)]
pub(crate) struct ListPage {
    list: &'static str,
    ledger_no: u32,
    pub(crate) leaves: Vec<LeafKey>,
    pub(crate) as_of: u64,
    pub(crate) total: u64,
    pub(crate) total_exact: bool,
    pub(crate) has_more: bool,
    pub(crate) next_cursor: Option<String>,
    pub(crate) filters_applied: Filters,
    /// Of the page's entries those that could not be read.
    pub(crate) damaged: Vec<DamagedEntry>,
}

/// An entry that cannot be shown: a body that it is made of is not the one that was recorded, or is missing. By the record
/// that stands in the list, or that the answer would have been found by.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DamagedEntry {
    /// Which of the tenant's ledgers: 0, and one more after each recovery.
    epoch: u32,
    leaf_index: u64,
    #[schema(value_type = String)]
    record_id: RecordId,
}

impl DamagedEntry {
    fn at(ledger: &Ledger, tenant: &Arc<Tenant>, leaf: LeafKey) -> Result<Option<Self>, RecordError> {
        let record = ledger.records(tenant).listed(leaf)?;
        record.map(|record| Self::of(tenant, &record)).transpose()
    }

    pub(crate) fn of(tenant: &Tenant, record: &Record) -> Result<Self, RecordError> {
        Ok(Self {
            epoch: epoch_of(tenant, record.leaf),
            leaf_index: record.leaf.leaf_index(),
            record_id: record.header()?.id,
        })
    }
}

/// Whether a body is gone and no record that can be read says why: the list of what is erased is not signed.
pub(crate) fn is_unexplained(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    record: &Record,
) -> Result<bool, RecordError> {
    Ok(match record.body.gone() {
        None | Some(Gone::Archived) => record.is_damaged(),
        Some(Gone::Missing) => true,
        Some(Gone::Erased) => ledger.erasure_of(tenant, record.header()?.id)?.is_none(),
    })
}

impl ListPage {
    /// Reads the entries at its leaves, each with the bytes of its text, and ends the page early when those are many.
    /// Nobody could get past one that is damaged otherwise.
    ///
    /// # Errors
    /// Those of `read`, but for damage behind a leaf that can be read.
    pub(crate) fn entries<T>(
        &mut self,
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        mut read: impl FnMut(LeafKey) -> Result<Option<(T, usize)>, ApiError>,
    ) -> Result<Vec<T>, ApiError> {
        let (mut entries, mut bytes) = (Vec::with_capacity(self.leaves.len()), 0);
        for (place, &leaf) in self.leaves.iter().enumerate() {
            let found = read(leaf);
            let is_damaged = match &found {
                Ok(None) => match ledger.records(tenant).listed(leaf)? {
                    Some(record) => is_unexplained(ledger, tenant, &record)?,
                    None => false,
                },
                Ok(Some(_)) => false,
                Err(error) => error.code == "damaged",
            };
            if is_damaged {
                self.damaged.extend(DamagedEntry::at(ledger, tenant, leaf)?);
            } else if let Some((entry, text)) = found? {
                entries.push(entry);
                bytes += text;
            }
            if bytes > PAGE_TEXT_BYTES_MAX && place + 1 < self.leaves.len() {
                self.end_behind(leaf)?;
                break;
            }
        }
        Ok(entries)
    }

    /// [`ListPage::entries`], each of which is made of its own record alone: these are read many at once, as many as are
    /// held by their bytes. `read` is asked about those too whose body is gone by a record that says so.
    ///
    /// # Errors
    /// Those of `read`, but for damage behind a leaf that can be read.
    pub(crate) fn records<T>(
        &mut self,
        ledger: &Ledger,
        tenant: &Arc<Tenant>,
        mut read: impl FnMut(&Record) -> Result<Option<(T, usize)>, ApiError>,
    ) -> Result<Vec<T>, ApiError> {
        let (mut entries, mut bytes) = (Vec::with_capacity(self.leaves.len()), 0);
        let (mut looked, mut ended) = (0_usize, None);
        let records = ledger.records(tenant);
        records.each_listed(
            &self.leaves,
            |_, _| true,
            |record| {
                looked += 1;
                let found = if is_unexplained(ledger, tenant, &record)? {
                    None
                } else {
                    match read(&record) {
                        Err(error) if error.code == "damaged" => None,
                        found => Some(found?),
                    }
                };
                match found {
                    None => self.damaged.push(DamagedEntry::of(tenant, &record)?),
                    Some(Some((entry, text))) => {
                        entries.push(entry);
                        bytes += text;
                    }
                    Some(None) => {}
                }
                if bytes > PAGE_TEXT_BYTES_MAX && looked < self.leaves.len() {
                    ended = Some(record.leaf);
                    return Ok::<_, ApiError>(ControlFlow::Break(()));
                }
                Ok(ControlFlow::Continue(()))
            },
        )?;
        if let Some(leaf) = ended {
            self.end_behind(leaf)?;
        }
        Ok(entries)
    }

    /// The page ends before its limit: the next begins behind this leaf.
    fn end_behind(&mut self, leaf: LeafKey) -> Result<(), ApiError> {
        let at: Position = (leaf.as_i64(), 0, self.total, self.total_exact);
        let scope = (self.list, &self.filters_applied);
        self.next_cursor = Some(cursor::encode(&scope, (self.ledger_no, self.as_of), &at)?);
        self.has_more = true;
        Ok(())
    }
}

/// Where a page ended: leaf, entries still to be passed over, and the total with whether it is exact.
type Position = (i64, u32, u64, bool);

/// Reads a page.
///
/// # Errors
/// 400 for limits, offsets and cursors that are none.
pub(crate) fn page(ledger: &Ledger, tenant: &Tenant, params: ListParams) -> Result<ListPage, ApiError> {
    let limit = extract::limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let offset = run_list::offset(params.offset, params.cursor.is_some())?;
    let mut filters_applied = params.filters;
    filters_applied.insert("tenant_id".into(), (&*tenant.tenant_id).into());
    let scope = (params.list, &filters_applied);
    let mut query = FacetQuery {
        facets: params.facets,
        offset,
        limit,
        newest_first: true,
        ..FacetQuery::default()
    };
    let store = ledger.store();
    let ledger_no = tenant.ledger().row.ledger_no;
    let (as_of, total, total_exact) = if let Some(text) = &params.cursor {
        let (as_of, (below, offset, total, exact)) = cursor::decode::<Position>(&scope, ledger_no, text)?;
        if params.as_of.is_some_and(|asked| asked != as_of) {
            return Err(run_list::bad(
                "query: as_of: the cursor was made at another tree size",
            ));
        }
        query.as_of = Some(LeafKey::new(ledger_no, as_of));
        query.below = Some(LeafKey::from_i64(below));
        query.offset = offset;
        (as_of, total, exact)
    } else {
        let as_of = run_list::as_of(ledger, tenant, params.as_of)?;
        query.as_of = Some(LeafKey::new(ledger_no, as_of));
        let (total, exact) = store.facet_count(tenant.tenant_no, &query, TOTAL_EXACT_MAX)?;
        (as_of, total, exact)
    };
    let found = store.facet_find(tenant.tenant_no, &query)?;
    let next_cursor = match found.next {
        Some(below) if found.has_more => {
            let at: Position = (below.as_i64(), found.offset, total, total_exact);
            Some(cursor::encode(&scope, (ledger_no, as_of), &at)?)
        }
        _ => None,
    };
    Ok(ListPage {
        list: params.list,
        ledger_no,
        has_more: next_cursor.is_some(),
        leaves: found.leaves,
        as_of,
        total,
        total_exact,
        next_cursor,
        filters_applied,
        damaged: Vec::new(),
    })
}
