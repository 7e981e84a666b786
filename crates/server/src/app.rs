//! What every handler is given.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use evidence::Timestamp;
use ledger::Ledger;

use crate::ApiError;

/// Limits of requests, each with its reason.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest request body after decompression: an OTLP exporter's default batch of 512 spans is near
    /// 1 MiB, so 16 MiB refuses nothing that is meant (SPEC 11.5).
    pub body_bytes_max: usize,
    /// Bodies in flight, all together: with the queue and the caches the server stays below 256 MiB (SPEC 11.5).
    pub bodies_in_flight_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_bytes_max: 16 * 1024 * 1024, bodies_in_flight_bytes_max: 64 * 1024 * 1024 }
    }
}

/// What every handler is given. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    /// The ledger service.
    pub ledger: Ledger,
    /// Limits of requests.
    pub limits: Limits,
    /// Reads the clock: called once a request, at its entry.
    pub clock: fn() -> Timestamp,
}

impl App {
    /// Runs something that blocks (the store, hashing) beside the async threads.
    ///
    /// # Errors
    /// [`ApiError`] of the work itself; a panic in it is an internal error.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let ledger = self.ledger.clone();
        match tokio::task::spawn_blocking(move || work(&ledger)).await {
            Ok(result) => result,
            Err(error) => Err(ApiError::internal(&error)),
        }
    }
}

/// When the request was received; put there by the outermost layer.
#[derive(Clone, Copy, Debug)]
pub struct Received(pub Timestamp);

/// The request's id, given by the client or made by the outermost layer; echoed as `x-request-id`.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

impl<S: Send + Sync> FromRequestParts<S> for Received {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().copied().ok_or_else(|| ApiError::internal(&"no entry layer"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| ApiError::internal(&"no entry layer"))
    }
}
