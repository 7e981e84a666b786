//! The REST API, one file a resource. Each gives `routes()`, and the router has a line for it.

// utoipa writes out the paths of query types.
#![allow(unused_qualifications)]

mod answer;
pub(crate) mod audit_events;
pub(crate) mod audits;
pub(crate) mod contracts;
pub(crate) mod erasures;
pub(crate) mod evidence;
mod facet_list;
mod fields;
pub(crate) mod fingerprint;
pub(crate) mod health;
pub(crate) mod holds;
pub(crate) mod idempotency;
pub(crate) mod incidents;
pub(crate) mod integrity;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod ledger;
pub(crate) mod lineage;
pub(crate) mod logs;
pub(crate) mod otlp;
pub(crate) mod panels;
pub(crate) mod policy_activations;
pub(crate) mod policy_decisions;
pub(crate) mod provenance;
pub(crate) mod records;
mod records_find;
pub(crate) mod redaction;
pub(crate) mod replay;
mod run_list;
mod run_steps;
pub(crate) mod runs;
pub(crate) mod signals;
pub(crate) mod steps;
pub(crate) mod system_records;
pub(crate) mod tlog;
pub(crate) mod traces;
pub(crate) mod verifications;
