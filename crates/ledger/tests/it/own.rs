//! Deponent's own long work as jobs: interrupted, called off, two at once.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use evidence::Timestamp;
use evidence::canonical::Value;
use evidence::facet::facet;
use evidence::job::Stage;
use ledger::admin::{AdminAnswer, AdminRequest, ask};
use ledger::own::{Clock, OwnEnd, OwnJob, OwnWork, RebuildError, Told, Watch, untold};
use ledger::{INSTANCE, JobView, Ledger, Tenant};
use store::{FacetQuery, Fault, FaultStore};

use crate::altered::alter;
use crate::bed::{TestLedger, time};
use crate::retention::filled;

/// Logs of a file: seven batches and a few.
const LOGS: usize = 2_000;

/// How long each append takes of work that is to be met on its way: a slow machine looks at it late.
const SLOW: Duration = Duration::from_millis(600);

fn now() -> Timestamp {
    static MICROS: AtomicI64 = AtomicI64::new(0);
    let begin = time("2026-11-22T09:00:00Z").as_micros();
    Timestamp::from_micros(begin + MICROS.fetch_add(1_000, Ordering::Relaxed)).unwrap()
}

fn new_id(_: Timestamp) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("own-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

const CLOCK: Clock = Clock { now, new_id };

/// When everything of [`filled`] that ends has been kept long enough.
fn next_year() -> Timestamp {
    static MICROS: AtomicI64 = AtomicI64::new(0);
    let begin = time("2027-11-22T09:00:00Z").as_micros();
    Timestamp::from_micros(begin + MICROS.fetch_add(1_000, Ordering::Relaxed)).unwrap()
}

const NEXT_YEAR: Clock = Clock {
    now: next_year,
    new_id,
};

/// Bodies that are due then: all but the seals of its runs, which stay.
const DUE: u64 = 11;

fn provenance_file(t: &TestLedger) -> PathBuf {
    let mut text = String::new();
    let output = evidence::hex_string(&evidence::sha256(b"{}"));
    for number in 0..LOGS {
        let input = number.to_string();
        let hash = evidence::hex_string(&evidence::sha256(input.as_bytes()));
        let _ = writeln!(
            text,
            r#"{{"id":"p-{number}","timestamp":"2026-05-11T10:00:00Z","input_hash":"{hash}","output_hash":"{output}","input_json":"{input}","output_json":"{{}}"}}"#
        );
    }
    let path = t.path().join("provenance_2026-05-11.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}

fn audit_log(t: &TestLedger) -> PathBuf {
    let mut text = String::new();
    for number in 0..LOGS {
        let _ = writeln!(
            text,
            r#"{{"ts":"2026-01-01T00:00:00Z","type":"ai_metrics","tokens":{number}}}"#
        );
    }
    let path = t.path().join("audit_20260101T000000Z.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}

fn job(ledger: &Ledger, tenant: &Arc<Tenant>, job_id: &str) -> JobView {
    ledger.job(tenant, job_id).unwrap()
}

/// Breaks off before the work begins: it stops at its first look.
fn at_once(_: Told<'_>) -> ControlFlow<String> {
    ControlFlow::Break("not today".into())
}

/// What a finished import of the whole file leaves.
fn assert_whole(t: &TestLedger, tenant: &Arc<Tenant>, path: &std::path::Path) {
    let again = t.ledger.provenance_import(tenant, path, now()).unwrap();
    assert_eq!((again.logs, again.on_record), (0, LOGS as u64), "{again:?}");
    t.check();
}

#[test]
fn an_import_is_a_job_with_its_counts() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let path = provenance_file(&t);
    let mut first = None;
    let mut tell = |told: Told<'_>| {
        first.get_or_insert_with(|| told.job_id.to_owned());
        ControlFlow::Continue(())
    };
    let done = t
        .ledger
        .provenance_import_job(&tenant, &path, CLOCK, &mut tell)
        .unwrap();
    assert_eq!(first.as_deref(), Some(&*done.job_id));
    let imported = done.result.unwrap();
    assert_eq!((imported.logs, imported.complete), (LOGS as u64, true));
    let ended = job(&t.ledger, &tenant, &done.job_id);
    assert_eq!(
        (ended.progress.stage, ended.handler.as_str()),
        (Stage::Completed, "deponent.provenance-import")
    );
    assert_eq!(ended.progress.metadata.get("logs"), Some(&Value::Int(2_000)));
    let lineage = audit_log(&t);
    let done = t
        .ledger
        .lineage_import_job(&tenant, &lineage, CLOCK, &mut untold)
        .unwrap();
    assert_eq!(done.result.unwrap().written, LOGS as u64);
    let ended = job(&t.ledger, &tenant, &done.job_id);
    assert_eq!(ended.progress.metadata.get("written"), Some(&Value::Int(2_000)));
    assert_whole(&t, &tenant, &path);
}

#[test]
fn what_was_imported_before_it_was_called_off_stays_and_importing_again_completes() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let path = provenance_file(&t);
    // The ledger takes the first batches, and somebody calls the job off.
    let (ledger, of) = (t.ledger.clone(), Arc::clone(&tenant));
    let fault = Arc::clone(&t.fault);
    fault.slow_appends(SLOW);
    let (told, job_id) = channel();
    let importing = std::thread::spawn({
        let path = path.clone();
        move || {
            let mut tell = |now: Told<'_>| {
                let _ = told.send((now.job_id.to_owned(), now.done));
                ControlFlow::Continue(())
            };
            ledger.provenance_import_job(&of, &path, CLOCK, &mut tell)
        }
    });
    let (id, _) = job_id.iter().find(|(_, done)| *done > 0).unwrap();
    t.ledger
        .own_cancel(&tenant, &id, "wrong file".into(), CLOCK)
        .unwrap();
    t.fault.slow_appends(Duration::ZERO);
    let done = importing.join().unwrap().unwrap();
    let imported = done.result.unwrap();
    assert!(
        !imported.complete && imported.logs > 0 && imported.logs < LOGS as u64,
        "{imported:?}"
    );
    let ended = job(&t.ledger, &tenant, &id);
    assert_eq!(ended.cancel_reason.as_deref(), Some("wrong file"));
    assert!(ended.progress.percentage > 0.0);

    let again = t
        .ledger
        .provenance_import_job(&tenant, &path, CLOCK, &mut untold)
        .unwrap();
    assert_ne!(*again.job_id, *id);
    let rest = again.result.unwrap();
    assert_eq!(
        (rest.logs + imported.logs, rest.on_record),
        (LOGS as u64, imported.logs)
    );
    assert_whole(&t, &tenant, &path);
}

#[test]
fn an_import_that_a_stop_interrupts_goes_on_at_the_next_start() {
    let mut t = TestLedger::new();
    let tenant = t.tenant("acme");
    let (path, log) = (provenance_file(&t), audit_log(&t));
    t.fault.slow_appends(SLOW);
    let (told, progress) = channel();
    let importing = std::thread::spawn({
        let (ledger, path) = (t.ledger.clone(), path.clone());
        move || {
            let mut tell = |now: Told<'_>| {
                let _ = told.send((now.job_id.to_owned(), now.done));
                ControlFlow::Continue(())
            };
            ledger
                .provenance_import_job(&tenant, &path, CLOCK, &mut tell)
                .unwrap()
                .result
        }
    });
    let (id, _) = progress.iter().find(|(_, done)| *done > 0).unwrap();
    t.ledger.close();
    // Told to stop, or not let in any more.
    let stopped = importing.join().unwrap();
    assert!(stopped.is_err() || stopped.is_ok_and(|imported| !imported.complete));

    t = t.reopen();
    let tenant = t.tenant("acme");
    assert_eq!(
        t.ledger.own_without_end(&tenant, OwnWork::ProvenanceImport),
        [Arc::from(id.as_str())]
    );
    t.ledger
        .own_resume(&tenant, OwnWork::ProvenanceImport, &id.as_str().into(), CLOCK);
    let ended = job(&t.ledger, &tenant, &id);
    assert_eq!(
        (ended.progress.stage, ended.attempt_number),
        (Stage::Completed, 2)
    );
    assert_whole(&t, &tenant, &path);

    // One whose file is gone is given up; one that is asked for again by hand is taken up.
    for gone in [true, false] {
        let (ledger, of, log_path) = (t.ledger.clone(), Arc::clone(&tenant), log.clone());
        let mut id = String::new();
        let mut tell = |now: Told<'_>| {
            now.job_id.clone_into(&mut id);
            ledger.close();
            ControlFlow::Continue(())
        };
        let stopped = t
            .ledger
            .lineage_import_job(&of, &log_path, CLOCK, &mut tell)
            .unwrap();
        assert!(!stopped.result.unwrap().complete);
        drop(ledger);
        t = t.reopen();
        let tenant = t.tenant("acme");
        if gone {
            std::fs::rename(&log, log.with_extension("away")).unwrap();
            t.ledger
                .own_resume(&tenant, OwnWork::LineageImport, &id.as_str().into(), CLOCK);
            std::fs::rename(log.with_extension("away"), &log).unwrap();
            assert_eq!(job(&t.ledger, &tenant, &id).progress.stage, Stage::Cancelled);
        } else {
            let again = t
                .ledger
                .lineage_import_job(&tenant, &log, CLOCK, &mut untold)
                .unwrap();
            assert_eq!(*again.job_id, *id);
            assert_eq!(again.result.unwrap().written, LOGS as u64);
            assert_eq!(job(&t.ledger, &tenant, &id).attempt_number, 2);
        }
    }
    t.check();
}

#[test]
fn two_imports_at_once_are_told_apart() {
    let t = TestLedger::new();
    let (tenant, other) = (t.tenant("acme"), t.tenant("other"));
    let path = provenance_file(&t);
    let (ledger, of, file) = (t.ledger.clone(), Arc::clone(&tenant), path.clone());
    let mut seen = None;
    let mut tell = |told: Told<'_>| {
        if seen.is_none() {
            let second = ledger
                .provenance_import_job(&of, &file, CLOCK, &mut untold)
                .unwrap_err();
            assert_eq!(*second.job_id, *told.job_id);
            // Another tenant's is its own business, and so is another kind.
            let third = ledger
                .provenance_import_job(&other, &file, CLOCK, &mut untold)
                .unwrap();
            assert_eq!(third.result.unwrap().logs, LOGS as u64);
            seen = Some(second);
        }
        ControlFlow::Continue(())
    };
    let first = t
        .ledger
        .provenance_import_job(&tenant, &path, CLOCK, &mut tell)
        .unwrap();
    assert_eq!(first.result.unwrap().logs, LOGS as u64);
    let said = seen.unwrap().to_string();
    assert!(said.contains("is running for acme"), "{said}");
    assert_whole(&t, &tenant, &path);
}

#[test]
fn a_rebuild_is_a_job_of_the_instance_and_one_that_is_called_off_changes_nothing() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let path = provenance_file(&t);
    t.ledger.provenance_import(&tenant, &path, now()).unwrap();
    let instance = t.ledger.tenant(INSTANCE).unwrap();
    let stopped = t.ledger.rebuild_job(CLOCK, &mut at_once).unwrap_err();
    assert!(matches!(stopped, RebuildError::Stopped), "{stopped}");
    t.check();
    let mut second = None;
    let mut tell = |_: Told<'_>| {
        second.get_or_insert_with(|| t.ledger.rebuild_job(CLOCK, &mut untold));
        ControlFlow::Continue(())
    };
    let (records, job_id) = t.ledger.rebuild_job(CLOCK, &mut tell).unwrap();
    assert!(matches!(second, Some(Err(RebuildError::Busy(busy))) if busy.job_id == job_id));
    let ended = job(&t.ledger, &instance, &job_id);
    assert_eq!(
        (ended.progress.stage, ended.progress.metadata.get("records")),
        (
            Stage::Completed,
            Some(&Value::Int(i64::try_from(records).unwrap()))
        )
    );
    t.check();
}

#[test]
fn work_that_was_interrupted_is_found_beside_a_job_whose_record_was_altered() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let [altered, whole] = ["own-altered", "own-whole"].map(Arc::<str>::from);
    for id in [&altered, &whole] {
        let watch = Arc::<Watch>::default();
        let about = (OwnWork::Verification, None);
        let job = OwnJob::begin(&t.ledger, &tenant, about, Some(id), &watch, CLOCK).unwrap();
        watch.stop.store(true, Ordering::Relaxed);
        job.end(OwnEnd::Stopped);
    }
    let query = FacetQuery {
        facets: vec![facet("job", &altered)],
        limit: 1,
        ..FacetQuery::default()
    };
    let created = t.ledger.store().facet_find(tenant.tenant_no, &query).unwrap();
    alter(&t, created.leaves[0], "own-altered", "own-another");
    let found = t.ledger.own_without_end(&tenant, OwnWork::Verification);
    assert_eq!(found, [whole]);
}

#[test]
fn a_rebuild_that_was_interrupted_is_done_again_and_its_job_says_so() {
    let mut t = TestLedger::new();
    let ledger = t.ledger.clone();
    let mut first = String::new();
    let mut tell = |told: Told<'_>| {
        told.job_id.clone_into(&mut first);
        ledger.close();
        ControlFlow::Continue(())
    };
    assert!(t.ledger.rebuild_job(CLOCK, &mut tell).is_err());
    drop(ledger);
    t = t.reopen();
    let instance = t.ledger.tenant(INSTANCE).unwrap();
    let left = t.ledger.own_without_end(&instance, OwnWork::Rebuild);
    assert_eq!(left, [Arc::from(first.as_str())]);
    t.ledger.own_resume(&instance, OwnWork::Rebuild, &left[0], CLOCK);
    let ended = job(&t.ledger, &instance, &first);
    let reason = ended.cancel_reason.unwrap();
    let done = reason.rsplit(' ').next().unwrap();
    assert!(reason.contains("done again as job"), "{reason}");
    assert_eq!(job(&t.ledger, &instance, done).progress.stage, Stage::Completed);
    t.check();
}

/// The store cannot answer so often.
fn away(fault: &FaultStore, times: usize) {
    (0..times).for_each(|_| fault.arm(Fault::ReadBy("ledgers_list")));
}

#[test]
fn a_rebuild_is_tried_again_while_the_store_cannot_answer() {
    let t = TestLedger::new();
    t.tenant("acme");
    let (mut fault, mut armed) = (Some(Arc::clone(&t.fault)), None);
    let mut tell = |_: Told<'_>| {
        // Before the work begins.
        if let Some(fault) = fault.take() {
            away(&fault, 1);
            armed = Some(fault.armed().len());
        }
        ControlFlow::Continue(())
    };
    let (_, job_id) = t.ledger.rebuild_job(CLOCK, &mut tell).unwrap();
    assert_eq!((armed, t.fault.armed()), (Some(1), vec![]));
    let instance = t.ledger.tenant(INSTANCE).unwrap();
    assert_eq!(
        job(&t.ledger, &instance, &job_id).progress.stage,
        Stage::Completed
    );
    t.check();
}

#[test]
fn an_interrupted_rebuild_is_not_given_up_for_a_store_that_cannot_answer() {
    let mut t = TestLedger::new();
    let ledger = t.ledger.clone();
    let mut close = |_: Told<'_>| {
        ledger.close();
        ControlFlow::Continue(())
    };
    assert!(t.ledger.rebuild_job(CLOCK, &mut close).is_err());
    drop(ledger);
    t = t.reopen();
    let instance = t.ledger.tenant(INSTANCE).unwrap();
    let left = t.ledger.own_without_end(&instance, OwnWork::Rebuild);
    assert_eq!(left.len(), 1);
    // As often as it is tried: five times.
    away(&t.fault, 5);
    t.ledger.own_resume(&instance, OwnWork::Rebuild, &left[0], CLOCK);
    assert_eq!(t.fault.armed(), []);
    assert_eq!(t.ledger.own_without_end(&instance, OwnWork::Rebuild), left);
    // The next start has it done.
    t.ledger.own_resume(&instance, OwnWork::Rebuild, &left[0], CLOCK);
    assert!(t.ledger.own_without_end(&instance, OwnWork::Rebuild).is_empty());
    t.check();
}

#[test]
fn a_command_over_the_socket_hears_how_far_it_is_and_calls_it_off() {
    let t = TestLedger::new();
    let tenant = t.tenant("acme");
    let path = provenance_file(&t);
    ledger::admin::listen(t.ledger.clone(), CLOCK).unwrap();
    let import = || AdminRequest::ProvenanceImport {
        tenant_id: "acme".into(),
        path: path.clone(),
    };
    t.fault.slow_appends(SLOW);
    let mut tell = |told: Told<'_>| {
        if told.done == 0 {
            return ControlFlow::Continue(());
        }
        // Meanwhile another command is answered.
        let second = ask(t.ledger.options(), &import(), &mut untold).unwrap();
        assert!(
            matches!(&second, Some(AdminAnswer::Failed { reason }) if reason.contains(told.job_id)),
            "{second:?}"
        );
        ControlFlow::Break("Ctrl-C".into())
    };
    let answer = ask(t.ledger.options(), &import(), &mut tell).unwrap();
    t.fault.slow_appends(Duration::ZERO);
    let Some(AdminAnswer::ProvenanceImported { imported, job_id }) = answer else {
        panic!("{answer:?}");
    };
    assert!(!imported.complete);
    let ended = job(&t.ledger, &tenant, &job_id);
    assert_eq!(ended.cancel_reason.as_deref(), Some("Ctrl-C"));
    let answer = ask(t.ledger.options(), &import(), &mut untold).unwrap();
    assert!(
        matches!(&answer, Some(AdminAnswer::ProvenanceImported { imported, .. }) if imported.complete),
        "{answer:?}"
    );
    assert_whole(&t, &tenant, &path);
}

/// Archives on a thread of its own, slowly; gives the thread and the job, once that is on record.
fn archiving(
    t: &TestLedger,
    tenant: &Arc<Tenant>,
) -> (
    std::thread::JoinHandle<Result<u64, ledger::RetentionError>>,
    Arc<str>,
) {
    t.fault.slow_appends(SLOW);
    let ledger = t.ledger.clone();
    let thread = std::thread::spawn(move || ledger.archive(NEXT_YEAR));
    let began = Instant::now();
    loop {
        let mut jobs = t.ledger.own_without_end(tenant, OwnWork::Archiving);
        if let Some(job_id) = jobs.pop() {
            return (thread, job_id);
        }
        assert!(began.elapsed() < Duration::from_mins(2), "no job is on record");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn archiving_is_a_job_where_something_is_due_and_nothing_where_not() {
    let t = TestLedger::new();
    let (tenant, idle) = (filled(&t), t.tenant("idle"));
    let size = t.size(&idle);
    assert_eq!(t.ledger.archive(CLOCK).unwrap(), 0);
    let (thread, job_id) = archiving(&t, &tenant);
    assert_eq!(thread.join().unwrap().unwrap(), DUE);
    let ended = job(&t.ledger, &tenant, &job_id);
    assert_eq!(
        (ended.progress.stage, ended.progress.metadata.get("bodies")),
        (Stage::Completed, Some(&Value::Int(11)))
    );
    let after = t.size(&tenant);
    assert_eq!(t.ledger.archive(NEXT_YEAR).unwrap(), 0);
    assert_eq!((t.size(&tenant), t.size(&idle)), (after, size));
}

#[test]
fn archiving_that_was_called_off_leaves_what_is_due_to_the_next_pass() {
    let t = TestLedger::new();
    let tenant = filled(&t);
    let (thread, job_id) = archiving(&t, &tenant);
    t.ledger
        .own_cancel(&tenant, &job_id, "not now".into(), CLOCK)
        .unwrap();
    t.fault.slow_appends(Duration::ZERO);
    let before = thread.join().unwrap().unwrap();
    let ended = job(&t.ledger, &tenant, &job_id);
    assert_eq!(ended.cancel_reason.as_deref(), Some("not now"));
    assert_eq!(t.ledger.archive(NEXT_YEAR).unwrap() + before, DUE);
    t.check();
}

#[test]
fn archiving_that_a_stop_interrupts_goes_on_at_the_next_start() {
    let mut t = TestLedger::new();
    let tenant = filled(&t);
    let (thread, job_id) = archiving(&t, &tenant);
    t.ledger.close();
    let before = thread.join().unwrap().unwrap_or_default();
    t = t.reopen();
    let tenant = t.tenant("acme");
    t.ledger
        .own_resume(&tenant, OwnWork::Archiving, &job_id, NEXT_YEAR);
    let ended = job(&t.ledger, &tenant, &job_id);
    assert_eq!(
        (ended.progress.stage, ended.attempt_number),
        (Stage::Completed, 2)
    );
    let Some(Value::Int(bodies)) = ended.progress.metadata.get("bodies") else {
        panic!("{:?}", ended.progress);
    };
    assert_eq!(u64::try_from(*bodies).unwrap() + before, DUE);
    t.check();
}
