//! What the ledger promises, each claim a test, nearly each ending with the whole verification.

#![allow(
    clippy::needless_pass_by_value,
    clippy::struct_field_names,
    clippy::unused_self,
    clippy::format_collect
)]
#![allow(clippy::unwrap_used, unreachable_pub)] // a test that cannot go on has failed; its binary has no outside

mod altered;
mod api_keys;
mod audit;
mod background;
mod bed;
mod checkpoints;
mod erased_facets;
mod erased_key;
mod erasure;
mod erasure_attacks;
mod erasure_holds;
mod erasure_races;
mod facets;
mod failures;
mod jobs;
mod jobs_bounds;
mod jobs_chain;
mod jobs_verdicts;
mod laws;
mod laws_epochs;
mod laws_gone;
mod lineage;
mod lineage_export;
mod once_race;
mod own;
mod projections;
mod provenance;
mod receipts;
mod recovery;
mod recovery_backups;
#[path = "../../../store/tests/it/redis_server.rs"]
mod redis_server;
mod replay;
mod retention;
mod retention_files;
mod runs;
mod runs_read;
mod seals;
mod settings;
mod tamper;
mod tamper_files;
mod tenants;
mod unavailable;
