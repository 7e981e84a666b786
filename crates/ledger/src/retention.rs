//! Retention: what has been kept long enough goes into an archive, and then its bodies are pruned.
//!
//! Leaves and proofs stay, and so does what is projected. Runs go whole, when they are sealed; system records and
//! telemetry one by one. What is held, or younger than the minimum, stays. A pass is bounded; the next one goes on.
//!
//! Source: SPEC 11.6; docs/formats.md, "retention.archived", "Archives".

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use evidence::record::{
    ARCHIVED_RECORDS_MAX, BODY_BYTES_MAX, Facts, HoldScope, RetentionArchived, RetentionClass, is_erasable,
};
use evidence::{Header, Identity, Kind, Timestamp, facet};
use store::{FacetQuery, LeafKey, PrunedRow, RunKey, RunRow, Store, StoreError, codec};

use crate::archive::{ArchiveWriter, Written};
use crate::erase::Erasing;
use crate::hold::HeldBy;
use crate::own::Watch;
use crate::sequencer::Sequencer;
use crate::verify::Erasures;
use crate::{BodyTooLarge, Draft, Ledger, Receipt, RecordError, Rejection, SubmitError, Tenant};

/// Bytes of one archive, about: the body that passes it is the archive's last.
const ARCHIVE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Archives of one tenant and class in a pass: 200,000 records.
const ARCHIVES_MAX: u32 = 20;

/// Runs and records looked at in one pass: a second or two.
const LOOKED_MAX: u32 = 20_000;

/// Rows read at once.
const ROWS_READ: u32 = 1_000;

/// How long what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Runs, microseconds after their last record.
    pub runs_micros: i64,
    /// Made up ones.
    pub synthetic_micros: i64,
    /// System records and telemetry, microseconds after they were recorded.
    pub system_micros: i64,
}

impl Default for RetentionSettings {
    /// SPEC 11.6: 90, 7 and 30 days.
    fn default() -> Self {
        const DAY: i64 = 24 * 3_600 * 1_000_000;
        Self {
            runs_micros: 90 * DAY,
            synthetic_micros: 7 * DAY,
            system_micros: 30 * DAY,
        }
    }
}

/// How far a tenant's passes have come since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passed {
    /// Of runs and of made up ones.
    runs: [u64; 2],
    system: Option<LeafKey>,
    telemetry: Option<LeafKey>,
}

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The archive cannot be written.
    #[error("the archive cannot be written: {0}")]
    Archive(#[from] std::io::Error),
    /// The record is too large.
    #[error(transparent)]
    Body(#[from] BodyTooLarge),
    /// The ledger refused the record.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Nothing was pruned, as far as is known.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// Records cannot be read.
    #[error(transparent)]
    Read(#[from] RecordError),
}

impl From<StoreError> for RetentionError {
    fn from(error: StoreError) -> Self {
        RecordError::from(error).into()
    }
}

/// What is archived, in this order.
const CLASSES: [RetentionClass; 3] = [
    RetentionClass::Synthetic,
    RetentionClass::Runs,
    RetentionClass::System,
];

/// What one archive may take.
struct DueNow {
    older_than: Timestamp,
    seen: Seen,
    leaves: Vec<LeafKey>,
}

/// What may change under an archive while it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    erasures: u64,
    holds: u64,
}

impl Ledger {
    /// Archives and prunes what is due, of every tenant; says how many bodies. Blocks.
    ///
    /// # Errors
    /// The first that ended it; what was archived before is pruned.
    pub fn retain(&self, at: Timestamp) -> Result<u64, RetentionError> {
        let mut pruned = 0;
        for tenant in self.tenants() {
            pruned += self.retain_tenant(&tenant, at, &Watch::default())?;
        }
        Ok(pruned)
    }

    /// The same of one tenant, counted by bodies and stopped between two archives.
    pub(crate) fn retain_tenant(
        &self,
        tenant: &Arc<Tenant>,
        at: Timestamp,
        watch: &Watch,
    ) -> Result<u64, RetentionError> {
        // The file that an archive is written into is one for all.
        let _archiving = self
            .inner
            .archiving
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut pruned = 0;
        let mut later = self.retention_due(tenant, at)?;
        for (place, class) in CLASSES.into_iter().enumerate() {
            later[place] = 0;
            for _ in 0..ARCHIVES_MAX {
                if watch.is_stopped() {
                    return Ok(pruned);
                }
                let Some(due) = self.due(tenant, class, at)? else {
                    break;
                };
                // There may be more than one look sees.
                let total =
                    watch.done.load(Ordering::Relaxed) + due.leaves.len() as u64 + later.iter().sum::<u64>();
                watch.total.store(total, Ordering::Relaxed);
                let count = self.retain_once(tenant, class, due, at, watch)?;
                pruned += count;
                if count == 0 {
                    break;
                }
            }
        }
        Ok(pruned)
    }

    /// How many bodies of a tenant are due, by class, as far as one look sees. Blocks.
    pub(crate) fn retention_due(
        &self,
        tenant: &Arc<Tenant>,
        at: Timestamp,
    ) -> Result<[u64; CLASSES.len()], RetentionError> {
        let mut counts = [0; CLASSES.len()];
        for (count, class) in counts.iter_mut().zip(CLASSES) {
            *count = self
                .due(tenant, class, at)?
                .map_or(0, |due| due.leaves.len() as u64);
        }
        Ok(counts)
    }

    /// What one archive of a class may take; `None`: nothing.
    fn due(
        &self,
        tenant: &Arc<Tenant>,
        class: RetentionClass,
        at: Timestamp,
    ) -> Result<Option<DueNow>, RetentionError> {
        if tenant.ledger().refusal().is_some() {
            return Ok(None);
        }
        let settings = self.options().retention;
        let kept = match class {
            RetentionClass::Runs => settings.runs_micros,
            RetentionClass::Synthetic => settings.synthetic_micros,
            RetentionClass::System => settings.system_micros,
        };
        let kept = kept.max(self.options().minimum_retention_micros);
        let Some(older_than) = at.checked_add_micros(-kept) else {
            return Ok(None);
        };
        let seen = seen(self.store(), tenant)?;
        if HeldBy::scope(&HoldScope::Tenant)
            .holds(self.store(), tenant.tenant_no)?
            .is_some()
        {
            return Ok(None);
        }
        let due = Due {
            ledger: self,
            tenant,
            older_than,
            holds: seen.holds > 0,
        };
        let leaves = match class {
            RetentionClass::System => due.records()?,
            RetentionClass::Runs => due.runs(false)?,
            RetentionClass::Synthetic => due.runs(true)?,
        };
        Ok((!leaves.is_empty()).then_some(DueNow {
            older_than,
            seen,
            leaves,
        }))
    }

    /// One archive of one class; 0: nothing was pruned.
    fn retain_once(
        &self,
        tenant: &Arc<Tenant>,
        class: RetentionClass,
        due: DueNow,
        at: Timestamp,
        watch: &Watch,
    ) -> Result<u64, RetentionError> {
        let DueNow {
            older_than,
            seen,
            leaves,
        } = due;
        let Some((epoch, leaves, written)) = self.archive_write(tenant, class, leaves, watch)? else {
            return Ok(0);
        };
        let archived = RetentionArchived {
            archive: written.name.clone(),
            bytes: written.bytes,
            class,
            count: u64::try_from(leaves.len()).unwrap_or(u64::MAX),
            epoch,
            leaves: stretches(&leaves),
            older_than,
            sha256: written.sha256,
        };
        let (reply, answer) = std::sync::mpsc::channel();
        let (ledger, of) = (self.clone(), Arc::clone(tenant));
        let queued = self.inner.queue.push_task(Box::new(move |sequencer| {
            // The asker may have gone; what is archived may be pruned.
            let _ = reply.send(prune(
                sequencer,
                &ledger,
                &of,
                archived,
                leaves[0].ledger_no(),
                seen,
                at,
            ));
        }));
        if !queued {
            return Err(SubmitError::Closing.into());
        }
        if let Some((_, count)) = answer.recv().map_err(|_| self.unanswered())?? {
            return Ok(count);
        }
        // Something was erased or held meanwhile, perhaps of these: it must not stay in a file.
        std::fs::remove_file(&written.path)?;
        Ok(0)
    }

    /// Writes what is there of the bodies of these leaves, of one of the tenant's ledgers; nothing when told to stop.
    fn archive_write(
        &self,
        tenant: &Tenant,
        class: RetentionClass,
        mut leaves: Vec<LeafKey>,
        watch: &Watch,
    ) -> Result<Option<(u32, Vec<LeafKey>, Written)>, RetentionError> {
        leaves.sort_unstable();
        let Some(first) = leaves.first().copied() else {
            return Ok(None);
        };
        leaves.retain(|leaf| leaf.ledger_no() == first.ledger_no());
        let epochs = tenant.epochs();
        let Some(epoch) = epochs
            .iter()
            .find(|epoch| epoch.row.ledger_no == first.ledger_no())
        else {
            return Ok(None);
        };
        let mut writer = ArchiveWriter::new(&self.options().archive())?;
        let mut written = Vec::with_capacity(leaves.len());
        for &leaf in &leaves {
            if watch.is_stopped() {
                return Ok(None);
            }
            let Some(row) = self.store().bodies_get(&[leaf])?.pop() else {
                continue;
            };
            let header = crate::records::headers(self.store(), &[leaf])?
                .pop()
                .unwrap_or_default();
            let body = codec::unpack(&row.body, BODY_BYTES_MAX).map_err(|error| RecordError::Body {
                leaf: leaf.leaf_index(),
                reason: error.to_string(),
            })?;
            writer.push(leaf, &header, &row.salt, &body)?;
            written.push(leaf);
            watch.add(1);
            if writer.bytes() > ARCHIVE_BYTES_MAX {
                break;
            }
        }
        let (Some(first), Some(last)) = (written.first(), written.last()) else {
            return Ok(None);
        };
        let name = format!(
            "{}.{}.{}.{}-{}.jsonl",
            tenant.tenant_id,
            epoch.row.epoch,
            class.as_str(),
            first.leaf_index(),
            last.leaf_index()
        );
        let file = writer.finish(name)?;
        Ok(Some((epoch.row.epoch, written, file)))
    }
}

fn seen(store: &dyn Store, tenant: &Tenant) -> Result<Seen, StoreError> {
    let holds = FacetQuery {
        facets: vec!["hold".to_owned()],
        ..FacetQuery::default()
    };
    Ok(Seen {
        erasures: Erasures::count(store, tenant.tenant_no)?,
        holds: store.facet_count(tenant.tenant_no, &holds, 0)?.0,
    })
}

/// On the sequencer's thread: prunes what is in the archive, unless something was erased or held meanwhile.
fn prune(
    sequencer: &mut Sequencer,
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    archived: RetentionArchived,
    ledger_no: u32,
    before: Seen,
    at: Timestamp,
) -> Result<Option<(Receipt, u64)>, RetentionError> {
    if seen(ledger.store(), tenant)? != before {
        return Ok(None);
    }
    let count = archived.count;
    let pruned = archived.leaves.iter().map(|&(first, last)| PrunedRow {
        first: LeafKey::new(ledger_no, first),
        last: LeafKey::new(ledger_no, last),
        // The sequencer knows it.
        by: LeafKey::new(ledger_no, 0),
    });
    let erasing = Erasing {
        rows: Vec::new(),
        runs: Vec::new(),
        pruned: pruned.collect(),
    };
    let body = archived.encode();
    let facts = Facts::Archived(archived);
    let mut salts = tenant.salts();
    let draft = Draft::alone_clean(Kind::RetentionArchived, facts, &body, at, &mut salts)?;
    let receipt = sequencer.submit_erasing_now(tenant, draft, erasing, at)??.receipt;
    Ok(Some((receipt, count)))
}

/// Neighbours as stretches.
fn stretches(leaves: &[LeafKey]) -> Vec<(u64, u64)> {
    let mut stretches: Vec<(u64, u64)> = Vec::new();
    for leaf in leaves {
        let index = leaf.leaf_index();
        match stretches.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => stretches.push((index, index)),
        }
    }
    stretches
}

/// What is due.
struct Due<'a> {
    ledger: &'a Ledger,
    tenant: &'a Arc<Tenant>,
    older_than: Timestamp,
    /// There are holds to ask for.
    holds: bool,
}

impl Due<'_> {
    fn store(&self) -> &dyn Store {
        self.ledger.store()
    }

    fn passed<T>(&self, body: impl FnOnce(&mut Passed) -> T) -> T {
        let mut passed = self
            .ledger
            .inner
            .retention
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        body(passed.entry(self.tenant.tenant_no).or_default())
    }

    /// Leaves of whole runs. Those before the first that is not done are not looked at again before a restart.
    fn runs(&self, synthetic: bool) -> Result<Vec<LeafKey>, RetentionError> {
        let class = usize::from(synthetic);
        let from = self.passed(|passed| passed.runs[class]);
        let (mut next, mut done, mut looked) = (from, true, 0);
        let mut leaves = Vec::new();
        'all: while looked < LOOKED_MAX {
            let rows = self
                .store()
                .runs_read(RunKey::new(self.tenant.tenant_no, next), ROWS_READ)?;
            if rows.is_empty() {
                break;
            }
            for run in rows {
                // Runs stand in the order of their first records: those behind a young one are younger.
                if run.key.tenant_no() != self.tenant.tenant_no || run.state.created_at >= self.older_than {
                    break 'all;
                }
                looked += 1;
                next = run.key.ordinal() + 1;
                if run.state.is_synthetic == synthetic {
                    let due = self.is_due(&run)?;
                    let of_run = if due { self.bodies_of(&run)? } else { Vec::new() };
                    // What is held or due later keeps the mark; what has nothing left is passed.
                    done = done && due && of_run.is_empty() && self.has_no_start(&run)?;
                    leaves.extend(of_run);
                }
                if done {
                    self.passed(|passed| passed.runs[class] = next);
                }
                if leaves.len() >= ARCHIVED_RECORDS_MAX / 2 {
                    break 'all;
                }
            }
        }
        leaves.truncate(ARCHIVED_RECORDS_MAX);
        Ok(leaves)
    }

    /// Whether the body that a run begins with is gone: of one that is held none is, as far as is known here.
    fn has_no_start(&self, run: &RunRow) -> Result<bool, RetentionError> {
        Ok(self.store().bodies_get(&[run.started_leaf])?.is_empty())
    }

    /// Sealed, silent for long enough, and not held.
    fn is_due(&self, run: &RunRow) -> Result<bool, RetentionError> {
        if !run.state.settled || run.state.last_recorded_at >= self.older_than {
            return Ok(false);
        }
        let seal = Identity::once(Kind::EvidenceIntegrity);
        Ok(self.store().run_record_find(run.key, &seal)?.is_some())
    }

    /// Leaves of a run that have bodies; none when any of them is held.
    fn bodies_of(&self, run: &RunRow) -> Result<Vec<LeafKey>, RetentionError> {
        let mut leaves = Vec::new();
        let mut from = 0;
        loop {
            let rows = self.store().run_records(run.key, from, ROWS_READ)?;
            let Some(last) = rows.last() else { break };
            from = last.run_seq + 1;
            let page: Vec<LeafKey> = rows.iter().map(|row| row.leaf).collect();
            let there: Vec<LeafKey> = self
                .store()
                .bodies_get(&page)?
                .iter()
                .map(|row| row.leaf)
                .collect();
            if self.holds {
                for leaf in &there {
                    if self.is_held(*leaf, None)? {
                        return Ok(Vec::new());
                    }
                }
            }
            leaves.extend(there);
            if rows.len() < ROWS_READ as usize {
                break;
            }
        }
        Ok(leaves)
    }

    /// System records and telemetry.
    fn records(&self) -> Result<Vec<LeafKey>, RetentionError> {
        let mut leaves = Vec::new();
        for kind in [Kind::SystemRecord, Kind::SystemTelemetry] {
            let mut below = self.passed(|passed| {
                if kind == Kind::SystemRecord {
                    passed.system
                } else {
                    passed.telemetry
                }
            });
            let (mut looked, mut done) = (0, true);
            while looked < LOOKED_MAX && leaves.len() < ARCHIVED_RECORDS_MAX {
                let query = FacetQuery {
                    facets: vec![facet::facet("kind", kind.as_str())],
                    before: Some(self.older_than),
                    below,
                    limit: ROWS_READ,
                    ..FacetQuery::default()
                };
                let page = self.store().facet_find(self.tenant.tenant_no, &query)?.leaves;
                let Some(&last) = page.last() else { break };
                looked += ROWS_READ;
                below = Some(last);
                for body in self.store().bodies_get(&page)? {
                    let leaf = crate::records::headers(self.store(), &[body.leaf])?
                        .pop()
                        .unwrap_or_default();
                    let Ok(header) = Header::decode(&leaf) else {
                        continue;
                    };
                    // What makes a tenant is never pruned, what is held not now.
                    if !is_erasable(&header) {
                        continue;
                    }
                    if self.holds && self.is_held(body.leaf, Some(&body.body))? {
                        done = false;
                        continue;
                    }
                    done = false;
                    leaves.push(body.leaf);
                }
                if done {
                    self.passed(|passed| {
                        *(if kind == Kind::SystemRecord {
                            &mut passed.system
                        } else {
                            &mut passed.telemetry
                        }) = below;
                    });
                }
            }
        }
        leaves.truncate(ARCHIVED_RECORDS_MAX);
        Ok(leaves)
    }

    fn is_held(&self, leaf: LeafKey, packed: Option<&[u8]>) -> Result<bool, RetentionError> {
        let header = crate::records::headers(self.store(), &[leaf])?
            .pop()
            .unwrap_or_default();
        let Ok(header) = Header::decode(&header) else {
            return Ok(true);
        };
        let facets = packed
            .and_then(|packed| codec::unpack(packed, BODY_BYTES_MAX).ok())
            .and_then(|body| Facts::read(&header, &body).ok())
            .map(|facts| facts.facets(&header))
            .unwrap_or_default();
        let run_id = header.run.as_ref().map(|run| &*run.run_id);
        for scope in HeldBy::of(header.id, run_id, &facets) {
            if scope.holds(self.store(), self.tenant.tenant_no)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// By tenant.
pub(crate) type AllPassed = HashMap<u32, Passed>;
