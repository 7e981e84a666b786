//! Bodies that somebody altered since they were recorded, so well that they unpack and read as before: no read shows them
//! and nothing is judged by them, long before a verification comes by.

use std::fmt::Display;
use std::ops::ControlFlow;

use evidence::record::{HoldScope, IdentityEventType, Role, RunCompleted};
use evidence::{ActorType, FindingCode, Kind, facet, hex_string};
use ledger::replay::replay_report;
use ledger::{
    Changer, EndRun, EraseError, IntegrityError, JobError, NewKey, RecordError, Rejection, SettleError,
    Tenant, run_at, step_places, trace_diff,
};
use store::{BodyRow, FacetQuery, LeafKey, codec};

use crate::bed::{
    Span, TestLedger, aborted, completed, database, run, step, step_of, system, tamper, tamper_on,
};
use crate::erasure::{enforced, erase};
use crate::erasure_attacks::end;
use crate::jobs::Bed;
use crate::recovery::rolled_back;
use crate::retention::{DAY, many};

const SYSTEM: (ActorType, Option<&str>) = (ActorType::System, None);

/// Puts one text for another into a body behind the program's back; gives what stood there.
pub fn alter(bed: &TestLedger, leaf: LeafKey, from: &str, to: &str) -> BodyRow {
    let row = bed.ledger.store().bodies_get(&[leaf]).unwrap().remove(0);
    let body = String::from_utf8(codec::unpack(&row.body, 1 << 20).unwrap()).unwrap();
    assert!(body.contains(from), "{body}");
    put(bed, leaf, &codec::pack(body.replacen(from, to, 1).as_bytes()));
    row
}

fn put(bed: &TestLedger, leaf: LeafKey, packed: &[u8]) {
    let connection = rusqlite::Connection::open(database(bed.path())).unwrap();
    let changed = tamper_on(&connection, |connection| {
        let update = "UPDATE bodies SET body = ?1 WHERE leaf = ?2";
        connection.execute(update, (packed, leaf.as_i64())).unwrap()
    });
    assert_eq!(changed, 1);
}

#[track_caller]
fn assert_altered(error: impl Display, leaf: LeafKey) {
    let said = error.to_string();
    let named = format!(
        "the body of leaf {}: it does not agree with the leaf's commitment",
        leaf.leaf_index()
    );
    assert!(said.contains(&named), "{said}");
}

fn leaf_of(tenant: &Tenant, placed: &ledger::Placed) -> LeafKey {
    LeafKey::new(tenant.ledger().row.ledger_no, placed.receipt.leaf_index)
}

/// The only leaf of a list.
fn only(bed: &TestLedger, tenant: &Tenant, facet: String) -> LeafKey {
    let query = FacetQuery {
        facets: vec![facet],
        limit: 2,
        ..FacetQuery::default()
    };
    let found = bed.ledger.store().facet_find(tenant.tenant_no, &query).unwrap();
    assert_eq!(found.leaves.len(), 1);
    found.leaves[0]
}

#[test]
fn an_altered_body_is_shown_by_no_read_and_keeps_no_other_from_being_shown() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let placed = bed.all(&tenant, vec![run("r"), step("r", 0), step("r", 1)]);
    bed.all(&tenant, vec![run("s"), step("s", 0), system("note")]);
    let [started, altered, other] = [0, 1, 2].map(|place: usize| leaf_of(&tenant, &placed[place]));
    let before = alter(&bed, altered, "\"search\"", "\"delete\"");

    let (records, store) = (bed.ledger.records(&tenant), bed.ledger.store());
    assert_altered(records.get(placed[1].receipt.record_id).unwrap_err(), altered);
    assert_altered(records.read(&[other, altered]).unwrap_err(), altered);
    let each = records.each(&[started, altered, other], |record| {
        assert_eq!(record.leaf, started, "those before it are shown");
        Ok::<_, RecordError>(ControlFlow::Continue(()))
    });
    assert_altered(each.unwrap_err(), altered);
    let (row, row_of_s) = (bed.run_row(&tenant, "r"), bed.run_row(&tenant, "s"));
    assert_altered(run_at(store, &row, other).unwrap_err(), altered);
    assert_altered(trace_diff(store, &row, &row_of_s).unwrap_err(), altered);
    assert_altered(bed.ledger.run_integrity(&tenant, "r").unwrap_err(), altered);

    assert_eq!(records.read(&[started, other]).unwrap().len(), 2);
    assert_eq!(
        records.headers(&[altered]).unwrap().len(),
        1,
        "its leaf is as it was"
    );
    let notes = FacetQuery {
        facets: vec!["kind=system.record".to_owned()],
        limit: 10,
        ..FacetQuery::default()
    };
    assert_eq!(records.find(&notes).unwrap().records.len(), 1);
    let note = only(&bed, &tenant, "kind=system.record".to_owned());
    let noted = alter(&bed, note, "note", "none");
    assert_altered(records.find(&notes).unwrap_err(), note);
    put(&bed, note, &noted.body);
    assert!(bed.ledger.run_integrity(&tenant, "s").is_ok());
    let found = bed.report().findings;
    assert!(
        found
            .iter()
            .any(|finding| finding.code == FindingCode::CommitmentMismatch
                && finding.leaf_index == Some(altered.leaf_index())),
        "{found:?}"
    );

    put(&bed, altered, &before.body);
    assert!(records.get(placed[1].receipt.record_id).unwrap().is_some());
    bed.check();
}

#[test]
fn an_altered_salt_or_another_records_body_is_no_body_either() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let placed = bed.all(&tenant, vec![system("one"), system("two"), system("three")]);
    let [one, two, three] = [0, 1, 2].map(|place: usize| leaf_of(&tenant, &placed[place]));
    let connection = rusqlite::Connection::open(database(bed.path())).unwrap();
    tamper_on(&connection, |connection| {
        connection
            .execute(
                "UPDATE bodies SET salt = zeroblob(32) WHERE leaf = ?1",
                [one.as_i64()],
            )
            .unwrap();
        // With its salt, which opens it under its own leaf.
        connection
            .execute(
                "UPDATE bodies SET (salt, body) = (SELECT salt, body FROM bodies WHERE leaf = ?1) WHERE leaf = ?2",
                [three.as_i64(), two.as_i64()],
            )
            .unwrap();
    });
    let records = bed.ledger.records(&tenant);
    for altered in [one, two] {
        assert_altered(records.read(&[altered]).unwrap_err(), altered);
    }
    assert_eq!(records.read(&[three]).unwrap().len(), 1);
}

#[test]
fn a_leaf_in_anothers_place_is_not_its_record_though_it_brings_its_body() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let [one, two] = ["one", "two"].map(|note| leaf_of(&tenant, &bed.one(&tenant, system(note))));
    let connection = rusqlite::Connection::open(database(bed.path())).unwrap();
    tamper_on(&connection, |connection| {
        for update in [
            "UPDATE leaf_blocks SET leaves = (SELECT leaves FROM leaf_blocks WHERE first_leaf = ?2) WHERE first_leaf = ?1",
            "UPDATE bodies SET (salt, body) = (SELECT salt, body FROM bodies WHERE leaf = ?2) WHERE leaf = ?1",
        ] {
            let changed = connection.execute(update, [one.as_i64(), two.as_i64()]).unwrap();
            assert_eq!(changed, 1);
        }
    });
    let records = bed.ledger.records(&tenant);
    let refused = records.read(&[one]);
    assert!(
        matches!(&refused, Err(RecordError::Header { leaf, .. }) if *leaf == one.leaf_index()),
        "{refused:?}"
    );
    assert_eq!(records.read(&[two]).unwrap().len(), 1);
}

#[test]
fn where_a_record_stands_is_known_and_it_can_be_held_whatever_became_of_its_body() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let placed = bed.one(&tenant, system("note"));
    let altered = leaf_of(&tenant, &placed);
    alter(&bed, altered, "note", "nose");
    let id = placed.receipt.record_id;
    let place = bed.ledger.records(&tenant).place(id).unwrap();
    assert_eq!(place, Some((altered, Kind::SystemRecord)));
    let held = HoldScope::Record(id);
    bed.ledger
        .hold_place(&tenant, "h", held, ("key:counsel", "case 7"), bed.now())
        .unwrap();
}

#[test]
fn an_altered_body_hides_no_record_of_the_same_index_in_another_epoch() {
    let bed = rolled_back(|_| {});
    bed.ledger.recover("acme", "an old backup", bed.now()).unwrap();
    let tenant = bed.ledger.tenant("acme").unwrap();
    // The first leaf of an epoch declares it.
    let newer = bed.one(&tenant, system("three"));
    let altered = leaf_of(&tenant, &newer);
    let records = bed.ledger.records(&tenant);
    let older = LeafKey::new(tenant.epochs()[0].row.ledger_no, altered.leaf_index());
    let id = records.read(&[older]).unwrap()[0].header().unwrap().id;
    alter(&bed, altered, "three", "eight");
    assert_eq!(records.get(id).unwrap().unwrap().leaf, older);
    assert_altered(records.get(newer.receipt.record_id).unwrap_err(), altered);
}

#[test]
fn no_run_ends_over_an_altered_step_and_others_do() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let placed = bed.all(&tenant, vec![run("r"), step("r", 0)]);
    let altered = leaf_of(&tenant, &placed[1]);
    let before = alter(&bed, altered, "\"search\"", "\"delete\"");
    let size = bed.size(&tenant);
    let refused = bed.end(&tenant, "r", &completed(RunCompleted::default()));
    assert!(matches!(refused, Err(SettleError::Read(_))), "{refused:?}");
    assert_altered(refused.unwrap_err(), altered);
    assert_eq!(bed.size(&tenant), size, "nothing was written");
    put(&bed, altered, &before.body);
    bed.complete(&tenant, "r");

    // By themselves as little.
    let spans = [1, 2].map(|trace| Span {
        trace,
        ..Span::default()
    });
    let placed = bed.all(&tenant, spans.iter().map(Span::draft).collect());
    let leaf = leaf_of(&tenant, &placed[0]);
    let before = alter(&bed, leaf, "\"search\"", "\"delete\"");
    assert_eq!(bed.ledger.settle_due(bed.later(60_000)).unwrap(), 1);
    let settled = |span: &Span| bed.run_row(&tenant, &span.run_id()).state.settled;
    assert_eq!(spans.each_ref().map(settled), [false, true]);
    put(&bed, leaf, &before.body);
    // It is not read each second, and keeps its place from no other; after ten minutes it is looked at again.
    assert_eq!(bed.ledger.settle_due(bed.later(599_000)).unwrap(), 0);
    assert_eq!(bed.ledger.settle_due(bed.later(1_000)).unwrap(), 1);
    bed.check();
}

/// Nobody signs the row of a run, and its end is signed for good.
#[test]
fn a_run_ends_with_the_plan_and_seed_of_its_record_whatever_its_row_says() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let ends = ["r", "s"].map(|run_id| {
        bed.all(&tenant, vec![run(run_id), step(run_id, 0)]);
        tamper(
            bed.path(),
            "UPDATE runs SET plan_hash = 'another', seed = 7, agent_id = 'another', trace_id = 'another' \
             WHERE run_id = 's'",
        );
        bed.complete(&tenant, run_id);
        end(&bed, &tenant)
    });
    assert_eq!(ends[0], ends[1]);
    let ended = bed.ledger.records(&tenant).newest("ended".into(), None);
    let ended = ended.unwrap().unwrap();
    let header = ended.header().unwrap();
    assert_eq!(header.actor.id.as_deref(), Some("planner"));
    assert_eq!(header.trace_id.as_deref(), Some("trace_s"));
}

#[test]
fn a_run_of_spans_ends_as_its_spans_did_whatever_its_row_says() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let failed = Span {
        failed: true,
        ..Span::default()
    };
    let goes_on = Span {
        trace: 2,
        end: 0,
        ..Span::default()
    };
    bed.all(&tenant, vec![failed.draft(), goes_on.draft()]);
    tamper(
        bed.path(),
        "UPDATE runs SET status = 'completed', execution_status = 'SUCCEEDED'",
    );
    assert_eq!(bed.ledger.settle_due(bed.later(60_000)).unwrap(), 1);
    assert_eq!(end(&bed, &tenant)["status"], "failed");
    let refused = bed.end(&tenant, &goes_on.run_id(), &EndRun::Settled);
    assert!(matches!(refused, Err(SettleError::Read(_))), "{refused:?}");

    // Nor does one that has ended end in another way.
    let ended = Span {
        trace: 3,
        ..Span::default()
    };
    bed.one(&tenant, ended.draft());
    tamper(
        bed.path(),
        "UPDATE runs SET status = 'running', execution_status = 'RUNNING', completed_at = NULL WHERE settled = 0",
    );
    let size = bed.size(&tenant);
    for how in [aborted("no"), completed(RunCompleted::default())] {
        let refused = bed.end(&tenant, &ended.run_id(), &how);
        assert!(
            matches!(refused, Err(SettleError::Rejected(Rejection::RunEnded))),
            "{refused:?}"
        );
    }
    // The other fell silent, and is aborted; that one is not.
    assert_eq!(bed.ledger.settle_due(bed.later(2 * DAY)).unwrap(), 1);
    assert_eq!(bed.size(&tenant), size + 1);
}

#[test]
fn no_run_ends_over_a_step_that_stands_elsewhere_than_its_row_says() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("r"), step("r", 0), step("r", 1)]);
    let size = bed.size(&tenant);
    let step = Kind::TraceStep as u8;
    for change in ["occurred_at = occurred_at + 1", "step_index = 7 - step_index"] {
        tamper(
            bed.path(),
            &format!("UPDATE run_records SET {change} WHERE kind = {step}"),
        );
        let refused = bed.end(&tenant, "r", &completed(RunCompleted::default()));
        assert!(matches!(refused, Err(SettleError::Read(_))), "{refused:?}");
        tamper(
            bed.path(),
            &format!(
                "UPDATE run_records SET {} WHERE kind = {step}",
                change.replace(" + 1", " - 1")
            ),
        );
    }
    assert_eq!(bed.size(&tenant), size, "nothing was written");
    bed.complete(&tenant, "r");
    bed.check();
}

#[test]
fn a_step_whose_row_is_gone_is_not_left_out_in_silence() {
    for gone in [1, 2] {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        bed.all(&tenant, vec![run("r"), step("r", 0), step("r", 1)]);
        bed.all(&tenant, vec![run("s"), step("s", 0)]);
        let row = bed.run_row(&tenant, "r");
        assert_eq!(step_places(bed.ledger.store(), &row).unwrap().len(), 2);
        tamper(
            bed.path(),
            &format!(
                "DELETE FROM run_records WHERE run_seq = {gone} AND run = {}",
                row.key.as_i64()
            ),
        );
        let said = step_places(bed.ledger.store(), &row).unwrap_err().to_string();
        let named = format!("has a record {gone}, and no row names it");
        assert!(said.contains(&named), "{said}");
        let refused = bed.end(&tenant, "r", &completed(RunCompleted::default()));
        assert!(matches!(refused, Err(SettleError::Read(_))), "{refused:?}");
        bed.complete(&tenant, "s");
    }
}

#[test]
fn the_order_of_spans_is_not_taken_from_an_altered_one() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    // They began at once, so their ids decide.
    let spans = [1, 2].map(|span| Span {
        span,
        ..Span::default()
    });
    bed.all(&tenant, spans.iter().map(Span::draft).collect());
    let row = bed.run_row(&tenant, &spans[0].run_id());
    let altered = step_places(bed.ledger.store(), &row).unwrap()[0].leaf;
    alter(
        &bed,
        altered,
        "\"span_id\":\"0101010101010101\"",
        "\"span_id\":\"0909090909090909\"",
    );
    assert_altered(step_places(bed.ledger.store(), &row).unwrap_err(), altered);
}

#[test]
fn no_run_is_sealed_over_an_altered_step_and_others_are() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let mut steps = Vec::new();
    for run_id in ["r", "s"] {
        steps.push(bed.all(&tenant, vec![run(run_id), step(run_id, 0)]).remove(1));
        bed.complete(&tenant, run_id);
    }
    let altered = leaf_of(&tenant, &steps[0]);
    let before = alter(&bed, altered, "\"search\"", "\"delete\"");
    let refused = bed.ledger.run_seal(&tenant, "r", SYSTEM, bed.now());
    assert!(matches!(refused, Err(IntegrityError::Read(_))), "{refused:?}");
    assert_altered(refused.unwrap_err(), altered);
    assert_eq!(bed.ledger.seal_due(bed.later(60_000)), 1);
    assert!(bed.ledger.run_integrity(&tenant, "s").unwrap().seal.is_some());
    put(&bed, altered, &before.body);
    bed.ledger.run_seal(&tenant, "r", SYSTEM, bed.now()).unwrap();
    bed.check();
}

#[test]
fn a_run_with_an_altered_record_is_not_added_up_anew_by_an_erasure() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let placed = bed.all(
        &tenant,
        vec![run("r"), step("r", 0), step("r", 1), system("note")],
    );
    let altered = leaf_of(&tenant, &placed[1]);
    let before = alter(&bed, altered, "\"search\"", "\"delete\"");
    for of in [1, 2] {
        let refused = erase(&bed, &tenant, &placed[of]);
        assert!(matches!(refused, Err(EraseError::Read(_))), "{refused:?}");
        assert_altered(refused.unwrap_err(), altered);
    }
    erase(&bed, &tenant, &placed[3]).unwrap();
    put(&bed, altered, &before.body);
    erase(&bed, &tenant, &placed[2]).unwrap();
    bed.check();
}

/// Who can write to the database knows the salt, and so what other content would have to say to be the same.
#[test]
fn other_content_is_not_taken_for_the_same_by_an_altered_body() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let other = || step_of("r", 0, |step| step.step.skill_name = "delete".into());
    let (first, untouched) = (step("r", 0), step("r", 1));
    let contents = [&first, &other()].map(|draft| draft.content.unwrap());
    bed.one(&tenant, run("r"));
    let placed = bed.all(&tenant, vec![first, untouched]);
    let altered = leaf_of(&tenant, &placed[0]);
    let salt = bed.ledger.store().bodies_get(&[altered]).unwrap()[0].salt;
    let [from, to] = contents.map(|content| hex_string(&evidence::content_mac(&salt, &content)));
    let before = alter(&bed, altered, &from, &to);
    let outcomes = bed.submit(&tenant, vec![other(), step("r", 0), step("r", 1)]);
    let cannot_be_told = Err(Rejection::Archived(placed[0].receipt));
    assert_eq!(outcomes[..2], [cannot_be_told.clone(), cannot_be_told]);
    assert!(!outcomes[2].as_ref().unwrap().fresh);
    put(&bed, altered, &before.body);
    assert!(!bed.one(&tenant, step("r", 0)).fresh);
    bed.check();
}

#[test]
fn an_altered_body_does_not_go_into_an_archive_and_keeps_no_other_out() {
    let bed = TestLedger::new();
    let tenant = many(&bed, 3);
    let started = bed.run_row(&tenant, "r0").started_leaf;
    alter(&bed, started, "\"planner\"", "\"another\"");
    assert_eq!(bed.ledger.retain(bed.later(200 * DAY)).unwrap(), 3 * 4 - 1 + 3);
    let there = bed.ledger.store().bodies_there(&[started]).unwrap();
    assert_eq!(there, [started]);
}

#[test]
fn a_job_is_not_judged_by_an_altered_contract() {
    let bed = Bed::new();
    bed.started("j1");
    bed.step("j1", 0, "billing").unwrap();
    let contract = only(&bed.bed, &bed.tenant, facet::facet("contract", "c1"));
    // What was done would be within it.
    alter(&bed.bed, contract, "\"export\"", "\"billing\"");
    // What is in use is as it was read or written, and is not read again.
    let bed = bed.reopen();
    let refused = bed.complete("j1");
    assert!(matches!(refused, Err(JobError::Read(_))));
    assert_altered(refused.map(|_| ()).unwrap_err(), contract);
    let shown = bed.bed.ledger.contract(&bed.tenant, "c1");
    assert_altered(shown.map(|_| ()).unwrap_err(), contract);
}

#[test]
fn a_job_is_not_folded_from_an_altered_event() {
    let bed = Bed::new();
    bed.started("j1");
    let step = bed.step("j1", 0, "billing").unwrap().placed;
    let event = leaf_of(&bed.tenant, &step);
    alter(&bed.bed, event, "\"billing\"", "\"search\"");
    let bed = bed.reopen();
    assert_altered(bed.complete("j1").map(|_| ()).unwrap_err(), event);
    assert_altered(
        bed.bed.ledger.job(&bed.tenant, "j1").map(|_| ()).unwrap_err(),
        event,
    );
}

/// Nobody signs the lists that records are found in.
#[test]
fn the_gate_does_not_open_by_another_jobs_verdict() {
    let bed = Bed::new();
    bed.good("j2");
    bed.started("j1");
    tamper(
        bed.bed.path(),
        "INSERT INTO facets SELECT tenant_no, 'job.audit=j1', leaf, 0 FROM facets WHERE facet = 'job.audit=j2'",
    );
    let ledger = &bed.bed.ledger;
    let refused = ledger.rollout(&bed.tenant, "j1");
    assert!(matches!(refused, Err(JobError::Read(_))), "{refused:?}");
    assert!(ledger.rollout(&bed.tenant, "j2").unwrap().authorized);
}

#[test]
fn a_job_is_not_judged_by_another_contract_and_not_folded_from_another_jobs_events() {
    let bed = Bed::new();
    bed.contract("c2").unwrap();
    bed.started("j1");
    bed.started("j2");
    tamper(
        bed.bed.path(),
        "UPDATE facets SET leaf = (SELECT leaf FROM facets WHERE facet = 'contract=c2') WHERE facet = 'contract=c1'",
    );
    let bed = bed.reopen();
    assert!(matches!(bed.complete("j1"), Err(JobError::Read(_))));
    let shown = bed.bed.ledger.contract(&bed.tenant, "c1");
    assert!(matches!(shown, Err(JobError::Read(_))));
    assert!(bed.bed.ledger.contract(&bed.tenant, "c2").unwrap().is_some());

    tamper(
        bed.bed.path(),
        "UPDATE facets SET facet = 'job=j1' WHERE facet = 'job=j2'",
    );
    let bed = bed.reopen();
    assert!(matches!(
        bed.bed.ledger.job(&bed.tenant, "j1"),
        Err(JobError::Read(_))
    ));
}

#[test]
fn a_report_of_a_replay_counts_no_altered_enforcement() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let enforcement = leaf_of(&tenant, &bed.one(&tenant, enforced(0, "{\"paid\":true}")));
    alter(&bed, enforcement, "{\"paid\":true}", "{\"paid\":null}");
    let row = bed.run_row(&tenant, "r");
    let refused = replay_report(bed.ledger.store(), &row);
    assert_altered(refused.map(|_| ()).unwrap_err(), enforcement);
}

#[test]
fn a_key_does_not_come_to_another_role_by_an_altered_record() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let new = NewKey {
        tenant_id: "acme".into(),
        role: Role::Reader,
        name: None,
        expires_at: None,
    };
    let key = bed.ledger.key_create(&new, &Changer::local(), bed.now()).unwrap();
    let is_let_in = |bed: &TestLedger| bed.ledger.api_keys().check(&key.text, bed.now()).is_ok();
    assert!(is_let_in(&bed));
    let created = IdentityEventType::KeyCreated.as_str();
    let record = only(&bed, &tenant, facet::facet("identity.event_type", created));
    let role = |role: Role| format!("\"role\":\"{}\"", role.as_str());
    let before = alter(&bed, record, &role(Role::Reader), &role(Role::Admin));
    drop(tenant);
    let bed = bed.reopen();
    assert!(!is_let_in(&bed));
    put(&bed, record, &before.body);
    assert!(is_let_in(&bed.reopen()));
}
