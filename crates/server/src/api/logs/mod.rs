//! The Logs API: what happened, for people, each answer with its evidence metadata.
//!
//! One file an operation. Every answer is canonical JSON, so that its checksum
//! is over what the reader sees ([`metadata`]).
//!
//! Source: SPEC 5.

mod audit;
mod entries;
mod envelope;
mod export;
mod governance;
mod governance_audit;
mod list;
mod metadata;
mod replay;
mod shared;
mod system;
mod trace;

use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use audit::FindingOut;

use crate::App;

/// A read without parameters: any is refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoParams {}

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(audit::routes())
        .merge(system::routes())
        .routes(routes!(list::list))
        .routes(routes!(envelope::envelope))
        .routes(routes!(trace::trace))
        .routes(routes!(governance::governance))
        .routes(routes!(replay::replay))
        .routes(routes!(export::export))
}
