//! The server, through its HTTP interface.

#![allow(missing_docs, clippy::unwrap_used)]

mod access;
mod api_audit;
mod api_logs;
mod api_runs;
mod api_system;
mod api_traces;
mod api_vectors;
mod attacks;
mod audit_events;
mod audit_vectors;
mod capture;
mod entry;
mod health;
mod incidents;
mod integrity;
mod jobs;
mod ledger;
mod limits;
mod lineage;
mod matrix;
mod oidc;
mod openapi;
mod otlp;
mod otlp_lower;
mod policy_activations;
mod provenance;
mod records;
mod redaction;
mod schema;
mod serve;
mod server;
mod support;
mod tlog;
mod tls;
