//! `list_system_records`, and `get_system_audit` (O5): the same with who caused what, unfiltered.

use axum::extract::State;
use axum::response::Response;
use evidence::record::SEVERITIES;
use evidence::{SourceDomain, Timestamp};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::entries::{Asked, Page, metadata, page};
use super::super::metadata::Metadata;
use super::{COMPONENT, SystemRecordOut, sources};
use crate::api::answer::ReadProblems;
use crate::api::run_list::{Filters, PageParams, given, shown};
use crate::extract::filter_time;
use crate::{ApiError, App, Caller, Query, Received};

/// Which records.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    component: Option<String>,
    event_type: Option<String>,
    /// `DEBUG`, `INFO`, `WARN`, `ERROR`, `CRITICAL`.
    #[serde(default, deserialize_with = "severity")]
    severity: Option<String>,
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
    /// The same of the instance's ledger.
    #[param(minimum = 0)]
    instance_as_of: Option<u64>,
}

/// One of the words that a record's severity may be: any other would find nothing, and look like an answer.
fn severity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let word = String::deserialize(deserializer)?;
    if SEVERITIES.contains(&word.as_str()) {
        Ok(Some(word))
    } else {
        Err(D::Error::unknown_variant(&word, &SEVERITIES))
    }
}

/// Which part.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
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
    /// The same of the instance's ledger.
    #[param(minimum = 0)]
    instance_as_of: Option<u64>,
}

/// A page of system records.
#[derive(Serialize, ToSchema)]
struct SystemRecords {
    as_of: u64,
    #[schema(value_type = Object)]
    filters_applied: Filters,
    has_more: bool,
    /// The size of the instance's ledger that was read.
    instance_as_of: u64,
    items: Vec<SystemRecordOut>,
    next_cursor: Option<String>,
    total: u64,
    total_exact: bool,
}

/// The same with metadata.
#[derive(Serialize, ToSchema)]
#[schema(as = SystemRecordsResult)]
#[allow(dead_code)] // for the document
struct SystemRecordsAnswer {
    #[serde(flatten)]
    records: SystemRecords,
    metadata: Metadata,
}

fn answer(page: Page<SystemRecordOut>) -> Result<Response, ApiError> {
    page.metadata.answer(&SystemRecords {
        as_of: page.as_of,
        filters_applied: page.filters_applied,
        has_more: page.has_more,
        instance_as_of: page.instance_as_of,
        items: page.items,
        next_cursor: page.next_cursor,
        total: page.total,
        total_exact: page.total_exact,
    })
}

/// Lists system records.
#[utoipa::path(
    get, path = "/api/v1/logs/system", tag = "logs", operation_id = "list_system_records", params(ListQuery),
    responses((status = 200, description = "System records, newest first", body = SystemRecordsAnswer), ReadProblems),
)]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Query(asked): Query<ListQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let filters = given(&[
            ("component", shown(asked.component.as_ref())),
            ("created_after", shown(asked.created_after.as_ref())),
            ("created_before", shown(asked.created_before.as_ref())),
            ("event_type", shown(asked.event_type.as_ref())),
            ("severity", shown(asked.severity.as_ref())),
        ]);
        let facets: Vec<String> = [
            ("system.component", &asked.component),
            ("system.event_type", &asked.event_type),
            ("system.severity", &asked.severity),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| evidence::facet::facet(name, value)))
        .collect();
        let part = Asked {
            page: PageParams {
                limit: asked.limit,
                offset: asked.offset,
                cursor: asked.cursor,
                as_of: asked.as_of,
            },
            instance_as_of: asked.instance_as_of,
            created_after: asked.created_after,
            created_before: asked.created_before,
        };
        let about = metadata(&caller.tenant, COMPONENT, SourceDomain::System, at);
        let sources = sources(ledger, &caller.tenant, &facets);
        let page = page(ledger, "system", &sources, filters, &part, about)?;
        caller.answered(page.items.len());
        answer(page)
    })
    .await
}

/// Lists every system record with who caused it.
#[utoipa::path(
    get, path = "/api/v1/logs/system/audit", tag = "logs", operation_id = "get_system_audit", params(AuditQuery),
    responses((status = 200, description = "System records, newest first", body = SystemRecordsAnswer), ReadProblems),
)]
pub(super) async fn audit(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Query(asked): Query<AuditQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let part = Asked {
            page: PageParams {
                limit: asked.limit,
                offset: asked.offset,
                cursor: asked.cursor,
                as_of: asked.as_of,
            },
            instance_as_of: asked.instance_as_of,
            ..Asked::default()
        };
        let about = metadata(&caller.tenant, COMPONENT, SourceDomain::System, at);
        let sources = sources(ledger, &caller.tenant, &[]);
        let filters = Filters::new();
        let page = page(ledger, "system-audit", &sources, filters, &part, about)?;
        caller.answered(page.items.len());
        answer(page)
    })
    .await
}
