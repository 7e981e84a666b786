//! Who calls: the one seam where authentication and authorization come in.
//!
//! Every handler that touches a tenant takes a [`Caller`]. In local mode (no
//! keys, loopback only) it is always the principal `local` of tenant `default`.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use ledger::Tenant;

use crate::{ApiError, App};

/// The tenant of local mode.
pub const LOCAL_TENANT: &str = "default";

/// Who calls, and for which tenant.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The tenant, from the credential, never from the request.
    pub tenant: Arc<Tenant>,
    /// The principal.
    pub principal: Arc<str>,
}

impl Caller {
    /// Decides who calls.
    ///
    /// # Errors
    /// None in local mode but an internal one when its tenant is missing.
    pub fn of(app: &App, _parts: &Parts) -> Result<Self, ApiError> {
        let tenant = app
            .ledger
            .tenant(LOCAL_TENANT)
            .ok_or_else(|| ApiError::internal(&"no tenant for local mode"))?;
        Ok(Self {
            tenant,
            principal: "local".into(),
        })
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        Self::of(app, parts)
    }
}
