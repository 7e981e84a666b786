//! Laws over random histories: after each the auditor finds nothing, and rebuilding changes nothing.

use evidence::record::RunCompleted;
use proptest::prelude::*;

use crate::bed::{Span, TestLedger, aborted, completed, projections, run, step, step_of, system};

#[derive(Clone, Debug)]
enum Act {
    Run(u8),
    Step {
        run: u8,
        index: u32,
        other: bool,
        keyed: bool,
    },
    Span {
        trace: u8,
        span: u8,
        parent: Option<u8>,
        run: Option<u8>,
        start: u64,
        end: u64,
        inference: bool,
    },
    Environment {
        trace: u8,
        run: Option<u8>,
        service: u8,
    },
    System,
    Complete {
        run: u8,
        failed: bool,
    },
    Abort {
        run: u8,
    },
    Settle {
        millis: i64,
    },
    Checkpoint,
    Submit,
}

fn act() -> impl Strategy<Value = Act> {
    let run = 0..4_u8;
    prop_oneof![
        3 => run.clone().prop_map(Act::Run),
        6 => (run.clone(), 0..6_u32, prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(run, index, other, keyed)| Act::Step { run, index, other, keyed }),
        8 => (1..4_u8, 1..6_u8, prop::option::of(1..6_u8), prop::option::weighted(0.3, run.clone()), 1..40_u64,
              prop_oneof![Just(0), Just(50_u64)], any::<bool>())
            .prop_map(|(trace, span, parent, run, start, end, inference)| Act::Span {
                trace, span, parent, run, start, end, inference
            }),
        2 => (1..4_u8, prop::option::weighted(0.3, run.clone()), 0..2_u8)
            .prop_map(|(trace, run, service)| Act::Environment { trace, run, service }),
        1 => Just(Act::System),
        2 => (run.clone(), any::<bool>()).prop_map(|(run, failed)| Act::Complete { run, failed }),
        1 => run.prop_map(|run| Act::Abort { run }),
        2 => prop_oneof![Just(31_000), Just(90_000_000_i64)].prop_map(|millis| Act::Settle { millis }),
        1 => Just(Act::Checkpoint),
        5 => Just(Act::Submit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_history_verifies_and_rebuilds_to_itself(acts in prop::collection::vec(act(), 1..60)) {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        let mut waiting = Vec::new();
        let name = |run: u8| format!("r{run}");
        for act in acts {
            let of_trace = |trace: u8, run: Option<u8>| Span { trace, run_id: run.map(name), ..Span::default() };
            match act {
                Act::Run(n) => waiting.push(run(&name(n))),
                Act::Step { run, index, other, keyed } => waiting.push(step_of(&name(run), index, |step| {
                    if other {
                        step.step.skill_name = "other".into();
                    }
                    step.step.idempotency_key = keyed.then(|| "key".into());
                })),
                Act::Span { trace, span, parent, run, start, end, inference } => waiting.push(
                    Span { span, parent, start, end, inference, ..of_trace(trace, run) }.draft(),
                ),
                Act::Environment { trace, run, service } => {
                    waiting.push(of_trace(trace, run).environment(&format!("svc{service}")));
                }
                Act::System => waiting.push(system("x")),
                Act::Complete { run, failed } => {
                    let end = RunCompleted { failed, ..RunCompleted::default() };
                    drop(bed.end(&tenant, &name(run), &completed(end)));
                }
                Act::Abort { run } => drop(bed.end(&tenant, &name(run), &aborted("stop"))),
                Act::Settle { millis } => drop(bed.ledger.settle_due(bed.later(millis)).unwrap()),
                Act::Checkpoint => bed.ledger.checkpoint_now(&tenant),
                Act::Submit => drop(bed.submit(&tenant, std::mem::take(&mut waiting))),
            }
        }
        drop(bed.submit(&tenant, waiting));
        prop_assert_eq!(bed.ledger.stopped(), None);
        bed.check();
        let before = projections(bed.path());
        ledger::rebuild(bed.ledger.store(), &mut |_| {}).unwrap();
        prop_assert_eq!(projections(bed.path()), before);
        bed.check();
    }

    #[test]
    fn terminal_states_stay_terminal(ends in prop::collection::vec(0..4_u8, 1..6)) {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        bed.all(&tenant, vec![run("r"), step("r", 0)]);
        let mut first = None;
        for end in ends {
            match end {
                0 => drop(bed.end(&tenant, "r", &completed(RunCompleted::default()))),
                1 => drop(bed.end(&tenant, "r", &completed(RunCompleted { failed: true, ..RunCompleted::default() }))),
                2 => drop(bed.end(&tenant, "r", &aborted("stop"))),
                _ => drop(bed.ledger.settle_due(bed.later(90_000_000)).unwrap()),
            }
            let state = bed.run_row(&tenant, "r").state;
            prop_assert!(state.settled);
            prop_assert_eq!(first.get_or_insert(state.clone()), &state);
        }
        bed.check();
    }
}
