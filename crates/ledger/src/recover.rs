//! `ledger recover`: a new epoch after a rollback, declared in its first leaf.

use std::sync::Arc;

use evidence::record::{Facts, LedgerRecovered};
use evidence::{ActorType, Kind, Origin, SourceDomain, Timestamp};
use store::LedgerRow;

use crate::sequencer::Sequencer;
use crate::tenant::{LedgerInfo, Refusal, Tenant, origin_of};
use crate::{Bind, Draft, Ledger, Receipt, Salts, SealedBody, SubmitError, TenantError, open};

/// Longest reason.
pub const REASON_BYTES_MAX: usize = 1_000;

/// Why a ledger was not recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// No such tenant.
    #[error("there is no tenant of that name")]
    TenantUnknown,
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
        if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX {
            return Err(RecoverError::Reason);
        }
        let tenant = self.tenant(tenant_id).ok_or(RecoverError::TenantUnknown)?;
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
        Ok(placed) => Ok((placed.receipt, origin)),
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
    let epochs = tenant.epochs();
    let last = tenant.ledger();
    let size = store
        .head_read(last.row.ledger_no)
        .map_err(store_error)?
        .size
        .as_u64();
    // An epoch that a crash left without its first leaf is taken up again.
    let undeclared = last.row.epoch > 0 && size == 0;
    let before = if undeclared {
        Arc::clone(&epochs[epochs.len() - 2])
    } else {
        Arc::clone(&last)
    };
    if !undeclared && before.refusal().is_none() {
        return Err(RecoverError::InOrder);
    }
    let head = store.head_read(before.row.ledger_no).map_err(store_error)?;
    let mark = sequencer.high_water().get(&before.row.origin);
    let checkpoint = store
        .checkpoint_newest(before.row.ledger_no)
        .map_err(store_error)?;
    let known = mark.map(|mark| (mark.size.as_u64(), mark.root.to_base64()));
    let lost = known
        .as_ref()
        .filter(|(size, _)| *size > head.size.as_u64())
        .map(|(size, _)| (head.size.as_u64(), *size));
    let recovered = LedgerRecovered {
        reason,
        previous_origin: before.row.origin.clone(),
        last_checkpoint: checkpoint.map(|row| row.note),
        last_known: known,
        lost,
    };
    if undeclared {
        return Ok((recovered, last.row.origin.clone()));
    }
    let rows = store.ledgers_list().map_err(store_error)?;
    let epoch = last.row.epoch + 1;
    let base = last
        .row
        .origin
        .strip_suffix(&format!("/{}", last.row.epoch))
        .filter(|_| last.row.epoch > 0);
    let base = base
        .unwrap_or(&last.row.origin)
        .strip_suffix(&format!("/{}", tenant.tenant_id));
    let row = LedgerRow {
        ledger_no: rows.iter().map(|row| row.ledger_no).max().map_or(0, |no| no + 1),
        tenant_no: tenant.tenant_no,
        tenant_id: tenant.tenant_id.to_string(),
        epoch,
        origin: origin_of(base.unwrap_or(&inner.options.origin), &tenant.tenant_id, epoch),
        vkey: String::new(),
    };
    let row = open::create_ledger(store.as_ref(), &inner.keys, sequencer.high_water(), row)
        .map_err(TenantError::Open)?;
    let origin = row.origin.clone();
    let ledger = Arc::new(LedgerInfo::new(row, None));
    open::take_up(&inner, sequencer, tenant, &ledger)
        .map_err(|refusal: Refusal| TenantError::Refused(refusal))?;
    tenant.push_epoch(ledger);
    Ok((recovered, origin))
}
