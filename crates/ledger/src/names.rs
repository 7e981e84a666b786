//! What each record of a run repeats of it, kept at hand.
//!
//! A step posted by itself needs its run's trace, correlation and agent before it
//! can be written. Asking the store for them would cost as much as the rest of
//! the request, and they hardly ever change: the sequencer says when they do,
//! of those that somebody expects to be asked for. The same goes for whether the run has ended or is sealed: then no step of
//! it is replayed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::{RunKey, RunRow};

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

/// Whether a replayed step of a run may be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It may.
    Open,
    /// The run takes no step any more.
    Ended,
    /// Nor any evidence.
    Sealed,
}

impl Life {
    const fn of(ended: bool, sealed: bool) -> Self {
        match (ended, sealed) {
            (_, true) => Self::Sealed,
            (true, false) => Self::Ended,
            (false, false) => Self::Open,
        }
    }
}

/// Whether a run takes no step any more. Spans come when they come, and a trace may have another root.
fn has_ended(row: &RunRow) -> bool {
    row.state.ended() && !row.state.otlp
}

/// What is known of a run that somebody will ask for. `None`: nobody has said it yet.
#[derive(Clone, Debug, Default)]
struct Known {
    names: Option<RunNames>,
    /// It had ended when it was read, or a commit has ended it since.
    ended: bool,
    /// `false`: it was not when it was read, and no commit has sealed it since.
    sealed: Option<bool>,
}

type Runs = HashMap<(u32, Arc<str>), Known>;

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
        self.known(tenant_no, run_id)?.names
    }

    /// Whether a step of the run may be begun.
    pub(crate) fn life(&self, tenant_no: u32, run_id: &Arc<str>) -> Option<Life> {
        let known = self.known(tenant_no, run_id)?;
        Some(Life::of(known.ended, known.sealed?))
    }

    fn known(&self, tenant_no: u32, run_id: &Arc<str>) -> Option<Known> {
        let key = (tenant_no, Arc::clone(run_id));
        let mut runs = self.lock();
        if let Some(known) = runs.0.get(&key) {
            return Some(known.clone());
        }
        let known = runs.1.remove(&key)?;
        put(&mut runs, key, known.clone());
        Some(known)
    }

    /// From now on what commits say of the run is taken note of. To be said before it is begun, or read.
    pub(crate) fn expect(&self, tenant_no: u32, run_id: &Arc<str>) {
        let key = (tenant_no, Arc::clone(run_id));
        let mut runs = self.lock();
        if !runs.0.contains_key(&key) {
            let known = runs.1.remove(&key).unwrap_or_default();
            put(&mut runs, key, known);
        }
    }

    /// As they were read after they were expected: a commit since then knows better.
    pub(crate) fn keep(&self, tenant_no: u32, run_id: &Arc<str>, names: RunNames) {
        let key = (tenant_no, Arc::clone(run_id));
        if let Some(known) = self.lock().0.get_mut(&key) {
            known.names = known.names.take().or(Some(names));
        }
    }

    /// The same of its end and its seal: a run that was ended or sealed since then stays so.
    pub(crate) fn keep_life(&self, run_id: &Arc<str>, row: &RunRow, sealed: bool) -> Life {
        let key = (row.key.tenant_no(), Arc::clone(run_id));
        let (mut ended, mut sealed) = (has_ended(row), sealed);
        if let Some(known) = self.lock().0.get_mut(&key) {
            ended |= known.ended;
            sealed |= known.sealed == Some(true);
            (known.ended, known.sealed) = (ended, Some(sealed));
        }
        Life::of(ended, sealed)
    }

    /// There is no such run: whoever asks for any name is not to push out those of others.
    pub(crate) fn drop(&self, tenant_no: u32, run_id: &Arc<str>) {
        let key = (tenant_no, Arc::clone(run_id));
        let mut runs = self.lock();
        if runs.0.get(&key).is_some_and(|known| known.names.is_none()) {
            runs.0.remove(&key);
        }
    }

    /// Takes note of runs that have new records, and of those among them whose seal is new. One that is not kept is none of
    /// ours.
    pub(crate) fn changed(&self, rows: &[RunRow], sealed: &[RunKey]) {
        let mut runs = self.lock();
        let (new, old) = &mut *runs;
        if new.is_empty() && old.is_empty() {
            return;
        }
        for row in rows {
            let key = (row.key.tenant_no(), Arc::from(row.state.run_id.as_str()));
            for kept in [&mut *new, &mut *old] {
                let Some(known) = kept.get_mut(&key) else {
                    continue;
                };
                if !known.names.as_ref().is_some_and(|names| names.are_of(row)) {
                    known.names = Some(RunNames::of(row));
                }
                known.ended |= has_ended(row);
                if sealed.contains(&row.key) {
                    known.sealed = Some(true);
                }
            }
        }
    }
}

fn put((new, old): &mut (Runs, Runs), key: (u32, Arc<str>), known: Known) {
    if new.len() >= RUNS_KEPT {
        *old = std::mem::take(new);
    }
    new.insert(key, known);
}

#[cfg(test)]
mod tests {
    use evidence::record::RunStartedFacts;
    use evidence::{RunState, Timestamp, TraceStatus};
    use store::LeafKey;

    use super::*;

    fn names(agent: &str) -> RunNames {
        RunNames {
            trace_id: "trace_r".into(),
            correlation_id: None,
            agent_id: Some(agent.into()),
        }
    }

    fn row(agent: &str) -> RunRow {
        let facts = RunStartedFacts {
            run_id: "r".into(),
            trace_id: "trace_r".into(),
            correlation_id: None,
            agent_id: Some(agent.into()),
            parent_run_id: None,
            source: "API".into(),
            is_synthetic: false,
            seed: 42,
            plan_hash: String::new(),
            started_at: Timestamp::MIN,
            otlp: false,
        };
        RunRow {
            key: RunKey::new(1, 0),
            started_leaf: LeafKey::new(1, 0),
            state: RunState::start(&facts, Timestamp::MIN),
        }
    }

    #[test]
    fn a_run_that_is_sealed_while_it_is_read_is_sealed() {
        let kept = Names::default();
        let run: Arc<str> = "r".into();
        kept.keep_life(&run, &row("a"), false);
        assert_eq!(kept.life(1, &run), None, "nobody had asked for it");
        kept.expect(1, &run);
        kept.keep_life(&run, &row("a"), false);
        kept.changed(&[row("a")], &[RunKey::new(1, 1)]);
        assert_eq!(kept.life(1, &run), Some(Life::Open), "another run's seal");
        kept.changed(&[row("a")], &[RunKey::new(1, 0)]);
        assert_eq!(kept.keep_life(&run, &row("a"), false), Life::Sealed);
        assert_eq!(kept.life(1, &run), Some(Life::Sealed), "read before its seal");
    }

    #[test]
    fn a_run_that_ends_while_it_is_read_has_ended_and_one_of_spans_is_open_until_its_seal() {
        for (otlp, life) in [(false, Life::Ended), (true, Life::Open)] {
            let kept = Names::default();
            let run: Arc<str> = "r".into();
            let mut row = row("a");
            row.state.otlp = otlp;
            let mut ended = row.clone();
            ended.state.status = TraceStatus::Completed;
            kept.expect(1, &run);
            kept.changed(&[ended], &[]);
            assert_eq!(kept.life(1, &run), None, "whether it is sealed is not known");
            assert_eq!(kept.keep_life(&run, &row, false), life, "read before its end");
            assert_eq!(kept.life(1, &run), Some(life));
            kept.changed(&[row.clone()], &[row.key]);
            assert_eq!(kept.life(1, &run), Some(Life::Sealed));
        }
    }

    #[test]
    fn a_commit_knows_better_than_who_read_before_it() {
        let kept = Names::default();
        let run: Arc<str> = "r".into();
        kept.changed(&[row("a")], &[]);
        kept.keep(1, &run, names("a"));
        assert_eq!(kept.get(1, &run), None, "nobody had asked for it");
        kept.expect(1, &run);
        kept.changed(&[row("b")], &[]);
        kept.keep(1, &run, names("a"));
        assert_eq!(kept.get(1, &run), Some(names("b")));
        kept.drop(1, &run);
        kept.expect(1, &run);
        assert_eq!(kept.get(1, &run), Some(names("b")), "known, and kept");
        let unknown: Arc<str> = "unknown".into();
        kept.expect(1, &unknown);
        kept.drop(1, &unknown);
        assert_eq!(kept.lock().0.len(), 1);
    }

    #[test]
    fn names_are_kept_by_tenant_and_forgotten_when_long_unasked() {
        let kept = Names::default();
        let run: Arc<str> = "r".into();
        kept.expect(1, &run);
        assert_eq!(kept.get(1, &run), None);
        kept.keep(1, &run, names("a"));
        assert_eq!(kept.get(1, &run), Some(names("a")));
        assert_eq!(kept.get(2, &run), None);
        let others = |from: usize| {
            for n in from..from + RUNS_KEPT {
                let other: Arc<str> = format!("other-{n}").into();
                kept.expect(1, &other);
                kept.keep(1, &other, names("b"));
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
