//! Reading: each method of [`Store`] in one transaction.

use std::ops::ControlFlow;

use evidence::{Finding, Identity, Kind, Timestamp};
use tlog::{Hash, TreeSize};

use super::select::{
    RECORD_COLUMNS, blob, block, body, checkpoints, head, is_pruned, leaf_since, leaves_around, ledger_range,
    lookup, owner, records_of, rows, run_by_id, run_by_key, run_key_of_trace, run_record, run_rows,
    trace_key,
};
use super::{SqliteStore, as_i64, as_u32, facets, hash, runs, unavailable};
use crate::codec::Leaves;
use crate::{
    AppendError, Batch, BatchKnown, BatchQuery, BodyRef, BodyRow, CheckpointRow, ExpectedRows, FacetPage,
    FacetQuery, FacetRow, Gone, Head, LeafBlock, LeafKey, LedgerRow, RowMissing, RunKey, RunPage, RunQuery,
    RunRecordRow, RunRow, Scrubbed, Snapshot, Store, StoreError, TenantRow, TraceKey,
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

    fn checkpoints_append(&self, checkpoints: &[(u32, CheckpointRow)]) -> Result<(), StoreError> {
        self.checkpoints_insert(checkpoints)
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

    fn leaves_get(&self, leaves: &[LeafKey]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.read(|c| {
            let mut found = Vec::with_capacity(leaves.len());
            // Neighbours stand together: what was unpacked for one is there for the next.
            let mut around: Option<(u32, u64, Leaves)> = None;
            for &leaf in leaves {
                let at = |(ledger_no, first, leaves): &(u32, u64, Leaves)| {
                    let place = leaf.leaf_index().checked_sub(*first)?;
                    let leaves = (*ledger_no == leaf.ledger_no()).then_some(leaves)?;
                    leaves.get(usize::try_from(place).ok()?).map(<[u8]>::to_vec)
                };
                let mut bytes = around.as_ref().and_then(at);
                if bytes.is_none() {
                    around = leaves_around(c, leaf)?.map(|(first, leaves)| (leaf.ledger_no(), first, leaves));
                    bytes = around.as_ref().and_then(at);
                }
                found.push(bytes);
            }
            Ok(found)
        })
    }

    fn leaf_since(&self, ledger_no: u32, at: Timestamp) -> Result<u64, StoreError> {
        self.read(|c| leaf_since(c, ledger_no, at))
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
                ("= 'ended'", ended_before),
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
