//! The audit topic: who did what, who was let in, who read what, and whether all of it still holds.

mod integrity;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use integrity::FindingOut;

use crate::App;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(integrity::integrity))
}
