//! How fast a record is written, read and told the time.
//!
//! The record is of 844 bytes, as the figures published for other RFC 8785 crates use.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use evidence::canonical::{Finite, Limits, Writer, parse, to_vec};
use evidence::time::Timestamp;
use std::hint::black_box;

const PROMPT: &str = "Summarise the incident report. Mention every service that was \
    degraded, when it was first seen and who acknowledged it. Keep to facts; where one is \
    missing, say so.\nEnd";

fn record(out: &mut Vec<u8>, at: Timestamp, index: i64) {
    let mut writer = Writer::new(out);
    writer.open_object().key("activity").open_object();
    writer.key("decision").str("model_call").key("prompt").str(PROMPT);
    writer
        .key("source_ids")
        .open_array()
        .str("doc-17")
        .str("doc-44")
        .str("doc-108")
        .close_array();
    writer
        .close_object()
        .key("occurred_at")
        .time(at)
        .key("provider")
        .open_object();
    writer
        .key("cost_cents")
        .f64(Finite::new(0.4175).unwrap_or_default())
        .key("input_tokens")
        .i64(1_812);
    writer
        .key("model")
        .str("sonnet-large-2026-05")
        .key("output_tokens")
        .i64(233);
    writer
        .key("provider")
        .str("example-inference")
        .string_opt("region", None);
    writer
        .close_object()
        .key("run_id")
        .str("01973c1e-5d7a-7cc3-98c1-9f1d2f0a7b11");
    writer
        .key("step")
        .open_object()
        .key("duration_ms")
        .i64(1_944)
        .key("index")
        .i64(index);
    writer
        .key("input_hash")
        .hex(&[0x5a; 32])
        .key("output_hash")
        .hex(&[0xc3; 32]);
    writer
        .key("outcome_category")
        .str("ok")
        .key("retry_count")
        .i64(0)
        .key("skill_name")
        .str("summarise_incident");
    writer.key("status").str("success").close_object();
    writer
        .key("trace_id")
        .str("trace_01973c1e-5d7a-7cc3-98c1-9f1d2f0a7b11")
        .key("v")
        .i64(1)
        .close_object();
}

fn canonical(criterion: &mut Criterion) {
    let at = Timestamp::parse("2026-05-06T07:08:09.123456Z").unwrap_or(Timestamp::UNIX_EPOCH);
    let mut bytes = Vec::new();
    record(&mut bytes, at, 17);
    assert_eq!(bytes.len(), 844, "figures are compared by this size");

    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("writer", |bench| {
        let mut out = Vec::with_capacity(1024);
        bench.iter(|| {
            out.clear();
            record(&mut out, black_box(at), black_box(17));
            black_box(out.len())
        });
    });
    group.bench_function("parse", |bench| {
        bench.iter(|| parse(black_box(&bytes), Limits::default()));
    });
    let Ok(value) = parse(&bytes, Limits::default()) else {
        return;
    };
    group.bench_function("to_vec", |bench| bench.iter(|| to_vec(black_box(&value))));
    group.bench_function("serde_json parse, to compare", |bench| {
        bench.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(&bytes)));
    });
    group.finish();

    let text = PROMPT.repeat(8);
    let mut group = criterion.benchmark_group("text");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("writer", |bench| {
        let mut out = Vec::with_capacity(4096);
        bench.iter(|| {
            out.clear();
            Writer::new(&mut out).str(black_box(&text));
            black_box(out.len())
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("time");
    group.throughput(Throughput::Elements(1));
    let text = at.to_string();
    group.bench_function("parse", |bench| bench.iter(|| Timestamp::parse(black_box(&text))));
    group.bench_function("write", |bench| bench.iter(|| black_box(at).to_bytes()));
    group.finish();
}

criterion_group!(benches, canonical);
criterion_main!(benches);
