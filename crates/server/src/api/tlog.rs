//! The ledger as C2SP tlog-tiles has it: checkpoint, keys, tiles, entry bundles.
//!
//! `/tlog/{tenant}/…` is the ledger that is written to. Every epoch, each of them a
//! log of its own, also stands under `/tlog/{tenant}/{epoch}/…`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use ledger::{LedgerInfo, StoredTree};
use tlog::{TILE_HASHES, TilePath, TreeSize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ledger::{LEDGER_STATUS, OfEndedEpoch, status_of};
use crate::error::Problem;
use crate::{ApiError, App, Caller, Path};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Checkpoints are signed at most once a second.
const FRESH: HeaderValue = HeaderValue::from_static("private, max-age=1");
/// A tile's path says what it holds for ever. Private: who may read it is decided per request.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");
/// After a recovery the short path is another log's.
const REVALIDATE: HeaderValue = HeaderValue::from_static("private, no-cache");

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(checkpoint))
        .routes(routes!(vkey))
        .routes(routes!(vkeys))
        .routes(routes!(tile))
        .routes(routes!(epoch_checkpoint))
        .routes(routes!(epoch_vkey))
        .routes(routes!(epoch_tile))
}

/// The newest signed checkpoint.
#[utoipa::path(get, path = "/tlog/{tenant}/checkpoint", operation_id = "tlog_checkpoint", tag = "tlog", params(("tenant" = String, Path)),
    responses((status = 200, body = str, content_type = "text/plain"),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn checkpoint(
    state: State<App>,
    caller: Caller,
    Path(tenant): Path<String>,
) -> Result<Response, ApiError> {
    let ledger = ledger_of(&caller, &tenant, None)?;
    newest_checkpoint(&state, &caller, ledger).await
}

/// The verifier key of the log.
#[utoipa::path(get, path = "/tlog/{tenant}/vkey", operation_id = "tlog_vkey", tag = "tlog", params(("tenant" = String, Path)),
    responses((status = 200, body = str, content_type = "text/plain"),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn vkey(state: State<App>, caller: Caller, Path(tenant): Path<String>) -> Result<Response, ApiError> {
    let ledger = ledger_of(&caller, &tenant, None)?;
    Ok(answer(
        &state,
        &caller,
        &ledger,
        TEXT,
        FRESH,
        format!("{}\n", ledger.row.vkey),
    ))
}

/// The verifier keys of all epochs, one a line.
#[utoipa::path(get, path = "/tlog/{tenant}/vkeys", operation_id = "tlog_vkeys", tag = "tlog", params(("tenant" = String, Path)),
    responses((status = 200, body = str, content_type = "text/plain"),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn vkeys(state: State<App>, caller: Caller, Path(tenant): Path<String>) -> Result<Response, ApiError> {
    let ledger = ledger_of(&caller, &tenant, None)?;
    let mut keys = String::new();
    for epoch in caller.tenant.epochs() {
        keys.push_str(&epoch.row.vkey);
        keys.push('\n');
    }
    Ok(answer(&state, &caller, &ledger, TEXT, FRESH, keys))
}

/// A tile of hashes, `tile/<L>/<N>[.p/<W>]`, or an entry bundle, `tile/entries/<N>[.p/<W>]`.
///
/// Every partial width up to the tile's present width is served.
#[utoipa::path(get, path = "/tlog/{tenant}/tile/{*path}", operation_id = "tlog_tile", tag = "tlog",
    params(("tenant" = String, Path), ("path" = String, Path, description = "C2SP tlog-tiles")),
    responses((status = 200, content_type = "application/octet-stream"),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn tile(
    state: State<App>,
    caller: Caller,
    Path((tenant, _path)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let ledger = ledger_of(&caller, &tenant, None)?;
    let caching = if ledger.row.epoch == 0 {
        IMMUTABLE
    } else {
        REVALIDATE
    };
    let path = uri.path().splitn(4, '/').nth(3);
    read_tile(&state, &caller, ledger, path, caching).await
}

/// The newest signed checkpoint of an epoch.
#[utoipa::path(get, path = "/tlog/{tenant}/{epoch}/checkpoint", operation_id = "tlog_epoch_checkpoint", tag = "tlog",
    params(("tenant" = String, Path), ("epoch" = u32, Path)),
    responses((status = 200, body = str, content_type = "text/plain"),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn epoch_checkpoint(
    state: State<App>,
    caller: Caller,
    Path((tenant, epoch)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let ledger = ledger_of(&caller, &tenant, Some(&epoch))?;
    newest_checkpoint(&state, &caller, ledger).await
}

/// The verifier key of an epoch.
#[utoipa::path(get, path = "/tlog/{tenant}/{epoch}/vkey", operation_id = "tlog_epoch_vkey", tag = "tlog",
    params(("tenant" = String, Path), ("epoch" = u32, Path)),
    responses((status = 200, body = str, content_type = "text/plain"),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn epoch_vkey(
    state: State<App>,
    caller: Caller,
    Path((tenant, epoch)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let ledger = ledger_of(&caller, &tenant, Some(&epoch))?;
    Ok(answer(
        &state,
        &caller,
        &ledger,
        TEXT,
        FRESH,
        format!("{}\n", ledger.row.vkey),
    ))
}

/// A tile or entry bundle of an epoch.
#[utoipa::path(get, path = "/tlog/{tenant}/{epoch}/tile/{*path}", operation_id = "tlog_epoch_tile", tag = "tlog",
    params(("tenant" = String, Path), ("epoch" = u32, Path), ("path" = String, Path, description = "C2SP tlog-tiles")),
    responses((status = 200, content_type = "application/octet-stream"),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn epoch_tile(
    state: State<App>,
    caller: Caller,
    Path((tenant, epoch, _path)): Path<(String, String, String)>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let ledger = ledger_of(&caller, &tenant, Some(&epoch))?;
    let path = uri.path().splitn(5, '/').nth(4);
    read_tile(&state, &caller, ledger, path, IMMUTABLE).await
}

/// The caller's own tenant only; a foreign one is as absent as one that does not exist.
fn ledger_of(caller: &Caller, tenant: &str, epoch: Option<&str>) -> Result<Arc<LedgerInfo>, ApiError> {
    if tenant != &*caller.tenant.tenant_id {
        return Err(ApiError::not_found());
    }
    let Some(epoch) = epoch else {
        return Ok(caller.tenant.ledger());
    };
    let epochs = caller.tenant.epochs();
    epochs
        .into_iter()
        .find(|ledger| ledger.row.epoch.to_string() == epoch)
        .ok_or_else(ApiError::not_found)
}

async fn newest_checkpoint(
    app: &App,
    caller: &Caller,
    ledger: Arc<LedgerInfo>,
) -> Result<Response, ApiError> {
    let ledger_no = ledger.row.ledger_no;
    let found = app
        .blocking(move |service| Ok(service.store().checkpoint_newest(ledger_no)?))
        .await?;
    let Some(found) = found else {
        let message = "nothing is signed yet: the first checkpoint follows the first record within a second";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "no_checkpoint", message));
    };
    Ok(answer(app, caller, &ledger, TEXT, FRESH, found.note))
}

/// `path` is the raw one: escapes would be second spellings.
async fn read_tile(
    app: &App,
    caller: &Caller,
    ledger: Arc<LedgerInfo>,
    path: Option<&str>,
    caching: HeaderValue,
) -> Result<Response, ApiError> {
    let path = path
        .and_then(|path| TilePath::parse(path).ok())
        .ok_or_else(ApiError::not_found)?;
    let size = size_of(path).ok_or_else(ApiError::not_found)?;
    let ledger_no = ledger.row.ledger_no;
    let bytes = app
        .blocking(move |service| {
            if size > service.store().head_read(ledger_no)?.size {
                return Err(ApiError::not_found());
            }
            let tree = StoredTree::new(service.store(), ledger_no);
            Ok(match path {
                TilePath::Hash { level, index, .. } => tree
                    .tile(level, index, size)?
                    .iter()
                    .flat_map(|hash| *hash.as_bytes())
                    .collect(),
                TilePath::Entries { index, .. } => tree.entries(index, size)?.1,
            })
        })
        .await?;
    Ok(answer(app, caller, &ledger, BYTES, caching, bytes))
}

/// The smallest tree that has the tile at this width: reading at that size cuts it from a wider one.
fn size_of(path: TilePath) -> Option<TreeSize> {
    let (level, index) = match path {
        TilePath::Hash { level, index, .. } => (level, index),
        TilePath::Entries { index, .. } => (0, index),
    };
    let nodes = index
        .checked_mul(u64::from(TILE_HASHES))?
        .checked_add(u64::from(path.width().as_u16()))?;
    let leaves = u64::from(TILE_HASHES).checked_pow(u32::from(level))?;
    nodes.checked_mul(leaves).map(TreeSize::new)
}

fn answer(
    app: &App,
    caller: &Caller,
    ledger: &LedgerInfo,
    content_type: HeaderValue,
    caching: HeaderValue,
    body: impl IntoResponse,
) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, caching);
    let present = caller.tenant.ledger();
    // What a full verification finds in an epoch before stands with the present one: of an old one that is told too.
    let found = app.verification_of(&present);
    let (status, _) = status_of(ledger, found.as_ref());
    if status != "ok" {
        headers.insert(LEDGER_STATUS, HeaderValue::from_static(status));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    let mut response = (headers, body).into_response();
    if ledger.row.epoch != present.row.epoch {
        response.extensions_mut().insert(OfEndedEpoch);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_needs_the_smallest_tree_that_has_it() {
        let size = |path: &str| size_of(TilePath::parse(path).unwrap()).map(TreeSize::as_u64);
        assert_eq!(size("tile/0/000"), Some(256));
        assert_eq!(size("tile/0/001.p/3"), Some(259));
        assert_eq!(size("tile/entries/001.p/3"), Some(259));
        assert_eq!(size("tile/1/000.p/3"), Some(768));
        assert_eq!(size("tile/8/000"), None);
        assert_eq!(size("tile/63/000.p/1"), None);
    }
}
