//! The OpenAPI document, where the macros of its operations do not say enough.

use std::collections::BTreeMap;

use axum::http::Method;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{AdditionalProperties, Object, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Required, Response, Schema};

use crate::access::operation::{Access, Operation as Decided, access_of};
use crate::{codes, examples, idempotent};

/// Operations whose body need not be sent ([`crate::extract::Maybe`]); the macros know only of those that must be.
const OPTIONAL_BODY: [&str; 2] = ["job_complete", "job_start"];

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
    let before: Vec<String> = codes::before()
        .map(|row| format!("{} `{}` ({})", row.status, row.code, row.when))
        .collect();
    let general = document.info.description.get_or_insert_default();
    general.push_str(" Any request may be refused with ");
    general.push_str(&before.join(" or "));
    general.push('.');
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
                    with_access(&method, operation, &access);
                    with_body(operation);
                }
            }
            (path.replace("{*", "{"), item)
        })
        .collect();
    document
}

/// Says that a POST can be sent again.
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
}

/// Shows a body that is taken, and says whether it must be sent.
fn with_body(operation: &mut Operation) {
    let name = operation.operation_id.as_deref().unwrap_or_default();
    let Some(RefOr::T(body)) = &mut operation.request_body else {
        return;
    };
    if OPTIONAL_BODY.contains(&name) {
        body.required = Some(Required::False);
    }
    if let Some(example) = examples::example_of(name)
        && let Some(RefOr::T(content)) = body.content.get_mut("application/json")
    {
        content.example = Some(example);
    }
}

/// Says that a key is needed, and what the operation may be refused with.
fn with_access(method: &Method, operation: &mut Operation, access: &Access) {
    match access {
        Access::Public => return,
        Access::Decided(decided) => with_codes(method, operation, decided),
        Access::InHandler(_) => with_refusals(operation),
    }
    operation.security = Some(vec![SecurityRequirement::new("key", [""; 0])]);
}

/// Says of every status which codes come with it.
fn with_codes(method: &Method, operation: &mut Operation, decided: &Decided) {
    let mut by_status: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for row in codes::codes_of(method, decided, operation) {
        let said = by_status.entry(row.status).or_default();
        said.push(format!("`{}`: {}", row.code, row.when));
    }
    let responses = &mut operation.responses.responses;
    // What all that write have in common names it; some have nothing that could contradict them.
    responses.retain(|status, _| status != "409" || by_status.contains_key(&409));
    for (status, said) in by_status {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let response = Response::builder()
            .description(format!("{}.", said.join("; ")))
            .content("application/problem+json", content);
        responses.insert(status.to_string(), response.build().into());
    }
}

/// OTLP refuses in a form of its own, by protobuf or JSON, which has no codes.
fn with_refusals(operation: &mut Operation) {
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
    for (status, description) in refusals {
        let response = Response::builder().description(description);
        operation
            .responses
            .responses
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
