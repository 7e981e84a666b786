//! Erasing bodies: which go together, what is left of them, one commit.
//!
//! What must be read for it (the run, to add it up without what is erased; the bodies that hold a hash of it) is read
//! in the asker's thread, and written as one task of the sequencer if nothing came in between. The record of the
//! erasure, the rows that go and the run's new row stand in one transaction. Afterwards the store is scrubbed.
//!
//! Source: SPEC 11.6; docs/formats.md, "Erased records".

use std::collections::HashSet;
use std::sync::Arc;

use evidence::canonical::{self, Value};
use evidence::record::{
    BODY_BYTES_MAX, ERASED_RECORDS_MAX, ErasedRecord, ErasurePerformed, Facts, ProvenanceView,
    ReplayEnforced, RuleBroken, StepView, is_erasable,
};
use evidence::{Header, Identity, Kind, RecordId, RunState, Timestamp, facet, hex_string, sha256, unhex};
use serde::Deserialize;
use store::{
    ErasedRow, FacetQuery, LeafKey, PrunedRow, RunKey, RunRecordRow, RunRow, Scrubbed, Store, StoreError,
    codec,
};

use crate::hold::{HeldBy, reason_kept};
use crate::run_at::adds_up;
use crate::sequencer::Sequencer;
use crate::verify::{Erasures, Gone};
use crate::{
    Body, BodyTooLarge, Draft, Ledger, Receipt, Record, RecordError, Rejection, SubmitError, Tenant,
};

/// How often what was read is read anew because something came in between; then it is read on the sequencer's
/// thread, where nothing can.
const PLANS: u32 = 3;

/// Rows of a run read at once.
const ROWS_READ: u32 = 10_000;

/// Leaves of a run read at once; they are at most 64 KiB each. Bodies may be 16 MiB: of them one is held.
const LEAVES_READ: usize = 256;

/// Bytes hashed to learn which hashes may be of a body or a part of it: 0.2 s. Of a larger body the deeper parts
/// are left out.
const HASHED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How deep parts of a body are hashed: what is logged elsewhere is a whole prompt, message or argument.
const HASHED_DEPTH: u32 = 12;

/// Lists of provenance logs that are looked into, by the hash of an input, and records that an answer names.
const ELSEWHERE_MAX: usize = 100;

/// Records of a run that stay though they hold a hash of what is erased, and that an answer names. With `only` as many
/// as a run has: a thousand are 150 KB, of more it is said that there are.
const LEFT_MAX: usize = 1_000;

/// What an erasure did.
#[derive(Clone, Debug)]
pub struct Erasure {
    /// Of its record.
    pub receipt: Receipt,
    /// Records whose bodies are gone, first the one that was asked for.
    pub erased: Vec<(RecordId, Kind)>,
    /// What may still tell of them.
    pub remains: Vec<Remains>,
    /// Under which keys of steps what was erased may be stored: [`crate::replay::forget_outputs`] takes it away.
    pub outputs: Vec<StepOutput>,
    /// How thoroughly the files are rid of them; `None`: a reader was in the way, it is tried again.
    pub scrubbed: Option<Scrubbed>,
}

/// What came out of an erased step, as its replay may have it stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepOutput {
    /// The step's key.
    pub key: String,
    /// What its SHA-256 may be.
    pub hashes: Vec<[u8; 32]>,
}

/// Something from which an erased body may still be guessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// The record, if it is one.
    pub record: Option<(RecordId, Kind)>,
    /// What it tells.
    pub what: &'static str,
}

/// Why nothing was erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// No such record.
    #[error("the record does not exist")]
    Unknown,
    /// Its body is erased already.
    #[error("the body of record {0} is erased already")]
    Already(RecordId),
    /// It, or its run, is in an archive: what would be left cannot be added up.
    #[error("the body, or one of its run, is archived")]
    Archived,
    /// Others are judged by it.
    #[error("the body of a {0} is not erased: others are judged by it")]
    Kept(&'static str),
    /// It, or one that would go with it, is held.
    #[error("record {record_id} is under a legal hold of the {what}")]
    Held {
        /// The record.
        record_id: RecordId,
        /// `tenant`, `run` or `record`.
        what: &'static str,
    },
    /// It, or one that would go with it, must be kept longer.
    #[error("record {record_id} must be kept until {until}")]
    MinimumRetention {
        /// The record.
        record_id: RecordId,
        /// Until then.
        until: Timestamp,
    },
    /// A rule is broken.
    #[error(transparent)]
    Rule(#[from] RuleBroken),
    /// The record of the erasure is too large.
    #[error(transparent)]
    Body(#[from] BodyTooLarge),
    /// The ledger refused the record.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Nothing was erased, as far as is known.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// What must be read for it cannot be.
    #[error(transparent)]
    Read(#[from] RecordError),
}

impl From<StoreError> for EraseError {
    fn from(error: StoreError) -> Self {
        RecordError::from(error).into()
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct EraseAsked {
    /// The record.
    pub record_id: RecordId,
    /// Why.
    pub reason: String,
    /// Leave the bodies that hold an unsalted hash of it.
    pub only: bool,
    /// Who asks.
    pub principal: String,
}

/// Rows that go with a commit.
#[derive(Debug)]
pub(crate) struct Erasing {
    pub(crate) rows: Vec<ErasedRow>,
    pub(crate) runs: Vec<RunRow>,
    /// By the record itself: the sequencer knows its leaf.
    pub(crate) pruned: Vec<PrunedRow>,
}

/// Everything that an erasure does, as of what was read.
struct Plan {
    doomed: Vec<Doomed>,
    /// The run as it was read, and as it is without the bodies.
    run: Option<(RunRow, RunRow)>,
    /// Records of erasures that were there.
    erasures: u64,
    remains: Vec<Remains>,
}

/// A record whose body goes.
struct Doomed {
    kept: ErasedRecord,
    kind: Kind,
    recorded_at: Timestamp,
    row: ErasedRow,
    held_by: Vec<HeldBy>,
    output: Option<StepOutput>,
    /// Its identity, when that is a hash of its content: it goes too, or is kept under a key ([`known_again`]).
    content: Option<Identity>,
}

impl Ledger {
    /// Erases the body of a record, and unless `only` those that hold an unsalted hash of it. Blocks until that is
    /// durable and the files are scrubbed.
    ///
    /// # Errors
    /// [`EraseError`]; then nothing was erased, as far as is known.
    pub fn erase(
        &self,
        tenant: &Arc<Tenant>,
        asked: &EraseAsked,
        at: Timestamp,
    ) -> Result<Erasure, EraseError> {
        for attempt in 0..=PLANS {
            let plan = if attempt < PLANS {
                Some(plan(self, tenant, asked, at)?)
            } else {
                None
            };
            let (reply, answer) = std::sync::mpsc::channel();
            let (ledger, of, request) = (self.clone(), Arc::clone(tenant), asked.clone());
            let queued = self.inner.queue.push_task(Box::new(move |sequencer| {
                // The asker may have gone; the erasure stays.
                let _ = reply.send(write(sequencer, &ledger, &of, &request, plan, at));
            }));
            if !queued {
                return Err(SubmitError::Closing.into());
            }
            let Some((receipt, plan)) = answer.recv().map_err(|_| self.unanswered())?? else {
                continue;
            };
            // Both, whatever becomes of one: what was erased may stand in an archive that no record names, too.
            let swept = self.sweep_archives();
            let scrubbed = self.store().scrub().and_then(|scrubbed| swept.map(|()| scrubbed));
            if let Err(error) = &scrubbed {
                tracing::warn!(%error, "the files were not scrubbed of what was erased; it is tried again");
            }
            return Ok(Erasure {
                receipt,
                outputs: plan
                    .doomed
                    .iter()
                    .filter_map(|doomed| doomed.output.clone())
                    .collect(),
                erased: plan
                    .doomed
                    .iter()
                    .map(|doomed| (doomed.kept.record_id, doomed.kind))
                    .collect(),
                remains: plan.remains,
                scrubbed: scrubbed.ok(),
            });
        }
        Err(SubmitError::Unknown("the run keeps changing".into()).into())
    }

    /// The record that erased another's body; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn erasure_of(
        &self,
        tenant: &Arc<Tenant>,
        id: RecordId,
    ) -> Result<Option<(Record, ErasurePerformed)>, RecordError> {
        let found = self
            .records(tenant)
            .newest(facet::facet("erasure", &id.to_string()), None)?;
        Ok(found.and_then(|record| {
            let erasure = ErasurePerformed::read(record.body.bytes()?).ok()?;
            Some((record, erasure))
        }))
    }
}

/// On the sequencer's thread: writes what was planned if it still holds, or plans here.
fn write(
    sequencer: &mut Sequencer,
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    asked: &EraseAsked,
    planned: Option<Plan>,
    at: Timestamp,
) -> Result<Option<(Receipt, Plan)>, EraseError> {
    let mut plan = match planned {
        Some(planned) if still_holds(ledger.store(), tenant, &planned)? => planned,
        Some(_) => return Ok(None),
        None => plan(ledger, tenant, asked, at)?,
    };
    // Holds may have been placed since.
    may_go(ledger, tenant, &plan.doomed, at)?;
    // After all that may refuse it, as it may make the key.
    known_again(ledger, tenant, &mut plan)?;
    let mut salts = tenant.salts();
    let erasure = performed(tenant, asked, &plan.doomed);
    erasure.check()?;
    let body = erasure.encode();
    let draft = Draft::alone_clean(
        Kind::ErasurePerformed,
        Facts::Erasure(erasure),
        &body,
        at,
        &mut salts,
    )?;
    let erasing = Erasing {
        rows: plan.doomed.iter().map(|doomed| doomed.row.clone()).collect(),
        runs: plan.run.iter().map(|(_, refolded)| refolded.clone()).collect(),
        pruned: Vec::new(),
    };
    let receipt = sequencer.submit_erasing_now(tenant, draft, erasing, at)??.receipt;
    Ok(Some((receipt, plan)))
}

/// What is recorded of it.
fn performed(tenant: &Tenant, asked: &EraseAsked, doomed: &[Doomed]) -> ErasurePerformed {
    let (reason, redactions) = reason_kept(tenant.salts().rules(), &asked.reason);
    ErasurePerformed {
        erased: doomed.iter().map(|doomed| doomed.kept).collect(),
        only: asked.only,
        principal: asked.principal.clone(),
        reason,
        redactions,
    }
}

/// Keeps by what records are known again whose identity is their content: only the one that was asked for may be such
/// a one, those that go with it are named otherwise. On the sequencer's thread, so that nobody else names a record so.
fn known_again(ledger: &Ledger, tenant: &Tenant, plan: &mut Plan) -> Result<(), EraseError> {
    for doomed in &mut plan.doomed {
        // Without a row in a run nothing is looked up by its identity.
        let Some((content, row)) = doomed.content.zip(doomed.row.run_record.as_mut()) else {
            continue;
        };
        let what = match ledger.inner.erased_key.keep(&tenant.tenant_id, content) {
            Ok(keyed) => {
                // The repeat of what was erased before, written while the key was away: the first keeps the name.
                let named = ledger.store().run_record_find(row.run, &keyed)?;
                if named.is_some_and(|named| named.leaf != row.leaf) {
                    continue;
                }
                (doomed.kept.identity, row.identity) = (Some(keyed), Some(keyed));
                "a keyed hash of it, by which a repeat is known: with keys/erased.key a guess can be tested"
            }
            Err(error) => {
                tracing::warn!(%error, "what is erased is a record again when it is sent again");
                "nothing by which a repeat is known, as keys/erased.key cannot be had: sent again it is a record again"
            }
        };
        plan.remains.push(Remains {
            record: Some((doomed.kept.record_id, doomed.kind)),
            what,
        });
    }
    Ok(())
}

/// Whether nothing came in between: no record of the run, no erasure.
fn still_holds(store: &dyn Store, tenant: &Tenant, plan: &Plan) -> Result<bool, EraseError> {
    if Erasures::count(store, tenant.tenant_no)? != plan.erasures {
        return Ok(false);
    }
    Ok(match &plan.run {
        None => true,
        Some((seen, _)) => store.run_read(seen.key)?.as_ref() == Some(seen),
    })
}

/// Whether nothing keeps them: no hold, no minimum retention.
fn may_go(ledger: &Ledger, tenant: &Tenant, doomed: &[Doomed], at: Timestamp) -> Result<(), EraseError> {
    let minimum = ledger.options().minimum_retention_micros;
    for doomed in doomed {
        let record_id = doomed.kept.record_id;
        for scope in &doomed.held_by {
            if let Some(what) = scope.holds(ledger.store(), tenant.tenant_no)? {
                return Err(EraseError::Held { record_id, what });
            }
        }
        let until = doomed
            .recorded_at
            .checked_add_micros(minimum)
            .unwrap_or(Timestamp::MAX);
        if minimum > 0 && until > at {
            return Err(EraseError::MinimumRetention { record_id, until });
        }
    }
    Ok(())
}

fn plan(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    asked: &EraseAsked,
    at: Timestamp,
) -> Result<Plan, EraseError> {
    let store = ledger.store();
    // Before anything is read: what comes after it is seen by its count.
    let erasures = Erasures::count(store, tenant.tenant_no)?;
    let record = ledger
        .records(tenant)
        .get(asked.record_id)?
        .ok_or(EraseError::Unknown)?;
    let header = record.header()?;
    let body = match &record.body {
        Body::There(body) => body.as_slice(),
        Body::Gone(store::Gone::Erased) => return Err(EraseError::Already(asked.record_id)),
        Body::Gone(store::Gone::Archived | store::Gone::Missing) => return Err(EraseError::Archived),
    };
    if !is_erasable(&header) {
        return Err(EraseError::Kept(header.kind.as_str()));
    }
    let mut plan = Plan {
        doomed: vec![doom((store, tenant.tenant_no), record.leaf, &header, body)?],
        run: None,
        erasures,
        remains: Vec::new(),
    };
    let hashes = Hashes::of(header.kind, body);
    let run = match &header.run {
        None => None,
        Some(run) => store.run_find(tenant.tenant_no, &run.run_id)?,
    };
    if let Some(run) = run {
        with_run(ledger, &mut plan, run, asked.only, &header, &hashes)?;
    }
    elsewhere(ledger, tenant, &hashes, &mut plan)?;
    plan.remains.extend(always_left(&header));
    performed(tenant, asked, &plan.doomed).check()?;
    may_go(ledger, tenant, &plan.doomed, at)?;
    Ok(plan)
}

fn doom(
    (store, tenant_no): (&dyn Store, u32),
    leaf: LeafKey,
    header: &Header<'_>,
    body: &[u8],
) -> Result<Doomed, EraseError> {
    let facts = Facts::read(header, body).map_err(|error| RecordError::Body {
        leaf: leaf.leaf_index(),
        reason: error.to_string(),
    })?;
    let (before, after) = (facts.facets(header), facet::erased(header));
    let kept = ErasedRecord::of(header, &facts, body);
    let content = match kept.identity {
        Some(_) => None,
        None => Identity::of_record(header, &facts, body),
    };
    Ok(Doomed {
        kept,
        kind: header.kind,
        recorded_at: header.recorded_at,
        held_by: HeldBy::of(store, tenant_no, header, &before)?,
        output: output_of(header.kind, body),
        content,
        row: ErasedRow {
            leaf,
            facets_gained: after
                .iter()
                .filter(|facet| !before.contains(facet))
                .cloned()
                .collect(),
            facets_lost: before
                .into_iter()
                .filter(|facet| !after.contains(facet))
                .collect(),
            run_record: None,
        },
    })
}

/// What a step or its enforcement says of a stored output.
fn output_of(kind: Kind, body: &[u8]) -> Option<StepOutput> {
    let (key, hashes) = match kind {
        Kind::ReplayEnforced => {
            let enforced = ReplayEnforced::read(body)?;
            let hash = enforced.output_hash.as_deref().and_then(unhex_text);
            (enforced.idempotency_key?, hash.into_iter().collect())
        }
        Kind::TraceStep => {
            let body = canonical::parse(body, canonical::Limits::default()).ok()?;
            let step = body.get("step")?;
            let Some(Value::String(key)) = step.get("idempotency_key") else {
                return None;
            };
            (key.clone(), outputs(step))
        }
        _ => return None,
    };
    Some(StepOutput { key, hashes })
}

/// What SHA-256 of a step's output may be: as its sender says, for what was redacted; and as it stands here.
fn outputs(step: &Value) -> Vec<[u8; 32]> {
    let mut hashes = Vec::with_capacity(2);
    if let Some(Value::String(text)) = step.get("output_hash") {
        hashes.extend(unhex_text(text));
    }
    if let Some(output) = step.get("outcome_data") {
        hashes.push(sha256(&canonical::to_vec(output)));
    }
    hashes
}

/// The same of what went into it.
fn inputs(step: &Value) -> Vec<[u8; 32]> {
    let mut hashes = Vec::with_capacity(2);
    if let Some(Value::String(text)) = step.get("input_hash") {
        hashes.extend(unhex_text(text));
    }
    if let Some(params) = step.get("params") {
        hashes.push(sha256(&canonical::to_vec(params)));
    }
    hashes
}

fn unhex_text(text: &str) -> Option<[u8; 32]> {
    unhex(text.as_bytes())
}

/// Goes once through the records of a run: finds those that hold a hash of what is erased, and adds the run up
/// without both.
fn with_run(
    ledger: &Ledger,
    plan: &mut Plan,
    run: RunRow,
    only: bool,
    header: &Header<'_>,
    hashes: &Hashes,
) -> Result<(), EraseError> {
    let store = ledger.store();
    let asked_leaf = plan.doomed[0].row.leaf;
    let step_index = plan.doomed[0]
        .kept
        .step_index
        .filter(|_| header.kind == Kind::TraceStep);
    let gone = Erasures::unread(store, run.key.tenant_no())?;
    let mut state: Option<RunState> = None;
    let mut ended = false;
    let mut late = false;
    let mut more_left = false;
    each_row(store, run.key, |row, leaf, packed| {
        let header_there = Header::decode(leaf).map_err(|source| RecordError::Header {
            leaf: row.leaf.leaf_index(),
            source,
        })?;
        let mut there = Vec::new();
        let there = match packed {
            Some(packed) => {
                codec::unpack_into(packed, BODY_BYTES_MAX, &mut there).map_err(|error| {
                    RecordError::Body {
                        leaf: row.leaf.leaf_index(),
                        reason: error.to_string(),
                    }
                })?;
                Some(there.as_slice())
            }
            None => None,
        };
        let is_end = matches!(row.kind, Kind::TraceCompleted | Kind::TraceAborted);
        if row.leaf == asked_leaf {
            late = ended;
            plan.doomed[0].row.run_record = kept_row(row, plan.doomed[0].kept.identity);
        } else if let Some(there) = there {
            let why = match row.kind {
                // The root hash covers the steps before it, and the plan.
                Kind::TraceCompleted | Kind::TraceAborted => {
                    let covers = matches!(header.kind, Kind::TraceStep | Kind::RunStarted) && !late;
                    covers.then_some(
                        "its root hash and plan hash are unsalted hashes of what was erased, among others",
                    )
                }
                Kind::EvidenceActivity => hashes
                    .in_activity(there, step_index)
                    .then_some("its fingerprints are unsalted hashes of the texts of this step"),
                Kind::ProvenanceLog => hashes
                    .in_provenance(there)
                    .then_some("it holds what was erased, or an unsalted hash of it"),
                Kind::ReplayEnforced => hashes.in_enforcement(there, step_index).then_some(
                    "it holds what came out of the step, or an unsalted hash of that or of its input",
                ),
                _ => None,
            };
            match why {
                Some(what) if only && plan.remains.len() < LEFT_MAX => plan.remains.push(Remains {
                    record: Some((header_there.id, row.kind)),
                    what,
                }),
                Some(_) if only => more_left = true,
                // Nobody gathers what is refused in the end.
                Some(_) if plan.doomed.len() > ERASED_RECORDS_MAX => {}
                Some(_) => {
                    let mut doomed = doom((store, run.key.tenant_no()), row.leaf, &header_there, there)?;
                    doomed.row.run_record = kept_row(row, doomed.kept.identity);
                    plan.doomed.push(doomed);
                }
                None if row.kind == Kind::TraceStep
                    && plan.remains.len() < ELSEWHERE_MAX
                    && hashes.in_step(there) =>
                {
                    plan.remains.push(Remains {
                        record: Some((header_there.id, row.kind)),
                        what: "another step that took in or gave out the same, or holds a hash of it",
                    });
                }
                None if row.kind == Kind::RunCompleted && header.kind == Kind::TraceStep => {
                    plan.remains.push(Remains {
                        record: Some((header_there.id, row.kind)),
                        what: "totals that its sender declared for the whole run",
                    });
                }
                None if row.kind == Kind::EvidenceIntegrity => plan.remains.push(Remains {
                    record: Some((header_there.id, row.kind)),
                    what: "the seal: which classes of evidence the run had, how many records, and its grade",
                }),
                None => {}
            }
        }
        ended |= is_end;
        let goes = plan
            .doomed
            .last()
            .is_some_and(|doomed| doomed.row.leaf == row.leaf)
            || row.leaf == asked_leaf;
        let facts = match there.filter(|_| !goes) {
            Some(there) if adds_up(row.kind) => {
                Facts::read(&header_there, there).map_err(|error| RecordError::Body {
                    leaf: row.leaf.leaf_index(),
                    reason: error.to_string(),
                })?
            }
            Some(_) => Facts::Other,
            None if !goes && !matches!(gone.find(row.leaf)?, Some(Gone::Erased(_))) => {
                return Err(EraseError::Archived);
            }
            None => Facts::erased(
                &header_there,
                &ErasedRecord {
                    record_id: header_there.id,
                    identity: None,
                    step_index: row.step_index,
                },
            ),
        };
        match (&mut state, &facts) {
            (None, Facts::RunStarted(started)) => {
                state = Some(RunState::start(started, header_there.recorded_at));
            }
            (None, _) => {}
            (Some(state), facts) => {
                let correlation_id = header_there.correlation_id.as_deref();
                state.apply(facts, correlation_id, header_there.recorded_at);
            }
        }
        Ok(())
    })?;
    if more_left {
        plan.remains.push(Remains {
            record: None,
            what: "more records of the run that hold what was erased, or an unsalted hash of it, than are named here",
        });
    }
    if let Some(state) = state {
        let refolded = RunRow { state, ..run.clone() };
        plan.run = Some((run, refolded));
    }
    Ok(())
}

/// The row of an erased record, when something of it changes.
fn kept_row(row: &RunRecordRow, identity: Option<Identity>) -> Option<RunRecordRow> {
    (row.identity != identity).then_some(RunRecordRow { identity, ..*row })
}

/// Shows every row of a run with its leaf and its packed body.
fn each_row(
    store: &dyn Store,
    run: RunKey,
    mut each: impl FnMut(&RunRecordRow, &[u8], Option<&[u8]>) -> Result<(), EraseError>,
) -> Result<(), EraseError> {
    let mut from = 0;
    loop {
        let rows = store.run_records(run, from, ROWS_READ)?;
        let Some(last) = rows.last() else { return Ok(()) };
        from = last.run_seq + 1;
        let whole = rows.len() < ROWS_READ as usize;
        for chunk in rows.chunks(LEAVES_READ) {
            let leaves: Vec<LeafKey> = chunk.iter().map(|row| row.leaf).collect();
            let headers = crate::records::headers(store, &leaves)?;
            for (row, leaf) in chunk.iter().zip(&headers) {
                let body = store.bodies_get(&[row.leaf])?.pop();
                each(row, leaf, body.as_ref().map(|there| &*there.body))?;
            }
        }
        if whole {
            return Ok(());
        }
    }
}

/// Hashes that may be of what is erased, or of a part of it.
#[derive(Default)]
struct Hashes {
    all: HashSet<[u8; 32]>,
    /// The first of them, those of the largest parts.
    first: Vec<[u8; 32]>,
    /// Of what went into a step and came out of it, as wholes.
    wholes: Vec<[u8; 32]>,
}

impl Hashes {
    fn of(kind: Kind, body: &[u8]) -> Self {
        let mut hashes = Self::default();
        let Ok(body) = canonical::parse(body, canonical::Limits::default()) else {
            return hashes;
        };
        let mut left = HASHED_BYTES_MAX;
        if kind == Kind::ReplayEnforced {
            for name in ["output", "output_hash"] {
                if let Some(part) = body.get(name) {
                    hashes.walk(part, HASHED_DEPTH, &mut left);
                }
            }
            for name in ["output_hash", "input_hash"] {
                if let Some(Value::String(text)) = body.get(name) {
                    hashes.wholes.extend(unhex_text(text));
                }
            }
        } else if kind == Kind::TraceStep {
            if let Some(step) = body.get("step") {
                hashes.wholes = outputs(step);
                hashes.wholes.extend(inputs(step));
            }
            // What the step took in and gave out. The words of its form ("success") tell nothing of it.
            for (section, name) in [
                ("step", "params"),
                ("step", "outcome_data"),
                ("otel", "attributes"),
                ("otel", "events"),
                ("step", "input_hash"),
                ("step", "output_hash"),
                ("activity", "prompt_fingerprint"),
                ("activity", "response_fingerprint"),
            ] {
                if let Some(part) = body.get(section).and_then(|section| section.get(name)) {
                    hashes.walk(part, HASHED_DEPTH, &mut left);
                }
            }
        } else if matches!(kind, Kind::ProvenanceLog | Kind::EvidenceActivity) {
            hashes.walk(&body, HASHED_DEPTH, &mut left);
            // What went into the model and came out of it may be what went into a step and came out of it.
            for name in ["input", "output"] {
                if let Some(part) = body.get(name).filter(|_| kind == Kind::ProvenanceLog) {
                    hashes.wholes.push(sha256(&canonical::to_vec(part)));
                }
            }
        }
        hashes
    }

    fn insert(&mut self, hash: [u8; 32]) {
        if self.all.insert(hash) && self.first.len() < ELSEWHERE_MAX {
            self.first.push(hash);
        }
    }

    fn walk(&mut self, value: &Value, depth: u32, left: &mut usize) {
        let bytes = canonical::to_vec(value);
        let Some(less) = left.checked_sub(bytes.len()) else {
            return;
        };
        *left = less;
        self.insert(sha256(&bytes));
        match value {
            Value::String(text) => {
                self.insert(sha256(text.as_bytes()));
                // A hash that stands in it itself.
                if let Some(hash) = unhex(text.as_bytes()) {
                    self.insert(hash);
                }
            }
            Value::Array(values) if depth > 0 => {
                for value in values {
                    self.walk(value, depth - 1, left);
                }
            }
            Value::Object(members) if depth > 0 => {
                for (_, value) in members {
                    self.walk(value, depth - 1, left);
                }
            }
            _ => {}
        }
    }

    fn has(&self, hex: Option<&str>) -> bool {
        hex.and_then(|hex| unhex(hex.as_bytes()))
            .is_some_and(|hash| self.all.contains(&hash))
    }

    fn in_activity(&self, body: &[u8], step_index: Option<u32>) -> bool {
        #[derive(Deserialize)]
        struct Wire<'a> {
            step_index: Option<u32>,
            prompt_fingerprint: Option<&'a str>,
            response_fingerprint: Option<&'a str>,
        }
        let Ok(wire) = serde_json::from_slice::<Wire<'_>>(body) else {
            return false;
        };
        (step_index.is_some() && wire.step_index == step_index)
            || self.has(wire.prompt_fingerprint)
            || self.has(wire.response_fingerprint)
    }

    /// Compared with whole outputs: of a part, such as a lone `true`, too many others have the hash.
    fn in_enforcement(&self, body: &[u8], step_index: Option<u32>) -> bool {
        let Some(enforced) = ReplayEnforced::read(body) else {
            return false;
        };
        let said = [
            &enforced.output_hash,
            &enforced.stored_hash,
            &enforced.expected_hash,
            &enforced.input_hash,
            &enforced.known_input_hash,
        ];
        step_index == Some(enforced.step_index) || said.into_iter().any(|hex| self.has_whole(hex.as_deref()))
    }

    /// Another step that took in or gave out the same: somebody else's evidence, and named.
    fn in_step(&self, body: &[u8]) -> bool {
        let Ok(StepView { step, .. }) = StepView::read(body) else {
            return false;
        };
        // Canonical, as stored.
        let parts = [Some(step.params), step.outcome_data];
        self.has_whole(step.input_hash.as_deref())
            || self.has_whole(step.output_hash.as_deref())
            || parts
                .into_iter()
                .flatten()
                .any(|part| self.is_whole(&sha256(part.get().as_bytes())))
    }

    fn has_whole(&self, hex: Option<&str>) -> bool {
        hex.and_then(unhex_text).is_some_and(|hash| self.is_whole(&hash))
    }

    /// Nothing is in as many steps as there are.
    fn is_whole(&self, hash: &[u8; 32]) -> bool {
        self.wholes.contains(hash)
            && ["null", "{}", "[]"]
                .iter()
                .all(|none| sha256(none.as_bytes()) != *hash)
    }

    fn in_provenance(&self, body: &[u8]) -> bool {
        ProvenanceView::read(body)
            .is_ok_and(|log| self.has(Some(log.input_hash)) || self.has(Some(log.output_hash)))
    }
}

/// Provenance logs of other runs, or of none, with the same input.
fn elsewhere(
    ledger: &Ledger,
    tenant: &Arc<Tenant>,
    hashes: &Hashes,
    plan: &mut Plan,
) -> Result<(), EraseError> {
    let mut leaves = Vec::new();
    for hash in &hashes.first {
        let query = FacetQuery {
            facets: vec![facet::facet("provenance.input", &hex_string(hash))],
            limit: u32::try_from(ELSEWHERE_MAX).unwrap_or(u32::MAX),
            newest_first: true,
            ..FacetQuery::default()
        };
        leaves.extend(ledger.store().facet_find(tenant.tenant_no, &query)?.leaves);
    }
    leaves.sort_unstable();
    leaves.dedup();
    leaves.retain(|leaf| plan.doomed.iter().all(|doomed| doomed.row.leaf != *leaf));
    leaves.truncate(ELSEWHERE_MAX);
    for leaf in crate::records::headers(ledger.store(), &leaves)? {
        let Ok(header) = Header::decode(&leaf) else {
            continue;
        };
        let named = plan
            .remains
            .iter()
            .any(|remains| remains.record.is_some_and(|(id, _)| id == header.id));
        if !named {
            plan.remains.push(Remains {
                record: Some((header.id, header.kind)),
                what: "it holds what was erased, or an unsalted hash of it",
            });
        }
    }
    Ok(())
}

/// What every erasure leaves.
fn always_left(header: &Header<'_>) -> Vec<Remains> {
    let mut left = vec![
        "the header: kind, ids, times and actor",
        "what other records say of the same thing in their own words",
        "backups, archives and exports made earlier still hold the text",
        "an answer that was kept for its Idempotency-Key may repeat it, encrypted, for up to a day",
    ];
    if header.kind == Kind::TraceStep {
        left.insert(1, "where the step stood: its index, or the ids of its span");
    }
    left.into_iter()
        .map(|what| Remains { record: None, what })
        .collect()
}
