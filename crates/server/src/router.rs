//! Every route, in one list.

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::caller::guard;
use crate::entry::entry;
use crate::{ApiError, App, api, document};

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
        .merge(api::evidence::routes())
        .merge(api::fingerprint::routes())
        .merge(api::health::routes())
        .merge(api::keys::routes())
        .merge(api::idempotency::routes())
        .merge(api::erasures::routes())
        .merge(api::holds::routes())
        .merge(api::incidents::routes())
        .merge(api::integrity::routes())
        .merge(api::audits::routes())
        .merge(api::contracts::routes())
        .merge(api::jobs::routes())
        .merge(api::ledger::routes())
        .merge(api::logs::routes())
        .merge(api::otlp::routes())
        .merge(api::panels::routes())
        .merge(api::policy_activations::routes())
        .merge(api::policy_decisions::routes())
        .merge(api::provenance::routes())
        .merge(api::lineage::routes())
        .merge(api::records::routes())
        .merge(api::redaction::routes())
        .merge(api::replay::routes())
        .merge(api::runs::routes())
        .merge(api::signals::routes())
        .merge(api::steps::routes())
        .merge(api::system_records::routes())
        .merge(api::tlog::routes())
        .merge(api::traces::routes())
        .merge(api::verifications::routes())
}

/// The OpenAPI document of everything served.
pub fn openapi() -> utoipa::openapi::OpenApi {
    document::finished(resources().into_openapi())
}

/// The HTTP service.
pub fn router(app: App) -> Router {
    let (router, document) = resources().split_for_parts();
    let document = api::health::Document::new(&document::finished(document));
    router
        .route("/api/openapi.json", get(async move || document.clone()))
        .route_layer(from_fn_with_state(app.clone(), guard))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(app.clone(), entry))
        .with_state(app)
}

/// Not the words of what is absent: who mistyped a path would look for a record.
async fn not_found() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        "no such path; /api/docs shows which there are",
    )
}

async fn method_not_allowed(method: Method) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{method} is not served here"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::operation::{Access, access_of};

    #[test]
    fn every_route_has_an_operation_of_its_name() {
        for (path, item) in resources().into_openapi().paths.paths {
            let methods = [
                (Method::GET, &item.get),
                (Method::POST, &item.post),
                (Method::PUT, &item.put),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ];
            for (method, operation) in methods {
                let Some(operation) = operation else { continue };
                let id = operation.operation_id.as_deref().unwrap_or_default();
                match access_of(&method, &path) {
                    Access::Decided(row) | Access::InHandler(row) => {
                        assert_eq!(row.name, id, "{method} {path}");
                    }
                    Access::Public => assert!(!path.starts_with("/api/v1/"), "{method} {path}"),
                }
            }
        }
    }
}
