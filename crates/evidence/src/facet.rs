//! Facets: short texts under which records are found that are not found by run.
//!
//! A facet is a name alone (`system`) or a name with a value (`kind=audit.event`).
//! Records that share a facet are a list, oldest to newest, of which the store knows
//! every member's ordinal: so lists are paged and counted without a scan, and
//! filters are intersections of facets. What a record's facets are follows from its
//! header and body alone ([`Facts::facets`]): the sequencer writes them, the verifier
//! derives them again with the same function.
//!
//! Each kind's facets stand in its file in [`crate::record`]. Names are words of
//! lower-case letters, digits, `_` and `.`, with the kind's area in front.
//!
//! Out of scope: finding records by facets (store).
//!
//! Start at [`Facts::facets`] and, to ask for one, [`facet`].

use crate::record::{ErasedIncident, Facts, LineageFacts, SystemFacts, TelemetryFacts};
use crate::{Header, Identity, Kind, commitment};

/// Longest value that stands in a facet as it is. Identifiers have at most this length; with it a row of
/// the projection stays well below a tenth of a database page.
pub const FACET_VALUE_BYTES_MAX: usize = 256;

/// How a value stands that is longer.
const HASHED: &str = "sha256:";

/// The facet of a value: `name=value`, or `name=sha256:<hex>` of a value longer than [`FACET_VALUE_BYTES_MAX`].
///
/// A value that begins like a hashed one is hashed itself, so that two values never share a facet.
pub fn facet(name: &str, value: &str) -> String {
    let mut facet = String::with_capacity(name.len() + 1 + value.len().min(FACET_VALUE_BYTES_MAX));
    facet.push_str(name);
    facet.push('=');
    if value.len() > FACET_VALUE_BYTES_MAX || value.starts_with(HASHED) {
        facet.push_str(HASHED);
        facet.push_str(&commitment::hex_string(&commitment::sha256(value.as_bytes())));
    } else {
        facet.push_str(value);
    }
    facet
}

/// Adds the facet of a value ([`facet`]).
pub(crate) fn push_facet(out: &mut Vec<String>, name: &str, value: &str) {
    out.push(facet(name, value));
}

impl Facts {
    /// The facets of a record with these facts, each once, in order. Most steps have none, and cost nothing.
    pub fn facets(&self, header: &Header<'_>) -> Vec<String> {
        let mut out = Vec::new();
        if header.run.is_none() {
            push_facet(&mut out, "kind", header.kind.as_str());
        }
        match self {
            Self::Step(step) => step.facets(&mut out),
            Self::System(system) => system.facets(header, &mut out),
            Self::Telemetry(telemetry) => telemetry.facets(header, &mut out),
            Self::Identity(event) => event.facets(&mut out),
            Self::Authorization(decision) => decision.facets(&mut out),
            Self::Access(event) => event.facets(&mut out),
            Self::TenantCreated(tenant) => tenant.to_record().facts().facets(header, &mut out),
            Self::Audit(event) => event.facets(header, &mut out),
            Self::PolicyActivation(activation) => activation.facets(&mut out),
            Self::Incident(event) => event.facets(&mut out),
            Self::Job(event) => event.facets(&mut out),
            Self::Contract(contract) => contract.facets(&mut out),
            Self::Signal(signal) => signal.facets(&mut out),
            Self::GovernanceAudit(audit) => audit.facets(&mut out),
            Self::Resolution(resolution) => resolution.facets(&mut out),
            Self::Provenance(log) => log.facets(header, &mut out),
            Self::Lineage(line) => line.facets(header, &mut out),
            Self::TraceEnded(_) => out.push("ended".to_owned()),
            Self::Erasure(erasure) => erasure.facets(&mut out),
            Self::Archived(archived) => archived.facets(&mut out),
            Self::Hold(hold) => hold.facets(&mut out),
            Self::Erased(kept) => return erased(header, kept.incident.as_ref(), kept.identity),
            Self::RunStarted(_) | Self::RunCompleted(_) | Self::Seal(_) | Self::Other => {}
        }
        // A record stands in a list once, however often its body names the same thing.
        out.sort_unstable();
        out.dedup();
        out
    }
}

/// The facet of an erased provenance log, by what its erasure keeps of [`Identity::imported_log`].
pub fn erased_log(kept: Identity) -> String {
    facet("provenance.erased", &commitment::hex_string(kept.as_bytes()))
}

/// The facets of a record whose body is erased: what its header alone says, of an incident's event also which incident,
/// of an imported provenance log by what it is known again, and `erased`.
pub fn erased(
    header: &Header<'_>,
    incident: Option<&ErasedIncident>,
    identity: Option<Identity>,
) -> Vec<String> {
    let mut out = vec!["erased".to_owned()];
    if header.run.is_none() {
        push_facet(&mut out, "kind", header.kind.as_str());
    }
    match header.kind {
        Kind::SystemRecord => SystemFacts::erased_facets(header, &mut out),
        Kind::SystemTelemetry => TelemetryFacts::default().facets(header, &mut out),
        Kind::AuditEvent => {
            out.push("audit".to_owned());
            push_facet(&mut out, "audit.actor_type", header.actor.kind.as_str());
        }
        Kind::AccessEvent => out.push("access".to_owned()),
        Kind::AuthorizationDecision => out.push("authorization".to_owned()),
        Kind::ProvenanceLog => {
            out.push("provenance".to_owned());
            if let Some(run) = &header.run {
                push_facet(&mut out, "provenance.run", &run.run_id);
            }
            out.extend(identity.map(erased_log));
        }
        Kind::LineageEvidence
        | Kind::LineageDeterministic
        | Kind::LineageAiOutput
        | Kind::LineageAiMetrics => LineageFacts::default().facets(header, &mut out),
        Kind::TraceCompleted | Kind::TraceAborted => out.push("ended".to_owned()),
        Kind::IncidentEvent => {
            if let Some(incident) = incident {
                incident.facets(&mut out);
            }
        }
        _ => {}
    }
    out.sort_unstable();
    out
}

/// Whether a record of a kind that is archived (SPEC 11.6: what belongs to a run, system records and telemetry) may
/// have this facet. A row that says it of a body that is not at hand is then neither confirmed nor contradicted; all
/// other lists are known without.
pub fn of_archived(facet: &str) -> bool {
    let name = facet.split_once('=').map_or(facet, |(name, _)| name);
    match name {
        "kind" => [Kind::SystemRecord, Kind::SystemTelemetry]
            .iter()
            .any(|kind| facet.strip_prefix("kind=") == Some(kind.as_str())),
        "ended" | "step.key" => true,
        _ => {
            let area = name.split('.').next().unwrap_or_default();
            matches!(area, "lineage" | "provenance" | "system" | "telemetry")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Value;
    use crate::record::{AuditEntityType, AuditEvent, AuditEventType};
    use crate::record::{SystemRecord, TelemetryFacts, TenantCreated};
    use crate::{Actor, ActorType, Kind, Origin, RecordId, SourceDomain, Timestamp};
    use tlog::LeafIndex;

    fn header(kind: Kind) -> Header<'static> {
        let at = Timestamp::parse("2026-11-21T09:30:59.999999Z").unwrap();
        Header {
            id: RecordId::new(at, LeafIndex::new(0), 0).unwrap(),
            tenant_id: "t".into(),
            kind,
            run: None,
            trace_id: None,
            correlation_id: None,
            actor: Actor {
                kind: ActorType::System,
                id: None,
            },
            occurred_at: at,
            recorded_at: at,
            source_domain: SourceDomain::System,
            source_component: "test".into(),
            origin: Origin::System,
            commitment: [0; 32],
        }
    }

    #[test]
    fn a_long_value_stands_hashed_and_no_short_one_meets_it() {
        let long = "x".repeat(FACET_VALUE_BYTES_MAX + 1);
        let hashed = facet("n", &long);
        assert_eq!(hashed.len(), "n=sha256:".len() + 64);
        assert_ne!(facet("n", hashed.strip_prefix("n=").unwrap()), hashed);
        let exact = "ä".repeat(FACET_VALUE_BYTES_MAX / 2);
        assert_eq!(facet("n", &exact), format!("n={exact}"));
    }

    #[test]
    fn a_system_record_is_found_by_each_of_its_fields() {
        let record = SystemRecord {
            component: "api".into(),
            event_type: "LOG".into(),
            severity: "ERROR".into(),
            host: Some("h1".into()),
            instance: Some("i1".into()),
            run_id: Some("r1".into()),
            ..SystemRecord::default()
        };
        let header = Header {
            correlation_id: Some("c1".into()),
            ..header(Kind::SystemRecord)
        };
        let facets = Facts::System(record.facts()).facets(&header);
        assert_eq!(
            facets.join(" "),
            "kind=system.record system system.component=api system.correlation=c1 system.event_type=LOG \
             system.host=h1 system.instance=i1 system.minute=2026-11-21T09:30 system.run=r1 system.severity=ERROR"
        );
        assert_eq!(
            Facts::read(&header, &record.encode()).unwrap().facets(&header),
            facets
        );
    }

    #[test]
    fn a_tenants_record_has_the_facets_of_what_is_written() {
        let created = TenantCreated {
            tenant_id: "acme".into(),
            tenant_no: 1,
        };
        let header = Header {
            tenant_id: "_instance".into(),
            source_component: "ledger".into(),
            ..header(Kind::SystemRecord)
        };
        let read = Facts::read(&header, &created.to_record().encode()).unwrap();
        assert_eq!(read, Facts::TenantCreated(created.clone()));
        assert_eq!(
            read.facets(&header),
            Facts::System(created.to_record().facts()).facets(&header)
        );
    }

    #[test]
    fn telemetry_is_found_by_run_and_trace_and_other_kinds_by_kind() {
        let header = Header {
            trace_id: Some("ab".repeat(16).into()),
            ..header(Kind::SystemTelemetry)
        };
        let facts = Facts::read(
            &header,
            br#"{"points":[],"resource":{},"run_id":"r","source":"s"}"#,
        )
        .unwrap();
        assert_eq!(
            facts,
            Facts::Telemetry(TelemetryFacts {
                run_id: Some("r".into()),
                ..TelemetryFacts::default()
            })
        );
        let trace = format!("telemetry.trace={}", "ab".repeat(16));
        assert_eq!(
            facts.facets(&header),
            ["kind=system.telemetry", "telemetry.run=r", &trace]
        );
        let named = br#"{"instance":"i","points":[],"resource":{},"run_ids":["r","s"],"source":"s","trace_ids":["cd"]}"#;
        assert_eq!(
            Facts::read(&header, named).unwrap().facets(&header),
            [
                "kind=system.telemetry",
                "telemetry.instance=i",
                "telemetry.run=r",
                "telemetry.run=s",
                &trace,
                "telemetry.trace=cd"
            ],
            "a point's run, an exemplar's trace, and the instance that measured"
        );
        let other = Header {
            kind: Kind::LedgerRecovered,
            ..header
        };
        assert_eq!(Facts::Other.facets(&other), ["kind=ledger.recovered"]);
    }

    #[test]
    fn an_audit_event_is_found_by_its_words_and_the_runs_it_names() {
        let run = |name: &str| Value::object([("run_id", Value::String(name.into()))]);
        let event = AuditEvent {
            actor_type: ActorType::Agent,
            actor_id: Some("planner".into()),
            before_state: Some(run("r2")),
            after_state: Some(run("r1")),
            ..AuditEvent::new(AuditEventType::LimitUpdated, AuditEntityType::Limit, "l1")
        };
        let header = Header {
            actor: Actor {
                kind: event.actor_type,
                id: None,
            },
            ..header(Kind::AuditEvent)
        };
        let facets = Facts::read(&header, &event.encode()).unwrap().facets(&header);
        assert_eq!(
            facets.join(" "),
            "audit audit.actor_type=AGENT audit.entity_type=LIMIT audit.event_type=LimitUpdated audit.run=r1 \
             audit.run=r2 kind=audit.event"
        );
        assert_eq!(facets, Facts::Audit(event.facts()).facets(&header));
    }

    #[test]
    fn what_is_archived_is_in_none_of_the_lists_that_hold_erase_and_judge() {
        let run = crate::RunPlace {
            run_id: "r".into(),
            run_seq: 0,
        };
        for &kind in Kind::ALL {
            let of_run = Header {
                run: Some(run.clone()),
                trace_id: Some("t".into()),
                correlation_id: Some("c".into()),
                ..header(kind)
            };
            let alone = Header {
                run: None,
                ..of_run.clone()
            };
            let mut facets = Vec::new();
            if kind.is_of_run() {
                facets.extend(erased(&of_run, None, None));
            } else if matches!(kind, Kind::SystemRecord | Kind::SystemTelemetry) {
                facets.extend(erased(&alone, None, None));
            } else {
                // Bodies of other kinds are always at hand.
                assert!(!of_archived(&facet("kind", kind.as_str())), "{kind:?}");
            }
            for facet in facets.iter().filter(|facet| *facet != "erased") {
                assert!(of_archived(facet), "{facet}");
            }
        }
        for of_body in [
            "step.key=k",
            "system.host=h",
            "telemetry.run=r",
            "telemetry.instance=i",
            "provenance.input=00",
            "lineage.fn=f",
        ] {
            assert!(of_archived(of_body), "{of_body}");
        }
        for other in [
            "hold",
            "hold=h",
            "hold.off.run=r",
            "erased",
            "erasure=1",
            "audit",
            "audit.run=r",
            "incident=i",
            "incident.run=r",
            "key=k",
            "setting=s",
            "job=j",
            "policy=p",
            "archived.class=runs",
            "access",
            "authorization",
            "endedness",
            "systems",
        ] {
            assert!(!of_archived(other), "{other}");
        }
    }
}
