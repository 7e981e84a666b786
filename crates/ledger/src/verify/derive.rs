//! From records to projected rows: the same rows that the sequencer wrote.
//!
//! [`Deriver`] is fed a tenant's records in ledger order and gives rows back as
//! soon as they are final: record rows at once, a run when it is sealed
//! or when the ledger has. It holds the open runs, and of ended ones what late
//! records may still change (about 200 bytes each: 200 MB for a million runs), and
//! the last event of each job (about 100 bytes each).
//!
//! Verification holds the rows against the stored ones; rebuild stores them.

use std::collections::HashMap;

use evidence::job::JobChains;
use evidence::record::Facts;
use evidence::{Finding, FindingCode, Kind, RunState, Timestamp};
use store::{
    ExpectedRows, FacetRow, LeafKey, ProjectionCounts, PrunedRow, RunKey, RunRecordRow, RunRow, TenantRow,
    TraceKey, TraceRow,
};

use super::examine::Said;
use super::seals::Seals;

/// Rows that became final.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    pub(crate) rows: ExpectedRows,
    /// Runs whose trace ended, or all that are open when the ledger ends.
    pub(crate) runs: Vec<RunRow>,
}

/// What late records add to a run that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late {
    pub(crate) key: RunKey,
    pub(crate) record_count: u64,
    #[allow(clippy::struct_field_names)] // the name of the column
    pub(crate) late_count: u32,
    pub(crate) last_recorded_at: Timestamp,
    pub(crate) changed: bool,
}

impl Late {
    /// Adds a record, and gives the run's key.
    fn add(&mut self, is_step: bool, recorded_at: Timestamp) -> RunKey {
        self.record_count += 1;
        self.late_count = self.late_count.saturating_add(u32::from(is_step));
        self.last_recorded_at = self.last_recorded_at.max(recorded_at);
        self.changed = true;
        self.key
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Deriver {
    tenant_no: u32,
    next_run: u64,
    open: HashMap<String, RunRow>,
    ended: HashMap<String, Late>,
    /// Which run each trace of an open run belongs to; a trace is new to a run when it is not here.
    traces: HashMap<TraceKey, RunKey>,
    /// Runs with a record that could not be read, their next run_seq, and what they are when that is known: counted,
    /// not judged.
    unread: HashMap<String, (u64, Option<RunKey>)>,
    /// Where each job's chain of events stands.
    jobs: JobChains,
    /// What the seals of open runs must stand on.
    seals: Seals,
    /// The last record, and when it was recorded.
    last: Option<(LeafKey, Timestamp)>,
    /// The tenant's ledgers, epoch and number.
    ledgers: Vec<(u32, u32)>,
    pub(crate) counts: ProjectionCounts,
    /// Every record could be read, or is archived, so that stored rows beyond the counts are unexpected.
    pub(crate) all_read: bool,
    /// Records whose archive is not at hand. Their facets are not counted.
    pub(crate) archived: u64,
    /// Tenants that records made, where nothing is derived of them.
    pub(crate) made: Vec<TenantRow>,
}

/// The tenant that a record made.
pub(super) fn made_by(leaf: LeafKey, said: &Said) -> Option<TenantRow> {
    let Facts::TenantCreated(tenant) = &said.facts else {
        return None;
    };
    Some(TenantRow {
        tenant_no: tenant.tenant_no,
        tenant_id: tenant.tenant_id.clone(),
        leaf,
    })
}

impl Deriver {
    pub(crate) fn new(tenant_no: u32) -> Self {
        Self {
            tenant_no,
            next_run: 0,
            open: HashMap::new(),
            ended: HashMap::new(),
            traces: HashMap::new(),
            unread: HashMap::new(),
            jobs: JobChains::default(),
            seals: Seals::default(),
            last: None,
            ledgers: Vec::new(),
            counts: ProjectionCounts::default(),
            all_read: true,
            archived: 0,
            made: Vec::new(),
        }
    }

    /// Knowing the tenant's ledgers, epoch and number.
    pub(crate) fn with_ledgers(mut self, ledgers: &[(u32, u32)]) -> Self {
        self.ledgers = ledgers.to_vec();
        self
    }

    /// Takes the next record. Findings are about the records themselves: gaps, orphans, doubles.
    pub(crate) fn push(
        &mut self,
        leaf: LeafKey,
        mut said: Said,
        out: &mut Derived,
        findings: &mut Vec<Finding>,
    ) {
        out.rows.tenant_no = self.tenant_no;
        if let Some(tenant) = made_by(leaf, &said) {
            out.rows.tenants.push(tenant);
            self.counts.tenants += 1;
        }
        if let Facts::Archived(archived) = &said.facts
            && let Some(&(_, ledger_no)) = self.ledgers.iter().find(|(epoch, _)| *epoch == archived.epoch)
        {
            for &(first, last) in &archived.leaves {
                out.rows.pruned.push(PrunedRow {
                    first: LeafKey::new(ledger_no, first),
                    last: LeafKey::new(ledger_no, last),
                    by: leaf,
                });
                self.counts.pruned += 1;
            }
        }
        for facet in std::mem::take(&mut said.facets) {
            out.rows.facets.push(FacetRow { facet, leaf });
            self.counts.facets += u64::from(!said.pruned);
        }
        self.archived += u64::from(said.pruned);
        self.all_read &= said.readable || said.pruned;
        self.time(leaf, &said, findings);
        self.job(leaf, &said, findings);
        let Some((run_id, run_seq)) = said.run.take() else {
            return;
        };
        let gap = |expected: u64, findings: &mut Vec<Finding>| {
            if expected != run_seq {
                let detail = format!("record {run_seq} of the run stands where {expected} should");
                findings.push(
                    Finding::new(FindingCode::RunSeqGap, "leaf_blocks.leaves", detail)
                        .with_leaf(leaf.leaf_index())
                        .with_record(said.id)
                        .with_run(&run_id),
                );
            }
        };
        self.seal(leaf, (&run_id, run_seq), &said, findings);
        if !said.readable
            && let Some(late) = self.ended.get_mut(&run_id)
        {
            // What a record adds to a run that has ended stands in its header.
            gap(late.record_count, findings);
            let key = late.add(said.kind == Kind::TraceStep, said.recorded_at);
            self.counts.run_records += 1;
            if let Some(trace) = said.trace() {
                self.trace(trace, key, leaf, out);
            }
            return;
        }
        if !said.readable || self.unread.contains_key(&run_id) {
            let (expected, mut key) = self.unread_run(&run_id);
            gap(expected, findings);
            if said.kind == Kind::RunStarted {
                key = Some(RunKey::new(self.tenant_no, self.next_run));
                self.next_run += 1;
                self.counts.runs += 1;
            }
            self.unread.insert(run_id, (expected + 1, key));
            self.counts.run_records += 1;
            if let (Some(key), Some(trace)) = (key, said.trace()) {
                self.trace(trace, key, leaf, out);
            }
            return;
        }
        let key = if said.kind == Kind::RunStarted
            && !self.open.contains_key(&run_id)
            && !self.ended.contains_key(&run_id)
        {
            gap(0, findings);
            let Facts::RunStarted(facts) = &said.facts else {
                return;
            };
            let key = RunKey::new(self.tenant_no, self.next_run);
            self.next_run += 1;
            self.counts.runs += 1;
            let state = RunState::start(facts, said.recorded_at);
            self.open.insert(
                run_id.clone(),
                RunRow {
                    key,
                    started_leaf: leaf,
                    state,
                },
            );
            key
        } else if let Some(row) = self.open.get_mut(&run_id) {
            gap(row.state.record_count, findings);
            row.state
                .apply(&said.facts, said.correlation_id.as_deref(), said.recorded_at);
            row.key
        } else if let Some(late) = self.ended.get_mut(&run_id) {
            gap(late.record_count, findings);
            late.add(said.facts.is_step(), said.recorded_at)
        } else {
            findings.push(
                Finding::new(
                    FindingCode::RunSeqGap,
                    "leaf_blocks.leaves",
                    "a record of a run that never started",
                )
                .with_leaf(leaf.leaf_index())
                .with_record(said.id)
                .with_run(&run_id),
            );
            return;
        };
        if let Some(trace) = said.trace() {
            self.trace(trace, key, leaf, out);
        }
        out.rows.run_records.push(RunRecordRow {
            run: key,
            run_seq,
            leaf,
            kind: said.kind,
            identity: said.identity,
            step_index: said.facts.step_index(),
            occurred_at: said.occurred_at,
        });
        self.counts.run_records += 1;
        // The seal is what an ended run is waiting for, and the last that is not late.
        if matches!(said.facts, Facts::Seal(_))
            && let Some(row) = self.open.remove(&run_id)
        {
            self.end(run_id, row, out);
        }
    }

    /// Reads bounded by time rely on it that times do not run backwards within a ledger.
    fn time(&mut self, leaf: LeafKey, said: &Said, findings: &mut Vec<Finding>) {
        if let Some((before, last)) = self.last
            && before.ledger_no() == leaf.ledger_no()
            && said.recorded_at < last
        {
            let detail = format!("recorded at {}, the leaf before it at {last}", said.recorded_at);
            findings.push(
                Finding::new(FindingCode::LeafMalformed, "leaf_blocks.leaves", detail)
                    .with_leaf(leaf.leaf_index())
                    .with_record(said.id),
            );
        }
        self.last = Some((leaf, said.recorded_at));
    }

    /// A seal stands on the records of its run before it.
    fn seal(
        &mut self,
        leaf: LeafKey,
        (run_id, run_seq): (&str, u64),
        said: &Said,
        findings: &mut Vec<Finding>,
    ) {
        if said.kind == Kind::EvidenceIntegrity && !said.readable {
            return self.seals.forget(run_id);
        }
        let hash = said.leaf_hash.as_bytes();
        if let Some(detail) = self.seals.push(run_id, run_seq, &said.facts, hash) {
            findings.push(
                Finding::new(FindingCode::SealMismatch, "bodies.body", detail)
                    .with_leaf(leaf.leaf_index())
                    .with_record(said.id)
                    .with_run(run_id),
            );
        }
    }

    /// A job's events are a chain of their own within the ledger.
    fn job(&mut self, leaf: LeafKey, said: &Said, findings: &mut Vec<Finding>) {
        match &said.facts {
            Facts::Job(event) => {
                if let Some(detail) = self.jobs.push(event) {
                    findings.push(
                        Finding::new(FindingCode::JobChainBroken, "bodies.body", detail)
                            .with_leaf(leaf.leaf_index())
                            .with_record(said.id),
                    );
                }
            }
            _ if said.kind == Kind::JobEvent => self.jobs.push_unread(),
            _ => {}
        }
    }

    /// The next run_seq of a run that is no longer judged, and what it is.
    fn unread_run(&mut self, run_id: &str) -> (u64, Option<RunKey>) {
        if let Some(&unread) = self.unread.get(run_id) {
            return unread;
        }
        let row = self.open.remove(run_id);
        row.map_or((0, None), |row| (row.state.record_count, Some(row.key)))
    }

    fn trace(&mut self, trace: TraceKey, run: RunKey, leaf: LeafKey, out: &mut Derived) {
        if self.traces.insert(trace.clone(), run).is_none() {
            self.counts.traces += 1;
            out.rows.traces.push((TraceRow { trace, run }, leaf));
        }
    }

    fn end(&mut self, run_id: String, row: RunRow, out: &mut Derived) {
        let late = Late {
            key: row.key,
            record_count: row.state.record_count,
            late_count: row.state.late_count,
            last_recorded_at: row.state.last_recorded_at,
            changed: false,
        };
        self.ended.insert(run_id, late);
        out.runs.push(row);
    }

    /// The ledger ends: what is still open is final, and what late records changed. Counts are only given
    /// when every record could be read.
    pub(crate) fn finish(mut self, out: &mut Derived) -> (Vec<(String, Late)>, Option<ProjectionCounts>) {
        out.runs.extend(self.open.drain().map(|(_, row)| row));
        out.runs.sort_unstable_by_key(|row| row.key);
        (
            self.ended.into_iter().filter(|(_, late)| late.changed).collect(),
            self.all_read.then_some(self.counts),
        )
    }
}

#[cfg(test)]
mod tests {
    use evidence::RecordId;
    use tlog::LeafIndex;

    use super::*;

    fn said(micros: i64) -> Said {
        let at = Timestamp::from_micros(micros).unwrap();
        Said {
            id: RecordId::new(at, LeafIndex::new(0), 0).unwrap(),
            leaf_hash: tlog::leaf_hash(b""),
            kind: Kind::SystemRecord,
            run: None,
            trace_of: None,
            correlation_id: None,
            occurred_at: at,
            recorded_at: at,
            identity: None,
            readable: true,
            pruned: false,
            facts: Facts::Other,
            facets: Vec::new(),
        }
    }

    #[test]
    fn a_time_that_runs_backwards_within_a_ledger_is_found() {
        let mut deriver = Deriver::new(1);
        let (mut out, mut findings) = (Derived::default(), Vec::new());
        // The next epoch may begin earlier.
        for (ledger_no, index, micros) in [(1, 0, 5), (1, 1, 5), (1, 2, 4), (1, 3, 9), (2, 0, 1)] {
            deriver.push(
                LeafKey::new(ledger_no, index),
                said(micros),
                &mut out,
                &mut findings,
            );
        }
        let found: Vec<_> = findings
            .iter()
            .map(|finding| (finding.code, finding.leaf_index))
            .collect();
        assert_eq!(found, [(FindingCode::LeafMalformed, Some(2))]);
    }
}
