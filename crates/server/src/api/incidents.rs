//! Incidents: opened, acknowledged, resolved, closed; read and listed.
//!
//! Source: SPEC 5.6.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use evidence::facet::facet;
use evidence::record::{IncidentAct, IncidentOpened, IncidentStatus, IncidentStep};
use evidence::{ActorType, RecordId, Timestamp};
use ledger::{Incident, IncidentError, IncidentMark, Tenant};
use serde::{Deserialize, Serialize};
use store::LeafKey;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, ReceiptOut, WriteProblems, canonical, json, ok};
use super::facet_list::{self, DamagedEntry, ListParams};
use super::fields;
use super::logs::NoParams;
use super::records::ReceiptView;
use super::run_list::{Filters, given, shown};
use crate::{ApiError, App, Caller, ExactJsonBody, JsonBody, Path, Query, Received, ids};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(open, list))
        .routes(routes!(get))
        .routes(routes!(acknowledge))
        .routes(routes!(resolve))
        .routes(routes!(close))
}

impl From<IncidentError> for ApiError {
    fn from(error: IncidentError) -> Self {
        let message = error.to_string();
        match error {
            IncidentError::Unknown => Self::not_found(),
            IncidentError::Step { status, .. } => Self::conflict("incident_status", message)
                .with(serde_json::json!({ "incident_status": status.as_str() })),
            IncidentError::Rule(error) => error.into(),
            IncidentError::Body(error) => error.into(),
            IncidentError::Rejected(error) => error.into(),
            IncidentError::Submit(error) => error.into(),
            IncidentError::Read(error) => error.into(),
        }
    }
}

/// An incident to open.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IncidentOpen)]
struct IncidentIn {
    /// The run that it stems from.
    source_run_id: Option<String>,
    /// An open word, e.g. `HIGH`.
    severity: String,
    policy_id: Option<String>,
    policy_name: Option<String>,
    violation_type: Option<String>,
    violation_step_index: Option<i64>,
    summary: String,
}

impl IncidentIn {
    fn opened(self) -> Result<IncidentOpened, ApiError> {
        let index = self.violation_step_index;
        Ok(IncidentOpened {
            source_run_id: self.source_run_id,
            severity: self.severity,
            policy_id: self.policy_id,
            policy_name: self.policy_name,
            violation_type: self.violation_type,
            violation_step_index: index
                .map(|index| fields::count("violation_step_index", index))
                .transpose()?,
            summary: self.summary,
        })
    }
}

/// Who does something with an incident, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IncidentStepBy)]
struct ActIn {
    /// `HUMAN`, `AGENT`, `SYSTEM`.
    #[schema(value_type = String)]
    actor_type: ActorType,
    /// Needed of humans and agents.
    actor_id: Option<String>,
    reason: String,
}

/// One step of an incident.
#[derive(Serialize, ToSchema)]
#[schema(as = IncidentStepView)]
struct StepView<'a> {
    actor_id: Option<&'a str>,
    actor_type: &'static str,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Present and true when the step's body was erased: by whom and why is null.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    erased: bool,
    /// `opened`, `acknowledged`, `resolved`, `closed`.
    event: &'static str,
    leaf_index: u64,
    reason: Option<&'a str>,
    #[schema(value_type = String)]
    record_id: RecordId,
}

/// An incident.
#[derive(Serialize, ToSchema)]
#[schema(as = Incident)]
struct IncidentView<'a> {
    #[schema(value_type = Option<String>, format = DateTime)]
    acknowledged_at: Option<Timestamp>,
    /// Of the audit event beside the step; of answers to a step only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ReceiptView>)]
    audit_receipt: Option<ReceiptOut>,
    #[schema(value_type = Option<String>, format = DateTime)]
    closed_at: Option<Timestamp>,
    /// Present and true when the opening's body was erased: what it said is null.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    erased: bool,
    /// Its steps, oldest first.
    history: Vec<StepView<'a>>,
    incident_id: &'a str,
    #[schema(value_type = String, format = DateTime)]
    opened_at: Timestamp,
    policy_id: Option<&'a str>,
    policy_name: Option<&'a str>,
    /// Of the record that was written; of answers to a POST only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ReceiptView>)]
    receipt: Option<ReceiptOut>,
    #[schema(value_type = Option<String>, format = DateTime)]
    resolved_at: Option<Timestamp>,
    severity: Option<&'a str>,
    source_run_id: Option<&'a str>,
    /// `OPEN`, `ACKNOWLEDGED`, `RESOLVED`, `CLOSED`.
    status: &'static str,
    summary: Option<&'a str>,
    tenant_id: &'a str,
    violation_step_index: Option<u32>,
    violation_type: Option<&'a str>,
}

impl<'a> IncidentView<'a> {
    fn of(tenant: &'a Tenant, incident: &'a Incident) -> Self {
        let at = |step| {
            let mark = incident.history.iter().find(|mark| mark.step == step);
            mark.map(|mark| mark.at)
        };
        let opened = incident.opened.as_ref();
        Self {
            acknowledged_at: at(IncidentStep::Acknowledged),
            audit_receipt: None,
            closed_at: at(IncidentStep::Closed),
            erased: opened.is_none(),
            history: incident.history.iter().map(step_view).collect(),
            incident_id: &incident.incident_id,
            opened_at: at(IncidentStep::Opened).unwrap_or(Timestamp::MIN),
            policy_id: opened.and_then(|opened| opened.policy_id.as_deref()),
            policy_name: opened.and_then(|opened| opened.policy_name.as_deref()),
            receipt: None,
            resolved_at: at(IncidentStep::Resolved),
            severity: opened.map(|opened| opened.severity.as_str()),
            source_run_id: opened.and_then(|opened| opened.source_run_id.as_deref()),
            status: incident.status.as_str(),
            summary: opened.map(|opened| opened.summary.as_str()),
            tenant_id: &tenant.tenant_id,
            violation_step_index: opened.and_then(|opened| opened.violation_step_index),
            violation_type: opened.and_then(|opened| opened.violation_type.as_deref()),
        }
    }
}

fn step_view(mark: &IncidentMark) -> StepView<'_> {
    StepView {
        actor_id: mark.actor_id.as_deref(),
        actor_type: mark.actor_type.as_str(),
        at: mark.at,
        erased: mark.erased,
        event: mark.step.as_str(),
        leaf_index: mark.leaf_index,
        reason: mark.reason.as_deref(),
        record_id: mark.record_id,
    }
}

/// Opens an incident.
#[utoipa::path(
    post, path = "/api/v1/incidents", tag = "incidents", operation_id = "incident_open", request_body = IncidentIn,
    responses((status = 201, description = "The incident is in the ledger", body = IncidentView), WriteProblems),
)]
async fn open(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<IncidentIn>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let opened = body.value.opened()?;
        let incident_id = ids::uuid_v7(at);
        let receipt = ledger.incident_open(&caller.tenant, &incident_id, opened.clone(), at)?;
        let mark = IncidentMark {
            step: IncidentStep::Opened,
            at,
            actor_type: ActorType::System,
            actor_id: None,
            reason: None,
            record_id: receipt.record_id,
            leaf_index: receipt.leaf_index,
            erased: false,
        };
        let incident = Incident {
            incident_id,
            opened: Some(opened),
            status: IncidentStatus::Open,
            history: vec![mark],
        };
        let view = IncidentView {
            receipt: Some(ReceiptOut(receipt)),
            ..IncidentView::of(&caller.tenant, &incident)
        };
        Ok(json(StatusCode::CREATED, canonical(&view)?))
    })
    .await
}

/// Acknowledges an incident, and records that as an audit event with it.
#[utoipa::path(
    post, path = "/api/v1/incidents/{id}/acknowledge", tag = "incidents", operation_id = "incident_acknowledge",
    params(("id" = String, Path, description = "The incident")), request_body = ActIn,
    responses((status = 201, description = "Both are in the ledger", body = IncidentView), WriteProblems),
)]
async fn acknowledge(
    app: State<App>,
    caller: Caller,
    at: Received,
    id: Path<String>,
    ExactJsonBody(body): ExactJsonBody<ActIn>,
) -> Result<Response, ApiError> {
    act(app, caller, at, id, body, IncidentStep::Acknowledged).await
}

/// Resolves an incident, and records that as an audit event with it.
#[utoipa::path(
    post, path = "/api/v1/incidents/{id}/resolve", tag = "incidents", operation_id = "incident_resolve",
    params(("id" = String, Path, description = "The incident")), request_body = ActIn,
    responses((status = 201, description = "Both are in the ledger", body = IncidentView), WriteProblems),
)]
async fn resolve(
    app: State<App>,
    caller: Caller,
    at: Received,
    id: Path<String>,
    ExactJsonBody(body): ExactJsonBody<ActIn>,
) -> Result<Response, ApiError> {
    act(app, caller, at, id, body, IncidentStep::Resolved).await
}

/// Closes an incident by hand, and records that as an audit event with it.
#[utoipa::path(
    post, path = "/api/v1/incidents/{id}/close", tag = "incidents", operation_id = "incident_close",
    params(("id" = String, Path, description = "The incident")), request_body = ActIn,
    responses((status = 201, description = "Both are in the ledger", body = IncidentView), WriteProblems),
)]
async fn close(
    app: State<App>,
    caller: Caller,
    at: Received,
    id: Path<String>,
    ExactJsonBody(body): ExactJsonBody<ActIn>,
) -> Result<Response, ApiError> {
    act(app, caller, at, id, body, IncidentStep::Closed).await
}

async fn act(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(incident_id): Path<String>,
    // Not redacted yet: of it only the reason is free text, which is redacted where it is written.
    body: JsonBody<ActIn>,
    step: IncidentStep,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let act = IncidentAct {
            actor_type: body.value.actor_type,
            actor_id: body.value.actor_id,
            reason: body.value.reason,
        };
        let receipts = ledger.incident_act(&caller.tenant, &incident_id, step, &act, at)?;
        let incident = ledger
            .incident(&caller.tenant, &incident_id, None)?
            .ok_or_else(ApiError::not_found)?;
        let view = IncidentView {
            audit_receipt: Some(ReceiptOut(receipts.audit)),
            receipt: Some(ReceiptOut(receipts.event)),
            ..IncidentView::of(&caller.tenant, &incident)
        };
        Ok(json(StatusCode::CREATED, canonical(&view)?))
    })
    .await
}

/// Reads an incident.
#[utoipa::path(
    get, path = "/api/v1/incidents/{id}", tag = "incidents", operation_id = "incident_get",
    params(("id" = String, Path, description = "The incident")),
    responses((status = 200, description = "The incident", body = IncidentView), ReadProblems),
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(incident_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let incident = ledger
            .incident(&caller.tenant, &incident_id, None)?
            .ok_or_else(ApiError::not_found)?;
        ok(&IncidentView::of(&caller.tenant, &incident))
    })
    .await
}

/// Which incidents.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct IncidentsQuery {
    /// Those that stem from one run.
    source_run_id: Option<String>,
    /// Most entries of the page, 1 to 500 (50).
    limit: Option<u32>,
    /// Entries passed over, at most 10000.
    offset: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Incidents as they were at this tree size.
    as_of: Option<u64>,
}

/// Incidents, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = IncidentPage)]
struct Page<'a> {
    as_of: u64,
    /// Entries of the page that cannot be shown. Absent when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    damaged: Vec<DamagedEntry>,
    #[schema(value_type = Object)]
    filters_applied: Filters,
    has_more: bool,
    items: Vec<IncidentView<'a>>,
    next_cursor: Option<String>,
    total: u64,
    total_exact: bool,
}

/// Lists incidents, the newest opened first.
#[utoipa::path(
    get, path = "/api/v1/incidents", tag = "incidents", operation_id = "incidents_list", params(IncidentsQuery),
    responses((status = 200, description = "Incidents, newest first", body = Page), ReadProblems),
)]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<IncidentsQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let tenant = &caller.tenant;
        // Both are facets of the opening alone: one row an incident.
        let facets = vec![match &query.source_run_id {
            Some(run_id) => facet("incident.run", run_id),
            None => "incident".to_owned(),
        }];
        let params = ListParams {
            list: "incidents",
            facets,
            filters: given(&[("source_run_id", shown(query.source_run_id.as_ref()))]),
            limit: query.limit,
            offset: query.offset,
            cursor: query.cursor,
            as_of: query.as_of,
        };
        let mut page = facet_list::page(ledger, tenant, params)?;
        let as_of = LeafKey::new(tenant.ledger().row.ledger_no, page.as_of);
        let incidents = page.entries(ledger, tenant, |leaf| {
            let found = ledger.incident_at(tenant, leaf, as_of)?;
            Ok(found.map(|one| {
                let reasons: usize = one
                    .history
                    .iter()
                    .flat_map(|mark| &mark.reason)
                    .map(String::len)
                    .sum();
                let summary = one.opened.as_ref().map_or(0, |opened| opened.summary.len());
                let text = summary + reasons;
                (one, text)
            }))
        })?;
        caller.answered(incidents.len());
        ok(&Page {
            as_of: page.as_of,
            damaged: page.damaged,
            filters_applied: page.filters_applied,
            has_more: page.has_more,
            items: incidents
                .iter()
                .map(|one| IncidentView::of(tenant, one))
                .collect(),
            next_cursor: page.next_cursor,
            total: page.total,
            total_exact: page.total_exact,
        })
    })
    .await
}
