//! How spans find their run, and what they ran in.

use std::sync::Arc;

use ledger::{Bind, TraceBind};
use serde_json::json;

use super::*;

fn bind(draft: &Draft) -> &Arc<TraceBind> {
    let Bind::Trace(bind) = &draft.bind else {
        panic!("bound to its trace")
    };
    bind
}

fn binds(lowered: &Lowered) -> Vec<&Arc<TraceBind>> {
    steps(lowered).into_iter().map(bind).collect()
}

fn of_trace(trace: u8, mut span: Span) -> Span {
    span.trace_id = vec![trace; 16];
    span
}

#[test]
fn a_run_is_named_by_the_resource_else_by_the_first_span_that_names_one_else_by_its_trace() {
    let run = |n, name: &str| span(n, "s", vec![kv("deponent.run.id", text(name))]);
    let mut named = resource();
    named.attributes.push(kv("deponent.run.id", text("run-r")));
    assert_eq!(
        &*binds(&lower(&request_of(named, vec![run(1, "run-a")])))[0].run_id,
        "run-r"
    );

    let lowered = lower(&request(vec![
        span(1, "s", vec![]),
        run(2, "run-a"),
        run(3, "run-b"),
    ]));
    assert!(binds(&lowered).iter().all(|bind| &*bind.run_id == "run-a"));
    assert!(
        binds(&lowered)
            .iter()
            .all(|bind| Arc::ptr_eq(bind, binds(&lowered)[0])),
        "shared"
    );

    let lowered = lower(&request(vec![span(1, "s", vec![])]));
    assert_eq!(&*binds(&lowered)[0].run_id, "01".repeat(16));
    assert_eq!(steps(&lowered)[0].trace_id.as_deref(), Some(&*"01".repeat(16)));
}

#[test]
fn a_name_that_can_be_no_identifier_is_kept_and_names_nothing() {
    for bad in ["", "a\nb", &"x".repeat(257)] {
        let lowered = lower(&request(vec![span(
            1,
            "s",
            vec![
                kv("deponent.run.id", text(bad)),
                kv("session.id", text(bad)),
                kv("gen_ai.operation.name", text("invoke_agent")),
                kv("gen_ai.agent.id", text(bad)),
            ],
        )]));
        assert_eq!(&*binds(&lowered)[0].run_id, "01".repeat(16));
        // Its sender is told, unless it said nothing.
        assert_eq!(
            (lowered.rejected.count, lowered.rejected.warnings.len()),
            (0, usize::from(!bad.is_empty()))
        );
        assert_eq!(steps(&lowered)[0].correlation_id, None);
        assert_eq!(steps(&lowered)[0].actor.1, None);
        assert_eq!(
            body(steps(&lowered)[0])["otel"]["attributes"]["deponent.run.id"],
            bad
        );
    }
}

#[test]
fn a_conversation_correlates_the_whole_trace() {
    let spans = vec![
        span(1, "s", vec![]),
        span(
            2,
            "s",
            vec![
                kv("session.id", text("sess")),
                kv("gen_ai.conversation.id", text("conv")),
            ],
        ),
        of_trace(
            2,
            span(
                3,
                "s",
                vec![kv("traceloop.association.properties.session_id", text("loop"))],
            ),
        ),
    ];
    let lowered = lower(&request(spans));
    let ids: Vec<_> = steps(&lowered)
        .iter()
        .map(|draft| draft.correlation_id.as_deref())
        .collect();
    assert_eq!(ids, [Some("conv"), Some("conv"), Some("loop")]);
}

#[test]
fn a_conversation_of_which_a_marker_is_left_correlates_nothing() {
    let named = |n: u8, conversation: &str| {
        of_trace(
            n,
            span(n, "s", vec![kv("gen_ai.conversation.id", text(conversation))]),
        )
    };
    let lowered = lower(&request(vec![
        named(1, "bob@example.com"),
        named(2, "eve@example.com"),
        named(3, "conv"),
    ]));
    let ids: Vec<_> = steps(&lowered)
        .iter()
        .map(|draft| draft.correlation_id.as_deref())
        .collect();
    assert_eq!(ids, [None, None, Some("conv")]);
}

#[test]
fn a_run_starts_with_its_earliest_span_and_is_its_root_agents() {
    let agent = |n, id: &str| {
        span(
            n,
            "s",
            vec![
                kv("gen_ai.operation.name", text("invoke_agent")),
                kv("gen_ai.agent.id", text(id)),
            ],
        )
    };
    let lowered = lower(&request(vec![
        agent(3, "helper"),
        agent(1, "lead"),
        agent(2, "other"),
    ]));
    let bind = binds(&lowered)[0];
    assert_eq!(bind.start.agent_id.as_deref(), Some("lead"));
    assert_eq!(bind.start.source, "SDK");
    assert_eq!(bind.started_at, Timestamp::from_unix_nanos(START + SECOND).0);
    assert_eq!(steps(&lowered)[0].actor.1.as_deref(), Some("helper"));
}

#[test]
fn one_environment_for_each_trace_and_resource_and_it_is_the_same_again_later() {
    let spans = vec![
        span(4, "s", vec![]),
        span(2, "s", vec![]),
        of_trace(2, span(3, "s", vec![])),
    ];
    let first = lower(&request(spans));
    let environments: Vec<_> = first
        .drafts
        .iter()
        .filter(|draft| draft.kind == evidence::Kind::EvidenceEnvironment)
        .collect();
    assert_eq!(environments.len(), 2);
    assert_eq!(
        environments[0].occurred_at,
        Timestamp::from_unix_nanos(START + 2 * SECOND).0
    );
    assert_eq!(bind(environments[1]).trace_id, [2; 16]);
    assert_eq!(
        body(environments[0]),
        json!({"environment": "staging", "sdk_version": "opentelemetry python 1.38.0", "telemetry_enabled": true,
            "resource": {"deployment.environment.name": "staging", "service.name": "agents",
                "telemetry.sdk.language": "python", "telemetry.sdk.name": "opentelemetry",
                "telemetry.sdk.version": "1.38.0"}})
    );
    let later = lower(&request(vec![span(9, "s", vec![])]));
    assert_eq!(later.drafts[0].identity, environments[0].identity);
    assert_eq!(later.drafts[0].content, environments[0].content);
    assert_eq!(body_bytes(&later.drafts[0]), body_bytes(environments[0]));

    let mut both = request(vec![span(1, "s", vec![])]);
    both.resource_spans
        .extend(request(vec![span(2, "s", vec![])]).resource_spans);
    assert_eq!(lower(&both).drafts.len(), 3, "equal resources are one");
}

#[test]
fn a_span_has_its_own_time_identity_and_content() {
    let sent = span(1, "s", vec![kv("k", text("v"))]);
    let lowered = lower(&request(vec![sent.clone()]));
    let draft = steps(&lowered)[0];
    assert_eq!(
        draft.identity,
        Some(Identity::span(&[1; 16], &[0, 0, 0, 0, 0, 0, 0, 1]))
    );
    assert_eq!(draft.content, Some(evidence::sha256(&sent.encode_to_vec())));
    assert_eq!(draft.occurred_at.to_string(), "2025-11-21T09:23:21.123456Z");
    assert_eq!(draft.source_component, "otlp");
    assert_eq!(
        body(draft)["otel"]["scope"],
        json!({"name": "tests", "version": "1"})
    );
}
