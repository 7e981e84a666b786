use ledger::{Ledger, Options};
use tempfile::TempDir;

use super::*;

const START: Timestamp = Timestamp::UNIX_EPOCH;

fn ledger() -> (Ledger, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(Options::new(folder.path()), START).unwrap();
    for tenant in ["acme", "other"] {
        ledger.tenant_create(tenant, START).unwrap();
    }
    (ledger, folder)
}

fn read(recorder: &Recorder, tenant: &Arc<Tenant>, principal: usize, at: Timestamp) {
    let who = Who {
        principal: format!("key:{principal}").into(),
        human: false,
    };
    let detail = Detail {
        rows: 2,
        ..Detail::default()
    };
    recorder.access(tenant, who, "get_record", false, detail, at);
}

/// How many reads are noted of a tenant, waiting and counted, and how many notes that takes.
fn noted(recorder: &Recorder, tenant: &Tenant) -> (u64, usize, usize) {
    let state = recorder.lock();
    let waiting: usize = state.books.values().map(|book| book.waiting.len()).sum();
    let counts: usize = state.books.values().map(|book| book.counts.len()).sum();
    assert_eq!(
        (state.waiting, state.counts),
        (waiting, counts),
        "the sums are kept"
    );
    let Some(book) = state.books.get(&tenant.tenant_no) else {
        return (0, 0, 0);
    };
    let reads = book.waiting.iter().map(|noted| noted.count).sum::<u64>()
        + book.counts.values().map(|count| count.more).sum::<u64>();
    (reads, book.waiting.len(), book.counts.len())
}

#[test]
fn a_tenant_that_floods_leaves_room_for_others() {
    let (ledger, _folder) = ledger();
    let (acme, other) = (ledger.tenant("acme").unwrap(), ledger.tenant("other").unwrap());
    let recorder = Recorder::default();
    for n in 0..3 * WAITING_MAX {
        read(&recorder, &acme, n % 40, START);
    }
    read(&recorder, &other, 0, START);
    assert_eq!(
        noted(&recorder, &acme),
        (30_000, WAITING_TENANT_MAX, 40),
        "none is lost: what cannot wait is counted"
    );
    assert_eq!(noted(&recorder, &other), (1, 1, 1));
    assert!(recorder.flush(&ledger, START, true).is_empty());
    assert_eq!(noted(&recorder, &acme), (0, 0, 0));
    ledger.close();
}

#[test]
fn what_a_refused_ledger_does_not_take_is_counted_and_offered_once_a_minute() {
    let (ledger, _folder) = ledger();
    let acme = ledger.tenant("acme").unwrap();
    let recorder = Recorder::default();
    for n in 0..300 {
        read(&recorder, &acme, n % 3, START);
    }
    let refused = SubmitError::Refused("rolled back".into());
    let (taken, _) = recorder.lock().take(START, false, None);
    assert_eq!(taken[0].1.len(), 300);
    recorder.lock().give_back(&acme, &taken[0].1, &refused, START);
    assert_eq!(noted(&recorder, &acme), (300, 0, 3));
    // Until then everything is counted, and nothing is tried; who reads it hears why.
    read(&recorder, &acme, 0, START);
    let (taken, waits) = recorder.lock().take(START, false, None);
    assert!(taken.is_empty() && waits.len() == 1 && !waits[0].tried);
    assert_eq!(waits[0].error, refused);
    assert_eq!(noted(&recorder, &acme), (301, 0, 3));
    // More callers than are counted: the rest is lost, and that is said.
    for n in 0..2 * COUNTS_HELD_MAX {
        read(&recorder, &acme, n, START);
    }
    let (reads, waiting, counts) = noted(&recorder, &acme);
    assert_eq!((waiting, counts), (0, COUNTS_HELD_MAX));
    assert_eq!(reads + recorder.lock().lost, 301 + 2_000);
    let later = START.checked_add_micros(2 * HELD_MICROS).unwrap();
    let (taken, waits) = recorder.lock().take(later, false, None);
    assert!(waits.is_empty());
    assert_eq!(taken[0].1.iter().map(|noted| noted.count).sum::<u64>(), reads);
    let rows: u64 = taken[0].1.iter().map(|noted| noted.detail.rows).sum();
    assert_eq!(rows, 2 * reads, "rows are counted with them");
    ledger.close();
}

#[test]
fn a_busy_ledger_is_offered_the_same_again() {
    let (ledger, _folder) = ledger();
    let acme = ledger.tenant("acme").unwrap();
    let recorder = Recorder::default();
    for n in 0..10 {
        read(&recorder, &acme, n, START);
    }
    let (taken, _) = recorder.lock().take(START, false, None);
    read(&recorder, &acme, 0, START);
    let busy = SubmitError::Busy { queued: 1 };
    recorder.lock().give_back(&acme, &taken[0].1, &busy, START);
    assert_eq!(noted(&recorder, &acme), (11, 11, 10));
    assert!(recorder.flush(&ledger, START, false).is_empty());
    assert_eq!(noted(&recorder, &acme).0, 0);
    ledger.close();
}

#[test]
fn who_reads_the_trail_of_a_tenant_has_its_notes_written_and_no_others() {
    let (ledger, _folder) = ledger();
    let (acme, other) = (ledger.tenant("acme").unwrap(), ledger.tenant("other").unwrap());
    let recorder = Recorder::default();
    read(&recorder, &acme, 0, START);
    read(&recorder, &other, 0, START);
    assert!(recorder.flush_of(&ledger, START, acme.tenant_no).is_empty());
    assert_eq!(noted(&recorder, &acme).0, 0);
    assert_eq!(noted(&recorder, &other).0, 1);
    ledger.close();
}
