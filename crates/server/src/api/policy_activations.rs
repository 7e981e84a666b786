//! Policy activations: a policy was put into force. Each POST is a record; the newest of a policy is current.
//!
//! Source: SPEC 5.5.

use axum::extract::State;
use axum::response::Response;
use evidence::facet::facet;
use evidence::record::{CONFIDENCE_VERSION_DEFAULT, Facts, PolicyActivation};
use evidence::{Kind, RecordId, SourceDomain, Timestamp};
use ledger::{Draft, Record, Salts, Tenant};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Number, ReadProblems, ReceiptOut, WriteProblems, created, ok, placed};
use super::facet_list::{self, DamagedEntry, ListParams};
use super::fields::Num;
use super::records::{ReceiptView, epoch_of};
use super::run_list::{Filters, given, shown};
use super::run_steps::damaged;
use super::runs::first;
use crate::{ApiError, App, Caller, JsonBody, Query, Received};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(activate, list))
}

/// A policy put into force.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyActivate)]
struct ActivationIn {
    policy_id: String,
    source_pattern_id: String,
    source_recovery_id: String,
    /// 0 to 1.
    #[schema(value_type = f64)]
    confidence: Num,
    /// `CONFIDENCE_V1` when absent.
    confidence_version: Option<String>,
    /// Who or what let it pass, e.g. `auto`.
    approval_path: String,
    loop_trace_id: String,
}

impl ActivationIn {
    fn draft(self, at: Timestamp, salts: &mut Salts) -> Result<(PolicyActivation, Draft), ApiError> {
        let version = self.confidence_version;
        let activation = PolicyActivation {
            policy_id: self.policy_id,
            source_pattern_id: self.source_pattern_id,
            source_recovery_id: self.source_recovery_id,
            confidence_at_activation: self.confidence.0,
            confidence_version: version.unwrap_or_else(|| CONFIDENCE_VERSION_DEFAULT.to_owned()),
            approval_path: self.approval_path,
            loop_trace_id: self.loop_trace_id,
        };
        activation.check()?;
        let facts = Facts::PolicyActivation(activation.facts());
        let body = activation.encode();
        let draft = Draft {
            source_domain: SourceDomain::Policy,
            ..Draft::alone(Kind::PolicyActivation, facts, &body, at, salts)?
        };
        Ok((activation, draft))
    }
}

/// The policy is in force.
#[derive(Serialize, ToSchema)]
#[schema(as = Activated)]
struct PolicyActivatedOut<'a> {
    #[schema(value_type = String, format = DateTime)]
    activated_at: Timestamp,
    approval_path: &'a str,
    #[schema(value_type = f64)]
    confidence_at_activation: Number,
    confidence_version: &'a str,
    loop_trace_id: &'a str,
    policy_id: &'a str,
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    source_pattern_id: &'a str,
    source_recovery_id: &'a str,
    tenant_id: &'a str,
}

/// Records that a policy was put into force.
#[utoipa::path(
    post, path = "/api/v1/policy-activations", tag = "policies", operation_id = "policy_activate",
    request_body = ActivationIn,
    responses((status = 201, description = "The activation is in the ledger", body = PolicyActivatedOut), WriteProblems),
)]
async fn activate(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<ActivationIn>,
) -> Result<Response, ApiError> {
    let (activation, draft) = app
        .packing(caller.tenant.salts(), body.is_large(), move |salts| {
            body.value.draft(at, salts)
        })
        .await?;
    let outcomes = app.ledger.submit(&caller.tenant, vec![draft], at).await?;
    let first = first(placed(outcomes)?)?;
    created(
        &first,
        &PolicyActivatedOut {
            activated_at: at,
            approval_path: &activation.approval_path,
            confidence_at_activation: Number(activation.confidence_at_activation.get()),
            confidence_version: &activation.confidence_version,
            loop_trace_id: &activation.loop_trace_id,
            policy_id: &activation.policy_id,
            receipt: ReceiptOut(first.receipt),
            source_pattern_id: &activation.source_pattern_id,
            source_recovery_id: &activation.source_recovery_id,
            tenant_id: &caller.tenant.tenant_id,
        },
    )
}

/// Which activations.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ActivationsQuery {
    /// Those of one policy.
    policy_id: Option<String>,
    /// Most entries of the page, 1 to 500 (50).
    limit: Option<u32>,
    /// Entries passed over, at most 10000.
    offset: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only what was in the ledger at this tree size.
    as_of: Option<u64>,
}

/// An activation. Its words are null when its body was erased.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyActivationItem)]
struct Item {
    #[schema(value_type = String, format = DateTime)]
    activated_at: Timestamp,
    approval_path: Option<String>,
    #[schema(value_type = Option<f64>)]
    confidence_at_activation: Option<Number>,
    confidence_version: Option<String>,
    /// Which of the tenant's ledgers the leaf is of: 0, and one more after each recovery.
    epoch: u32,
    leaf_index: u64,
    loop_trace_id: Option<String>,
    policy_id: Option<String>,
    #[schema(value_type = String)]
    record_id: RecordId,
    source_pattern_id: Option<String>,
    source_recovery_id: Option<String>,
    tenant_id: String,
}

impl Item {
    fn of(tenant: &Tenant, record: &Record) -> Result<Self, ApiError> {
        #[derive(Default, Deserialize)]
        struct Body {
            approval_path: Option<String>,
            confidence_at_activation: Option<Num>,
            confidence_version: Option<String>,
            loop_trace_id: Option<String>,
            policy_id: Option<String>,
            source_pattern_id: Option<String>,
            source_recovery_id: Option<String>,
        }
        let header = record.header()?;
        let leaf_index = record.leaf.leaf_index();
        let body: Body = match record.body.bytes() {
            Some(body) => serde_json::from_slice(body).map_err(|error| damaged(leaf_index, &error))?,
            None => Body::default(),
        };
        Ok(Self {
            activated_at: header.occurred_at,
            approval_path: body.approval_path,
            confidence_at_activation: body.confidence_at_activation.map(|number| Number(number.0.get())),
            confidence_version: body.confidence_version,
            epoch: epoch_of(tenant, record.leaf),
            leaf_index,
            loop_trace_id: body.loop_trace_id,
            policy_id: body.policy_id,
            record_id: header.id,
            source_pattern_id: body.source_pattern_id,
            source_recovery_id: body.source_recovery_id,
            tenant_id: header.tenant_id.into_owned(),
        })
    }
}

/// Activations, newest first: of one policy the first of all is current.
#[derive(Serialize, ToSchema)]
#[schema(as = PolicyActivationPage)]
struct Page {
    as_of: u64,
    /// Entries of the page that cannot be shown. Absent when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    damaged: Vec<DamagedEntry>,
    #[schema(value_type = Object)]
    filters_applied: Filters,
    has_more: bool,
    items: Vec<Item>,
    next_cursor: Option<String>,
    total: u64,
    total_exact: bool,
}

/// Lists policy activations, newest first.
#[utoipa::path(
    get, path = "/api/v1/policy-activations", tag = "policies", operation_id = "policy_activations_list",
    params(ActivationsQuery),
    responses((status = 200, description = "Activations, newest first", body = Page), ReadProblems),
)]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ActivationsQuery>,
) -> Result<Response, ApiError> {
    app.blocking(move |ledger| {
        let tenant = &caller.tenant;
        let facets = vec![match &query.policy_id {
            Some(policy_id) => facet("policy", policy_id),
            None => facet("kind", Kind::PolicyActivation.as_str()),
        }];
        let params = ListParams {
            list: "policy-activations",
            facets,
            filters: given(&[("policy_id", shown(query.policy_id.as_ref()))]),
            limit: query.limit,
            offset: query.offset,
            cursor: query.cursor,
            as_of: query.as_of,
        };
        let mut page = facet_list::page(ledger, tenant, params)?;
        let items = page.records(ledger, tenant, |record| {
            let text = record.body.bytes().map_or(0, <[u8]>::len);
            Ok(Some((Item::of(tenant, record)?, text)))
        })?;
        caller.answered(items.len());
        ok(&Page {
            as_of: page.as_of,
            damaged: page.damaged,
            filters_applied: page.filters_applied,
            has_more: page.has_more,
            items,
            next_cursor: page.next_cursor,
            total: page.total,
            total_exact: page.total_exact,
        })
    })
    .await
}
