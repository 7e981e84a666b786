//! Row-level lineage: from a figure in a report to the rows of the files it was made from.
//!
//! In scope: the audit log (JSON Lines, SPEC 9.2) that engines write, reading and verifying it, finding the rows
//! that it cites in CSV, JSON, JSON Lines and Parquet files, and three reference engines.
//! Out of scope: the ledger and its records, which are made from lines of such a log (`evidence`, `ledger`);
//! printing and progress bars (`cli`). Files are read and written here; the clock is an argument.
//!
//! A log is written by somebody else, and so are the files that it names. Nothing in them is trusted: every length
//! has a bound, no file outside the given roots is opened, and what is broken is said with its place.
//!
//! Start at [`verify`], [`drill`] and [`engine`].

pub mod ai;
mod audit_log;
pub mod drill;
pub mod engine;
mod feed;
mod file;
mod index;
mod key;
mod line;
mod lines;
mod newest;
mod place;
mod row;
pub mod source;
mod suggest;
mod verify;
mod write;

pub use audit_log::{AppendError, AuditLog, DeterministicRun, EvidenceRef, Params, Record};
pub use file::{OpenError, SourceFile, hash_file};
pub use index::{
    DeterministicSeen, Evidence, EvidenceSeen, GoneLines, Index, LogError, RowIds, newest_may_be_gone, scan,
};
pub use key::{Found, known_key};
pub use line::{LineType, Numbered};
pub use lines::{Lines, RawLine};
pub use newest::newest;
pub use place::{PlaceError, Places};
pub use row::{Cell, Column, JsonRow, Row};
pub use suggest::{Suggestion, suggest};
pub use verify::{
    ArtifactStatus, Finding, FindingKind, HashStatus, SourceStatus, VERIFY_REQUIRED, Verification, and_list,
    verify,
};
pub use write::{RowFormat, RowWriter};

/// A text for a terminal: control characters stand escaped, so that a log cannot write to it.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
