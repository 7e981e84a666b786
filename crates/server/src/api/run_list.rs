//! Lists of runs: filters, pages, totals.
//!
//! A page is found by an index and starts where the last one ended; the tree
//! size of the first page goes with the cursor, and so does the total, which is
//! counted once.
//!
//! Source: SPEC 2.6, 5.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use evidence::Timestamp;
use ledger::{Ledger, Tenant};
use serde_json::Value;
use store::{LeafKey, RunKey, RunQuery, RunRow};

use crate::{ApiError, cursor, extract};

/// Entries of a page when no limit is given (SPEC 5).
pub(crate) const LIMIT_DEFAULT: u32 = 50;

/// Most entries of a page (SPEC 5).
pub(crate) const LIMIT_MAX: u32 = 500;

/// Most entries passed over by `offset`: each is read and thrown away, 10,000 take a few milliseconds (SPEC 5).
pub(crate) const OFFSET_MAX: u64 = 10_000;

/// Filtered totals are counted up to here, so that counting costs no more than a page (SPEC 5).
pub(crate) const TOTAL_EXACT_MAX: u32 = 10_000;

/// Which page.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageParams {
    pub(crate) limit: Option<u32>,
    pub(crate) offset: Option<u64>,
    pub(crate) cursor: Option<String>,
    pub(crate) as_of: Option<u64>,
}

/// A page of runs, and what every list says beside its entries.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) rows: Vec<RunRow>,
    pub(crate) as_of: u64,
    pub(crate) total: u64,
    pub(crate) total_exact: bool,
    pub(crate) has_more: bool,
    pub(crate) next_cursor: Option<String>,
    pub(crate) filters_applied: Filters,
}

/// Filters by name, as given.
pub(crate) type Filters = BTreeMap<String, Value>;

/// Where a page ended: created_at, key, and the total with whether it is exact.
type Position = (i64, i64, u64, bool);

/// Leaves of the ledger that is written to, now.
pub(crate) fn tree_size(ledger: &Ledger, tenant: &Tenant) -> Result<u64, ApiError> {
    Ok(ledger
        .store()
        .head_read(tenant.ledger().row.ledger_no)?
        .size
        .as_u64())
}

/// The tree size a read is made at: that asked for, or the present one.
///
/// # Errors
/// 400 when the tree is not that large yet.
pub(crate) fn as_of(ledger: &Ledger, tenant: &Tenant, asked: Option<u64>) -> Result<u64, ApiError> {
    within(asked, tree_size(ledger, tenant)?)
}

/// The tree size asked for, of a tree of that size; its own when none is.
///
/// # Errors
/// 400 when the tree is not that large yet.
pub(crate) fn within(asked: Option<u64>, size: u64) -> Result<u64, ApiError> {
    named_within("as_of", asked, size)
}

/// The same of the instance's ledger, which a read shows beside the tenant's.
///
/// # Errors
/// 400 when it is not that large yet.
pub(crate) fn instance_as_of(
    ledger: &Ledger,
    instance: &Tenant,
    asked: Option<u64>,
) -> Result<u64, ApiError> {
    named_within("instance_as_of", asked, tree_size(ledger, instance)?)
}

fn named_within(name: &str, asked: Option<u64>, size: u64) -> Result<u64, ApiError> {
    match asked {
        Some(asked) if asked > size => Err(bad(format!("query: {name}: the tree has {size} leaves"))),
        asked => Ok(asked.unwrap_or(size)),
    }
}

/// 400 of one parameter.
pub(crate) fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "bad_parameter", message)
}

/// Reads a page of the list of that name. Of `query` only the filters count; `filters` are the same as given.
pub(crate) fn page(
    ledger: &Ledger,
    tenant: &Tenant,
    list: &str,
    mut query: RunQuery,
    filters: Filters,
    params: &PageParams,
) -> Result<Page, ApiError> {
    query.tenant_no = tenant.tenant_no;
    query.limit = extract::limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    query.offset = offset(params.offset, params.cursor.is_some())?;
    let mut filters_applied = Filters::new();
    filters_applied.insert("tenant_id".into(), Value::from(&*tenant.tenant_id));
    let filtered = !filters.is_empty();
    filters_applied.extend(filters);
    let asked_again = (list, &filters_applied);
    let store = ledger.store();
    let ledger_no = tenant.ledger().row.ledger_no;
    let (as_of, total, total_exact) = if let Some(cursor) = &params.cursor {
        let (as_of, (at, key, total, exact)) = cursor::decode::<Position>(&asked_again, ledger_no, cursor)?;
        if params.as_of.is_some_and(|asked| asked != as_of) {
            return Err(bad("query: as_of: the cursor was made at another tree size"));
        }
        let at = Timestamp::from_micros(at).ok_or_else(|| bad("query: cursor: no time"))?;
        query.after = Some((at, RunKey::from_i64(key)));
        query.as_of = Some(LeafKey::new(ledger_no, as_of));
        (as_of, total, exact)
    } else {
        let as_of = as_of(ledger, tenant, params.as_of)?;
        query.as_of = Some(LeafKey::new(ledger_no, as_of));
        let (total, exact) = total(ledger, &query, filtered, params.as_of.is_none())?;
        (as_of, total, exact)
    };
    let page = store.runs_list(&query)?;
    let next_cursor = match page.rows.last() {
        Some(last) if page.has_more => {
            let at: Position = (
                last.state.created_at.as_micros(),
                last.key.as_i64(),
                total,
                total_exact,
            );
            Some(cursor::encode(&asked_again, (ledger_no, as_of), &at)?)
        }
        _ => None,
    };
    let has_more = page.has_more;
    Ok(Page {
        rows: page.rows,
        as_of,
        total,
        total_exact,
        has_more,
        next_cursor,
        filters_applied,
    })
}

/// How many runs a query finds, and whether that is exact. `newest`: the tree size is the present one.
fn total(ledger: &Ledger, query: &RunQuery, filtered: bool, newest: bool) -> Result<(u64, bool), ApiError> {
    let store = ledger.store();
    if !filtered {
        return Ok((store.runs_total(query.tenant_no, query.as_of)?, true));
    }
    // Everything is before the present size: then an index alone tells the count.
    let as_of = query.as_of.filter(|_| !newest);
    let counted = RunQuery {
        as_of,
        ..query.clone()
    };
    let count = store.runs_count(&counted, TOTAL_EXACT_MAX + 1)?;
    Ok((u64::from(count.min(TOTAL_EXACT_MAX)), count <= TOTAL_EXACT_MAX))
}

/// How many entries are passed over.
///
/// # Errors
/// 400 `use_cursor` beyond [`OFFSET_MAX`]; 400 beside a cursor.
pub(crate) fn offset(given: Option<u64>, beside_cursor: bool) -> Result<u32, ApiError> {
    let offset = given.unwrap_or(0);
    if offset > OFFSET_MAX {
        let message =
            format!("query: offset: at most {OFFSET_MAX}; go on with `cursor`, which next_cursor gives");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "use_cursor", message));
    }
    if offset > 0 && beside_cursor {
        return Err(bad("query: offset: not beside a cursor"));
    }
    u32::try_from(offset).map_err(|error| ApiError::internal(&error))
}

/// The filters that are given, as lists show them.
pub(crate) fn given(filters: &[(&str, Option<Value>)]) -> Filters {
    filters
        .iter()
        .filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)))
        .collect()
}

/// A filter as lists show it.
pub(crate) fn shown<T: ToString>(value: Option<&T>) -> Option<Value> {
    value.map(|value| Value::from(value.to_string()))
}
