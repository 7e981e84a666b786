//! Audit events: who did what to policies, limits, incidents and signals. Each POST is a record.
//!
//! They are read under `/api/v1/logs/audit`.
//!
//! Source: SPEC 5.2.

use axum::extract::State;
use axum::response::Response;
use evidence::ActorType;
use evidence::RecordId;
use evidence::record::{AuditEntityType, AuditEvent, AuditEventType};
use ledger::audit;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReceiptOut, WriteProblems, created, placed};
use super::fields;
use super::records::ReceiptView;
use super::runs::first;
use crate::{ApiError, App, Caller, JsonBody, Received};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(record))
}

/// What was done.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AuditEventRecord)]
struct AuditEventIn {
    /// One of the eighteen, e.g. `LimitUpdated`.
    #[schema(value_type = String)]
    event_type: AuditEventType,
    /// `POLICY_RULE`, `POLICY_PROPOSAL`, `LIMIT`, `INCIDENT`, `SIGNAL`; it follows the event's name, of
    /// EmergencyOverride… any.
    #[schema(value_type = String)]
    entity_type: AuditEntityType,
    entity_id: String,
    /// `HUMAN`, `AGENT`, `SYSTEM`.
    #[schema(value_type = String)]
    actor_type: ActorType,
    /// Needed of humans and agents.
    actor_id: Option<String>,
    action_reason: Option<String>,
    /// Needed of Modified, Updated and Retired.
    #[schema(value_type = Option<Object>)]
    before_state: Option<Box<RawValue>>,
    /// Needed of Created, Modified and Updated; of other events a single state.
    #[schema(value_type = Option<Object>)]
    after_state: Option<Box<RawValue>>,
    correlation_id: Option<String>,
}

impl AuditEventIn {
    fn event(self) -> Result<AuditEvent, ApiError> {
        Ok(AuditEvent {
            event_type: self.event_type,
            entity_type: self.entity_type,
            entity_id: self.entity_id,
            actor_type: self.actor_type,
            actor_id: self.actor_id,
            action_reason: self.action_reason,
            before_state: fields::value_opt("before_state", self.before_state.as_deref())?,
            after_state: fields::value_opt("after_state", self.after_state.as_deref())?,
            correlation_id: self.correlation_id,
        })
    }
}

/// The event is on record.
#[derive(Serialize, ToSchema)]
struct AuditEventRecorded<'a> {
    entity_id: &'a str,
    entity_type: &'static str,
    /// Its record id, by which the audit log knows it.
    #[schema(value_type = String)]
    entry_id: RecordId,
    event_type: &'static str,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
}

/// Records an audit event.
#[utoipa::path(
    post, path = "/api/v1/audit-events", tag = "audit", operation_id = "audit_event_record",
    request_body = AuditEventIn,
    responses((status = 201, description = "The event is in the ledger", body = AuditEventRecorded), WriteProblems),
)]
async fn record(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<AuditEventIn>,
) -> Result<Response, ApiError> {
    let (event, draft) = app
        .packing(caller.tenant.salts(), body.is_large(), move |salts| {
            let event = body.value.event()?;
            let draft = audit::draft(&event, at, salts)?;
            Ok((event, draft))
        })
        .await?;
    let outcomes = app.ledger.submit(&caller.tenant, vec![draft], at).await?;
    let first = first(placed(outcomes)?)?;
    created(
        &first,
        &AuditEventRecorded {
            entity_id: &event.entity_id,
            entity_type: event.entity_type.as_str(),
            entry_id: first.receipt.record_id,
            event_type: event.event_type.as_str(),
            receipt: ReceiptOut(first.receipt),
        },
    )
}
