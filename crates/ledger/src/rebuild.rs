//! `ledger rebuild`: every projection, made anew from leaves and bodies.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;

use evidence::{Finding, FindingCode};
use store::codec::Unpacker;
use store::{Batch, Head, LateRunRow, LeafKey, LedgerRow, Store, StoreError};
use tlog::TreeSize;

use crate::archive::ArchiveError;
use crate::tree::{StoredTree, TreeError};
use crate::verify::{Derived, Deriver, Erasures, Examiner};

/// Leaves of one step: their rows are held at once, about 1 MiB.
const STEP_LEAVES: u64 = 1_024;

/// Rebuilds all projections of a store, in one transaction; `progress` is told the leaves done.
///
/// Crash at any point: the old projections stand.
///
/// # Errors
/// [`StoreError::Damaged`]: a record cannot be read. A rebuild from damaged evidence would hide the damage, so nothing
/// is replaced; verification names what is wrong. [`StoreError::Unavailable`]: the store cannot answer now.
pub fn rebuild(store: &dyn Store, progress: &mut dyn FnMut(u64)) -> Result<u64, StoreError> {
    rebuild_with(store, None, &mut |done| {
        progress(done);
        ControlFlow::Continue(())
    })
}

/// The same with the archives in a folder, without which what was pruned cannot be read. `Break` stops it.
///
/// # Errors
/// See [`rebuild`]; [`StoreError::Unavailable`] also when it was stopped.
pub fn rebuild_with(
    store: &dyn Store,
    archive: Option<&Path>,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<u64, StoreError> {
    let mut ledgers = store.ledgers_list()?;
    ledgers.sort_by_key(|row| (row.tenant_no, row.epoch));
    let mut rebuilder = Rebuilder {
        store,
        archive,
        ledgers: ledgers.into(),
        at: 0,
        deriver: None,
        erasures: None,
        done: 0,
        progress,
        finished: None,
    };
    let mut records = 0;
    store.projections_replace(&mut rebuilder.by_ref().inspect(|batch| {
        if let Ok(batch) = batch {
            // A record of no run has one facet of its kind.
            let of_no_run = batch
                .facets
                .iter()
                .filter(|row| row.facet.starts_with("kind="))
                .count();
            records += u64::try_from(batch.run_records.len() + of_no_run).unwrap_or(0);
        }
    }))?;
    Ok(records)
}

/// Gives one batch of projected rows after another.
struct Rebuilder<'a> {
    store: &'a dyn Store,
    archive: Option<&'a Path>,
    ledgers: VecDeque<LedgerRow>,
    /// The next leaf of the first ledger.
    at: u64,
    deriver: Option<(u32, Deriver)>,
    /// What was erased of the tenant at hand.
    erasures: Option<(u32, Erasures<'a>)>,
    done: u64,
    progress: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
    finished: Option<(u32, Deriver)>,
}

impl Iterator for Rebuilder<'_> {
    type Item = Result<Batch, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((tenant_no, deriver)) = self.finished.take() {
            return Some(Ok(last_batch(tenant_no, deriver)));
        }
        let Some(row) = self.ledgers.front().cloned() else {
            return self
                .deriver
                .take()
                .map(|(tenant_no, deriver)| Ok(last_batch(tenant_no, deriver)));
        };
        let tenant_no = row.tenant_no;
        if self.deriver.as_ref().is_some_and(|(no, _)| *no != tenant_no) {
            self.finished = self.deriver.take();
            return self.next();
        }
        if self.erasures.as_ref().is_none_or(|(no, _)| *no != tenant_no) {
            match Erasures::scan(self.store, tenant_no) {
                Ok(mut erasures) => {
                    let folder = self.archive.into_iter();
                    let error = folder.flat_map(|folder| erasures.open_archives(folder)).next();
                    if let Some(error) = error {
                        self.ledgers.clear();
                        return Some(Err(not_at_hand(&row.tenant_id, error)));
                    }
                    self.erasures = Some((tenant_no, erasures));
                }
                Err(error) => {
                    self.ledgers.clear();
                    return Some(Err(error));
                }
            }
        }
        let erasures = self.erasures.as_ref().map(|(_, erasures)| erasures)?;
        let (_, deriver) = self.deriver.get_or_insert_with(|| {
            let deriver = Deriver::new(tenant_no).with_ledgers(erasures.ledgers());
            (tenant_no, deriver)
        });
        let step = step(self.store, &row, self.at, deriver, erasures);
        match step {
            Ok((batch, end, size)) => {
                self.done += end - self.at;
                if (self.progress)(self.done).is_break() {
                    self.ledgers.clear();
                    return Some(Err(StoreError::Unavailable("it was stopped".into())));
                }
                self.at = end;
                if end >= size {
                    self.ledgers.pop_front();
                    self.at = 0;
                }
                Some(Ok(batch))
            }
            Err(error) => {
                self.ledgers.clear();
                Some(Err(error))
            }
        }
    }
}

fn step(
    store: &dyn Store,
    row: &LedgerRow,
    first: u64,
    deriver: &mut Deriver,
    erasures: &Erasures<'_>,
) -> Result<(Batch, u64, u64), StoreError> {
    let head = store.head_read(row.ledger_no)?;
    let size = head.size.as_u64();
    let end = size.min(first + STEP_LEAVES);
    let bodies = store.bodies_read(row.ledger_no, first, end)?;
    let mut bodies = bodies.iter().peekable();
    let tenant_id = row.tenant_id.as_str().into();
    let mut examiner = Examiner::new(tenant_id, false, Unpacker::default(), erasures, row.ledger_no);
    let (mut derived, mut findings) = (Derived::default(), Vec::<Finding>::new());
    StoredTree::new(store, row.ledger_no)
        .leaves(first..end, |index, leaf| {
            let body = bodies.next_if(|row| row.leaf.leaf_index() == index);
            let examined = examiner.examine(index, leaf, body.map(store::BodyRow::as_ref), &mut findings);
            if examined.pruned {
                let detail = "it is archived, and the archive cannot be read";
                findings.push(Finding::new(FindingCode::ArchiveMismatch, "archive", detail).with_leaf(index));
            }
            if let Some(said) = examined.said {
                deriver.push(
                    LeafKey::new(row.ledger_no, index),
                    said,
                    &mut derived,
                    &mut findings,
                );
            }
            Ok(())
        })
        .map_err(TreeError::into_store)?;
    if let Some(why) = erasures.unsaid() {
        return Err(StoreError::Unavailable(why));
    }
    if let Some(finding) = findings.into_iter().next() {
        return Err(StoreError::Damaged {
            place: "leaf_blocks",
            reason: finding.to_string(),
        });
    }
    Ok((batch_of(row.tenant_no, derived), end, size))
}

/// Each archive has records that projections are made of: without one there are none.
fn not_at_hand(tenant_id: &str, error: ArchiveError) -> StoreError {
    match error {
        ArchiveError::Missing(finding) | ArchiveError::Wrong(finding) => StoreError::Damaged {
            place: "archive",
            reason: finding.with_tenant(tenant_id).to_string(),
        },
        ArchiveError::Unread(why) => StoreError::Unavailable(why),
    }
}

fn batch_of(tenant_no: u32, derived: Derived) -> Batch {
    let mut batch = Batch::new(
        0,
        tenant_no,
        Head {
            size: TreeSize::new(0),
            root: tlog::empty_root(),
        },
    );
    batch.runs = derived.runs;
    batch.run_records = derived.rows.run_records;
    batch.traces = derived.rows.traces.into_iter().map(|(row, _)| row).collect();
    batch.facets = derived.rows.facets;
    batch.facets.sort_unstable();
    batch.tenants = derived.rows.tenants;
    batch.pruned = derived.rows.pruned;
    batch
}

fn last_batch(tenant_no: u32, deriver: Deriver) -> Batch {
    let mut derived = Derived::default();
    let (late, _) = deriver.finish(&mut derived);
    let mut batch = batch_of(tenant_no, derived);
    batch.late_runs = late
        .into_iter()
        .map(|(_, late)| LateRunRow {
            key: late.key,
            record_count: late.record_count,
            late_count: late.late_count,
            last_recorded_at: late.last_recorded_at,
        })
        .collect();
    batch
}
