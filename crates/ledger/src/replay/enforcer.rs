//! The enforcer around closures: for programs in Rust.

use std::future::Future;
use std::sync::Arc;

use evidence::Timestamp;
use evidence::canonical::Value;

use super::{Begun, Pass, Replay, ReplayError, ReplayResult, ReplayStep};
use crate::once::Once;
use crate::{Ledger, Tenant};

/// Enforces the replay behaviour of steps around the closures that do them.
#[derive(Clone, Debug)]
pub struct ReplayEnforcer {
    replay: Replay,
    clock: fn() -> Timestamp,
}

/// Why a step has no result.
#[derive(Debug, thiserror::Error)]
pub enum StepError<E> {
    /// It was not enforced: [`ReplayError::ReplayMismatch`], [`ReplayError::IdempotencyViolation`] and others.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// It ran and failed; its key may be tried again.
    #[error("the step failed")]
    Step(E),
}

/// What became of the steps of a trace, up to the first that diverged.
#[derive(Debug)]
pub struct TraceReport<E> {
    /// Of each step that has one, in order.
    pub results: Vec<ReplayResult>,
    /// Steps whose output was compared and agreed.
    pub matched: usize,
    /// Steps that were not run, because their stored output stood for them.
    pub skipped: usize,
    /// Steps that ran.
    pub executed: usize,
    /// The step that ended it, and why; `None`: every step has its result.
    pub diverged: Option<(u32, StepError<E>)>,
}

impl ReplayEnforcer {
    /// For a tenant. The clock is read when a step begins, when its lease is renewed, and when it ends.
    pub fn new(ledger: &Ledger, once: &Once, tenant: &Arc<Tenant>, clock: fn() -> Timestamp) -> Self {
        Self {
            replay: Replay::new(ledger, once, tenant, None),
            clock,
        }
    }

    /// Does a step by its behaviour: `execute` is called when it must run, and not otherwise. Its lease is renewed
    /// until its result is stored, as long as the closure does not block the thread; needs a runtime with timers.
    /// While its result cannot be stored it is brought again, as long as a lease holds.
    ///
    /// # Errors
    /// [`StepError`]. A mismatching output is never stored.
    pub async fn enforce_step<E, F>(
        &self,
        step: ReplayStep,
        execute: impl FnOnce() -> F,
    ) -> Result<ReplayResult, StepError<E>>
    where
        F: Future<Output = Result<Value, E>>,
        E: std::fmt::Display,
    {
        let pass = match self.replay.begin(step, (self.clock)()).await? {
            Begun::UseStored(result) => return Ok(*result),
            Begun::Execute(pass) => pass,
        };
        let work = async {
            match execute().await {
                Ok(output) => Ok(self.finished(&pass, output).await?),
                Err(error) => {
                    // The step's own error is what its caller needs; a key that stays held runs out by itself.
                    let _ = self.replay.fail(&pass, &error.to_string(), (self.clock)()).await;
                    Err(StepError::Step(error))
                }
            }
        };
        self.replay.holding(&pass, self.clock, work).await
    }

    /// What came out is worth another try: without it the step would be done a second time.
    async fn finished(&self, pass: &Pass, output: Value) -> Result<ReplayResult, ReplayError> {
        let mut tries = self.replay.once.tries();
        loop {
            match self.replay.finish(pass, output.clone(), (self.clock)()).await {
                Err(error) if error.may_pass() => {
                    tracing::warn!(%error, "the result of a step could not be stored yet");
                    if !tries.next().await {
                        return Err(error);
                    }
                }
                finished => return finished,
            }
        }
    }

    /// Does the steps of a trace in order, until one diverges or fails.
    pub async fn enforce_trace<E, F>(
        &self,
        steps: Vec<ReplayStep>,
        mut execute: impl FnMut(&ReplayStep) -> F,
    ) -> TraceReport<E>
    where
        F: Future<Output = Result<Value, E>>,
        E: std::fmt::Display,
    {
        let mut report = TraceReport {
            results: Vec::with_capacity(steps.len()),
            matched: 0,
            skipped: 0,
            executed: 0,
            diverged: None,
        };
        for step in steps {
            let index = step.step_index;
            match self.enforce_step(step.clone(), || execute(&step)).await {
                Ok(result) => {
                    report.matched += usize::from(result.checked);
                    report.skipped += usize::from(result.skipped);
                    report.executed += usize::from(result.executed);
                    report.results.push(result);
                }
                Err(error) => {
                    report.diverged = Some((index, error));
                    break;
                }
            }
        }
        report
    }
}
