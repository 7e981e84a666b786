//! Laws over random histories: after each the auditor finds nothing, rebuilding changes nothing, what was is told as it
//! was, and a trace is the same run in whatever order it came.

use std::collections::HashMap;
use std::sync::Arc;

use evidence::record::RunCompleted;
use evidence::{Timestamp, TraceStatus};
use ledger::{Draft, RunAt, Tenant, run_at, step_places, step_places_at};
use proptest::prelude::*;
use store::LeafKey;

use crate::bed::{Span, TestLedger, aborted, completed, projections, run, step, step_of, system};

#[derive(Clone, Debug)]
pub enum Act {
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

pub fn act() -> impl Strategy<Value = Act> {
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

/// The name of one of the four runs.
pub fn name(run: u8) -> String {
    format!("r{run}")
}

/// Does it, or has it wait until what waits is submitted.
pub fn done(bed: &TestLedger, tenant: &Arc<Tenant>, waiting: &mut Vec<Draft>, act: Act) {
    let of_trace = |trace: u8, run: Option<u8>| Span {
        trace,
        run_id: run.map(name),
        ..Span::default()
    };
    match act {
        Act::Run(n) => waiting.push(run(&name(n))),
        Act::Step {
            run,
            index,
            other,
            keyed,
        } => waiting.push(step_of(&name(run), index, |step| {
            if other {
                step.step.skill_name = "other".into();
            }
            step.step.idempotency_key = keyed.then(|| "key".into());
        })),
        Act::Span {
            trace,
            span,
            parent,
            run,
            start,
            end,
            inference,
        } => waiting.push(
            Span {
                span,
                parent,
                start,
                end,
                inference,
                ..of_trace(trace, run)
            }
            .draft(),
        ),
        Act::Environment { trace, run, service } => {
            waiting.push(of_trace(trace, run).environment(&format!("svc{service}")));
        }
        Act::System => waiting.push(system("x")),
        Act::Complete { run, failed } => {
            let end = RunCompleted {
                failed,
                ..RunCompleted::default()
            };
            drop(bed.end(tenant, &name(run), &completed(end)));
        }
        Act::Abort { run } => drop(bed.end(tenant, &name(run), &aborted("stop"))),
        Act::Settle { millis } => drop(bed.ledger.settle_due(bed.later(millis)).unwrap()),
        Act::Checkpoint => bed.ledger.checkpoint_now(tenant),
        Act::Submit => drop(bed.submit(tenant, std::mem::take(waiting))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_history_verifies_and_rebuilds_to_itself(acts in prop::collection::vec(act(), 1..60)) {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        let mut waiting = Vec::new();
        for act in acts {
            done(&bed, &tenant, &mut waiting, act);
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
    fn what_every_run_was_is_told_at_every_size(acts in prop::collection::vec(act(), 1..60)) {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        let store = bed.ledger.store();
        let find = |run_id: &str| store.run_find(tenant.tenant_no, run_id).unwrap();
        let names: Vec<String> = (0..4)
            .map(name)
            .chain((1..4).map(|trace| Span { trace, ..Span::default() }.trace_hex()))
            .collect();
        let (mut waiting, mut then) = (Vec::new(), Vec::new());
        for act in acts {
            done(&bed, &tenant, &mut waiting, act);
            for run_id in &names {
                if let Some(row) = find(run_id) {
                    let places = step_places(store, &row).unwrap();
                    then.push((bed.size(&tenant), row, places));
                }
            }
        }
        drop(bed.submit(&tenant, waiting));
        for (size, stood, places) in then {
            let now = find(&stood.state.run_id).unwrap();
            let as_of = LeafKey::new(tenant.ledger().row.ledger_no, size);
            match run_at(store, &now, as_of).unwrap() {
                RunAt::Now => prop_assert_eq!(&now.state, &stood.state),
                RunAt::Then(state, _) => prop_assert_eq!(&*state, &stood.state),
                other => prop_assert!(false, "{:?}", other),
            }
            prop_assert_eq!(step_places_at(store, &now, Some(as_of)).unwrap(), places);
        }
    }

    #[test]
    fn a_trace_is_the_same_run_in_whatever_order_its_spans_come(
        (spans, shuffled) in prop::collection::btree_map(
            1..12_u8,
            (prop::option::of(1..12_u8), 1..6_u64, prop_oneof![Just(0), Just(50), Just(60_u64)], any::<bool>(), any::<bool>()),
            1..10,
        ).prop_flat_map(|spans| {
            let spans: Vec<_> = spans.into_iter().collect();
            (Just(spans.clone()), Just(spans).prop_shuffle())
        }),
        cut in 1..4_usize,
    ) {
        let lived = |spans: &[(u8, _)], together: usize| {
            let bed = TestLedger::new();
            let tenant = bed.tenant("acme");
            let mut came = HashMap::new();
            for part in spans.chunks(together) {
                let drafts = part.iter().map(|&(span, (parent, start, end, inference, failed))| {
                    Span { span, parent, start, end, inference, failed, ..Span::default() }.draft()
                });
                for (placed, (span, _)) in bed.all(&tenant, drafts.collect()).iter().zip(part) {
                    came.insert(placed.receipt.leaf_index, *span);
                }
            }
            bed.ledger.settle_due(bed.later(90_000_000)).unwrap();
            let row = bed.run_row(&tenant, &Span::default().trace_hex());
            let places = step_places(bed.ledger.store(), &row).unwrap();
            let steps: Vec<u8> = places.iter().map(|place| came[&place.leaf.leaf_index()]).collect();
            (row.state, steps)
        };
        let ((mut one, steps), (mut other, others)) = (lived(&spans, spans.len()), lived(&shuffled, cut));
        prop_assert_eq!(steps, others);
        // By the server's clock.
        for state in [&mut one, &mut other] {
            (state.created_at, state.last_recorded_at) = (Timestamp::MIN, Timestamp::MIN);
            if state.status == TraceStatus::Aborted {
                state.completed_at = None;
            }
        }
        prop_assert_eq!(one, other);
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
