//! Ledgers' rows held against the records of the tenants that they are of.

use std::collections::BTreeSet;

use evidence::{Finding, FindingCode};
use store::{LedgerRow, Store, StoreError, TenantRow};

use super::{Question, Report, or_finding};
use crate::INSTANCE;
use crate::epochs::base_of;
use crate::tenant::{is_tenant_name, origin_of};

/// Tenants by number and name.
type Names<'a> = BTreeSet<(u32, &'a str)>;

/// `made` are the tenants that the instance's records made: rows of `tenants` read before `ledgers`, which are held
/// against their leaves elsewhere, or what the leaves themselves say where no projection is read.
pub(super) fn check(
    store: &dyn Store,
    question: &Question<'_>,
    made: &[TenantRow],
    ledgers: &[LedgerRow],
    report: &mut Report,
) -> Result<(), StoreError> {
    // Of one tenant alone only a projection would say who made it: the instance's leaves were not looked at.
    if !question.only_ledger || question.tenant_id.is_none() {
        without_ledger(store, question, made, ledgers, report)?;
        without_record(store, question, made, ledgers, report)?;
    }
    numbers(question, ledgers, report);
    Ok(())
}

fn asked(question: &Question<'_>, tenant_id: &str) -> bool {
    question.tenant_id.as_ref().is_none_or(|asked| asked == tenant_id)
}

fn finding(place: &str, tenant_id: &str, detail: String) -> Finding {
    Finding::new(FindingCode::LeafMalformed, place, detail).with_tenant(tenant_id)
}

fn of_ledgers(rows: &[LedgerRow]) -> Names<'_> {
    rows.iter()
        .map(|row| (row.tenant_no, row.tenant_id.as_str()))
        .collect()
}

fn of_tenants(rows: &[TenantRow]) -> Names<'_> {
    rows.iter()
        .map(|row| (row.tenant_no, row.tenant_id.as_str()))
        .collect()
}

/// Tenants that were made and have no ledger.
fn without_ledger(
    store: &dyn Store,
    question: &Question<'_>,
    made: &[TenantRow],
    ledgers: &[LedgerRow],
    report: &mut Report,
) -> Result<(), StoreError> {
    let there = of_ledgers(ledgers);
    if !ledgers.is_empty() && asked(question, INSTANCE) && !there.contains(&(0_u32, INSTANCE)) {
        let detail = "the instance's own ledger, which is made before all others, is not there".to_owned();
        report.add(finding("ledgers", INSTANCE, detail));
    }
    let is_gone = |there: &Names<'_>, tenant: &TenantRow| {
        asked(question, &tenant.tenant_id) && !there.contains(&(tenant.tenant_no, tenant.tenant_id.as_str()))
    };
    if !made.iter().any(|tenant| is_gone(&there, tenant)) {
        return Ok(());
    }
    // One may have been made since these were listed. Its row is older than its record, so it is there by now.
    let now = or_finding(store.ledgers_list(), None, report)?;
    let now = of_ledgers(&now);
    for tenant in made {
        if is_gone(&there, tenant) && is_gone(&now, tenant) {
            let detail = format!("tenant {} was made, its ledger is not there", tenant.tenant_no);
            let finding = finding("ledgers", &tenant.tenant_id, detail);
            report.add(finding.with_leaf(tenant.leaf.leaf_index()));
        }
    }
    Ok(())
}

/// Ledgers of tenants that no record made.
fn without_record(
    store: &dyn Store,
    question: &Question<'_>,
    made: &[TenantRow],
    ledgers: &[LedgerRow],
    report: &mut Report,
) -> Result<(), StoreError> {
    let known = of_tenants(made);
    let is_instance = |row: &LedgerRow| row.tenant_no == 0 && row.tenant_id == INSTANCE;
    // Neither number nor name is the instance's.
    let is_apart = |row: &LedgerRow| row.tenant_no != 0 && row.tenant_id != INSTANCE;
    let is_known = |known: &Names<'_>, row: &LedgerRow| {
        is_apart(row) && known.contains(&(row.tenant_no, row.tenant_id.as_str()))
    };
    let mut unknown: Vec<&LedgerRow> = ledgers.iter().collect();
    unknown.retain(|row| asked(question, &row.tenant_id) && !is_instance(row) && !is_known(&known, row));
    if unknown.is_empty() {
        return Ok(());
    }
    // Records come after rows: one may be written by now.
    let now = or_finding(store.tenants_list(), None, report)?;
    let now = of_tenants(&now);
    unknown.retain(|row| !is_known(&now, row));
    for row in unknown {
        let mut detail = format!(
            "no record made tenant {} of number {}",
            row.tenant_id, row.tenant_no
        );
        let is_empty = report
            .ledgers
            .iter()
            .any(|ledger| ledger.origin == row.origin && ledger.tree_size == 0);
        if is_apart(row) && is_empty {
            // A crash may have taken the record, and the next start makes up for it.
            let Some(why) = no_crash_left(question, row) else {
                continue;
            };
            detail = format!("{detail}, and {why}");
        }
        report.add(finding("ledgers.tenant_no", &row.tenant_id, detail));
    }
    Ok(())
}

/// Why a ledger without leaves is not what a crash leaves of a tenant that is being made, which has key, mark and row, and
/// no record yet. Its key is looked at with its checkpoints.
fn no_crash_left(question: &Question<'_>, row: &LedgerRow) -> Option<&'static str> {
    if !is_tenant_name(&row.tenant_id) || origin_of(base_of(row), &row.tenant_id, row.epoch) != row.origin {
        return Some("none is given such a name or origin");
    }
    let is_marked = question.marks?.has(&row.origin);
    (!is_marked).then_some("its ledger has no mark, which is made before the row")
}

/// Epochs follow one another.
fn numbers(question: &Question<'_>, ledgers: &[LedgerRow], report: &mut Report) {
    let mut by_epoch: Vec<&LedgerRow> = ledgers.iter().collect();
    by_epoch.retain(|row| asked(question, &row.tenant_id));
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
}
