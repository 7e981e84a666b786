//! `ledger recover`: a new epoch after a rollback, declared in its first leaf.

use std::collections::BTreeMap;
use std::sync::Arc;

use evidence::record::{EpochEnded, Facts, LedgerRecovered, is_blank};
use evidence::{ActorType, Kind, Origin, SourceDomain, Timestamp};
use store::{LedgerRow, Store, StoreError};
use tlog::Hash;

use crate::epochs::{Ended, Epochs, base_of, head_of, is_epoch_of, larger, marks_away};
use crate::sequencer::Sequencer;
use crate::tenant::{INSTANCE, LedgerInfo, Refusal, Tenant, is_tenant_name, no_tenant, origin_of};
use crate::{Bind, Draft, HighWater, Ledger, Receipt, Salts, SealedBody, SubmitError, TenantError, open};

/// Longest reason.
pub const REASON_BYTES_MAX: usize = 1_000;

/// Epochs that a first leaf speaks of, at most: 300 bytes each, and one recovery a day for three years.
const EPOCHS_MAX: usize = 1_000;

/// Numbers of epochs that are passed over at most, because they were in use before the database was set back.
const NUMBERS_PASSED_MAX: u32 = 10_000;

/// Why a ledger was not recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// No such tenant.
    #[error("{}", no_tenant(.0))]
    TenantUnknown(String),
    /// No such tenant any more: marks know leaves of it.
    #[error(
        "{leaves} leaves of tenant {tenant_id} were signed, and the database has no such tenant: \
         `deponent tenant create {tenant_id}` makes it anew, refused for writing; then recover it"
    )]
    TenantLost {
        /// Its name.
        tenant_id: String,
        /// Leaves of its epochs that were signed.
        leaves: u64,
    },
    /// Nothing is wrong with it.
    #[error("the ledger is in order; there is nothing to recover from")]
    InOrder,
    /// A reason must be given.
    #[error("the reason must have 1 to {REASON_BYTES_MAX} bytes")]
    Reason,
    /// The new epoch could not be made.
    #[error(transparent)]
    Tenant(#[from] TenantError),
}

impl Ledger {
    /// Starts the tenant's next epoch: new origin, new key, and a first leaf that declares what is lost. Blocks.
    pub fn recover(
        &self,
        tenant_id: &str,
        reason: &str,
        at: Timestamp,
    ) -> Result<(Receipt, String), RecoverError> {
        if is_blank(reason) || reason.len() > REASON_BYTES_MAX {
            return Err(RecoverError::Reason);
        }
        let tenant = self
            .tenant(tenant_id)
            .ok_or_else(|| self.tenant_not_there(tenant_id))?;
        // The rules of redaction hold in the next epoch too. Where they cannot be read nothing may be written, as at the
        // start.
        self.take_up_rules(&tenant)
            .map_err(|error| TenantError::Refused(Refusal::Damaged(format!("redaction: {error}"))))?;
        let (reply, answer) = std::sync::mpsc::channel();
        let (task_tenant, reason) = (Arc::clone(&tenant), reason.to_owned());
        let queued = self.inner.queue.push_task(Box::new(move |sequencer| {
            // The asker may have gone; the epoch stays.
            let _ = reply.send(next_epoch(sequencer, &task_tenant, reason, at));
        }));
        let closing = || RecoverError::Tenant(TenantError::Submit(SubmitError::Closing));
        let recovered = if queued {
            answer.recv().map_err(|_| closing())??
        } else {
            return Err(closing());
        };
        self.checkpoint_now(&tenant);
        Ok(recovered)
    }

    /// Why there is no tenant of that name, by the marks.
    fn tenant_not_there(&self, tenant_id: &str) -> RecoverError {
        let first = origin_of(&self.inner.options.origin, tenant_id, 0);
        // Marks that cannot be read here end the next start; they tell nothing now.
        let marks = HighWater::open(&self.inner.options.high_water()).ok();
        let leaves: u64 = marks
            .iter()
            .flat_map(HighWater::iter)
            .filter(|(origin, _)| is_epoch_of(origin, &first))
            .map(|(_, mark)| mark.size.as_u64())
            .sum();
        if leaves == 0 || !is_tenant_name(tenant_id) {
            return RecoverError::TenantUnknown(tenant_id.to_owned());
        }
        RecoverError::TenantLost {
            tenant_id: tenant_id.to_owned(),
            leaves,
        }
    }
}

/// On the sequencer's thread, so that nothing comes between the epoch and its first leaf.
///
/// Crash before that leaf: the epoch is empty, and refused until it is recovered again
/// ([`open::take_up_tenants`]), which hands out the same declaration.
fn next_epoch(
    sequencer: &mut Sequencer,
    tenant: &Arc<Tenant>,
    reason: String,
    at: Timestamp,
) -> Result<(Receipt, String), RecoverError> {
    let (recovered, origin) = make_epoch(sequencer, tenant, reason)?;
    let kind = Kind::LedgerRecovered;
    let body = SealedBody::seal(kind, Salts::default().next_salt(), &recovered.encode())
        .map_err(|_| RecoverError::Reason)?;
    let draft = Draft {
        kind,
        bind: Bind::None,
        identity: None,
        content: None,
        trace_id: None,
        correlation_id: None,
        actor: (ActorType::Human, None),
        occurred_at: at,
        source_domain: SourceDomain::System,
        source_component: "ledger",
        origin: Origin::Human,
        body,
        facts: Facts::Other,
        expect_run_seq: None,
    };
    let ledger = tenant.ledger();
    ledger.accept();
    let placed = sequencer
        .submit_now(tenant, draft, at)
        .and_then(|outcome| outcome.map_err(|rejection| SubmitError::Refused(rejection.to_string())));
    match placed {
        Ok(placed) => {
            // Those in use may name events that were lost: what jobs are is read from what is left.
            sequencer.inner().jobs.forget();
            // What was refused until now has ended as it is.
            let store = Arc::clone(&sequencer.inner().store);
            let rows: Vec<LedgerRow> = tenant.epochs().iter().map(|epoch| epoch.row.clone()).collect();
            let said = Epochs::read(store.as_ref(), &rows);
            let judged = said.and_then(|said| open::judge_ended(store.as_ref(), tenant, &said));
            if let Err(error) = judged {
                tracing::warn!(%error, "how the older epochs are is told from the next start");
            }
            if &*tenant.tenant_id == INSTANCE {
                // Those that were made while it could not be written to.
                crate::tenant::record_missing(sequencer, at);
            }
            Ok((placed.receipt, origin))
        }
        Err(error) => {
            // Nothing may stand where the declaration belongs.
            ledger.refuse(undeclared());
            Err(TenantError::Submit(error).into())
        }
    }
}

/// Why an epoch without its first leaf is refused.
pub(crate) fn undeclared() -> Refusal {
    Refusal::RolledBack("the recovery was not finished: recover again".into())
}

/// Makes the epoch, unless it is there without a leaf, and says what its first leaf must declare.
fn make_epoch(
    sequencer: &mut Sequencer,
    tenant: &Arc<Tenant>,
    reason: String,
) -> Result<(LedgerRecovered, String), RecoverError> {
    let inner = Arc::clone(sequencer.inner());
    let store = Arc::clone(&inner.store);
    let store_error = |error| TenantError::Open(open::OpenError::Store(error));
    let refused = |refusal: Refusal| TenantError::Refused(refusal);
    let last = tenant.ledger();
    let all = store.ledgers_list().map_err(store_error)?;
    let next_no = all.iter().map(|row| row.ledger_no).max().map_or(0, |no| no + 1);
    let mut rows: Vec<LedgerRow> = all
        .into_iter()
        .filter(|row| row.tenant_no == tenant.tenant_no)
        .collect();
    rows.sort_by_key(|row| row.epoch);
    // An epoch that a crash left without its first leaf is taken up again.
    let size = head_of(store.as_ref(), last.row.ledger_no)
        .map_err(store_error)?
        .size;
    let signed = sequencer.high_water().get(&last.row.origin);
    let is_undeclared = rows.len() > 1
        && size.as_u64() == 0
        && signed.is_some_and(|mark| mark.size.as_u64() == 0)
        && (sequencer.writes(last.row.ledger_no)
            || open::take_up(&inner, sequencer, tenant, &last)
                .map_err(store_error)?
                .is_none());
    if is_undeclared {
        rows.pop();
    } else if last.refusal().is_none() {
        return Err(RecoverError::InOrder);
    }
    let base = base_of(&last.row);
    let recovered = declaration(sequencer, store.as_ref(), &rows, &last.row, reason).map_err(store_error)?;
    if is_undeclared {
        return Ok((recovered, last.row.origin.clone()));
    }
    // A number that has a key or a mark was an epoch that this database does not know any more: its key has signed
    // another tree.
    let is_free = |epoch: &u32| {
        let origin = origin_of(base, &tenant.tenant_id, *epoch);
        sequencer.high_water().get(&origin).is_none() && !inner.keys.has(&tenant.tenant_id, *epoch)
    };
    let epoch = (1..=NUMBERS_PASSED_MAX)
        .map(|n| last.row.epoch.saturating_add(n))
        .find(is_free)
        .ok_or_else(|| refused(Refusal::Damaged("no number is left for another epoch".into())))?;
    let row = LedgerRow {
        ledger_no: next_no,
        tenant_no: tenant.tenant_no,
        tenant_id: tenant.tenant_id.to_string(),
        epoch,
        origin: origin_of(base, &tenant.tenant_id, epoch),
        vkey: String::new(),
    };
    let row = open::create_ledger(store.as_ref(), &inner.keys, sequencer.high_water(), row)
        .map_err(TenantError::Open)?;
    let origin = row.origin.clone();
    let ledger = Arc::new(LedgerInfo::new(row, None));
    if let Some(refusal) = open::take_up(&inner, sequencer, tenant, &ledger).map_err(store_error)? {
        return Err(refused(refusal).into());
    }
    tenant.push_epoch(ledger);
    Ok((recovered, origin))
}

/// What a first leaf must declare of the epochs before it, oldest first, and of those that only marks or keys know.
/// `newest` is the last of them, or an epoch that is not declared yet and has its key all the same.
fn declaration(
    sequencer: &mut Sequencer,
    store: &dyn Store,
    rows: &[LedgerRow],
    newest: &LedgerRow,
    reason: String,
) -> Result<LedgerRecovered, StoreError> {
    let said = Epochs::read(store, rows)?;
    let mut epochs = Vec::with_capacity(rows.len());
    for row in rows {
        let head = head_of(store, row.ledger_no)?;
        let mark = sequencer.high_water().get(&row.origin);
        let known = mark.map(|mark| (mark.size.as_u64(), mark.root.to_base64()));
        let said = said.ended(&row.origin).and_then(Ended::best_known);
        let known = larger(known, said);
        epochs.push(ended(&row.origin, head.size.as_u64(), head.root, known));
    }
    let mut away: BTreeMap<String, (u64, String)> = said
        .away()
        .into_iter()
        .filter_map(|(origin, ended)| Some((origin.to_owned(), ended.best_known()?)))
        .collect();
    for (origin, mark) in marks_away(sequencer.high_water(), rows) {
        let known = Some((mark.size.as_u64(), mark.root.to_base64()));
        let said = away.remove(origin);
        away.extend(larger(known, said).map(|known| (origin.to_owned(), known)));
    }
    // A key may be all that is left of an epoch, and what it signed is not known: it is spoken of as empty.
    let keys = sequencer.inner().keys.epochs(&newest.tenant_id);
    for epoch in keys.map_err(|error| StoreError::Unavailable(error.to_string()))? {
        let origin = origin_of(base_of(newest), &newest.tenant_id, epoch);
        if origin != newest.origin && rows.iter().all(|row| row.origin != origin) {
            away.entry(origin)
                .or_insert_with(|| (0, tlog::empty_root().to_base64()));
        }
    }
    let gone = away.into_iter().map(|(origin, known)| {
        let known = Some(known).filter(|(size, _)| *size > 0);
        ended(&origin, 0, tlog::empty_root(), known)
    });
    epochs.extend(gone);
    // The newest are those that verifiers may have kept something of.
    let spare = epochs.len().saturating_sub(EPOCHS_MAX);
    epochs.drain(..spare);
    let before = rows.last().map(|row| (row.ledger_no, row.origin.clone()));
    let (before_no, previous_origin) = before.unwrap_or_default();
    let checkpoint = match store.checkpoint_newest(before_no) {
        Err(StoreError::Damaged { .. }) => None,
        other => other?,
    };
    let of_before = epochs.iter().find(|ended| ended.origin == previous_origin);
    let size = of_before.map_or(0, |ended| ended.size);
    let last_known = of_before.and_then(|ended| ended.last_known_size.zip(ended.last_known_root.clone()));
    let lost = last_known
        .as_ref()
        .filter(|(known, _)| *known > size)
        .map(|(known, _)| (size, *known));
    Ok(LedgerRecovered {
        epochs,
        reason,
        previous_origin,
        last_checkpoint: checkpoint.map(|row| row.note),
        last_known,
        lost,
    })
}

fn ended(origin: &str, size: u64, root: Hash, known: Option<(u64, String)>) -> EpochEnded {
    let (last_known_size, last_known_root) = known.unzip();
    EpochEnded {
        origin: origin.to_owned(),
        size,
        root: root.to_base64(),
        last_known_size,
        last_known_root,
    }
}
