//! Placing a batch: which drafts are new, where they stand, what the runs add up to.
//!
//! Pure but for one lookup: given what the store knows, everything else is
//! decided in memory, in the order in which drafts came.
//!
//! Start at [`Placer`].

mod group;
mod known;

use std::collections::HashMap;
use std::sync::Arc;

use evidence::record::{Facts, StepFacts};
use evidence::{
    ActorType, Identity, Kind, LEAF_BYTES_MAX, Origin, RecordId, RunPlace, RunState, SourceDomain, Timestamp,
};
use store::{
    Batch, BodyRow, FacetRow, Head, LeafBlock, LeafKey, NodeRow, RunKey, RunRecordRow, RunRow, Store,
    StoreError, TenantRow, TraceKey, TraceRow, codec,
};
use tlog::{Frontier, Hash};

use self::known::{Earlier, query_of};
use crate::draft::{Bind, SealedBody, TraceBind};
use crate::erased_key::ErasedKey;
use crate::tree::TreeError;
use crate::{Draft, Placed, Receipt, Rejection, Salts, Tenant};

/// A run as this batch sees it.
struct Slot {
    row: RunRow,
    touched: bool,
}

/// Places drafts of one ledger, one batch long.
pub(crate) struct Placer<'a> {
    store: &'a dyn Store,
    tenant: &'a Tenant,
    ledger_no: u32,
    frontier: Frontier,
    random: &'a mut Salts,
    next_run: u64,
    last_recorded_at: Timestamp,
    /// As what drafts are on record if the same was erased before, by what their content names them.
    erased_as: HashMap<Identity, Identity>,
    batch: Batch,
    entries: Vec<u8>,
    entries_first: u64,
    entries_count: u32,
    leaf: Vec<u8>,
    slots: HashMap<RunKey, Slot>,
    by_id: HashMap<Arc<str>, RunKey>,
    by_trace: HashMap<TraceKey, RunKey>,
    /// Of earlier batches.
    earlier: HashMap<(RunKey, Identity), Earlier>,
    /// Of this batch: the receipt (its tree size is set at the end) and what was sent.
    placed: HashMap<(RunKey, Identity), (Receipt, Option<[u8; 32]>)>,
}

/// Why a batch could not be placed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// What is placed under, whatever the drafts.
pub(crate) struct Place<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) tenant: &'a Tenant,
    pub(crate) ledger_no: u32,
    pub(crate) head: Head,
    pub(crate) frontier: Frontier,
    pub(crate) next_run: u64,
    /// Of the newest leaf: none is recorded before it.
    pub(crate) last_recorded_at: Timestamp,
    /// By which records are known again whose identity went with their body.
    pub(crate) erased_key: &'a ErasedKey,
}

/// What a batch leaves behind for the next.
pub(crate) struct After {
    pub(crate) frontier: Frontier,
    pub(crate) next_run: u64,
    pub(crate) last_recorded_at: Timestamp,
}

impl<'a> Placer<'a> {
    /// Asks the store for all that the drafts are about, once.
    pub(crate) fn new<'d>(
        place: Place<'a>,
        random: &'a mut Salts,
        drafts: impl Iterator<Item = &'d Draft> + Clone,
    ) -> Result<Self, PlaceError> {
        let Place {
            store,
            tenant,
            ledger_no,
            head,
            frontier,
            next_run,
            last_recorded_at,
            erased_key,
        } = place;
        let erased_as: HashMap<Identity, Identity> = drafts
            .clone()
            .filter_map(|draft| draft.identity.zip(erased_key.known_as(&tenant.tenant_id, draft)))
            .collect();
        let query = query_of(drafts, &erased_as);
        let known = store.batch_lookup(tenant.tenant_no, &query)?;
        let mut placer = Self {
            store,
            tenant,
            ledger_no,
            entries_first: head.size.as_u64(),
            frontier,
            random,
            next_run,
            last_recorded_at,
            erased_as,
            batch: Batch::new(ledger_no, tenant.tenant_no, head),
            entries: Vec::with_capacity(codec::BLOCK_LEAVES_MAX * 512),
            entries_count: 0,
            leaf: Vec::with_capacity(1024),
            slots: HashMap::with_capacity(known.runs.len()),
            by_id: HashMap::new(),
            by_trace: HashMap::new(),
            earlier: HashMap::new(),
            placed: HashMap::new(),
        };
        placer.take_known(known);
        Ok(placer)
    }

    /// Places one draft, received `at`.
    ///
    /// # Errors
    /// Outer: the store cannot say. Inner: the draft is refused, and nothing of it stays but, of a trace not seen
    /// before, its run.
    pub(crate) fn place(
        &mut self,
        draft: &Draft,
        at: Timestamp,
    ) -> Result<Result<Placed, Rejection>, PlaceError> {
        // Requests overtake one another on their way here, and clocks are set back: the order of leaves stays
        // the order of their times.
        let at = at.max(self.last_recorded_at);
        let run = match &draft.bind {
            Bind::None => None,
            Bind::Run(run_id) => match self.by_id.get(run_id.as_ref()) {
                Some(&run) => Some(run),
                None => return Ok(Err(Rejection::RunUnknown)),
            },
            Bind::NewRun(run_id) => match self.by_id.get(run_id.as_ref()) {
                Some(&run) => Some(run),
                None => return Ok(self.start_run(draft, run_id, at)),
            },
            Bind::Trace(trace) => {
                let run = match self.run_of_trace(trace, at) {
                    Ok(run) => run,
                    Err(rejection) => return Ok(Err(rejection)),
                };
                for identity in draft.identity.into_iter().chain(self.erased_as(draft)) {
                    self.ask_environment(run, identity, trace, draft.kind)?;
                }
                Some(run)
            }
        };
        if let (Some(run), Some(identity)) = (run, draft.identity)
            && let Some(outcome) = self.known(run, identity, draft)?
        {
            return Ok(outcome);
        }
        if let Some(rejection) = run.and_then(|run| self.refused(run, draft)) {
            return Ok(Err(rejection));
        }
        let written = self.write(draft, run, at);
        // A trace is bound by the first record that names it: one that no leaf names could not be derived again. What is
        // noted of a trace names it for people only.
        let names_trace = matches!(draft.kind, Kind::TraceStep | Kind::EvidenceEnvironment);
        if let (Ok(_), Bind::Trace(trace), Some(run), true) = (&written, &draft.bind, run, names_trace) {
            self.bind_trace(TraceKey::W3c(trace.trace_id), run);
        }
        Ok(written)
    }

    fn bind_trace(&mut self, trace: TraceKey, run: RunKey) {
        if let std::collections::hash_map::Entry::Vacant(place) = self.by_trace.entry(trace) {
            self.batch.traces.push(TraceRow {
                trace: place.key().clone(),
                run,
            });
            place.insert(run);
        }
    }

    /// Why a run may not take a draft that it does not know.
    fn refused(&self, run: RunKey, draft: &Draft) -> Option<Rejection> {
        let state = &self.slots.get(&run)?.row.state;
        let ended = match &draft.facts {
            // Spans come when they come; REST steps keep to the run's life.
            Facts::Step(StepFacts { span: None, .. }) | Facts::RunCompleted(_) => state.ended(),
            Facts::TraceEnded(end) => state.settled || (end.aborted && state.ended()),
            _ => false,
        };
        if ended {
            return Some(Rejection::RunEnded);
        }
        if is_posted_evidence(draft) {
            let seal = (run, Identity::once(Kind::EvidenceIntegrity));
            if self.placed.contains_key(&seal) || self.earlier.contains_key(&seal) {
                return Some(Rejection::RunSealed);
            }
        }
        draft
            .expect_run_seq
            .filter(|seen| seen.run_seq != state.record_count || self.tenant.erased_since(seen.erasures, run))
            .map(|_| Rejection::RunMoved)
    }

    /// The run of a trace, started when new.
    fn run_of_trace(&mut self, trace: &TraceBind, at: Timestamp) -> Result<RunKey, Rejection> {
        if let Some(&run) = self.by_trace.get(&TraceKey::W3c(trace.trace_id)) {
            return Ok(run);
        }
        match self.by_id.get(trace.run_id.as_ref()) {
            Some(&run) => Ok(run),
            None => self.start_run_of_spans(trace, at),
        }
    }

    fn start_run_of_spans(&mut self, trace: &TraceBind, at: Timestamp) -> Result<RunKey, Rejection> {
        let trace_id: Arc<str> = evidence::hex_string(&trace.trace_id).into();
        let body = trace.start.encode(None);
        let body = SealedBody::seal(Kind::RunStarted, self.random.next_salt(), &body)
            .map_err(|_| Rejection::LeafTooLarge)?;
        let facts = trace.start.facts(
            &trace.run_id,
            &trace_id,
            trace.correlation_id.as_deref(),
            trace.started_at,
            true,
        );
        let draft = Draft {
            kind: Kind::RunStarted,
            bind: Bind::NewRun(Arc::clone(&trace.run_id)),
            identity: Some(Identity::once(Kind::RunStarted)),
            content: None,
            trace_id: Some(trace_id),
            correlation_id: trace.correlation_id.clone(),
            actor: (ActorType::Agent, trace.start.agent_id.as_deref().map(Arc::from)),
            occurred_at: trace.started_at,
            source_domain: SourceDomain::Activity,
            source_component: "otlp",
            origin: Origin::Agent,
            body,
            facts: Facts::RunStarted(facts),
            expect_run_seq: None,
        };
        self.start_run(&draft, &trace.run_id, at)?;
        self.by_id
            .get(trace.run_id.as_ref())
            .copied()
            .ok_or(Rejection::RunUnknown)
    }

    fn start_run(&mut self, draft: &Draft, run_id: &Arc<str>, at: Timestamp) -> Result<Placed, Rejection> {
        let Facts::RunStarted(facts) = &draft.facts else {
            return Err(Rejection::RunUnknown);
        };
        let key = RunKey::new(self.tenant.tenant_no, self.next_run);
        let started_leaf = LeafKey::new(self.ledger_no, self.frontier.size().as_u64());
        // The fold counts this record too; `write` applies it as the first.
        let mut state = RunState::start(facts, at);
        state.record_count = 0;
        self.slots.insert(
            key,
            Slot {
                row: RunRow {
                    key,
                    started_leaf,
                    state,
                },
                touched: true,
            },
        );
        self.by_id.insert(Arc::clone(run_id), key);
        let placed = match self.write(draft, Some(key), at) {
            Ok(placed) => placed,
            Err(rejection) => {
                self.slots.remove(&key);
                self.by_id.remove(run_id);
                return Err(rejection);
            }
        };
        self.next_run += 1;
        if !facts.otlp {
            // A trace that is another run's already stays with it.
            self.bind_trace(TraceKey::parse(&facts.trace_id), key);
        }
        Ok(placed)
    }

    /// Gives a draft the next leaf.
    fn write(&mut self, draft: &Draft, run: Option<RunKey>, at: Timestamp) -> Result<Placed, Rejection> {
        let index = self.frontier.size().next_index();
        let salt = draft.body.salt;
        // The salt is random and never shown with the id, so 34 of its hashed bits serve as the id's random bits.
        let random = u64::from_le_bytes(first_eight(&evidence::sha256(&salt)));
        let id = RecordId::new(at, index, random).ok_or(Rejection::LeafTooLarge)?;
        let slot = run.and_then(|run| self.slots.get_mut(&run));
        let run_place = slot
            .as_ref()
            .filter(|_| draft.kind.is_of_run())
            .map(|slot| RunPlace {
                run_id: slot.row.state.run_id.as_str().into(),
                run_seq: slot.row.state.record_count,
            });
        let header = draft.header(id, &self.tenant.tenant_id, run_place, at);
        self.leaf.clear();
        header.encode(&mut self.leaf);
        if self.leaf.len() > LEAF_BYTES_MAX {
            return Err(Rejection::LeafTooLarge);
        }
        let run_seq = header.run.as_ref().map(|run| run.run_seq);
        let leaf_key = LeafKey::new(self.ledger_no, index.as_u64());
        let facts = draft.facts(&header)?;
        let facets = facts.facets(&header);
        drop(header);
        // From here on nothing fails.
        self.last_recorded_at = at;
        self.batch.facets.extend(facets.into_iter().map(|facet| FacetRow {
            facet,
            leaf: leaf_key,
        }));
        if let (Some(slot), Some(run_seq)) = (slot, run_seq) {
            slot.touched = true;
            if run_seq == 0 {
                if let (true, Facts::RunStarted(start)) = (draft.body.redacted, &*facts) {
                    // The run begins with what stands in its record, not with what its maker knew.
                    slot.row.state = RunState::start(start, at);
                }
                slot.row.state.record_count = 1;
            } else {
                slot.row.state.apply(&facts, draft.correlation_id.as_deref(), at);
            }
            self.batch.run_records.push(RunRecordRow {
                run: slot.row.key,
                run_seq,
                leaf: leaf_key,
                kind: draft.kind,
                identity: draft.identity,
                step_index: facts.step_index(),
                occurred_at: draft.occurred_at,
            });
        }
        if let Facts::TenantCreated(tenant) = &*facts {
            let (tenant_no, tenant_id) = (tenant.tenant_no, tenant.tenant_id.clone());
            self.batch.tenants.push(TenantRow {
                tenant_no,
                tenant_id,
                leaf: leaf_key,
            });
        }
        self.batch.bodies.push(BodyRow {
            leaf: leaf_key,
            salt,
            body: draft.body.packed.clone(),
        });
        let leaf_hash = self.push_leaf();
        let receipt = Receipt {
            record_id: id,
            leaf_index: index.as_u64(),
            leaf_hash,
            tree_size: index.as_u64() + 1,
        };
        if let (Some(run), Some(identity)) = (run, draft.identity) {
            self.placed.insert((run, identity), (receipt, draft.content));
        }
        Ok(Placed { receipt, fresh: true })
    }

    fn push_leaf(&mut self) -> Hash {
        let leaf_hash = tlog::leaf_hash(&self.leaf);
        let nodes = &mut self.batch.nodes;
        self.frontier.push_with(leaf_hash, |level, index, hash| {
            if level.is_multiple_of(8) {
                nodes.push(NodeRow {
                    level: level / 8,
                    index,
                    hash,
                });
            }
        });
        codec::push_leaf(&mut self.entries, &self.leaf);
        self.entries_count += 1;
        // Blocks end where tiles end, so that a full tile is few blocks.
        let size = self.frontier.size().as_u64();
        if size.is_multiple_of(crate::tree::TILE_WIDTH) {
            self.close_block();
        }
        leaf_hash
    }

    fn close_block(&mut self) {
        if self.entries_count == 0 {
            return;
        }
        self.batch.blocks.push(LeafBlock {
            first: self.entries_first,
            count: self.entries_count,
            root: self.frontier.root(),
            leaves: codec::pack_block(&self.entries),
        });
        self.entries.clear();
        self.entries_count = 0;
        self.entries_first = self.frontier.size().as_u64();
    }

    /// The batch to append, and what the next one goes on from.
    pub(crate) fn finish(mut self) -> (Batch, After) {
        self.close_block();
        self.batch.runs = self
            .slots
            .into_values()
            .filter(|slot| slot.touched)
            .map(|slot| slot.row)
            .collect();
        // Sorted, so that a store writes side by side.
        self.batch.runs.sort_unstable_by_key(|row| row.key);
        self.batch
            .run_records
            .sort_unstable_by_key(|row| (row.run, row.run_seq));
        self.batch.traces.sort_unstable_by(|a, b| a.trace.cmp(&b.trace));
        self.batch.facets.sort_unstable();
        let after = After {
            frontier: self.frontier,
            next_run: self.next_run,
            last_recorded_at: self.last_recorded_at,
        };
        (self.batch, after)
    }
}

/// Evidence that stands by itself and that a sealed run takes no more (SPEC 6.1, 6.3), provenance logs included. What
/// came with spans is late.
fn is_posted_evidence(draft: &Draft) -> bool {
    matches!(draft.bind, Bind::Run(_))
        && draft.source_component != "otlp"
        && matches!(
            draft.kind,
            Kind::EvidenceEnvironment
                | Kind::EvidenceActivity
                | Kind::EvidenceProvider
                | Kind::EvidencePolicyDecision
                | Kind::EvidenceCaptureFailure
                | Kind::LineageEvidence
                | Kind::LineageDeterministic
                | Kind::LineageAiOutput
                | Kind::LineageAiMetrics
                | Kind::ProvenanceLog
        )
}

fn first_eight(bytes: &[u8; 32]) -> [u8; 8] {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[..8]);
    eight
}
