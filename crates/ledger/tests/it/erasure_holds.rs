//! What keeps bodies from being erased: holds, and a least time.

use evidence::record::HoldScope;
use ledger::{EraseAsked, EraseError, HoldError, Placed};

use crate::bed::{TestLedger, run, system};
use crate::erasure::{answer, asked, body_of, check_erased, erase};

#[test]
fn what_does_not_exist_is_erased_or_kept_is_not_erased() {
    let bed = TestLedger::new();
    let (tenant, other) = (bed.tenant("acme"), bed.tenant("other"));
    let theirs = bed.one(&other, system("theirs"));
    let placed = bed.one(&tenant, system("ours"));
    assert!(matches!(erase(&bed, &tenant, &theirs), Err(EraseError::Unknown)));
    let silent = EraseAsked {
        reason: String::new(),
        ..asked(&placed)
    };
    assert!(matches!(
        bed.ledger.erase(&tenant, &silent, bed.now()),
        Err(EraseError::Rule(_))
    ));
    let erasure = erase(&bed, &tenant, &placed).unwrap();
    assert!(matches!(
        erase(&bed, &tenant, &placed),
        Err(EraseError::Already(id)) if id == placed.receipt.record_id
    ));
    let of_erasure = Placed {
        receipt: erasure.receipt,
        fresh: true,
    };
    assert!(matches!(
        erase(&bed, &tenant, &of_erasure),
        Err(EraseError::Kept("erasure.performed"))
    ));
    assert!(body_of(&bed.ledger, &other, theirs.receipt.record_id).is_some());
    check_erased(&bed, 1);
}

#[test]
fn a_hold_keeps_what_it_is_about_until_it_is_released() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let placed = bed.one(&tenant, answer(true));
    let end = bed.complete(&tenant, "r");
    let ended = bed
        .ledger
        .records(&tenant)
        .newest("ended".into(), None)
        .unwrap()
        .unwrap();
    let who = ("key:counsel", "case 7");
    let place = |id: &str, scope| bed.ledger.hold_place(&tenant, id, scope, who, bed.now());
    let release = |id: &str| bed.ledger.hold_release(&tenant, id, who, bed.now());
    for (id, scope, what) in [
        ("h1", HoldScope::Tenant, "tenant"),
        ("h2", HoldScope::Run("r".into()), "run"),
        ("h3", HoldScope::Record(placed.receipt.record_id), "record"),
        // Of one that would go with it.
        ("h4", HoldScope::Record(ended.header().unwrap().id), "record"),
    ] {
        place(id, scope).unwrap();
        match erase(&bed, &tenant, &placed) {
            Err(EraseError::Held { what: held, .. }) => assert_eq!(held, what),
            other => panic!("{id}: {other:?}"),
        }
        let released = release(id).unwrap();
        assert_eq!(released.released.unwrap().reason, "case 7");
        assert!(matches!(release(id), Err(HoldError::Released)));
    }
    // Two holds over the same: one released is not enough.
    place("h5", HoldScope::Tenant).unwrap();
    place("h6", HoldScope::Tenant).unwrap();
    release("h5").unwrap();
    assert!(matches!(erase(&bed, &tenant, &end), Err(EraseError::Held { .. })));
    release("h6").unwrap();
    for (unknown, result) in [
        ("run", place("h7", HoldScope::Run("nobody".into())).map(|_| ())),
        ("hold", release("h7").map(|_| ())),
    ] {
        assert!(matches!(result, Err(HoldError::Unknown)), "{unknown}");
    }
    erase(&bed, &tenant, &placed).unwrap();
    check_erased(&bed, 2);
}

#[test]
fn a_hold_on_a_run_keeps_records_that_name_it_in_their_bodies() {
    use evidence::record::SystemRecord;
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    bed.one(&tenant, run("r"));
    let record = SystemRecord {
        component: "host".into(),
        event_type: "LOG".into(),
        severity: "INFO".into(),
        summary: "of the run".into(),
        run_id: Some("r".into()),
        ..SystemRecord::default()
    };
    let placed = bed.one(&tenant, crate::bed::system_of(&record));
    let who = ("local", "case 8");
    bed.ledger
        .hold_place(&tenant, "h", HoldScope::Run("r".into()), who, bed.now())
        .unwrap();
    assert!(matches!(
        erase(&bed, &tenant, &placed),
        Err(EraseError::Held { what: "run", .. })
    ));
    bed.check();
}

#[test]
fn a_minimum_retention_keeps_what_is_younger() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let placed = bed.one(&tenant, system("young"));
    let bed = bed.reopen_with(|options| options.minimum_retention_micros = 3_600_000_000);
    let tenant = bed.ledger.tenant(&tenant.tenant_id).unwrap();
    assert!(matches!(
        erase(&bed, &tenant, &placed),
        Err(EraseError::MinimumRetention { until, .. }) if until > bed.now()
    ));
    let late = bed.later(3_600_000);
    bed.ledger.erase(&tenant, &asked(&placed), late).unwrap();
    check_erased(&bed, 1);
}
