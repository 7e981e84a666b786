//! A job's events are a chain: what breaks it is found in a ledger that is whole.

use evidence::canonical::Value;
use evidence::record::{
    ErasedRecord, ErasurePerformed, Facts, GovernanceSignal, JobEvent, JobEventType, SignalDecision,
};
use evidence::{FindingCode, Kind, Timestamp};
use ledger::{Draft, JobError, Salts};
use store::LeafKey;

use crate::bed::{report, tamper};
use crate::jobs::{Bed, under_contract};

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

/// As if there had been no such step, signal or end: no verification has come by yet.
#[test]
fn a_job_is_not_judged_without_a_body_that_was_taken_away() {
    let leaf_of = |bed: &Bed, index: u64| LeafKey::new(bed.tenant.ledger().row.ledger_no, index);
    let take = |bed: &Bed, leaf: LeafKey| {
        let delete = format!("DELETE FROM bodies WHERE leaf = {}", leaf.as_i64());
        tamper(bed.bed.path(), &delete);
    };
    let refused = |bed: &Bed, job_id: &str, gone: LeafKey| {
        let said = bed.complete(job_id).map(|_| ()).unwrap_err().to_string();
        let named = format!("the body of leaf {}: it is missing", gone.leaf_index());
        assert!(said.contains(&named), "{said}");
    };
    let bed = Bed::new();
    bed.started("j1");
    let outside = bed.step("j1", 0, "billing").unwrap().placed.receipt.leaf_index;
    let ended = bed.good("j2").placed.receipt.leaf_index;
    let (outside, ended) = (leaf_of(&bed, outside), leaf_of(&bed, ended));
    take(&bed, outside);
    take(&bed, ended);
    // What is in use is not folded again.
    let bed = bed.reopen();
    refused(&bed, "j1", outside);
    refused(&bed, "j2", ended);
    // Nobody signs the list of what is erased either.
    let leaf = outside.as_i64();
    tamper(
        bed.bed.path(),
        &format!(
            "INSERT INTO facets SELECT tenant_no, 'erased', leaf, 0 FROM facets WHERE facet = 'job=j1' AND leaf = {leaf}"
        ),
    );
    refused(&bed, "j1", outside);

    bed.started("j3");
    bed.step("j3", 0, "search").unwrap();
    bed.signal("search", SignalDecision::Block, bed.bed.now());
    let signal = leaf_of(&bed, bed.bed.size(&bed.tenant) - 1);
    take(&bed, signal);
    refused(&bed, "j3", signal);
}

/// Without it nobody can tell whether the same was posted again.
#[test]
fn a_contract_whose_body_was_taken_away_is_not_answered_as_the_same_again() {
    let bed = Bed::new();
    let index = bed.contract("c2").unwrap().receipt.leaf_index;
    let leaf = LeafKey::new(bed.tenant.ledger().row.ledger_no, index);
    let delete = format!("DELETE FROM bodies WHERE leaf = {}", leaf.as_i64());
    tamper(bed.bed.path(), &delete);
    let said = bed.contract("c2").map(|_| ()).unwrap_err().to_string();
    let named = format!("the body of leaf {index}: it is missing");
    assert!(said.contains(&named), "{said}");
}

/// Nobody signs the lists that records are found in: without an event's row the others read as if it had never been.
#[test]
fn a_job_is_not_judged_without_an_event_that_its_list_has_lost() {
    let bed = Bed::new();
    let ledger_no = bed.tenant.ledger().row.ledger_no;
    let unlist = |job_id: &str, index: u64| {
        let leaf = LeafKey::new(ledger_no, index).as_i64();
        let delete = format!("DELETE FROM facets WHERE facet = 'job={job_id}' AND leaf = {leaf}");
        tamper(bed.bed.path(), &delete);
    };
    bed.started("j1");
    let outside = bed.step("j1", 0, "billing").unwrap().placed.receipt.leaf_index;
    let next = bed.step("j1", 1, "search").unwrap().placed.receipt.leaf_index;
    unlist("j1", outside);
    let created = bed
        .create(&under_contract("j2"))
        .unwrap()
        .placed
        .receipt
        .leaf_index;
    let started = bed.start("j2").unwrap().placed.receipt.leaf_index;
    unlist("j2", created);
    // What is in use is not folded again.
    let bed = bed.reopen();
    let refused = |done: Result<ledger::JobDone, JobError>, index: u64| {
        let said = done.map(|_| ()).unwrap_err().to_string();
        let named = format!("the body of leaf {index}: the event that it names as the one before is missing");
        assert!(said.contains(&named), "{said}");
    };
    let size = bed.bed.size(&bed.tenant);
    refused(bed.complete("j1"), next);
    // Nor does another job begin under its id.
    refused(bed.create(&under_contract("j2")), started);
    assert_eq!(bed.bed.size(&bed.tenant), size);
    bed.good("j3");
}

/// Older builds erased events, which left the lists of their jobs.
#[test]
fn a_job_goes_on_over_an_event_that_an_older_build_erased() {
    let bed = Bed::new();
    bed.started("j1");
    let erased = bed.step("j1", 0, "search").unwrap().placed.receipt;
    bed.step("j1", 1, "search").unwrap();
    let erasure = ErasurePerformed {
        erased: vec![ErasedRecord::unknown(erased.record_id)],
        only: false,
        principal: "root".into(),
        reason: "asked for".into(),
        redactions: None,
    };
    let body = erasure.encode();
    let facts = Facts::Erasure(erasure);
    let mut salts = Salts::default();
    let draft = Draft::alone(Kind::ErasurePerformed, facts, &body, bed.bed.now(), &mut salts).unwrap();
    bed.bed.one(&bed.tenant, draft);
    let leaf = LeafKey::new(bed.tenant.ledger().row.ledger_no, erased.leaf_index).as_i64();
    tamper(
        bed.bed.path(),
        &format!(
            "INSERT INTO facets SELECT tenant_no, 'erased', leaf, 0 FROM facets WHERE facet = 'job=j1' AND leaf = {leaf};
             DELETE FROM facets WHERE facet = 'job=j1' AND leaf = {leaf};
             DELETE FROM bodies WHERE leaf = {leaf};
             INSERT INTO facets SELECT tenant_no, 'erasure={}', leaf, 0 FROM facets WHERE facet = 'erased'",
            // A forged row before the one that leads to its erasure does not hide that.
            erased.record_id
        ),
    );
    let bed = bed.reopen();
    assert_eq!(bed.complete("j1").unwrap().job.steps_recorded, 1);
}

/// As if there were none of that id: its body is gone, and no record says why.
#[test]
fn a_contract_or_signal_whose_body_was_taken_away_is_damage_and_not_unknown() {
    let bed = Bed::new();
    let (ledger, ledger_no) = (&bed.bed.ledger, bed.tenant.ledger().row.ledger_no);
    let contract = bed.contract("c2").unwrap().receipt.leaf_index;
    bed.signal("search", SignalDecision::Block, bed.bed.now());
    let signal = bed.bed.size(&bed.tenant) - 1;
    let record = ledger
        .records(&bed.tenant)
        .newest("signal".to_owned(), None)
        .unwrap()
        .unwrap();
    let signal_id = GovernanceSignal::read(record.body.bytes().unwrap())
        .unwrap()
        .signal_id;
    let refused = || {
        let shown = ledger
            .contract(&bed.tenant, "c2")
            .map(|_| ())
            .unwrap_err()
            .to_string();
        let named = format!("the body of leaf {contract}: it is missing");
        assert!(shown.contains(&named), "{shown}");
        let shown = ledger
            .signal(&bed.tenant, &signal_id)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        let named = format!("the body of leaf {signal}: it is missing");
        assert!(shown.contains(&named), "{shown}");
    };
    for index in [contract, signal] {
        let leaf = LeafKey::new(ledger_no, index).as_i64();
        tamper(bed.bed.path(), &format!("DELETE FROM bodies WHERE leaf = {leaf}"));
    }
    refused();
    // Nobody signs the list of what is erased.
    for (index, facet) in [(contract, "contract=c2"), (signal, "signal")] {
        let leaf = LeafKey::new(ledger_no, index).as_i64();
        tamper(
            bed.bed.path(),
            &format!(
                "INSERT INTO facets SELECT tenant_no, 'erased', leaf, 0 FROM facets WHERE facet = '{facet}' AND leaf = {leaf}"
            ),
        );
    }
    refused();
}
