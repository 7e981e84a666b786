//! Every write in both failures, lost and lost-but-persisted; full queues; panics; many threads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ledger::{Receipt, Rejection, SubmitError};
use store::{Fault, Store};

use crate::bed::{Span, TestLedger, assert_clean, database, report, run, step, system};

fn still_there(bed: &TestLedger, tenant: &Arc<ledger::Tenant>, receipts: &[Receipt]) {
    let records = bed.ledger.records(tenant);
    for receipt in receipts {
        assert_eq!(
            records
                .get(receipt.record_id)
                .unwrap()
                .unwrap()
                .receipt()
                .unwrap(),
            *receipt
        );
    }
}

#[test]
fn a_lost_acknowledgement_does_not_duplicate_a_record() {
    let bed = TestLedger::new();
    let (tenant, other) = (bed.tenant("acme"), bed.tenant("other"));
    bed.fault.arm(Fault::AppendUnacknowledged);
    let placed = bed.all(&tenant, vec![run("r"), step("r", 0), system("no identity")]);
    assert_eq!(bed.size(&tenant), 3);
    still_there(
        &bed,
        &tenant,
        &placed.iter().map(|p| p.receipt).collect::<Vec<_>>(),
    );
    bed.fault.arm(Fault::AppendUnacknowledged);
    bed.one(&other, system("x"));
    assert_eq!(bed.size(&other), 1);
    bed.check();
}

#[test]
fn a_lost_batch_of_unknown_outcome_is_written_once() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.fault.arm(Fault::AppendLost);
    bed.all(&tenant, vec![run("r"), step("r", 0), system("no identity")]);
    assert_eq!(bed.size(&tenant), 3);
    bed.check();
}

#[test]
fn a_head_that_moved_is_placed_anew() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.fault.arm(Fault::HeadMoved);
    bed.all(&tenant, vec![run("r"), step("r", 0)]);
    bed.fault.arm(Fault::HeadMoved);
    bed.fault.arm(Fault::AppendLost);
    bed.one(&tenant, step("r", 1));
    assert_eq!(bed.size(&tenant), 3);
    bed.check();
}

#[test]
fn a_head_that_never_stands_still_is_an_unknown_outcome_and_writing_goes_on() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    for _ in 0..3 {
        bed.fault.arm(Fault::HeadMoved);
    }
    assert!(matches!(
        bed.try_submit(&tenant, vec![step("r", 0)]),
        Err(SubmitError::Unknown(_))
    ));
    assert!(bed.one(&tenant, step("r", 0)).fresh);
    bed.check();
}

#[test]
fn a_refused_write_stops_writing_and_loses_nothing_acknowledged() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let acknowledged = bed.all(&tenant, vec![run("r"), step("r", 0)]);
    bed.fault.arm(Fault::AppendRefused);
    assert!(matches!(
        bed.try_submit(&tenant, vec![step("r", 1)]),
        Err(SubmitError::Stopped(_))
    ));
    assert!(bed.ledger.stopped().is_some());
    assert!(matches!(
        bed.try_submit(&tenant, vec![step("r", 2)]),
        Err(SubmitError::Stopped(_))
    ));
    assert_eq!(bed.size(&tenant), 2);
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    still_there(
        &bed,
        &tenant,
        &acknowledged.iter().map(|p| p.receipt).collect::<Vec<_>>(),
    );
    assert!(bed.one(&tenant, step("r", 1)).fresh);
    bed.check();
}

#[test]
fn after_a_failed_fsync_nothing_is_acknowledged_although_it_can_be_read() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    bed.fault.arm(Fault::AppendUnsynced);
    assert!(matches!(
        bed.try_submit(&tenant, vec![step("r", 0)]),
        Err(SubmitError::Unknown(_))
    ));
    assert!(matches!(
        bed.try_submit(&tenant, vec![step("r", 1)]),
        Err(SubmitError::Stopped(_))
    ));
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    // It was on disk after all: the sender's retry gets the receipt of the one record.
    assert!(!bed.one(&tenant, step("r", 0)).fresh);
    bed.check();
}

#[test]
fn an_unknown_outcome_whose_head_cannot_be_read_stops_writing() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    // Who signs reads heads too.
    bed.sign();
    bed.fault.arm(Fault::AppendUnacknowledged);
    bed.fault.arm(Fault::HeadRead);
    assert!(matches!(
        bed.try_submit(&tenant, vec![step("r", 0)]),
        Err(SubmitError::Unknown(_))
    ));
    assert!(bed.ledger.stopped().is_some());
    let bed = bed.reopen();
    let tenant = bed.ledger.tenant("acme").unwrap();
    assert!(!bed.one(&tenant, step("r", 0)).fresh);
    bed.check();
}

#[test]
fn a_read_that_fails_before_placing_refuses_this_batch_alone() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    bed.sign();
    bed.fault.arm(Fault::Read);
    assert!(matches!(
        bed.try_submit(&tenant, vec![step("r", 0)]),
        Err(SubmitError::Unknown(_))
    ));
    assert!(bed.one(&tenant, step("r", 0)).fresh);
    bed.check();
}

#[test]
fn a_request_in_parts_ends_with_the_part_that_fails_and_says_that_some_of_it_stands() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    // Who reads the trail has commits kept small.
    bed.ledger.submit_ahead_blocking(Vec::new(), bed.now(), true);
    let fault = Arc::clone(&bed.fault);
    bed.fault.before("batch_lookup", 1, move || {
        fault.arm(Fault::ReadBy("batch_lookup"));
    });
    let drafts = || (0..300).map(|n| system(&format!("s{n}"))).collect();
    let answer = bed.try_submit(&tenant, drafts());
    let of_part = "of the part behind the first 64 records: nothing was written";
    assert!(
        matches!(&answer, Err(SubmitError::Unknown(why)) if why.starts_with(of_part)),
        "{answer:?}"
    );
    let stands = bed.size(&tenant);
    assert_eq!(
        stands, 64,
        "the first part stands, and what was behind the second was not written"
    );
    assert_eq!(bed.ledger.queue_depth(), 0);
    bed.all(&tenant, drafts());
    assert_eq!(bed.size(&tenant), stands + 300);
    bed.check();
}

#[test]
fn a_checkpoint_that_cannot_be_kept_stops_writing_and_is_signed_after_the_restart() {
    for fault in [Fault::CheckpointLost, Fault::CheckpointUnacknowledged] {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        bed.sign();
        bed.fault.arm(fault);
        bed.one(&tenant, system("x"));
        bed.ledger.checkpoint_now(&tenant);
        assert!(bed.ledger.stopped().is_some(), "{fault:?}");
        let bed = bed.reopen();
        let tenant = bed.ledger.tenant("acme").unwrap();
        bed.ledger.checkpoint_now(&tenant);
        let newest = bed
            .ledger
            .store()
            .checkpoint_newest(tenant.ledger().row.ledger_no)
            .unwrap()
            .unwrap();
        assert_eq!(newest.size.as_u64(), 1);
        bed.check();
    }
}

#[test]
fn a_panic_while_writing_answers_everybody_and_stops() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let bed = Arc::new(bed);
    let hold = bed.fault.hold();
    bed.fault.arm(Fault::AppendPanic);
    let (done, answers) = std::sync::mpsc::channel();
    for index in 0..4 {
        let (bed, tenant, done) = (Arc::clone(&bed), Arc::clone(&tenant), done.clone());
        std::thread::spawn(move || {
            let answer = bed.try_submit(&tenant, vec![step("r", index)]);
            drop(bed);
            done.send(answer).unwrap();
        });
    }
    std::thread::sleep(Duration::from_millis(100));
    drop(hold);
    for _ in 0..4 {
        let answer = answers
            .recv_timeout(Duration::from_mins(2))
            .expect("every sender is answered");
        assert!(answer.is_err());
    }
    assert!(bed.try_submit(&tenant, vec![step("r", 9)]).is_err());
    assert!(bed.ledger.stopped().is_some());
    assert_clean(&report(bed.path()));
}

#[test]
fn a_full_queue_answers_busy_and_takes_in_again_when_it_has_emptied() {
    let bed = Arc::new(TestLedger::new());
    let tenant = bed.tenant("acme");
    let large = || {
        // Stored as it is, so that 15 MiB wait as 15 MiB.
        let record = evidence::record::SystemRecord {
            event_type: "LOG".into(),
            summary: "x".repeat(15 * 1024 * 1024),
            ..Default::default()
        };
        let mut draft = crate::bed::system_of(&record);
        draft.body.packed = [&[0], record.encode().as_slice()].concat();
        draft
    };
    let before = bed.ledger.counts().refused;
    let hold = bed.fault.hold();
    let (done, answers) = std::sync::mpsc::channel();
    for _ in 0..6 {
        let (bed, tenant, done, draft) = (Arc::clone(&bed), Arc::clone(&tenant), done.clone(), large());
        std::thread::spawn(move || {
            let answer = bed.try_submit(&tenant, vec![draft]);
            drop(bed);
            done.send(answer).unwrap();
        });
    }
    // One is being written, three wait, the others are told at once.
    let wait = Duration::from_mins(2);
    let refused: Vec<_> = (0..2).map(|_| answers.recv_timeout(wait).unwrap()).collect();
    assert!(
        refused
            .iter()
            .all(|answer| matches!(answer, Err(SubmitError::Busy { .. }))),
        "{refused:?}"
    );
    drop(hold);
    let answers: Vec<_> = (0..4).map(|_| answers.recv_timeout(wait).unwrap()).collect();
    assert!(bed.ledger.counts().refused > before);
    let taken = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(bed.size(&tenant), u64::try_from(taken).unwrap());
    bed.one(&tenant, system("again"));
    bed.check();
}

#[test]
fn many_threads_leave_no_gap_and_nothing_twice() {
    const THREADS: u32 = 8;
    const STEPS: u32 = 40;
    let bed = TestLedger::new();
    let tenants = [bed.tenant("a"), bed.tenant("b")];
    for tenant in &tenants {
        for run_no in 0..3 {
            bed.one(tenant, run(&format!("r{run_no}")));
        }
    }
    let receipts: Vec<(u32, Receipt, bool)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (bed, tenants) = (&bed, &tenants);
                scope.spawn(move || {
                    let mut receipts = Vec::new();
                    for n in 0..STEPS {
                        let tenant = &tenants[usize::try_from((thread + n) % 2).unwrap()];
                        // Two threads each send the same step, and each its own span.
                        let shared = step(&format!("r{}", n % 3), thread / 2 * STEPS + n);
                        let own = Span {
                            trace: u8::try_from(thread + 1).unwrap(),
                            span: u8::try_from(n + 1).unwrap(),
                            parent: Some(255),
                            ..Span::default()
                        };
                        for placed in bed.all(tenant, vec![shared, own.draft()]) {
                            receipts.push((tenant.tenant_no, placed.receipt, placed.fresh));
                        }
                    }
                    receipts
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    for tenant in &tenants {
        let of_tenant: Vec<_> = receipts
            .iter()
            .filter(|(no, ..)| *no == tenant.tenant_no)
            .collect();
        let fresh: BTreeSet<u64> = of_tenant
            .iter()
            .filter(|(.., fresh)| *fresh)
            .map(|(_, r, _)| r.leaf_index)
            .collect();
        let all: BTreeSet<u64> = of_tenant.iter().map(|(_, r, _)| r.leaf_index).collect();
        assert_eq!(fresh, all, "each leaf was fresh to one sender");
        assert_eq!(
            fresh.len(),
            of_tenant.iter().filter(|(.., fresh)| *fresh).count(),
            "and to no other"
        );
        let mut leaves = BTreeSet::new();
        let page = bed
            .ledger
            .store()
            .runs_read(store::RunKey::new(tenant.tenant_no, 0), 1_000)
            .unwrap();
        for row in page.iter().filter(|row| row.key.tenant_no() == tenant.tenant_no) {
            let records = bed.ledger.store().run_records(row.key, 0, 10_000).unwrap();
            assert!((0..).zip(&records).all(|(seq, record)| record.run_seq == seq));
            assert_eq!(row.state.record_count, u64::try_from(records.len()).unwrap());
            leaves.extend(records.iter().map(|record| record.leaf.leaf_index()));
        }
        assert_eq!(
            leaves,
            (0..bed.size(tenant)).collect(),
            "every leaf is of a run, none of two"
        );
    }
    bed.check();
}

#[test]
fn verification_beside_a_writer_finds_nothing() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    // Some seconds of it, and on a slow machine until both have done something.
    let (some, most) = (Duration::from_secs(4), Duration::from_mins(2));
    let (began, enough, written) = (Instant::now(), AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut n: u32 = 0;
            while !enough.load(Ordering::Relaxed) && began.elapsed() < most {
                let run_id = format!("r{n}");
                bed.all(
                    &tenant,
                    vec![run(&run_id), step(&run_id, 0), step(&run_id, 1), system("beat")],
                );
                let trace = u8::try_from(n % 250 + 1).unwrap();
                let span = u8::try_from(n / 250 + 1).unwrap();
                let span = Span {
                    trace,
                    span,
                    parent: Some(254),
                    inference: n.is_multiple_of(2),
                    ..Span::default()
                };
                drop(bed.submit(&tenant, vec![span.draft()]));
                if n.is_multiple_of(3) {
                    bed.complete(&tenant, &run_id);
                }
                if n.is_multiple_of(5) {
                    let root = Span {
                        span: 200,
                        parent: None,
                        ..span.clone()
                    };
                    drop(bed.submit(&tenant, vec![root.draft()]));
                    drop(bed.ledger.settle_due(bed.later(31_000)));
                }
                if n.is_multiple_of(50) {
                    bed.tenant(&format!("t{n}"));
                }
                n += 1;
                written.store(n, Ordering::Relaxed);
            }
        });
        let mut verified = 0;
        let is_enough = |verified| verified > 3 && written.load(Ordering::Relaxed) > 10;
        while !writer.is_finished() {
            assert_clean(&report(bed.path()));
            verified += 1;
            enough.store(began.elapsed() > some && is_enough(verified), Ordering::Relaxed);
        }
        writer.join().unwrap();
        assert!(is_enough(verified), "{verified} verified, {written:?} written");
    });
    bed.check();
}

#[test]
fn several_tenants_in_one_transaction_are_all_or_none() {
    let bed = TestLedger::new();
    let tenants: Vec<_> = (0..4).map(|n| bed.tenant(&format!("t{n}"))).collect();
    let send = |fault: Option<Fault>, text: &str| -> Vec<Result<ledger::Outcomes, SubmitError>> {
        let hold = bed.fault.hold();
        // The first is taken alone; the others meet in the next batch.
        std::thread::scope(|scope| {
            let first = scope.spawn(|| bed.try_submit(&tenants[0], vec![system("first")]));
            assert!(hold.met(), "nobody writes");
            let senders: Vec<_> = tenants
                .iter()
                .map(|tenant| scope.spawn(|| bed.try_submit(tenant, vec![system(text), step("nobody", 0)])))
                .collect();
            let began = Instant::now();
            while bed.ledger.queue_depth() < 2 * tenants.len() {
                assert!(began.elapsed() < Duration::from_mins(2), "they never wait");
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(hold);
            first.join().unwrap().unwrap();
            if let Some(fault) = fault {
                bed.fault.arm(fault);
            }
            senders.into_iter().map(|sender| sender.join().unwrap()).collect()
        })
    };
    let before = bed.ledger.counts().commits;
    for outcomes in send(None, "together") {
        let outcomes = outcomes.unwrap();
        assert!(outcomes[0].is_ok());
        assert_eq!(outcomes[1], Err(Rejection::RunUnknown));
    }
    assert_eq!(bed.ledger.counts().commits, before + 2);
    assert_eq!(
        tenants.iter().map(|tenant| bed.size(tenant)).collect::<Vec<_>>(),
        [2, 1, 1, 1]
    );
    bed.check();
}

#[test]
fn nothing_is_taken_in_after_closing_and_everything_before_it_is_kept() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let placed = bed.one(&tenant, run("r"));
    bed.ledger.close();
    assert_eq!(
        bed.try_submit(&tenant, vec![step("r", 0)]),
        Err(SubmitError::Closing)
    );
    still_there(&bed, &tenant, &[placed.receipt]);
    let newest = bed
        .fault
        .checkpoint_newest(tenant.ledger().row.ledger_no)
        .unwrap()
        .unwrap();
    assert_eq!(newest.size.as_u64(), 1, "the last checkpoint covers everything");
    bed.check();
}

#[test]
fn a_second_process_cannot_open_the_folder() {
    let bed = TestLedger::new();
    let again = ledger::Ledger::open(ledger::Options::new(bed.path()), bed.now());
    assert!(matches!(again, Err(ledger::OpenError::Locked(_))));
    bed.check();
}

#[test]
fn a_folder_that_is_just_being_given_up_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let options = ledger::Options::new(folder.path());
    // A busy machine may give it up later than it is waited for; who does not wait never gets it.
    let waited = (0..20).any(|_| {
        let lock = ledger::lock(&options).unwrap();
        let ends = std::thread::spawn(move || {
            // As one that is killed while its disk is busy.
            std::thread::sleep(Duration::from_millis(1_200));
            drop(lock);
        });
        let taken = ledger::lock(&options).is_ok();
        ends.join().unwrap();
        taken
    });
    assert!(waited);
}

#[test]
fn a_database_or_log_that_was_removed_or_replaced_is_written_to_no_more() {
    let (file, log) = ("deponent.db", "deponent.db-wal");
    for (name, replaced) in [(file, false), (file, true), (log, false), (log, true)] {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        let acknowledged = bed.all(&tenant, vec![run("r"), step("r", 0)]);
        let (there, aside) = (bed.path().join(name), bed.path().join("aside"));
        std::fs::rename(&there, &aside).unwrap();
        if replaced {
            std::fs::copy(&aside, &there).unwrap();
        }
        assert!(matches!(
            bed.try_submit(&tenant, vec![step("r", 1)]),
            Err(SubmitError::Stopped(_))
        ));
        let reason = bed.ledger.stopped().unwrap();
        let said = format!("{name} was removed or replaced");
        assert!(reason.contains(&said), "{reason}");
        let bed = bed.reopen_after(|_| {
            // What a log had that has no name any more is carried over when the last connection closes.
            if name == file {
                std::fs::rename(&aside, &there).unwrap();
            }
        });
        let tenant = bed.tenant("acme");
        let receipts: Vec<Receipt> = acknowledged.into_iter().map(|placed| placed.receipt).collect();
        still_there(&bed, &tenant, &receipts);
        bed.one(&tenant, step("r", 1));
        bed.check();
    }
}

#[test]
fn a_tenant_that_is_the_first_to_miss_the_database_says_why_writing_stops() {
    let bed = TestLedger::new();
    let (there, aside) = (database(bed.path()), bed.path().join("aside"));
    std::fs::rename(&there, &aside).unwrap();
    assert!(bed.ledger.tenant_create("acme", bed.now()).is_err());
    let reason = bed.ledger.stopped().unwrap();
    assert!(reason.contains("removed or replaced"), "{reason}");
    let bed = bed.reopen_after(|_| std::fs::rename(&aside, &there).unwrap());
    let tenant = bed.tenant("acme");
    bed.one(&tenant, system("x"));
    bed.check();
}

#[test]
fn a_rebuild_that_cannot_be_written_stops_writing_like_any_other_write() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let acknowledged = bed.all(&tenant, vec![run("r"), step("r", 0)]);
    bed.fault.arm(Fault::RebuildFailed);
    bed.ledger.rebuild().unwrap_err();
    assert!(bed.ledger.stopped().is_some());
    assert!(matches!(
        bed.try_submit(&tenant, vec![step("r", 1)]),
        Err(SubmitError::Stopped(_))
    ));
    // Nor is a rebuild begun while writing has stopped.
    bed.ledger.rebuild().unwrap_err();
    let receipts: Vec<Receipt> = acknowledged.into_iter().map(|placed| placed.receipt).collect();
    still_there(&bed, &tenant, &receipts);
    bed.check();
}
