//! API keys over HTTP, and who one is.
//!
//! A key's text is in the answer that makes it and nowhere else: it is never read back.
//!
//! Source: SPEC 5.4, 11.5.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use evidence::Timestamp;
use evidence::record::Role;
use ledger::{ApiKey, GivenKey, NewKey};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ReadProblems, WriteProblems};
use super::logs::NoParams;
use super::records::ReceiptView;
use super::run_list::{as_of, bad};
use crate::api::answer::ReceiptOut;
use crate::extract::NoBody;
use crate::{ApiError, App, Caller, JsonBody, Path, Query, Received, RequestId};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(me))
        .routes(routes!(list, create))
        .routes(routes!(rotate))
        .routes(routes!(revoke))
}

/// Who calls.
#[derive(Debug, Serialize, ToSchema)]
struct Me {
    /// `key:<id>`, `local`, or the subject of a token.
    principal: String,
    /// `key`, `user` (a token) or `local`.
    kind: &'static str,
    roles: Vec<&'static str>,
    tenant_id: String,
}

/// Says who one is.
#[utoipa::path(get, path = "/api/v1/me", tag = "keys", operation_id = "whoami",
    responses((status = 200, body = Me)))]
async fn me(caller: Caller, Query(NoParams {}): Query<NoParams>) -> Json<Me> {
    Json(Me {
        principal: caller.principal.to_string(),
        kind: caller.kind,
        roles: caller.roles.iter().map(|role| role.as_str()).collect(),
        tenant_id: caller.tenant.tenant_id.to_string(),
    })
}

/// A key that is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct KeyIn {
    /// `reader`, `writer`, `auditor` or `admin`; `operator` in tenant `_instance`.
    #[schema(value_type = String)]
    role: Role,
    /// For people.
    name: Option<String>,
    /// When it ends by itself.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// For operators: whose. Others make keys of their own tenant.
    tenant_id: Option<String>,
}

/// A key as it is known.
#[derive(Debug, Serialize, ToSchema)]
struct KeyView {
    key_id: String,
    tenant_id: String,
    role: &'static str,
    name: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    rotated_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    revoked_at: Option<Timestamp>,
}

impl KeyView {
    fn new(key: &ApiKey) -> Self {
        Self {
            key_id: key.key_id.to_string(),
            tenant_id: key.tenant_id.to_string(),
            role: key.role.as_str(),
            name: key.name.clone(),
            created_at: key.created_at,
            expires_at: key.expires_at,
            rotated_at: key.rotated_at,
            revoked_at: key.revoked_at,
        }
    }
}

/// A key that was made or rotated, with its text.
#[derive(Serialize, ToSchema)]
struct KeyGiven {
    /// `dpn_<id>_<secret>`; never shown again.
    key: String,
    #[serde(flatten)]
    view: KeyView,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
}

#[derive(Debug, Serialize, ToSchema)]
struct Keys {
    /// The tree size that was read at; null where keys of all tenants are listed.
    as_of: Option<u64>,
    items: Vec<KeyView>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct KeysQuery {
    /// For operators: whose.
    tenant_id: Option<String>,
    /// The tree size to read at: the keys as they were then.
    #[param(minimum = 0)]
    as_of: Option<u64>,
}

/// An operator works on any tenant's keys, everybody else on his own's.
fn tenant_of(caller: &Caller, asked: Option<String>) -> Result<Option<String>, ApiError> {
    if caller.roles.contains(&Role::Operator) {
        return Ok(asked);
    }
    let own = caller.tenant.tenant_id.to_string();
    match asked {
        // As if there were no such tenant.
        Some(asked) if asked != own => Err(ApiError::not_found()),
        _ => Ok(Some(own)),
    }
}

/// Whose key of that id it may be; decided and noted for an operator, who works on other tenants' keys.
fn tenant_of_key(
    app: &App,
    caller: &Caller,
    key_id: &str,
    request_id: &RequestId,
    at: Timestamp,
) -> Result<Option<String>, ApiError> {
    let tenant_id = tenant_of(caller, None)?;
    if tenant_id.is_none()
        && let Some(key) = app.ledger.api_keys().find(key_id)
    {
        caller.may_for(app, &key.tenant_id, request_id, at)?;
    }
    Ok(tenant_id)
}

fn given(status: StatusCode, given: &GivenKey) -> Response {
    let body = KeyGiven {
        key: given.text.clone(),
        view: KeyView::new(&given.key),
        receipt: ReceiptOut(given.receipt),
    };
    // A secret has no place in anybody's cache.
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (status, no_store, Json(body)).into_response()
}

/// Makes a key. Its text is shown this once.
#[utoipa::path(post, path = "/api/v1/keys", tag = "keys", operation_id = "key_create", request_body = KeyIn,
    responses((status = 201, body = KeyGiven), WriteProblems))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    request_id: RequestId,
    body: JsonBody<KeyIn>,
) -> Result<Response, ApiError> {
    let KeyIn {
        role,
        name,
        expires_at,
        tenant_id,
    } = body.value;
    let tenant_id = tenant_of(&caller, tenant_id)?.unwrap_or_else(|| caller.tenant.tenant_id.to_string());
    caller.may_for(&app, &tenant_id, &request_id, at)?;
    let new = NewKey {
        tenant_id,
        role,
        name,
        expires_at,
    };
    app.blocking(move |ledger| {
        let made = ledger.key_create(&new, &caller.changer(&request_id), at)?;
        Ok(given(StatusCode::CREATED, &made))
    })
    .await
}

/// Lists keys, oldest first, those that have ended included.
#[utoipa::path(get, path = "/api/v1/keys", tag = "keys", operation_id = "key_list", params(KeysQuery),
    responses((status = 200, body = Keys), ReadProblems))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    request_id: RequestId,
    Query(query): Query<KeysQuery>,
) -> Result<Json<Keys>, ApiError> {
    let Some(tenant_id) = tenant_of(&caller, query.tenant_id)? else {
        if query.as_of.is_some() {
            return Err(bad(
                "query: as_of: needs tenant_id: each tenant has a tree of its own",
            ));
        }
        // Of all tenants: each is decided, once.
        let mut keys = app.ledger.api_keys().list(None);
        let mut may = HashMap::new();
        keys.retain(|key| {
            *may.entry(Arc::clone(&key.tenant_id))
                .or_insert_with(|| caller.may_for(&app, &key.tenant_id, &request_id, at).is_ok())
        });
        return Ok(Json(Keys::of(None, &keys)));
    };
    caller.may_for(&app, &tenant_id, &request_id, at)?;
    app.blocking(move |ledger| {
        let tenant = ledger.tenant(&tenant_id).ok_or_else(ApiError::not_found)?;
        let size = as_of(ledger, &tenant, query.as_of)?;
        let keys = ledger.api_keys_as_of(&tenant, size)?;
        Ok(Json(Keys::of(Some(size), &keys)))
    })
    .await
}

impl Keys {
    fn of(as_of: Option<u64>, keys: &[Arc<ApiKey>]) -> Self {
        Self {
            as_of,
            items: keys.iter().map(|key| KeyView::new(key)).collect(),
        }
    }
}

/// Gives a key another secret; the old one is worth nothing at once.
#[utoipa::path(post, path = "/api/v1/keys/{id}/rotate", tag = "keys", operation_id = "key_rotate",
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 200, body = KeyGiven), WriteProblems))]
async fn rotate(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    request_id: RequestId,
    Path(id): Path<String>,
    NoBody: NoBody,
) -> Result<Response, ApiError> {
    let tenant_id = tenant_of_key(&app, &caller, &id, &request_id, at)?;
    app.blocking(move |ledger| {
        let changed = ledger.key_rotate(tenant_id.as_deref(), &id, &caller.changer(&request_id), at)?;
        Ok(given(StatusCode::OK, &changed))
    })
    .await
}

/// Makes a key worth nothing, for ever. Again: the same answer.
#[utoipa::path(post, path = "/api/v1/keys/{id}/revoke", tag = "keys", operation_id = "key_revoke",
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 200, body = KeyView), WriteProblems))]
async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    request_id: RequestId,
    Path(id): Path<String>,
    NoBody: NoBody,
) -> Result<Json<KeyView>, ApiError> {
    let tenant_id = tenant_of_key(&app, &caller, &id, &request_id, at)?;
    app.blocking(move |ledger| {
        let key = ledger.key_revoke(tenant_id.as_deref(), &id, &caller.changer(&request_id), at)?;
        Ok(Json(KeyView::new(&key)))
    })
    .await
}
