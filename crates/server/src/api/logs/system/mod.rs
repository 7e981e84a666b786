//! The system topic: what happened to the systems around the runs.
//!
//! Every read shows the tenant's records and the instance's, which belong to no
//! tenant: the only records that all tenants see.

mod events;
mod list;
mod replay;
mod snapshot;
mod surroundings;
mod telemetry;
mod window;

use std::sync::Arc;

use evidence::Timestamp;
use ledger::{INSTANCE, Ledger, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::entries::{Entry, Source, with_instance};
use super::shared::{Item, Named};
use crate::{ApiError, App};

pub(super) use window::{Begin, SystemEvent, Window, in_window, instance_size};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list::list))
        .routes(routes!(list::audit))
        .routes(routes!(snapshot::snapshot))
        .routes(routes!(telemetry::telemetry))
        .routes(routes!(events::events))
        .routes(routes!(replay::replay))
}

/// What the other reads of the topic name as their component too.
const COMPONENT: &str = "SystemRecordWriter";

/// A system record.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SystemRecordResult)]
pub(super) struct SystemRecordOut {
    /// `SYSTEM`, `HUMAN`, `AUTOMATION`, when said.
    caused_by: Option<String>,
    component: String,
    correlation_id: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<Object>)]
    details: Option<Box<RawValue>>,
    event_type: String,
    host: Option<String>,
    id: String,
    leaf_index: u64,
    #[schema(value_type = String, format = DateTime)]
    occurred_at: Timestamp,
    run_id: Option<String>,
    severity: String,
    summary: String,
    /// Null: a record of the instance.
    tenant_id: Option<String>,
    /// The service instance that a log record came from.
    #[serde(skip)]
    instance: Option<String>,
    /// Its body is gone, or altered: what it named is not known from it.
    #[serde(skip)]
    gone: bool,
}

/// The body as stored.
#[derive(Debug, Deserialize)]
struct Body {
    #[serde(default)]
    caused_by: Option<String>,
    component: String,
    #[serde(default)]
    details: Option<Box<RawValue>>,
    event_type: String,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    instance: Option<String>,
    #[serde(default)]
    run_id: Option<String>,
    severity: String,
    summary: String,
}

impl SystemRecordOut {
    /// What it is about, and not what it says in full.
    fn without_details(self) -> Self {
        Self {
            details: None,
            summary: String::new(),
            ..self
        }
    }
}

impl Item for SystemRecordOut {
    fn read(entry: &Entry) -> Result<Self, ApiError> {
        let header = entry.header()?;
        let word = entry.gone_word();
        let body = entry.body::<Body>()?.unwrap_or_else(|| Body {
            caused_by: None,
            component: word.into(),
            details: None,
            event_type: word.into(),
            host: None,
            instance: None,
            run_id: None,
            severity: word.into(),
            summary: word.into(),
        });
        Ok(Self {
            caused_by: body.caused_by,
            component: body.component,
            correlation_id: header.correlation_id.as_deref().map(str::to_owned),
            created_at: header.recorded_at,
            details: body.details,
            event_type: body.event_type,
            host: body.host,
            id: header.id.to_string(),
            leaf_index: entry.record.leaf.leaf_index(),
            occurred_at: header.occurred_at,
            run_id: body.run_id,
            severity: body.severity,
            summary: body.summary,
            instance: body.instance,
            gone: entry.record.body.gone().is_some(),
            // Also for an operator, who reads the instance's as his own.
            tenant_id: (&*header.tenant_id != INSTANCE).then(|| header.tenant_id.to_string()),
        })
    }

    fn named(&self) -> Named {
        Named {
            runs: self.run_id.iter().cloned().collect(),
            ..Named::default()
        }
    }
}

/// The records that have all these facets: the tenant's and the instance's. Of the instance's only those that
/// every tenant may see.
fn sources(ledger: &Ledger, tenant: &Arc<Tenant>, facets: &[String]) -> Vec<Source> {
    let mut own = facets.to_vec();
    if own.is_empty() {
        own.push(evidence::facet::facet("kind", "system.record"));
    }
    let shared = std::iter::once("system".to_owned())
        .chain(facets.iter().cloned())
        .collect();
    with_instance(ledger, tenant, own, shared)
}
