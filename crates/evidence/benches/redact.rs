//! How fast bodies are looked through for secrets, and freed of them.
//!
//! The bodies are those of a chat span with its messages, about 3 KiB; one of them holds nothing, one an
//! address and a token, and of a hundred typical ones five do. At the end the figure to reach stands beside that of
//! typical messages; one that is missed is marked MISSED.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use evidence::Kind;
use evidence::canonical::{Value, to_vec};
use evidence::redact::Redactor;
use std::hint::black_box;
use std::time::{Duration, Instant};

const PROSE: &str = "The quarterly review covers 14 services in three regions. Two of them were degraded on \
    2026-05-06 between 07:10 and 08:42; both recovered without loss. Please compare the figures (1,204 requests, \
    3.2 % errors) with those of the last quarter, and say which of the follow-ups are still open. Nobody has \
    answered ticket OPS-4411 so far. The budget stays at 12,000 EUR; a change needs the board's approval.\n";

fn body(extra: &str) -> Vec<u8> {
    let message = |role: &str, text: String| {
        Value::object([
            (
                "parts",
                Value::Array(vec![Value::object([
                    ("content", Value::from(text)),
                    ("type", "text".into()),
                ])]),
            ),
            ("role", Value::from(role)),
        ])
    };
    let params = Value::Array(vec![
        message("system", PROSE.repeat(2)),
        message("user", format!("{PROSE}{extra}{PROSE}")),
        message("assistant", PROSE.to_owned()),
    ]);
    let number = |number: i64| Value::from(number);
    let attributes = Value::object([
        ("gen_ai.request.max_tokens", number(4096)),
        ("gen_ai.operation.name", Value::from("chat")),
        ("server.address", Value::from("api.example.com")),
        ("gen_ai.conversation.id", Value::from("conv_01a1fd70f1c07d158000")),
    ]);
    let otel = Value::object([
        ("attributes", attributes),
        ("end_unix_nano", Value::from("1763717402123456789")),
        ("mapping", Value::from("otel-genai/1.41;deponent/1")),
        ("name", Value::from("chat sonnet-large-2026-05")),
        ("span_id", Value::from("eee19b7ec3c1b174")),
        ("start_unix_nano", Value::from("1763717400123456789")),
        ("trace_id", Value::from("5b8efff798038103d269b633813fc60c")),
    ]);
    let step = Value::object([
        ("duration_ms", number(2000)),
        ("outcome_category", Value::from("SUCCESS")),
        ("params", params),
        ("skill_name", Value::from("sonnet-large-2026-05")),
        ("status", Value::from("success")),
    ]);
    to_vec(&Value::object([
        (
            "content_mac",
            Value::from("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
        ),
        ("otel", otel),
        ("step", step),
    ]))
}

/// Typical messages a core redacts at least, in MB a second.
const TYPICAL_MEGABYTES: f64 = 150.0;

/// How long typical messages are redacted for the figure.
const FOR: Duration = Duration::from_secs(2);

/// Prints how fast bodies are redacted, beside the figure to reach.
#[allow(clippy::cast_precision_loss, clippy::print_stdout)] // a rate, for people
fn told(rules: &Redactor, bodies: &[&Vec<u8>]) {
    let (begun, mut bytes) = (Instant::now(), 0_usize);
    while begun.elapsed() < FOR {
        for body in bodies {
            let _ = black_box(rules.body(Kind::TraceStep, black_box(body)));
            bytes += body.len();
        }
    }
    let rate = bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
    let missed = if rate < TYPICAL_MEGABYTES { "  MISSED" } else { "" };
    println!("redaction of typical messages: {rate:.0} MB/s  ({TYPICAL_MEGABYTES} MB/s or more){missed}");
}

fn redact(criterion: &mut Criterion) {
    let rules = Redactor::standard();
    let clean = body("");
    let secret = body("Mail ada@example.com, key AKIAIOSFODNN7EXAMPLE. ");
    assert!(
        rules
            .body(Kind::TraceStep, &clean)
            .is_ok_and(|done| done.is_none())
    );
    assert!(
        rules
            .body(Kind::TraceStep, &secret)
            .is_ok_and(|done| done.is_some())
    );
    let mut group = criterion.benchmark_group("redact");
    for (name, bodies) in [
        ("nothing_to_do", vec![&clean]),
        ("two_secrets", vec![&secret]),
        (
            "typical",
            (0..100)
                .map(|n| if n % 20 == 0 { &secret } else { &clean })
                .collect(),
        ),
    ] {
        let bytes: usize = bodies.iter().map(|body| body.len()).sum();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for body in &bodies {
                    let _ = black_box(rules.body(Kind::TraceStep, black_box(body)));
                }
            });
        });
    }
    group.finish();
    let typical: Vec<&Vec<u8>> = (0..100)
        .map(|n| if n % 20 == 0 { &secret } else { &clean })
        .collect();
    told(rules, &typical);
}

criterion_group!(benches, redact);
criterion_main!(benches);
