//! The OpenAPI document, where the macros of its operations do not say enough.

use std::collections::BTreeMap;

use axum::http::Method;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{AdditionalProperties, Object, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Required, Response, Schema};

use crate::access::operation::{Access, access_of};
use crate::idempotent;

/// What all operations have in common, and paths as OpenAPI can say them: it has no word for "the rest of
/// the path", a plain parameter comes nearest.
pub(crate) fn finished(mut document: OpenApi) -> OpenApi {
    let scheme = Http::builder()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "An API key, `dpn_<id>_<secret>`. In local mode none is asked for.",
        ))
        .build();
    let components = document.components.get_or_insert_default();
    close(&mut components.schemas);
    components
        .security_schemes
        .insert("key".into(), SecurityScheme::Http(scheme).into());
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths
        .into_iter()
        .map(|(path, mut item)| {
            let operations = [
                (Method::GET, &mut item.get),
                (Method::POST, &mut item.post),
                (Method::PUT, &mut item.put),
                (Method::DELETE, &mut item.delete),
            ];
            for (method, operation) in operations {
                if let Some(operation) = operation {
                    let access = access_of(&method, &path);
                    if method == Method::POST && matches!(access, Access::Decided(_)) {
                        with_once(operation);
                    }
                    with_access(operation, &access);
                }
            }
            (path.replace("{*", "{"), item)
        })
        .collect();
    document
}

/// Says that a POST can be sent again, and what its `Idempotency-Key` may be refused with. Where an operation itself has
/// such answers, it has said so: then this is one more reason.
fn with_once(operation: &mut Operation) {
    let key = Object::builder()
        .schema_type(Type::String)
        .pattern(Some(idempotent::KEY_PATTERN))
        .build();
    let header = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "A quoted string (RFC 8941) or a bare token, 1 to 255 bytes: the same request sent again with it is answered \
             as the first was, with `Idempotent-Replayed: true`, and does nothing. Kept for 24 hours.",
        ))
        .schema(Some(key))
        .build();
    operation
        .parameters
        .get_or_insert_default()
        .push(RefOr::T(header));
    let refusals = [
        (
            "400",
            "`bad_idempotency_key`: the `Idempotency-Key` is malformed.",
        ),
        (
            "409",
            "Under the `Idempotency-Key`: `idempotency_in_progress` (with `Retry-After`), `answer_not_kept` or \
             `earlier_outcome_unknown`.",
        ),
        (
            "422",
            "`idempotency_key_reused`: the `Idempotency-Key` was used for another request.",
        ),
    ];
    let responses = &mut operation.responses.responses;
    for (status, description) in refusals {
        match responses.get_mut(status) {
            Some(RefOr::T(response)) => {
                if !response.description.is_empty() {
                    response.description.push(' ');
                }
                response.description.push_str(description);
            }
            Some(RefOr::Ref(_)) => {}
            None => {
                let content = Content::new(Some(Ref::from_schema_name("Problem")));
                let response = Response::builder()
                    .description(description)
                    .content("application/problem+json", content);
                responses.insert(status.into(), response.build().into());
            }
        }
    }
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
    for (status, description) in refusals {
        let mut response = Response::builder().description(description);
        // OTLP refuses in a form of its own, by protobuf or JSON.
        if matches!(access, Access::Decided(_)) {
            let content = Content::new(Some(Ref::from_schema_name("Problem")));
            response = response.content("application/problem+json", content);
        }
        responses
            .entry(status.into())
            .or_insert_with(|| response.build().into());
    }
}

type Schemas = BTreeMap<String, RefOr<Schema>>;

/// Types that refuse unknown fields, put together of others that do, are one closed object: said as `allOf`, each part
/// would forbid the fields of the others.
fn close(schemas: &mut Schemas) {
    let closed: Vec<(String, Object)> = schemas
        .iter()
        .filter_map(|(name, schema)| {
            let RefOr::T(Schema::AllOf(all)) = schema else {
                return None;
            };
            let parts: Vec<&Object> = all
                .items
                .iter()
                .map(|part| object(schemas, part))
                .collect::<Option<_>>()?;
            if !parts.iter().any(|part| is_closed(part)) {
                return None;
            }
            let mut whole = parts.first().copied()?.clone();
            whole.description.clone_from(&all.description);
            for part in &parts[1..] {
                whole.properties.extend(part.properties.clone());
                whole.required.extend(part.required.clone());
            }
            Some((name.clone(), whole))
        })
        .collect();
    for (name, object) in closed {
        schemas.insert(name, RefOr::T(Schema::Object(object)));
    }
}

fn object<'a>(schemas: &'a Schemas, part: &'a RefOr<Schema>) -> Option<&'a Object> {
    let schema = match part {
        RefOr::T(schema) => schema,
        RefOr::Ref(at) => match schemas.get(at.ref_location.strip_prefix("#/components/schemas/")?)? {
            RefOr::T(schema) => schema,
            RefOr::Ref(_) => return None,
        },
    };
    match schema {
        Schema::Object(object) => Some(object),
        _ => None,
    }
}

fn is_closed(object: &Object) -> bool {
    matches!(
        object.additional_properties.as_deref(),
        Some(AdditionalProperties::FreeForm(false))
    )
}
