//! One leaf and its body: hash, commitment, and what they say.

use std::borrow::Cow;
use std::sync::Arc;

use evidence::record::{BODY_BYTES_MAX, ErasedRecord, Facts, StepFacts, TENANT_COMPONENT};
use evidence::{Finding, FindingCode, Header, Identity, Kind, RecordId, Salt, Timestamp, facet};
use store::codec::Unpacker;
use store::{BodyRef, LeafKey, TraceKey};
use tlog::Hash;

use super::{Erasures, Gone};
use crate::INSTANCE;

/// A leaf after it was looked at.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) hash: Hash,
    /// Its body is gone, and a record says so.
    pub(crate) erased: bool,
    /// Its body is gone because it was archived, and the archive is not at hand.
    pub(crate) pruned: bool,
    /// `None`: no header could be read, or only the ledger is verified and the record makes no tenant.
    pub(crate) said: Option<Said>,
}

/// What a record says to projections.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) id: RecordId,
    pub(crate) leaf_hash: Hash,
    pub(crate) kind: Kind,
    pub(crate) run: Option<(String, u64)>,
    /// Of an environment that came with spans, and of an erased span: the trace that it belongs to, and that it may
    /// be the first to name.
    pub(crate) trace_of: Option<[u8; 16]>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) occurred_at: Timestamp,
    pub(crate) recorded_at: Timestamp,
    pub(crate) identity: Option<Identity>,
    /// Whether the body could be read; without it the record is counted, and its run is not judged.
    pub(crate) readable: bool,
    /// It could not be read because its archive is not at hand.
    pub(crate) pruned: bool,
    pub(crate) facts: Facts,
    /// Without the body only what the header says.
    pub(crate) facets: Vec<String>,
}

/// What every leaf of a ledger is held against.
#[derive(Debug)]
pub(crate) struct Examiner<'r> {
    tenant_id: Arc<str>,
    /// Hashes and commitments only.
    only_ledger: bool,
    unpacker: Unpacker<'r>,
    erasures: &'r Erasures<'r>,
    ledger_no: u32,
    /// Leaves looked at since what was left open was settled.
    looked: usize,
    /// Leaves without body of which no erasure is known yet: the how manieth, its index, itself.
    missing: Vec<(usize, u64, Vec<u8>)>,
    /// Leaves with a body that a record erased.
    unerased: Vec<(u64, RecordId)>,
}

impl<'r> Examiner<'r> {
    pub(crate) fn new(
        tenant_id: Arc<str>,
        only_ledger: bool,
        unpacker: Unpacker<'r>,
        erasures: &'r Erasures<'r>,
        ledger_no: u32,
    ) -> Self {
        Self {
            tenant_id,
            only_ledger,
            unpacker,
            erasures,
            ledger_no,
            looked: 0,
            missing: Vec::new(),
            unerased: Vec::new(),
        }
    }

    pub(crate) fn tenant_id(&self) -> &str {
        &self.tenant_id
    }

    /// Looks at one leaf at once, where the store may be asked.
    pub(crate) fn examine(
        &mut self,
        index: u64,
        leaf: &[u8],
        body: Option<BodyRef<'_>>,
        findings: &mut Vec<Finding>,
    ) -> Examined {
        let examined = self.look(index, leaf, body, findings);
        match self.settle(findings).pop() {
            Some((_, settled)) => settled,
            None => examined,
        }
    }

    /// Settles what [`Examiner::look`] left open since the last time, by asking the store: gives leaves whose body is
    /// missing, in order, as they are now known, each with the how manieth it was, from 0.
    pub(crate) fn settle(&mut self, findings: &mut Vec<Finding>) -> Vec<(usize, Examined)> {
        self.looked = 0;
        for (index, record_id) in std::mem::take(&mut self.unerased) {
            if self.erasures.is_there(LeafKey::new(self.ledger_no, index)) {
                let detail = "a record says that this body was erased, and it is there".to_owned();
                let finding = Finding::new(FindingCode::ErasureIncomplete, "bodies", detail);
                let finding = finding.with_tenant(&self.tenant_id).with_leaf(index);
                findings.push(finding.with_record(record_id));
            }
        }
        let mut settled = Vec::new();
        for (place, index, leaf) in std::mem::take(&mut self.missing) {
            let hash = tlog::leaf_hash(&leaf);
            let Ok(header) = Header::decode(&leaf) else {
                continue;
            };
            let found = self.erasures.find(LeafKey::new(self.ledger_no, index));
            let examined = match found {
                Ok(Some(gone)) => self.gone(index, header, hash, gone, findings),
                // The store could not answer, which is no word about the body: who asked is told that it is not known.
                Err(_) => counted(header, hash, self.only_ledger),
                Ok(None) => {
                    let detail = "no body, and no record says that it was erased";
                    let finding = Finding::new(FindingCode::BodyMissing, "bodies", detail);
                    let finding = finding.with_tenant(&self.tenant_id).with_leaf(index);
                    findings.push(finding.with_record(header.id));
                    counted(header, hash, self.only_ledger)
                }
            };
            settled.push((place, examined));
        }
        settled
    }

    /// Of a record whose body a record took away.
    fn gone(
        &self,
        index: u64,
        header: Header<'_>,
        hash: Hash,
        gone: Gone,
        findings: &mut Vec<Finding>,
    ) -> Examined {
        let Gone::Erased(kept) = gone else {
            let archived = self.erasures.archived(LeafKey::new(self.ledger_no, index));
            return match archived {
                Some((salt, body)) => {
                    let place = (&*self.tenant_id, index);
                    opened(place, header, hash, (&salt, &body), self.only_ledger, findings)
                }
                None => Examined {
                    hash,
                    erased: false,
                    pruned: true,
                    said: (!self.only_ledger).then(|| Said::pruned(header, hash)),
                },
            };
        };
        self.erased(header, hash, &kept)
    }

    /// Of a record whose body a record erased.
    fn erased(&self, header: Header<'_>, hash: Hash, kept: &ErasedRecord) -> Examined {
        let said = (!self.only_ledger).then(|| Said::erased(header, hash, kept));
        Examined {
            hash,
            erased: true,
            pruned: false,
            said,
        }
    }

    /// Looks at one leaf, without asking the store. Findings name tenant, leaf and, once it is known, the record.
    pub(crate) fn look(
        &mut self,
        index: u64,
        leaf: &[u8],
        body: Option<BodyRef<'_>>,
        findings: &mut Vec<Finding>,
    ) -> Examined {
        let place = self.looked;
        self.looked += 1;
        let hash = tlog::leaf_hash(leaf);
        let tenant_id = Arc::clone(&self.tenant_id);
        let finding = |code, place: &str, detail: String| {
            Finding::new(code, place, detail)
                .with_tenant(&tenant_id)
                .with_leaf(index)
        };
        let header = match Header::decode(leaf) {
            Ok(header) => header,
            Err(error) => {
                findings.push(finding(
                    FindingCode::LeafMalformed,
                    "leaf_blocks.leaves",
                    error.to_string(),
                ));
                return Examined {
                    hash,
                    erased: false,
                    pruned: false,
                    said: None,
                };
            }
        };
        let id = header.id;
        if id.leaf_index().as_u64() != index {
            let detail = format!("the record's id names leaf {}", id.leaf_index().as_u64());
            findings.push(finding(FindingCode::LeafMalformed, "leaf_blocks.leaves", detail).with_record(id));
        }
        if header.tenant_id != *tenant_id {
            let detail = format!("the record is of tenant {}", header.tenant_id);
            findings.push(finding(FindingCode::LeafMalformed, "leaf_blocks.leaves", detail).with_record(id));
        }
        let erased = self.erasures.known(LeafKey::new(self.ledger_no, index));
        let Some(row) = body else {
            if let Some(gone) = erased {
                return self.gone(index, header, hash, gone, findings);
            }
            self.missing.push((place, index, leaf.to_vec()));
            return counted(header, hash, self.only_ledger);
        };
        if erased.is_some() {
            self.unerased.push((index, id));
        }
        let only_ledger = self.only_ledger;
        match self.unpacker.unpack(row.body, BODY_BYTES_MAX) {
            Ok(body) => opened(
                (&tenant_id, index),
                header,
                hash,
                (&row.salt, body),
                only_ledger,
                findings,
            ),
            Err(error) => {
                findings
                    .push(finding(FindingCode::Unreadable, "bodies.body", error.to_string()).with_record(id));
                counted(header, hash, only_ledger)
            }
        }
    }
}

/// Without its body a record still has its place; its run goes on, unjudged.
fn counted(header: Header<'_>, hash: Hash, only_ledger: bool) -> Examined {
    let said = (!only_ledger).then(|| Said::of(header, hash, None, Facts::Other, false));
    Examined {
        hash,
        erased: false,
        pruned: false,
        said,
    }
}

/// Whether a record may be one that makes a tenant. Which were made is asked where no projection is, too: a tenant whose
/// rows are all gone has nothing else that speaks of it.
fn may_make_tenant(header: &Header<'_>) -> bool {
    header.kind == Kind::SystemRecord
        && header.tenant_id == INSTANCE
        && header.source_component == TENANT_COMPONENT
}

/// Of a record and its body.
fn opened(
    (tenant_id, index): (&str, u64),
    header: Header<'_>,
    hash: Hash,
    (salt, body): (&Salt, &[u8]),
    only_ledger: bool,
    findings: &mut Vec<Finding>,
) -> Examined {
    let id = header.id;
    let finding = |code, detail: String| {
        Finding::new(code, "bodies.body", detail)
            .with_tenant(tenant_id)
            .with_leaf(index)
            .with_record(id)
    };
    if evidence::commitment(salt, header.kind, body) != header.commitment {
        let detail = "salt and body do not open the leaf's commitment".to_owned();
        findings.push(finding(FindingCode::CommitmentMismatch, detail));
        return counted(header, hash, only_ledger);
    }
    if only_ledger && !may_make_tenant(&header) {
        return Examined {
            hash,
            erased: false,
            pruned: false,
            said: None,
        };
    }
    match Facts::read(&header, body) {
        Ok(facts) => {
            let identity = Identity::of_record(&header, &facts, body);
            Examined {
                hash,
                erased: false,
                pruned: false,
                said: Some(Said::of(header, hash, identity, facts, true)),
            }
        }
        Err(error) => {
            findings.push(finding(FindingCode::Unreadable, error.to_string()));
            counted(header, hash, only_ledger)
        }
    }
}

impl Said {
    /// Of a record whose body is erased: what its header says, and what its erasure kept.
    fn erased(header: Header<'_>, leaf_hash: Hash, kept: &ErasedRecord) -> Self {
        let facts = Facts::erased(&header, kept);
        let facets = facet::erased(&header, kept.incident.as_ref(), kept.identity);
        let trace = trace_of_span(&header);
        // A provenance log is known again by its facet: within a run it has no identity.
        let identity = kept.identity.filter(|_| header.kind != Kind::ProvenanceLog);
        let mut said = Self::of(header, leaf_hash, identity, facts, true);
        said.facets = facets;
        said.trace_of = said.trace_of.or(trace);
        said
    }

    /// Of a record whose archive is not at hand: what its header says. That is all that traces are made of.
    fn pruned(header: Header<'_>, leaf_hash: Hash) -> Self {
        let facts = match header.kind {
            // Of these as much is known as of an erased one.
            Kind::RunStarted | Kind::TraceCompleted | Kind::TraceAborted => {
                Facts::erased(&header, &ErasedRecord::unknown(header.id))
            }
            _ => Facts::Other,
        };
        let trace = trace_of_span(&header);
        let mut said = Self::of(header, leaf_hash, None, facts, false);
        said.trace_of = said.trace_of.or(trace);
        said.pruned = true;
        said
    }

    /// The trace that it may be the first to name.
    pub(crate) fn trace(&self) -> Option<TraceKey> {
        match &self.facts {
            Facts::RunStarted(facts) => (!facts.otlp).then(|| TraceKey::parse(&facts.trace_id)),
            Facts::Step(StepFacts {
                span: Some((trace, _)),
                ..
            }) => Some(TraceKey::W3c(*trace)),
            _ => self.trace_of.map(TraceKey::W3c),
        }
    }

    fn of(
        header: Header<'_>,
        leaf_hash: Hash,
        identity: Option<Identity>,
        facts: Facts,
        readable: bool,
    ) -> Self {
        let facets = facts.facets(&header);
        let trace = header
            .trace_id
            .as_deref()
            .filter(|_| header.kind == Kind::EvidenceEnvironment);
        let trace_of = match trace.map(TraceKey::parse) {
            Some(TraceKey::W3c(id)) => Some(id),
            _ => None,
        };
        Self {
            id: header.id,
            leaf_hash,
            kind: header.kind,
            run: header.run.map(|run| (run.run_id.into_owned(), run.run_seq)),
            trace_of,
            correlation_id: header.correlation_id.map(Cow::into_owned),
            occurred_at: header.occurred_at,
            recorded_at: header.recorded_at,
            identity,
            readable,
            pruned: false,
            facts,
            facets,
        }
    }
}

/// A span's body names its trace, and so does the header.
fn trace_of_span(header: &Header<'_>) -> Option<[u8; 16]> {
    let is_span = header.kind == Kind::TraceStep && header.source_component == "otlp";
    let trace = header.trace_id.as_deref().filter(|_| is_span)?;
    match TraceKey::parse(trace) {
        TraceKey::W3c(id) => Some(id),
        TraceKey::Text(_) => None,
    }
}
