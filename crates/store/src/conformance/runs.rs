//! Runs: their rows, records, traces and lists.

use evidence::{Declared, ExecutionStatus, Identity, Kind, NanoCents, RunState, TraceStatus};

use super::{Claim, at, full_state, ids, query, record, state, with_runs};
use crate::{AppendError, BatchQuery, LeafKey, RunQuery, RunRecordRow, RunRow, TraceKey, TraceRow};

claims! {
    a_run_reads_back_as_it_was_written(store) {
        let grower = with_runs(store, vec![state("r", 10), full_state("full")]);
        let full = RunRow { key: grower.run(1), started_leaf: grower.key(1), state: full_state("full") };
        assert_eq!(store.run_find(1, "full").unwrap(), Some(full.clone()));
        assert_eq!(store.run_read(grower.run(1)).unwrap(), Some(full.clone()));
        assert_eq!(store.runs_read(grower.run(1), 10).unwrap(), [full]);
        assert_eq!(store.run_find(2, "full").unwrap(), None);
        assert_eq!(store.run_find(1, "FULL").unwrap(), None);
        assert_eq!(store.run_read(grower.run(2)).unwrap(), None);
        let runs = store.runs_get(&[grower.run(2), grower.run(1), grower.run(0), grower.run(1)]).unwrap();
        let ids: Vec<_> = runs.into_iter().map(|run| run.unwrap().map(|row| row.state.run_id)).collect();
        assert_eq!(ids, [None, Some("full".into()), Some("r".into()), Some("full".into())]);
    }

    a_changed_run_takes_the_place_of_what_was_known(store) {
        let mut grower = with_runs(store, vec![state("r", 10)]);
        let first = state("r", 10);
        // What the first record said stays, whatever is given later.
        let changed = RunState { trace_id: first.trace_id.clone(), parent_run_id: None, ..full_state("r") };
        let kept = RunState {
            source: first.source, is_synthetic: false, seed: 42, otlp: false, created_at: first.created_at, ..changed.clone()
        };
        let mut batch = grower.batch(1);
        batch.runs.push(RunRow { key: grower.run(0), started_leaf: grower.key(0), state: kept.clone() });
        store.batch_append(&[batch]).unwrap();
        assert_eq!(store.run_find(1, "r").unwrap().unwrap().state, kept);
        assert_eq!(store.runs_total(1, None).unwrap(), 1);
        // What a record only adds to is taken over too, and alone.
        let more = RunState {
            correlation_id: Some("another".into()),
            started_at: first.created_at,
            completed_at: Some(first.created_at),
            input_tokens: 41,
            output_tokens: 42,
            cost: NanoCents::new(43),
            total_steps: 44,
            success_count: 45,
            failure_count: 46,
            duration_micros: 47,
            late_count: 48,
            record_count: 49,
            last_recorded_at: first.created_at,
            first_inference_at: Some(first.created_at),
            declared: Declared::from_bits(5),
            ..kept
        };
        let mut batch = grower.batch(1);
        batch.runs.push(RunRow { key: grower.run(0), started_leaf: grower.key(0), state: more.clone() });
        store.batch_append(&[batch]).unwrap();
        assert_eq!(store.run_find(1, "r").unwrap().unwrap().state, more);
    }

    runs_are_found_by_each_of_their_traces(store) {
        let mut grower = with_runs(store, vec![state("r", 0), state("s", 0)]);
        let w3c = "0af7651916cd43dd8448eb211c80319c";
        let mut batch = grower.batch(1);
        for (trace, ordinal) in [("trace_r", 0), (w3c, 0), ("trace_s", 1), ("0AF7651916CD43DD8448EB211C80319C", 1)] {
            batch.traces.push(TraceRow { trace: TraceKey::parse(trace), run: grower.run(ordinal) });
        }
        batch.traces.sort_by(|a, b| a.trace.cmp(&b.trace));
        store.batch_append(&[batch]).unwrap();
        let find = |trace: &str| store.run_find_by_trace(1, &TraceKey::parse(trace)).unwrap().map(|row| row.state.run_id);
        assert_eq!((find("trace_r").as_deref(), find(w3c).as_deref()), (Some("r"), Some("r")));
        assert_eq!(find(&w3c.to_uppercase()).as_deref(), Some("s"), "another spelling is another trace");
        assert_eq!(find("trace_x"), None);
        assert_eq!(store.run_find_by_trace(2, &TraceKey::parse(w3c)).unwrap(), None);
        let of = |ordinal, limit| store.run_traces(grower.run(ordinal), limit).unwrap();
        assert_eq!(of(0, 9), [TraceKey::parse("trace_r"), TraceKey::parse(w3c)], "ids as they were, text first");
        assert_eq!(of(0, 1).len(), 1);
        assert_eq!(of(1, 9).len(), 2);
        assert!(of(2, 9).is_empty());
        assert_eq!(of(0, 9).iter().map(TraceKey::text).collect::<Vec<_>>(), ["trace_r", w3c]);
    }

    what_a_run_ran_in_is_found_wherever_it_stands_in_it(store) {
        let mut grower = with_runs(store, vec![state("r", 0), state("s", 0)]);
        let mut batch = grower.batch(60);
        let environment = |ordinal: u64, seq, leaf| RunRecordRow {
            kind: Kind::EvidenceEnvironment,
            ..record(grower.run(ordinal), seq, leaf)
        };
        for seq in 1..30 {
            let (leaf, other) = (grower.key(1 + seq), grower.key(30 + seq));
            batch.run_records.push(if [20, 29].contains(&seq) {
                environment(0, seq, leaf)
            } else {
                record(grower.run(0), seq, leaf)
            });
            batch.run_records.push(record(grower.run(1), seq, other));
        }
        batch.run_records.sort_by_key(|row| (row.run, row.run_seq));
        store.batch_append(&[batch]).unwrap();
        let seqs = |ordinal, limit| {
            let rows = store.run_environments(grower.run(ordinal), limit).unwrap();
            rows.iter().map(|row| row.run_seq).collect::<Vec<_>>()
        };
        assert_eq!((seqs(0, 9), seqs(0, 1), seqs(1, 9)), (vec![20, 29], vec![20], vec![]));
    }

    records_of_a_run_read_back_in_order_and_by_identity(store) {
        let mut grower = with_runs(store, vec![state("r", 0), state("s", 0)]);
        let mut batch = grower.batch(6);
        for ordinal in 0..2 {
            for seq in 0..3 {
                let leaf = grower.key(2 + ordinal * 3 + seq);
                batch.run_records.push(record(grower.run(ordinal), seq, leaf));
            }
        }
        store.batch_append(&[batch]).unwrap();
        let row = |seq| record(grower.run(1), seq, grower.key(5 + seq));
        assert_eq!(store.run_records(grower.run(1), 0, 10).unwrap(), [row(0), row(1), row(2)]);
        assert_eq!(store.run_records(grower.run(1), 1, 1).unwrap(), [row(1)]);
        assert_eq!(store.run_record_find(grower.run(1), &Identity::step(2)).unwrap(), Some(row(2)));
        assert_eq!(store.run_record_find(grower.run(1), &Identity::step(9)).unwrap(), None);
        let (run, records) = store.run_snapshot(grower.run(1)).unwrap().unwrap();
        assert_eq!((run.state.run_id.as_str(), records.len()), ("s", 3));
        assert_eq!(store.run_snapshot(grower.run(9)).unwrap(), None);
        let keys = store.run_record_keys(1, Some((grower.run(0), 1)), 3).unwrap();
        let expected = [(0, 2), (1, 0), (1, 1)].map(|(n, seq)| (grower.run(n), seq, grower.key(2 + n * 3 + seq)));
        assert_eq!(keys, expected);
        assert_eq!(store.run_record_keys(1, None, 100).unwrap().len(), 6);
        assert!(store.run_record_keys(2, None, 100).unwrap().is_empty());
    }

    one_identity_stands_once_in_a_run(store) {
        let mut grower = with_runs(store, vec![state("r", 0)]);
        let mut batch = grower.batch(2);
        let one = record(grower.run(0), 1, grower.key(1));
        batch.run_records = vec![one, RunRecordRow { run_seq: 2, leaf: grower.key(2), ..one }];
        let head = store.head_read(1).unwrap();
        assert!(matches!(store.batch_append(&[batch]), Err(AppendError::Refused(_))));
        assert_eq!(store.head_read(1).unwrap(), head);
        assert!(store.is_stopped(), "what the sequencer should have seen must not go on");
    }

    a_lookup_finds_what_a_batch_is_about_and_nothing_else(store) {
        let mut grower = with_runs(store, vec![state("r", 0), state("s", 0)]);
        let (trace, unknown) = (TraceKey::parse("0af7651916cd43dd8448eb211c80319c"), TraceKey::Text("unknown".into()));
        let mut batch = grower.batch(1);
        batch.run_records.push(record(grower.run(0), 1, grower.key(2)));
        batch.traces.push(TraceRow { trace: trace.clone(), run: grower.run(0) });
        store.batch_append(&[batch]).unwrap();
        let identities = [Identity::step(1), Identity::step(8)];
        let query = BatchQuery {
            run_ids: vec!["r".into(), "s".into(), "unknown".into()],
            traces: vec![trace.clone(), unknown.clone()],
            by_run_id: identities.iter().map(|identity| ("r".to_owned(), *identity)).collect(),
            by_trace: identities.iter().flat_map(|i| [(trace.clone(), *i), (unknown.clone(), *i)]).collect(),
        };
        let known = store.batch_lookup(1, &query).unwrap();
        assert_eq!(known.runs.iter().map(|row| row.state.run_id.as_str()).collect::<Vec<_>>(), ["r", "s"], "each once");
        assert_eq!(known.traces, [TraceRow { trace: trace.clone(), run: grower.run(0) }]);
        let found = (grower.run(0), identities[0], grower.key(2));
        assert!(!known.records.is_empty() && known.records.iter().all(|record| *record == found));
        let other = store.batch_lookup(2, &query).unwrap();
        assert!(other.runs.is_empty() && other.traces.is_empty() && other.records.is_empty());
        let by_trace_alone = BatchQuery { traces: vec![trace], ..BatchQuery::default() };
        assert_eq!(store.batch_lookup(1, &by_trace_alone).unwrap().runs.len(), 1);
    }

    lists_are_newest_first_and_each_filter_filters(store) {
        let with = |run_id: &str, created, change: fn(&mut RunState)| {
            let mut state = state(run_id, created);
            change(&mut state);
            state
        };
        with_runs(store, vec![
            state("plain", 0),
            with("provider", 10, |s| s.provider = Some("openai".into())),
            with("model", 20, |s| s.model = Some("gpt".into())),
            with("status", 30, |s| s.status = TraceStatus::Failed),
            with("execution", 40, |s| s.execution_status = ExecutionStatus::Timeout),
            with("synthetic", 50, |s| s.is_synthetic = true),
            with("agent", 60, |s| s.agent_id = Some("planner".into())),
            with("root", 70, |s| s.root_hash = Some([1; 32])),
            with("plan", 80, |s| s.plan_hash = "other".into()),
            with("seed", 90, |s| s.seed = 7),
            with("unknown", 100, |s| (s.provider, s.model) = (Some("unknown".into()), Some("unknown".into()))),
            // As a run whose start is erased adds up: nobody knows what these were.
            with("erased", 110, |s| (s.source, s.seed, s.plan_hash) = (String::new(), 0, String::new())),
        ]);
        let all = ["erased", "unknown", "seed", "plan", "root", "agent", "synthetic", "execution", "status", "model", "provider", "plain"];
        assert_eq!(ids(store, &query()), all);
        let filters: [(RunQuery, &[&str]); 15] = [
            (RunQuery { run_id: Some("plain".into()), ..query() }, &["plain"]),
            (RunQuery { provider: Some("openai".into()), ..query() }, &["provider"]),
            (RunQuery { model: Some("gpt".into()), ..query() }, &["model"]),
            (RunQuery { status: Some("failed".into()), ..query() }, &["status"]),
            (RunQuery { execution_status: Some("TIMEOUT".into()), ..query() }, &["execution"]),
            (RunQuery { is_synthetic: Some(true), ..query() }, &["synthetic"]),
            (RunQuery { agent_id: Some("planner".into()), ..query() }, &["agent"]),
            (RunQuery { root_hash: Some([1; 32]), ..query() }, &["root"]),
            (RunQuery { plan_hash: Some("other".into()), ..query() }, &["plan"]),
            (RunQuery { plan_hash: Some(String::new()), ..query() }, &[]),
            (RunQuery { seed: Some(7), ..query() }, &["seed"]),
            (RunQuery { seed: Some(0), ..query() }, &[]),
            (RunQuery { created_after: Some(at(20)), created_before: Some(at(40)), ..query() }, &["status", "model"]),
            (RunQuery { as_of: Some(LeafKey::new(1, 2)), ..query() }, &["provider", "plain"]),
            (RunQuery { tenant_no: 2, ..query() }, &[]),
        ];
        for (query, expected) in filters {
            assert_eq!(ids(store, &query), expected, "{query:?}");
            assert_eq!(store.runs_count(&query, 100).unwrap(), u32::try_from(expected.len()).unwrap());
        }
        let without = |query: &RunQuery| ids(store, query).len();
        assert_eq!(without(&RunQuery { provider: Some("unknown".into()), ..query() }), 11, "absent is shown as unknown");
        assert_eq!(without(&RunQuery { model: Some("unknown".into()), ..query() }), 11);
        assert_eq!(without(&RunQuery { seed: Some(42), ..query() }), 10);
        assert_eq!(without(&RunQuery { is_synthetic: Some(false), ..query() }), 10);
        assert_eq!(store.runs_count(&query(), 3).unwrap(), 3, "counted no further than asked");
    }

    pages_follow_each_other_without_gap_or_double(store) {
        // Some share their moment: the key tells them apart.
        with_runs(store, (0..23).map(|n| state(&format!("r{n}"), i64::from(n / 4))).collect());
        let all = ids(store, &query());
        for limit in [1, 2, 5, 23, 24] {
            let mut seen = Vec::new();
            let mut next = RunQuery { limit, ..query() };
            loop {
                let page = store.runs_list(&next).unwrap();
                assert!(page.rows.len() <= limit as usize);
                let Some(last) = page.rows.last() else { break };
                next.after = Some((last.state.created_at, last.key));
                seen.extend(page.rows.iter().map(|row| row.state.run_id.clone()));
                assert_eq!(page.has_more, seen.len() < all.len());
                if !page.has_more {
                    break;
                }
            }
            assert_eq!(seen, all, "limit {limit}");
        }
        let offset = store.runs_list(&RunQuery { offset: 20, limit: 5, ..query() }).unwrap();
        assert_eq!(offset.rows.iter().map(|row| row.state.run_id.clone()).collect::<Vec<_>>(), all[20..]);
        assert!(!offset.has_more);
    }

    totals_are_exact_at_every_size(store) {
        let mut grower = with_runs(store, vec![state("a", 0), state("b", 0)]);
        grower.grow(store, 10);
        let mut batch = grower.batch(1);
        batch.runs.push(RunRow { key: grower.run(2), started_leaf: grower.key(12), state: state("c", 1) });
        store.batch_append(&[batch]).unwrap();
        assert_eq!(store.runs_total(1, None).unwrap(), 3);
        let totals: Vec<u64> =
            [0, 1, 2, 12, 13].iter().map(|&size| store.runs_total(1, Some(grower.key(size))).unwrap()).collect();
        assert_eq!(totals, [0, 1, 2, 2, 3]);
        assert_eq!(store.runs_total(2, Some(grower.key(9))).unwrap(), 0);
    }

    runs_are_due_when_they_were_silent_long_enough(store) {
        let with = |run_id: &str, status, settled, last| RunState { status, settled, last_recorded_at: at(last), ..state(run_id, 0) };
        use TraceStatus::{Completed, Ended, Failed, Running};
        with_runs(store, vec![
            with("running", Running, false, 10),
            with("ended", Completed, false, 30),
            with("failed", Failed, false, 20),
            with("erased", Ended, false, 25),
            with("settled", Completed, true, 1),
            with("young", Completed, false, 50),
            with("busy", Running, false, 40),
        ]);
        let due = |ended, running, limit| -> Vec<String> {
            store.runs_due(at(ended), at(running), limit).unwrap().into_iter().map(|row| row.state.run_id).collect()
        };
        assert_eq!(due(50, 40, 10), ["running", "failed", "erased", "ended"]);
        assert_eq!(due(51, 41, 10), ["running", "failed", "erased", "ended", "busy", "young"]);
        assert_eq!(due(51, 41, 2), ["running", "failed"]);
        assert!(due(20, 10, 10).is_empty(), "at the very moment is not before it");
    }
}
