//! A whole trace in one request: all of it or nothing is written.
//!
//! The first record's content is that of the whole request, so a run of that id
//! that came in any other way is a conflict at the first record, and a group
//! whose first record is refused writes nothing. A trace that was stored by the
//! same request is complete already and gives its first receipts. Once the first
//! record is erased nobody can say by which request it came; then nothing is
//! added to the run, what it does not have is a conflict, and the answer says
//! what is on record.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use evidence::record::{Facts, RunStarted, SEED_DEFAULT, StepView, TraceEnded, root_hash, step_hash};
use evidence::{ActorType, Identity, Kind, Origin, SourceDomain, Timestamp, content_mac, hex_string, sha256};
use ledger::{Bind, Draft, Placed, Salts, SealedBody, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::answer::{ReceiptOut, WriteProblems, created, placed};
use crate::api::fields;
use crate::api::records::ReceiptView;
use crate::api::runs::{AbortIn, COMPONENT, EndIn, RunIn, RunNames, on_record};
use crate::api::steps::{StepIn, StepRun};
use crate::{ApiError, App, Caller, JsonBody, Received};

/// Most steps of one request: they are committed together and wait for each other; 10,000 of 1 KiB are
/// near the longest transaction that other writers should wait for (0.2 s).
pub(crate) const STEPS_MAX: usize = 10_000;

/// Members that say how the run ended; the others but [`OWN`] are those of its start.
const END: [&str; 10] = [
    "status",
    "provider",
    "model",
    "input_tokens",
    "output_tokens",
    "cost_cents",
    "termination_reason",
    "metadata",
    "declared_steps",
    "completed_at",
];

/// Members of the trace itself.
const OWN: [&str; 5] = ["steps", "trace_id", "plan_hash", "root_hash", "reason"];

type Members = BTreeMap<String, Box<RawValue>>;

/// A whole trace: the members of a run's start and end, and these.
#[derive(Deserialize, ToSchema)]
#[schema(as = TraceStore)]
#[allow(dead_code)] // for the document; read member by member
pub(crate) struct TraceIn {
    #[serde(flatten)]
    run: RunIn,
    /// With `status` `completed`, `failed` or `aborted`.
    #[serde(flatten)]
    end: EndIn,
    /// Why, when aborted.
    reason: Option<String>,
    /// Each with another step_index.
    steps: Vec<StepIn>,
    /// Checked: `trace_<run_id>`.
    trace_id: Option<String>,
    /// Checked, lower-case hex.
    plan_hash: Option<String>,
    /// Checked, lower-case hex.
    root_hash: Option<String>,
}

/// A trace was stored.
#[derive(Serialize, ToSchema)]
struct TraceStoredOut<'a> {
    correlation_id: &'a str,
    /// Empty of a run that was there and whose first record is erased.
    plan_hash: String,
    /// Of the run's first record.
    #[schema(value_type = ReceiptView)]
    receipt: ReceiptOut,
    /// Of all its records: the start, the steps as they were sent, the end.
    #[schema(value_type = Vec<ReceiptView>)]
    receipts: Vec<ReceiptOut>,
    /// Null of a run that was there and whose end is erased.
    root_hash: Option<String>,
    run_id: &'a str,
    status: &'a str,
    total_steps: usize,
    trace_id: &'a str,
}

/// A trace, checked, as records.
struct Whole {
    names: RunNames,
    drafts: Vec<Draft>,
    sums: Sums,
}

/// What a trace adds up to.
struct Sums {
    plan_hash: String,
    root_hash: Option<[u8; 32]>,
    status: &'static str,
    total_steps: usize,
}

/// Stores a whole trace, all or nothing.
#[utoipa::path(
    post, path = "/api/v1/traces", tag = "traces", operation_id = "trace_store", request_body = TraceIn,
    responses(
        (status = 201, description = "The trace is in the ledger", body = TraceStoredOut),
        (status = 200, description = "It was, by the same request; the first receipts", body = TraceStoredOut),
        WriteProblems,
    ),
)]
pub(super) async fn store(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    body: JsonBody<Members>,
) -> Result<Response, ApiError> {
    let salts = caller.tenant.salts();
    let mut whole = app
        .blocking(move |_| whole(&body.value, body.content, at, salts))
        .await?;
    let drafts = std::mem::take(&mut whole.drafts);
    let placed = placed(app.ledger.submit_group(&caller.tenant, drafts, at).await?)?;
    let first = *placed
        .first()
        .ok_or_else(|| ApiError::internal(&"a group without outcome"))?;
    let names = on_record(&app, &caller.tenant, &first, whole.names).await?;
    let sums = sums_on_record(&app, &caller.tenant, (&first, &names.run_id), whole.sums).await?;
    let RunNames {
        run_id,
        trace_id,
        correlation_id,
    } = &names;
    created(
        &first,
        &TraceStoredOut {
            correlation_id,
            plan_hash: sums.plan_hash,
            receipt: ReceiptOut(first.receipt),
            receipts: placed.iter().map(|placed| ReceiptOut(placed.receipt)).collect(),
            root_hash: sums.root_hash.as_ref().map(hex_string),
            run_id,
            status: sums.status,
            total_steps: sums.total_steps,
            trace_id,
        },
    )
}

/// What the run adds up to. That is what was sent, unless it was there: once its first record is erased, whatever is sent
/// counts as the same.
async fn sums_on_record(
    app: &App,
    tenant: &Tenant,
    (first, run_id): (&Placed, &Arc<str>),
    sent: Sums,
) -> Result<Sums, ApiError> {
    if first.fresh {
        return Ok(sent);
    }
    let (tenant_no, run_id) = (tenant.tenant_no, Arc::clone(run_id));
    let run = app
        .blocking(move |ledger| Ok(ledger.store().run_find(tenant_no, &run_id)?))
        .await?;
    let Some(run) = run else { return Ok(sent) };
    Ok(Sums {
        plan_hash: run.state.plan_hash,
        root_hash: run.state.root_hash,
        status: run.state.status.as_str(),
        total_steps: usize::try_from(run.state.total_steps).unwrap_or(usize::MAX),
    })
}

fn whole(members: &Members, content: [u8; 32], at: Timestamp, mut salts: Salts) -> Result<Whole, ApiError> {
    let is_of_start = |key: &str| !END.contains(&key) && !OWN.contains(&key);
    let run: RunIn = fields::part(
        "",
        &fields::object_of(members.iter().filter(|(key, _)| is_of_start(key))),
    )?;
    let names = run.names(at)?;
    let started = run.check()?;
    let plan_hash = started.plan_hash();
    given(members, "trace_id", &names.trace_id)?;
    given(members, "plan_hash", &plan_hash)?;

    let mut drafts = vec![run.draft(&names, &started, content, at, &mut salts)?];
    let hashes = steps(members, &names, &started, at, &mut salts, &mut drafts)?;
    let total_steps = hashes.len();
    let seed = started.seed.unwrap_or(SEED_DEFAULT);
    let root_hash = root_hash(&plan_hash, seed, &hashes);
    given(members, "root_hash", &hex_string(&root_hash))?;

    let mut ended = TraceEnded {
        status: String::new(),
        reason: None,
        root_hash: Some(root_hash),
        plan_hash: plan_hash.clone(),
        seed,
        total_steps: u32::try_from(total_steps).unwrap_or(u32::MAX),
    };
    let status = end(members, &mut ended, &names, at, &mut salts, &mut drafts)?;
    Ok(Whole {
        names,
        drafts,
        sums: Sums {
            plan_hash,
            root_hash: Some(root_hash),
            status,
            total_steps,
        },
    })
}

/// 422 when a member is given that is not the text found here.
fn given(members: &Members, field: &str, found: &str) -> Result<(), ApiError> {
    let Some(raw) = members.get(field) else {
        return Ok(());
    };
    match fields::part::<Option<String>>(field, raw.get())? {
        Some(given) if given != found => Err(ApiError::invalid(field, format_args!("must be {found}"))),
        _ => Ok(()),
    }
}

/// The steps' records in the order sent, and their hashes in the order of their index.
fn steps(
    members: &Members,
    names: &RunNames,
    started: &RunStarted,
    at: Timestamp,
    salts: &mut Salts,
    drafts: &mut Vec<Draft>,
) -> Result<Vec<[u8; 32]>, ApiError> {
    let raw = members
        .get("steps")
        .ok_or_else(|| ApiError::invalid("steps", "missing"))?;
    let raw: Vec<Box<RawValue>> = fields::part("steps", raw.get())?;
    if raw.len() > STEPS_MAX {
        return Err(ApiError::invalid(
            "steps",
            format_args!("must have at most {STEPS_MAX} entries"),
        ));
    }
    let of = StepRun {
        run_id: &names.run_id,
        trace_id: &names.trace_id,
        correlation_id: Some(&names.correlation_id),
        agent_id: started.agent_id.as_deref(),
    };
    let mut seen = HashSet::with_capacity(raw.len());
    let mut hashes = Vec::with_capacity(raw.len());
    for (place, raw) in raw.iter().enumerate() {
        let path = format!("steps[{place}]");
        let step: StepIn = fields::part(&path, raw.get())?;
        // The same content as if the step had been sent by itself.
        let content = sha256(raw.get().as_bytes());
        let (draft, body) = step
            .draft(&of, content, at, salts)
            .map_err(fields::under(&path))?;
        let view = StepView::read(&body).map_err(|error| ApiError::internal(&error))?;
        let index = view.step.step_index.unwrap_or(0);
        if !seen.insert(index) {
            return Err(ApiError::invalid(
                &format!("{path}.step_index"),
                "is that of an earlier step",
            ));
        }
        hashes.push((index, step_hash(index, &view.step)));
        drafts.push(draft);
    }
    hashes.sort_unstable_by_key(|(index, _)| *index);
    Ok(hashes.into_iter().map(|(_, hash)| hash).collect())
}

/// The records of the end: the caller's word for it, and the trace's.
fn end(
    members: &Members,
    ended: &mut TraceEnded,
    names: &RunNames,
    at: Timestamp,
    salts: &mut Salts,
    drafts: &mut Vec<Draft>,
) -> Result<&'static str, ApiError> {
    let raw = members
        .get("status")
        .ok_or_else(|| ApiError::invalid("status", "missing"))?;
    let status: String = fields::part("status", raw.get())?;
    let status = fields::word("status", &status, &["completed", "failed", "aborted"])?;
    let draft =
        |kind: Kind, facts: Facts, content: Option<[u8; 32]>, at: Timestamp, body: SealedBody| Draft {
            kind,
            bind: Bind::Run(Arc::clone(&names.run_id)),
            identity: Some(Identity::once(kind)),
            content,
            trace_id: Some(Arc::clone(&names.trace_id)),
            correlation_id: Some(Arc::clone(&names.correlation_id)),
            actor: (ActorType::Agent, None),
            occurred_at: at,
            source_domain: SourceDomain::Activity,
            source_component: COMPONENT,
            origin: Origin::System,
            body,
            facts,
            expect_run_seq: None,
        };
    ended.status = status.into();
    let mut content = None;
    if status == "aborted" {
        if let Some(field) = END
            .iter()
            .find(|key| **key != "status" && members.contains_key(**key))
        {
            return Err(ApiError::invalid(field, "must not be given of an aborted trace"));
        }
        let sent = fields::object_of(members.iter().filter(|(key, _)| *key == "reason"));
        ended.reason = Some(fields::part::<AbortIn>("", &sent)?.check()?.to_owned());
        content = Some(sha256(sent.as_bytes()));
    } else {
        if members.contains_key("reason") {
            return Err(ApiError::invalid(
                "reason",
                "must be given of an aborted trace only",
            ));
        }
        let sent = fields::object_of(members.iter().filter(|(key, _)| END.contains(&key.as_str())));
        let end = fields::part::<EndIn>("", &sent)?.check(at)?;
        let sent = sha256(sent.as_bytes());
        let salt = salts.next_salt();
        let body = end.encode(&content_mac(&salt, &sent));
        let body = salts.seal_under(Kind::RunCompleted, salt, &body)?;
        let completed_at = end.completed_at.unwrap_or(at);
        let facts = Facts::RunCompleted(end.facts());
        drafts.push(draft(Kind::RunCompleted, facts, Some(sent), completed_at, body));
    }
    let salt = salts.next_salt();
    let mac = content.map(|content| content_mac(&salt, &content));
    let kind = ended.kind();
    let body = salts.seal_under(kind, salt, &ended.encode(mac.as_ref()))?;
    drafts.push(draft(kind, Facts::TraceEnded(ended.facts()), content, at, body));
    Ok(status)
}
