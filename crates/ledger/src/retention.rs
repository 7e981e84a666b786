//! Retention: what has been kept long enough goes into an archive, and then its bodies are pruned.
//!
//! Leaves and proofs stay, and so does what is projected. Runs go whole, when they are sealed; system records and
//! telemetry one by one. What is held, or younger than the minimum, stays. A pass is bounded; the next one goes on
//! where it ended. What is due is found in [`due`].
//!
//! Source: SPEC 11.6; docs/formats.md, "retention.archived", "Archives".

mod due;

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use evidence::record::{Facts, HoldScope, RetentionArchived, RetentionClass};
use evidence::{Kind, Timestamp};
use store::{FacetQuery, LeafKey, PrunedRow, Store, StoreError};

use crate::archive::{ArchiveWriter, Written};
use crate::erase::Erasing;
use crate::hold::HeldBy;
use crate::own::Watch;
use crate::sequencer::Sequencer;
use crate::verify::Erasures;
use crate::{BodyTooLarge, Draft, Ledger, Receipt, RecordError, Rejection, SubmitError, Tenant};

use due::Due;
pub(crate) use due::{AllWalks, committed};

/// Bytes of one archive, about: the body that passes it is the archive's last.
const ARCHIVE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Archives of one tenant and class in a pass, and looks for what goes into one: 200,000 records, and a few seconds
/// of looking.
const ARCHIVES_MAX: u32 = 20;

/// Runs, or records, looked at for one archive: a tenth of a second when all of them are archived.
const LOOKED_MAX: u32 = 20_000;

/// How long what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Runs, microseconds after their last record.
    pub runs_micros: i64,
    /// Made up ones.
    pub synthetic_micros: i64,
    /// System records and telemetry, microseconds after they were recorded.
    pub system_micros: i64,
    /// Runs, or records, looked at for one archive.
    pub looked_max: u32,
}

impl Default for RetentionSettings {
    /// SPEC 11.6: 90, 7 and 30 days.
    fn default() -> Self {
        const DAY: i64 = 24 * 3_600 * 1_000_000;
        Self {
            runs_micros: 90 * DAY,
            synthetic_micros: 7 * DAY,
            system_micros: 30 * DAY,
            looked_max: LOOKED_MAX,
        }
    }
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

/// How many bodies are due of each class, as far as one archive takes them.
pub(crate) type DueNow = [u64; CLASSES.len()];

/// What may change under an archive while it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    erasures: u64,
    holds: u64,
}

/// What came of looking for one archive.
#[derive(Clone, Copy, Debug)]
struct Looked {
    /// Bodies that are pruned.
    pruned: u64,
    /// There may be more.
    more: bool,
}

impl Looked {
    const NOTHING: Self = Self {
        pruned: 0,
        more: false,
    };
}

impl Ledger {
    /// Archives and prunes what is due, of every tenant; says how many bodies. Blocks.
    ///
    /// # Errors
    /// The first that came up; what was archived is pruned, and other tenants are not kept from it.
    pub fn retain(&self, at: Timestamp) -> Result<u64, RetentionError> {
        let (mut pruned, mut failed) = (0, None);
        if let Err(error) = self.sweep_archives() {
            tracing::warn!(%error, "cannot look for archives that no record names");
        }
        for tenant in self.tenants() {
            let due = self.retention_due(&tenant, at);
            let retained =
                due.and_then(|due| self.retain_of(&tenant, due, at, &Watch::default(), &mut pruned));
            if let Err(error) = retained {
                tracing::warn!(tenant_id = %tenant.tenant_id, %error, "retention of a tenant ended early");
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(pruned), Err)
    }

    /// How many bodies of a tenant the next archive of each class may take; walks stand before them. Blocks.
    pub(crate) fn retention_due(
        &self,
        tenant: &Arc<Tenant>,
        at: Timestamp,
    ) -> Result<DueNow, RetentionError> {
        let mut counts = [0; CLASSES.len()];
        if tenant.ledger().refusal().is_some() {
            return Ok(counts);
        }
        for (count, class) in counts.iter_mut().zip(CLASSES) {
            due::begin(self, tenant, class);
            for _ in 0..ARCHIVES_MAX {
                let Some((due, _)) = self.look(tenant, class, at)? else {
                    break;
                };
                let found = due.find(class)?;
                *count = found.leaves.len() as u64;
                if *count > 0 {
                    due.again(&found.walked);
                }
                if *count > 0 || found.ended {
                    break;
                }
            }
        }
        Ok(counts)
    }

    /// Archives and prunes what is due of a tenant, counted by bodies and stopped between two archives.
    pub(crate) fn retain_of(
        &self,
        tenant: &Arc<Tenant>,
        mut due: DueNow,
        at: Timestamp,
        watch: &Watch,
        pruned: &mut u64,
    ) -> Result<(), RetentionError> {
        watch.total.store(due.iter().sum(), Ordering::Relaxed);
        for (place, class) in CLASSES.into_iter().enumerate() {
            if std::mem::take(&mut due[place]) == 0 {
                continue;
            }
            for _ in 0..ARCHIVES_MAX {
                if watch.is_stopped() {
                    return Ok(());
                }
                let looked = self.retain_once(tenant, class, at, (watch, due.iter().sum()))?;
                *pruned += looked.pruned;
                if !looked.more {
                    break;
                }
            }
        }
        Ok(())
    }

    /// What to look for of a class; `None`: nothing may go.
    fn look<'a>(
        &'a self,
        tenant: &'a Arc<Tenant>,
        class: RetentionClass,
        at: Timestamp,
    ) -> Result<Option<(Due<'a>, Seen)>, RetentionError> {
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
            looked_max: settings.looked_max,
            holds: seen.holds > 0,
        };
        Ok(Some((due, seen)))
    }

    /// At most one archive of one class; of others so many bodies are due later.
    fn retain_once(
        &self,
        tenant: &Arc<Tenant>,
        class: RetentionClass,
        at: Timestamp,
        (watch, later): (&Watch, u64),
    ) -> Result<Looked, RetentionError> {
        // Nobody takes away what no record names while one is being written that is to name it.
        let mut named = self.inner.archives.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((due, seen)) = self.look(tenant, class, at)? else {
            return Ok(Looked::NOTHING);
        };
        let older_than = due.older_than;
        let found = due.find(class)?;
        let more = !found.ended;
        // There may be more than one look sees.
        let total = watch.done.load(Ordering::Relaxed) + found.leaves.len() as u64 + later;
        watch.total.store(total, Ordering::Relaxed);
        let Some(archive) = self.write_archive(tenant, class, found.leaves, watch)? else {
            if watch.is_stopped() {
                due.again(&found.walked);
            }
            return Ok(Looked { pruned: 0, more });
        };
        let (leaves, written) = (archive.leaves, archive.written);
        let archived = RetentionArchived {
            archive: written.name.clone(),
            bytes: written.bytes,
            class,
            count: u64::try_from(leaves.len()).unwrap_or(u64::MAX),
            epoch: archive.epoch,
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
            written.remove()?;
            return Err(SubmitError::Closing.into());
        }
        match answer.recv().map_err(|_| self.unanswered())? {
            Ok(Some((_, pruned))) => {
                named.insert(written.name);
                if archive.cut {
                    due.again(&found.walked);
                }
                let more = more || archive.cut;
                Ok(Looked { pruned, more })
            }
            // Something was erased or held meanwhile, perhaps of these: it must not stay in a file.
            Ok(None) => {
                written.remove()?;
                due.again(&found.walked);
                Ok(Looked {
                    pruned: 0,
                    more: true,
                })
            }
            // It may be named after all: that is looked up before it is taken away.
            Err(error @ RetentionError::Submit(SubmitError::Unknown(_))) => Err(error),
            Err(error) => {
                written.remove()?;
                Err(error)
            }
        }
    }

    /// Writes what is there of the bodies of these leaves, of one of the tenant's ledgers; nothing when told to stop.
    fn write_archive(
        &self,
        tenant: &Tenant,
        class: RetentionClass,
        mut leaves: Vec<LeafKey>,
        watch: &Watch,
    ) -> Result<Option<Archive>, RetentionError> {
        leaves.sort_unstable();
        let Some(first) = leaves.first().copied() else {
            return Ok(None);
        };
        let all = leaves.len();
        leaves.retain(|leaf| leaf.ledger_no() == first.ledger_no());
        let mut cut = leaves.len() < all;
        let epochs = tenant.epochs();
        let Some(epoch) = epochs
            .iter()
            .find(|epoch| epoch.row.ledger_no == first.ledger_no())
        else {
            return Ok(None);
        };
        let mut writer = ArchiveWriter::new(&self.options().archive())?;
        let (mut written, mut body) = (Vec::with_capacity(leaves.len()), Vec::new());
        for &leaf in &leaves {
            if watch.is_stopped() {
                writer.discard()?;
                return Ok(None);
            }
            if writer.bytes() > ARCHIVE_BYTES_MAX {
                cut = true;
                break;
            }
            let Some(row) = self.store().bodies_get(&[leaf])?.pop() else {
                continue;
            };
            let header = crate::records::headers(self.store(), &[leaf])?
                .pop()
                .unwrap_or_default();
            // Nobody could open it any more once it is pruned.
            let opened = crate::records::decode(leaf, &header)
                .and_then(|header| crate::body::open(&header, &row, &mut body));
            match opened {
                Ok(()) => writer.push(leaf, &header, &row.salt, &body)?,
                Err(error) => {
                    // Verification says what it is; the others need not wait for it.
                    tracing::warn!(
                        tenant_id = %tenant.tenant_id, leaf = leaf.leaf_index(), %error,
                        "a body cannot be archived and stays"
                    );
                    continue;
                }
            }
            written.push(leaf);
            watch.add(1);
        }
        let (Some(first), Some(last)) = (written.first(), written.last()) else {
            writer.discard()?;
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
        Ok(Some(Archive {
            epoch: epoch.row.epoch,
            leaves: written,
            cut,
            written: file,
        }))
    }
}

/// Names of archives that a record is known to name. They are looked up once.
pub(crate) type Named = HashSet<String>;

/// What went into an archive.
struct Archive {
    epoch: u32,
    leaves: Vec<LeafKey>,
    /// Something was left for the next.
    cut: bool,
    written: Written,
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
        run: None,
        refolded: None,
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
