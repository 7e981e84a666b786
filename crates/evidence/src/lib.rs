//! What a record is, its eternal bytes, and what records add up to.
//!
//! In scope: ids, times, the record header, kinds and bodies, canonical JSON,
//! commitments, identities, the fold of records into a run, findings.
//! Out of scope: the Merkle tree (tlog), opinions about evidence (audit), where
//! bytes are kept (store). No I/O, no clock, no randomness, no logging.
//!
//! Start at [`Header`] and [`record`].

mod by_name;
pub mod canonical;
mod commitment;
mod cost;
pub mod facet;
mod finding;
mod header;
mod id;
mod identity;
pub mod job;
mod kind;
pub mod record;
pub mod redact;
mod run;
pub mod time;

pub use by_name::ByName;
pub use commitment::{Salt, commitment, content_mac, hex, hex_string, sha256, unhex};
pub use cost::NanoCents;
pub use finding::{Finding, FindingCode, Severity};
pub use header::{
    Actor, ActorType, HEADER_VERSION, Header, HeaderError, IDENTIFIER_BYTES_MAX, LEAF_BYTES_MAX, Origin,
    RunPlace, SourceDomain,
};
pub use id::{LEAF_INDEX_BITS, RecordId};
pub use identity::Identity;
pub use kind::Kind;
pub use run::{Declared, ExecutionStatus, RunState, TraceStatus};
pub use time::{GivenTime, TimeError, TimesGiven, Timestamp};
