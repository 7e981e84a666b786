//! Reading: each method of [`Store`] in one transaction.

use std::ops::ControlFlow;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};

use evidence::{Finding, Identity, Kind, Timestamp};
use tlog::{Hash, TreeSize};

use super::append::empty_head;
use super::{SqliteStore, as_i64, as_u32, as_u64, damaged, facets, hash, runs, thirty_two, unavailable};
use crate::{
    AppendError, Batch, BatchKnown, BatchQuery, BodyRef, BodyRow, CheckpointRow, ExpectedRows, FacetPage,
    FacetQuery, FacetRow, Gone, Head, LeafBlock, LeafKey, LedgerRow, OWNERS_MAX, RowMissing, RunKey, RunPage,
    RunQuery, RunRecordRow, RunRow, Scrubbed, Snapshot, Store, StoreError, TenantRow, TraceKey, TraceRow,
};

impl Store for SqliteStore {
    fn ledgers_list(&self) -> Result<Vec<LedgerRow>, StoreError> {
        self.read(|c| {
            rows(
                c,
                "SELECT ledger_no, tenant_no, tenant_id, epoch, origin, vkey FROM ledgers ORDER BY ledger_no",
                (),
                |row| {
                    Ok((
                        row.get::<_, i64>(0)?,
                        row.get::<_, i64>(1)?,
                        row.get(2)?,
                        row.get::<_, i64>(3)?,
                        row.get(4)?,
                        row.get(5)?,
                    ))
                },
            )?
            .into_iter()
            .map(|(ledger_no, tenant_no, tenant_id, epoch, origin, vkey)| {
                Ok(LedgerRow {
                    ledger_no: owner("ledgers.ledger_no", ledger_no)?,
                    tenant_no: owner("ledgers.tenant_no", tenant_no)?,
                    tenant_id,
                    epoch: as_u32("ledgers.epoch", epoch)?,
                    origin,
                    vkey,
                })
            })
            .collect()
        })
    }

    fn ledger_create(&self, row: &LedgerRow) -> Result<(), StoreError> {
        self.ledger_insert(row)
    }

    fn tenants_list(&self) -> Result<Vec<TenantRow>, StoreError> {
        self.read(|c| {
            rows(
                c,
                "SELECT tenant_no, tenant_id, leaf FROM tenants ORDER BY tenant_no",
                (),
                |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?)),
            )?
            .into_iter()
            .map(|(tenant_no, tenant_id, leaf)| {
                let tenant_no = owner("tenants.tenant_no", tenant_no)?;
                Ok(TenantRow {
                    tenant_no,
                    tenant_id,
                    leaf: LeafKey::from_i64(leaf),
                })
            })
            .collect()
        })
    }

    fn head_read(&self, ledger_no: u32) -> Result<Head, StoreError> {
        self.read(|c| head(c, ledger_no))
    }

    fn batch_lookup(&self, tenant_no: u32, query: &BatchQuery) -> Result<BatchKnown, StoreError> {
        // By the writer, who asks and then writes: his cache holds the pages that he wrote last, a reader's
        // is emptied by every commit.
        let writer = self.writer();
        let transaction = writer.unchecked_transaction().map_err(unavailable)?;
        lookup(&transaction, tenant_no, query)
    }

    fn batch_append(&self, batches: &[Batch]) -> Result<(), AppendError> {
        self.append(batches)
    }

    fn checkpoint_append(&self, ledger_no: u32, checkpoint: &CheckpointRow) -> Result<(), StoreError> {
        self.checkpoint_insert(ledger_no, checkpoint)
    }

    fn checkpoint_newest(&self, ledger_no: u32) -> Result<Option<CheckpointRow>, StoreError> {
        let sql =
            "SELECT tree_size, note FROM checkpoints WHERE ledger_no = ?1 ORDER BY tree_size DESC LIMIT 1";
        self.read(|c| Ok(checkpoints(c, sql, [i64::from(ledger_no)].as_slice())?.pop()))
    }

    fn checkpoints_read(
        &self,
        ledger_no: u32,
        from: TreeSize,
        limit: u32,
    ) -> Result<Vec<CheckpointRow>, StoreError> {
        let sql = "SELECT tree_size, note FROM checkpoints WHERE ledger_no = ?1 AND tree_size >= ?2
                   ORDER BY tree_size LIMIT ?3";
        self.read(|c| {
            checkpoints(
                c,
                sql,
                &[i64::from(ledger_no), as_i64(from.as_u64()), i64::from(limit)],
            )
        })
    }

    fn blocks_read(&self, ledger_no: u32, first: u64, limit: u32) -> Result<Vec<LeafBlock>, StoreError> {
        self.read(|c| {
            // The block that holds `first` begins at or before it.
            let (low, high) = ledger_range(ledger_no);
            let from = LeafKey::new(ledger_no, first).as_i64();
            let start: Option<i64> = c
                .prepare_cached("SELECT max(first_leaf) FROM leaf_blocks WHERE first_leaf BETWEEN ?1 AND ?2")
                .and_then(|mut s| s.query_row((low, from), |row| row.get(0)))
                .map_err(unavailable)?;
            let mut statement = c
                .prepare_cached(
                    "SELECT first_leaf, leaf_count, tree_root, leaves FROM leaf_blocks
                     WHERE first_leaf BETWEEN ?1 AND ?2 ORDER BY first_leaf LIMIT ?3",
                )
                .map_err(unavailable)?;
            let mut found = statement
                .query((start.unwrap_or(low), high, limit))
                .map_err(unavailable)?;
            let mut blocks = Vec::new();
            while let Some(row) = found.next().map_err(unavailable)? {
                let block = block(row)?;
                if block.end() > first {
                    blocks.push(block);
                }
            }
            Ok(blocks)
        })
    }

    fn nodes_read(&self, ledger_no: u32, level: u8, first: u64, limit: u32) -> Result<Vec<Hash>, StoreError> {
        self.read(|c| {
            let mut statement = c
                .prepare_cached(
                    "SELECT node_index, node_hash FROM tree_nodes
                     WHERE ledger_no = ?1 AND tile_level = ?2 AND node_index >= ?3 ORDER BY node_index LIMIT ?4",
                )
                .map_err(unavailable)?;
            let mut found = statement.query((ledger_no, level, as_i64(first), limit)).map_err(unavailable)?;
            let mut hashes: Vec<Hash> = Vec::new();
            while let Some(row) = found.next().map_err(unavailable)? {
                let index: i64 = row.get(0).map_err(unavailable)?;
                let expected = first + u64::try_from(hashes.len()).unwrap_or(u64::MAX);
                if index != as_i64(expected) {
                    break;
                }
                hashes.push(hash(blob(row, 1)?));
            }
            Ok(hashes)
        })
    }

    fn bodies_visit(
        &self,
        ledger_no: u32,
        first: u64,
        end: u64,
        visit: &mut dyn FnMut(BodyRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let (first, end) = (
            LeafKey::new(ledger_no, first).as_i64(),
            LeafKey::new(ledger_no, end).as_i64(),
        );
        self.read(|c| {
            let mut statement = c
                .prepare_cached(
                    "SELECT leaf, salt, body FROM bodies WHERE leaf >= ?1 AND leaf < ?2 ORDER BY leaf",
                )
                .map_err(unavailable)?;
            let mut found = statement.query((first, end)).map_err(unavailable)?;
            while let Some(row) = found.next().map_err(unavailable)? {
                if visit(body(row)?).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn bodies_page(&self, leaves: &[LeafKey], bytes_max: usize) -> Result<(Vec<BodyRow>, usize), StoreError> {
        // Each batch asks, and most have nothing to ask for: a reader would begin by throwing its cache away.
        if leaves.is_empty() {
            return Ok((Vec::new(), 0));
        }
        self.read(|c| {
            let mut statement = c
                .prepare_cached("SELECT leaf, salt, body FROM bodies WHERE leaf = ?1")
                .map_err(unavailable)?;
            let (mut bodies, mut bytes, mut looked) = (Vec::with_capacity(leaves.len()), 0, 0);
            for leaf in leaves {
                let mut found = statement.query([leaf.as_i64()]).map_err(unavailable)?;
                looked += 1;
                if let Some(row) = found.next().map_err(unavailable)? {
                    let body = body(row)?.to_row();
                    bytes += body.body.len();
                    bodies.push(body);
                    if bytes > bytes_max {
                        break;
                    }
                }
            }
            Ok((bodies, looked))
        })
    }

    fn bodies_there(&self, leaves: &[LeafKey]) -> Result<Vec<LeafKey>, StoreError> {
        self.read(|c| {
            let mut statement = c
                .prepare_cached("SELECT 1 FROM bodies WHERE leaf = ?1")
                .map_err(unavailable)?;
            let mut there = Vec::with_capacity(leaves.len());
            for &leaf in leaves {
                if statement.exists([leaf.as_i64()]).map_err(unavailable)? {
                    there.push(leaf);
                }
            }
            Ok(there)
        })
    }

    fn bodies_gone(&self, leaves: &[LeafKey]) -> Result<Vec<Gone>, StoreError> {
        self.read(|c| {
            let mut erased = c
                .prepare_cached(
                    "SELECT 1 FROM facets
                     WHERE tenant_no = (SELECT tenant_no FROM ledgers WHERE ledger_no = ?1)
                       AND facet = 'erased' AND leaf = ?2",
                )
                .map_err(unavailable)?;
            let mut gone = Vec::with_capacity(leaves.len());
            for &leaf in leaves {
                gone.push(if is_pruned(c, leaf)? {
                    Gone::Archived
                } else if erased
                    .exists((leaf.ledger_no(), leaf.as_i64()))
                    .map_err(unavailable)?
                {
                    Gone::Erased
                } else {
                    Gone::Missing
                });
            }
            Ok(gone)
        })
    }

    fn run_find(&self, tenant_no: u32, run_id: &str) -> Result<Option<RunRow>, StoreError> {
        self.read(|c| run_by_id(c, tenant_no, run_id))
    }

    fn run_find_by_trace(&self, tenant_no: u32, trace: &TraceKey) -> Result<Option<RunRow>, StoreError> {
        self.read(|c| match run_key_of_trace(c, tenant_no, trace)? {
            Some(key) => run_by_key(c, key),
            None => Ok(None),
        })
    }

    fn run_records(&self, run: RunKey, from_seq: u64, limit: u32) -> Result<Vec<RunRecordRow>, StoreError> {
        self.read(|c| records_of(c, run, from_seq, limit))
    }

    fn run_environments(&self, run: RunKey, limit: u32) -> Result<Vec<RunRecordRow>, StoreError> {
        self.read(|c| {
            // The kind stands as a number: of a parameter nobody knows that it is the index's.
            let sql = format!(
                "SELECT {RECORD_COLUMNS} FROM run_records INDEXED BY run_records_environment
                 WHERE run = ?1 AND kind = {} ORDER BY run_seq LIMIT ?2",
                Kind::EvidenceEnvironment.code()
            );
            let mut statement = c.prepare_cached(&sql).map_err(unavailable)?;
            let mut found = statement.query((run.as_i64(), limit)).map_err(unavailable)?;
            let mut rows = Vec::new();
            while let Some(row) = found.next().map_err(unavailable)? {
                rows.push(run_record(row)?);
            }
            Ok(rows)
        })
    }

    fn run_traces(&self, run: RunKey, limit: u32) -> Result<Vec<TraceKey>, StoreError> {
        self.read(|c| {
            let mut statement = c
                .prepare_cached(
                    "SELECT trace_id FROM traces WHERE run = ?1 ORDER BY tenant_no, trace_id LIMIT ?2",
                )
                .map_err(unavailable)?;
            let mut found = statement.query((run.as_i64(), limit)).map_err(unavailable)?;
            let mut traces = Vec::new();
            while let Some(row) = found.next().map_err(unavailable)? {
                traces.push(trace_key(row)?);
            }
            Ok(traces)
        })
    }

    fn run_record_find(&self, run: RunKey, identity: &Identity) -> Result<Option<RunRecordRow>, StoreError> {
        self.read(|c| {
            let mut statement = c
                .prepare_cached(&format!(
                    "SELECT {RECORD_COLUMNS} FROM run_records WHERE run = ?1 AND identity = ?2"
                ))
                .map_err(unavailable)?;
            let mut found = statement
                .query((run.as_i64(), identity.as_bytes().as_slice()))
                .map_err(unavailable)?;
            found.next().map_err(unavailable)?.map(run_record).transpose()
        })
    }

    fn runs_list(&self, query: &RunQuery) -> Result<RunPage, StoreError> {
        self.read(|c| runs::list(c, query))
    }

    fn runs_count(&self, query: &RunQuery, max: u32) -> Result<u32, StoreError> {
        self.read(|c| runs::count(c, query, max))
    }

    fn runs_total(&self, tenant_no: u32, as_of: Option<LeafKey>) -> Result<u64, StoreError> {
        self.read(|c| runs::total(c, tenant_no, as_of))
    }

    fn runs_read(&self, from: RunKey, limit: u32) -> Result<Vec<RunRow>, StoreError> {
        let sql = format!(
            "SELECT {} FROM runs WHERE run >= ?1 ORDER BY run LIMIT ?2",
            runs::COLUMNS
        );
        self.read(|c| run_rows(c, &sql, &[from.as_i64(), i64::from(limit)]))
    }

    fn runs_due(
        &self,
        ended_before: Timestamp,
        running_before: Timestamp,
        limit: u32,
    ) -> Result<Vec<RunRow>, StoreError> {
        let of_status = |condition: &str| {
            format!(
                "SELECT {} FROM runs WHERE settled = 0 AND status {condition} AND created_at < ?1 AND last_recorded_at < ?1
                 ORDER BY created_at LIMIT ?2",
                runs::COLUMNS
            )
        };
        self.read(|c| {
            let mut due = Vec::new();
            for (condition, before) in [
                ("= 'completed'", ended_before),
                ("= 'failed'", ended_before),
                ("= 'running'", running_before),
            ] {
                due.extend(run_rows(
                    c,
                    &of_status(condition),
                    &[before.as_micros(), i64::from(limit)],
                )?);
            }
            due.sort_by_key(|row| row.state.last_recorded_at);
            due.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            Ok(due)
        })
    }

    fn facet_find(&self, tenant_no: u32, query: &FacetQuery) -> Result<FacetPage, StoreError> {
        self.read(|c| facets::find(c, tenant_no, query))
    }

    fn facets_read(
        &self,
        tenant_no: u32,
        after: Option<&FacetRow>,
        limit: u32,
    ) -> Result<Vec<FacetRow>, StoreError> {
        self.read(|c| facets::rows(c, tenant_no, after, limit))
    }

    fn facet_count(&self, tenant_no: u32, query: &FacetQuery, max: u32) -> Result<(u64, bool), StoreError> {
        self.read(|c| facets::count(c, tenant_no, query, max))
    }

    fn self_check(&self, only_ledger: bool) -> Result<Vec<Finding>, StoreError> {
        self.read(|c| super::check::run(c, only_ledger))
    }

    fn is_pruned(&self, leaf: LeafKey) -> Result<bool, StoreError> {
        self.read(|c| is_pruned(c, leaf))
    }

    fn snapshot(&self, tenant_no: u32, only_ledger: bool) -> Result<Snapshot, StoreError> {
        self.read(|c| super::verify::snapshot(c, tenant_no, only_ledger))
    }

    fn runs_get(&self, keys: &[RunKey]) -> Result<Vec<Result<Option<RunRow>, StoreError>>, StoreError> {
        self.read(|c| Ok(keys.iter().map(|&key| run_by_key(c, key)).collect()))
    }

    fn run_snapshot(&self, run: RunKey) -> Result<Option<(RunRow, Vec<RunRecordRow>)>, StoreError> {
        self.read(|c| {
            let Some(row) = run_by_key(c, run)? else {
                return Ok(None);
            };
            Ok(Some((row, records_of(c, run, 0, u32::MAX)?)))
        })
    }

    fn rows_missing(&self, expected: &ExpectedRows) -> Result<Vec<RowMissing>, StoreError> {
        self.read(|c| super::verify::missing(c, expected))
    }

    fn run_record_keys(
        &self,
        tenant_no: u32,
        after: Option<(RunKey, u64)>,
        limit: u32,
    ) -> Result<Vec<(RunKey, u64, LeafKey)>, StoreError> {
        let (first, last) = runs::tenant_range(tenant_no);
        let (run, seq) = after.map_or((first, -1), |(run, seq)| (run.as_i64(), as_i64(seq)));
        self.read(|c| {
            rows(
                c,
                "SELECT run, run_seq, leaf FROM run_records WHERE (run, run_seq) > (?1, ?2) AND run <= ?3
                 ORDER BY run, run_seq LIMIT ?4",
                (run, seq, last, limit),
                |row| {
                    let seq = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(u64::MAX);
                    Ok((RunKey::from_i64(row.get(0)?), seq, LeafKey::from_i64(row.get(2)?)))
                },
            )
        })
    }

    fn projections_replace(
        &self,
        batches: &mut dyn Iterator<Item = Result<Batch, StoreError>>,
    ) -> Result<(), StoreError> {
        self.replace_projections(batches)
    }

    fn is_stopped(&self) -> bool {
        SqliteStore::is_stopped(self)
    }

    fn tidy(&self) {
        // A reader beside may keep part of the log; what stays is taken up at the next opening.
        self.scrub_if_marked();
        if let Err(error) = self.cut(&self.writer()) {
            tracing::warn!(%error, "the log was not folded into the database");
        }
    }

    fn scrub(&self) -> Result<Scrubbed, StoreError> {
        self.scrub_now()
    }

    fn disk_bytes(&self) -> u64 {
        ["", "-wal", "-shm"]
            .iter()
            .filter_map(|suffix| {
                let mut path = self.path().as_os_str().to_owned();
                path.push(suffix);
                std::fs::metadata(path).ok()
            })
            .map(|metadata| metadata.len())
            .sum()
    }
}

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
fn is_pruned(c: &Connection, leaf: LeafKey) -> Result<bool, StoreError> {
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

fn lookup(c: &Connection, tenant_no: u32, query: &BatchQuery) -> Result<BatchKnown, StoreError> {
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

fn run_by_id(c: &Connection, tenant_no: u32, run_id: &str) -> Result<Option<RunRow>, StoreError> {
    let sql = format!(
        "SELECT {} FROM runs WHERE tenant_no = ?1 AND run_id = ?2",
        runs::COLUMNS
    );
    let mut statement = c.prepare_cached(&sql).map_err(unavailable)?;
    let mut found = statement.query((tenant_no, run_id)).map_err(unavailable)?;
    found.next().map_err(unavailable)?.map(runs::from_row).transpose()
}

fn run_by_key(c: &Connection, key: RunKey) -> Result<Option<RunRow>, StoreError> {
    let sql = format!("SELECT {} FROM runs WHERE run = ?1", runs::COLUMNS);
    Ok(run_rows(c, &sql, &[key.as_i64()])?.pop())
}

fn run_rows(c: &Connection, sql: &str, params: &[i64]) -> Result<Vec<RunRow>, StoreError> {
    let mut statement = c.prepare_cached(sql).map_err(unavailable)?;
    let mut found = statement.query(params_from_iter(params)).map_err(unavailable)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next().map_err(unavailable)? {
        rows.push(runs::from_row(row)?);
    }
    Ok(rows)
}

fn run_key_of_trace(c: &Connection, tenant_no: u32, trace: &TraceKey) -> Result<Option<RunKey>, StoreError> {
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

fn trace_key(row: &Row<'_>) -> Result<TraceKey, StoreError> {
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

fn records_of(
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

fn body<'r>(row: &'r Row<'_>) -> Result<BodyRef<'r>, StoreError> {
    Ok(BodyRef {
        leaf: LeafKey::from_i64(row.get(0).map_err(unavailable)?),
        salt: thirty_two(blob(row, 1)?),
        body: blob(row, 2)?,
    })
}

fn blob<'r>(row: &'r Row<'_>, i: usize) -> Result<&'r [u8], StoreError> {
    row.get_ref(i)
        .map_err(unavailable)?
        .as_blob()
        .map_err(|error| damaged("blob column", error))
}

fn checkpoints(c: &Connection, sql: &str, params: &[i64]) -> Result<Vec<CheckpointRow>, StoreError> {
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

fn rows<T>(
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
fn owner(place: &'static str, number: i64) -> Result<u32, StoreError> {
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
