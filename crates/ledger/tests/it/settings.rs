//! Settings that cannot be read: what they were set for is not done without them. And whatever a tenant's redaction is,
//! what is projected is what the records say.

use evidence::record::{CaptureFailure, Environment, EvidenceClass, Facts, RunStarted};
use evidence::redact::{RedactionSettings, Redactor, TenantPattern};
use evidence::{Identity, Kind, content_mac, sha256};
use ledger::{Changer, Draft, Refusal, SealedBody, SubmitError};

use crate::bed::{Span, TestLedger, run, run_of, salt, tamper};

/// Rules that replace what stands under this name.
fn hiding(field: &str) -> Redactor {
    let settings = RedactionSettings {
        fields: vec![field.into()],
        ..RedactionSettings::default()
    };
    Redactor::new(&settings).unwrap()
}

/// Without its redaction a tenant's secrets would be stored: it fails closed (SPEC 6.4).
#[test]
fn a_tenant_whose_redaction_cannot_be_read_is_refused_for_writing_and_no_other() {
    for damage in [
        // No packed body at all; and one that is another's: a whole body that says nothing of settings.
        "UPDATE bodies SET body = x'00' WHERE leaf = {leaf}",
        "UPDATE bodies SET body = (SELECT body FROM bodies WHERE leaf = {other}) WHERE leaf = {leaf}",
        "DELETE FROM bodies WHERE leaf = {leaf}",
    ] {
        let bed = TestLedger::new();
        let (tenant, other) = (bed.tenant("t"), bed.tenant("other"));
        let settings = RedactionSettings {
            patterns: vec![TenantPattern {
                name: "order".into(),
                pattern: "ORD-[0-9]+".into(),
            }],
            ..RedactionSettings::default()
        };
        let first = bed.one(&tenant, run("r"));
        let changed = bed
            .ledger
            .redaction_change(&tenant, &settings, &Changer::local(), bed.now())
            .unwrap();
        let ledger_no = tenant.ledger().row.ledger_no;
        let leaf = |index: u64| store::LeafKey::new(ledger_no, index).as_i64();
        let sql = damage
            .replace("{leaf}", &leaf(changed.leaf_index).to_string())
            .replace("{other}", &leaf(first.receipt.leaf_index).to_string());
        drop((tenant, other));
        let bed = bed.reopen_after(|folder| tamper(folder, &sql));
        let tenant = bed.tenant("t");
        let size = bed.size(&tenant);
        assert!(
            matches!(tenant.ledger().refusal(), Some(Refusal::Damaged(why)) if why.starts_with("redaction:")),
            "{damage}"
        );
        let refused = bed.try_submit(&tenant, vec![run("s")]);
        assert!(matches!(refused, Err(SubmitError::Refused(_))), "{damage}");
        assert_eq!(bed.size(&tenant), size, "nothing was written");
        // Nor can it be written around: settings are records too.
        let anew = bed.ledger.redaction_change(
            &tenant,
            &RedactionSettings::default(),
            &Changer::local(),
            bed.now(),
        );
        assert!(anew.is_err(), "{damage}");
        // Nor does another epoch begin without its rules.
        assert!(bed.ledger.recover("t", "a try", bed.now()).is_err(), "{damage}");
        let refused = bed.try_submit(&tenant, vec![run("s")]);
        assert!(matches!(refused, Err(SubmitError::Refused(_))), "{damage}");
        assert!(bed.one(&bed.tenant("other"), run("s")).fresh);
    }
}

#[test]
fn a_run_begins_with_what_redaction_has_left_of_its_start() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let rules = hiding("source");
    let start = RunStarted {
        source: "SDK".into(),
        ..RunStarted::default()
    };
    let redacted = || {
        let (content, salt) = (sha256(&start.encode(None)), salt());
        let body = start.encode(Some(&content_mac(&salt, &content)));
        Draft {
            body: SealedBody::seal_by(&rules, Kind::RunStarted, salt, &body).unwrap(),
            ..run_of("r", start.clone())
        }
    };
    let first = bed.one(&tenant, redacted());
    assert_eq!(bed.run_row(&tenant, "r").state.source, "<REDACTED>");
    let again = bed.one(&tenant, redacted());
    assert!(!again.fresh);
    assert_eq!(again.receipt.record_id, first.receipt.record_id);
    bed.complete(&tenant, "r");
    bed.check();
}

/// Its identity is made of its resource, as that stands in the record.
#[test]
fn an_environment_is_known_again_by_what_redaction_has_left_of_it() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let rules = hiding("resource");
    let redacted = |service: &str| {
        let environment = Environment {
            resource: format!("{{\"service.name\":\"{service}\"}}").into_bytes(),
            environment: None,
            sdk_version: None,
            dropped_attributes_count: 0,
        };
        let mut body = Vec::new();
        environment.encode(&mut body);
        Draft {
            body: SealedBody::seal_by(&rules, Kind::EvidenceEnvironment, salt(), &body).unwrap(),
            ..Span::default().environment(service)
        }
    };
    let first = bed.one(&tenant, redacted("shop"));
    // The same marker is left of another one.
    for service in ["shop", "mail"] {
        let again = bed.one(&tenant, redacted(service));
        assert!(!again.fresh, "{service}");
        assert_eq!(again.receipt.record_id, first.receipt.record_id);
    }
    let run = bed.run_row(&tenant, &Span::default().run_id());
    let left = Identity::environment(br#"{"service.name":"<REDACTED>"}"#);
    let found = bed.ledger.store().run_record_find(run.key, &left).unwrap();
    assert_eq!(found.unwrap().leaf.leaf_index(), first.receipt.leaf_index);
    bed.check();
}

/// Whatever is evidence of something missing says what: no rule makes two of it one.
#[test]
fn a_noted_failure_keeps_what_it_is_about() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let settings = RedactionSettings {
        fields: vec!["about".into(), "evidence_class".into()],
        patterns: vec![TenantPattern {
            name: "hex".into(),
            pattern: "[0-9a-f]{16}".into(),
        }],
        ..RedactionSettings::default()
    };
    bed.ledger
        .redaction_change(&tenant, &settings, &Changer::local(), bed.now())
        .unwrap();
    bed.one(&tenant, run("r"));
    let note = |about: &str| {
        let message = "refused: 00112233445566778";
        let failure = CaptureFailure::noted(EvidenceClass::TraceSteps, about, message);
        bed.ledger
            .capture_failure(&tenant, "r", &failure, bed.now())
            .unwrap()
    };
    let (one, other) = ("span 0000000000000001", "span 0000000000000002");
    assert!(note(one).fresh && note(other).fresh);
    assert!(!note(one).fresh && !note(other).fresh);
    bed.check();
}

/// Verification finds the trace of a span and of an environment, and of nothing that is only noted.
#[test]
fn what_is_noted_of_a_trace_does_not_bind_it() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let of = |trace| Span {
        trace,
        run_id: Some("r".into()),
        ..Span::default()
    };
    bed.all(&tenant, vec![run("r"), of(1).draft(), of(1).environment("shop")]);
    let kind = Kind::EvidenceCaptureFailure;
    let failure = CaptureFailure::noted(EvidenceClass::TraceSteps, "dropped", "dropped");
    let noted = Draft {
        kind,
        identity: failure.identity(),
        body: SealedBody::seal(kind, salt(), &failure.encode()).unwrap(),
        facts: Facts::Other,
        ..of(2).environment("shop")
    };
    bed.all(&tenant, vec![of(2).environment("shop"), noted]);
    assert!(
        bed.ledger
            .records(&tenant)
            .run(&of(2).trace_hex())
            .unwrap()
            .is_none()
    );
    bed.check();
    bed.one(&tenant, of(2).draft());
    assert!(
        bed.ledger
            .records(&tenant)
            .run(&of(2).trace_hex())
            .unwrap()
            .is_some()
    );
    bed.check();
}
