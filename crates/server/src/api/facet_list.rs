//! Pages of records that share facets, newest first.
//!
//! As in lists of runs, the tree size of the first page and its total go with the
//! cursor, so that paging does not shift under new records.

use ledger::{Ledger, Tenant};
use store::{FacetQuery, LeafKey};

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

/// A page of leaves, and what every list says beside its entries.
#[derive(Debug)]
pub(crate) struct ListPage {
    pub(crate) leaves: Vec<LeafKey>,
    pub(crate) as_of: u64,
    pub(crate) total: u64,
    pub(crate) total_exact: bool,
    pub(crate) has_more: bool,
    pub(crate) next_cursor: Option<String>,
    pub(crate) filters_applied: Filters,
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
        let (as_of, (below, offset, total, exact)) = cursor::decode::<Position>(&scope, text)?;
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
            Some(cursor::encode(&scope, as_of, &at)?)
        }
        _ => None,
    };
    Ok(ListPage {
        has_more: next_cursor.is_some(),
        leaves: found.leaves,
        as_of,
        total,
        total_exact,
        next_cursor,
        filters_applied,
    })
}
