//! Audit events by typed functions, and incidents, whose steps write them.

use evidence::ActorType;
use evidence::canonical::Value;
use evidence::facet::facet;
use evidence::record::{
    AuditEntityType, AuditEvent, AuditEventType, IncidentAct, IncidentOpened, IncidentStatus, IncidentStep,
};
use ledger::{IncidentError, Placed, Tenant, WriteError, audit};
use store::{FacetQuery, LeafKey};

use crate::bed::{TestLedger, copy_folder, projections, report, tamper};
use crate::erasure::{check_erased, erase};

fn state(key: &str, value: &str) -> Value {
    Value::object([(key, Value::from(value))])
}

/// How many records have that facet.
fn found(bed: &TestLedger, tenant: &Tenant, facet: String) -> u64 {
    let query = FacetQuery {
        facets: vec![facet],
        ..FacetQuery::default()
    };
    bed.ledger
        .store()
        .facet_count(tenant.tenant_no, &query, 100)
        .unwrap()
        .0
}

/// One of each.
fn all() -> Vec<AuditEvent> {
    let (a, b) = (state("a", "1"), state("a", "2"));
    let (a, b) = (|| a.clone(), || b.clone());
    vec![
        audit::policy_rule_created("e", a()),
        audit::policy_rule_modified("e", a(), b()),
        audit::policy_rule_retired("e", a()),
        audit::policy_proposal_approved("e", "ada", None),
        audit::policy_proposal_rejected("e", "ada", Some(a())),
        audit::limit_created("e", a()),
        audit::limit_updated("e", a(), b()),
        audit::limit_breached("e", None),
        audit::limit_override_granted("e", Some(a())),
        audit::limit_override_revoked("e", None),
        audit::incident_acknowledged("e", a(), b()),
        audit::incident_resolved("e", a(), b()),
        audit::incident_manually_closed("e", a(), b()),
        audit::emergency_override_activated(AuditEntityType::Signal, "e", Some(a())),
        audit::emergency_override_deactivated(AuditEntityType::PolicyRule, "e", None),
        audit::signal_acknowledged("e", "ada", None),
        audit::signal_suppressed("e", "ada", Some(a())),
        audit::signal_escalated("e", None),
    ]
}

#[test]
fn each_event_type_has_a_function_whose_event_is_recorded_and_found() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("a");
    let events = all();
    let types: Vec<AuditEventType> = events.iter().map(|event| event.event_type).collect();
    assert_eq!(types, AuditEventType::ALL);
    for event in &events {
        assert_eq!(event.actor_type, event.event_type.default_actor());
        bed.ledger.audit_record(&tenant, event, bed.now()).unwrap();
    }
    for event_type in AuditEventType::ALL {
        let facet = facet("audit.event_type", event_type.as_str());
        assert_eq!(found(&bed, &tenant, facet), 1, "{event_type:?}");
    }
    assert_eq!(found(&bed, &tenant, "audit".into()), 18);
    assert_eq!(found(&bed, &tenant, facet("audit.actor_type", "HUMAN")), 4);
    assert_eq!(found(&bed, &tenant, facet("audit.entity_type", "LIMIT")), 5);
    bed.check();
}

#[test]
fn an_event_is_found_by_each_run_that_its_states_name() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("a");
    let event = audit::limit_updated("l", state("run_id", "r1"), state("source_run_id", "r2"));
    let event = audit::by_agent(event, "planner", "spent");
    bed.ledger.audit_record(&tenant, &event, bed.now()).unwrap();
    for (run, count) in [("r1", 1), ("r2", 1), ("r3", 0)] {
        assert_eq!(found(&bed, &tenant, facet("audit.run", run)), count, "{run}");
    }
    bed.check();
}

#[test]
fn an_event_that_breaks_a_rule_is_not_recorded() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("a");
    let size = bed.size(&tenant);
    let nameless = AuditEvent {
        actor_id: None,
        ..audit::signal_suppressed("s", "ada", None)
    };
    let wrong = AuditEvent {
        entity_type: AuditEntityType::Incident,
        ..audit::limit_breached("l", None)
    };
    for (event, field) in [(nameless, "actor_id"), (wrong, "entity_type")] {
        match bed.ledger.audit_record(&tenant, &event, bed.now()) {
            Err(WriteError::Rule(broken)) => assert_eq!(broken.field, field),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bed.size(&tenant), size);
}

pub fn act() -> IncidentAct {
    IncidentAct {
        actor_type: ActorType::Human,
        actor_id: Some("ada".into()),
        reason: "seen".into(),
    }
}

pub fn opened() -> IncidentOpened {
    IncidentOpened {
        source_run_id: Some("r1".into()),
        severity: "HIGH".into(),
        summary: "over budget".into(),
        ..IncidentOpened::default()
    }
}

#[test]
fn steps_of_an_incident_write_their_audit_events_and_survive_a_restart() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("a");
    bed.ledger
        .incident_open(&tenant, "i1", opened(), bed.now())
        .unwrap();
    let size = bed.size(&tenant);
    let done = bed
        .ledger
        .incident_act(&tenant, "i1", IncidentStep::Acknowledged, &act(), bed.now())
        .unwrap();
    assert_eq!((done.event.leaf_index, done.audit.leaf_index), (size, size + 1));
    // The run that the incident stems from is shown the decision about it.
    assert_eq!(found(&bed, &tenant, facet("audit.run", "r1")), 1);
    assert_eq!(found(&bed, &tenant, facet("incident", "i1")), 2);
    assert_eq!(found(&bed, &tenant, "incident".into()), 1);
    let bed = bed.reopen();
    let tenant = bed.tenant("a");
    let incident = bed.ledger.incident(&tenant, "i1", None).unwrap().unwrap();
    assert_eq!(incident.status, IncidentStatus::Acknowledged);
    assert_eq!(incident.opened, Some(opened()));
    assert_eq!(incident.history[1].actor_id.as_deref(), Some("ada"));
    let again = bed
        .ledger
        .incident_act(&tenant, "i1", IncidentStep::Acknowledged, &act(), bed.now());
    assert!(matches!(
        again,
        Err(IncidentError::Step {
            status: IncidentStatus::Acknowledged,
            ..
        })
    ));
    assert_eq!(bed.size(&tenant), size + 2);
    bed.check();
}

#[test]
fn an_incident_of_another_tenant_is_none() {
    let bed = TestLedger::new();
    let (ours, theirs) = (bed.tenant("a"), bed.tenant("b"));
    bed.ledger
        .incident_open(&ours, "i1", opened(), bed.now())
        .unwrap();
    assert!(bed.ledger.incident(&theirs, "i1", None).unwrap().is_none());
    let foreign = bed
        .ledger
        .incident_act(&theirs, "i1", IncidentStep::Closed, &act(), bed.now());
    assert!(matches!(foreign, Err(IncidentError::Unknown)));
    bed.check();
}

#[test]
fn an_incident_whose_events_are_erased_is_found_and_stands_where_it_stood() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("a");
    let opening = bed
        .ledger
        .incident_open(&tenant, "i1", opened(), bed.now())
        .unwrap();
    let done = bed
        .ledger
        .incident_act(&tenant, "i1", IncidentStep::Resolved, &act(), bed.now())
        .unwrap();
    for receipt in [opening, done.event] {
        erase(&bed, &tenant, &Placed { receipt, fresh: true }).unwrap();
    }
    assert_eq!(found(&bed, &tenant, facet("incident.run", "r1")), 0);
    assert_eq!(found(&bed, &tenant, facet("incident", "i1")), 2);
    assert_eq!(found(&bed, &tenant, "incident".into()), 1);
    let incident = bed.ledger.incident(&tenant, "i1", None).unwrap().unwrap();
    assert_eq!(
        (incident.opened.as_ref(), incident.status),
        (None, IncidentStatus::Resolved)
    );
    assert!(incident.history.iter().all(|mark| mark.erased));
    assert_eq!(incident.history[1].reason, None);
    // By its leaf too, as the list finds it; at the leaf of another record there is none.
    let leaf = |index| LeafKey::new(tenant.ledger().row.ledger_no, index);
    let end = leaf(bed.size(&tenant));
    let at = bed
        .ledger
        .incident_at(&tenant, leaf(opening.leaf_index), end)
        .unwrap();
    assert_eq!(at.unwrap().incident_id, "i1");
    check_erased(&bed, 2);
    // What is resolved may still be closed, and once.
    let close = || {
        bed.ledger
            .incident_act(&tenant, "i1", IncidentStep::Closed, &act(), bed.now())
    };
    close().unwrap();
    assert!(matches!(close(), Err(IncidentError::Step { .. })));
    let kept = projections(bed.path());
    bed.ledger.rebuild().unwrap();
    assert_eq!(projections(bed.path()), kept);
    // A list without it, or that says more of it than is left, is found.
    let whole = tempfile::tempdir().unwrap();
    drop(bed.reopen_after(|folder| copy_folder(folder, whole.path())));
    for sql in [
        "DELETE FROM facets WHERE facet = 'incident'",
        "UPDATE facets SET facet = 'incident.run=r1' WHERE facet = 'incident'",
    ] {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(whole.path(), folder.path());
        tamper(folder.path(), sql);
        assert!(report(folder.path()).errors > 0, "{sql}");
    }
}
