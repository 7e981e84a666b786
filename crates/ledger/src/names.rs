//! What each record of a run repeats of it, kept at hand.
//!
//! A step posted by itself needs its run's trace, correlation and agent before it
//! can be written. Asking the store for them would cost as much as the rest of
//! the request, and they hardly ever change: the sequencer says when they do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::RunRow;

/// Runs kept, twice: the newest this many, and as many before them. About 500 bytes each.
const RUNS_KEPT: usize = 4_096;

/// What each record of a run repeats of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunNames {
    /// As stored.
    pub trace_id: Arc<str>,
    /// Given, else that of its first record that has one.
    pub correlation_id: Option<Arc<str>>,
    /// Given, else that of its first step that names one.
    pub agent_id: Option<Arc<str>>,
}

impl RunNames {
    pub(crate) fn of(row: &RunRow) -> Self {
        let state = &row.state;
        Self {
            trace_id: state.trace_id.as_str().into(),
            correlation_id: state.correlation_id.as_deref().map(Arc::from),
            agent_id: state.agent_id.as_deref().map(Arc::from),
        }
    }

    fn are_of(&self, row: &RunRow) -> bool {
        let state = &row.state;
        *self.trace_id == *state.trace_id
            && self.correlation_id.as_deref() == state.correlation_id.as_deref()
            && self.agent_id.as_deref() == state.agent_id.as_deref()
    }
}

type Runs = HashMap<(u32, Arc<str>), RunNames>;

/// Names of the runs last asked for, by tenant and run id.
#[derive(Default)]
pub(crate) struct Names {
    /// The newest, and those before them.
    runs: Mutex<(Runs, Runs)>,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, (Runs, Runs)> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, tenant_no: u32, run_id: &Arc<str>) -> Option<RunNames> {
        let key = (tenant_no, Arc::clone(run_id));
        let mut runs = self.lock();
        if let Some(names) = runs.0.get(&key) {
            return Some(names.clone());
        }
        let names = runs.1.remove(&key)?;
        put(&mut runs, key, names.clone());
        Some(names)
    }

    pub(crate) fn keep(&self, tenant_no: u32, run_id: &Arc<str>, names: RunNames) {
        put(&mut self.lock(), (tenant_no, Arc::clone(run_id)), names);
    }

    /// Takes note of runs that have new records. One that is not kept is none of ours.
    pub(crate) fn changed(&self, rows: &[RunRow]) {
        let mut runs = self.lock();
        let (new, old) = &mut *runs;
        if new.is_empty() && old.is_empty() {
            return;
        }
        for row in rows {
            let key = (row.key.tenant_no(), Arc::from(row.state.run_id.as_str()));
            for kept in [&mut *new, &mut *old] {
                if let Some(names) = kept.get_mut(&key).filter(|names| !names.are_of(row)) {
                    *names = RunNames::of(row);
                }
            }
        }
    }
}

fn put((new, old): &mut (Runs, Runs), key: (u32, Arc<str>), names: RunNames) {
    if new.len() >= RUNS_KEPT {
        *old = std::mem::take(new);
    }
    new.insert(key, names);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(agent: &str) -> RunNames {
        RunNames {
            trace_id: "trace_r".into(),
            correlation_id: None,
            agent_id: Some(agent.into()),
        }
    }

    #[test]
    fn names_are_kept_by_tenant_and_forgotten_when_long_unasked() {
        let kept = Names::default();
        let run: Arc<str> = "r".into();
        kept.keep(1, &run, names("a"));
        assert_eq!(kept.get(1, &run), Some(names("a")));
        assert_eq!(kept.get(2, &run), None);
        let others = |from: usize| {
            for n in from..from + RUNS_KEPT {
                kept.keep(1, &format!("other-{n}").into(), names("b"));
            }
        };
        others(0);
        assert_eq!(
            kept.get(1, &run),
            Some(names("a")),
            "one generation old, asked for"
        );
        others(RUNS_KEPT);
        others(2 * RUNS_KEPT);
        assert_eq!(kept.get(1, &run), None);
        assert!(kept.lock().0.len() <= RUNS_KEPT && kept.lock().1.len() <= RUNS_KEPT);
    }
}
