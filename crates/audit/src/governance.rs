//! Whether a job stayed inside its contract: frozen evidence in, a verdict out.
//!
//! The auditor reads and judges; it changes nothing, asks no clock and draws no number. `audit_id`,
//! `audited_at` and `duration_ms` are given to it and lie outside `evidence_hash`, so the same evidence has
//! the same verdict and hash, for ever.
//!
//! Out of scope: the checks themselves ([`crate::checks`]); when a job is audited (ledger).
//! Start at [`audit`]. Rules: SPEC 7.2.

mod health;
mod input;

pub use health::{Health, Rank};
pub use input::{
    AuditInput, JobTimes, SCOPE_ENTRIES_MAX, SIGNALS_MAX, STEP_RESULTS_MAX, Signal, StepResult,
    create_audit_input_from_evidence, target_of,
};

use evidence::Timestamp;
use evidence::canonical::{Value, sha256_hex};

use crate::checks::{CHECKS, listed, names};

/// Changes with any rule that a release has judged by.
pub const AUDITOR_VERSION: &str = "1.0.0";

/// What a single check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// The evidence does not decide it.
    Inconclusive,
}

/// What the checks add up to: any FAIL, else any INCONCLUSIVE, else PASS.
pub type Verdict = CheckResult;

impl CheckResult {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Inconclusive => "INCONCLUSIVE",
        }
    }

    /// The one of that name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "PASS" => Some(Self::Pass),
            "FAIL" => Some(Self::Fail),
            "INCONCLUSIVE" => Some(Self::Inconclusive),
            _ => None,
        }
    }
}

/// One check's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditCheck {
    /// `A-001` …
    pub check_id: &'static str,
    /// For people.
    pub name: &'static str,
    /// What it asks.
    pub question: &'static str,
    /// What it found.
    pub result: CheckResult,
    /// Why, for people.
    pub reason: String,
    /// What shows it.
    pub evidence: Value,
}

/// The verdict with everything it rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditResult {
    /// Given by the caller.
    pub audit_id: String,
    /// The job.
    pub job_id: String,
    /// Its contract.
    pub contract_id: String,
    /// What the checks add up to.
    pub verdict: Verdict,
    /// Why, for people.
    pub verdict_reason: String,
    /// All seven, in order.
    pub checks: Vec<AuditCheck>,
    /// Steps, executed and proposed targets.
    pub evidence_summary: Value,
    /// As given.
    pub health_snapshot_before: Value,
    /// As given.
    pub health_snapshot_after: Value,
    /// Given by the caller.
    pub audited_at: Timestamp,
    /// Given by the caller.
    pub duration_ms: u64,
    /// [`AUDITOR_VERSION`]
    pub auditor_version: &'static str,
    /// SHA-256 of the canonical form of the input, signals included.
    pub evidence_hash: String,
}

impl AuditResult {
    /// How many checks found this.
    pub fn count(&self, result: CheckResult) -> usize {
        self.checks.iter().filter(|check| check.result == result).count()
    }
}

/// Runs all seven checks and adds them up.
pub fn audit(input: &AuditInput, audit_id: String, audited_at: Timestamp, duration_ms: u64) -> AuditResult {
    let checks: Vec<AuditCheck> = CHECKS.iter().map(|check| check.answer(input)).collect();
    let failed = ids(&checks, CheckResult::Fail);
    let open = ids(&checks, CheckResult::Inconclusive);
    let (verdict, verdict_reason) = if !failed.is_empty() {
        (Verdict::Fail, format!("failed: {failed}"))
    } else if !open.is_empty() {
        (Verdict::Inconclusive, format!("could not be decided: {open}"))
    } else {
        (Verdict::Pass, format!("all {} checks passed", checks.len()))
    };
    let mut summary = Value::object([("steps_executed", count(input.step_results.len()))]);
    let targets = [
        ("executed_targets", input.executed_targets()),
        ("proposed_targets", input.proposed_targets()),
    ];
    for (name, targets) in targets {
        for (name, value) in listed(name, names(targets)) {
            summary.insert(name, value);
        }
    }
    AuditResult {
        audit_id,
        job_id: input.job_id.clone(),
        contract_id: input.contract_id.clone(),
        verdict,
        verdict_reason,
        checks,
        evidence_summary: summary,
        health_snapshot_before: input.health_before.clone(),
        health_snapshot_after: input.health_after.clone(),
        audited_at,
        duration_ms,
        auditor_version: AUDITOR_VERSION,
        evidence_hash: sha256_hex(&input.to_json()),
    }
}

fn ids(checks: &[AuditCheck], result: CheckResult) -> String {
    let ids: Vec<&str> = checks
        .iter()
        .filter(|check| check.result == result)
        .map(|check| check.check_id)
        .collect();
    ids.join(", ")
}

/// A count as a JSON number.
pub(crate) fn count(number: usize) -> Value {
    Value::from(i64::try_from(number).unwrap_or(i64::MAX))
}

/// The result as it is kept: the body of `governance.audit`, and what answers show.
pub fn audit_result_to_record(result: &AuditResult) -> Value {
    let checks: Vec<Value> = result
        .checks
        .iter()
        .map(|check| {
            Value::object([
                ("check_id", Value::from(check.check_id)),
                ("name", Value::from(check.name)),
                ("question", Value::from(check.question)),
                ("result", Value::from(check.result.as_str())),
                ("reason", Value::from(check.reason.as_str())),
                ("evidence", check.evidence.clone()),
            ])
        })
        .collect();
    Value::object([
        ("audit_id", Value::from(result.audit_id.as_str())),
        ("job_id", Value::from(result.job_id.as_str())),
        ("contract_id", Value::from(result.contract_id.as_str())),
        ("verdict", Value::from(result.verdict.as_str())),
        ("verdict_reason", Value::from(result.verdict_reason.as_str())),
        ("checks", Value::from(checks)),
        ("checks_passed", count(result.count(CheckResult::Pass))),
        ("checks_failed", count(result.count(CheckResult::Fail))),
        (
            "checks_inconclusive",
            count(result.count(CheckResult::Inconclusive)),
        ),
        ("evidence_summary", result.evidence_summary.clone()),
        ("health_snapshot_before", result.health_snapshot_before.clone()),
        ("health_snapshot_after", result.health_snapshot_after.clone()),
        ("audited_at", Value::from(result.audited_at.to_string())),
        (
            "duration_ms",
            Value::from(i64::try_from(result.duration_ms).unwrap_or(i64::MAX)),
        ),
        ("auditor_version", Value::from(result.auditor_version)),
        ("evidence_hash", Value::from(result.evidence_hash.as_str())),
    ])
}
