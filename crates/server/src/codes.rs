//! Every code of a problem, and the operations that answer it: what the document says of refusals is made of this
//! table.
//!
//! For people the same codes stand in `docs/http-api.md`, with what to do.

use axum::http::Method;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::Operation as Documented;

use crate::access::operation::Operation;

/// A code, and when it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    /// As the document says it.
    pub(crate) when: &'static str,
    of: Of,
}

/// Whose code it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// Of every request, before it is known what it asks for.
    Before,
    /// Of every operation that asks who calls.
    All,
    /// Of those whose body is read: of every POST, as an `Idempotency-Key` is one of its body.
    Bodies,
    /// Of those that take JSON.
    Json,
    /// Of those that take this query parameter.
    Parameter(&'static str),
    /// Of those that take an `Idempotency-Key`.
    Posts,
    /// Of those that ask the idempotency store.
    Keys,
    /// Of those that write records of what is sent.
    Records,
    /// Of those, and of reads before which the access trail is committed.
    Commits,
    /// Of these.
    These(&'static [&'static str]),
}

/// Not reads, but of what they are sent they write no record.
const UNRECORDED: &[&str] = &[
    "begin_verification",
    "cancel_verification",
    "fingerprint",
    "idempotency_check",
    "idempotency_complete",
    "idempotency_delete",
    "idempotency_fail",
    "idempotency_renew",
    "panel_check",
    "replay_fail",
    "replay_renew",
];

const EVIDENCE: &[&str] = &[
    "evidence_activity",
    "evidence_environment",
    "evidence_failure",
    "evidence_policy_decision",
    "evidence_provider",
];

const JOBS: &[&str] = &[
    "job_cancel",
    "job_complete",
    "job_create",
    "job_fail",
    "job_health",
    "job_progress",
    "job_start",
    "job_step",
];

const REPLAY: &[&str] = &["replay_fail", "replay_renew", "replay_result", "replay_step"];

/// Reads of one run that fold what it was.
const RUN_READS: &[&str] = &[
    "get_llm_run_envelope",
    "get_llm_run_export",
    "get_llm_run_replay",
    "get_system_events",
    "get_system_replay",
    "get_system_snapshot",
    "get_system_telemetry",
    "trace_read",
];

const fn row(status: u16, code: &'static str, of: Of, when: &'static str) -> Row {
    Row {
        status,
        code,
        when,
        of,
    }
}

/// Every code, by status.
#[rustfmt::skip]
const CODES: &[Row] = &[
    row(400, "malformed", Of::All, "no JSON, no gzip, a cut body, or a query that is not UTF-8"),
    row(400, "bad_parameter", Of::All, "a query or path parameter is unknown or wrong"),
    row(400, "bad_idempotency_key", Of::Posts, "the `Idempotency-Key` is malformed"),
    row(400, "as_of_too_far", Of::These(RUN_READS), "what the run was at that tree size is not told"),
    row(400, "bad_cursor", Of::Parameter("cursor"), "not a cursor that this query was given"),
    row(400, "use_cursor", Of::Parameter("offset"), "`offset` is beyond 10,000"),
    row(401, "unauthorized", Of::All, "no key or token, or one that is wrong, rotated, revoked or expired"),
    row(403, "forbidden", Of::All, "the key's role does not allow it"),
    row(403, "foreign_host", Of::All, "in local mode: the host is not loopback"),
    row(403, "foreign_origin", Of::All, "in local mode: of another origin"),
    row(404, "not_found", Of::All, "absent, or another tenant's"),
    row(404, "evidence_context_missing", Of::These(EVIDENCE), "there is no such run"),
    row(404, "no_checkpoint", Of::These(&["tlog_checkpoint", "tlog_epoch_checkpoint"]), "none is signed yet"),
    row(405, "method_not_allowed", Of::Before, "the path has no such method"),
    row(408, "body_timeout", Of::Bodies, "the body stalled or took too long"),
    row(409, "conflict", Of::These(&[
        "audit_resolve", "contract_record", "evidence_environment", "evidence_provider", "job_create", "job_health",
        "job_step", "replay_fail", "replay_renew", "replay_result", "replay_step", "run_abort", "run_complete",
        "run_start", "step_record", "trace_store",
    ]), "the identity is taken by other content"),
    row(409, "idempotency_in_progress", Of::Posts,
        "a request with this `Idempotency-Key` is being answered: wait for `Retry-After`"),
    row(409, "answer_not_kept", Of::Posts, "it was done under this `Idempotency-Key`; the answer was not kept"),
    row(409, "earlier_outcome_unknown", Of::Posts,
        "it was tried under this `Idempotency-Key`; whether it was done is not known"),
    row(409, "lease_lost", Of::These(&[
        "idempotency_complete", "idempotency_fail", "idempotency_renew", "replay_fail", "replay_renew",
        "replay_result", "replay_step",
    ]), "the key or step is another's by now, or is done"),
    row(409, "replay_mismatch", Of::These(REPLAY), "the output is not the expected one"),
    row(409, "idempotency_violation", Of::These(REPLAY), "the key is known with another input"),
    row(409, "replay_in_progress", Of::These(REPLAY), "the step is being done: wait for `Retry-After`"),
    row(409, "output_not_kept", Of::These(REPLAY), "the step was done; its output is not there any more"),
    row(409, "incident_status", Of::These(&["incident_acknowledge", "incident_close", "incident_resolve"]),
        "the incident is past that step"),
    row(409, "evidence_context_missing", Of::These(EVIDENCE), "the run is sealed"),
    row(409, "run_running", Of::These(&["run_seal"]), "the run has not ended"),
    row(409, "run_sealed", Of::These(&[
        "lineage_ai_metrics", "lineage_ai_output", "lineage_deterministic", "lineage_evidence", "provenance_log",
        "replay_fail", "replay_renew", "replay_result", "replay_step", "run_seal",
    ]), "the run is sealed"),
    row(409, "run_ended", Of::These(&["run_abort", "replay_step", "run_complete", "step_record"]), "the run has ended"),
    row(409, "already_erased", Of::These(&["record_erase"]), "the body is erased"),
    row(409, "archived", Of::These(&[
        "evidence_activity", "evidence_environment", "evidence_provider", "record_erase", "replay_fail",
        "replay_renew", "replay_result", "replay_step", "run_abort", "run_complete", "run_start", "step_record",
        "trace_store",
    ]), "the body that it would be held against, or that is to be erased, is in an archive"),
    row(409, "not_erasable", Of::These(&["record_erase"]), "others are judged by records of this kind"),
    row(409, "legal_hold", Of::These(&["record_erase"]), "it, or what would go with it, is held"),
    row(409, "minimum_retention", Of::These(&["record_erase"]), "it is younger than `retention.minimum`"),
    row(409, "hold_released", Of::These(&["hold_release"]), "the hold was released before"),
    row(409, "job_stage", Of::These(&[
        "cancel_verification", "job_cancel", "job_complete", "job_fail", "job_health", "job_progress", "job_start",
        "job_step",
    ]), "where the job stands it cannot be done"),
    row(409, "job_own", Of::These(JOBS), "the job is Deponent's own work"),
    row(409, "job_full", Of::These(&["job_health", "job_progress", "job_step"]),
        "the job has as many steps, events or bytes as it may"),
    row(409, "verdict_final", Of::These(&["audit_resolve"]), "only INCONCLUSIVE is resolved"),
    row(409, "key_revoked", Of::These(&["key_rotate"]), "the key is revoked"),
    row(409, "key_expired", Of::These(&["key_rotate"]), "the key has expired"),
    row(409, "too_many_keys", Of::These(&["key_create"]), "the tenant has 1,000 live keys"),
    row(410, "seal_gone", Of::These(&["run_integrity"]), "the run is sealed, and its seal is in an archive"),
    row(413, "output_too_large", Of::These(&["replay_result"]), "the output is longer than 4 MiB"),
    row(413, "body_too_large", Of::Bodies, "more than 16 MiB unpacked, or than a record may have"),
    row(413, "header_too_large", Of::Records, "the record's header would pass 65,535 bytes"),
    row(414, "uri_too_long", Of::Before, "more than 8 KiB"),
    row(415, "content_type", Of::Json, "another than `application/json`"),
    row(415, "content_encoding", Of::Bodies, "another than gzip"),
    row(422, "idempotency_key_reused", Of::Posts, "the `Idempotency-Key` was used for another request"),
    row(422, "same_run", Of::These(&["trace_diff"]), "both traces are of one run"),
    row(422, "invalid", Of::Json, "a field breaks a rule or is unknown; `detail` begins with it"),
    row(422, "name_redacted", Of::These(&["contract_record", "signal_record"]),
        "redaction would change a name that jobs are judged by"),
    row(429, "idempotency_full", Of::Posts, "the tenant has 5,000,000 keys: wait for `Retry-After`"),
    row(429, "rate_limited", Of::All, "the key is over its rate: wait for `Retry-After`"),
    row(429, "too_many_key_changes", Of::These(&["key_create", "key_rotate"]),
        "2,000 keys made and rotated within a day: wait for `Retry-After`"),
    row(500, "internal", Of::All, "the server's log has the cause"),
    row(500, "damaged", Of::All, "stored evidence cannot be read"),
    row(503, "idempotency_unavailable", Of::Keys, "the idempotency store cannot answer now"),
    row(503, "idempotency_data_lost", Of::Keys, "the idempotency store has lost its data"),
    row(503, "signin_unavailable", Of::All, "the issuer's keys cannot be had now"),
    row(503, "busy", Of::All, "send it again after `Retry-After`"),
    row(503, "run_moved", Of::These(&["evidence_activity", "run_abort", "run_complete", "run_seal"]),
        "records of the run kept coming: send it again"),
    row(503, "outcome_unknown", Of::Commits, "the commit may or may not have happened"),
    row(503, "writes_stopped", Of::Commits, "a write failed: nothing is written until a restart"),
    row(503, "ledger_refused", Of::Commits, "the ledger was rolled back or is damaged"),
    row(503, "no_checkpoint", Of::These(&["get_record_proof"]), "no checkpoint covers the record yet"),
    row(503, "store_unavailable", Of::All, "the database cannot answer now"),
    row(503, "closing", Of::Commits, "the server shuts down"),
];

impl Row {
    fn is_of(&self, method: &Method, operation: &Operation, documented: &Documented) -> bool {
        let name = operation.name;
        let is_post = method == Method::POST;
        let has_body = documented.request_body.is_some();
        let records = method != Method::GET && !UNRECORDED.contains(&name);
        match self.of {
            Of::Before => false,
            Of::All => true,
            Of::Bodies => has_body || is_post,
            Of::Json => has_body,
            Of::Parameter(wanted) => documented
                .parameters
                .iter()
                .flatten()
                .any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.name == wanted)),
            Of::Posts => is_post,
            Of::Keys => is_post || name.starts_with("idempotency_"),
            Of::Records => records,
            Of::Commits => records || operation.flush_first,
            Of::These(names) => names.contains(&name),
        }
    }
}

/// The codes that an operation is refused with, by status.
pub(crate) fn codes_of(
    method: &Method,
    operation: &Operation,
    documented: &Documented,
) -> impl Iterator<Item = &'static Row> {
    CODES
        .iter()
        .filter(move |code| code.is_of(method, operation, documented))
}

/// The codes that any request is refused with, whatever it asks for.
pub(crate) fn before() -> impl Iterator<Item = &'static Row> {
    CODES.iter().filter(|code| code.of == Of::Before)
}

/// Whether the table has it.
pub(crate) fn is_known(status: u16, code: &str) -> bool {
    CODES.iter().any(|row| row.status == status && row.code == code)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Rows of the table under "Status codes and problem codes".
    fn documented() -> BTreeSet<(u16, String)> {
        let text = include_str!("../../../docs/http-api.md");
        let table = text.split("| status | code | when | do |").nth(1).unwrap();
        let mut found = BTreeSet::new();
        for line in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
            let mut cells = line.split('|').skip(1);
            let status = cells.next().unwrap().trim().parse().unwrap();
            let codes = cells.next().unwrap().split('`').skip(1).step_by(2);
            found.extend(codes.map(|code| (status, code.to_owned())));
        }
        found
    }

    #[test]
    fn the_description_of_the_interface_has_the_same_codes() {
        let table: BTreeSet<_> = CODES
            .iter()
            .map(|row| (row.status, row.code.to_owned()))
            .collect();
        assert_eq!(table.len(), CODES.len(), "a code stands twice");
        let documented = documented();
        let missing: Vec<_> = table.difference(&documented).collect();
        let beyond: Vec<_> = documented.difference(&table).collect();
        assert!(
            missing.is_empty() && beyond.is_empty(),
            "not in docs/http-api.md {missing:?}, only there {beyond:?}"
        );
    }

    #[test]
    fn every_code_is_named_in_the_document_and_every_name_is_an_operation() {
        let document = serde_json::to_value(crate::openapi()).unwrap();
        let mut said = BTreeSet::new();
        let mut names = BTreeSet::new();
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                names.insert(operation["operationId"].as_str().unwrap().to_owned());
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let text = response["description"].as_str().unwrap_or_default();
                    let words = text.split('`').skip(1).step_by(2);
                    said.extend(words.map(|word| (status.clone(), word.to_owned())));
                }
            }
        }
        let general = document["info"]["description"].as_str().unwrap();
        for row in CODES {
            let named = match row.of {
                Of::Before => general.contains(&format!("{} `{}`", row.status, row.code)),
                _ => said.contains(&(row.status.to_string(), row.code.to_owned())),
            };
            assert!(named, "{} {}", row.status, row.code);
            if let Of::These(operations) = row.of {
                for name in operations {
                    assert!(names.contains(*name), "{}: {name}", row.code);
                }
            }
        }
        for name in UNRECORDED {
            assert!(names.contains(*name), "{name}");
        }
    }
}
