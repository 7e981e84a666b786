//! Lists of records by facet: ordinals when written, pages, counts, and what verification asks.
//!
//! Nothing here scans: a page of one facet is a range of its key, several facets
//! are followed side by side (each seeks to where the others are, "leapfrog"), and
//! a time becomes a leaf by binary search over blocks, as `recorded_at` never runs
//! backwards within a ledger.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Transaction};

use super::select::{leaf_since, ledger_range};
use super::{as_u64, damaged, unavailable};
use crate::{
    ErasedRow, ExpectedRows, FACET_SEEKS_MAX, FacetPage, FacetQuery, FacetRow, LeafKey, RowMissing,
    StoreError,
};

/// Writes rows and their ordinals.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    tenant_no: u32,
    rows: &[FacetRow],
) -> rusqlite::Result<()> {
    let mut newest = transaction.prepare_cached(
        "SELECT n FROM facets WHERE tenant_no = ?1 AND facet = ?2 AND leaf < ?3 ORDER BY leaf DESC LIMIT 1",
    )?;
    let mut insert = transaction.prepare_cached("INSERT INTO facets VALUES (?1, ?2, ?3, ?4)")?;
    let mut last: Option<(&FacetRow, i64)> = None;
    for row in rows {
        let n = match last {
            Some((before, n)) if before.facet == row.facet && before.leaf < row.leaf => Some(n),
            _ => newest
                .query_row((tenant_no, &row.facet, row.leaf.as_i64()), |found| found.get(0))
                .optional()?,
        };
        let n = n.map_or(0, |n| n.saturating_add(1));
        insert.execute((tenant_no, &row.facet, row.leaf.as_i64(), n))?;
        last = Some((row, n));
    }
    Ok(())
}

/// Rows in the order of their key.
pub(super) fn rows(
    c: &Connection,
    tenant_no: u32,
    after: Option<&FacetRow>,
    limit: u32,
) -> Result<Vec<FacetRow>, StoreError> {
    let mut statement = c
        .prepare_cached(
            "SELECT facet, leaf FROM facets WHERE tenant_no = ?1 AND (facet, leaf) > (?2, ?3)
             ORDER BY facet, leaf LIMIT ?4",
        )
        .map_err(unavailable)?;
    // No facet is empty.
    let (facet, leaf) = after.map_or(("", 0), |row| (row.facet.as_str(), row.leaf.as_i64()));
    let mut found = statement
        .query((tenant_no, facet, leaf, limit))
        .map_err(unavailable)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next().map_err(unavailable)? {
        rows.push(FacetRow {
            facet: row.get(0).map_err(|error| damaged("facets.facet", error))?,
            leaf: LeafKey::from_i64(row.get(1).map_err(|error| damaged("facets.leaf", error))?),
        });
    }
    Ok(rows)
}

/// Takes records out of lists and puts them into others, wherever their leaves stand in them. A list is then as if
/// they had never been there: a gap in its ordinals would tell which record of that place was taken out, and so what
/// its body said.
///
/// Cost follows the lists behind the first change in each, once, about 1 µs a record.
pub(super) fn change(
    transaction: &Transaction<'_>,
    tenant_no: u32,
    rows: &[ErasedRow],
) -> rusqlite::Result<()> {
    let mut delete =
        transaction.prepare_cached("DELETE FROM facets WHERE tenant_no = ?1 AND facet = ?2 AND leaf = ?3")?;
    let mut insert = transaction.prepare_cached("INSERT INTO facets VALUES (?1, ?2, ?3, 0)")?;
    // The first leaf of each list that changed.
    let mut changed: BTreeMap<&str, i64> = BTreeMap::new();
    for row in rows {
        let leaf = row.leaf.as_i64();
        let mut changes = |facet| {
            let first = changed.entry(facet).or_insert(leaf);
            *first = leaf.min(*first);
        };
        for facet in &row.facets_gained {
            insert.execute((tenant_no, facet, leaf))?;
            changes(facet);
        }
        for facet in &row.facets_lost {
            if delete.execute((tenant_no, facet, leaf))? > 0 {
                changes(facet);
            }
        }
    }
    let mut before = transaction.prepare_cached(
        "SELECT n FROM facets WHERE tenant_no = ?1 AND facet = ?2 AND leaf < ?3 ORDER BY leaf DESC LIMIT 1",
    )?;
    let mut number = transaction.prepare_cached(
        "UPDATE facets SET n = numbered.n FROM (
           SELECT leaf AS at, ?4 + row_number() OVER (ORDER BY leaf) AS n FROM facets
           WHERE tenant_no = ?1 AND facet = ?2 AND leaf >= ?3) AS numbered
         WHERE tenant_no = ?1 AND facet = ?2 AND leaf = numbered.at AND facets.n <> numbered.n",
    )?;
    for (facet, first) in changed {
        let n: Option<i64> = before
            .query_row((tenant_no, facet, first), |found| found.get(0))
            .optional()?;
        number.execute((tenant_no, facet, first, n.unwrap_or(-1)))?;
    }
    Ok(())
}

/// A place in a facet's list.
#[derive(Clone, Copy)]
struct Place {
    leaf: i64,
    n: i64,
}

/// Leaf keys, both inclusive.
#[derive(Clone, Copy, Debug)]
struct Range {
    low: i64,
    high: i64,
}

/// The facets of a query, and what was spent on them.
struct Lists<'a> {
    c: &'a Connection,
    tenant_no: u32,
    facets: &'a [String],
    newest_first: bool,
    newest: CachedStatement<'a>,
    oldest: CachedStatement<'a>,
    seeks: u32,
}

/// Where several facets meet next.
enum Met {
    At(i64),
    Nowhere,
    /// The search was ended here, before this leaf was looked at.
    Ended(i64),
}

pub(super) fn find(c: &Connection, tenant_no: u32, query: &FacetQuery) -> Result<FacetPage, StoreError> {
    let mut ranges = ranges(c, tenant_no, query, query.below)?;
    if query.newest_first {
        ranges.reverse();
    }
    let mut lists = Lists::of(c, tenant_no, query)?;
    match query.facets.len() {
        _ if query.limit == 0 => Ok(FacetPage::default()),
        0 => Ok(FacetPage::default()),
        1 => lists.page_of_one(&ranges, query),
        _ => lists.page_of_several(&ranges, query),
    }
}

pub(super) fn count(
    c: &Connection,
    tenant_no: u32,
    query: &FacetQuery,
    max: u32,
) -> Result<(u64, bool), StoreError> {
    let ranges = ranges(c, tenant_no, query, None)?;
    let mut lists = Lists::of(c, tenant_no, query)?;
    let mut count = 0_u64;
    if query.facets.len() == 1 {
        for range in ranges {
            if let Some((first, last)) = lists.ends(range)? {
                count += ordinals(first, last)?;
            }
        }
        return Ok((count, true));
    }
    if query.facets.is_empty() {
        return Ok((0, true));
    }
    for mut range in ranges {
        loop {
            match lists.meet(range)? {
                Met::Nowhere => break,
                Met::Ended(_) => return Ok((count, false)),
                Met::At(_) if count >= u64::from(max) => return Ok((count, false)),
                Met::At(leaf) => {
                    count += 1;
                    range = lists.beyond(range, leaf);
                }
            }
        }
    }
    Ok((count, true))
}

/// How many rows lie from one place to the other, both included.
fn ordinals(first: Place, last: Place) -> Result<u64, StoreError> {
    as_u64("facets.n", last.n.saturating_sub(first.n).saturating_add(1))
}

/// The parts of the tenant's leaves that a query is about, ascending; empty ones are left out.
fn ranges(
    c: &Connection,
    tenant_no: u32,
    query: &FacetQuery,
    cursor: Option<LeafKey>,
) -> Result<Vec<Range>, StoreError> {
    let (mut low, mut high) = (0, i64::MAX);
    if let Some(as_of) = query.as_of {
        high = as_of.as_i64().saturating_sub(1);
    }
    match cursor {
        Some(cursor) if query.newest_first => high = high.min(cursor.as_i64().saturating_sub(1)),
        Some(cursor) => low = cursor.as_i64().saturating_add(1),
        None => {}
    }
    let mut ranges = Vec::new();
    if query.after.is_none() && query.before.is_none() {
        ranges.push(Range { low, high });
    } else {
        // Ledger by ledger: each keeps its own order of times, and a recovered one may know less than the next.
        let ledgers: Vec<u32> = c
            .prepare_cached("SELECT ledger_no FROM ledgers WHERE tenant_no = ?1 ORDER BY ledger_no")
            .and_then(|mut s| s.query_map([tenant_no], |row| row.get(0))?.collect())
            .map_err(unavailable)?;
        for ledger_no in ledgers {
            let (first, last) = ledger_range(ledger_no);
            if last < low || first > high {
                continue;
            }
            let since = |at| leaf_since(c, ledger_no, at).map(|leaf| LeafKey::new(ledger_no, leaf).as_i64());
            let from = query.after.map(since).transpose()?;
            let end = query.before.map(since).transpose()?;
            ranges.push(Range {
                low: low.max(from.unwrap_or(first)),
                high: high.min(end.map_or(last, |end| end - 1)),
            });
        }
    }
    ranges.retain(|range| range.low <= range.high);
    Ok(ranges)
}

impl<'a> Lists<'a> {
    fn of(c: &'a Connection, tenant_no: u32, query: &'a FacetQuery) -> Result<Self, StoreError> {
        // Prepared once for all seeks of a query.
        let seek = |order: &str| {
            c.prepare_cached(&format!(
                "SELECT leaf, n FROM facets WHERE tenant_no = ?1 AND facet = ?2 AND leaf BETWEEN ?3 AND ?4
                 ORDER BY leaf {order} LIMIT 1"
            ))
            .map_err(unavailable)
        };
        Ok(Self {
            c,
            tenant_no,
            facets: &query.facets,
            newest_first: query.newest_first,
            newest: seek("DESC")?,
            oldest: seek("ASC")?,
            seeks: 0,
        })
    }

    /// The newest, or oldest, row of a facet in a range.
    fn seek(&mut self, facet: usize, range: Range, newest: bool) -> Result<Option<Place>, StoreError> {
        self.seeks += 1;
        let statement = if newest {
            &mut self.newest
        } else {
            &mut self.oldest
        };
        statement
            .query_row(
                (self.tenant_no, &self.facets[facet], range.low, range.high),
                |row| {
                    Ok(Place {
                        leaf: row.get(0)?,
                        n: row.get(1)?,
                    })
                },
            )
            .optional()
            .map_err(unavailable)
    }

    /// The oldest and the newest row of the only facet in a range.
    fn ends(&mut self, range: Range) -> Result<Option<(Place, Place)>, StoreError> {
        let first = self.seek(0, range, false)?;
        let last = self.seek(0, range, true)?;
        Ok(first.zip(last))
    }

    /// What is left of a range after a leaf, in the order asked for.
    fn beyond(&self, range: Range, leaf: i64) -> Range {
        if self.newest_first {
            Range {
                high: leaf.saturating_sub(1),
                ..range
            }
        } else {
            Range {
                low: leaf.saturating_add(1),
                ..range
            }
        }
    }

    fn page_of_one(&mut self, ranges: &[Range], query: &FacetQuery) -> Result<FacetPage, StoreError> {
        let mut leaves = Vec::new();
        let mut offset = u64::from(query.offset);
        let wanted = u64::from(query.limit) + 1;
        for &range in ranges {
            let mut range = range;
            if offset > 0 {
                let Some((first, last)) = self.ends(range)? else {
                    continue;
                };
                let count = ordinals(first, last)?;
                if count <= offset {
                    offset -= count;
                    continue;
                }
                let passed = i64::try_from(offset).unwrap_or(i64::MAX);
                if query.newest_first {
                    range.high = self.leaf_of(range, last.n.saturating_sub(passed))?;
                } else {
                    range.low = self.leaf_of(range, first.n.saturating_add(passed))?;
                }
                offset = 0;
            }
            let order = if query.newest_first { "DESC" } else { "ASC" };
            let sql = format!(
                "SELECT leaf FROM facets WHERE tenant_no = ?1 AND facet = ?2 AND leaf BETWEEN ?3 AND ?4
                 ORDER BY leaf {order} LIMIT ?5"
            );
            let missing = wanted - u64::try_from(leaves.len()).unwrap_or(wanted);
            let mut statement = self.c.prepare_cached(&sql).map_err(unavailable)?;
            let found = statement
                .query_map(
                    (
                        self.tenant_no,
                        &self.facets[0],
                        range.low,
                        range.high,
                        super::as_i64(missing),
                    ),
                    |row| row.get(0).map(LeafKey::from_i64),
                )
                .map_err(unavailable)?;
            for leaf in found {
                leaves.push(leaf.map_err(unavailable)?);
            }
            if u64::try_from(leaves.len()).unwrap_or(wanted) >= wanted {
                break;
            }
        }
        Ok(page(leaves, query.limit))
    }

    /// The leaf of the row with that ordinal. Ordinals ascend with leaves, so halving finds it, in at most as
    /// many seeks as a key has bits.
    fn leaf_of(&mut self, range: Range, n: i64) -> Result<i64, StoreError> {
        let (mut low, mut high) = (range.low, range.high);
        while low < high {
            let middle = low + (high - low) / 2;
            let part = Range {
                low: range.low,
                high: middle,
            };
            match self.seek(0, part, true)? {
                Some(place) if place.n >= n => high = place.leaf,
                _ => low = middle + 1,
            }
        }
        Ok(low)
    }

    fn page_of_several(&mut self, ranges: &[Range], query: &FacetQuery) -> Result<FacetPage, StoreError> {
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let mut leaves = Vec::new();
        let mut offset = query.offset;
        for &range in ranges {
            let mut range = range;
            loop {
                match self.meet(range)? {
                    Met::Nowhere => break,
                    Met::Ended(leaf) => {
                        // The leaf itself comes next.
                        let cursor = if self.newest_first { leaf + 1 } else { leaf - 1 };
                        return Ok(FacetPage {
                            leaves,
                            has_more: true,
                            next: Some(LeafKey::from_i64(cursor)),
                            offset,
                        });
                    }
                    Met::At(leaf) => {
                        if offset > 0 {
                            offset -= 1;
                        } else {
                            leaves.push(LeafKey::from_i64(leaf));
                        }
                        if leaves.len() > limit {
                            return Ok(page(leaves, query.limit));
                        }
                        range = self.beyond(range, leaf);
                    }
                }
            }
        }
        Ok(page(leaves, query.limit))
    }

    /// The next leaf of a range that is in every list.
    fn meet(&mut self, range: Range) -> Result<Met, StoreError> {
        let Range { mut low, mut high } = range;
        let (mut facet, mut agreed) = (0, 0);
        while low <= high {
            let at = if self.newest_first { high } else { low };
            if self.seeks >= FACET_SEEKS_MAX {
                return Ok(Met::Ended(at));
            }
            let Some(place) = self.seek(facet, Range { low, high }, self.newest_first)? else {
                return Ok(Met::Nowhere);
            };
            agreed = if place.leaf == at { agreed + 1 } else { 1 };
            if agreed == self.facets.len() {
                return Ok(Met::At(place.leaf));
            }
            if self.newest_first {
                high = place.leaf;
            } else {
                low = place.leaf;
            }
            facet = (facet + 1) % self.facets.len();
        }
        Ok(Met::Nowhere)
    }
}

/// A page of what was found, of which one leaf too many says that there is more.
fn page(mut leaves: Vec<LeafKey>, limit: u32) -> FacetPage {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = leaves.len() > limit;
    leaves.truncate(limit);
    let next = leaves.last().copied().filter(|_| has_more);
    FacetPage {
        leaves,
        has_more,
        next,
        offset: 0,
    }
}

/// Which rows are not there, or do not follow their predecessor. With all rows there, and none besides, ordinals
/// that follow one another are right.
pub(super) fn missing(
    c: &Connection,
    expected: &ExpectedRows,
    missing: &mut Vec<RowMissing>,
) -> Result<(), StoreError> {
    let mut find = c
        .prepare_cached(
            "SELECT leaf, n FROM facets WHERE tenant_no = ?1 AND facet = ?2 AND leaf <= ?3
             ORDER BY leaf DESC LIMIT 2",
        )
        .map_err(unavailable)?;
    for row in &expected.facets {
        let found: Vec<(i64, i64)> = find
            .query_map((expected.tenant_no, &row.facet, row.leaf.as_i64()), |found| {
                Ok((found.get(0)?, found.get(1)?))
            })
            .and_then(Iterator::collect)
            .map_err(unavailable)?;
        let (place, found) = match found.as_slice() {
            [(leaf, n), before @ ..] if *leaf == row.leaf.as_i64() => {
                let follows = before.first().map_or(0, |(_, before)| before.saturating_add(1));
                if *n == follows {
                    continue;
                }
                ("facets.n", format!("{n} of {} after {}", row.facet, follows - 1))
            }
            _ => ("facets", String::new()),
        };
        missing.push(RowMissing {
            place,
            leaf: row.leaf,
            found,
        });
    }
    Ok(())
}
