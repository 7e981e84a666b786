//! The Logs API: what happened, for people, each answer with its evidence metadata.
//!
//! One file an operation. Every answer is canonical JSON, so that its checksum
//! is over what the reader sees ([`metadata`]).
//!
//! Source: SPEC 5.

mod envelope;
mod export;
mod governance;
mod list;
mod metadata;
mod replay;
mod trace;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list::list))
        .routes(routes!(envelope::envelope))
        .routes(routes!(trace::trace))
        .routes(routes!(governance::governance))
        .routes(routes!(replay::replay))
        .routes(routes!(export::export))
}
