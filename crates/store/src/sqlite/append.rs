//! Writing: batches, checkpoints, ledgers.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{SqliteStore, as_i64, erase, facets, runs, unavailable};
use crate::{AppendError, Batch, CheckpointRow, Head, LeafKey, LedgerRow, StoreError, TraceKey};

impl SqliteStore {
    pub(super) fn append(&self, batches: &[Batch]) -> Result<(), AppendError> {
        if let Some(reason) = self.closed_to_writes() {
            return Err(AppendError::Refused(reason));
        }
        let mut connection = self.writer();
        if batches.iter().any(|batch| !batch.erased.is_empty()) {
            // Under the writer, or a scrub that ends meanwhile would take the mark away.
            // Crash after it: the next opening scrubs a database in which nothing was erased, or what was.
            // What keeps it from being made, as too many open files, has not touched the database.
            self.mark_for_scrub().map_err(|error| match error {
                StoreError::Unavailable(reason) => AppendError::Unavailable(reason),
                failed => {
                    self.stopped.store(true, Ordering::Release);
                    AppendError::Refused(failed.to_string())
                }
            })?;
            self.erases();
        }
        // Crash before the commit: the log holds an unfinished transaction, which the next opening drops.
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| self.stop_refused(&error))?;
        for batch in batches {
            let head = super::select::head(&transaction, batch.ledger_no)
                .map_err(|error| AppendError::Refused(error.to_string()))?;
            if head != batch.expected {
                return Err(AppendError::HeadMoved(batch.ledger_no));
            }
            append_ledger(&transaction, batch).map_err(|error| self.stop_refused(&error))?;
            append_projections(&transaction, batch).map_err(|error| self.stop_refused(&error))?;
            erase::erase(&transaction, batch).map_err(|error| self.stop_refused(&error))?;
        }
        // Crash within the commit: the log's last frame decides, and it is written last and synced.
        // An error here may have come after that frame reached the disk, so the outcome is unknown.
        transaction.commit().map_err(|error| {
            self.stopped.store(true, Ordering::Release);
            AppendError::Unknown(error.to_string())
        })
    }

    /// An error while writing rows, before the commit: nothing is written. The disk is not to be trusted any more.
    fn stop_refused(&self, error: &rusqlite::Error) -> AppendError {
        self.stopped.store(true, Ordering::Release);
        AppendError::Refused(error.to_string())
    }

    pub(super) fn checkpoints_insert(&self, checkpoints: &[(u32, CheckpointRow)]) -> Result<(), StoreError> {
        self.small_write(|connection| {
            // One sync, however many ledgers were written to.
            let transaction = connection.unchecked_transaction()?;
            {
                let mut insert = transaction.prepare_cached(
                    // Another note over the same size breaks the key, and is refused: it would be a fork.
                    "INSERT INTO checkpoints SELECT ?1, ?2, ?3 WHERE NOT EXISTS
                     (SELECT 1 FROM checkpoints WHERE (ledger_no, tree_size, note) = (?1, ?2, ?3))",
                )?;
                for (ledger_no, row) in checkpoints {
                    insert.execute((ledger_no, as_i64(row.size.as_u64()), &row.note))?;
                }
            }
            transaction.commit()
        })
    }

    pub(super) fn ledger_insert(&self, row: &LedgerRow) -> Result<(), StoreError> {
        self.small_write(|connection| {
            let sql = "INSERT INTO ledgers SELECT ?1, ?2, ?3, ?4, ?5, ?6
                 WHERE NOT EXISTS (SELECT 1 FROM ledgers WHERE (ledger_no, tenant_no, tenant_id, epoch, origin, vkey)
                                   = (?1, ?2, ?3, ?4, ?5, ?6))";
            let row = (row.ledger_no, row.tenant_no, &row.tenant_id, row.epoch, &row.origin, &row.vkey);
            connection.execute(sql, row).map(drop)
        })
    }

    fn small_write(&self, write: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), StoreError> {
        if let Some(reason) = self.closed_to_writes() {
            return Err(StoreError::Refused(reason));
        }
        let connection = self.writer();
        match write(&connection) {
            Ok(()) => Ok(()),
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                Err(StoreError::Refused(error.to_string()))
            }
            Err(error) => {
                self.stopped.store(true, Ordering::Release);
                Err(unavailable(error))
            }
        }
    }

    /// Writes every projection anew, in one transaction: readers see the old ones until it commits.
    pub(super) fn replace_projections(
        &self,
        batches: &mut dyn Iterator<Item = Result<Batch, StoreError>>,
    ) -> Result<(), StoreError> {
        if let Some(reason) = self.closed_to_writes() {
            return Err(StoreError::Refused(reason));
        }
        // As with any other write: what follows a failed one could be acknowledged and not be there.
        let failed = |error| {
            self.stopped.store(true, Ordering::Release);
            unavailable(error)
        };
        let mut connection = self.writer();
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        for table in ["tenants", "runs", "run_records", "traces", "facets", "pruned"] {
            transaction
                .execute(&format!("DELETE FROM {table}"), [])
                .map_err(failed)?;
        }
        for batch in batches {
            append_projections(&transaction, &batch?).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }
}

fn append_ledger(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached("INSERT INTO leaf_blocks VALUES (?1, ?2, ?3, ?4)")?;
    for block in &batch.blocks {
        let first = LeafKey::new(batch.ledger_no, block.first).as_i64();
        insert.execute((
            first,
            block.count,
            block.root.as_bytes().as_slice(),
            &block.leaves,
        ))?;
    }
    let mut insert = transaction.prepare_cached("INSERT INTO bodies VALUES (?1, ?2, ?3)")?;
    for row in &batch.bodies {
        insert.execute((row.leaf.as_i64(), row.salt.as_slice(), &row.body))?;
    }
    let mut insert = transaction.prepare_cached("INSERT INTO tree_nodes VALUES (?1, ?2, ?3, ?4)")?;
    for node in &batch.nodes {
        insert.execute((
            batch.ledger_no,
            node.level,
            as_i64(node.index),
            node.hash.as_bytes().as_slice(),
        ))?;
    }
    Ok(())
}

fn append_projections(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    runs::upsert(transaction, &batch.runs)?;
    let mut update = transaction.prepare_cached(
        "UPDATE runs SET record_count = ?2, late_count = ?3, last_recorded_at = ?4 WHERE run = ?1",
    )?;
    for row in &batch.late_runs {
        let last = row.last_recorded_at.as_micros();
        update.execute((row.key.as_i64(), as_i64(row.record_count), row.late_count, last))?;
    }
    let mut insert =
        transaction.prepare_cached("INSERT INTO run_records VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for row in &batch.run_records {
        insert.execute((
            row.run.as_i64(),
            as_i64(row.run_seq),
            row.leaf.as_i64(),
            row.kind.code(),
            row.identity
                .as_ref()
                .map(|identity| identity.as_bytes().as_slice()),
            row.step_index,
            row.occurred_at.as_micros(),
        ))?;
    }
    let mut insert = transaction.prepare_cached("INSERT INTO traces VALUES (?1, ?2, ?3)")?;
    for row in &batch.traces {
        match &row.trace {
            TraceKey::W3c(id) => insert.execute((batch.tenant_no, id.as_slice(), row.run.as_i64()))?,
            TraceKey::Text(id) => insert.execute((batch.tenant_no, id, row.run.as_i64()))?,
        };
    }
    facets::insert(transaction, batch.tenant_no, &batch.facets)?;
    let mut insert = transaction.prepare_cached("INSERT INTO tenants VALUES (?1, ?2, ?3)")?;
    for row in &batch.tenants {
        insert.execute((row.tenant_no, &row.tenant_id, row.leaf.as_i64()))?;
    }
    let mut insert = transaction.prepare_cached("INSERT INTO pruned VALUES (?1, ?2, ?3)")?;
    for row in &batch.pruned {
        insert.execute((row.first.as_i64(), row.last.as_i64(), row.by.as_i64()))?;
    }
    Ok(())
}

/// The empty tree.
pub(super) fn empty_head() -> Head {
    Head {
        size: tlog::TreeSize::new(0),
        root: tlog::empty_root(),
    }
}
