//! One leaf and its body: hash, commitment, and what they say.

use std::borrow::Cow;
use std::sync::Arc;

use evidence::record::{BODY_BYTES_MAX, Facts};
use evidence::{Finding, FindingCode, Header, Identity, Kind, RecordId, Timestamp};
use store::codec::Unpacker;
use store::{BodyRef, TraceKey};
use tlog::Hash;

/// A leaf after it was looked at.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) hash: Hash,
    /// `None`: no header could be read, or only the ledger is verified.
    pub(crate) said: Option<Said>,
}

/// What a record says to projections.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) id: RecordId,
    pub(crate) leaf_hash: Hash,
    pub(crate) kind: Kind,
    pub(crate) run: Option<(String, u64)>,
    /// Of an environment that came with spans: it belongs to their trace, and may come before the first of them.
    pub(crate) environment_of: Option<[u8; 16]>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) occurred_at: Timestamp,
    pub(crate) recorded_at: Timestamp,
    pub(crate) identity: Option<Identity>,
    /// Whether the body could be read; without it the record is counted, and its run is not judged.
    pub(crate) readable: bool,
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
}

impl<'r> Examiner<'r> {
    pub(crate) fn new(tenant_id: Arc<str>, only_ledger: bool, unpacker: Unpacker<'r>) -> Self {
        Self {
            tenant_id,
            only_ledger,
            unpacker,
        }
    }

    pub(crate) fn tenant_id(&self) -> &str {
        &self.tenant_id
    }

    /// Looks at one leaf. Findings name tenant, leaf and, once it is known, the record.
    pub(crate) fn examine(
        &mut self,
        index: u64,
        leaf: &[u8],
        body: Option<BodyRef<'_>>,
        findings: &mut Vec<Finding>,
    ) -> Examined {
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
                return Examined { hash, said: None };
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
        // Without its body a record still has its place; its run goes on, unjudged.
        let only_ledger = self.only_ledger;
        let counted = |header: Header<'_>| {
            let said = (!only_ledger).then(|| Said::of(header, hash, None, Facts::Other, false));
            Examined { hash, said }
        };
        let Some(row) = body else {
            let detail = "no body, and no record says that it was erased".to_owned();
            findings.push(finding(FindingCode::BodyMissing, "bodies", detail).with_record(id));
            return counted(header);
        };
        let body = match self.unpacker.unpack(row.body, BODY_BYTES_MAX) {
            Ok(body) => body,
            Err(error) => {
                findings
                    .push(finding(FindingCode::Unreadable, "bodies.body", error.to_string()).with_record(id));
                return counted(header);
            }
        };
        if evidence::commitment(&row.salt, header.kind, body) != header.commitment {
            let detail = "salt and body do not open the leaf's commitment".to_owned();
            findings.push(finding(FindingCode::CommitmentMismatch, "bodies.body", detail).with_record(id));
            return counted(header);
        }
        if only_ledger {
            return Examined { hash, said: None };
        }
        let facts = match Facts::read(&header, body) {
            Ok(facts) => facts,
            Err(error) => {
                findings
                    .push(finding(FindingCode::Unreadable, "bodies.body", error.to_string()).with_record(id));
                return counted(header);
            }
        };
        let identity = Identity::of_record(&header, &facts, body);
        Examined {
            hash,
            said: Some(Said::of(header, hash, identity, facts, true)),
        }
    }
}

impl Said {
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
        let environment_of = match trace.map(TraceKey::parse) {
            Some(TraceKey::W3c(id)) => Some(id),
            _ => None,
        };
        Self {
            id: header.id,
            leaf_hash,
            kind: header.kind,
            run: header.run.map(|run| (run.run_id.into_owned(), run.run_seq)),
            environment_of,
            correlation_id: header.correlation_id.map(Cow::into_owned),
            occurred_at: header.occurred_at,
            recorded_at: header.recorded_at,
            identity,
            readable,
            facts,
            facets,
        }
    }
}
