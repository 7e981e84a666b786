//! `get_llm_run_governance` (O3): the policy decisions of a run, in time order.
//!
//! Decisions stand in the `policy` section of steps and in records of their own
//! (`evidence.policy_decision`). Audit events that name the run stand among
//! them, each on the page of the records among which it was recorded.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::{Kind, SourceDomain, Timestamp};
use ledger::{Body, Ledger, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use store::{LeafKey, RunRecordRow};
use utoipa::ToSchema;

use super::governance_audit::about_run;
use super::metadata::Metadata;
use super::shared::same;
use crate::api::answer::{GoneCounts, ReadProblems};
use crate::api::run_steps::{Run, RunParams, damaged};
use crate::{ApiError, App, Caller, Path, Query};

/// Records of a run looked through for one answer: most are steps without a decision.
const PAGE_RECORDS_MAX: u32 = 10_000;

/// Audit events of one answer (SPEC 5), and of one replay.
pub(super) const EVENTS_MAX: u32 = 10_000;

/// What the events of one answer say, in bytes, of the run's records and of audit events each: a reason has up to
/// 64 KiB. The one that passes it is the page's last.
pub(super) const EVENTS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A decision.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GovernanceEventResult)]
pub(super) struct GovernanceEvent {
    pub(super) decision: String,
    /// Why, when said.
    pub(super) decision_reason: Option<String>,
    pub(super) entity_id: String,
    pub(super) entity_type: &'static str,
    /// The policy's type, e.g. `budget`.
    pub(super) event_type: String,
    pub(super) leaf_index: u64,
    pub(super) policy_id: Option<String>,
    pub(super) rule_id: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub(super) timestamp: Timestamp,
    /// The incident that the event is about.
    #[serde(skip)]
    pub(super) incident_id: Option<String>,
}

impl GovernanceEvent {
    /// Bytes of its text.
    pub(super) fn bytes(&self) -> usize {
        let given = [
            &self.decision_reason,
            &self.policy_id,
            &self.rule_id,
            &self.incident_id,
        ];
        let given: usize = given.into_iter().flatten().map(String::len).sum();
        self.decision.len() + self.entity_id.len() + self.event_type.len() + given
    }
}

/// The decisions.
#[derive(Serialize, ToSchema)]
struct RunGovernance<'a> {
    as_of: u64,
    events: Vec<GovernanceEvent>,
    /// Steps, decisions and audit events of this answer that say nothing any more: what they decided is not among the
    /// events.
    gone: GoneCounts,
    has_more: bool,
    next_cursor: Option<String>,
    run_id: &'a str,
    /// Events of this answer; all of the run's unless has_more, or this page is not the first. A page holds what was
    /// recorded between two of the run's records, by when it happened.
    total_events: usize,
}

/// The same with metadata.
#[derive(Serialize, ToSchema)]
#[schema(as = LLMRunGovernanceResult)]
#[allow(dead_code)] // for the document
struct RunGovernanceAnswer<'a> {
    #[serde(flatten)]
    governance: RunGovernance<'a>,
    metadata: Metadata,
}

/// A policy decision as stored, in a step's section or a body of its own.
#[derive(Debug, Deserialize)]
#[allow(clippy::struct_field_names)] // the names in the body
pub(super) struct Decision {
    pub(super) policy_type: String,
    #[serde(default)]
    policy_rule_id: Option<String>,
    pub(super) decision: String,
    #[serde(default)]
    decision_reason: Option<String>,
}

/// Reads the policy decisions of a run.
#[utoipa::path(
    get, path = "/api/v1/logs/llm-runs/{run_id}/governance", tag = "logs", operation_id = "get_llm_run_governance",
    params(("run_id" = String, Path, description = "The run"), RunParams),
    responses((status = 200, description = "Policy decisions, oldest first", body = RunGovernanceAnswer), ReadProblems),
)]
pub(super) async fn governance(
    State(app): State<App>,
    caller: Caller,
    Path(run_id): Path<String>,
    Query(params): Query<RunParams>,
) -> Result<Response, ApiError> {
    const READ: &str = "llm-run-governance";
    app.reading(caller.tenant.tenant_no, move |ledger| {
        let tenant = &caller.tenant;
        let run = Run::open(ledger, tenant, READ, &run_id, &params)?;
        let mut rows = ledger
            .store()
            .run_records(run.row.key, run.from, PAGE_RECORDS_MAX + 1)?;
        rows.retain(|row| run.sees(row.leaf));
        let mut next_row = if rows.len() > PAGE_RECORDS_MAX as usize {
            rows.pop()
        } else {
            None
        };
        let (mut events, mut bytes, mut full) = (Vec::<GovernanceEvent>::new(), 0, None);
        let mut gone = each_decision(ledger, tenant, &rows, |row, decision| {
            let event = GovernanceEvent {
                decision: decision.decision,
                decision_reason: decision.decision_reason,
                entity_id: run.row.state.run_id.clone(),
                entity_type: "RUN",
                event_type: decision.policy_type,
                leaf_index: row.leaf.leaf_index(),
                policy_id: None,
                rule_id: decision.policy_rule_id,
                timestamp: row.occurred_at,
                incident_id: None,
            };
            bytes += event.bytes();
            events.push(event);
            if bytes > EVENTS_BYTES_MAX {
                full = Some(row.run_seq);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if let Some(place) = full.and_then(|full| rows.iter().position(|row| row.run_seq > full)) {
            next_row = Some(rows.swap_remove(place));
            rows.truncate(place);
        }
        let after_rows = rows.last().map_or(run.from, |row| row.run_seq + 1);
        // Audit events stand on the page of the records among which they were recorded, the last page has the rest.
        let end = LeafKey::new(tenant.ledger().row.ledger_no, run.as_of);
        let before = next_row.map_or(end, |row| row.leaf);
        let about = about_run(ledger, tenant, &run, leaf_of(run.beside), before)?;
        events.extend(about.events);
        for (_, why) in about.gone {
            gone.count(why);
        }
        events.sort_by_key(|event| (event.timestamp, event.leaf_index));
        let has_more = next_row.is_some() || about.next.is_some();
        let next = (after_rows, about.next.map_or(beside_of(before) - 1, beside_of));
        let mut metadata = Metadata::of_run(tenant, &run, "AuditLedger", SourceDomain::Policy)?;
        metadata.policy_ids = same(events.iter().map(|event| event.policy_id.as_ref()))
            .into_iter()
            .collect();
        if let Some(incident) = same(events.iter().map(|event| event.incident_id.as_ref()))
            && !metadata.incident_ids.contains(&incident)
        {
            metadata.incident_ids.push(incident);
        }
        caller.answered(events.len());
        metadata.answer(&RunGovernance {
            as_of: run.as_of,
            has_more,
            next_cursor: if has_more {
                Some(run.cursor(tenant, READ, next.0, next.1)?)
            } else {
                None
            },
            run_id: &run.row.state.run_id,
            total_events: events.len(),
            events,
            gone,
        })
    })
    .await
}

/// The leaf that a cursor names; 0 is none.
pub(super) fn leaf_of(beside: u64) -> Option<LeafKey> {
    let leaf = i64::try_from(beside.checked_sub(1)?).ok()?;
    Some(LeafKey::from_i64(leaf))
}

/// A leaf as a cursor names it.
pub(super) fn beside_of(leaf: LeafKey) -> u64 {
    u64::try_from(leaf.as_i64()).unwrap_or(0).saturating_add(1)
}

/// Calls `each` with the decisions among these records, in their order, until it breaks off; counts those of them that
/// say nothing any more.
pub(super) fn each_decision(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    rows: &[RunRecordRow],
    mut each: impl FnMut(&RunRecordRow, Decision) -> ControlFlow<()>,
) -> Result<GoneCounts, ApiError> {
    #[derive(Deserialize)]
    struct Sections<'a> {
        #[serde(borrow, default)]
        policy: Option<&'a RawValue>,
    }
    let may_decide = |row: &&RunRecordRow| matches!(row.kind, Kind::TraceStep | Kind::EvidencePolicyDecision);
    let leaves: Vec<LeafKey> = rows.iter().filter(may_decide).map(|row| row.leaf).collect();
    let mut rest = rows.iter().filter(may_decide);
    let mut gone = GoneCounts::default();
    ledger.records(tenant).each(&leaves, |record| {
        let Some(row) = rest.next() else {
            return Ok(ControlFlow::Break(()));
        };
        let body = match record.body {
            Body::There(body) => body,
            Body::Gone(why) => {
                gone.count(why);
                return Ok(ControlFlow::Continue(()));
            }
        };
        let bad = |error: serde_json::Error| damaged(row.leaf.leaf_index(), &error);
        let decision = if row.kind == Kind::TraceStep {
            let sections: Sections<'_> = serde_json::from_slice(&body).map_err(bad)?;
            sections
                .policy
                .map(|policy| serde_json::from_str(policy.get()))
                .transpose()
                .map_err(bad)?
        } else {
            Some(serde_json::from_slice(&body).map_err(bad)?)
        };
        Ok::<_, ApiError>(decision.map_or(ControlFlow::Continue(()), |decision| each(row, decision)))
    })?;
    Ok(gone)
}
