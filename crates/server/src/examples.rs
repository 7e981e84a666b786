//! Bodies that stand as examples in the document. A test sends each of them.

use serde_json::{Value, json};

/// The example of an operation's body.
pub(crate) fn example_of(operation: &str) -> Option<Value> {
    let example = match operation {
        "run_start" => json!({
            "run_id": "nightly-7", "agent_id": "etl", "goal": "load the orders",
            "plan": [{"skill": "load"}],
        }),
        "step_record" => json!({
            "step_index": 0, "skill_name": "load", "params": {"table": "orders"}, "status": "success",
            "outcome_data": {"rows": 412}, "duration_ms": 12.5, "idempotency_key": "load-orders",
        }),
        "evidence_environment" => json!({
            "sdk_mode": "inline", "sdk_version": "1.0.0", "environment": "prod",
        }),
        "evidence_provider" => json!({
            "step_index": 0, "provider_name": "provider", "model_name": "m-1", "input_tokens": 120,
            "output_tokens": 40, "provider_http_status": 200,
        }),
        "evidence_policy_decision" => json!({
            "policy_type": "budget", "policy_rule_id": "daily", "decision": "GRANTED",
            "decision_reason": "below the limit", "policies_evaluated": ["daily"],
            "policy_results": {"daily": "pass"}, "thresholds_used": {"cents": 500},
        }),
        "replay_step" => json!({
            "run_id": "nightly-7", "step_index": 1, "idempotency_key": "pay-17", "replay_behavior": "skip",
        }),
        "replay_result" => json!({ "output": {"paid": true} }),
        "run_complete" => json!({
            "status": "completed", "model": "m-1", "input_tokens": 120, "output_tokens": 40,
            "cost_cents": 0.4,
        }),
        "run_abort" => json!({ "reason": "called off by the operator" }),
        "trace_store" => json!({
            "run_id": "nightly-6", "status": "completed",
            "steps": [{"step_index": 0, "skill_name": "load", "status": "success"}],
        }),
        "audit_event_record" => json!({
            "event_type": "LimitUpdated", "entity_type": "LIMIT", "entity_id": "daily",
            "actor_type": "HUMAN", "actor_id": "ada", "action_reason": "more orders",
            "before_state": {"cents": 400}, "after_state": {"cents": 500},
        }),
        "system_record_record" => json!({
            "component": "worker", "event_type": "STARTUP", "severity": "INFO",
            "summary": "the worker has started",
        }),
        "incident_open" => json!({
            "severity": "HIGH", "summary": "paid twice?", "source_run_id": "nightly-7",
        }),
        "idempotency_check" => json!({ "request": {"order": 17}, "ttl_seconds": 3600 }),
        "idempotency_complete" => json!({
            "lease": "0123456789abcdef0123456789abcdef", "response": {"paid": true},
        }),
        "contract_record" => json!({
            "contract_id": "c-1", "scope": ["search"], "proposed_changes": {"capability_name": "search"},
        }),
        "job_create" => json!({
            "job_id": "j-1", "handler": "deploy", "contract_id": "c-1", "payload": {"version": 2},
            "total_steps": 1,
        }),
        "job_start" => json!({}),
        "job_health" => json!({ "before": {"search": "HEALTHY"}, "after": {"search": "HEALTHY"} }),
        "job_step" => json!({
            "step_index": 0, "status": "COMPLETED",
            "output": {"target": "search", "rollback_action": "restore"},
        }),
        "job_progress" => json!({ "current_step": 1, "message": "one of one" }),
        "job_complete" => json!({ "result": {"ok": true} }),
        "panel_check" => json!({
            "panel_id": "operations",
            "slots": [{"slot_id": "incidents", "signals": {"active_incidents": 0, "attention_required": false}}],
        }),
        "signal_record" => json!({ "signal_type": "error_rate", "scope": "search", "decision": "allow" }),
        "provenance_log" => json!({ "input": {"question": "how many?"}, "output": {"answer": 412} }),
        "hold_place" => json!({ "scope": "run", "run_id": "nightly-7", "reason": "case 12" }),
        _ => return None,
    };
    Some(example)
}
