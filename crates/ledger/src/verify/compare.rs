//! Derived rows held against stored ones.

use std::collections::HashMap;

use evidence::{
    Declared, ExecutionStatus, Finding, FindingCode, Header, NanoCents, RunState, Timestamp, TraceStatus,
    facet, hex_string,
};
use store::codec::Unpacker;
use store::{ExpectedRows, FacetRow, LeafKey, ProjectionCounts, RunKey, RunRow, Snapshot, Store, StoreError};

use super::Erasures;
use super::Report;
use super::derive::{Derived, Deriver, Late};
use super::examine::Examiner;
use crate::tree::{StoredTree, unless_damaged};

/// Rows read at once when unexpected ones are looked for.
const ROWS_READ: u32 = 10_000;

/// Runs read at once, a few hundred bytes each.
const RUNS_READ: usize = 1_000;

/// Unexpected rows named; the count says how many there are.
const UNEXPECTED_NAMED: usize = 100;

fn record_of(store: &dyn Store, leaf: LeafKey) -> Option<evidence::RecordId> {
    let bytes = StoredTree::new(store, leaf.ledger_no())
        .leaf(leaf.leaf_index())
        .ok()?;
    Header::decode(&bytes).ok().map(|header| header.id)
}

fn at_leaf(store: &dyn Store, finding: Finding, leaf: LeafKey) -> Finding {
    let finding = finding.with_leaf(leaf.leaf_index());
    match record_of(store, leaf) {
        Some(id) => finding.with_record(id),
        None => finding,
    }
}

/// Rows that are written once. Neighbours of a run that stand together are looked up together.
pub(super) fn rows(
    store: &dyn Store,
    tenant_id: &str,
    expected: &ExpectedRows,
    report: &mut Report,
) -> Result<(), StoreError> {
    for missing in store.rows_missing(expected)? {
        let finding = if missing.found.is_empty() {
            Finding::new(
                FindingCode::ProjectionMissing,
                missing.place,
                "no row for this record",
            )
        } else {
            let detail = format!("stored {} is not what the record says", missing.found);
            Finding::new(FindingCode::ProjectionMismatch, missing.place, detail)
        };
        report.add(at_leaf(store, finding.with_tenant(tenant_id), missing.leaf));
    }
    Ok(())
}

/// Ended runs whose stored row counts other records than had been seen when they ended: late ones must explain it.
pub(super) type Deferred = HashMap<String, RunRow>;

/// Runs whose trace has ended, or that the ledger ended with.
pub(super) fn runs(
    store: &dyn Store,
    tenant_id: &str,
    derived: &[RunRow],
    deferred: &mut Deferred,
    erasures: &Erasures<'_>,
    report: &mut Report,
) -> Result<(), StoreError> {
    differing_runs(
        store,
        tenant_id,
        unequal(store, derived)?,
        deferred,
        erasures,
        report,
    )
}

/// A derived row, and what is stored for it.
type Pair<'a> = (&'a RunRow, Result<Option<RunRow>, StoreError>);

/// Those that are not stored exactly as derived: few.
fn unequal<'a>(store: &dyn Store, derived: &'a [RunRow]) -> Result<Vec<Pair<'a>>, StoreError> {
    let mut unequal = Vec::new();
    for rows in derived.chunks(RUNS_READ) {
        let keys: Vec<RunKey> = rows.iter().map(|row| row.key).collect();
        let stored = rows.iter().zip(store.runs_get(&keys)?);
        unequal.extend(stored.filter(|(row, stored)| !matches!(stored, Ok(Some(stored)) if stored == *row)));
    }
    Ok(unequal)
}

fn differing_runs(
    store: &dyn Store,
    tenant_id: &str,
    unequal: Vec<Pair<'_>>,
    deferred: &mut Deferred,
    erasures: &Erasures<'_>,
    report: &mut Report,
) -> Result<(), StoreError> {
    for (row, stored) in unequal {
        let stored = match stored {
            Ok(stored) => stored,
            Err(StoreError::Damaged { place, reason }) => {
                let finding = Finding::new(FindingCode::ProjectionMismatch, place, reason);
                let finding = finding.with_tenant(tenant_id).with_run(&row.state.run_id);
                report.add(at_leaf(store, finding, row.started_leaf));
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(stored) = stored else {
            let finding = Finding::new(FindingCode::ProjectionMissing, "runs", "no row for this run");
            let finding = finding.with_tenant(tenant_id).with_run(&row.state.run_id);
            report.add(at_leaf(store, finding, row.started_leaf));
            continue;
        };
        let mut stored = stored;
        if row.state.settled {
            // What late records change is compared when the ledger ends.
            let late = |state: &RunState| (state.record_count, state.late_count, state.last_recorded_at);
            if late(&stored.state) != late(&row.state) {
                deferred.insert(row.state.run_id.clone(), row.clone());
            }
            stored.state.record_count = row.state.record_count;
            stored.state.late_count = row.state.late_count;
            stored.state.last_recorded_at = row.state.last_recorded_at;
        }
        if stored == *row {
            continue;
        }
        // The row may be ahead of the moment that is verified: then it is derived anew, from all its records.
        if stored.state.record_count > row.state.record_count && is_ahead(store, tenant_id, row, erasures)? {
            continue;
        }
        mismatch(store, tenant_id, &stored, row, report);
    }
    Ok(())
}

fn mismatch(store: &dyn Store, tenant_id: &str, stored: &RunRow, row: &RunRow, report: &mut Report) {
    for (column, found, expected) in differing(stored, row) {
        let detail = format!("stored {found}, the records say {expected}");
        let finding = Finding::new(FindingCode::ProjectionMismatch, format!("runs.{column}"), detail);
        let finding = finding.with_tenant(tenant_id).with_run(&row.state.run_id);
        report.add(at_leaf(store, finding, row.started_leaf));
    }
}

/// Whether a run's row is what all its records add up to, read at one moment.
fn is_ahead(
    store: &dyn Store,
    tenant_id: &str,
    row: &RunRow,
    erasures: &Erasures<'_>,
) -> Result<bool, StoreError> {
    let Some((stored, records)) = store.run_snapshot(row.key)? else {
        return Ok(false);
    };
    let mut deriver = Deriver::new(row.key.tenant_no());
    let (mut derived, mut findings) = (Derived::default(), Vec::new());
    let mut state: Option<RunState> = None;
    for record in records {
        let tree = StoredTree::new(store, record.leaf.ledger_no());
        let Some(leaf) = unless_damaged(tree.leaf(record.leaf.leaf_index()))? else {
            return Ok(false);
        };
        let bodies = store.bodies_get(&[record.leaf])?;
        let ledger_no = record.leaf.ledger_no();
        let mut examiner = Examiner::new(tenant_id.into(), false, Unpacker::default(), erasures, ledger_no);
        let said = examiner
            .examine(
                record.leaf.leaf_index(),
                &leaf,
                bodies.first().map(store::BodyRow::as_ref),
                &mut findings,
            )
            .said;
        let Some(said) = said.filter(|said| said.readable) else {
            return Ok(false);
        };
        match (&mut state, &said.facts) {
            (None, evidence::record::Facts::RunStarted(facts)) => {
                state = Some(RunState::start(facts, said.recorded_at));
            }
            (None, _) => return Ok(false),
            (Some(state), facts) => state.apply(facts, said.correlation_id.as_deref(), said.recorded_at),
        }
        deriver.push(record.leaf, said, &mut derived, &mut findings);
    }
    Ok(findings.is_empty()
        && state.is_some_and(|state| state == stored.state)
        && stored.started_leaf == row.started_leaf)
}

/// A column's value as people read it. Texts stand in quotes, with escapes: they are anybody's.
trait Shown {
    fn shown(&self) -> String;
}

macro_rules! shown {
    ($($type:ty, $value:ident => $text:expr;)*) => {$(
        impl Shown for $type {
            fn shown(&self) -> String {
                let $value = self;
                $text
            }
        }
    )*};
}

shown! {
    String, text => format!("{text:?}");
    bool, value => value.to_string();
    i64, number => number.to_string();
    u32, number => number.to_string();
    u64, number => number.to_string();
    Timestamp, time => time.to_string();
    NanoCents, cost => cost.get().to_string();
    Declared, declared => declared.bits().to_string();
    TraceStatus, status => status.as_str().to_owned();
    ExecutionStatus, status => status.as_str().to_owned();
    [u8; 32], hash => hex_string(hash);
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> String {
        self.as_ref().map_or_else(|| "nothing".to_owned(), Shown::shown)
    }
}

/// Columns that disagree: name, stored, derived.
fn differing(stored: &RunRow, row: &RunRow) -> Vec<(&'static str, String, String)> {
    let mut columns = Vec::new();
    macro_rules! compare {
        ($($field:ident $column:literal),* $(,)?) => {$(
            if stored.state.$field != row.state.$field {
                columns.push(($column, stored.state.$field.shown(), row.state.$field.shown()));
            }
        )*};
    }
    if stored.started_leaf != row.started_leaf {
        let show = |row: &RunRow| row.started_leaf.leaf_index().to_string();
        columns.push(("started_leaf", show(stored), show(row)));
    }
    compare!(
        run_id "run_id", trace_id "trace_id", correlation_id "correlation_id", agent_id "agent_id",
        parent_run_id "parent_run_id", source "source", is_synthetic "is_synthetic", seed "seed",
        plan_hash "plan_hash", otlp "otlp", started_at "started_at", created_at "created_at", status "status",
        execution_status "execution_status", completed_at "completed_at", provider "provider", model "model",
        input_tokens "input_tokens", output_tokens "output_tokens", cost "cost_nano_cents",
        total_steps "total_steps", success_count "success_count", failure_count "failure_count",
        duration_micros "duration_micros", root_hash "root_hash", late_count "late_count",
        record_count "record_count", last_recorded_at "last_recorded_at",
        first_inference_at "first_inference_at", declared "declared", settled "settled",
    );
    columns
}

/// What is left when the tenant's ledgers have ended: open runs, late records, and rows that nothing stands behind.
pub(super) fn finish(
    store: &dyn Store,
    cores: usize,
    tenant_id: &str,
    derived: &Derived,
    late: &[(String, Late)],
    mut deferred: Deferred,
    counts: Option<ProjectionCounts>,
    snapshot: &Snapshot,
    erasures: &Erasures<'_>,
    report: &mut Report,
) -> Result<(), StoreError> {
    // Nothing else is under way any more, and there may be as many as traces.
    let part = derived.runs.len().div_ceil(cores).max(1);
    let unequal = std::thread::scope(|scope| {
        let parts = derived.runs.chunks(part);
        let parts: Vec<_> = parts.map(|part| scope.spawn(|| unequal(store, part))).collect();
        let panicked = |_| Err(StoreError::Unavailable("a reader of runs panicked".into()));
        let parts = parts.into_iter().map(|part| part.join().unwrap_or_else(panicked));
        parts.collect::<Result<Vec<_>, _>>()
    })?;
    for part in unequal {
        differing_runs(store, tenant_id, part, &mut deferred, erasures, report)?;
    }
    let mut ended: Vec<(String, (RunKey, u64, u32, Timestamp))> = late
        .iter()
        .map(|(run_id, late)| {
            deferred.remove(run_id);
            (
                run_id.clone(),
                (
                    late.key,
                    late.record_count,
                    late.late_count,
                    late.last_recorded_at,
                ),
            )
        })
        .collect();
    // No late record explains these.
    ended.extend(deferred.into_iter().map(|(run_id, row)| {
        (
            run_id,
            (
                row.key,
                row.state.record_count,
                row.state.late_count,
                row.state.last_recorded_at,
            ),
        )
    }));
    for (run_id, (key, record_count, late_count, last_recorded_at)) in ended {
        let Ok(Some(stored)) = store.run_read(key) else {
            continue;
        };
        let state = &stored.state;
        let columns = [
            ("runs.record_count", state.record_count == record_count),
            ("runs.late_count", state.late_count == late_count),
            (
                "runs.last_recorded_at",
                state.last_recorded_at == last_recorded_at,
            ),
        ];
        if columns.iter().all(|(_, same)| *same)
            || (state.record_count > record_count && is_ahead(store, tenant_id, &stored, erasures)?)
        {
            continue;
        }
        for (place, _) in columns.iter().filter(|(_, same)| !same) {
            let detail = format!(
                "stored {} records, {} late, last {}; the ledger has {record_count}, {late_count}, {last_recorded_at}",
                state.record_count, state.late_count, state.last_recorded_at
            );
            let finding = Finding::new(FindingCode::ProjectionMismatch, *place, detail);
            report.add(at_leaf(
                store,
                finding.with_tenant(tenant_id).with_run(&run_id),
                stored.started_leaf,
            ));
        }
    }
    match counts {
        Some(counts) => unexpected(store, tenant_id, counts, snapshot, report),
        // A record that cannot be read may stand behind any row.
        None => Ok(()),
    }
}

/// Stretches of pruned leaves that no record stands behind: they would let bodies go.
pub(super) fn pruned(tenant_id: &str, derived: u64, snapshot: &Snapshot, report: &mut Report) {
    let stored = snapshot.rows.pruned;
    if stored > derived {
        let detail = format!("{stored} rows are stored, records stand behind {derived}");
        report.add(Finding::new(FindingCode::ProjectionUnexpected, "pruned", detail).with_tenant(tenant_id));
    }
}

/// Counts the rows of facets whose records are at hand. The others stand at most in lists that their kinds have;
/// one that says of an archived record that a hold was released is found, whatever the archive says.
pub(super) fn facets_known(
    store: &dyn Store,
    (tenant_id, tenant_no): (&str, u32),
    snapshot: &Snapshot,
    erasures: &Erasures<'_>,
    report: &mut Report,
) -> Result<u64, StoreError> {
    let mut sizes = HashMap::new();
    let (mut after, mut known, mut named): (Option<FacetRow>, u64, usize) = (None, 0, 0);
    loop {
        let page = store.facets_read(tenant_no, after.as_ref(), ROWS_READ)?;
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        for FacetRow { facet, leaf } in page {
            let fixed = snapshot.heads.iter().find(|(no, _)| *no == leaf.ledger_no());
            let fixed = fixed.map_or(0, |(_, head)| head.size.as_u64());
            if leaf.leaf_index() >= fixed && came_later(store, &mut sizes, leaf)? {
                continue;
            }
            if !erasures.is_away(leaf) {
                known += 1;
            } else if !facet::of_archived(&facet) {
                named += 1;
                if named <= UNEXPECTED_NAMED {
                    let detail = format!("{facet}: no record that is archived is in this list");
                    let finding = Finding::new(FindingCode::ProjectionUnexpected, "facets", detail);
                    report.add(at_leaf(store, finding.with_tenant(tenant_id), leaf));
                }
            }
        }
    }
    Ok(known)
}

/// Whether a leaf beyond the fixed head is there by now.
fn came_later(store: &dyn Store, sizes: &mut HashMap<u32, u64>, leaf: LeafKey) -> Result<bool, StoreError> {
    let there = |sizes: &HashMap<u32, u64>| {
        let size = sizes.get(&leaf.ledger_no());
        size.is_some_and(|&size| leaf.leaf_index() < size)
    };
    if !there(sizes) {
        let size = store.head_read(leaf.ledger_no())?.size.as_u64();
        sizes.insert(leaf.ledger_no(), size);
    }
    Ok(there(sizes))
}

/// Rows that no record stands behind: more are stored than derived.
fn unexpected(
    store: &dyn Store,
    tenant_id: &str,
    counts: ProjectionCounts,
    snapshot: &Snapshot,
    report: &mut Report,
) -> Result<(), StoreError> {
    let stored = snapshot.rows;
    for (place, stored, derived) in [
        ("runs", stored.runs, counts.runs),
        ("traces", stored.traces, counts.traces),
        ("facets", stored.facets, counts.facets),
        ("tenants", stored.tenants, counts.tenants),
    ] {
        if stored > derived {
            let detail = format!("{stored} rows are stored, records stand behind {derived}");
            report.add(Finding::new(FindingCode::ProjectionUnexpected, place, detail).with_tenant(tenant_id));
        }
    }
    if stored.run_records > counts.run_records {
        name_unexpected_records(store, tenant_id, snapshot, report)?;
    }
    Ok(())
}

fn name_unexpected_records(
    store: &dyn Store,
    tenant_id: &str,
    snapshot: &Snapshot,
    report: &mut Report,
) -> Result<(), StoreError> {
    let tenant_no = match snapshot.heads.first() {
        Some((ledger_no, _)) => store
            .ledgers_list()?
            .iter()
            .find(|row| row.ledger_no == *ledger_no)
            .map_or(0, |row| row.tenant_no),
        None => return Ok(()),
    };
    let (mut after, mut named) = (None, 0);
    let mut seen = std::collections::HashSet::new();
    loop {
        let page = store.run_record_keys(tenant_no, after, ROWS_READ)?;
        let Some(&(run, seq, _)) = page.last() else { break };
        after = Some((run, seq));
        for (run, run_seq, leaf) in page {
            let tree = StoredTree::new(store, leaf.ledger_no());
            let run_seq_there = unless_damaged(tree.leaf(leaf.leaf_index()))?
                .and_then(|bytes| Some(Header::decode(&bytes).ok()?.run?.run_seq));
            if run_seq_there == Some(run_seq) && seen.insert(leaf) {
                continue;
            }
            named += 1;
            if named <= UNEXPECTED_NAMED {
                let (whose, row) = match store.run_read(run) {
                    Ok(Some(row)) => ("", Some(row)),
                    Ok(None) => (" of a run that is not there", None),
                    Err(StoreError::Damaged { .. }) => (" of a run that cannot be read", None),
                    Err(error) => return Err(error),
                };
                let detail = format!("row {run_seq}{whose} has no record behind it");
                let finding = Finding::new(FindingCode::ProjectionUnexpected, "run_records", detail);
                let mut finding = finding.with_tenant(tenant_id);
                if let Some(row) = row {
                    finding = finding.with_run(&row.state.run_id);
                }
                report.add(at_leaf(store, finding, leaf));
            }
        }
    }
    if named == 0 {
        let finding = Finding::new(
            FindingCode::ProjectionUnexpected,
            "run_records",
            "more rows than records",
        );
        report.add(finding.with_tenant(tenant_id));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_people_read_them() {
        assert_eq!(None::<String>.shown(), "nothing");
        assert_eq!(Some("a\u{1b}".to_owned()).shown(), "\"a\\u{1b}\"");
        assert_eq!(NanoCents::new(7).shown(), "7");
        assert_eq!(TraceStatus::Running.shown(), "running");
        assert_eq!(Some([0xab_u8; 32]).shown(), "ab".repeat(32));
    }
}
