//! Ledgers' rows held against the records of the tenants that they are of.

use evidence::{Finding, FindingCode};
use store::{LedgerRow, Store, StoreError, TenantRow};

use super::{Question, Report, or_finding};
use crate::INSTANCE;

/// `recorded` was read before `ledgers`. The rows of `tenants` themselves are held against their leaves elsewhere.
pub(super) fn check(
    store: &dyn Store,
    question: &Question<'_>,
    recorded: &[TenantRow],
    ledgers: &[LedgerRow],
    report: &mut Report,
) -> Result<(), StoreError> {
    let asked = |tenant_id: &str| question.tenant_id.as_ref().is_none_or(|asked| asked == tenant_id);
    let finding = |place: &str, tenant_id: &str, detail: String| {
        Finding::new(FindingCode::LeafMalformed, place, detail).with_tenant(tenant_id)
    };
    for tenant in recorded.iter().filter(|tenant| asked(&tenant.tenant_id)) {
        if !ledgers
            .iter()
            .any(|row| row.tenant_no == tenant.tenant_no && row.tenant_id == tenant.tenant_id)
        {
            let detail = format!("tenant {} was made, its ledger is not there", tenant.tenant_no);
            report.add(finding("ledgers", &tenant.tenant_id, detail).with_leaf(tenant.leaf.leaf_index()));
        }
    }
    // A ledger without leaves may be of a tenant whose record a crash took. Read again: records come after rows.
    let recorded = or_finding(store.tenants_list(), None, report)?;
    for row in ledgers.iter().filter(|row| asked(&row.tenant_id)) {
        let is_instance = (row.tenant_no == 0, row.tenant_id == INSTANCE);
        let known = match is_instance {
            (true, true) => true,
            (false, false) => recorded
                .iter()
                .any(|t| t.tenant_no == row.tenant_no && t.tenant_id == row.tenant_id),
            _ => false,
        };
        let empty = report
            .ledgers
            .iter()
            .any(|ledger| ledger.origin == row.origin && ledger.tree_size == 0);
        if !known && (!empty || is_instance != (false, false)) {
            let detail = format!(
                "no record made tenant {} of number {}",
                row.tenant_id, row.tenant_no
            );
            report.add(finding("ledgers.tenant_no", &row.tenant_id, detail));
        }
    }
    let mut by_epoch: Vec<&LedgerRow> = ledgers.iter().filter(|row| asked(&row.tenant_id)).collect();
    by_epoch.sort_by_key(|row| (row.tenant_no, row.ledger_no));
    for epochs in by_epoch.chunk_by(|a, b| a.tenant_no == b.tenant_no) {
        // A number whose key or mark was there before is passed over, so that no key signs twice.
        let mut next = 0;
        for (place, row) in epochs.iter().enumerate() {
            let is_next = if place == 0 {
                row.epoch == 0
            } else {
                row.epoch >= next
            };
            if !is_next {
                let detail = format!("epoch {} stands where {next} should, or a later one", row.epoch);
                report.add(finding("ledgers.epoch", &row.tenant_id, detail));
            }
            next = row.epoch.saturating_add(1);
        }
    }
    Ok(())
}
