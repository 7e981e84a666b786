//! OTLP: whatever arrives is refused or lowered, and every draft's facts are those of its body.
//!
//! The first byte chooses the signal and the encoding, the rest is the request.

use evidence::record::{BODY_BYTES_MAX, Facts};
use evidence::{Actor, Header, RecordId, Timestamp};
use ledger::{Draft, Salts};
use server::otlp::{
    Encoding, LogsRequest, MetricsRequest, TraceRequest, lower_logs, lower_metrics, lower_traces,
};

/// Checks one input.
pub fn run(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else {
        return;
    };
    let encoding = if choice & 1 == 0 {
        Encoding::Protobuf
    } else {
        Encoding::Json
    };
    let at = Timestamp::UNIX_EPOCH;
    let salts = &mut Salts::default();
    let lowered = match choice >> 1 & 3 {
        0 | 3 => TraceRequest::decode(body, encoding).map(|request| lower_traces(&request, at, salts)),
        1 => LogsRequest::decode(body, encoding).map(|request| lower_logs(&request, at, salts)),
        _ => MetricsRequest::decode(body, encoding).map(|request| lower_metrics(&request, at, salts)),
    };
    match lowered {
        Ok(lowered) => lowered.drafts.iter().for_each(check),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn check(draft: &Draft) {
    let body = store::codec::unpack(&draft.body.packed, BODY_BYTES_MAX).expect("packed a moment ago");
    assert!(
        evidence::canonical::is_canonical(&body),
        "{}",
        String::from_utf8_lossy(&body)
    );
    let header = Header {
        id: RecordId::new(draft.occurred_at, tlog::LeafIndex::new(0), 0).expect("index 0 fits"),
        tenant_id: "fuzz".into(),
        kind: draft.kind,
        run: None,
        trace_id: draft.trace_id.as_deref().map(Into::into),
        correlation_id: draft.correlation_id.as_deref().map(Into::into),
        actor: Actor {
            kind: draft.actor.0,
            id: draft.actor.1.as_deref().map(Into::into),
        },
        occurred_at: draft.occurred_at,
        recorded_at: draft.occurred_at,
        source_domain: draft.source_domain,
        source_component: draft.source_component.into(),
        origin: draft.origin,
        commitment: draft.body.commitment,
    };
    let facts = Facts::read(&header, &body).expect("a body of its kind");
    assert_eq!(facts, draft.facts);
}
