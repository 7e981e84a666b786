//! The report over a run that was replayed, from its records alone.

use evidence::Kind;
use evidence::record::{ReplayBehavior, ReplayEnforced, ReplayOutcome};
use store::{Gone, LeafKey, RunRow, Store};

use crate::{Body, RecordError};

/// Rows and bodies read at once.
const CHUNK: u32 = 256;

/// Steps listed at most: as many as other reads of one run answer with. Counts go on.
const STEPS_MAX: usize = 10_000;

/// One enforcement.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayedStep {
    /// What is on record, without its output, or why it says nothing any more.
    pub enforced: Body<ReplayEnforced>,
    /// Its leaf.
    pub leaf_index: u64,
}

/// What became of the steps of a replayed run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplayReport {
    /// Enforcements.
    pub total: u64,
    /// Outputs that were compared and agreed.
    pub matched: u64,
    /// Steps that did not run, because their stored output stood for them.
    pub skipped: u64,
    /// Steps that ran.
    pub executed: u64,
    /// Steps that ran although their key was known, and came to something else than is stored under it.
    pub differed: u64,
    /// Outputs that were not the expected ones.
    pub mismatched: u64,
    /// Keys that were known with another input.
    pub violated: u64,
    /// Enforcements that came after the run's seal, which says nothing of them.
    pub late: u64,
    /// Records whose body is erased: what became of their steps is not known.
    pub erased: u64,
    /// Records whose body is in an archive: the same.
    pub archived: u64,
    /// Records whose body is not there, and no record says why: the same.
    pub missing: u64,
    /// The first mismatch, violation or output that differs from the stored one, in the order of the ledger.
    pub first_divergence: Option<ReplayedStep>,
    /// In the order of the ledger, at most 10,000.
    pub steps: Vec<ReplayedStep>,
}

/// Reads the report over a run. Blocks.
///
/// # Errors
/// It cannot be read.
pub fn replay_report(store: &dyn Store, run: &RunRow) -> Result<ReplayReport, RecordError> {
    let mut report = ReplayReport::default();
    let mut from = 0;
    let mut sealed = false;
    loop {
        let rows = store.run_records(run.key, from, CHUNK)?;
        let Some(last) = rows.last() else {
            return Ok(report);
        };
        from = last.run_seq + 1;
        for row in &rows {
            sealed |= row.kind == Kind::EvidenceIntegrity;
            if row.kind != Kind::ReplayEnforced {
                continue;
            }
            // One at a time: an output may be 4 MiB.
            let record = crate::records::read(store, &[row.leaf])?.pop();
            let body = record.map_or(Body::Gone(Gone::Missing), |record| record.body);
            let enforced = match body {
                Body::Gone(gone) => Body::Gone(gone),
                Body::There(body) => {
                    let enforced = ReplayEnforced::read(&body);
                    Body::There(enforced.ok_or_else(|| RecordError::Body {
                        leaf: row.leaf.leaf_index(),
                        reason: "it is no enforcement".to_owned(),
                    })?)
                }
            };
            report.late += u64::from(sealed);
            report.add(enforced, row.leaf);
        }
    }
}

impl ReplayReport {
    /// Enforcements that say nothing any more: each may have been a divergence.
    pub fn unreadable(&self) -> u64 {
        self.erased + self.archived + self.missing
    }

    fn add(&mut self, enforced: Body<ReplayEnforced>, leaf: LeafKey) {
        self.total += 1;
        let mut diverged = false;
        match &enforced {
            Body::Gone(Gone::Erased) => self.erased += 1,
            Body::Gone(Gone::Archived) => self.archived += 1,
            Body::Gone(Gone::Missing) => self.missing += 1,
            Body::There(enforced) => {
                match enforced.outcome {
                    ReplayOutcome::Executed => self.executed += 1,
                    ReplayOutcome::UsedStored if enforced.behavior == ReplayBehavior::Skip => {
                        self.skipped += 1;
                    }
                    ReplayOutcome::UsedStored => {}
                    ReplayOutcome::Mismatch => self.mismatched += 1,
                    ReplayOutcome::Violation => self.violated += 1,
                }
                // The first truth stays stored; that the step came to another is what a replay is asked about.
                let differs = enforced.outcome == ReplayOutcome::Executed
                    && enforced.stored_hash.is_some()
                    && enforced.stored_hash != enforced.output_hash;
                self.differed += u64::from(differs);
                diverged = differs
                    || matches!(
                        enforced.outcome,
                        ReplayOutcome::Mismatch | ReplayOutcome::Violation
                    );
                self.matched += u64::from(enforced.checked && !diverged);
            }
        }
        let step = ReplayedStep {
            enforced: match enforced {
                Body::There(enforced) => Body::There(ReplayEnforced {
                    output: None,
                    ..enforced
                }),
                gone @ Body::Gone(_) => gone,
            },
            leaf_index: leaf.leaf_index(),
        };
        if diverged && self.first_divergence.is_none() {
            self.first_divergence = Some(step.clone());
        }
        if self.steps.len() < STEPS_MAX {
            self.steps.push(step);
        }
    }
}
