//! Reads that verification needs: one moment's heads and counts, and rows held against what leaves say.

use evidence::{Identity, hex_string};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::select::{RECORD_COLUMNS, head, ledger_range, run_record};
use super::{as_i64, as_u64, facets, runs, unavailable};
use crate::{ExpectedRows, LeafKey, RowMissing, RunRecordRow, Snapshot, StoreError, TraceKey};

pub(super) fn snapshot(c: &Connection, tenant_no: u32, only_ledger: bool) -> Result<Snapshot, StoreError> {
    let count = |sql: &str, params: &[i64]| -> Result<u64, StoreError> {
        let n: i64 = c
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row(params_from_iter(params), |row| row.get(0)))
            .map_err(unavailable)?;
        as_u64("count", n)
    };
    let mut snapshot = Snapshot::default();
    let ledgers: Vec<u32> = c
        .prepare_cached("SELECT ledger_no FROM ledgers WHERE tenant_no = ?1 ORDER BY ledger_no")
        .and_then(|mut s| s.query_map([tenant_no], |row| row.get(0))?.collect())
        .map_err(unavailable)?;
    for ledger_no in ledgers {
        let head = head(c, ledger_no)?;
        let (low, high) = ledger_range(ledger_no);
        let end = LeafKey::new(ledger_no, head.size.as_u64()).as_i64();
        let last: Option<i64> = c
            .prepare_cached("SELECT max(leaf) FROM bodies WHERE leaf BETWEEN ?1 AND ?2")
            .and_then(|mut s| s.query_row((low, high), |row| row.get(0)))
            .map_err(unavailable)?;
        if let Some(beyond) = last.filter(|&last| last >= end) {
            snapshot
                .bodies_beyond
                .push((ledger_no, LeafKey::from_i64(beyond).leaf_index()));
        }
        let nodes = count(
            "SELECT count(*) FROM tree_nodes WHERE ledger_no = ?1",
            &[i64::from(ledger_no)],
        )?;
        snapshot.nodes.push((ledger_no, nodes));
        snapshot.heads.push((ledger_no, head));
    }
    if only_ledger {
        return Ok(snapshot);
    }
    let (first, last) = runs::tenant_range(tenant_no);
    let tenant = i64::from(tenant_no);
    snapshot.rows.runs = count(
        "SELECT count(*) FROM runs WHERE run BETWEEN ?1 AND ?2",
        &[first, last],
    )?;
    snapshot.rows.run_records = count(
        "SELECT count(*) FROM run_records WHERE run BETWEEN ?1 AND ?2",
        &[first, last],
    )?;
    snapshot.rows.traces = count("SELECT count(*) FROM traces WHERE tenant_no = ?1", &[tenant])?;
    snapshot.rows.facets = count("SELECT count(*) FROM facets WHERE tenant_no = ?1", &[tenant])?;
    for &(ledger_no, _) in &snapshot.heads {
        let (low, high) = ledger_range(ledger_no);
        snapshot.rows.pruned += count(
            "SELECT count(*) FROM pruned WHERE first_leaf BETWEEN ?1 AND ?2",
            &[low, high],
        )?;
    }
    snapshot.rows.tenants = count("SELECT count(*) FROM tenants WHERE ?1 = 0", &[tenant])?;
    Ok(snapshot)
}

pub(super) fn missing(c: &Connection, expected: &ExpectedRows) -> Result<Vec<RowMissing>, StoreError> {
    let mut missing = Vec::new();
    run_records(c, &expected.run_records, &mut missing)?;
    let mut find = c
        .prepare_cached("SELECT run FROM traces WHERE tenant_no = ?1 AND trace_id = ?2")
        .map_err(unavailable)?;
    for (row, leaf) in &expected.traces {
        let read = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let run = match &row.trace {
            TraceKey::W3c(id) => find.query_row((expected.tenant_no, id.as_slice()), read),
            TraceKey::Text(id) => find.query_row((expected.tenant_no, id), read),
        }
        .optional();
        let found = match run {
            Ok(Some(run)) if run == row.run.as_i64() => continue,
            Ok(Some(run)) => run_named(c, expected.tenant_no, run),
            Ok(None) => String::new(),
            Err(error) => error.to_string(),
        };
        missing.push(RowMissing {
            place: "traces.run",
            leaf: *leaf,
            found,
        });
    }
    facets::missing(c, expected, &mut missing)?;
    let mut find = c
        .prepare_cached("SELECT tenant_id, leaf FROM tenants WHERE tenant_no = ?1")
        .map_err(unavailable)?;
    for row in &expected.tenants {
        let found = find
            .query_row([row.tenant_no], |found| {
                Ok((found.get::<_, String>(0)?, found.get::<_, i64>(1)?))
            })
            .optional();
        let found = match found {
            Ok(Some((id, leaf))) if id == row.tenant_id && leaf == row.leaf.as_i64() => continue,
            Ok(Some((id, leaf))) => format!("tenant {id} of leaf {}", LeafKey::from_i64(leaf).leaf_index()),
            Ok(None) => String::new(),
            Err(error) => error.to_string(),
        };
        missing.push(RowMissing {
            place: "tenants",
            leaf: row.leaf,
            found,
        });
    }
    let mut find = c
        .prepare_cached("SELECT last_leaf, by_leaf FROM pruned WHERE first_leaf = ?1")
        .map_err(unavailable)?;
    for row in &expected.pruned {
        let found = find
            .query_row([row.first.as_i64()], |found| {
                Ok((found.get::<_, i64>(0)?, found.get::<_, i64>(1)?))
            })
            .optional();
        let found = match found {
            Ok(Some((last, by))) if last == row.last.as_i64() && by == row.by.as_i64() => continue,
            Ok(Some((last, _))) => format!("up to leaf {}", LeafKey::from_i64(last).leaf_index()),
            Ok(None) => String::new(),
            Err(error) => error.to_string(),
        };
        missing.push(RowMissing {
            place: "pruned",
            leaf: row.by,
            found,
        });
    }
    Ok(missing)
}

/// A run as people name it. One of another tenant is not named: who reads the finding may know nothing of it.
fn run_named(c: &Connection, tenant_no: u32, run: i64) -> String {
    let run_id = c
        .prepare_cached("SELECT run_id FROM runs WHERE run = ?1 AND tenant_no = ?2")
        .and_then(|mut s| {
            s.query_row((run, tenant_no), |row| row.get::<_, String>(0))
                .optional()
        });
    match run_id {
        Ok(Some(run_id)) => format!("run {run_id:?}"),
        Ok(None) => "a run that the tenant does not have".into(),
        Err(error) => error.to_string(),
    }
}

/// Neighbours of one run are read in one go.
fn run_records(
    c: &Connection,
    expected: &[RunRecordRow],
    missing: &mut Vec<RowMissing>,
) -> Result<(), StoreError> {
    let mut statement = c
        .prepare_cached(&format!(
            "SELECT {RECORD_COLUMNS} FROM run_records WHERE run = ?1 AND run_seq BETWEEN ?2 AND ?3 ORDER BY run_seq"
        ))
        .map_err(unavailable)?;
    for rows in expected.chunk_by(|a, b| a.run == b.run && a.run_seq + 1 == b.run_seq) {
        let (first, last) = (rows[0].run_seq, rows[rows.len() - 1].run_seq);
        let mut found = statement
            .query((rows[0].run.as_i64(), as_i64(first), as_i64(last)))
            .map_err(unavailable)?;
        let mut next = found.next();
        for row in rows {
            // A row that is there in another form is read for its key alone.
            let seq = match &next {
                Ok(Some(at)) => at.get_ref(1).ok().and_then(|value| match value {
                    ValueRef::Integer(seq) => u64::try_from(seq).ok(),
                    _ => None,
                }),
                _ => None,
            };
            if seq != Some(row.run_seq) {
                missing.push(RowMissing {
                    place: "run_records",
                    leaf: row.leaf,
                    found: String::new(),
                });
                continue;
            }
            if let Ok(Some(at)) = &next {
                match run_record(at) {
                    Ok(there) if there == *row => {}
                    Ok(there) => {
                        let (place, found) = differing(&there, row);
                        missing.push(RowMissing {
                            place,
                            leaf: row.leaf,
                            found,
                        });
                    }
                    Err(error) => {
                        missing.push(RowMissing {
                            place: "run_records",
                            leaf: row.leaf,
                            found: error.to_string(),
                        });
                    }
                }
            }
            next = found.next();
        }
        if let Err(error) = next {
            return Err(unavailable(error));
        }
    }
    Ok(())
}

/// The first column that disagrees, and what stands in it.
fn differing(there: &RunRecordRow, row: &RunRecordRow) -> (&'static str, String) {
    let none = || "nothing".to_owned();
    if there.leaf != row.leaf {
        ("run_records.leaf", format!("leaf {}", there.leaf.leaf_index()))
    } else if there.kind != row.kind {
        ("run_records.kind", there.kind.as_str().to_owned())
    } else if there.identity != row.identity {
        let shown = |identity: Identity| hex_string(identity.as_bytes());
        ("run_records.identity", there.identity.map_or_else(none, shown))
    } else if there.step_index != row.step_index {
        let shown = |index: u32| format!("step {index}");
        (
            "run_records.step_index",
            there.step_index.map_or_else(none, shown),
        )
    } else {
        ("run_records.occurred_at", there.occurred_at.to_string())
    }
}
