//! Erasing the body of a record.
//!
//! The leaf and every proof over it stay; body, salt and what was projected from them go.
//!
//! Source: SPEC 11.6.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::RecordId;
use ledger::replay::forget_outputs;
use ledger::{EraseAsked, EraseError, EraseTurn, Remains};
use serde::{Deserialize, Serialize};
use store::Scrubbed;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReceiptOut, WriteProblems, ok};
use super::records::ReceiptView;
use crate::access::operation::is_audit;
use crate::tasks::to_its_end;
use crate::{ApiError, App, Caller, JsonBody, Path, Received};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(erase))
}

impl From<EraseError> for ApiError {
    fn from(error: EraseError) -> Self {
        let message = error.to_string();
        match error {
            EraseError::Unknown => Self::not_found(),
            EraseError::Already(_) => Self::conflict("already_erased", message),
            EraseError::Archived => Self::conflict("archived", message),
            EraseError::Kept(_) => Self::conflict("not_erasable", message),
            EraseError::Held { record_id, what } => Self::conflict("legal_hold", message)
                .with(serde_json::json!({ "record_id": record_id.to_string(), "scope": what })),
            EraseError::MinimumRetention { record_id, until } => Self::conflict("minimum_retention", message)
                .with(serde_json::json!({
                    "record_id": record_id.to_string(), "until": until.to_string(),
                })),
            EraseError::Busy { .. } => Self::unavailable("busy", message),
            EraseError::Rule(error) => error.into(),
            EraseError::Body(error) => error.into(),
            EraseError::Rejected(error) => error.into(),
            EraseError::Submit(error) => error.into(),
            EraseError::Read(error) => error.into(),
        }
    }
}

/// Why a body is erased.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EraseIn {
    /// Stands on record.
    reason: String,
    /// Leave the bodies that hold an unsalted hash of it: posted activity, provenance, the end of the run's trace.
    /// False when absent.
    only: Option<bool>,
}

/// A record whose body is gone.
#[derive(Serialize, ToSchema)]
struct ErasedView {
    kind: &'static str,
    #[schema(value_type = String)]
    record_id: RecordId,
}

/// Something that may still tell of what was erased.
#[derive(Serialize, ToSchema)]
struct RemainsView {
    kind: Option<&'static str>,
    #[schema(value_type = Option<String>)]
    record_id: Option<RecordId>,
    what: &'static str,
}

/// What was erased, and what is left.
#[derive(Serialize, ToSchema)]
struct ErasureView {
    /// The first is the one that was asked for.
    erased: Vec<ErasedView>,
    only: bool,
    /// Of `erasure.performed`.
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    /// From what it may still be guessed.
    remains: Vec<RemainsView>,
    /// `rewritten`: the database file was written anew, its log cut. `overwritten`: the database is too large for
    /// that; rows were overwritten where they stood. `pending`: a reader was in the way, it is tried again.
    scrubbed: &'static str,
}

fn remains(remains: &Remains) -> RemainsView {
    RemainsView {
        kind: remains.record.map(|(_, kind)| kind.as_str()),
        record_id: remains.record.map(|(id, _)| id),
        what: remains.what,
    }
}

/// Erases the body of a record.
///
/// Header, leaf and proofs stay. Unless `only`, the bodies that hold an unsalted hash of it go too. Backups made
/// earlier still hold the text.
#[utoipa::path(
    delete, path = "/api/v1/records/{id}/body", tag = "records", operation_id = "record_erase",
    params(("id" = String, Path, description = "Record id")), request_body = EraseIn,
    responses((status = 200, description = "It is gone, and that is on record", body = ErasureView), WriteProblems),
)]
async fn erase(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Path(id): Path<String>,
    body: JsonBody<EraseIn>,
) -> Result<Response, ApiError> {
    let record_id = RecordId::parse(&id).ok_or_else(ApiError::not_found)?;
    let sees_audit = caller.may_read(&app, "audit");
    let only = body.value.only.unwrap_or_default();
    let asked = EraseAsked {
        record_id,
        reason: body.value.reason.clone(),
        only,
        principal: caller.principal.to_string(),
    };
    // Before a thread is taken, of which there are few; who goes away meanwhile leaves the line.
    let turn = EraseTurn::take(&caller.tenant).await?;
    // Carried to its end when the client goes away: the output of an erased step must not stay stored.
    let erasure = to_its_end(async move {
        let tenant = Arc::clone(&caller.tenant);
        let mut erasure = app
            .blocking(move |ledger| {
                if !sees_audit {
                    // What one may not read is not there.
                    let place = ledger.records(&tenant).place(record_id)?;
                    let (_, kind) = place.ok_or_else(ApiError::not_found)?;
                    if is_audit(kind) {
                        return Err(ApiError::not_found());
                    }
                }
                Ok(ledger.erase_in(turn, &asked, at)?)
            })
            .await?;
        forget_outputs(&app.once, &caller.tenant, &mut erasure, at).await;
        Ok(erasure)
    })
    .await?;
    ok(&ErasureView {
        erased: erasure
            .erased
            .iter()
            .map(|(record_id, kind)| ErasedView {
                kind: kind.as_str(),
                record_id: *record_id,
            })
            .collect(),
        only,
        receipt: ReceiptOut(erasure.receipt),
        remains: erasure.remains.iter().map(remains).collect(),
        scrubbed: match erasure.scrubbed {
            Some(Scrubbed::Rewritten) => "rewritten",
            Some(Scrubbed::Overwritten) => "overwritten",
            None => "pending",
        },
    })
}
