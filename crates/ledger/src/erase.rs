//! Erasing bodies: which go together, what is left of them, one commit.
//!
//! What must be read for it (the run, to add it up without what is erased; the bodies that hold a hash of it) is read
//! in the asker's thread, and written as one task of the sequencer if nothing came in between. The record of the
//! erasure, the rows that go and the run's new row stand in one transaction. Afterwards the store is scrubbed.
//!
//! Source: SPEC 11.6; docs/formats.md, "Erased records".

mod hashes;
mod of_run;
mod turn;

use std::sync::Arc;

use evidence::record::{
    ErasedRecord, ErasurePerformed, Facts, RuleBroken, is_erasable, is_verdict_of_verification,
};
use evidence::{Header, Identity, Kind, RecordId, Timestamp, facet, hex_string};
use store::{ErasedRow, FacetQuery, LeafKey, PrunedRow, RunKey, RunRow, Scrubbed, Store, StoreError};

use self::hashes::{Hashes, output_of};
use self::of_run::with_run;
pub use self::turn::EraseTurn;
pub(crate) use self::turn::Turns;
use crate::hold::{Holders, reason_kept};
use crate::sequencer::Sequencer;
use crate::{
    Body, BodyTooLarge, Draft, Ledger, Receipt, Record, RecordError, Rejection, SubmitError, Tenant,
};

/// How often what was read is read anew because something came in between; then it is read on the sequencer's
/// thread, where nothing can.
const PLANS: u32 = 3;

/// [`PlannedThere::records_max`]: 0.2 s.
const PLANNED_THERE_MAX: u64 = 10_000;

/// [`PlannedThere::bytes_max`]: 32 MiB are read and parsed in 0.2 s too.
const PLANNED_THERE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Lists of provenance logs that are looked into, by the hash of an input, and records that an answer names.
const ELSEWHERE_MAX: usize = 100;

/// Of how large a run what an erasure does may be planned on the sequencer's thread, in which time nothing of any tenant
/// is written. A larger one that keeps changing is erased from when it rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedThere {
    /// Records of the run.
    pub records_max: u64,
    /// Bytes of their bodies, unpacked.
    pub bytes_max: usize,
}

impl Default for PlannedThere {
    fn default() -> Self {
        Self {
            records_max: PLANNED_THERE_MAX,
            bytes_max: PLANNED_THERE_BYTES_MAX,
        }
    }
}

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
    /// Too many of the tenant wait: ask again later. Nothing was erased.
    #[error("{waiting} erasures of the tenant are under way")]
    Busy {
        /// As many.
        waiting: usize,
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
    /// The run whose records they are, and how it adds up without them.
    pub(crate) run: Option<RunKey>,
    pub(crate) refolded: Option<RunRow>,
    /// By the record itself: the sequencer knows its leaf.
    pub(crate) pruned: Vec<PrunedRow>,
}

/// Everything that an erasure does, as of what was read.
struct Plan {
    doomed: Vec<Doomed>,
    /// The run that they are of.
    of: Option<RunKey>,
    /// The same as it was read, and as it is without the bodies.
    run: Option<(RunRow, RunRow)>,
    /// Bytes of bodies read for it.
    read: usize,
    /// [`Tenant::erasures`] before anything was read.
    erasures: u64,
    remains: Vec<Remains>,
}

/// A record whose body goes.
struct Doomed {
    kept: ErasedRecord,
    kind: Kind,
    recorded_at: Timestamp,
    row: ErasedRow,
    held_by: Holders,
    output: Option<StepOutput>,
    /// Its identity, when that is a hash of its content: it goes too, or is kept under a key ([`known_again`]).
    content: Option<Identity>,
}

impl Ledger {
    /// Erases the body of a record, and unless `only` those that hold an unsalted hash of it. Blocks until that is
    /// durable and the files are scrubbed. A tenant's are done one after the other, so it waits for its turn, for as
    /// long as that takes; [`Ledger::erase_in`] has waited for it without a thread.
    ///
    /// # Errors
    /// [`EraseError`]; then nothing was erased, as far as is known.
    pub fn erase(
        &self,
        tenant: &Arc<Tenant>,
        asked: &EraseAsked,
        at: Timestamp,
    ) -> Result<Erasure, EraseError> {
        self.erase_in(EraseTurn::take_blocking(tenant)?, asked, at)
    }

    /// The same of the turn's tenant. The turn ends when the files are scrubbed: the next one's commit would wait for
    /// that, in a thread.
    ///
    /// # Errors
    /// [`EraseError`]; then nothing was erased, as far as is known.
    #[allow(clippy::needless_pass_by_value)] // it is used up
    pub fn erase_in(
        &self,
        turn: EraseTurn,
        asked: &EraseAsked,
        at: Timestamp,
    ) -> Result<Erasure, EraseError> {
        let (receipt, plan) = self.erase_now(turn.tenant(), asked, at)?;
        // Both, whatever becomes of one: what was erased may stand in an archive that no record names, too.
        let swept = self.sweep_archives();
        let scrubbed = self.store().scrub().and_then(|scrubbed| swept.map(|()| scrubbed));
        if let Err(error) = &scrubbed {
            tracing::warn!(%error, "the files were not scrubbed of what was erased; it is tried again");
        }
        Ok(Erasure {
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
        })
    }

    /// Plans and writes, until nothing came in between.
    fn erase_now(
        &self,
        tenant: &Arc<Tenant>,
        asked: &EraseAsked,
        at: Timestamp,
    ) -> Result<(Receipt, Plan), EraseError> {
        let there = self.options().planned_there;
        let (mut records, mut bytes) = (0, 0);
        for attempt in 0..=PLANS {
            let plan = if attempt < PLANS {
                let plan = plan(self, tenant, asked, at)?;
                records = plan.run.as_ref().map_or(0, |(run, _)| run.state.record_count);
                bytes = plan.read;
                Some(plan)
            } else if records <= there.records_max && bytes <= there.bytes_max {
                None
            } else {
                break;
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
            if let Some(done) = answer.recv().map_err(|_| self.unanswered())?? {
                return Ok(done);
            }
        }
        Err(SubmitError::Unknown("the run keeps changing".into()).into())
    }

    /// The record that erased another's body; `None`: there is none. What it is found by is not signed: it must name the
    /// other itself.
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
        let Some(record) = found else { return Ok(None) };
        let is_erasure = record.header()?.kind == Kind::ErasurePerformed;
        let said = record.body.bytes().filter(|_| is_erasure);
        let said = said
            .and_then(|body| ErasurePerformed::read(body).ok())
            .filter(|said| said.erased.iter().any(|erased| erased.record_id == id));
        Ok(said.map(|said| (record, said)))
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
    // Holds may have been placed since, and what it names may have become a run.
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
        run: plan.of,
        refolded: plan.run.as_ref().map(|(_, refolded)| refolded.clone()),
        pruned: Vec::new(),
    };
    let receipt = sequencer.submit_erasing_now(tenant, draft, erasing, at)??.receipt;
    Ok(Some((receipt, plan)))
}

/// What is recorded of it.
fn performed(tenant: &Tenant, asked: &EraseAsked, doomed: &[Doomed]) -> ErasurePerformed {
    let (reason, redactions) = reason_kept(tenant.salts().rules(), &asked.reason);
    ErasurePerformed {
        erased: doomed.iter().map(|doomed| doomed.kept.clone()).collect(),
        only: asked.only,
        principal: asked.principal.clone(),
        reason,
        redactions,
    }
}

/// Keeps by what records are known again whose identity is their content, and imported provenance logs. On the
/// sequencer's thread, so that nobody else names a record so.
fn known_again(ledger: &Ledger, tenant: &Tenant, plan: &mut Plan) -> Result<(), EraseError> {
    for doomed in &mut plan.doomed {
        let Some(content) = doomed.content else { continue };
        let is_log = doomed.kind == Kind::ProvenanceLog;
        // Without a row in a run nothing else is looked up by its identity.
        if !is_log && doomed.row.run_record.is_none() {
            continue;
        }
        let what = match ledger.inner.erased_key.keep(&tenant.tenant_id, content) {
            Ok(keyed) => {
                if is_log {
                    doomed.row.facets_gained.push(facet::erased_log(keyed));
                } else if let Some(row) = doomed.row.run_record.as_mut() {
                    // The repeat of what was erased before, written while the key was away: the first keeps the name.
                    let named = ledger.store().run_record_find(row.run, &keyed)?;
                    if named.is_some_and(|named| named.leaf != row.leaf) {
                        continue;
                    }
                    row.identity = Some(keyed);
                }
                doomed.kept.identity = Some(keyed);
                "a keyed hash of it, by which a repeat is known: who may send one, or has keys/erased.key, can test a guess"
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

/// Whether nothing came in between: no record of the run, and no body of it, or of what goes, is gone. What became of
/// other runs does not matter.
fn still_holds(store: &dyn Store, tenant: &Tenant, plan: &Plan) -> Result<bool, EraseError> {
    if plan.of.is_some_and(|run| tenant.erased_since(plan.erasures, run)) {
        return Ok(false);
    }
    let leaves: Vec<LeafKey> = plan.doomed.iter().map(|doomed| doomed.row.leaf).collect();
    if store.bodies_there(&leaves)?.len() != leaves.len() {
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
        if let Some(what) = doomed.held_by.holds(ledger.store(), tenant.tenant_no)? {
            return Err(EraseError::Held { record_id, what });
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
    // Before anything is read: what comes after it is seen.
    let erasures = tenant.erasures();
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
    let is_kept = !is_erasable(&header)
        || header.kind == Kind::SystemRecord
            && is_verdict_of_verification(&header, &facts_of(record.leaf, &header, body)?);
    if is_kept {
        return Err(EraseError::Kept(header.kind.as_str()));
    }
    let mut plan = Plan {
        doomed: vec![doom(record.leaf, &header, body)?],
        of: None,
        run: None,
        read: 0,
        erasures,
        remains: Vec::new(),
    };
    let hashes = Hashes::of(header.kind, body);
    let run = match &header.run {
        None => None,
        Some(run) => store.run_find(tenant.tenant_no, &run.run_id)?,
    };
    if let Some(run) = run {
        plan.of = Some(run.key);
        with_run(ledger, &mut plan, run, asked.only, &header, &hashes)?;
    }
    elsewhere(ledger, tenant, &hashes, &mut plan)?;
    plan.remains.extend(always_left(&header));
    performed(tenant, asked, &plan.doomed).check()?;
    may_go(ledger, tenant, &plan.doomed, at)?;
    Ok(plan)
}

fn facts_of(leaf: LeafKey, header: &Header<'_>, body: &[u8]) -> Result<Facts, EraseError> {
    Facts::read(header, body).map_err(|error| {
        let reason = error.to_string();
        let leaf = leaf.leaf_index();
        RecordError::Body { leaf, reason }.into()
    })
}

fn doom(leaf: LeafKey, header: &Header<'_>, body: &[u8]) -> Result<Doomed, EraseError> {
    let facts = facts_of(leaf, header, body)?;
    let kept = ErasedRecord::of(header, &facts, body);
    let (before, after) = (
        facts.facets(header),
        facet::erased(header, kept.incident.as_ref(), kept.identity),
    );
    let content = match (kept.identity, &facts) {
        (Some(_), _) => None,
        (None, Facts::Provenance(log)) => log.identity(),
        (None, facts) => Identity::of_record(header, facts, body),
    };
    Ok(Doomed {
        kept,
        kind: header.kind,
        recorded_at: header.recorded_at,
        held_by: Holders::of(header, &before),
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
        left.insert(
            1,
            "where the step stood: its index, or its span's ids, and that a root had ended",
        );
    }
    if header.kind == Kind::IncidentEvent {
        left.insert(1, "which incident it is of, and what happened to it");
    }
    left.into_iter()
        .map(|what| Remains { record: None, what })
        .collect()
}
