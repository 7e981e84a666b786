//! Identities: what makes a record of a run the same one when it is sent again.
//!
//! First truth wins (SPEC 3): a record with an identity is written once. An
//! identity is the first 16 bytes of SHA-256 over words that name it within its
//! run; 128 bits leave accidental meetings out of reach, and nobody can meet
//! another tenant's.

use sha2::{Digest, Sha256};

use crate::record::Facts;
use crate::{Header, Kind};

/// The identity of a record within its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity([u8; 16]);

impl Identity {
    /// Of a span.
    pub fn span(trace_id: &[u8; 16], span_id: &[u8; 8]) -> Self {
        Self::of(&[b"span", trace_id, span_id])
    }

    /// Of a step by its index.
    pub fn step(index: u32) -> Self {
        Self::of(&[b"step", &index.to_be_bytes()])
    }

    /// Of a record that a run has once, by its kind: run.started, run.completed, the end of its trace.
    pub fn once(kind: Kind) -> Self {
        // A trace ends once, however it ends.
        let kind = if kind == Kind::TraceAborted {
            Kind::TraceCompleted
        } else {
            kind
        };
        Self::of(&[b"once", kind.as_str().as_bytes()])
    }

    /// Of what a step's activity is, or of the how manieth completion of it.
    pub fn activity(step_index: u32, completion: u8) -> Self {
        Self::of(&[b"activity", &step_index.to_be_bytes(), &[completion]])
    }

    /// Of the provider evidence of a step.
    pub fn provider(step_index: u32) -> Self {
        Self::of(&[b"provider", &step_index.to_be_bytes()])
    }

    /// Of what the server notes once in a run about something.
    pub fn noted(kind: Kind, class: &str, about: &str) -> Self {
        Self::of(&[
            b"noted",
            kind.as_str().as_bytes(),
            class.as_bytes(),
            about.as_bytes(),
        ])
    }

    /// Of the environment that a resource describes; `resource` is its canonical JSON.
    pub fn environment(resource: &[u8]) -> Self {
        Self::of(&[b"environment", resource])
    }

    /// Of a line of an audit log: `digest` is that of its body.
    pub fn lineage(kind: Kind, digest: &[u8; 32]) -> Self {
        Self::of(&[b"lineage", kind.as_str().as_bytes(), digest])
    }

    /// Of an imported provenance log, by the id that it came with and the hash of its input, hex. It is none within a run:
    /// what an erasure keeps of it, under a key, tells the log again.
    pub fn imported_log(id: &str, input_hash: &str) -> Self {
        Self::of(&[b"provenance", input_hash.as_bytes(), id.as_bytes()])
    }

    /// From stored bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The identity of a stored record; `None` for kinds without one.
    pub fn of_record(header: &Header<'_>, facts: &Facts, body: &[u8]) -> Option<Self> {
        match (header.kind, facts) {
            (Kind::TraceStep, Facts::Step(step)) => Some(step.identity()),
            (
                Kind::RunStarted
                | Kind::RunCompleted
                | Kind::TraceCompleted
                | Kind::TraceAborted
                | Kind::EvidenceIntegrity,
                _,
            ) => Some(Self::once(header.kind)),
            (_, Facts::Lineage(_)) => Some(crate::record::lineage_identity(header.kind, body)),
            (kind, _) => Self::of_body(kind, body),
        }
    }

    /// The identity of a record that has it from its body alone, of no facts; `None`: it has none, or from elsewhere.
    pub fn of_body(kind: Kind, body: &[u8]) -> Option<Self> {
        match kind {
            Kind::EvidenceEnvironment => crate::record::environment_identity(body),
            Kind::EvidenceActivity => {
                crate::record::ActivityEvidence::read(body).map(|activity| activity.identity())
            }
            Kind::EvidenceProvider => crate::record::provider_identity(body),
            Kind::ReplayEnforced => crate::record::replay_identity(body),
            Kind::EvidenceCaptureFailure => crate::record::CaptureFailure::read(body)?.identity(),
            _ => None,
        }
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // Parts have fixed or self-ending lengths per first word; the separator keeps words apart.
            hash.update(part);
            hash.update([0]);
        }
        let digest = hash.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(bytes)
    }
}
