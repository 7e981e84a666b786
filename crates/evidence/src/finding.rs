//! Findings: what a verification found, one by one.
//!
//! Bad evidence is a finding, never an error. All findings are collected; each
//! names the table or file, the leaf, the record and what disagrees, so that the
//! reader knows where to look.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::RecordId;

/// What kind of disagreement was found. Names are stable: scripts read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingCode {
    /// A body does not open its commitment.
    CommitmentMismatch,
    /// A body is gone and no record says that it was erased.
    BodyMissing,
    /// A record says that a body was erased, and it is still there.
    ErasureIncomplete,
    /// An archive is missing, or another than its record says.
    ArchiveMismatch,
    /// A body stands where no leaf is.
    BodyUnexpected,
    /// Stored bytes cannot be read: cut, or not what their column holds.
    Unreadable,
    /// A leaf is no record header, or one of another ledger or place.
    LeafMalformed,
    /// A stored root or node is not the root of the leaves before it.
    RootMismatch,
    /// Leaves are missing, doubled or out of order.
    LeafGap,
    /// A checkpoint's signature, name or key is wrong.
    CheckpointInvalid,
    /// A checkpoint is no prefix of the tree.
    CheckpointInconsistent,
    /// The tree is smaller than what was signed or marked before.
    RolledBack,
    /// A run's records are not 0, 1, 2 … without gap.
    RunSeqGap,
    /// A projected row is missing.
    ProjectionMissing,
    /// A projected row has no record behind it.
    ProjectionUnexpected,
    /// A projected column disagrees with the records.
    ProjectionMismatch,
    /// The same identity stands in two records.
    IdentityDoubled,
    /// A job's events are not the chain that they claim to be.
    JobChainBroken,
    /// A run's seal stands on other records than those before it.
    SealMismatch,
    /// A dictionary's bytes are not those of its version.
    DictionaryMismatch,
    /// The schema has another table, column, index or trigger than this version makes.
    SchemaMismatch,
    /// A key file is missing, unreadable, or not the ledger's.
    KeyMismatch,
    /// The database itself is damaged.
    StoreDamaged,
    /// A trigger that refuses changes is missing (a warning).
    TriggerMissing,
    /// More was marked as signed than a checkpoint is kept of: a crash came in between, or the newest was
    /// removed (a warning).
    CheckpointMissing,
}

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Evidence stands; something around it should be mended.
    Warning,
    /// Evidence contradicts itself or is damaged.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of disagreement.
    pub code: FindingCode,
    /// How much it weighs.
    pub severity: Severity,
    /// The table, column or file, e.g. `runs.status`.
    pub place: String,
    /// The tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// The leaf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf_index: Option<u64>,
    /// The record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_id: Option<RecordId>,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// What disagrees with what, one line.
    pub detail: String,
}

impl Finding {
    /// A finding at a place; the rest is added by the `with_` methods.
    pub fn new(code: FindingCode, place: impl Into<String>, detail: impl Into<String>) -> Self {
        let severity = match code {
            FindingCode::TriggerMissing | FindingCode::CheckpointMissing => Severity::Warning,
            _ => Severity::Error,
        };
        Self {
            code,
            severity,
            place: place.into(),
            tenant_id: None,
            leaf_index: None,
            record_id: None,
            run_id: None,
            detail: detail.into(),
        }
    }

    /// Names the tenant.
    #[must_use]
    pub fn with_tenant(mut self, tenant_id: &str) -> Self {
        self.tenant_id = Some(tenant_id.to_owned());
        self
    }

    /// Names the leaf.
    #[must_use]
    pub fn with_leaf(mut self, leaf_index: u64) -> Self {
        self.leaf_index = Some(leaf_index);
        self
    }

    /// Names the record.
    #[must_use]
    pub fn with_record(mut self, record_id: RecordId) -> Self {
        self.record_id = Some(record_id);
        self
    }

    /// Names the run.
    #[must_use]
    pub fn with_run(mut self, run_id: &str) -> Self {
        self.run_id = Some(run_id.to_owned());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = serde_json::to_value(self.code).unwrap_or_default();
        write!(f, "{} {}", code.as_str().unwrap_or_default(), self.place)?;
        if let Some(tenant_id) = &self.tenant_id {
            write!(f, " tenant {tenant_id}")?;
        }
        if let Some(leaf_index) = self.leaf_index {
            write!(f, " leaf {leaf_index}")?;
        }
        if let Some(record_id) = self.record_id {
            write!(f, " record {record_id}")?;
        }
        if let Some(run_id) = &self.run_id {
            write!(f, " run {run_id}")?;
        }
        write!(f, ": {}", self.detail)
    }
}
