//! How long a judgement takes: a panel of 500 signals and 100 rules, a job of 10,000 steps.

use std::fmt::Write as _;
use std::hint::black_box;

use audit::governance::{AuditInput, audit};
use audit::panel::{Panel, check};
use criterion::{Criterion, criterion_group, criterion_main};
use evidence::Timestamp;
use evidence::canonical::{Limits, parse};

fn panel_json() -> String {
    let mut json = String::from(r#"{"panel_id":"p","slots":["#);
    for slot in 0..10 {
        let _ = write!(
            json,
            r#"{}{{"slot_id":"s{slot}","signals":{{"#,
            if slot > 0 { "," } else { "" }
        );
        for signal in 0..50 {
            let name = slot * 50 + signal;
            let _ = write!(json, r#"{}"n{name}":{signal}"#, if signal > 0 { "," } else { "" });
        }
        json.push_str("}}");
    }
    json.push_str(r#"],"rules":["#);
    for rule in 0..100 {
        let (a, b) = (rule * 3, rule * 4 + 1);
        let condition = match rule % 3 {
            0 => "signal_a > 0 implies signal_b != 'NONE'",
            1 => "signal_a >= 0 && (signal_b < 100 || signal_b == 100)",
            _ => "signals['n7'] == 7 && signal_a + signal_b >= 0",
        };
        let comma = if rule > 0 { "," } else { "" };
        let _ = write!(
            json,
            r#"{comma}{{"id":"R{rule}","signal_a":"n{a}","signal_b":"n{b}","condition":"{condition}"}}"#
        );
    }
    json.push_str("]}");
    json
}

fn job_json() -> String {
    let steps: Vec<String> = (0..10_000)
        .map(|step| {
            let target = step % 100;
            format!(
                r#"{{"step_index":{step},"status":"COMPLETED","output":{{"target":"c{target}","rollback_action":"restore"}}}}"#
            )
        })
        .collect();
    let scope: Vec<String> = (0..100).map(|entry| format!(r#""c{entry}""#)).collect();
    format!(
        r#"{{"job_id":"j","contract_id":"c","job_status":"COMPLETED","contract_scope":[{}],
        "proposed_changes":{{"scope":"c1"}},"step_results":[{}],"health_before":{{}},"health_after":{{}},
        "job_started_at":"2026-03-01T12:00:00Z","job_completed_at":"2026-03-01T12:05:00Z","signals":[]}}"#,
        scope.join(","),
        steps.join(",")
    )
}

fn judge(criterion: &mut Criterion) {
    let json = panel_json();
    let answered = Panel::parse(json.as_bytes()).is_ok_and(|panel| check(&panel).is_ok());
    assert!(answered, "a panel that is refused would be fast");
    criterion.bench_function("panel of 500 signals and 100 rules, read and checked", |bench| {
        bench.iter(|| Panel::parse(black_box(json.as_bytes())).map(|panel| check(&panel)));
    });
    let job = job_json();
    criterion.bench_function("job of 10,000 steps, read and audited", |bench| {
        bench.iter(|| {
            let value = parse(black_box(job.as_bytes()), Limits::default()).unwrap_or_default();
            AuditInput::read(&value).map(|input| audit(&input, String::new(), Timestamp::UNIX_EPOCH, 0))
        });
    });
}

criterion_group!(benches, judge);
criterion_main!(benches);
