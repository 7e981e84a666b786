//! A store that cannot answer just now: nothing is called damaged for it, and the next attempt goes on.

use std::sync::Arc;

use evidence::{Finding, FindingCode};
use ledger::verify::{Level, Question};
use ledger::{Ledger, OpenError, Options, SubmitError, TenantError};
use store::sqlite::{Access, SqliteStore};
use store::{Fault, FaultStore, Store, StoreError};

use crate::bed::{TestLedger, projections, run, step, system, tamper};

#[test]
fn a_head_that_moved_and_cannot_be_read_anew_refuses_this_batch_alone() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    bed.sign();
    for fault in [
        Fault::HeadRead,
        Fault::ReadBy("blocks_read"),
        Fault::ReadBy("runs_total"),
    ] {
        bed.fault.arm(Fault::HeadMoved);
        bed.fault.arm(fault);
        let answer = bed.try_submit(&tenant, vec![step("r", 0)]);
        assert!(
            matches!(&answer, Err(SubmitError::Unknown(why)) if why.starts_with("nothing was written: ")),
            "{fault:?}: {answer:?}"
        );
        assert_eq!(bed.fault.armed(), []);
        assert_eq!((bed.ledger.stopped(), tenant.ledger().refusal()), (None, None));
    }
    assert!(bed.one(&tenant, step("r", 0)).fresh);
    bed.check();
}

#[test]
fn a_ledger_that_cannot_be_read_just_now_is_not_opened_as_a_damaged_one() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("r"), step("r", 0)]);
    bed.sign();
    let at = bed.now();
    let bed = bed.reopen_after(|folder| {
        for method in ["head_read", "blocks_read", "checkpoint_newest", "runs_total"] {
            let options = Options::new(folder);
            let sqlite = SqliteStore::open(&options.database(), Access::ReadWrite).unwrap();
            let fault = Arc::new(FaultStore::new(Arc::new(sqlite)));
            fault.arm(Fault::ReadBy(method));
            let opened = Ledger::open_with(options, Arc::clone(&fault) as Arc<dyn Store>, None, at);
            assert!(
                matches!(opened, Err(OpenError::Store(StoreError::Unavailable(_)))),
                "{method}"
            );
            assert_eq!(fault.armed(), []);
        }
    });
    let tenant = bed.ledger.tenant("acme").unwrap();
    assert_eq!(tenant.ledger().refusal(), None);
    bed.one(&tenant, step("r", 1));
    bed.check();
}

#[test]
fn a_tenant_whose_ledger_could_not_be_read_is_made_by_the_next_attempt() {
    let bed = TestLedger::new();
    bed.sign();
    bed.fault.arm(Fault::ReadBy("checkpoint_newest"));
    let refused = bed.ledger.tenant_create("acme", bed.now()).unwrap_err();
    assert!(
        matches!(
            refused,
            TenantError::Open(OpenError::Store(StoreError::Unavailable(_)))
        ),
        "{refused:?}"
    );
    assert_eq!(bed.fault.armed(), []);
    let tenant = bed.tenant("acme");
    assert_eq!(tenant.tenant_no, 1);
    bed.one(&tenant, system("x"));
    bed.check();
}

#[test]
fn a_store_that_cannot_answer_during_a_rebuild_is_not_called_damaged() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.all(&tenant, vec![run("r"), step("r", 0)]);
    bed.sign();
    let before = projections(bed.path());
    // For the erasures and for the records, of two tenants.
    for reads in 0..4 {
        let fault = Arc::clone(&bed.fault);
        let arm = move || fault.arm(Fault::ReadBy("blocks_read"));
        match reads {
            0 => arm(),
            reads => bed.fault.before("blocks_read", reads, arm),
        }
        let error = ledger::rebuild(bed.ledger.store(), &mut |_| {}).unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{reads}: {error:?}");
        assert_eq!(bed.fault.armed(), []);
    }
    assert_eq!(projections(bed.path()), before);
    // Nor while it cannot say whether a body that is missing was erased.
    tamper(
        bed.path(),
        "DELETE FROM bodies WHERE leaf = (SELECT max(leaf) FROM bodies)",
    );
    bed.fault.arm(Fault::ReadBy("facet_count"));
    let rebuild = || ledger::rebuild(bed.ledger.store(), &mut |_| {}).unwrap_err();
    let error = rebuild();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert_eq!(bed.fault.armed(), []);
    let error = rebuild();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
}

#[test]
fn what_verification_found_stands_when_the_store_cannot_answer_the_rest() {
    let bed = TestLedger::new();
    for tenant in ["acme", "globex"] {
        let tenant = bed.tenant(tenant);
        bed.all(&tenant, vec![run("r"), step("r", 0)]);
    }
    bed.sign();
    let question = Question::default();
    let verify = || ledger::verify::verify(bed.ledger.store(), &question);
    // Of what is good nothing is known but that it could not be looked at.
    bed.fault.arm(Fault::ReadBy("self_check"));
    assert!(matches!(verify(), Err(StoreError::Unavailable(_))));
    assert_eq!(bed.fault.armed(), []);
    let acme = bed.ledger.tenant("acme").unwrap();
    let globex = bed.ledger.tenant("globex").unwrap();
    let tampering = format!(
        "DELETE FROM bodies WHERE leaf = (SELECT max(leaf) FROM bodies WHERE leaf >> 40 = {})",
        acme.ledger().row.ledger_no
    );
    tamper(bed.path(), &tampering);
    // The look at the database's structure fails, and the tenant behind the tampered one.
    for (method, reads) in [("self_check", 0), ("snapshot", 2)] {
        let fault = Arc::clone(&bed.fault);
        let arm = move || fault.arm(Fault::ReadBy(method));
        match reads {
            0 => arm(),
            reads => bed.fault.before(method, reads, arm),
        }
        let report = verify().unwrap();
        assert_eq!(bed.fault.armed(), [], "{method}");
        assert_eq!(
            (report.exit_code(None), report.level),
            (1, Some(Level::Invalid)),
            "{method}"
        );
        let missing = |finding: &Finding| finding.code == FindingCode::BodyMissing;
        assert!(
            report.findings.iter().any(missing),
            "{method}: {:?}",
            report.findings
        );
        assert!(
            report.undecided[0].contains("unavailable"),
            "{:?}",
            report.undecided
        );
        for tenant in [&acme, &globex] {
            assert!(
                !report.is_decided(&tenant.tenant_id, &tenant.ledger().row.origin),
                "{method}"
            );
        }
    }
    let report = verify().unwrap();
    assert_eq!((report.exit_code(None), report.undecided.len()), (1, 0));
    assert!(report.is_decided("globex", &globex.ledger().row.origin));
}
