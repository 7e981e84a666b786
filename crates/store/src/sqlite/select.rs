//! What reads are made of: rows by their keys, and what a row says.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};

use evidence::{Header, Identity, Kind, Timestamp};
use tlog::TreeSize;

use super::append::empty_head;
use super::{as_i64, as_u32, as_u64, damaged, hash, runs, thirty_two, unavailable};
use crate::codec::Leaves;
use crate::{
    BatchKnown, BatchQuery, BodyRef, CheckpointRow, Head, LeafBlock, LeafKey, OWNERS_MAX, RunKey,
    RunRecordRow, RunRow, StoreError, TraceKey, TraceRow,
};

pub(super) const RECORD_COLUMNS: &str = "run, run_seq, leaf, kind, identity, step_index, occurred_at";

/// The head is what the ledger's last block says.
pub(super) fn head(c: &Connection, ledger_no: u32) -> Result<Head, StoreError> {
    let last = c
        .prepare_cached(
            "SELECT first_leaf, leaf_count, tree_root FROM leaf_blocks
             WHERE first_leaf BETWEEN ?1 AND ?2 ORDER BY first_leaf DESC LIMIT 1",
        )
        .and_then(|mut s| {
            s.query_row(ledger_range(ledger_no), |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, Vec<u8>>(2)?,
                ))
            })
            .optional()
        })
        .map_err(unavailable)?;
    let Some((first, count, root)) = last else {
        return Ok(empty_head());
    };
    // A count that no block has is read as none: the leaves of the block disagree with it.
    let count = u32::try_from(count).unwrap_or(0);
    Ok(Head {
        size: TreeSize::new(LeafKey::from_i64(first).leaf_index() + u64::from(count)),
        root: hash(&root),
    })
}

/// Whether a leaf is in a stretch that was pruned.
pub(super) fn is_pruned(c: &Connection, leaf: LeafKey) -> Result<bool, StoreError> {
    let (first, _) = ledger_range(leaf.ledger_no());
    let last: Option<i64> = c
        .prepare_cached(
            "SELECT last_leaf FROM pruned WHERE first_leaf BETWEEN ?1 AND ?2
             ORDER BY first_leaf DESC LIMIT 1",
        )
        .and_then(|mut s| s.query_row((first, leaf.as_i64()), |row| row.get(0)).optional())
        .map_err(unavailable)?;
    Ok(last.is_some_and(|last| last >= leaf.as_i64()))
}

pub(super) fn lookup(c: &Connection, tenant_no: u32, query: &BatchQuery) -> Result<BatchKnown, StoreError> {
    let mut known = BatchKnown::default();
    let mut seen = std::collections::BTreeSet::new();
    let mut keys_by_id = std::collections::HashMap::new();
    for run_id in &query.run_ids {
        if let Some(row) = run_by_id(c, tenant_no, run_id)? {
            keys_by_id.insert(run_id.as_str(), row.key);
            if seen.insert(row.key) {
                known.runs.push(row);
            }
        }
    }
    let mut keys_by_trace = std::collections::HashMap::new();
    for trace in &query.traces {
        if let Some(key) = run_key_of_trace(c, tenant_no, trace)? {
            keys_by_trace.insert(trace, key);
            known.traces.push(TraceRow {
                trace: trace.clone(),
                run: key,
            });
            if seen.insert(key) {
                let row = run_by_key(c, key)?.ok_or_else(|| damaged("traces.run", "names no run"))?;
                known.runs.push(row);
            }
        }
    }
    let mut find = c
        .prepare_cached("SELECT leaf FROM run_records WHERE run = ?1 AND identity = ?2")
        .map_err(unavailable)?;
    let by_id = query
        .by_run_id
        .iter()
        .map(|(id, identity)| (keys_by_id.get(id.as_str()), identity));
    let by_trace = query
        .by_trace
        .iter()
        .map(|(trace, identity)| (keys_by_trace.get(trace), identity));
    for (key, identity) in by_id.chain(by_trace) {
        let Some(&key) = key else { continue };
        let leaf: Option<i64> = find
            .query_row((key.as_i64(), identity.as_bytes().as_slice()), |row| row.get(0))
            .optional()
            .map_err(unavailable)?;
        if let Some(leaf) = leaf {
            known.records.push((key, *identity, LeafKey::from_i64(leaf)));
        }
    }
    Ok(known)
}

pub(super) fn run_by_id(c: &Connection, tenant_no: u32, run_id: &str) -> Result<Option<RunRow>, StoreError> {
    let sql = format!(
        "SELECT {} FROM runs WHERE tenant_no = ?1 AND run_id = ?2",
        runs::COLUMNS
    );
    let mut statement = c.prepare_cached(&sql).map_err(unavailable)?;
    let mut found = statement.query((tenant_no, run_id)).map_err(unavailable)?;
    found.next().map_err(unavailable)?.map(runs::from_row).transpose()
}

pub(super) fn run_by_key(c: &Connection, key: RunKey) -> Result<Option<RunRow>, StoreError> {
    let sql = format!("SELECT {} FROM runs WHERE run = ?1", runs::COLUMNS);
    Ok(run_rows(c, &sql, &[key.as_i64()])?.pop())
}

pub(super) fn run_rows(c: &Connection, sql: &str, params: &[i64]) -> Result<Vec<RunRow>, StoreError> {
    let mut statement = c.prepare_cached(sql).map_err(unavailable)?;
    let mut found = statement.query(params_from_iter(params)).map_err(unavailable)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next().map_err(unavailable)? {
        rows.push(runs::from_row(row)?);
    }
    Ok(rows)
}

pub(super) fn run_key_of_trace(
    c: &Connection,
    tenant_no: u32,
    trace: &TraceKey,
) -> Result<Option<RunKey>, StoreError> {
    let mut statement = c
        .prepare_cached("SELECT run FROM traces WHERE tenant_no = ?1 AND trace_id = ?2")
        .map_err(unavailable)?;
    let read = |row: &Row<'_>| row.get(0);
    let key: Option<i64> = match trace {
        TraceKey::W3c(id) => statement.query_row((tenant_no, id.as_slice()), read),
        TraceKey::Text(id) => statement.query_row((tenant_no, id), read),
    }
    .optional()
    .map_err(unavailable)?;
    Ok(key.map(RunKey::from_i64))
}

pub(super) fn trace_key(row: &Row<'_>) -> Result<TraceKey, StoreError> {
    match row.get_ref(0).map_err(unavailable)? {
        ValueRef::Text(text) => std::str::from_utf8(text)
            .map(|text| TraceKey::Text(text.to_owned()))
            .map_err(|error| damaged("traces.trace_id", error)),
        ValueRef::Blob(bytes) => bytes
            .try_into()
            .map(TraceKey::W3c)
            .map_err(|_| damaged("traces.trace_id", "not 16 bytes")),
        _ => Err(damaged("traces.trace_id", "no id")),
    }
}

pub(super) fn records_of(
    c: &Connection,
    run: RunKey,
    from_seq: u64,
    limit: u32,
) -> Result<Vec<RunRecordRow>, StoreError> {
    let mut statement = c
        .prepare_cached(&format!(
            "SELECT {RECORD_COLUMNS} FROM run_records WHERE run = ?1 AND run_seq >= ?2 ORDER BY run_seq LIMIT ?3"
        ))
        .map_err(unavailable)?;
    let mut found = statement
        .query((run.as_i64(), as_i64(from_seq), limit))
        .map_err(unavailable)?;
    let mut records = Vec::new();
    while let Some(row) = found.next().map_err(unavailable)? {
        records.push(run_record(row)?);
    }
    Ok(records)
}

pub(super) fn run_record(row: &Row<'_>) -> Result<RunRecordRow, StoreError> {
    let get = |i: usize| {
        row.get::<_, i64>(i)
            .map_err(|error| damaged("run_records", error))
    };
    let identity = match row.get_ref(4).map_err(unavailable)? {
        ValueRef::Null => None,
        ValueRef::Blob(bytes) => Some(Identity::from_bytes(
            bytes
                .try_into()
                .map_err(|_| damaged("run_records.identity", "not 16 bytes"))?,
        )),
        _ => return Err(damaged("run_records.identity", "no blob")),
    };
    let kind = u8::try_from(get(3)?).ok().and_then(Kind::from_code);
    Ok(RunRecordRow {
        run: RunKey::from_i64(get(0)?),
        run_seq: as_u64("run_records.run_seq", get(1)?)?,
        leaf: LeafKey::from_i64(get(2)?),
        kind: kind.ok_or_else(|| damaged("run_records.kind", "no kind"))?,
        identity,
        step_index: row
            .get(5)
            .map_err(|error| damaged("run_records.step_index", error))?,
        occurred_at: Timestamp::from_micros(get(6)?)
            .ok_or_else(|| damaged("run_records.occurred_at", "no time"))?,
    })
}

pub(super) fn block(row: &Row<'_>) -> Result<LeafBlock, StoreError> {
    let first: i64 = row.get(0).map_err(unavailable)?;
    Ok(LeafBlock {
        first: LeafKey::from_i64(first).leaf_index(),
        count: u32::try_from(row.get::<_, i64>(1).map_err(unavailable)?).unwrap_or(0),
        root: hash(blob(row, 2)?),
        leaves: blob(row, 3)?.to_vec(),
    })
}

/// Leaves that stand together, one of them that which was asked for, and the index of the first; none: it is not there.
pub(super) fn leaves_around(c: &Connection, leaf: LeafKey) -> Result<Option<(u64, Leaves)>, StoreError> {
    let (low, _) = ledger_range(leaf.ledger_no());
    let mut statement = c
        .prepare_cached(
            "SELECT first_leaf, leaf_count, leaves FROM leaf_blocks
             WHERE first_leaf BETWEEN ?1 AND ?2 ORDER BY first_leaf DESC LIMIT 1",
        )
        .map_err(unavailable)?;
    let mut found = statement.query((low, leaf.as_i64())).map_err(unavailable)?;
    let Some(row) = found.next().map_err(unavailable)? else {
        return Ok(None);
    };
    let first = LeafKey::from_i64(row.get(0).map_err(unavailable)?).leaf_index();
    let count = u32::try_from(row.get::<_, i64>(1).map_err(unavailable)?).unwrap_or(0);
    let place = leaf.leaf_index().saturating_sub(first);
    let Some(place) = u32::try_from(place).ok().filter(|place| *place < count) else {
        return Ok(None);
    };
    let (before, leaves) = Leaves::unpack_around(blob(row, 2)?, count, place)
        .map_err(|error| damaged("leaf_blocks.leaves", format!("block of leaf {first}: {error}")))?;
    Ok(Some((first + u64::from(before), leaves)))
}

/// The index of a ledger's first leaf that was recorded at that moment or later; of none, the ledger's size.
///
/// Runs are found by when they were recorded and say where they begin: the search goes on between the two at that
/// moment, which mostly are neighbours.
pub(super) fn leaf_since(c: &Connection, ledger_no: u32, at: Timestamp) -> Result<u64, StoreError> {
    let size = head(c, ledger_no)?.size.as_u64();
    let run = |sql: &str| -> Result<Option<u64>, StoreError> {
        let leaf: Option<i64> = c
            .prepare_cached(sql)
            .and_then(|mut s| {
                s.query_row((ledger_no, at.as_micros()), |row| row.get(0))
                    .optional()
            })
            .map_err(unavailable)?;
        let leaf = leaf.map(LeafKey::from_i64);
        // Of another epoch it says nothing of this one's order.
        let leaf = leaf.filter(|leaf| leaf.ledger_no() == ledger_no && leaf.leaf_index() < size);
        Ok(leaf.map(LeafKey::leaf_index))
    };
    let before = run("SELECT started_leaf FROM runs
         WHERE tenant_no = (SELECT tenant_no FROM ledgers WHERE ledger_no = ?1) AND created_at < ?2
         ORDER BY created_at DESC, run DESC LIMIT 1")?;
    let since = run("SELECT started_leaf FROM runs
         WHERE tenant_no = (SELECT tenant_no FROM ledgers WHERE ledger_no = ?1) AND created_at >= ?2
         ORDER BY created_at, run LIMIT 1")?;
    let mut low = before.map_or(0, |leaf| leaf + 1);
    let mut high = since.unwrap_or(size).max(low);
    while low < high {
        let middle = low + (high - low) / 2;
        let key = LeafKey::new(ledger_no, middle);
        let (first, leaves) =
            leaves_around(c, key)?.ok_or_else(|| damaged("leaf_blocks", "a leaf is missing"))?;
        let is_before = |place: usize| -> Result<bool, StoreError> {
            let leaf = leaves.get(place).unwrap_or_default();
            let header = Header::decode(leaf).map_err(|error| damaged("leaf_blocks.leaves", error))?;
            Ok(header.recorded_at < at)
        };
        let (mut place, mut end) = (0, leaves.len());
        while place < end {
            let middle = usize::midpoint(place, end);
            if is_before(middle)? {
                place = middle + 1;
            } else {
                end = middle;
            }
        }
        let found = first + u64::try_from(place).unwrap_or(0);
        if place == 0 {
            high = first.max(low);
        } else if place == leaves.len() {
            low = found;
        } else {
            return Ok(found);
        }
    }
    Ok(low)
}

pub(super) fn body<'r>(row: &'r Row<'_>) -> Result<BodyRef<'r>, StoreError> {
    Ok(BodyRef {
        leaf: LeafKey::from_i64(row.get(0).map_err(unavailable)?),
        salt: thirty_two(blob(row, 1)?),
        body: blob(row, 2)?,
    })
}

pub(super) fn blob<'r>(row: &'r Row<'_>, i: usize) -> Result<&'r [u8], StoreError> {
    row.get_ref(i)
        .map_err(unavailable)?
        .as_blob()
        .map_err(|error| damaged("blob column", error))
}

pub(super) fn checkpoints(
    c: &Connection,
    sql: &str,
    params: &[i64],
) -> Result<Vec<CheckpointRow>, StoreError> {
    let mut statement = c.prepare_cached(sql).map_err(unavailable)?;
    let mut found = statement.query(params_from_iter(params)).map_err(unavailable)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next().map_err(unavailable)? {
        let size: i64 = row.get(0).map_err(unavailable)?;
        rows.push(CheckpointRow {
            size: TreeSize::new(as_u64("checkpoints.tree_size", size)?),
            note: row.get(1).map_err(|error| damaged("checkpoints.note", error))?,
        });
    }
    Ok(rows)
}

pub(super) fn rows<T>(
    c: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = c.prepare_cached(sql).map_err(unavailable)?;
    let found = statement.query_map(params, read).map_err(unavailable)?;
    found.collect::<Result<_, _>>().map_err(unavailable)
}

/// A ledger's or tenant's number as stored; one that no key has room for is damage.
pub(super) fn owner(place: &'static str, number: i64) -> Result<u32, StoreError> {
    as_u32(place, number)
        .ok()
        .filter(|&number| number <= OWNERS_MAX)
        .ok_or_else(|| damaged(place, "out of range"))
}

/// The first and last key a ledger's leaves can have.
pub(super) fn ledger_range(ledger_no: u32) -> (i64, i64) {
    (
        LeafKey::new(ledger_no, 0).as_i64(),
        LeafKey::new(ledger_no, u64::MAX).as_i64(),
    )
}
