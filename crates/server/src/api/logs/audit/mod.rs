//! The audit topic: who did what, who was let in, who read what, and whether all of it still holds.

mod entry;
mod exports;
mod integrity;
mod lists;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use integrity::FindingOut;

use crate::App;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(lists::list))
        .routes(routes!(entry::entry))
        .routes(routes!(lists::identity))
        .routes(routes!(lists::authorization))
        .routes(routes!(lists::access))
        .routes(routes!(exports::exports))
        .routes(routes!(integrity::integrity))
}
