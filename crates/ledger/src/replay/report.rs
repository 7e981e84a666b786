//! The report over a run that was replayed, from its records alone.

use evidence::Kind;
use evidence::record::{ReplayBehavior, ReplayEnforced, ReplayOutcome};
use store::{LeafKey, RunRow, Store};

use crate::RecordError;

/// Rows and bodies read at once.
const CHUNK: u32 = 256;

/// Steps listed at most: as many as other reads of one run answer with. Counts go on.
const STEPS_MAX: usize = 10_000;

/// One enforcement.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayedStep {
    /// What is on record, without its output; `None`: erased.
    pub enforced: Option<ReplayEnforced>,
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
    /// Outputs that were not the expected ones.
    pub mismatched: u64,
    /// Keys that were known with another input.
    pub violated: u64,
    /// Records whose body is erased.
    pub erased: u64,
    /// The first mismatch or violation, in the order of the ledger.
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
    loop {
        let rows = store.run_records(run.key, from, CHUNK)?;
        let Some(last) = rows.last() else {
            return Ok(report);
        };
        from = last.run_seq + 1;
        for row in rows.iter().filter(|row| row.kind == Kind::ReplayEnforced) {
            // One at a time: an output may be 4 MiB.
            let body = crate::records::read(store, &[row.leaf])?
                .pop()
                .and_then(|record| record.body);
            report.add(body.as_deref().and_then(ReplayEnforced::read), row.leaf);
        }
    }
}

impl ReplayReport {
    fn add(&mut self, enforced: Option<ReplayEnforced>, leaf: LeafKey) {
        self.total += 1;
        let mut diverged = false;
        match &enforced {
            None => self.erased += 1,
            Some(enforced) => {
                match enforced.outcome {
                    ReplayOutcome::Executed => self.executed += 1,
                    ReplayOutcome::UsedStored if enforced.behavior == ReplayBehavior::Skip => {
                        self.skipped += 1;
                    }
                    ReplayOutcome::UsedStored => {}
                    ReplayOutcome::Mismatch => self.mismatched += 1,
                    ReplayOutcome::Violation => self.violated += 1,
                }
                diverged = matches!(
                    enforced.outcome,
                    ReplayOutcome::Mismatch | ReplayOutcome::Violation
                );
                self.matched += u64::from(enforced.checked && !diverged);
            }
        }
        let step = ReplayedStep {
            enforced: enforced.map(|enforced| ReplayEnforced {
                output: None,
                ..enforced
            }),
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
