//! Lists of the audit topic, newest first: what was done to policies and limits, who was let in, who read what.
//!
//! Source: SPEC 5, 5.2, 5.4.

use axum::extract::State;
use axum::response::Response;
use evidence::facet::facet;
use evidence::record::{AuditEntityType, AuditEventType};
use evidence::{ActorType, Kind, SourceDomain, Timestamp};
use ledger::Ledger;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::super::entries::{Asked, Entry, Page, Source, metadata, page};
use super::super::metadata::Metadata;
use super::super::shared::{Item, Named};
use super::entry::AuditItem;
use crate::api::answer::ReadProblems;
use crate::api::run_list::{Filters, PageParams, given, shown};
use crate::extract::filter_time;
use crate::{ApiError, App, Caller, Query, Received};

const COMPONENT: &str = "AuditLedger";

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct EntriesQuery {
    #[param(value_type = Option<String>)]
    event_type: Option<AuditEventType>,
    #[param(value_type = Option<String>)]
    entity_type: Option<AuditEntityType>,
    /// `HUMAN`, `SYSTEM`, `AGENT`.
    #[param(value_type = Option<String>)]
    actor_type: Option<ActorType>,
    /// Inclusive.
    #[serde(default, deserialize_with = "filter_time")]
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Exclusive.
    #[serde(default, deserialize_with = "filter_time")]
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// 1 to 500, 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// At most 10,000; go on with `cursor`.
    #[param(minimum = 0)]
    offset: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// The tree size to read at.
    #[param(minimum = 0)]
    as_of: Option<u64>,
}

/// Which part.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct PartQuery {
    /// Inclusive.
    #[serde(default, deserialize_with = "filter_time")]
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Exclusive.
    #[serde(default, deserialize_with = "filter_time")]
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// 1 to 500, 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// At most 10,000; go on with `cursor`.
    #[param(minimum = 0)]
    offset: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// The tree size to read at.
    #[param(minimum = 0)]
    as_of: Option<u64>,
}

/// Declares a page's wire type with its list under `$name`, keys in canonical order, and its metadata.
macro_rules! page_type {
    ($page:ident, $answer:ident, $schema:ident, $item:ty, [$($before:ident)*], $name:ident, [$($after:ident)*]) => {
        #[derive(Serialize, ToSchema)]
        struct $page {
            as_of: u64,
            $($before: Vec<$item>,)*
            #[schema(value_type = Object)]
            filters_applied: Filters,
            has_more: bool,
            $($after: Vec<$item>,)*
            next_cursor: Option<String>,
            total: u64,
            total_exact: bool,
        }

        #[derive(Serialize, ToSchema)]
        #[schema(as = $schema)]
        #[allow(dead_code)] // for the document
        struct $answer {
            #[serde(flatten)]
            page: $page,
            metadata: Metadata,
        }

        impl $page {
            fn answer(page: Page<$item>) -> Result<Response, ApiError> {
                page.metadata.answer(&Self {
                    as_of: page.as_of,
                    filters_applied: page.filters_applied,
                    has_more: page.has_more,
                    $name: page.items,
                    next_cursor: page.next_cursor,
                    total: page.total,
                    total_exact: page.total_exact,
                })
            }
        }
    };
}

page_type!(
    Entries,
    EntriesAnswer,
    AuditLedgerListResult,
    AuditItem,
    [],
    items,
    [items]
);
page_type!(
    Identity,
    IdentityAnswer,
    AuditIdentityResult,
    IdentityItem,
    [events],
    events,
    []
);
page_type!(
    Authorization,
    AuthorizationAnswer,
    AuditAuthorizationResult,
    AuthorizationItem,
    [decisions],
    decisions,
    []
);
page_type!(
    Access,
    AccessAnswer,
    AuditAccessResult,
    AccessItem,
    [events],
    events,
    []
);

/// Something that happened to a credential or principal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = IdentityEventResult)]
struct IdentityItem {
    actor_id: Option<String>,
    actor_type: &'static str,
    /// How many stand here.
    count: u64,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    event_type: String,
    id: String,
    leaf_index: u64,
    reason: Option<String>,
    request_id: Option<String>,
    /// The first of `roles`.
    role: Option<String>,
    /// All that the subject has with it.
    roles: Vec<String>,
    subject_id: String,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// A decision.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuthorizationDecisionResult)]
struct AuthorizationItem {
    actor_id: Option<String>,
    actor_type: &'static str,
    /// How many stand here.
    count: u64,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// `ALLOW` or `DENY`.
    decision: String,
    /// What was asked for.
    entity_id: String,
    /// `RESOURCE`
    entity_type: &'static str,
    /// The class of operation, e.g. `read`.
    event_type: String,
    id: String,
    leaf_index: u64,
    operation: Option<String>,
    /// The policies that determined it.
    policy_ids: Vec<String>,
    reason: Option<String>,
    request_id: Option<String>,
    role: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// A read or a download.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AccessEventResult)]
struct AccessItem {
    actor_id: Option<String>,
    actor_type: &'static str,
    /// How many stand here.
    count: u64,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// What was read: the path, else the operation.
    entity_id: String,
    /// `EVIDENCE`
    entity_type: &'static str,
    /// `evidence.read` or `evidence.exported`.
    event_type: String,
    #[schema(value_type = Object)]
    filters: Option<Box<RawValue>>,
    id: String,
    leaf_index: u64,
    operation: String,
    request_id: Option<String>,
    row_count: u64,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

const fn one() -> u64 {
    1
}

impl Item for IdentityItem {
    fn read(entry: &Entry) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(default = "one")]
            count: u64,
            event_type: String,
            #[serde(default)]
            principal: Option<String>,
            #[serde(default)]
            reason: Option<String>,
            #[serde(default)]
            request_id: Option<String>,
            #[serde(default)]
            role: Option<String>,
            /// Only of who has several.
            #[serde(default)]
            roles: Vec<String>,
            subject_id: String,
        }
        let header = entry.header()?;
        let word = entry.gone_word();
        let body = entry.body::<Body>()?.unwrap_or_else(|| Body {
            count: 1,
            event_type: word.into(),
            principal: None,
            reason: None,
            request_id: None,
            role: None,
            roles: Vec::new(),
            subject_id: word.into(),
        });
        let roles = if body.roles.is_empty() {
            body.role.iter().cloned().collect()
        } else {
            body.roles
        };
        Ok(Self {
            actor_id: body
                .principal
                .or_else(|| header.actor.id.as_deref().map(str::to_owned)),
            actor_type: header.actor.kind.as_str(),
            count: body.count,
            created_at: header.recorded_at,
            event_type: body.event_type,
            id: header.id.to_string(),
            leaf_index: entry.record.leaf.leaf_index(),
            reason: body.reason,
            request_id: body.request_id,
            role: body.role,
            roles,
            subject_id: body.subject_id,
            timestamp: header.occurred_at,
        })
    }

    fn actor_id(&self) -> Option<&str> {
        self.actor_id.as_deref()
    }
}

impl Item for AuthorizationItem {
    fn read(entry: &Entry) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Body {
            action: String,
            #[serde(default = "one")]
            count: u64,
            decision: String,
            #[serde(default)]
            operation: Option<String>,
            #[serde(default)]
            policy_ids: Vec<String>,
            #[serde(default)]
            principal: Option<String>,
            #[serde(default)]
            reason: Option<String>,
            #[serde(default)]
            request_id: Option<String>,
            resource: String,
            #[serde(default)]
            role: Option<String>,
        }
        let header = entry.header()?;
        let word = entry.gone_word();
        let body = entry.body::<Body>()?.unwrap_or_else(|| Body {
            action: word.into(),
            count: 1,
            decision: word.into(),
            operation: None,
            policy_ids: Vec::new(),
            principal: None,
            reason: None,
            request_id: None,
            resource: word.into(),
            role: None,
        });
        Ok(Self {
            actor_id: body
                .principal
                .or_else(|| header.actor.id.as_deref().map(str::to_owned)),
            actor_type: header.actor.kind.as_str(),
            count: body.count,
            created_at: header.recorded_at,
            decision: body.decision,
            entity_id: body.resource,
            entity_type: "RESOURCE",
            event_type: body.action,
            id: header.id.to_string(),
            leaf_index: entry.record.leaf.leaf_index(),
            operation: body.operation,
            policy_ids: body.policy_ids,
            reason: body.reason,
            request_id: body.request_id,
            role: body.role,
            timestamp: header.occurred_at,
        })
    }

    fn named(&self) -> Named {
        Named {
            policies: self.policy_ids.iter().cloned().collect(),
            ..Named::default()
        }
    }

    fn actor_id(&self) -> Option<&str> {
        self.actor_id.as_deref()
    }
}

impl Item for AccessItem {
    fn read(entry: &Entry) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(default = "one")]
            count: u64,
            event_type: String,
            #[serde(default)]
            filters: Option<Box<RawValue>>,
            operation: String,
            #[serde(default)]
            principal: Option<String>,
            #[serde(default)]
            request_id: Option<String>,
            #[serde(default)]
            resource: Option<String>,
            #[serde(default)]
            row_count: u64,
        }
        let header = entry.header()?;
        let word = entry.gone_word();
        let body = entry.body::<Body>()?.unwrap_or_else(|| Body {
            count: 1,
            event_type: word.into(),
            filters: None,
            operation: word.into(),
            principal: None,
            request_id: None,
            resource: None,
            row_count: 0,
        });
        Ok(Self {
            actor_id: body
                .principal
                .or_else(|| header.actor.id.as_deref().map(str::to_owned)),
            actor_type: header.actor.kind.as_str(),
            count: body.count,
            created_at: header.recorded_at,
            entity_id: body.resource.unwrap_or_else(|| body.operation.clone()),
            entity_type: "EVIDENCE",
            event_type: body.event_type,
            filters: body.filters,
            id: header.id.to_string(),
            leaf_index: entry.record.leaf.leaf_index(),
            operation: body.operation,
            request_id: body.request_id,
            row_count: body.row_count,
            timestamp: header.occurred_at,
        })
    }

    fn actor_id(&self) -> Option<&str> {
        self.actor_id.as_deref()
    }
}

/// Lists audit entries.
#[utoipa::path(
    get, path = "/api/v1/logs/audit", tag = "logs", operation_id = "list_audit_entries", params(EntriesQuery),
    responses((status = 200, description = "Audit entries, newest first", body = EntriesAnswer), ReadProblems),
)]
pub(in super::super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Query(asked): Query<EntriesQuery>,
) -> Result<Response, ApiError> {
    app.reading(caller.tenant.tenant_no, move |ledger| {
        let actor_type = asked.actor_type.map(ActorType::as_str);
        let entity_type = asked.entity_type.map(AuditEntityType::as_str);
        let event_type = asked.event_type.map(AuditEventType::as_str);
        let filters = given(&[
            ("actor_type", actor_type.map(Into::into)),
            ("created_after", shown(asked.created_after.as_ref())),
            ("created_before", shown(asked.created_before.as_ref())),
            ("entity_type", entity_type.map(Into::into)),
            ("event_type", event_type.map(Into::into)),
        ]);
        let mut facets: Vec<String> = [
            ("audit.actor_type", actor_type),
            ("audit.entity_type", entity_type),
            ("audit.event_type", event_type),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| facet(name, value)))
        .collect();
        if facets.is_empty() {
            facets.push(facet("kind", Kind::AuditEvent.as_str()));
        }
        let sources = [Source {
            tenant: caller.tenant.clone(),
            facets,
        }];
        let part = Asked {
            page: PageParams {
                limit: asked.limit,
                offset: asked.offset,
                cursor: asked.cursor,
                as_of: asked.as_of,
            },
            instance_as_of: None,
            created_after: asked.created_after,
            created_before: asked.created_before,
        };
        let about = metadata(&caller.tenant, COMPONENT, SourceDomain::Logs, at);
        let entries = page(ledger, "audit", &sources, filters, &part, about)?;
        caller.answered(entries.items.len());
        Entries::answer(entries)
    })
    .await
}

/// A page of the tenant's records of one kind.
pub(super) fn of_kind<T: Item>(
    ledger: &Ledger,
    caller: &Caller,
    list: &str,
    (component, kind): (&'static str, Kind),
    asked: PartQuery,
    at: Timestamp,
) -> Result<Page<T>, ApiError> {
    let filters = given(&[
        ("created_after", shown(asked.created_after.as_ref())),
        ("created_before", shown(asked.created_before.as_ref())),
    ]);
    let sources = [Source {
        tenant: caller.tenant.clone(),
        facets: vec![facet("kind", kind.as_str())],
    }];
    let part = Asked {
        page: PageParams {
            limit: asked.limit,
            offset: asked.offset,
            cursor: asked.cursor,
            as_of: asked.as_of,
        },
        instance_as_of: None,
        created_after: asked.created_after,
        created_before: asked.created_before,
    };
    let about = metadata(&caller.tenant, component, SourceDomain::Logs, at);
    let page = page(ledger, list, &sources, filters, &part, about)?;
    caller.answered(page.items.len());
    Ok(page)
}

/// Lists what happened to credentials and principals.
#[utoipa::path(
    get, path = "/api/v1/logs/audit/identity", tag = "logs", operation_id = "get_audit_identity", params(PartQuery),
    responses((status = 200, description = "Identity events, newest first", body = IdentityAnswer), ReadProblems),
)]
pub(in super::super) async fn identity(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Query(asked): Query<PartQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let kind = (COMPONENT, Kind::IdentityEvent);
        let events = of_kind(ledger, &caller, "audit-identity", kind, asked, at)?;
        Identity::answer(events)
    })
    .await
}

/// Lists decisions with the policies that determined them.
#[utoipa::path(
    get, path = "/api/v1/logs/audit/authorization", tag = "logs", operation_id = "get_audit_authorization", params(PartQuery),
    responses((status = 200, description = "Decisions, newest first", body = AuthorizationAnswer), ReadProblems),
)]
pub(in super::super) async fn authorization(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Query(asked): Query<PartQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let kind = (COMPONENT, Kind::AuthorizationDecision);
        let decisions = of_kind(ledger, &caller, "audit-authorization", kind, asked, at)?;
        Authorization::answer(decisions)
    })
    .await
}

/// Lists who read or took away which evidence.
#[utoipa::path(
    get, path = "/api/v1/logs/audit/access", tag = "logs", operation_id = "get_audit_access", params(PartQuery),
    responses((status = 200, description = "Reads and downloads, newest first", body = AccessAnswer), ReadProblems),
)]
pub(in super::super) async fn access(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Query(asked): Query<PartQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let kind = (COMPONENT, Kind::AccessEvent);
        let events = of_kind(ledger, &caller, "audit-access", kind, asked, at)?;
        Access::answer(events)
    })
    .await
}
