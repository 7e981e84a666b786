//! System records: what happened to the systems around the runs. Each POST is a record.
//!
//! They are read under `/api/v1/logs/system`, and of a run by their correlation id.
//!
//! Source: SPEC 5.3.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::record::{Facts, SystemRecord};
use evidence::{GivenTime, Kind, TimesGiven, Timestamp};
use ledger::{Draft, Salts};
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

/// What happened.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SystemRecordRecord)]
struct SystemRecordIn {
    /// An open word.
    component: String,
    /// An open word, e.g. `STARTUP`.
    event_type: String,
    /// `DEBUG`, `INFO`, `WARN`, `ERROR`, `CRITICAL`.
    severity: String,
    summary: String,
    #[schema(value_type = Option<Object>)]
    details: Option<Box<RawValue>>,
    host: Option<String>,
    /// `SYSTEM`, `HUMAN`, `AUTOMATION`.
    caused_by: Option<String>,
    /// The run that it touched, or a conversation or request.
    correlation_id: Option<String>,
    /// The time of receipt when absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    occurred_at: Option<GivenTime>,
}

impl SystemRecordIn {
    fn draft(self, at: Timestamp, salts: &mut Salts) -> Result<Draft, ApiError> {
        fields::ids(&[("correlation_id", &self.correlation_id)])?;
        let record = SystemRecord {
            component: self.component,
            event_type: self.event_type,
            severity: self.severity,
            summary: self.summary,
            details: fields::value_opt("details", self.details.as_deref())?,
            host: self.host,
            instance: None,
            caused_by: self.caused_by,
            run_id: None,
        };
        record.check()?;
        let times = TimesGiven::of([("occurred_at", self.occurred_at.as_ref())]);
        let draft = Draft::alone(
            Kind::SystemRecord,
            Facts::System(record.facts()),
            &times.put(record.encode()),
            at,
            salts,
        )?;
        Ok(Draft {
            correlation_id: self.correlation_id.map(Arc::from),
            occurred_at: self.occurred_at.map_or(at, |given| given.time),
            ..draft
        })
    }
}

/// It is on record.
#[derive(Serialize, ToSchema)]
struct SystemRecordRecorded {
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
}

/// Records a system record.
#[utoipa::path(
    post, path = "/api/v1/system-records", tag = "system", operation_id = "system_record_record",
    request_body = SystemRecordIn,
    responses((status = 201, description = "The record is in the ledger", body = SystemRecordRecorded), WriteProblems),
)]
async fn record(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<SystemRecordIn>,
) -> Result<Response, ApiError> {
    let draft = app
        .packing(caller.tenant.salts(), body.is_large(), move |salts| {
            body.value.draft(at, salts)
        })
        .await?;
    let outcomes = app.ledger.submit(&caller.tenant, vec![draft], at).await?;
    let first = first(placed(outcomes)?)?;
    created(
        &first,
        &SystemRecordRecorded {
            receipt: ReceiptOut(first.receipt),
        },
    )
}
