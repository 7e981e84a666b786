//! Jobs: what is redacted, what a job may hold, and that whatever was taken can be read, judged and verified.

use evidence::canonical::{Limits, Value, parse, to_vec};
use evidence::job::ProgressUpdate;
use evidence::record::{Facts, GovernanceContract, GovernanceSignal, ResolutionDecision, SignalDecision};
use evidence::redact::{RedactionSettings, TenantPattern};
use evidence::{Kind, SourceDomain, TimesGiven};
use ledger::{Draft, JobAct, JobDone, JobError, NewJob, Salts};

use crate::jobs::{Bed, json, retrying, under_contract};

#[track_caller]
fn field(result: Result<JobDone, JobError>) -> &'static str {
    match result {
        Err(JobError::Rule(rule)) => rule.field,
        Err(JobError::Input(field, _)) => field,
        other => panic!("{other:?}"),
    }
}

fn contract(contract_id: &str, changes: &str) -> GovernanceContract {
    GovernanceContract {
        contract_id: contract_id.into(),
        scope: vec!["search".into(), "export".into()],
        proposed_changes: json(changes),
        activation_window_start: None,
        activation_window_end: None,
    }
}

impl Bed {
    fn take(&self, contract: &GovernanceContract) -> Result<ledger::Placed, JobError> {
        self.bed
            .ledger
            .contract_record(&self.tenant, contract, &self.moment())
    }

    fn output(&self, job_id: &str, index: u32, output: &str) -> Result<JobDone, JobError> {
        let step = JobAct::Step {
            step_index: index,
            status: "COMPLETED".into(),
            output: json(output),
        };
        self.act(job_id, step)
    }

    /// The bodies of the job's events, as stored.
    fn bodies(&self, job_id: &str) -> Vec<String> {
        let events = self.events(job_id);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        events.iter().map(|event| text(event.encode().0)).collect()
    }

    #[track_caller]
    fn evidence_matches(&self, job_id: &str) {
        let evidence = self.bed.ledger.job_audit_evidence(&self.tenant, job_id).unwrap();
        assert!(evidence.matches, "{}", String::from_utf8_lossy(&evidence.input));
    }
}

/// Of a contract on record nobody is told to choose other names.
#[test]
fn a_contract_is_the_same_again_though_a_younger_pattern_matches_its_names() {
    let bed = Bed::new();
    let made = contract("c-1", r#"{"scope":"search"}"#);
    let first = bed.take(&made).unwrap();
    let pattern = TenantPattern {
        name: "search".into(),
        pattern: "sear[a-z]+".into(),
    };
    let settings = RedactionSettings {
        patterns: vec![pattern],
        ..RedactionSettings::default()
    };
    bed.bed
        .ledger
        .redaction_change(&bed.tenant, &settings, &ledger::Changer::local(), bed.bed.now())
        .unwrap();
    let again = bed.take(&made).unwrap();
    assert_eq!((again.receipt, again.fresh), (first.receipt, false));
    let other = GovernanceContract {
        scope: vec!["search".into()],
        ..made.clone()
    };
    assert!(matches!(bed.take(&other), Err(JobError::NameRedacted(_))));
    let new = GovernanceContract {
        contract_id: "c-2".into(),
        ..made
    };
    assert!(matches!(bed.take(&new), Err(JobError::NameRedacted(_))));
    bed.bed.check();
}

/// A member that looks like a secret is replaced before the event is hashed: the ledger stays whole.
#[test]
fn what_is_redacted_of_a_job_is_redacted_before_its_events_are_hashed() {
    let bed = Bed::new();
    let ticket = TenantPattern {
        name: "ticket".into(),
        pattern: "T-[0-9]+".into(),
    };
    let settings = RedactionSettings {
        patterns: vec![ticket],
        ..RedactionSettings::default()
    };
    bed.bed
        .ledger
        .redaction_change(&bed.tenant, &settings, &ledger::Changer::local(), bed.bed.now())
        .unwrap();
    let contract_id = "ada@example.com T-1";
    bed.take(&contract(contract_id, r#"{"scope":"search"}"#)).unwrap();
    let new = NewJob {
        contract_id: Some(contract_id.into()),
        payload: json(r#"{"password":"hunter2"}"#),
        ..retrying("j1", r#"{"max_retries":2,"retryable_errors":["T-7"]}"#)
    };
    let made = bed.create(&new).unwrap();
    assert_eq!(made.job.contract_id.as_deref(), Some(contract_id));
    bed.start("j1").unwrap();
    let said = r#"{"target":"search","password":"hunter2","note":"see T-12"}"#;
    let step = bed.output("j1", 0, said).unwrap();
    let update = ProgressUpdate {
        message: Some("asked bob@example.com".into()),
        metadata: Some(json(r#"{"token":"abc"}"#)),
        ..ProgressUpdate::default()
    };
    bed.act("j1", JobAct::Progress(update)).unwrap();
    bed.health(
        "j1",
        r#"{"search":"HEALTHY","bob@example.com":"HEALTHY"}"#,
        "null",
    )
    .unwrap();
    // The same again is compared as it is kept.
    assert!(!bed.create(&new).unwrap().placed.fresh);
    let again = bed.output("j1", 0, said).unwrap().placed;
    assert_eq!((again.receipt, again.fresh), (step.placed.receipt, false));
    let failed = bed.fail("j1", "mail ada@example.com about T-7").unwrap();
    assert_eq!(
        failed.job.history[0].error,
        "mail <REDACTED_EMAIL> about <REDACTED_TICKET>"
    );
    assert!(failed.job.history[0].will_retry);
    bed.start("j1").unwrap();
    let ended = bed.fail("j1", "bob@example.com").unwrap();
    assert!(ended.verdict.is_some());
    let all = bed.bodies("j1").join("\n");
    for secret in ["hunter2", "T-12", "T-7", "bob@", "\"abc\""] {
        assert!(!all.contains(secret), "{secret}: {all}");
    }
    assert!(
        all.contains(r#""redactions":{"count":2,"patterns":["field","ticket"]}"#),
        "{all}"
    );
    // What identifies stays.
    assert!(all.contains(r#""contract_id":"ada@example.com T-1""#));
    bed.evidence_matches("j1");
    let resolve = |reason: &str| {
        bed.bed.ledger.audit_resolve(
            &bed.tenant,
            "j1",
            ResolutionDecision::Proceed,
            "ada",
            reason,
            &bed.moment(),
        )
    };
    assert!(resolve("bob@example.com said so").unwrap().0.fresh);
    assert!(!resolve("bob@example.com said so").unwrap().0.fresh);
    let bed = bed.reopen();
    bed.evidence_matches("j1");
    bed.bed.check();
}

#[test]
fn a_contract_with_a_marker_is_the_same_when_it_is_posted_again() {
    let bed = Bed::new();
    let sent = contract(
        "c2",
        r#"{"capability_name":"search","note":"ask ada@example.com","token":"abc"}"#,
    );
    let first = bed.take(&sent).unwrap();
    let again = bed.take(&sent).unwrap();
    assert_eq!(
        (again.receipt.leaf_index, again.fresh),
        (first.receipt.leaf_index, false)
    );
    let other = contract(
        "c2",
        r#"{"capability_name":"search","note":"ask ada@example.com"}"#,
    );
    assert!(matches!(bed.take(&other), Err(JobError::Conflict(_))));
    bed.bed.check();
}

/// Two addresses leave one marker: a job that touched another mailbox than its contract names must not pass.
#[test]
fn names_that_are_judged_by_are_refused_if_redaction_would_change_them() {
    let bed = Bed::new();
    let over = |scope: &str, changes: &str| GovernanceContract {
        scope: vec!["search".into(), scope.into()],
        ..contract("c2", changes)
    };
    let at = |contract: &GovernanceContract| match bed.take(contract) {
        Err(JobError::NameRedacted(field)) => field,
        other => panic!("{other:?}"),
    };
    let size = bed.bed.size(&bed.tenant);
    assert_eq!(at(&over("mailbox/bob@example.com", "null")), "scope[1]");
    let one = over("export", r#"{"capability_name":"mailbox/bob@example.com"}"#);
    assert_eq!(at(&one), "proposed_changes");
    let list = over(
        "export",
        r#"[{"scope":"search"},{"scope":"mailbox/bob@example.com"}]"#,
    );
    assert_eq!(at(&list), "proposed_changes[1]");
    for (scope, signal_type, field) in [
        ("mailbox/bob@example.com", "freeze", "scope"),
        ("search", "bob@example.com", "signal_type"),
    ] {
        let signal = GovernanceSignal {
            signal_id: "s".into(),
            signal_type: signal_type.into(),
            scope: scope.into(),
            decision: SignalDecision::Block,
            at: bed.bed.now(),
        };
        let times = TimesGiven::default();
        let refused = bed
            .bed
            .ledger
            .signal_record(&bed.tenant, &signal, &times, &bed.moment());
        assert!(matches!(refused, Err(JobError::NameRedacted(at)) if at == field));
    }
    assert_eq!(bed.bed.size(&bed.tenant), size);
}

/// A contract of before names were refused has markers in its scope; such a one is taken as it is.
#[test]
fn a_job_under_a_contract_with_a_marker_does_not_pass() {
    let bed = Bed::new();
    let old = GovernanceContract {
        contract_id: "c2".into(),
        scope: vec!["mailbox/<REDACTED_EMAIL>".into()],
        proposed_changes: Value::Null,
        activation_window_start: Some(crate::bed::time("2026-11-21T00:00:00Z")),
        activation_window_end: Some(crate::bed::time("2026-11-22T00:00:00Z")),
    };
    bed.take(&old).unwrap();
    let new = NewJob {
        contract_id: Some("c2".into()),
        ..under_contract("j1")
    };
    bed.create(&new).unwrap();
    bed.start("j1").unwrap();
    bed.step("j1", 0, "mailbox/eve@example.com").unwrap();
    bed.health(
        "j1",
        r#"{"mailbox/bob@example.com":"HEALTHY"}"#,
        r#"{"mailbox/eve@example.com":"HEALTHY"}"#,
    )
    .unwrap();
    bed.complete("j1").unwrap();
    assert_eq!(bed.verdict("j1"), "INCONCLUSIVE");
    assert_eq!(bed.action("j1"), "escalate");
    bed.evidence_matches("j1");
    bed.bed.check();
}

#[test]
fn what_is_nested_as_deep_as_is_taken_can_be_read_back() {
    let bed = Bed::new();
    bed.started("j1");
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let object = |depth: usize| format!(r#"{{"x":{}}}"#, nested(depth - 1));
    let progress = |depth| {
        let update = ProgressUpdate {
            metadata: Some(json(&object(depth))),
            ..ProgressUpdate::default()
        };
        bed.act("j1", JobAct::Progress(update))
    };
    let most = ledger::JOB_DEPTH_MAX;
    assert_eq!(field(bed.output("j1", 0, &object(most + 1))), "output");
    assert_eq!(field(bed.health("j1", &object(most + 1), "null")), "before");
    assert_eq!(field(progress(most + 1)), "metadata");
    bed.output("j1", 0, &object(most)).unwrap();
    bed.health("j1", "{}", &object(most)).unwrap();
    progress(most).unwrap();
    bed.complete("j1").unwrap();
    let bed = bed.reopen();
    assert_eq!(bed.bed.ledger.job(&bed.tenant, "j1").unwrap().steps_recorded, 1);
    assert_eq!(bed.events("j1").len(), 6);
    bed.evidence_matches("j1");
    bed.bed.check();
}

#[test]
fn names_that_a_verdict_lists_are_as_short_as_those_of_a_contract() {
    let bed = Bed::new();
    bed.started("j1");
    let (most, more) = ("x".repeat(256), "x".repeat(257));
    bed.output("j1", 0, &format!(r#"{{"target":"{most}"}}"#)).unwrap();
    assert_eq!(
        field(bed.output("j1", 1, &format!(r#"{{"target":"{more}"}}"#))),
        "output"
    );
    assert_eq!(
        field(bed.output("j1", 1, &format!(r#"{{"target":["{}"]}}"#, "x".repeat(253)))),
        "output"
    );
    assert_eq!(
        field(bed.health("j1", &format!(r#"{{"{more}":"HEALTHY"}}"#), "null")),
        "before"
    );
    let many = format!(r#"{{"x":[0{}]}}"#, ",0".repeat(ledger::HEALTH_NODES_MAX));
    assert_eq!(field(bed.health("j1", "null", &many)), "after");
    let proposed = contract("c2", &format!(r#"[{{"scope":"{more}"}}]"#));
    assert!(matches!(bed.take(&proposed), Err(JobError::Rule(rule)) if rule.field == "proposed_changes"));
}

#[test]
fn words_of_progress_leave_room_for_steps_and_snapshots() {
    let bed = Bed::new();
    bed.started("j1");
    for n in 0..150 {
        let metadata = json(&format!(r#"{{"n":{n},"x":"{}"}}"#, "x".repeat(60_000)));
        let update = ProgressUpdate {
            metadata: Some(metadata),
            ..ProgressUpdate::default()
        };
        bed.act("j1", JobAct::Progress(update)).unwrap();
    }
    bed.step("j1", 0, "search").unwrap();
    bed.health("j1", "{}", "{}").unwrap();
    assert_eq!(bed.complete("j1").unwrap().verdict.unwrap().verdict, "PASS");
}

#[test]
fn a_snapshot_posted_again_answers_its_own_receipt() {
    let bed = Bed::new();
    bed.started("j1");
    let before = bed
        .health("j1", r#"{"search":"HEALTHY"}"#, "null")
        .unwrap()
        .placed;
    let after = bed.health("j1", "null", "{}").unwrap().placed;
    let both_are_known = |bed: &Bed| {
        let again = |before: &str, after: &str| bed.health("j1", before, after).unwrap().placed;
        let first = again(r#"{"search":"HEALTHY"}"#, "null");
        assert_eq!((first.receipt, first.fresh), (before.receipt, false));
        assert_eq!(again("null", "{}").receipt, after.receipt);
        let other = bed.health("j1", r#"{"search":"DEGRADED"}"#, "null");
        assert!(matches!(other, Err(JobError::Conflict(receipt)) if receipt == before.receipt));
    };
    both_are_known(&bed);
    // Folded anew from the records.
    both_are_known(&bed.reopen());
}

/// 100,001 signals about a capability of the contract, all of the day but before the job: more than an audit reads.
#[test]
fn more_signals_than_an_audit_reads_leave_it_undecided() {
    let bed = Bed::new();
    let this_morning = crate::bed::time("2026-11-21T00:00:01Z");
    let mut salts = Salts::default();
    for chunk in 0..51 {
        let drafts = (0..2_000)
            .map(|n| {
                let signal = GovernanceSignal {
                    signal_id: format!("s{chunk}-{n}"),
                    signal_type: "freeze".into(),
                    scope: "search".into(),
                    decision: SignalDecision::Allow,
                    at: this_morning,
                };
                let facts = Facts::Signal(signal.clone());
                let draft = Draft::alone(
                    Kind::GovernanceSignal,
                    facts,
                    &signal.encode(),
                    this_morning,
                    &mut salts,
                );
                Draft {
                    source_domain: SourceDomain::Policy,
                    ..draft.unwrap()
                }
            })
            .collect();
        bed.bed.submit(&bed.tenant, drafts);
    }
    let new = NewJob {
        job_id: "j1".into(),
        ..under_contract("j1")
    };
    bed.create(&new).unwrap();
    bed.start("j1").unwrap();
    bed.step("j1", 0, "search").unwrap();
    bed.health("j1", "{}", "{}").unwrap();
    let audit = bed.complete("j1").unwrap().verdict.unwrap();
    assert_eq!(audit.verdict, "INCONCLUSIVE");
}

/// The frozen evidence is canonical JSON, whatever the steps hold: it is put together from their texts.
#[test]
fn evidence_put_together_from_texts_is_canonical() {
    let bed = Bed::new();
    bed.started("j1");
    bed.output(
        "j1",
        0,
        r#"{"target":"search","b":1.50,"a":["é",{"z":null,"y":"\u0007"}]}"#,
    )
    .unwrap();
    bed.step("j1", 1, "export").unwrap();
    bed.health("j1", "{}", "{}").unwrap();
    bed.complete("j1").unwrap();
    let evidence = bed.bed.ledger.job_audit_evidence(&bed.tenant, "j1").unwrap();
    assert!(evidence.matches);
    let value = parse(&evidence.input, Limits::default()).unwrap();
    assert_eq!(to_vec(&value), evidence.input);
    let steps = value.get("step_results").and_then(Value::as_array).unwrap();
    assert_eq!(steps.len(), 2);
}
