use std::sync::mpsc;
use std::thread;

use evidence::record::{Facts, IdentityEvent, IdentityEventType};
use evidence::{ActorType, Kind};

use super::*;
use crate::{Ledger, Options, Salts};

fn now() -> Timestamp {
    Timestamp::parse("2026-11-21T10:00:00Z").unwrap()
}

fn drafts(count: usize) -> Vec<Draft> {
    let mut salts = Salts::default();
    let event = IdentityEvent::new(IdentityEventType::Signin, "ann", "ann");
    let body = event.encode();
    (0..count)
        .map(|_| {
            Draft::of_no_run(
                Facts::Identity(event.clone()),
                (Kind::IdentityEvent, &body),
                (ActorType::System, None),
                now(),
                &mut salts,
            )
            .unwrap()
        })
        .collect()
}

/// A ledger whose sequencer stands still until told.
struct Bed {
    ledger: Ledger,
    tenant: Arc<Tenant>,
    go_on: mpsc::Sender<()>,
    _folder: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(Options::new(folder.path()), now()).unwrap();
        let tenant = ledger.tenant_create("acme", now()).unwrap();
        let (go_on, wait) = mpsc::channel();
        let task: Task = Box::new(move |_| wait.recv().unwrap());
        assert!(ledger.inner.queue.push_task(task));
        Self {
            ledger,
            tenant,
            go_on,
            _folder: folder,
        }
    }

    /// Submits by a thread, and returns when it waits in the queue.
    fn submit(&self, count: usize, ahead: bool) -> thread::JoinHandle<Vec<u64>> {
        let (ledger, tenant) = (self.ledger.clone(), Arc::clone(&self.tenant));
        let before = ledger.queue_depth();
        let sender = thread::spawn(move || {
            let outcomes = if ahead {
                ledger.submit_ahead_blocking(&tenant, drafts(count), now())
            } else {
                ledger.submit_blocking(&tenant, drafts(count), now(), false)
            };
            let outcomes = outcomes.unwrap();
            outcomes
                .into_iter()
                .map(|outcome| outcome.unwrap().receipt.leaf_index)
                .collect()
        });
        while self.ledger.queue_depth() < before + count {
            thread::yield_now();
        }
        sender
    }

    fn commits(&self) -> u64 {
        self.ledger.counts().commits
    }
}

#[test]
fn what_is_ahead_is_committed_first_and_alone() {
    let bed = Bed::new();
    let before = bed.commits();
    let others = bed.submit(300, false);
    let mine = bed.submit(2, true);
    bed.go_on.send(()).unwrap();
    let (mine, others) = (mine.join().unwrap(), others.join().unwrap());
    assert_eq!(mine[1], mine[0] + 1);
    assert_eq!(others[0], mine[1] + 1, "the others follow");
    assert!(others.is_sorted(), "and keep their order over their parts");
    assert_eq!(others.len(), 300);
    assert_eq!(
        bed.commits() - before,
        2,
        "nobody hurried: the others are one commit"
    );
    bed.ledger.close();
}

#[test]
fn commits_are_small_while_somebody_waits_for_his_own() {
    let bed = Bed::new();
    let before = bed.commits();
    let others = bed.submit(3 * PROMPT_RECORDS_MAX + 1, false);
    bed.ledger.hurry();
    bed.go_on.send(()).unwrap();
    let others = others.join().unwrap();
    assert_eq!(others.len(), 3 * PROMPT_RECORDS_MAX + 1);
    assert!(others.is_sorted_by(|a, b| a + 1 == *b));
    assert_eq!(bed.commits() - before, 4);
    bed.ledger.close();
}

#[test]
fn a_group_is_never_parted() {
    let bed = Bed::new();
    let before = bed.commits();
    bed.ledger.hurry();
    let (ledger, tenant) = (bed.ledger.clone(), Arc::clone(&bed.tenant));
    let group =
        thread::spawn(move || ledger.submit_blocking(&tenant, drafts(3 * PART_RECORDS_MAX), now(), true));
    bed.go_on.send(()).unwrap();
    assert_eq!(group.join().unwrap().unwrap().len(), 3 * PART_RECORDS_MAX);
    assert_eq!(bed.commits() - before, 1);
    bed.ledger.close();
}

#[test]
fn a_full_queue_still_takes_what_goes_ahead() {
    let bed = Bed::new();
    let queue = Queue::default();
    let part = |bytes| {
        let (reply, _) = oneshot::channel();
        vec![Submission {
            tenant: Arc::clone(&bed.tenant),
            drafts: drafts(1),
            at: now(),
            group: false,
            reply,
            bytes,
            erasing: None,
        }]
    };
    queue.push(part(QUEUE_BYTES_MAX)).unwrap();
    assert!(matches!(
        queue.push(part(1)),
        Err(SubmitError::Busy { queued: 1 })
    ));
    queue.push_ahead(part(1)).unwrap();
    let Next::Batch(first) = queue.next(None) else {
        panic!("a batch waits");
    };
    assert_eq!(first[0].bytes, 1);
    bed.go_on.send(()).unwrap();
    bed.ledger.close();
}
