//! What a verification says: findings, assurance level, exit code.

use std::collections::{BTreeMap, BTreeSet};

use evidence::{Finding, Severity};
use serde::Serialize;
use store::StoreError;

/// Findings kept; more are counted. A rewritten database has one for every row, and a report of
/// 10,000 lines is read by nobody.
pub const FINDINGS_MAX: usize = 10_000;

/// Errors kept of each tenant, however many others have.
const FINDINGS_EACH: u64 = 100;

/// How much the evidence can carry (SPEC 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Level {
    /// It contradicts itself, or is damaged.
    #[serde(rename = "INVALID")]
    Invalid,
    /// Everything shown is true, but a kept checkpoint is larger: a tail is missing.
    #[serde(rename = "VALID-PREFIX")]
    ValidPrefix,
    /// It agrees with itself and with keys that came with it.
    #[serde(rename = "VALID-SELF-SIGNED")]
    ValidSelfSigned,
    /// And with a key and a checkpoint that the verifier kept.
    #[serde(rename = "VALID-SINCE-KEPT-CHECKPOINT")]
    ValidSinceKeptCheckpoint,
}

impl Level {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "INVALID",
            Self::ValidPrefix => "VALID-PREFIX",
            Self::ValidSelfSigned => "VALID-SELF-SIGNED",
            Self::ValidSinceKeptCheckpoint => "VALID-SINCE-KEPT-CHECKPOINT",
        }
    }

    /// The level of that word.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Invalid,
            Self::ValidPrefix,
            Self::ValidSelfSigned,
            Self::ValidSinceKeptCheckpoint,
        ]
        .into_iter()
        .find(|level| level.as_str().eq_ignore_ascii_case(text))
    }
}

/// One ledger as verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LedgerReport {
    /// Its tenant.
    pub tenant_id: String,
    /// Its origin.
    pub origin: String,
    /// Leaves verified.
    pub tree_size: u64,
    /// Root over them, hex.
    pub tree_root: String,
    /// Size of the newest stored checkpoint that is good.
    pub checkpoint_size: Option<u64>,
    /// Leaves that no checkpoint covers which the key signed that the verifier brought; 0 where none was brought.
    pub unsigned: u64,
    /// Checkpoints looked at, stored and kept.
    pub checkpoints: u64,
    /// The level of this ledger.
    pub level: Level,
    /// Leaves that a `ledger.recovered` of the next epoch declares lost: first and one past the last.
    pub declared_lost: Option<(u64, u64)>,
    /// Records whose body was erased, as a record says.
    pub erased: u64,
    /// Records whose body was archived, and whose archive was not at hand.
    pub pruned: u64,
}

/// A verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The lowest level of the ledgers; `None`: none was looked at.
    pub level: Option<Level>,
    /// The ledgers.
    pub ledgers: Vec<LedgerReport>,
    /// The first [`FINDINGS_MAX`] findings, and beyond them the first few errors of each tenant.
    pub findings: Vec<Finding>,
    /// All findings of severity error.
    pub errors: u64,
    /// All findings of severity warning.
    pub warnings: u64,
    /// What is no finding and must be known (SPEC 2.7): `ERASED n`, `PRUNED n`; `LOST n`, `UNSIGNED n`.
    pub flags: Vec<String>,
    /// The question could not be answered; why.
    pub undecided: Vec<String>,
    /// By tenant, findings of severity error; without a tenant those that concern all.
    #[serde(skip)]
    errors_by_tenant: BTreeMap<Option<String>, u64>,
    /// Tenants about which the question could not be answered.
    #[serde(skip)]
    undecided_tenants: BTreeSet<String>,
    /// The store failed before all was looked at.
    #[serde(skip)]
    is_cut_short: bool,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            level: None,
            ledgers: Vec::new(),
            findings: Vec::new(),
            errors: 0,
            warnings: 0,
            flags: Vec::new(),
            undecided: Vec::new(),
            errors_by_tenant: BTreeMap::new(),
            undecided_tenants: BTreeSet::new(),
            is_cut_short: false,
        }
    }

    /// Findings of severity error that concern a tenant: its own, and those that name none. All are counted,
    /// also those that are not kept.
    pub fn errors_of(&self, tenant_id: &str) -> u64 {
        let of = |tenant: Option<String>| self.errors_by_tenant.get(&tenant).copied().unwrap_or(0);
        of(Some(tenant_id.to_owned())) + of(None)
    }

    /// Whether a tenant's ledger was verified to its end, and undisturbed.
    pub fn is_decided(&self, tenant_id: &str, origin: &str) -> bool {
        !self.is_cut_short
            && !self.undecided_tenants.contains(tenant_id)
            && self.ledgers.iter().any(|ledger| ledger.origin == origin)
    }

    pub(crate) fn undecide(&mut self, tenant_id: &str, why: &str) {
        self.undecided.push(format!("tenant {tenant_id}: {why}"));
        self.undecided_tenants.insert(tenant_id.to_owned());
    }

    /// What was found stands, and nothing else is decided.
    pub(crate) fn cut_short(&mut self, error: &StoreError) {
        self.undecided.push(format!(
            "not all was looked at, as the store could not answer: {error}"
        ));
        self.is_cut_short = true;
    }

    pub(crate) fn add(&mut self, finding: Finding) {
        match finding.severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
        }
        let mut of_tenant = 0;
        if finding.severity == Severity::Error {
            let errors = self
                .errors_by_tenant
                .entry(finding.tenant_id.clone())
                .or_default();
            *errors += 1;
            of_tenant = *errors;
        }
        // One tenant's damage does not hide where another's is.
        if self.findings.len() < FINDINGS_MAX || (1..=FINDINGS_EACH).contains(&of_tenant) {
            self.findings.push(finding);
        }
    }

    /// The exit code of SPEC 2.7: 0 complete, 1 contradiction or damage, 2 could not tell, 3 valid prefix only.
    pub fn exit_code(&self, require: Option<Level>) -> u8 {
        let short_of = |level: Level| {
            self.level
                .is_none_or(|found| found < level && found != Level::ValidPrefix)
        };
        if self.errors > 0 || self.level == Some(Level::Invalid) {
            1
        } else if !self.undecided.is_empty() || self.level.is_none() || require.is_some_and(short_of) {
            2
        } else if self.level == Some(Level::ValidPrefix) {
            3
        } else {
            0
        }
    }
}
