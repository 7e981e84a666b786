use std::thread::sleep;
use std::time::Instant;

use super::*;
use crate::{JobView, Options};

const VERIFICATION: (OwnWork, Option<&str>) = (OwnWork::Verification, None);

fn now() -> Timestamp {
    Timestamp::parse("2026-11-21T10:00:00Z").unwrap()
}

fn new_id(_: Timestamp) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("id-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

const CLOCK: Clock = Clock { now, new_id };

struct Bed {
    ledger: Ledger,
    tenant: Arc<Tenant>,
    watch: Arc<Watch>,
    _folder: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(Options::new(folder.path()), now()).unwrap();
        let tenant = ledger.tenant_create("default", now()).unwrap();
        Self {
            ledger,
            tenant,
            watch: Arc::default(),
            _folder: folder,
        }
    }

    fn begin(&self) -> OwnJob {
        let id = Some("v-1".into());
        OwnJob::begin(
            &self.ledger,
            &self.tenant,
            VERIFICATION,
            id.as_ref(),
            &self.watch,
            CLOCK,
        )
        .unwrap()
    }

    /// As a process that dies leaves it.
    fn crash(job: OwnJob) {
        job.watch.stop.store(true, Ordering::Relaxed);
        job.end(OwnEnd::Stopped);
    }

    fn take_up(&self) -> Option<OwnJob> {
        let found = self.ledger.own_without_end(&self.tenant, OwnWork::Verification);
        let watch = Arc::default();
        found.first().and_then(|id| {
            OwnJob::take_up(&self.ledger, &self.tenant, VERIFICATION, id, &watch, CLOCK).unwrap()
        })
    }

    fn job(&self) -> JobView {
        self.ledger.job(&self.tenant, "v-1").unwrap()
    }
}

#[test]
fn work_says_how_far_it_is_while_it_goes_on() {
    let bed = Bed::new();
    let job = bed.begin();
    bed.watch.total.store(200, Ordering::Relaxed);
    let told = Mutex::new(Vec::new());
    let mut tell = |now: Told<'_>| {
        told.lock().unwrap().push((now.job_id.to_owned(), now.done));
        ControlFlow::Continue(())
    };
    let seen = job.during(&mut tell, |watch| {
        watch.add(100);
        let began = Instant::now();
        loop {
            sleep(LOOK_EVERY);
            let seen = bed.job().progress;
            let is_told = told.lock().unwrap().iter().any(|(_, done)| *done == 100);
            if (is_told && seen.percentage > 0.0) || began.elapsed() > Duration::from_mins(2) {
                break seen;
            }
        }
    });
    let told = told.into_inner().unwrap();
    assert_eq!(
        (seen.percentage.to_bits(), seen.stage),
        (50.0_f64.to_bits(), Stage::Running)
    );
    assert_eq!(told.first(), Some(&("v-1".to_owned(), 0)));
    assert!(told.contains(&("v-1".to_owned(), 100)));
    job.end(OwnEnd::Done(Value::object([("level", "VALID")])));
    let ended = bed.job();
    assert_eq!(ended.progress.stage, Stage::Completed);
    assert!(ended.result_hash.is_some());
}

#[test]
fn what_is_shown_between_two_records_never_goes_back() {
    let bed = Bed::new();
    let job = bed.begin();
    let events = || {
        bed.ledger
            .store()
            .head_read(bed.tenant.ledger().row.ledger_no)
            .unwrap()
            .size
    };
    let before = events();
    job.show(3.0);
    assert_eq!(
        (bed.job().progress.percentage.to_bits(), events()),
        (3.0_f64.to_bits(), before)
    );
    let mut watch = bed.ledger.progress_subscribe(&bed.tenant, "v-1").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(
        runtime.block_on(watch.next()).unwrap().percentage.to_bits(),
        3.0_f64.to_bits()
    );
    job.show(4.0);
    assert_eq!(
        runtime.block_on(watch.next()).unwrap().percentage.to_bits(),
        4.0_f64.to_bits()
    );
    bed.watch.total.store(100, Ordering::Relaxed);
    bed.watch.add(4);
    bed.watch.call_off("enough".into());
    job.end(OwnEnd::Stopped);
    let ended = bed.job();
    assert_eq!(
        (
            ended.progress.percentage.to_bits(),
            ended.progress.stage,
            ended.cancel_reason.as_deref()
        ),
        (4.0_f64.to_bits(), Stage::Cancelled, Some("enough"))
    );
}

#[test]
fn what_a_crash_interrupts_is_taken_up_again_and_not_for_ever() {
    let bed = Bed::new();
    assert!(bed.take_up().is_none());
    Bed::crash(bed.begin());
    for attempt in [2, 3] {
        let job = bed.take_up().unwrap();
        assert_eq!(
            (bed.job().attempt_number, bed.job().progress.stage),
            (attempt, Stage::Starting)
        );
        Bed::crash(job);
    }
    assert!(bed.take_up().is_none());
    assert_eq!(bed.job().progress.stage, Stage::Failed);
    assert!(bed.take_up().is_none());
}

#[test]
fn work_that_failed_for_another_reason_is_not_tried_again() {
    let bed = Bed::new();
    bed.begin().end(OwnEnd::Failed("é".repeat(JOB_TEXT_BYTES_MAX)));
    assert_eq!(bed.job().progress.stage, Stage::Failed);
    assert!(bed.take_up().is_none());
}

#[test]
fn work_that_panics_has_failed_and_gives_its_place_back() {
    let bed = Bed::new();
    let job = bed.begin();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        job.during(&mut untold, |_| panic!("on purpose"))
    }));
    assert!(panicked.is_err());
    assert_eq!(bed.job().progress.stage, Stage::Failed);
    assert!(bed.ledger.inner.running.lock().is_empty());
}

#[test]
fn of_a_tenant_one_of_each_kind_runs() {
    let bed = Bed::new();
    let job = bed.begin();
    let begin = |work| {
        OwnJob::begin(
            &bed.ledger,
            &bed.tenant,
            (work, None),
            None,
            &Arc::default(),
            CLOCK,
        )
    };
    let busy = begin(OwnWork::Verification).unwrap_err();
    assert_eq!(
        busy.to_string(),
        "deponent.verification is running for default as job v-1; wait for it or call it off"
    );
    begin(OwnWork::Archiving).unwrap().give_up("not wanted");
    drop(job);
    begin(OwnWork::Verification).unwrap().give_up("not wanted");
}

#[test]
fn what_runs_is_told_to_stop_and_what_nothing_works_on_ends_at_once() {
    let bed = Bed::new();
    let cancel = |reason: &str| {
        bed.ledger
            .own_cancel(&bed.tenant, "v-1", reason.to_owned(), CLOCK)
    };
    assert!(matches!(cancel("why"), Err(JobError::Unknown)));
    let job = bed.begin();
    assert!(matches!(cancel(""), Err(JobError::Rule(_))));
    assert!(!bed.watch.is_stopped());
    cancel("too long").unwrap();
    cancel("once more").unwrap();
    assert!(bed.watch.is_stopped());
    assert_eq!(bed.job().cancel_reason, None);
    job.end(OwnEnd::Stopped);
    assert_eq!(bed.job().cancel_reason.as_deref(), Some("too long"));
    assert!(matches!(cancel("again"), Err(JobError::Stage(Stage::Cancelled))));

    let left = Bed::new();
    Bed::crash(left.begin());
    left.ledger
        .own_cancel(&left.tenant, "v-1", "nobody wants it".into(), CLOCK)
        .unwrap();
    assert_eq!(left.job().progress.stage, Stage::Cancelled);
    assert!(left.take_up().is_none());
}
