//! `get_audit_entry`: one entry with what was before and after it.

use axum::extract::State;
use axum::response::Response;
use evidence::{Kind, RecordId, SourceDomain, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::super::NoParams;
use super::super::entries::{Entry, metadata};
use super::super::metadata::{LedgerPlace, Metadata};
use super::super::shared::{Item, Named, Names, Shared};
use crate::api::answer::ReadProblems;
use crate::api::run_list::tree_size;
use crate::{ApiError, App, Caller, Path, Query, Received};

/// An audit entry.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditLedgerItemResult)]
pub(super) struct AuditItem {
    action_reason: Option<String>,
    actor_id: Option<String>,
    actor_type: &'static str,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    entity_id: String,
    entity_type: String,
    event_type: String,
    id: String,
    leaf_index: u64,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    #[serde(skip)]
    named: Named,
}

/// The same in full.
#[derive(Debug, Serialize, ToSchema)]
struct AuditDetail {
    action_reason: Option<String>,
    actor_id: Option<String>,
    actor_type: &'static str,
    #[schema(value_type = Option<Object>)]
    after_state: Option<Box<RawValue>>,
    #[schema(value_type = Option<Object>)]
    before_state: Option<Box<RawValue>>,
    correlation_id: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    entity_id: String,
    entity_type: String,
    event_type: String,
    id: String,
    leaf_index: u64,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// The same with metadata.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditLedgerDetailResult)]
#[allow(dead_code)] // for the document
struct AuditDetailAnswer {
    #[serde(flatten)]
    detail: AuditDetail,
    metadata: Metadata,
}

/// The body as stored, with its states as text, or as what they name.
#[derive(Debug, Deserialize)]
struct Body<S> {
    #[serde(default)]
    action_reason: Option<String>,
    #[serde(default)]
    actor_id: Option<String>,
    #[serde(default = "none")]
    after_state: Option<S>,
    #[serde(default = "none")]
    before_state: Option<S>,
    entity_id: String,
    entity_type: String,
    event_type: String,
}

const fn none<S>() -> Option<S> {
    None
}

impl<S: DeserializeOwned> Body<S> {
    fn read(entry: &Entry) -> Result<Self, ApiError> {
        let word = entry.gone_word();
        Ok(entry.body::<Self>()?.unwrap_or_else(|| Self {
            action_reason: None,
            actor_id: None,
            after_state: None,
            before_state: None,
            entity_id: word.into(),
            entity_type: word.into(),
            event_type: word.into(),
        }))
    }
}

impl AuditDetail {
    fn read(entry: &Entry) -> Result<Self, ApiError> {
        let header = entry.header()?;
        let body = Body::<Box<RawValue>>::read(entry)?;
        Ok(Self {
            action_reason: body.action_reason,
            actor_id: body
                .actor_id
                .or_else(|| header.actor.id.as_deref().map(str::to_owned)),
            actor_type: header.actor.kind.as_str(),
            after_state: body.after_state,
            before_state: body.before_state,
            correlation_id: header.correlation_id.as_deref().map(str::to_owned),
            created_at: header.recorded_at,
            entity_id: body.entity_id,
            entity_type: body.entity_type,
            event_type: body.event_type,
            id: header.id.to_string(),
            leaf_index: entry.record.leaf.leaf_index(),
            timestamp: header.occurred_at,
        })
    }
}

impl Item for AuditItem {
    fn read(entry: &Entry) -> Result<Self, ApiError> {
        let header = entry.header()?;
        let body = Body::<Names>::read(entry)?;
        let states = body.after_state.iter().chain(&body.before_state);
        let named = Named::by_event(states, &body.entity_type, &body.entity_id);
        Ok(Self {
            action_reason: body.action_reason,
            actor_id: body
                .actor_id
                .or_else(|| header.actor.id.as_deref().map(str::to_owned)),
            actor_type: header.actor.kind.as_str(),
            created_at: header.recorded_at,
            entity_id: body.entity_id,
            entity_type: body.entity_type,
            event_type: body.event_type,
            id: header.id.to_string(),
            leaf_index: entry.record.leaf.leaf_index(),
            named,
            timestamp: header.occurred_at,
        })
    }

    fn named(&self) -> Named {
        self.named.clone()
    }

    fn actor_id(&self) -> Option<&str> {
        self.actor_id.as_deref()
    }
}

/// Reads an audit entry in full.
#[utoipa::path(
    get, path = "/api/v1/logs/audit/entries/{entry_id}", tag = "logs", operation_id = "get_audit_entry",
    params(("entry_id" = String, Path, description = "The record's id")),
    responses((status = 200, description = "The entry", body = AuditDetailAnswer), ReadProblems),
)]
pub(in super::super) async fn entry(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(entry_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    app.reading(caller.tenant.tenant_no, move |ledger| {
        let tenant = &caller.tenant;
        // What is no id is the id of nothing.
        let id = RecordId::parse(&entry_id).ok_or_else(ApiError::not_found)?;
        let record = ledger.records(tenant).get(id)?.ok_or_else(ApiError::not_found)?;
        let entry = Entry { record };
        let detail = AuditDetail::read_kind(&entry)?;
        let mut metadata = metadata(tenant, "AuditLedger", SourceDomain::Logs, at);
        let mut alone = Shared::default();
        alone.add(&entry, &AuditItem::read(&entry)?, &mut metadata)?;
        alone.finish(&mut metadata);
        let size = tree_size(ledger, tenant)?;
        metadata.ledger = Some(LedgerPlace::of(ledger, tenant, entry.record.leaf, size)?);
        metadata.answer(&detail)
    })
    .await
}

impl AuditDetail {
    /// A record of another kind is no entry.
    fn read_kind(entry: &Entry) -> Result<Self, ApiError> {
        if entry.header()?.kind != Kind::AuditEvent {
            return Err(ApiError::not_found());
        }
        Self::read(entry)
    }
}
