//! A job's events are a chain: what breaks it is found in a ledger that is whole.

use evidence::canonical::Value;
use evidence::record::{Facts, JobEvent, JobEventType};
use evidence::{FindingCode, Kind, Timestamp};
use ledger::{Draft, Salts};

use crate::bed::report;
use crate::jobs::Bed;

/// Writes events as they are, as who holds the ledger's key can.
fn forged(bed: &Bed, events: &[(JobEvent, String)]) {
    let mut salts = Salts::default();
    for (event, hash) in events {
        let (_, own) = event.encode();
        let mut value = event.to_value();
        value.insert("integrity_hash", hash.as_str());
        let body = evidence::canonical::to_vec(&value);
        let facts = Facts::Job(event.facts(&own));
        let draft = Draft::alone(Kind::JobEvent, facts, &body, bed.bed.now(), &mut salts).unwrap();
        bed.bed.one(&bed.tenant, draft);
    }
}

/// The events of a good job, each with its hash, as of another job.
fn chain() -> Vec<(JobEvent, String)> {
    let bed = Bed::new();
    bed.good("j1");
    let events = bed.events("j1");
    events
        .into_iter()
        .map(|event| {
            let hash = event.integrity_hash();
            (event, hash)
        })
        .collect()
}

fn broken(events: &[(JobEvent, String)]) -> bool {
    let bed = Bed::new();
    forged(&bed, events);
    let report = report(bed.bed.path());
    let chain = |finding: &evidence::Finding| finding.code == FindingCode::JobChainBroken;
    assert!(report.findings.iter().all(chain), "{:?}", report.findings);
    assert_eq!(report.findings.is_empty(), report.exit_code(None) == 0);
    !report.findings.is_empty()
}

#[test]
fn verification_finds_every_change_of_a_chain_in_a_ledger_that_is_whole() {
    let good = chain();
    assert!(!broken(&good));
    // Hashed again or not, but for the last event: there the ledger's own signature speaks.
    let changes: [fn(&mut JobEvent); 13] = [
        |event| event.event_id.push('x'),
        |event| event.event_type = JobEventType::Cancelled,
        |event| event.job_id.push('x'),
        |event| event.tenant_id.push('x'),
        |event| event.timestamp = Timestamp::UNIX_EPOCH,
        |event| event.handler = Some("other".into()),
        |event| event.attempt_number += 1,
        |event| event.duration_ms = Some(77),
        |event| event.error = Some("other".into()),
        |event| event.payload_hash = Some("00".into()),
        |event| event.result_hash = Some("00".into()),
        |event| event.previous_event_hash = Some("00".into()),
        |event| event.metadata = Value::Object(Vec::new()),
    ];
    for (n, change) in changes.iter().enumerate() {
        for at in [0, 2, good.len() - 1] {
            let mut events = good.clone();
            change(&mut events[at].0);
            assert!(broken(&events), "change {n} of event {at}");
            if at + 1 < events.len() {
                events[at].1 = events[at].0.integrity_hash();
                assert!(broken(&events), "change {n} of event {at}, hashed again");
            }
        }
    }
    for at in 0..good.len() - 1 {
        let mut events = good.clone();
        events.remove(at);
        assert!(broken(&events), "event {at} deleted");
        let mut events = good.clone();
        events.swap(at, at + 1);
        assert!(broken(&events), "event {at} swapped");
    }
}
