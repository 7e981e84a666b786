//! What an erased record is known by whose name was a hash of its content, and what its key does to the store.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use evidence::record::HoldScope;
use ledger::{EraseAsked, EraseError, Placed, Tenant};

use crate::bed::{Span, TestLedger, system};
use crate::erasure::{asked, check_erased, erase};

fn key(folder: &Path) -> PathBuf {
    folder.join("keys/erased.key")
}

fn others_may_read(folder: &Path, may: bool) {
    let mode = if may { 0o644 } else { 0o600 };
    fs::set_permissions(key(folder), fs::Permissions::from_mode(mode)).unwrap();
}

/// An environment that came with spans: its name is a hash of what it says.
fn environment(bed: &TestLedger, tenant: &Arc<Tenant>) -> Placed {
    bed.one(tenant, Span::default().environment("shop"))
}

#[test]
fn erasing_the_repeat_of_what_was_erased_stops_nothing() {
    let moved = |folder: &Path| fs::rename(key(folder), folder.join("away")).unwrap();
    let back = |folder: &Path| fs::rename(folder.join("away"), key(folder)).unwrap();
    let opened = |folder: &Path| others_may_read(folder, true);
    let closed = |folder: &Path| others_may_read(folder, false);
    let ways: [[fn(&Path); 2]; 2] = [[moved, back], [opened, closed]];
    for [away, back] in ways {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        let first = environment(&bed, &tenant);
        erase(&bed, &tenant, &first).unwrap();
        assert_eq!(environment(&bed, &tenant).receipt, first.receipt);
        // Without the key nobody can tell, and the same is a record again.
        let bed = bed.reopen_after(away);
        let tenant = bed.ledger.tenant("acme").unwrap();
        let repeat = environment(&bed, &tenant);
        assert!(repeat.fresh);
        let bed = bed.reopen_after(back);
        let tenant = bed.ledger.tenant("acme").unwrap();
        let erasure = erase(&bed, &tenant, &repeat).unwrap();
        assert!(
            !erasure
                .remains
                .iter()
                .any(|left| left.what.contains("keys/erased.key")),
            "nothing is kept of the repeat: {:?}",
            erasure.remains
        );
        bed.one(&tenant, system("life goes on"));
        // By the key it is the first again.
        assert_eq!(environment(&bed, &tenant).receipt, first.receipt);
        check_erased(&bed, 2);
    }
}

#[test]
fn an_erasure_that_is_refused_makes_no_key() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let placed = environment(&bed, &tenant);
    let who = ("key:counsel", "case 7");
    bed.ledger
        .hold_place(&tenant, "h", HoldScope::Tenant, who, bed.now())
        .unwrap();
    assert!(matches!(
        erase(&bed, &tenant, &placed),
        Err(EraseError::Held { .. })
    ));
    bed.ledger.hold_release(&tenant, "h", who, bed.now()).unwrap();
    let silent = EraseAsked {
        reason: String::new(),
        ..asked(&placed)
    };
    assert!(bed.ledger.erase(&tenant, &silent, bed.now()).is_err());
    assert!(!key(bed.path()).exists());
    erase(&bed, &tenant, &placed).unwrap();
    assert!(key(bed.path()).exists());
    check_erased(&bed, 1);
}

#[test]
fn an_erasure_without_the_key_says_that_a_repeat_is_a_record_again() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let first = environment(&bed, &tenant);
    let other = bed.one(&tenant, Span::default().environment("other shop"));
    erase(&bed, &tenant, &first).unwrap();
    let bed = bed.reopen_after(|folder| others_may_read(folder, true));
    let tenant = bed.ledger.tenant("acme").unwrap();
    let erasure = erase(&bed, &tenant, &other).unwrap();
    let said = |what: &str| erasure.remains.iter().any(|left| left.what.contains(what));
    assert!(said("is a record again"), "{:?}", erasure.remains);
    assert!(!said("a keyed hash"));
    assert!(bed.one(&tenant, Span::default().environment("other shop")).fresh);
    check_erased(&bed, 2);
}
