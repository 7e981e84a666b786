//! Everything HTTP: the API, OTLP, and who may call.
//!
//! In scope: wire types, limits of requests, problem+json, the way from a
//! request to drafts and from rows to answers. Out of scope: what is recorded
//! and in which order (ledger), what bytes mean (evidence), SQL (store).
//!
//! Start at [`App`] and [`router`].

mod access;
mod answers;
mod api;
mod app;
mod body;
mod bulk;
mod caller;
mod codes;
mod cursor;
mod document;
mod entry;
mod error;
mod examples;
mod extract;
mod grpc;
mod idempotent;
mod ids;
mod lifecycle;
mod metrics;
mod oidc;
pub mod otlp;
mod router;
mod serve;
mod system;
mod tasks;
mod tls;
mod too_large;
mod turns;
mod verifications;

pub use access::{Access, Level, Levels, Policies, PolicyError, Rate, operations_that_list};
pub use app::{App, Limits, Received, RequestId, Shared, Verification};
pub use caller::{Caller, LOCAL_TENANT};
pub use error::ApiError;
pub use extract::{ExactJsonBody, JsonBody, Path, Query};
pub use oidc::{Claims, KeySource, Oidc, OidcError};
pub use router::{openapi, router};
pub use serve::{ServeError, serve};
pub use tls::{Tls, TlsError};
pub use turns::BLOCKING_AT_ONCE;
