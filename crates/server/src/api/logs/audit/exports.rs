//! `get_audit_exports` (O5): which evidence was taken away as a whole.
//!
//! This version makes no exports, so the list is empty; a record of one, which a later version has written, is refused
//! rather than shown in part.
//!
//! Source: SPEC 5.

use axum::extract::State;
use axum::response::Response;
use evidence::{Kind, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::entries::Entry;
use super::super::metadata::Metadata;
use super::super::shared::Item;
use super::lists::{PartQuery, of_kind};
use crate::api::answer::ReadProblems;
use crate::api::run_list::Filters;
use crate::api::run_steps::damaged;
use crate::{ApiError, App, Caller, Query, Received};

const COMPONENT: &str = "LogExportService";

/// An export.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExportRecordResult)]
struct ExportItem {
    /// Of its bytes, once it is completed.
    checksum: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was first downloaded to its end.
    #[schema(value_type = Option<String>, format = DateTime)]
    delivered_at: Option<Timestamp>,
    format: String,
    id: String,
    requested_by: String,
    scope: String,
    /// `pending`, `running`, `completed`, `failed`, `expired`.
    status: String,
}

impl Item for ExportItem {
    fn read(entry: &Entry) -> Result<Self, ApiError> {
        let leaf = entry.record.leaf.leaf_index();
        Err(damaged(leaf, &"records of exports are those of a later version"))
    }
}

#[derive(Serialize, ToSchema)]
struct Listed {
    as_of: u64,
    exports: Vec<ExportItem>,
    #[schema(value_type = Object)]
    filters_applied: Filters,
    has_more: bool,
    next_cursor: Option<String>,
    total: u64,
    total_exact: bool,
}

/// The same with metadata.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditExportsResult)]
#[allow(dead_code)] // for the document
struct ExportsAnswer {
    #[serde(flatten)]
    list: Listed,
    metadata: Metadata,
}

/// Lists exports. There are none yet.
#[utoipa::path(
    get, path = "/api/v1/logs/audit/exports", tag = "logs", operation_id = "get_audit_exports", params(PartQuery),
    responses((status = 200, description = "Exports, newest first", body = ExportsAnswer), ReadProblems),
)]
pub(super) async fn exports(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Query(asked): Query<PartQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let about = (COMPONENT, Kind::ExportRequested);
        let page = of_kind(ledger, &caller, "audit-exports", about, asked, at)?;
        page.metadata.answer(&Listed {
            as_of: page.as_of,
            exports: page.items,
            filters_applied: page.filters_applied,
            has_more: page.has_more,
            next_cursor: page.next_cursor,
            total: page.total,
            total_exact: page.total_exact,
        })
    })
    .await
}
