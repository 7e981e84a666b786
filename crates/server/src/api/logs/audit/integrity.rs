//! `get_audit_integrity` (O4): what the last verification of the tenant's ledger found.

use axum::extract::State;
use axum::response::Response;
use evidence::{Finding, Severity, SourceDomain, Timestamp};
use ledger::{LedgerInfo, Refusal, SCRUB_MICROS};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::NoParams;
use super::super::metadata::Metadata;
use crate::api::answer::ReadProblems;
use crate::{ApiError, App, Caller, Query, Received, Verification};

/// A verification is stale when it is older than this many of its intervals (SPEC 2.7).
const STALE_INTERVALS: i64 = 2;

/// What a verification found.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = FindingResult)]
pub(crate) struct FindingOut {
    code: serde_json::Value,
    detail: String,
    leaf_index: Option<u64>,
    /// The table, column or file.
    place: String,
    record_id: Option<String>,
    run_id: Option<String>,
    /// `error`, or `warning`: evidence stands.
    severity: &'static str,
}

impl From<&Finding> for FindingOut {
    fn from(finding: &Finding) -> Self {
        Self {
            code: serde_json::to_value(finding.code).unwrap_or_default(),
            detail: finding.detail.clone(),
            leaf_index: finding.leaf_index,
            place: finding.place.clone(),
            record_id: finding.record_id.map(|id| id.to_string()),
            run_id: finding.run_id.clone(),
            severity: match finding.severity {
                Severity::Warning => "warning",
                Severity::Error => "error",
            },
        }
    }
}

/// The ledger as it is now.
#[derive(Debug, Serialize, ToSchema)]
struct IntegrityHead {
    origin: String,
    tree_root: String,
    tree_size: u64,
}

/// The last verification.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = IntegrityCheckResult)]
struct IntegrityCheck {
    /// Errors among the findings.
    anomalies_detected: u64,
    /// The first hundred of the last verification that found any, also after a restart.
    findings: Vec<FindingOut>,
    /// Verified, and nothing was found.
    hash_chain_valid: bool,
    head: IntegrityHead,
    /// When everything was last verified.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_full_scrub_at: Option<Timestamp>,
    /// The same; null when it never was, or by nobody who can be asked.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_verified: Option<Timestamp>,
    /// `verified`, `tampered`, `stale`, `never_verified` or `rollback_detected`.
    status: &'static str,
    status_detail: Option<String>,
    /// When leaves were last verified as they came, and nothing was wrong with them.
    #[schema(value_type = Option<String>, format = DateTime)]
    verified_at: Option<Timestamp>,
    /// Leaves verified since they came.
    verified_size: Option<u64>,
}

/// What is known of the ledger's integrity.
#[derive(Serialize, ToSchema)]
struct AuditIntegrity {
    as_of: u64,
    integrity: IntegrityCheck,
}

/// The same with metadata.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditIntegrityResult)]
#[allow(dead_code)] // for the document
struct AuditIntegrityAnswer {
    #[serde(flatten)]
    integrity: AuditIntegrity,
    metadata: Metadata,
}

/// Reads the last verification. `POST /api/v1/verifications` makes a fresh one.
#[utoipa::path(
    get, path = "/api/v1/logs/audit/integrity", tag = "logs", operation_id = "get_audit_integrity",
    responses((status = 200, description = "The last verification", body = AuditIntegrityAnswer), ReadProblems),
)]
pub(in super::super) async fn integrity(
    State(app): State<App>,
    caller: Caller,
    Received(at): Received,
    Query(NoParams {}): Query<NoParams>,
) -> Result<Response, ApiError> {
    let own = app.clone();
    app.blocking(move |service| {
        let tenant = &caller.tenant;
        let ledger = tenant.ledger();
        let head = service.store().head_read(ledger.row.ledger_no)?;
        let known = own.verification_of(&ledger);
        let (status, status_detail) = judge(&ledger, known.as_ref(), at);
        let findings = if known.as_ref().is_some_and(|known| known.findings > 0) {
            own.verifier()?.findings(&ledger.row.origin)
        } else {
            Vec::new()
        };
        let never = status == "never_verified";
        let known = known.unwrap_or_default();
        let verified = known.last_full_scrub_at.filter(|_| !never);
        let check = IntegrityCheck {
            anomalies_detected: known.findings.max(u64::from(ledger.refusal().is_some())),
            findings: findings.iter().map(FindingOut::from).collect(),
            hash_chain_valid: matches!(status, "verified" | "stale"),
            head: IntegrityHead {
                origin: ledger.row.origin.clone(),
                tree_root: head.root.to_hex(),
                tree_size: head.size.as_u64(),
            },
            last_full_scrub_at: known.last_full_scrub_at,
            last_verified: verified,
            status,
            status_detail,
            verified_at: known.verified_at,
            verified_size: known.verified_at.map(|_| known.verified_size),
        };
        let metadata = Metadata::new(
            tenant,
            "IntegrityService",
            SourceDomain::Logs,
            verified.unwrap_or(at),
        );
        metadata.answer(&AuditIntegrity {
            as_of: head.size.as_u64(),
            integrity: check,
        })
    })
    .await
}

/// How much later than a request a verification may be that ended while it was answered.
const AHEAD_MICROS: i64 = 60 * 1_000_000;

/// The worst that is known: a rollback before damage, damage before age.
fn judge(ledger: &LedgerInfo, known: Option<&Verification>, at: Timestamp) -> (&'static str, Option<String>) {
    match ledger.refusal() {
        Some(refusal @ Refusal::RolledBack(_)) => return ("rollback_detected", Some(refusal.to_string())),
        Some(refusal @ Refusal::Damaged(_)) => return ("tampered", Some(refusal.to_string())),
        None => {}
    }
    let Some(known) = known else {
        return ("never_verified", None);
    };
    if let Some(damaged) = &known.damaged {
        return ("tampered", Some(damaged.clone()));
    }
    match known.last_full_scrub_at {
        None => ("never_verified", None),
        Some(last) if at.micros_since(last) < -AHEAD_MICROS => {
            let detail = format!("everything was last verified at {last}, which is still to come");
            ("never_verified", Some(detail))
        }
        Some(last) if at.micros_since(last) > STALE_INTERVALS * SCRUB_MICROS => {
            let detail = format!("everything was last verified at {last}");
            ("stale", Some(detail))
        }
        Some(_) => ("verified", None),
    }
}

#[cfg(test)]
mod tests {
    use ledger::{Ledger, Options};

    use super::*;

    #[test]
    fn a_verification_is_verified_until_two_intervals_are_over() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::from_micros(1_767_323_045_000_000).unwrap();
        let ledger = Ledger::open(Options::new(folder.path()), now).unwrap();
        let info = ledger.tenant_create("t", now).unwrap().ledger();
        let mut known = Verification::default();
        assert_eq!(judge(&info, None, now).0, "never_verified");
        known.verified_at = Some(now);
        assert_eq!(
            judge(&info, Some(&known), now).0,
            "never_verified",
            "leaves that came since are not everything"
        );
        known.last_full_scrub_at = Some(now);
        let after = |micros: i64| now.checked_add_micros(micros).unwrap();
        assert_eq!(judge(&info, Some(&known), after(2 * SCRUB_MICROS)).0, "verified");
        assert_eq!(judge(&info, Some(&known), after(2 * SCRUB_MICROS + 1)).0, "stale");
        assert_eq!(judge(&info, Some(&known), after(-AHEAD_MICROS)).0, "verified");
        let to_come = judge(&info, Some(&known), after(-AHEAD_MICROS - 1));
        assert_eq!(to_come.0, "never_verified", "nobody has verified it at that time");
        assert!(to_come.1.unwrap().ends_with("which is still to come"));
        known.damaged = Some("x".into());
        assert_eq!(judge(&info, Some(&known), now).0, "tampered");
        ledger.close();
    }
}
