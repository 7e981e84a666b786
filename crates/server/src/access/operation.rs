//! Every operation, and what it takes to be allowed: the one table from routes to actions and topics.
//!
//! A route without a row is for admins alone (topic `unlisted`), and the route matrix fails for it.

use axum::http::Method;

/// What an operation does, in the words of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Read,
    Write,
    Verify,
    /// Taking evidence away. The word stands in the schema that operators write their policies against, and the shipped
    /// policies say who may: what they allow must not change with the first route that does it.
    #[expect(
        dead_code,
        reason = "what a route hands out, whole logs included, it tells to who may read: docs/decisions.md"
    )]
    Export,
    Manage,
}

impl Action {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Verify => "verify",
            Self::Export => "export",
            Self::Manage => "manage",
        }
    }
}

/// What is left on record when the operation is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trail {
    /// The decision, and that evidence was read.
    Read,
    /// The decision, and that evidence was taken away (`evidence.exported`, a record that readers know already). Of no
    /// route yet.
    Export,
    /// The decision.
    Decision,
    /// Decisions, counted by the minute.
    Counted,
    /// Decisions, counted by the hour.
    Hourly,
    /// Nothing.
    Nothing,
}

/// An operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) action: Action,
    pub(crate) topic: &'static str,
    pub(crate) trail: Trail,
    /// The handler says how many rows it answers with; of others it is one.
    pub(crate) lists: bool,
    /// What earlier requests left in the recorder's buffer is committed first.
    pub(crate) flush_first: bool,
}

/// What a route needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Access {
    /// No key.
    Public,
    /// A decision, made before the handler runs.
    Decided(Operation),
    /// A decision that the handler asks for itself: its refusals have a form of their own.
    InHandler(Operation),
}

const fn op(name: &'static str, action: Action, topic: &'static str, trail: Trail) -> Operation {
    Operation {
        name,
        action,
        topic,
        trail,
        lists: false,
        flush_first: false,
    }
}

const fn read(name: &'static str, topic: &'static str) -> Access {
    Access::Decided(op(name, Action::Read, topic, Trail::Read))
}

/// A read of any number of rows.
const fn list(name: &'static str, topic: &'static str) -> Access {
    let mut operation = op(name, Action::Read, topic, Trail::Read);
    operation.lists = true;
    Access::Decided(operation)
}

/// Of the ledger itself: no record unless denied.
const fn quiet(name: &'static str, topic: &'static str) -> Access {
    Access::Decided(op(name, Action::Read, topic, Trail::Nothing))
}

const fn tile(name: &'static str) -> Access {
    Access::Decided(op(name, Action::Read, "tlog", Trail::Hourly))
}

const fn write(name: &'static str) -> Access {
    Access::Decided(op(name, Action::Write, "evidence", Trail::Counted))
}

const fn otlp(name: &'static str) -> Access {
    Access::InHandler(op(name, Action::Write, "evidence", Trail::Counted))
}

const fn manage(name: &'static str, topic: &'static str) -> Access {
    Access::Decided(op(name, Action::Manage, topic, Trail::Decision))
}

/// Reads of what the recorder writes.
const fn trail(name: &'static str) -> Access {
    let mut operation = op(name, Action::Read, "audit", Trail::Read);
    (operation.lists, operation.flush_first) = (true, true);
    Access::Decided(operation)
}

/// Every route, by path.
const TABLE: &[(&str, &str, Access)] = &[
    ("GET", "/api/docs", Access::Public),
    ("GET", "/api/openapi.json", Access::Public),
    ("POST", "/api/v1/audit-events", write("audit_event_record")),
    ("GET", "/api/v1/audits/{job_id}", read("audit_get", "runs")),
    (
        "GET",
        "/api/v1/audits/{job_id}/checks",
        list("audit_checks", "runs"),
    ),
    (
        "GET",
        "/api/v1/audits/{job_id}/evidence",
        list("audit_evidence", "runs"),
    ),
    (
        "POST",
        "/api/v1/audits/{job_id}/resolve",
        manage("audit_resolve", "audits"),
    ),
    ("GET", "/api/v1/contracts", list("contracts_list", "runs")),
    ("POST", "/api/v1/contracts", write("contract_record")),
    ("GET", "/api/v1/contracts/{id}", read("contract_get", "runs")),
    ("POST", "/api/v1/fingerprint", quiet("fingerprint", "self")),
    ("GET", "/api/v1/holds", list("holds_list", "audit")),
    ("POST", "/api/v1/holds", manage("hold_place", "holds")),
    ("GET", "/api/v1/holds/{id}", read("hold_get", "audit")),
    (
        "POST",
        "/api/v1/holds/{id}/release",
        manage("hold_release", "holds"),
    ),
    ("DELETE", "/api/v1/idempotency/{key}", write("idempotency_delete")),
    ("GET", "/api/v1/idempotency/{key}", write("idempotency_get")),
    (
        "POST",
        "/api/v1/idempotency/{key}/check",
        write("idempotency_check"),
    ),
    (
        "POST",
        "/api/v1/idempotency/{key}/complete",
        write("idempotency_complete"),
    ),
    (
        "POST",
        "/api/v1/idempotency/{key}/fail",
        write("idempotency_fail"),
    ),
    (
        "POST",
        "/api/v1/idempotency/{key}/renew",
        write("idempotency_renew"),
    ),
    ("GET", "/api/v1/incidents", list("incidents_list", "runs")),
    ("POST", "/api/v1/incidents", write("incident_open")),
    ("GET", "/api/v1/incidents/{id}", read("incident_get", "runs")),
    (
        "POST",
        "/api/v1/incidents/{id}/acknowledge",
        write("incident_acknowledge"),
    ),
    ("POST", "/api/v1/incidents/{id}/close", write("incident_close")),
    (
        "POST",
        "/api/v1/incidents/{id}/resolve",
        write("incident_resolve"),
    ),
    ("GET", "/api/v1/jobs", list("jobs_list", "runs")),
    ("POST", "/api/v1/jobs", write("job_create")),
    ("GET", "/api/v1/jobs/{id}", read("job_get", "runs")),
    ("POST", "/api/v1/jobs/{id}/cancel", write("job_cancel")),
    ("POST", "/api/v1/jobs/{id}/complete", write("job_complete")),
    ("GET", "/api/v1/jobs/{id}/events", list("job_events", "runs")),
    ("POST", "/api/v1/jobs/{id}/fail", write("job_fail")),
    ("POST", "/api/v1/jobs/{id}/health", write("job_health")),
    (
        "GET",
        "/api/v1/jobs/{id}/progress",
        read("job_progress_get", "runs"),
    ),
    ("POST", "/api/v1/jobs/{id}/progress", write("job_progress")),
    ("GET", "/api/v1/jobs/{id}/retries", list("job_retries", "runs")),
    ("POST", "/api/v1/jobs/{id}/start", write("job_start")),
    ("POST", "/api/v1/jobs/{id}/steps", write("job_step")),
    (
        "GET",
        "/api/v1/integrity-policy",
        read("integrity_policy_get", "settings"),
    ),
    (
        "PUT",
        "/api/v1/integrity-policy",
        manage("integrity_policy_put", "settings"),
    ),
    (
        "GET",
        "/api/v1/keys",
        Access::Decided(op("key_list", Action::Read, "keys", Trail::Decision)),
    ),
    ("POST", "/api/v1/keys", manage("key_create", "keys")),
    ("POST", "/api/v1/keys/{id}/revoke", manage("key_revoke", "keys")),
    ("POST", "/api/v1/keys/{id}/rotate", manage("key_rotate", "keys")),
    ("GET", "/api/v1/ledger/head", quiet("ledger_head", "receipts")),
    (
        "GET",
        "/api/v1/ledger/leaves/{index}",
        quiet("ledger_leaf", "ledger"),
    ),
    (
        "GET",
        "/api/v1/ledger/proofs/consistency",
        quiet("ledger_consistency", "receipts"),
    ),
    (
        "GET",
        "/api/v1/ledger/proofs/inclusion",
        quiet("ledger_inclusion", "receipts"),
    ),
    ("POST", "/api/v1/lineage/ai-metrics", write("lineage_ai_metrics")),
    ("POST", "/api/v1/lineage/ai-output", write("lineage_ai_output")),
    (
        "POST",
        "/api/v1/lineage/deterministic",
        write("lineage_deterministic"),
    ),
    ("POST", "/api/v1/lineage/evidence", write("lineage_evidence")),
    (
        "GET",
        "/api/v1/lineage/runs/{run_id}",
        list("lineage_log", "records"),
    ),
    ("GET", "/api/v1/logs/audit", list("list_audit_entries", "audit")),
    ("GET", "/api/v1/logs/audit/access", trail("get_audit_access")),
    (
        "GET",
        "/api/v1/logs/audit/authorization",
        trail("get_audit_authorization"),
    ),
    (
        "GET",
        "/api/v1/logs/audit/entries/{entry_id}",
        read("get_audit_entry", "audit"),
    ),
    (
        "GET",
        "/api/v1/logs/audit/exports",
        list("get_audit_exports", "audit"),
    ),
    ("GET", "/api/v1/logs/audit/identity", trail("get_audit_identity")),
    (
        "GET",
        "/api/v1/logs/audit/integrity",
        read("get_audit_integrity", "audit"),
    ),
    (
        "GET",
        "/api/v1/logs/llm-runs",
        list("list_llm_run_records", "runs"),
    ),
    (
        "GET",
        "/api/v1/logs/llm-runs/{run_id}/envelope",
        read("get_llm_run_envelope", "runs"),
    ),
    (
        "GET",
        "/api/v1/logs/llm-runs/{run_id}/export",
        read("get_llm_run_export", "runs"),
    ),
    (
        "GET",
        "/api/v1/logs/llm-runs/{run_id}/governance",
        list("get_llm_run_governance", "runs"),
    ),
    (
        "GET",
        "/api/v1/logs/llm-runs/{run_id}/replay",
        list("get_llm_run_replay", "runs"),
    ),
    (
        "GET",
        "/api/v1/logs/llm-runs/{run_id}/trace",
        list("get_llm_run_trace", "runs"),
    ),
    (
        "GET",
        "/api/v1/logs/system",
        list("list_system_records", "system"),
    ),
    (
        "GET",
        "/api/v1/logs/system/audit",
        list("get_system_audit", "system"),
    ),
    (
        "GET",
        "/api/v1/logs/system/{run_id}/events",
        list("get_system_events", "system"),
    ),
    (
        "GET",
        "/api/v1/logs/system/{run_id}/replay",
        list("get_system_replay", "system"),
    ),
    (
        "GET",
        "/api/v1/logs/system/{run_id}/snapshot",
        read("get_system_snapshot", "system"),
    ),
    (
        "GET",
        "/api/v1/logs/system/{run_id}/telemetry",
        list("get_system_telemetry", "system"),
    ),
    ("GET", "/api/v1/me", quiet("whoami", "self")),
    ("POST", "/api/v1/panels/check", quiet("panel_check", "self")),
    (
        "GET",
        "/api/v1/policy-activations",
        list("policy_activations_list", "runs"),
    ),
    ("POST", "/api/v1/policy-activations", write("policy_activate")),
    ("GET", "/api/v1/provenance", list("provenance_list", "runs")),
    ("POST", "/api/v1/provenance", write("provenance_log")),
    (
        "GET",
        "/api/v1/provenance/drift",
        list("provenance_drift", "runs"),
    ),
    ("GET", "/api/v1/records", list("list_records", "records")),
    ("GET", "/api/v1/records/{id}", read("get_record", "records")),
    (
        "DELETE",
        "/api/v1/records/{id}/body",
        manage("record_erase", "records"),
    ),
    (
        "GET",
        "/api/v1/records/{id}/proof",
        read("get_record_proof", "records"),
    ),
    ("GET", "/api/v1/redaction", read("redaction_get", "settings")),
    ("PUT", "/api/v1/redaction", manage("redaction_put", "settings")),
    (
        "GET",
        "/api/v1/replay/runs/{run_id}",
        list("replay_report", "runs"),
    ),
    ("POST", "/api/v1/replay/steps", write("replay_step")),
    ("POST", "/api/v1/replay/steps/{token}/fail", write("replay_fail")),
    (
        "POST",
        "/api/v1/replay/steps/{token}/renew",
        write("replay_renew"),
    ),
    (
        "POST",
        "/api/v1/replay/steps/{token}/result",
        write("replay_result"),
    ),
    ("GET", "/api/v1/rollout/{job_id}", read("rollout", "runs")),
    ("POST", "/api/v1/runs", write("run_start")),
    ("POST", "/api/v1/runs/{run_id}/abort", write("run_abort")),
    ("POST", "/api/v1/runs/{run_id}/complete", write("run_complete")),
    (
        "POST",
        "/api/v1/runs/{run_id}/evidence/activity",
        write("evidence_activity"),
    ),
    (
        "POST",
        "/api/v1/runs/{run_id}/evidence/environment",
        write("evidence_environment"),
    ),
    (
        "POST",
        "/api/v1/runs/{run_id}/evidence/failures",
        write("evidence_failure"),
    ),
    (
        "POST",
        "/api/v1/runs/{run_id}/evidence/policy-decision",
        write("evidence_policy_decision"),
    ),
    (
        "POST",
        "/api/v1/runs/{run_id}/evidence/provider",
        write("evidence_provider"),
    ),
    (
        "GET",
        "/api/v1/runs/{run_id}/integrity",
        read("run_integrity", "runs"),
    ),
    ("POST", "/api/v1/runs/{run_id}/seal", write("run_seal")),
    ("POST", "/api/v1/runs/{run_id}/steps", write("step_record")),
    ("GET", "/api/v1/signals", list("signals_list", "runs")),
    ("POST", "/api/v1/signals", write("signal_record")),
    ("GET", "/api/v1/signals/{id}", read("signal_get", "runs")),
    ("GET", "/api/v1/steps", read("step_find", "runs")),
    ("POST", "/api/v1/system-records", write("system_record_record")),
    ("GET", "/api/v1/traces", list("trace_list", "runs")),
    ("POST", "/api/v1/traces", write("trace_store")),
    (
        "GET",
        "/api/v1/traces/by-root-hash/{hash}",
        list("trace_by_root_hash", "runs"),
    ),
    ("GET", "/api/v1/traces/diff", list("trace_diff", "runs")),
    ("GET", "/api/v1/traces/{id}", list("trace_read", "runs")),
    (
        "POST",
        "/api/v1/verifications",
        Access::Decided(op(
            "begin_verification",
            Action::Verify,
            "verifications",
            Trail::Decision,
        )),
    ),
    (
        "GET",
        "/api/v1/verifications/{verification_id}",
        read("get_verification", "verifications"),
    ),
    (
        "POST",
        "/api/v1/verifications/{verification_id}/cancel",
        Access::Decided(op(
            "cancel_verification",
            Action::Verify,
            "verifications",
            Trail::Decision,
        )),
    ),
    ("GET", "/healthz", Access::Public),
    ("GET", "/metrics", Access::Public),
    (
        "POST",
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        otlp("otlp_logs"),
    ),
    (
        "POST",
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        otlp("otlp_metrics"),
    ),
    (
        "POST",
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        otlp("otlp_traces"),
    ),
    ("GET", "/readyz", Access::Public),
    (
        "GET",
        "/tlog/{tenant}/checkpoint",
        quiet("tlog_checkpoint", "receipts"),
    ),
    ("GET", "/tlog/{tenant}/tile/{*path}", tile("tlog_tile")),
    ("GET", "/tlog/{tenant}/vkey", quiet("tlog_vkey", "receipts")),
    ("GET", "/tlog/{tenant}/vkeys", quiet("tlog_vkeys", "receipts")),
    (
        "GET",
        "/tlog/{tenant}/{epoch}/checkpoint",
        quiet("tlog_epoch_checkpoint", "receipts"),
    ),
    (
        "GET",
        "/tlog/{tenant}/{epoch}/tile/{*path}",
        tile("tlog_epoch_tile"),
    ),
    (
        "GET",
        "/tlog/{tenant}/{epoch}/vkey",
        quiet("tlog_epoch_vkey", "receipts"),
    ),
    ("POST", "/v1/logs", otlp("otlp_logs")),
    ("POST", "/v1/metrics", otlp("otlp_metrics")),
    ("POST", "/v1/traces", otlp("otlp_traces")),
];

/// What the route of that method and path template needs; `HEAD` is `GET`.
pub(crate) fn access_of(method: &Method, template: &str) -> Access {
    let method = if method == Method::HEAD {
        "GET"
    } else {
        method.as_str()
    };
    TABLE
        .iter()
        .find(|(row_method, path, _)| *row_method == method && *path == template)
        .map_or(
            Access::Decided(op("unlisted", Action::Manage, "unlisted", Trail::Decision)),
            |(_, _, access)| *access,
        )
}

/// The operations that answer with any number of rows, and their paths.
pub(crate) fn listing() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLE.iter().filter_map(|(_, path, access)| match access {
        Access::Decided(operation) if operation.lists => Some((operation.name, *path)),
        _ => None,
    })
}

/// The tenant that a path names; of others it is the caller's.
pub(crate) fn tenant_of_path(path: &str) -> Option<&str> {
    path.strip_prefix("/tlog/")?.split('/').next()
}

/// Kinds of records that belong to the audit topic: who may not read it does not find them among records.
pub(crate) fn is_audit(kind: evidence::Kind) -> bool {
    use evidence::Kind;
    matches!(
        kind,
        Kind::AuditEvent
            | Kind::IdentityEvent
            | Kind::AuthorizationDecision
            | Kind::AccessEvent
            | Kind::HoldPlaced
            | Kind::HoldReleased
            | Kind::ExportRequested
            | Kind::ExportCompleted
            | Kind::ErasurePerformed
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Nothing else tells who writes policies what they may speak of, and a topic that is mistyped is no error.
    #[test]
    fn the_schema_names_every_topic() {
        let schema = include_str!("schema.cedarschema").replace("//", "");
        let (_, topics) = schema.split_once("`topic` is one of:").unwrap();
        let word = |topic: &str| topic.split_whitespace().next().map(str::to_owned);
        let named: BTreeSet<String> = topics.split([',', '\n']).filter_map(word).collect();
        for (_, path, access) in TABLE {
            if let Access::Decided(operation) | Access::InHandler(operation) = access {
                assert!(named.contains(operation.topic), "{path}: {}", operation.topic);
            }
        }
    }

    #[test]
    fn every_row_is_of_a_route_and_every_route_has_one() {
        let document = serde_json::to_value(crate::openapi()).unwrap();
        let mut routes = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                routes.insert((method.to_uppercase(), path.clone()));
            }
        }
        // gRPC has paths of its own, which are not in the document.
        let rows: BTreeSet<(String, String)> = TABLE
            .iter()
            .filter(|(_, path, _)| !path.starts_with("/opentelemetry.proto."))
            .map(|(method, path, _)| ((*method).to_owned(), path.replace("{*", "{")))
            .collect();
        let missing: Vec<_> = routes.difference(&rows).collect();
        let beyond: Vec<_> = rows.difference(&routes).collect();
        assert!(
            missing.is_empty() && beyond.is_empty(),
            "without a row {missing:?}, without a route {beyond:?}"
        );
    }
}
