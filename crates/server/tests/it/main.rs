//! The server, through its HTTP interface.

#![allow(missing_docs, clippy::unwrap_used)]

mod entry;
mod health;
mod ledger;
mod limits;
mod openapi;
mod otlp;
mod otlp_lower;
mod records;
mod serve;
mod server;
mod tlog;
