//! `get_llm_run_replay` (O4): what happened within 30 seconds of where it turned.
//!
//! Steps and policy decisions of the run, audit events that name it and the
//! system records of that time, merged in time order.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::record::StepStatus;
use evidence::{Kind, SourceDomain, Timestamp};
use ledger::{Ledger, StepPlace, Tenant};
use serde::{Deserialize, Serialize};
use store::{Gone, LeafKey, RunRecordRow};
use utoipa::{IntoParams, ToSchema};

use super::governance::{GovernanceEvent, each_decision};
use super::governance_audit::about_run;
use super::metadata::Metadata;
use super::system::{Begin, SystemEvent, Window, in_window, instance_size};
use super::trace::NAMES_BYTES_MAX;
use crate::api::answer::{GoneCounts, ReadProblems};
use crate::api::run_steps::{PAGE_STEPS_MAX, Run, RunParams, each_step};
use crate::{ApiError, App, Caller, Path, Query};

/// Policy decisions of a window that are put in order: 100 bytes each, 10 MB.
const DECISIONS_MAX: usize = 100_000;

/// Rows of a run's records looked through at once.
const ROWS_READ: u32 = 10_000;

/// Around what.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReplayQuery {
    /// `failure`: the first failed step; the run's end when absent, or none failed.
    #[param(value_type = Option<String>)]
    around: Option<Around>,
    /// `next_cursor` of the answer before.
    cursor: Option<String>,
    /// The tree size to read at; the present one when absent.
    #[param(minimum = 0)]
    as_of: Option<u64>,
    /// The same of the instance's ledger.
    #[param(minimum = 0)]
    instance_as_of: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Around {
    Failure,
}

/// An event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReplayEventResult)]
pub(super) struct ReplayEvent {
    action: String,
    outcome: String,
    /// `llm`, `policy` or `system`.
    source: &'static str,
    step_index: Option<u32>,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    #[serde(skip)]
    order: (u64, u8),
}

impl ReplayEvent {
    /// An audit event that names the run.
    fn audited(event: GovernanceEvent) -> Self {
        Self {
            action: event.event_type,
            outcome: event.decision,
            source: "policy",
            step_index: None,
            timestamp: event.timestamp,
            order: (u64::MAX, 0),
        }
    }

    pub(super) fn system(event: &SystemEvent) -> Self {
        let (action, outcome) = event.shown();
        Self {
            action,
            outcome,
            source: "system",
            step_index: None,
            timestamp: event.occurred_at(),
            order: (u64::MAX, 1),
        }
    }
}

/// The window.
#[derive(Serialize, ToSchema)]
struct RunReplay<'a> {
    as_of: u64,
    events: Vec<ReplayEvent>,
    /// False: steps that say nothing any more may have failed before, or at all. Null on pages after the first, and
    /// where the first failure was not asked for.
    failure_known: Option<bool>,
    /// Steps, decisions and audit events of the window that say nothing any more: what they decided is not among the
    /// events. And, with `failure_known`, the steps outside of it that may have been the first failure.
    gone: GoneCounts,
    has_more: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    inflection_timestamp: Option<Timestamp>,
    /// The size of the instance's ledger that was read.
    instance_as_of: u64,
    next_cursor: Option<String>,
    /// False: more than 10,000 audit events name the run, or 100,000 decisions fall into the window; the first recorded of them were looked at, all are in `GET /logs/llm-runs/{run_id}/governance`.
    policy_complete: bool,
    run_id: &'a str,
    /// False: there are more than 10,000 system records, of which the first recorded are among the events: all are in `GET /logs/system/{run_id}/replay`.
    system_complete: bool,
    #[schema(value_type = String, format = DateTime)]
    window_end: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    window_start: Timestamp,
}

/// The same with metadata.
#[derive(Serialize, ToSchema)]
#[schema(as = LLMRunReplayResult)]
#[allow(dead_code)] // for the document
struct RunReplayAnswer<'a> {
    #[serde(flatten)]
    replay: RunReplay<'a>,
    metadata: Metadata,
}

/// Reads the 60 seconds around a run's end, or its first failure.
#[utoipa::path(
    get, path = "/api/v1/logs/llm-runs/{run_id}/replay", tag = "logs", operation_id = "get_llm_run_replay",
    params(("run_id" = String, Path, description = "The run"), ReplayQuery),
    responses((status = 200, description = "Events in time order", body = RunReplayAnswer), ReadProblems),
)]
pub(super) async fn replay(
    State(app): State<App>,
    caller: Caller,
    Path(run_id): Path<String>,
    Query(asked): Query<ReplayQuery>,
) -> Result<Response, ApiError> {
    app.reading(caller.tenant.tenant_no, move |ledger| {
        let tenant = &caller.tenant;
        let read = if asked.around.is_some() {
            "llm-run-replay-failure"
        } else {
            "llm-run-replay"
        };
        let is_first = asked.cursor.is_none();
        let params = RunParams {
            cursor: asked.cursor,
            as_of: asked.as_of,
        };
        let mut run = Run::open(ledger, tenant, read, &run_id, &params)?;
        let instance_as_of = instance_size(ledger, &run, is_first, asked.instance_as_of)?;
        let mut steps = run.places(ledger)?;
        let mut failure: Option<FirstFailure> = None;
        let (inflection, _) = run.stretch(ledger, |run| {
            failure = match asked.around {
                Some(Around::Failure) => Some(first_failure(ledger, tenant, run, &steps)?),
                None => None,
            };
            let state = &run.row.state;
            let failed_at = failure.as_ref().and_then(|failure| failure.at);
            let inflection = failed_at.or(state.completed_at).unwrap_or(state.started_at);
            Ok((inflection, inflection))
        })?;
        let window = Window::around(inflection);
        steps.retain(|step| window.holds(step.occurred_at));
        steps.sort_by_key(key);
        let (mut decisions, all_decisions) = decision_rows(ledger, &run, window)?;
        decisions.sort_by_key(key_of_row);

        // A page is some of both; what is of no run stands on it by its time.
        let mut keys: Vec<Key> = steps
            .iter()
            .map(key)
            .chain(decisions.iter().map(key_of_row))
            .collect();
        keys.sort_unstable();
        let from = usize::try_from(run.from).unwrap_or(usize::MAX).min(keys.len());
        let mut next = keys.len().min(from + PAGE_STEPS_MAX);
        let begin = (from > 0).then(|| keys.get(from).copied()).flatten();
        let before = |at: Key, end: Option<Key>| end.is_none_or(|end| at < end);
        steps.retain(|step| {
            begin.is_none_or(|begin| key(step) >= begin) && before(key(step), keys.get(next).copied())
        });

        let (mut events, mut bytes) = (Vec::with_capacity(steps.len()), 0);
        each_step(ledger, tenant, &steps, |step| {
            let (action, outcome) = match &step.view {
                Ok(view) => (&*view.step.skill_name, view.step.status.as_str()),
                Err(gone) => (gone.as_str(), gone.as_str()),
            };
            bytes += action.len();
            events.push(ReplayEvent {
                action: action.to_owned(),
                outcome: outcome.to_owned(),
                source: "llm",
                step_index: Some(step.place.step_index),
                timestamp: step.place.occurred_at,
                order: (step.place.run_seq, 0),
            });
            Ok(bytes < NAMES_BYTES_MAX)
        })?;
        // Long names end the page early: with the last step that was read.
        if let Some(first_left) = steps.get(events.len()).map(key) {
            next = keys.partition_point(|at| *at < first_left);
            steps.truncate(events.len());
        }
        let has_more = next < keys.len();
        let end = keys.get(next).copied();
        let on_page = |at: Key| begin.is_none_or(|begin| at >= begin) && before(at, end);
        decisions.retain(|row| on_page(key_of_row(row)));
        let index_of = |row: &RunRecordRow| {
            let place = steps.binary_search_by_key(&key_of_row(row), key);
            place.ok().map(|place| steps[place].step_index)
        };
        let deciding = steps.iter().map(|step| row_of(&run, step)).chain(decisions);
        let mut gone = each_decision(ledger, tenant, &deciding.collect::<Vec<_>>(), |row, decision| {
            events.push(ReplayEvent {
                action: decision.policy_type,
                outcome: decision.decision,
                source: "policy",
                step_index: index_of(row),
                timestamp: row.occurred_at,
                order: (row.run_seq, 1),
            });
            ControlFlow::Continue(())
        })?;
        // Those of the window are counted on the pages that show them.
        let passed_over = failure.iter().flat_map(|failure| &failure.gone);
        for (_, why) in passed_over.filter(|(at, _)| !window.holds(*at)) {
            gone.count(*why);
        }
        let end_of_tree = LeafKey::new(tenant.ledger().row.ledger_no, run.as_of);
        let about = about_run(ledger, tenant, &run, None, end_of_tree)?;
        let gone_here = about
            .gone
            .iter()
            .filter(|(at, _)| window.holds(*at) && on_page((*at, u64::MAX)));
        for (_, why) in gone_here {
            gone.count(*why);
        }
        let audited = about
            .events
            .into_iter()
            .filter(|event| window.holds(event.timestamp));
        events.extend(
            audited
                .filter(|event| on_page((event.timestamp, u64::MAX)))
                .map(ReplayEvent::audited),
        );
        let system = in_window(ledger, tenant, &run, instance_as_of, window, Begin::Start)?;
        let system_complete = system.next.is_none();
        events.extend(
            system
                .events
                .iter()
                .filter(|event| on_page((event.occurred_at(), u64::MAX)))
                .map(ReplayEvent::system),
        );
        events.sort_by_key(|event| (event.timestamp, event.order));
        let next_cursor = if has_more {
            let next = u64::try_from(next).unwrap_or(u64::MAX);
            Some(run.cursor(tenant, read, next, instance_as_of)?)
        } else {
            None
        };
        let metadata = Metadata::of_run(tenant, &run, "ReplayService", SourceDomain::Activity)?;
        caller.answered(events.len());
        metadata.answer(&RunReplay {
            as_of: run.as_of,
            events,
            failure_known: failure.as_ref().map(|failure| failure.gone.is_empty()),
            gone,
            has_more,
            inflection_timestamp: Some(inflection),
            instance_as_of,
            next_cursor,
            policy_complete: all_decisions && about.next.is_none(),
            run_id: &run.row.state.run_id,
            system_complete,
            window_end: window.end,
            window_start: window.start,
        })
    })
    .await
}

/// In which order what is of the run stands.
type Key = (Timestamp, u64);

fn key(place: &StepPlace) -> Key {
    (place.occurred_at, place.run_seq)
}

fn key_of_row(row: &RunRecordRow) -> Key {
    (row.occurred_at, row.run_seq)
}

/// The row of a step, as far as decisions in it are looked for.
fn row_of(run: &Run, place: &StepPlace) -> RunRecordRow {
    RunRecordRow {
        run: run.row.key,
        run_seq: place.run_seq,
        leaf: place.leaf,
        kind: Kind::TraceStep,
        identity: None,
        step_index: None,
        occurred_at: place.occurred_at,
    }
}

/// The first failed step, as far as the steps still say it.
struct FirstFailure {
    /// When it began.
    at: Option<Timestamp>,
    /// Steps that may have been it, by when they began, and how their bodies went.
    gone: Vec<(Timestamp, Gone)>,
}

/// The first failed step, in the order of the steps.
fn first_failure(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    run: &Run,
    places: &[StepPlace],
) -> Result<FirstFailure, ApiError> {
    let state = &run.row.state;
    let (mut at, mut gone) = (None, Vec::new());
    let late: Vec<StepPlace>;
    let places = if state.failure_count > 0 {
        places
    } else {
        // Steps in an archive are counted by their status still, erased ones no more.
        if state.success_count != state.total_steps {
            gone = erased(ledger, places)?;
        }
        // Those that came late are counted nowhere.
        late = places.iter().filter(|place| place.late).copied().collect();
        late.as_slice()
    };
    each_step(ledger, tenant, places, |step| {
        match &step.view {
            Ok(view) if view.step.status == StepStatus::Failure => at = Some(step.place.occurred_at),
            Ok(_) => {}
            Err(why) => gone.push((step.place.occurred_at, *why)),
        }
        Ok(at.is_none())
    })?;
    Ok(FirstFailure { at, gone })
}

/// The erased steps among those that count.
fn erased(ledger: &Ledger, places: &[StepPlace]) -> Result<Vec<(Timestamp, Gone)>, ApiError> {
    let mut erased = Vec::new();
    for places in places.chunks(PAGE_STEPS_MAX) {
        let leaves: Vec<LeafKey> = places.iter().map(|place| place.leaf).collect();
        let there: BTreeSet<LeafKey> = ledger.store().bodies_there(&leaves)?.into_iter().collect();
        let absent: Vec<&StepPlace> = places
            .iter()
            .filter(|place| !place.late && !there.contains(&place.leaf))
            .collect();
        let leaves: Vec<LeafKey> = absent.iter().map(|place| place.leaf).collect();
        let gone = ledger.store().bodies_gone(&leaves)?;
        let with_why = absent.iter().map(|place| place.occurred_at).zip(gone);
        erased.extend(with_why.filter(|(_, why)| *why == Gone::Erased));
    }
    Ok(erased)
}

/// Rows of the run's policy decisions that have records of their own, in a window; and whether those are all.
fn decision_rows(ledger: &Ledger, run: &Run, window: Window) -> Result<(Vec<RunRecordRow>, bool), ApiError> {
    let mut rows = Vec::new();
    let mut from = 0;
    while rows.len() <= DECISIONS_MAX {
        let page = ledger.store().run_records(run.row.key, from, ROWS_READ)?;
        let Some(last) = page.last() else { break };
        from = last.run_seq.saturating_add(1);
        let whole = page.len() < ROWS_READ as usize || !run.sees(last.leaf);
        rows.extend(page.into_iter().filter(|row| {
            row.kind == Kind::EvidencePolicyDecision && run.sees(row.leaf) && window.holds(row.occurred_at)
        }));
        if whole {
            break;
        }
    }
    let all = rows.len() <= DECISIONS_MAX;
    rows.truncate(DECISIONS_MAX);
    Ok((rows, all))
}
