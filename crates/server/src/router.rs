//! Every route, in one list.

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Ref, Response};
use utoipa_axum::router::OpenApiRouter;

use crate::access::operation::{Access, access_of};
use crate::caller::guard;
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
        .merge(api::evidence::routes())
        .merge(api::fingerprint::routes())
        .merge(api::health::routes())
        .merge(api::keys::routes())
        .merge(api::incidents::routes())
        .merge(api::integrity::routes())
        .merge(api::ledger::routes())
        .merge(api::logs::routes())
        .merge(api::otlp::routes())
        .merge(api::policy_activations::routes())
        .merge(api::policy_decisions::routes())
        .merge(api::provenance::routes())
        .merge(api::records::routes())
        .merge(api::redaction::routes())
        .merge(api::runs::routes())
        .merge(api::steps::routes())
        .merge(api::system_records::routes())
        .merge(api::tlog::routes())
        .merge(api::traces::routes())
        .merge(api::verifications::routes())
}

/// The OpenAPI document of everything served.
pub fn openapi() -> utoipa::openapi::OpenApi {
    finished(resources().into_openapi())
}

/// What all operations have in common, and paths as OpenAPI can say them: it has no word for "the rest of
/// the path", a plain parameter comes nearest.
fn finished(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let scheme = Http::builder()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "An API key, `dpn_<id>_<secret>`. In local mode none is asked for.",
        ))
        .build();
    let components = document.components.get_or_insert_default();
    components
        .security_schemes
        .insert("key".into(), SecurityScheme::Http(scheme).into());
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths
        .into_iter()
        .map(|(path, mut item)| {
            for (method, operation) in [(Method::GET, &mut item.get), (Method::POST, &mut item.post)] {
                if let Some(operation) = operation {
                    with_access(operation, &access_of(&method, &path));
                }
            }
            (path.replace("{*", "{"), item)
        })
        .collect();
    document
}

/// Says that a key is needed, and what any operation may be refused with.
fn with_access(operation: &mut Operation, access: &Access) {
    if matches!(access, Access::Public) {
        return;
    }
    operation.security = Some(vec![SecurityRequirement::new("key", [""; 0])]);
    let refusals = [
        ("400", "A parameter is malformed or unknown."),
        (
            "401",
            "No key, or one that is wrong, rotated, revoked or expired.",
        ),
        ("403", "The key's role does not allow it."),
        ("404", "No such resource, or one of another tenant."),
        ("429", "The key is over its rate: wait for `Retry-After`."),
        (
            "503",
            "The ledger cannot answer now: send again after `Retry-After`.",
        ),
    ];
    let responses = &mut operation.responses.responses;
    // OTLP refuses in a form of its own, and says so itself.
    let problem = matches!(access, Access::Decided(_));
    for (status, description) in refusals.into_iter().filter(|_| problem) {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let response = Response::builder()
            .description(description)
            .content("application/problem+json", content);
        responses
            .entry(status.into())
            .or_insert_with(|| response.build().into());
    }
}

/// The HTTP service.
pub fn router(app: App) -> Router {
    let (router, document) = resources().split_for_parts();
    let document = api::health::Document::new(&finished(document));
    router
        .route("/api/openapi.json", get(async move || document.clone()))
        .route_layer(from_fn_with_state(app.clone(), guard))
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

#[cfg(test)]
mod tests {
    use super::*;

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
