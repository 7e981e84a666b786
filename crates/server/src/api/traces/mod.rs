//! Traces: stored whole, listed, read back, compared.
//!
//! Start at [`post`] for writing, [`read`] for reading. Source: SPEC 4.1, 4.2.

mod diff;
mod list;
mod post;
mod read;
mod step;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(post::store, list::list))
        .routes(routes!(list::by_root_hash))
        .routes(routes!(diff::diff))
        .routes(routes!(read::read))
}
