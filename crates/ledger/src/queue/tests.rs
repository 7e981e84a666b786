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
                ledger
                    .submit_ahead_blocking(vec![(tenant, drafts(count))], now(), true)
                    .remove(0)
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
fn what_is_ahead_is_committed_first_and_alone_and_the_others_in_small_commits() {
    let bed = Bed::new();
    let before = bed.commits();
    let others: Vec<_> = (0..6)
        .map(|_| bed.submit(PROMPT_RECORDS_MAX / 2, false))
        .collect();
    let large = bed.submit(3 * PROMPT_RECORDS_MAX, false);
    let mine = bed.submit(2, true);
    // Seven commits may take a slow disk longer than who reads on is waited for.
    bed.ledger.inner.queue.lock().prompt_until = Some(Instant::now() + Duration::from_hours(1));
    bed.go_on.send(()).unwrap();
    let mine = mine.join().unwrap();
    let others: Vec<u64> = others
        .into_iter()
        .flat_map(|sender| sender.join().unwrap())
        .collect();
    assert_eq!(mine[1], mine[0] + 1);
    assert_eq!(others[0], mine[1] + 1, "the others follow");
    assert!(others.is_sorted_by(|a, b| a + 1 == *b), "and keep their order");
    let large = large.join().unwrap();
    assert_eq!(large.len(), 3 * PROMPT_RECORDS_MAX);
    assert!(
        large.is_sorted_by(|a, b| a + 1 == *b),
        "answered in its own order"
    );
    assert_eq!(
        bed.commits() - before,
        1 + 3 + 3,
        "of a large request one part after the other"
    );
    bed.ledger.close();
}

fn part(bed: &Bed, bytes: usize) -> Submission {
    let (reply, _) = Reply::new();
    Submission {
        tenant: Arc::clone(&bed.tenant),
        drafts: drafts(1).into(),
        at: now(),
        group: false,
        reply,
        bytes,
        erasing: None,
    }
}

#[test]
fn a_request_in_parts_is_answered_when_all_are_and_ends_with_the_one_that_fails() {
    let bed = Bed::new();
    let failure = || Err(SubmitError::Busy { queued: 7 });
    for failed in [None, Some(0), Some(1), Some(2)] {
        let queue = Queue::default();
        queue.push_ahead(Vec::new(), true).unwrap();
        let count = 2 * PROMPT_RECORDS_MAX + 1;
        let (whole, mut answer) = crate::submission(&bed.tenant, drafts(count), now(), false);
        queue.push(whole).unwrap();
        for (number, len) in [PROMPT_RECORDS_MAX, PROMPT_RECORDS_MAX, 1]
            .into_iter()
            .enumerate()
        {
            let Next::Batch(mut batch) = queue.next(None) else {
                panic!("part {number} waits");
            };
            assert!(answer.try_recv().is_err(), "no answer before the last part's");
            let part = batch.remove(0);
            assert_eq!((part.drafts.len(), batch.len()), (len, 0));
            if failed == Some(number) {
                part.reply.send(failure());
                break;
            }
            let outcomes = (0..len).map(|_| Err(crate::Rejection::Group)).collect();
            part.reply.send(Ok(outcomes));
        }
        queue.close();
        assert!(matches!(queue.next(None), Next::Closed), "{failed:?}");
        let left = (queue.depth(), queue.lock().bytes);
        assert_eq!(left, (0, 0), "what is given up waits no longer");
        match (failed, answer.try_recv().unwrap()) {
            (None, Ok(outcomes)) => assert_eq!(outcomes.len(), count),
            (Some(0), Err(SubmitError::Busy { queued: 7 })) | (Some(1 | 2), Err(SubmitError::Unknown(_))) => {
            }
            (_, other) => panic!("{failed:?}: {other:?}"),
        }
    }
    bed.go_on.send(()).unwrap();
    bed.ledger.close();
}

#[test]
fn what_is_all_or_none_is_not_cut_and_what_is_large_is_cut_by_bytes() {
    let (bed, queue) = (Bed::new(), Queue::default());
    queue.push_ahead(Vec::new(), true).unwrap();
    let count = 2 * PROMPT_RECORDS_MAX;
    let (group, _answer) = crate::submission(&bed.tenant, drafts(count), now(), true);
    queue.push(group).unwrap();
    assert!(matches!(queue.next(None), Next::Batch(batch) if batch[0].drafts.len() == count));
    let mut large = drafts(3);
    for draft in &mut large {
        draft.body.packed = vec![0; PROMPT_BYTES_MAX / 2];
    }
    let (large, _answer) = crate::submission(&bed.tenant, large, now(), false);
    queue.push(large).unwrap();
    let Next::Batch(part) = queue.next(None) else {
        panic!("a part waits");
    };
    assert_eq!(part[0].drafts.len(), 1, "two are more than a small commit takes");
    drop(part);
    queue.close();
    assert!(
        matches!(queue.next(None), Next::Closed),
        "after a part that nobody answered nothing is written"
    );
    bed.go_on.send(()).unwrap();
    bed.ledger.close();
}

/// What stands in the batches taken one after another, as bytes.
fn taken(queue: &Queue, count: usize) -> Vec<Vec<usize>> {
    let next = || match queue.next(None) {
        Next::Batch(batch) => batch.iter().map(|submission| submission.bytes).collect(),
        _ => panic!("a batch waits"),
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn a_full_queue_still_takes_what_goes_ahead() {
    let (bed, queue) = (Bed::new(), Queue::default());
    queue.push(part(&bed, QUEUE_BYTES_MAX)).unwrap();
    assert!(matches!(
        queue.push(part(&bed, 1)),
        Err(SubmitError::Busy { queued: 1 })
    ));
    queue.push_ahead(vec![part(&bed, 1)], false).unwrap();
    assert_eq!(taken(&queue, 2), [[1], [QUEUE_BYTES_MAX]]);
    bed.go_on.send(()).unwrap();
    bed.ledger.close();
}

#[test]
fn room_is_there_while_few_records_and_few_bytes_wait() {
    for (bytes, has_room) in [(1, true), (PROMPT_WAITING_BYTES_MAX, false)] {
        let (bed, queue) = (Bed::new(), Queue::default());
        queue.push(part(&bed, bytes)).unwrap();
        assert_eq!(queue.has_room(), has_room, "{bytes}");
        bed.go_on.send(()).unwrap();
        bed.ledger.close();
    }
}

#[test]
fn who_is_always_ahead_leaves_every_other_commit_to_the_others() {
    let (bed, queue) = (Bed::new(), Queue::default());
    queue.push(part(&bed, 1)).unwrap();
    queue.push(part(&bed, PROMPT_BYTES_MAX)).unwrap();
    let mut order = Vec::new();
    for ahead in [10, 11] {
        queue.push_ahead(vec![part(&bed, ahead)], true).unwrap();
        order.extend(taken(&queue, 1));
        queue.push_ahead(vec![part(&bed, ahead)], true).unwrap();
        order.extend(taken(&queue, 1));
    }
    assert_eq!(order, [vec![10], vec![1], vec![10, 11], vec![PROMPT_BYTES_MAX]]);
    assert_eq!(taken(&queue, 1), [[11]]);
    bed.go_on.send(()).unwrap();
    bed.ledger.close();
}
