//! EvidenceMetadata: on every answer of the Logs API.
//!
//! The checksum is SHA-256 over the canonical JSON of the answer without its
//! metadata, so a reader can recompute it from what he got.
//!
//! Source: SPEC 5.1.

use axum::http::StatusCode;
use axum::response::Response;
use evidence::canonical::sha256_hex;
use evidence::{Origin, SourceDomain, Timestamp};
use ledger::{Ledger, Tenant};
use serde::{Deserialize, Serialize};
use store::LeafKey;
use utoipa::ToSchema;

use crate::ApiError;
use crate::api::answer;
use crate::api::run_steps::{Run, damaged};

/// Where one record stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct LedgerPlace {
    leaf_index: u64,
    /// Leaves in the ledger when it was read.
    tree_size: u64,
}

impl LedgerPlace {
    /// Of a leaf that is read in the tenant's tree of that size. One of an epoch that has ended stands in the tree that
    /// this left behind, and no proof leads from it to another.
    pub(crate) fn of(ledger: &Ledger, tenant: &Tenant, leaf: LeafKey, as_of: u64) -> Result<Self, ApiError> {
        let tree_size = if leaf.ledger_no() == tenant.ledger().row.ledger_no {
            as_of
        } else {
            ledger.store().head_read(leaf.ledger_no())?.size.as_u64()
        };
        Ok(Self {
            leaf_index: leaf.leaf_index(),
            tree_size,
        })
    }
}

/// What an answer is evidence of.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = EvidenceMetadataResult)]
pub(crate) struct Metadata {
    pub(crate) agent_id: Option<String>,
    /// SHA-256 of the canonical JSON of the answer without `metadata`.
    checksum: Option<String>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) export_id: Option<String>,
    pub(crate) human_actor_id: Option<String>,
    immutable: bool,
    pub(crate) incident_ids: Vec<String>,
    /// Null unless one record answers.
    pub(crate) ledger: Option<LedgerPlace>,
    #[schema(value_type = String, format = DateTime)]
    pub(crate) occurred_at: Timestamp,
    pub(crate) origin: &'static str,
    pub(crate) policy_ids: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    pub(crate) recorded_at: Timestamp,
    pub(crate) run_id: Option<String>,
    pub(crate) source_component: &'static str,
    pub(crate) source_domain: &'static str,
    pub(crate) system_id: Option<String>,
    pub(crate) tenant_id: String,
    timezone_str: &'static str,
    pub(crate) trace_id: Option<String>,
}

impl Metadata {
    /// Of an answer that is about no record in particular.
    pub(crate) fn new(tenant: &Tenant, component: &'static str, domain: SourceDomain, at: Timestamp) -> Self {
        Self {
            agent_id: None,
            checksum: None,
            correlation_id: None,
            export_id: None,
            human_actor_id: None,
            immutable: true,
            incident_ids: Vec::new(),
            ledger: None,
            occurred_at: at,
            origin: Origin::System.as_str(),
            policy_ids: Vec::new(),
            recorded_at: at,
            run_id: None,
            source_component: component,
            source_domain: domain.as_str(),
            system_id: None,
            tenant_id: tenant.tenant_id.to_string(),
            timezone_str: "UTC",
            trace_id: None,
        }
    }

    /// Of an answer about one run.
    pub(crate) fn of_run(
        tenant: &Tenant,
        run: &Run,
        component: &'static str,
        domain: SourceDomain,
    ) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(default)]
            incident_id: Option<String>,
        }
        let state = &run.row.state;
        let mut metadata = Self::new(tenant, component, domain, state.started_at);
        metadata.agent_id.clone_from(&state.agent_id);
        metadata.correlation_id.clone_from(&state.correlation_id);
        metadata.origin = run.started.header()?.origin.as_str();
        metadata.recorded_at = state.created_at;
        metadata.run_id = Some(state.run_id.clone());
        metadata.trace_id = Some(state.trace_id.clone());
        if let Some(body) = run.started.body.bytes() {
            let wire: Wire = serde_json::from_slice(body)
                .map_err(|error| damaged(run.row.started_leaf.leaf_index(), &error))?;
            metadata.incident_ids = wire.incident_id.into_iter().collect();
        }
        Ok(metadata)
    }

    /// Answers `body` with this beside it as `metadata`.
    pub(crate) fn answer(mut self, body: &impl Serialize) -> Result<Response, ApiError> {
        let mut text = answer::canonical(body)?;
        self.checksum = Some(sha256_hex(&text));
        let metadata = answer::canonical(&self)?;
        if text.pop() != Some(b'}') || text.len() < 2 {
            return Err(ApiError::internal(&"an answer that is no object with members"));
        }
        text.reserve(metadata.len() + 16);
        text.extend_from_slice(b",\"metadata\":");
        text.extend_from_slice(&metadata);
        text.push(b'}');
        Ok(answer::json(StatusCode::OK, text))
    }
}
