//! Legal holds: placed, released, read and listed.
//!
//! What is held is neither erased nor pruned.
//!
//! Source: SPEC 11.6.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use evidence::record::HoldScope;
use evidence::{RecordId, Timestamp};
use ledger::{HoldError, HoldMark, HoldRead};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, ReceiptOut, WriteProblems, canonical, json, ok};
use super::facet_list::{self, DamagedEntry, ListParams};
use super::logs::NoParams;
use super::records::ReceiptView;
use super::run_list::{Filters, given};
use crate::{ApiError, App, Caller, JsonBody, Path, Query, Received, ids};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(place, list))
        .routes(routes!(get))
        .routes(routes!(release))
}

impl From<HoldError> for ApiError {
    fn from(error: HoldError) -> Self {
        let message = error.to_string();
        match error {
            HoldError::Unknown => Self::not_found(),
            HoldError::Released => Self::conflict("hold_released", message),
            HoldError::Rule(error) => error.into(),
            HoldError::Body(error) => error.into(),
            HoldError::Rejected(error) => error.into(),
            HoldError::Submit(error) => error.into(),
            HoldError::Read(error) => error.into(),
        }
    }
}

/// A hold to place.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = HoldPlace)]
struct HoldIn {
    /// `tenant`: everything; `run`: what is of a run or names it; `record`: one record.
    scope: String,
    /// With scope `run`.
    run_id: Option<String>,
    /// With scope `record`.
    record_id: Option<String>,
    reason: String,
}

impl HoldIn {
    fn scope(&self) -> Result<HoldScope, ApiError> {
        match (self.scope.as_str(), &self.run_id, &self.record_id) {
            ("tenant", None, None) => Ok(HoldScope::Tenant),
            ("run", Some(run_id), None) => Ok(HoldScope::Run(run_id.clone())),
            ("record", None, Some(id)) => {
                let id = RecordId::parse(id).ok_or_else(ApiError::not_found)?;
                Ok(HoldScope::Record(id))
            }
            _ => Err(ApiError::invalid(
                "scope",
                "must be `tenant`, `run` with run_id, or `record` with record_id",
            )),
        }
    }
}

/// Why a hold is released.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HoldRelease {
    reason: String,
}

/// A hold.
#[derive(Serialize, ToSchema)]
#[schema(as = Hold)]
struct HoldView<'a> {
    /// Neither erased nor pruned is what it is about.
    active: bool,
    hold_id: &'a str,
    #[schema(value_type = String, format = DateTime)]
    placed_at: Timestamp,
    placed_by: &'a str,
    reason: &'a str,
    /// Of `hold.placed`; of answers to a release that of `hold.released`.
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    record_id: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    released_at: Option<Timestamp>,
    released_by: Option<&'a str>,
    released_reason: Option<&'a str>,
    run_id: Option<&'a str>,
    /// `tenant`, `run` or `record`.
    scope: &'static str,
}

impl<'a> HoldView<'a> {
    fn of(hold: &'a HoldRead) -> Self {
        let released = hold.released.as_ref();
        Self {
            active: released.is_none(),
            hold_id: &hold.hold_id,
            placed_at: hold.placed.at,
            placed_by: &hold.placed.principal,
            reason: &hold.placed.reason,
            receipt: ReceiptOut(hold.placed.receipt),
            record_id: match &hold.scope {
                HoldScope::Record(id) => Some(id.to_string()),
                _ => None,
            },
            released_at: released.map(|mark| mark.at),
            released_by: released.map(|mark| mark.principal.as_str()),
            released_reason: released.map(|mark| mark.reason.as_str()),
            run_id: match &hold.scope {
                HoldScope::Run(run_id) => Some(run_id),
                _ => None,
            },
            scope: hold.scope.as_str(),
        }
    }
}

/// Places a hold.
#[utoipa::path(
    post, path = "/api/v1/holds", tag = "holds", operation_id = "hold_place", request_body = HoldIn,
    responses((status = 201, description = "What it is about is held from now on", body = HoldView), WriteProblems),
)]
async fn place(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<HoldIn>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let (scope, reason) = (body.value.scope()?, &body.value.reason);
        let hold_id = ids::uuid_v7(at);
        let who = (&*caller.principal, reason.as_str());
        let receipt = ledger.hold_place(&caller.tenant, &hold_id, scope.clone(), who, at)?;
        let hold = match ledger.hold(&caller.tenant, &hold_id)? {
            Some(hold) => hold,
            None => HoldRead {
                placed: HoldMark {
                    principal: caller.principal.to_string(),
                    reason: reason.clone(),
                    at,
                    receipt,
                },
                scope,
                hold_id,
                released: None,
            },
        };
        Ok(json(StatusCode::CREATED, canonical(&HoldView::of(&hold))?))
    })
    .await
}

/// Releases a hold.
#[utoipa::path(
    post, path = "/api/v1/holds/{id}/release", tag = "holds", operation_id = "hold_release",
    params(("id" = String, Path, description = "The hold")), request_body = HoldRelease,
    responses((status = 201, description = "It holds nothing any more", body = HoldView), WriteProblems),
)]
async fn release(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(hold_id): Path<String>,
    body: JsonBody<HoldRelease>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let who = (&*caller.principal, body.value.reason.as_str());
        let hold = ledger.hold_release(&caller.tenant, &hold_id, who, at)?;
        let mut view = HoldView::of(&hold);
        if let Some(mark) = &hold.released {
            view.receipt = ReceiptOut(mark.receipt);
        }
        Ok(json(StatusCode::CREATED, canonical(&view)?))
    })
    .await
}

/// Reads a hold.
#[utoipa::path(
    get, path = "/api/v1/holds/{id}", tag = "holds", operation_id = "hold_get",
    params(("id" = String, Path, description = "The hold")),
    responses((status = 200, description = "The hold", body = HoldView), ReadProblems),
)]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(hold_id): Path<String>,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let hold = ledger
            .hold(&caller.tenant, &hold_id)?
            .ok_or_else(ApiError::not_found)?;
        ok(&HoldView::of(&hold))
    })
    .await
}

/// Which page of holds.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HoldsQuery {
    /// Most entries of the page, 1 to 500 (50).
    limit: Option<u32>,
    /// Entries passed over, at most 10000.
    offset: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Holds that were placed at this tree size; they are shown as they are now.
    as_of: Option<u64>,
}

/// Holds, newest first, those that are released included.
#[derive(Serialize, ToSchema)]
#[schema(as = HoldPage)]
struct Page<'a> {
    as_of: u64,
    /// Entries of the page that cannot be shown. Absent when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    damaged: Vec<DamagedEntry>,
    #[schema(value_type = Object)]
    filters_applied: Filters,
    has_more: bool,
    items: Vec<HoldView<'a>>,
    next_cursor: Option<String>,
    total: u64,
    total_exact: bool,
}

/// Lists holds, the newest first.
#[utoipa::path(
    get, path = "/api/v1/holds", tag = "holds", operation_id = "holds_list", params(HoldsQuery),
    responses((status = 200, description = "Holds, newest first", body = Page), ReadProblems),
)]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<HoldsQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let params = ListParams {
            list: "holds",
            facets: vec!["hold".to_owned()],
            filters: given(&[]),
            limit: query.limit,
            offset: query.offset,
            cursor: query.cursor,
            as_of: query.as_of,
        };
        let mut page = facet_list::page(ledger, &caller.tenant, params)?;
        let holds = page.entries(ledger, &caller.tenant, |leaf| {
            let found = ledger.holds_at(&caller.tenant, &[leaf])?.pop();
            Ok(found.map(|hold| {
                let released = hold.released.as_ref().map_or(0, |released| released.reason.len());
                let text = hold.placed.reason.len() + released;
                (hold, text)
            }))
        })?;
        caller.answered(holds.len());
        ok(&Page {
            as_of: page.as_of,
            damaged: page.damaged,
            filters_applied: page.filters_applied,
            has_more: page.has_more,
            items: holds.iter().map(HoldView::of).collect(),
            next_cursor: page.next_cursor,
            total: page.total,
            total_exact: page.total_exact,
        })
    })
    .await
}
