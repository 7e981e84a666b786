//! Audits of jobs: evidence gathered, judged, kept; resolved by a human; asked for by the gate.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use audit::governance::{AuditInput, Verdict, audit, audit_result_to_record};
use audit::rollout::{Action, Resolution, decide};
use evidence::canonical::{Finite, Value, sha256_hex};
use evidence::facet::facet;
use evidence::job::{JobState, Stage};
use evidence::record::{
    Facts, GovernanceAudit, GovernanceResolution, IncidentOpened, JobEvent, ResolutionDecision,
};
use evidence::{ActorType, Kind, Timestamp};
use store::{FacetQuery, LeafKey, Store};

use super::act::redacted_text;
use super::contracts::{found_as, of_policy, unreadable};
use super::slots::JobGuard;
use super::turn::{Turn, Verdict as Given};
use super::{JobError, Moment};
use crate::audit::{draft as audit_event_draft, limit_breached};
use crate::incident::opened_draft;
use crate::{Draft, Ledger, Placed, Receipt, Record, RecordError, Tenant, records};

/// How bad a job is that broke its contract, as its incident says.
const SEVERITY: &str = "HIGH";

/// What the end of a job says beside itself.
#[derive(Debug, Default)]
pub(super) struct Ended {
    evidence_tree_size: Option<u64>,
    incident_id: Option<String>,
}

impl Ended {
    pub(super) fn note(self, metadata: &mut Value) {
        if let Some(size) = self.evidence_tree_size {
            metadata.insert("evidence_tree_size", size);
        }
        if let Some(incident_id) = self.incident_id {
            metadata.insert("incident_id", incident_id);
        }
    }
}

/// A verdict as it is kept.
#[derive(Clone, Debug)]
pub struct AuditRead {
    /// The AuditResult.
    pub result: Value,
    /// Of its record.
    pub receipt: Receipt,
    /// What a human decided.
    pub resolution: Option<ResolutionRead>,
}

/// What a human decided, as it is kept.
#[derive(Clone, Debug)]
pub struct ResolutionRead {
    /// What, by whom, why.
    pub resolution: GovernanceResolution,
    /// When.
    pub at: Timestamp,
    /// Of its record.
    pub receipt: Receipt,
}

/// The frozen evidence of an audit, put together again from records.
#[derive(Clone, Debug)]
pub struct EvidenceRead {
    /// The audit.
    pub audit_id: String,
    /// What the audit was given, as canonical JSON.
    pub input: Vec<u8>,
    /// Steps and signals in it.
    pub rows: usize,
    /// SHA-256 of it, as the verdict names it.
    pub evidence_hash: String,
    /// Whether that is its hash.
    pub matches: bool,
}

/// Where a job stands, as lists show it.
#[derive(Clone, Debug)]
pub struct JobGlance {
    /// Where it stands.
    pub stage: Stage,
    /// Its newest event.
    pub updated_at: Timestamp,
    /// The attempt that the event is of.
    pub attempt_number: u32,
    /// PASS, FAIL, INCONCLUSIVE.
    pub verdict: Option<String>,
}

/// The gate's answer.
#[derive(Clone, Debug)]
pub struct RolloutRead {
    /// PASS, FAIL, INCONCLUSIVE, PENDING; `None`: there will be none.
    pub verdict: Option<String>,
    /// Whether the change may go on.
    pub authorized: bool,
    /// What to do.
    pub action: &'static str,
    /// Why.
    pub reason: String,
    /// What a human decided.
    pub resolution: Option<ResolutionRead>,
}

impl AuditRead {
    /// PASS, FAIL, INCONCLUSIVE.
    pub fn verdict(&self) -> &str {
        self.text("verdict")
    }

    /// A text of the result.
    fn text(&self, name: &str) -> &str {
        self.result.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Ledger {
    /// Judges a job that ends now and adds what stands beside its end; a job without contract is not judged.
    pub(super) fn job_judged(
        &self,
        turn: &mut Turn,
        state: &JobState,
        stage: Stage,
    ) -> Result<Ended, JobError> {
        if state.contract_id.is_none() {
            return Ok(Ended::default());
        }
        let began = Instant::now();
        let ledger_no = turn.tenant.ledger().row.ledger_no;
        let tree_size = self.store().head_read(ledger_no)?.size.as_u64();
        let as_of = LeafKey::new(ledger_no, tree_size);
        // The end is not before what is gathered: a signal that came while this waited for its turn is one of the job.
        turn.at = turn.tenant.now(turn.at);
        let input = self.job_evidence(&turn.tenant, state, stage, turn.at, as_of)?;
        let mut result = audit(&input, turn.new_id(), turn.at, 0);
        result.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        drop(input);
        let mut body = GovernanceAudit {
            result: audit_result_to_record(&result),
        };
        // What a client said was redacted when the act was looked at (`act.rs`), and names are refused that redaction
        // would change. A tenant's rules that changed the rest would put another verdict on record than is answered.
        body.count_markers();
        let facts = body.facts().map_err(|error| RecordError::Body {
            leaf: tree_size,
            reason: error.to_string(),
        })?;
        let draft = Draft::alone_clean(
            Kind::GovernanceAudit,
            Facts::GovernanceAudit(facts),
            &body.encode(),
            turn.at,
            &mut turn.salts,
        )?;
        turn.beside.push(of_policy(draft));
        let incident_id = (result.verdict == Verdict::Fail).then(|| turn.new_id());
        if let Some(incident_id) = &incident_id {
            // As events that change a setting: their words are Deponent's own, and their texts were redacted before.
            let mut salts = turn.tenant.built_in_salts();
            let opened = IncidentOpened {
                severity: SEVERITY.into(),
                policy_id: Some(result.contract_id.clone()),
                violation_type: Some("governance_audit".into()),
                summary: format!(
                    "job {} broke its contract: {}",
                    result.job_id, result.verdict_reason
                ),
                ..IncidentOpened::default()
            };
            turn.beside
                .push(opened_draft(incident_id, opened, turn.at, &mut salts)?);
            let breach = Value::object([
                ("audit_id", result.audit_id.as_str()),
                ("incident_id", incident_id),
                ("job_id", &result.job_id),
                ("verdict", result.verdict.as_str()),
            ]);
            let event = limit_breached(&result.contract_id, Some(breach));
            turn.beside.push(audit_event_draft(&event, turn.at, &mut salts)?);
        }
        turn.verdict = Some(Given {
            audit_id: result.audit_id,
            word: result.verdict.as_str(),
            incident_id: incident_id.clone(),
        });
        Ok(Ended {
            evidence_tree_size: Some(tree_size),
            incident_id,
        })
    }

    /// What an audit of a job is given: contract, steps, snapshots, times, and the signals before `as_of`.
    fn job_evidence(
        &self,
        tenant: &Tenant,
        state: &JobState,
        stage: Stage,
        ended_at: Timestamp,
        as_of: LeafKey,
    ) -> Result<AuditInput, JobError> {
        let contract_id = state.contract_id.as_deref().unwrap_or_default();
        let contract = self.contract_of(tenant, contract_id)?.ok_or(JobError::Unknown)?;
        let time = |at: Timestamp| Value::from(at.to_string());
        let optional = |at: Option<Timestamp>| at.map(time).unwrap_or_default();
        let started_at = state.started_at.unwrap_or(ended_at);
        #[allow(clippy::cast_precision_loss)] // exact up to 285 years
        let seconds = ended_at.micros_since(started_at) as f64 / 1_000_000.0;
        let scope: Vec<Value> = contract.scope.iter().map(|entry| entry.as_str().into()).collect();
        let value = Value::object([
            ("job_id", Value::from(state.job_id.as_str())),
            ("contract_id", Value::from(contract_id)),
            ("job_status", Value::from(stage.job_status())),
            ("contract_scope", Value::from(scope)),
            ("proposed_changes", contract.proposed_changes.clone()),
            ("health_before", state.health_before.clone().unwrap_or_default()),
            ("health_after", state.health_after.clone().unwrap_or_default()),
            (
                "activation_window_start",
                optional(contract.activation_window_start),
            ),
            ("activation_window_end", optional(contract.activation_window_end)),
            ("job_started_at", time(started_at)),
            ("job_completed_at", time(ended_at)),
            (
                "execution_duration_seconds",
                Finite::new(seconds).unwrap_or_default().into(),
            ),
        ]);
        // What was taken was looked at before; were it not, there is no verdict over it.
        let steps = state.steps.values().map(|step| &*step.text);
        let mut input =
            AuditInput::read_with_steps(&value, steps).map_err(|error| JobError::Input("job", error))?;
        drop(value);
        let signals = {
            let mut scopes: BTreeSet<&str> = contract.scope.iter().map(String::as_str).collect();
            scopes.extend(input.completed_targets());
            self.signals_about(tenant, &scopes, (started_at, ended_at), as_of)?
        };
        input.signals = signals;
        Ok(input)
    }

    /// The verdict over a job; `None`: there is none (yet). Blocks.
    ///
    /// # Errors
    /// Its records cannot be read.
    pub fn job_audit(&self, tenant: &Tenant, job_id: &str) -> Result<Option<AuditRead>, JobError> {
        job_audit(self.store(), tenant.tenant_no, job_id)
    }

    /// The frozen evidence of a job's audit, put together again from records. Blocks, and may hold
    /// several times what the job says ([`super::JOB_BYTES_MAX`]): the caller sees to it that few run at once.
    ///
    /// # Errors
    /// [`JobError::Unknown`] without a verdict.
    pub fn job_audit_evidence(&self, tenant: &Tenant, job_id: &str) -> Result<EvidenceRead, JobError> {
        let audit = self.job_audit(tenant, job_id)?.ok_or(JobError::Unknown)?;
        let state = self.job_fold(tenant, job_id, true)?.ok_or(JobError::Unknown)?;
        let ended_at = state.ended_at.ok_or(JobError::Unknown)?;
        // Tree sizes are counted within the ledger that the end stands in.
        let ledger_no = LeafKey::from_i64(state.last_place).ledger_no();
        let as_of = LeafKey::new(ledger_no, state.evidence_tree_size.unwrap_or(0));
        let input = self.job_evidence(tenant, &state, state.stage(), ended_at, as_of)?;
        let rows = input.step_results.len() + input.signals.as_ref().map_or(0, Vec::len);
        let input = input.to_json();
        let evidence_hash = audit.text("evidence_hash").to_owned();
        Ok(EvidenceRead {
            audit_id: audit.text("audit_id").to_owned(),
            matches: sha256_hex(&input) == evidence_hash,
            input,
            rows,
            evidence_hash,
        })
    }

    /// Resolves an INCONCLUSIVE verdict, by a named human, once. The same again gives the first receipt. Blocks.
    ///
    /// # Errors
    /// [`JobError::Final`] for any other verdict; [`JobError::Conflict`] when it was resolved otherwise.
    pub fn audit_resolve(
        &self,
        tenant: &Arc<Tenant>,
        job_id: &str,
        decision: ResolutionDecision,
        actor_id: &str,
        reason: &str,
        moment: &Moment,
    ) -> Result<(Placed, AuditRead), JobError> {
        self.job_guard(tenant, job_id)?
            .resolve(decision, actor_id, reason, moment)
    }

    /// Whether the change that a job made may go on: the one question of a pipeline. Blocks.
    ///
    /// # Errors
    /// [`JobError::Unknown`].
    pub fn rollout(&self, tenant: &Tenant, job_id: &str) -> Result<RolloutRead, JobError> {
        rollout(self.store(), tenant.tenant_no, job_id)
    }

    /// Where a job stands by its newest records, without folding it; `None`: there is no such job. Blocks.
    ///
    /// # Errors
    /// Its records cannot be read.
    pub fn job_glance(
        &self,
        tenant: &Tenant,
        job_id: &str,
        as_of: Option<LeafKey>,
    ) -> Result<Option<JobGlance>, JobError> {
        job_glance(self.store(), tenant.tenant_no, job_id, as_of)
    }
}

impl JobGuard {
    /// See [`Ledger::audit_resolve`]. Under the job's lock: of two who resolve it at once, one is told that it is
    /// resolved. Blocks.
    ///
    /// # Errors
    /// [`JobError::Final`] for any other verdict; [`JobError::Conflict`] when it was resolved otherwise.
    pub fn resolve(
        &mut self,
        decision: ResolutionDecision,
        actor_id: &str,
        reason: &str,
        moment: &Moment,
    ) -> Result<(Placed, AuditRead), JobError> {
        let (ledger, tenant, job_id) = (&self.ledger, &self.tenant, &*self.key.1);
        let mut audit = ledger.job_audit(tenant, job_id)?.ok_or(JobError::Unknown)?;
        let mut salts = tenant.salts();
        let resolution = GovernanceResolution {
            audit_id: audit.text("audit_id").to_owned(),
            job_id: job_id.to_owned(),
            decision,
            actor_id: actor_id.to_owned(),
            // As it is kept: the same again is compared with that.
            reason: redacted_text(salts.rules(), "reason", reason.to_owned())?,
        };
        // What is none is told so, wherever the verdict stands.
        resolution.check()?;
        if audit.verdict() != Verdict::Inconclusive.as_str() {
            return Err(JobError::Final(audit.verdict().to_owned()));
        }
        if let Some(first) = &audit.resolution {
            let receipt = first.receipt;
            if first.resolution != resolution {
                return Err(JobError::Conflict(receipt));
            }
            return Ok((
                Placed {
                    receipt,
                    fresh: false,
                },
                audit,
            ));
        }
        let at = tenant.now(moment.at);
        let draft = Draft::alone(
            Kind::GovernanceResolution,
            Facts::Resolution(resolution.clone()),
            &resolution.encode(),
            at,
            &mut salts,
        )?;
        let draft = of_policy(draft).by(ActorType::Human, Some(actor_id));
        let placed = ledger.one(tenant, draft, moment.at)?;
        audit.resolution = Some(ResolutionRead {
            resolution,
            at,
            receipt: placed.receipt,
        });
        Ok((placed, audit))
    }
}

/// See [`Ledger::job_audit`].
fn job_audit(store: &dyn Store, tenant_no: u32, job_id: &str) -> Result<Option<AuditRead>, JobError> {
    let query = FacetQuery {
        facets: vec![facet("job.audit", job_id)],
        // One of each.
        limit: 2,
        ..FacetQuery::default()
    };
    let leaves = store.facet_find(tenant_no, &query)?.leaves;
    let mut read: Option<AuditRead> = None;
    for record in records::read(store, &leaves)? {
        let Some(body) = record.kept_body(store, tenant_no)? else {
            continue;
        };
        let kind = record.header()?.kind;
        match (&mut read, kind) {
            (None, Kind::GovernanceAudit) => {
                let audit = GovernanceAudit::read(body).map_err(|error| unreadable(&record, &error))?;
                let audit = AuditRead {
                    result: audit.result,
                    receipt: record.receipt()?,
                    resolution: None,
                };
                found_as(&record, job_id, audit.text("job_id"))?;
                read = Some(audit);
            }
            (Some(read), Kind::GovernanceResolution) if read.resolution.is_none() => {
                let resolution = resolution_of(&record, body)?;
                found_as(&record, job_id, &resolution.resolution.job_id)?;
                read.resolution = Some(resolution);
            }
            _ => {}
        }
    }
    Ok(read)
}

/// What [`Ledger::rollout`] says, of a store that nobody needs to serve.
///
/// # Errors
/// [`JobError::Unknown`].
pub fn rollout(store: &dyn Store, tenant_no: u32, job_id: &str) -> Result<RolloutRead, JobError> {
    let escalate = |reason: &str| RolloutRead {
        verdict: None,
        authorized: false,
        action: Action::Escalate.as_str(),
        reason: reason.to_owned(),
        resolution: None,
    };
    if let Some(audit) = job_audit(store, tenant_no, job_id)? {
        // There is a verdict, so nobody is told to wait for one.
        let Some(verdict) = Verdict::parse(audit.verdict()) else {
            return Ok(escalate(
                "the verdict on record is none of PASS, FAIL and INCONCLUSIVE; a human must decide",
            ));
        };
        let resolution = audit.resolution.as_ref().map(|read| Resolution {
            proceed: read.resolution.decision == ResolutionDecision::Proceed,
            actor_id: &read.resolution.actor_id,
            reason: &read.resolution.reason,
        });
        let decided = decide(Some(verdict), resolution);
        return Ok(RolloutRead {
            verdict: Some(audit.verdict().to_owned()),
            authorized: decided.authorized,
            action: decided.action.as_str(),
            reason: decided.reason,
            resolution: audit.resolution,
        });
    }
    // First and last event say what is missing, without folding the job.
    let first = job_first(store, tenant_no, job_id)?.ok_or(JobError::Unknown)?;
    let last = job_glance(store, tenant_no, job_id, None)?.ok_or(JobError::Unknown)?;
    if first.metadata.get("contract_id").is_none() {
        return Ok(escalate(
            "the job has no contract, so nothing judges it; a human must decide",
        ));
    }
    if last.stage == Stage::Cancelled {
        return Ok(escalate(
            "the job was cancelled, so nothing judges it; a human must decide",
        ));
    }
    let decided = decide(None, None);
    Ok(RolloutRead {
        verdict: Some("PENDING".to_owned()),
        authorized: decided.authorized,
        action: decided.action.as_str(),
        reason: decided.reason,
        resolution: None,
    })
}

/// The first event of a job.
fn job_first(store: &dyn Store, tenant_no: u32, job_id: &str) -> Result<Option<JobEvent>, JobError> {
    let query = FacetQuery {
        facets: vec![facet("job", job_id)],
        limit: 1,
        ..FacetQuery::default()
    };
    let leaves = store.facet_find(tenant_no, &query)?.leaves;
    let Some(record) = records::read(store, &leaves)?.pop() else {
        return Ok(None);
    };
    let Some(body) = record.kept_body(store, tenant_no)? else {
        return Ok(None);
    };
    let (event, _) = JobEvent::read(body).map_err(|error| unreadable(&record, &error))?;
    found_as(&record, job_id, &event.job_id)?;
    Ok(Some(event))
}

/// See [`Ledger::job_glance`].
fn job_glance(
    store: &dyn Store,
    tenant_no: u32,
    job_id: &str,
    as_of: Option<LeafKey>,
) -> Result<Option<JobGlance>, JobError> {
    let query = FacetQuery {
        facets: vec![facet("job", job_id)],
        as_of,
        // A verdict and its resolution may stand after the newest event.
        limit: 3,
        newest_first: true,
        ..FacetQuery::default()
    };
    let mut verdict = None;
    for leaf in store.facet_find(tenant_no, &query)?.leaves {
        for record in records::read(store, &[leaf])? {
            let Some(body) = record.kept_body(store, tenant_no)? else {
                continue;
            };
            match record.header()?.kind {
                Kind::GovernanceAudit => {
                    let audit = GovernanceAudit::read(body).and_then(|audit| audit.facts());
                    let audit = audit.map_err(|error| unreadable(&record, &error))?;
                    found_as(&record, job_id, &audit.job_id)?;
                    verdict = Some(audit.verdict);
                }
                Kind::JobEvent => {
                    let (event, _) = JobEvent::read(body).map_err(|error| unreadable(&record, &error))?;
                    found_as(&record, job_id, &event.job_id)?;
                    let stage = event.metadata.get("stage").and_then(Value::as_str);
                    return Ok(Some(JobGlance {
                        stage: stage.and_then(Stage::parse).unwrap_or(Stage::Queued),
                        updated_at: event.timestamp,
                        attempt_number: event.attempt_number,
                        verdict,
                    }));
                }
                _ => {}
            }
        }
    }
    Ok(None)
}

fn resolution_of(record: &Record, body: &[u8]) -> Result<ResolutionRead, RecordError> {
    Ok(ResolutionRead {
        resolution: GovernanceResolution::read(body).map_err(|error| unreadable(record, &error))?,
        at: record.header()?.occurred_at,
        receipt: record.receipt()?,
    })
}
