//! The REST API, one file a resource. Each gives `routes()`, and the router has a line for it.

pub(crate) mod health;
pub(crate) mod ledger;
pub(crate) mod otlp;
pub(crate) mod records;
mod records_find;
pub(crate) mod tlog;
