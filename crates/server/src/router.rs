//! Every route, in one list.

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::entry::entry;
use crate::{ApiError, App, api};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Deponent",
        description = "Sworn evidence of AI agents in a Merkle ledger. Errors are RFC 9457 problem+json with a stable `code`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(api::health::openapi_json),
    components(schemas(crate::error::Problem))
)]
struct Document;

/// The resources. One line each.
fn resources() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(api::audit_events::routes())
        .merge(api::fingerprint::routes())
        .merge(api::health::routes())
        .merge(api::incidents::routes())
        .merge(api::ledger::routes())
        .merge(api::logs::routes())
        .merge(api::otlp::routes())
        .merge(api::policy_activations::routes())
        .merge(api::policy_decisions::routes())
        .merge(api::records::routes())
        .merge(api::runs::routes())
        .merge(api::steps::routes())
        .merge(api::system_records::routes())
        .merge(api::tlog::routes())
        .merge(api::traces::routes())
        .merge(api::verifications::routes())
}

/// The OpenAPI document of everything served.
pub fn openapi() -> utoipa::openapi::OpenApi {
    without_wildcards(resources().into_openapi())
}

/// OpenAPI has no word for "the rest of the path": a plain parameter comes nearest.
fn without_wildcards(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths
        .into_iter()
        .map(|(path, item)| (path.replace("{*", "{"), item))
        .collect();
    document
}

/// The HTTP service.
pub fn router(app: App) -> Router {
    let (router, document) = resources().split_for_parts();
    let document = api::health::Document::new(&without_wildcards(document));
    router
        .route("/api/openapi.json", get(async move || document.clone()))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(app.clone(), entry))
        .with_state(app)
}

async fn not_found() -> ApiError {
    ApiError::not_found()
}

async fn method_not_allowed(method: Method) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{method} is not served here"),
    )
}
