//! Everything HTTP: the API, OTLP, and later authorization and the console.
//!
//! In scope: wire types, limits of requests, problem+json, the way from a
//! request to drafts and from rows to answers. Out of scope: what is recorded
//! and in which order (ledger), what bytes mean (evidence), SQL (store).
//!
//! Start at [`App`] and [`api`].

pub mod api;
mod app;
mod caller;
mod error;

pub use app::{App, Limits, Received, RequestId};
pub use caller::Caller;
pub use error::ApiError;
