//! Agent runs to look at on a fresh machine, made up from a seed.
//!
//! They arrive as everybody's do: OTLP over HTTP, in two vocabularies, with the failures, retries, refusals
//! and nested agents that real ones have. The same seed and hour give the same runs; a seed belongs to one
//! data folder, so that two folders never hold the same ids.
//!
//! Out of scope: whether a folder has them already, which `serve` remembers.
//! Start at [`requests`] and [`load()`].

mod dice;
mod genai;
mod inference;
mod load;
mod run;
mod tales;

use evidence::Timestamp;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;

use dice::Dice;
pub(crate) use load::load;

/// Runs made. A few hundred fill every list and filter of the API and load in about a second.
const RUNS: usize = 300;

/// How far back the oldest begins: within the day that a silent run has before it is aborted.
const HOURS: u64 = 8;

/// Runs that would end in the future end within this time before now: half an hour.
const MOVED_NANOS: u64 = 1_800_000_000_000;

/// Runs in one request: about 60 spans, what an exporter's batch holds.
const RUNS_A_REQUEST: usize = 8;

/// The demo's runs, oldest first, all ended before `now`.
pub(crate) fn requests(now: Timestamp, seed: [u8; 16]) -> Vec<ExportTraceServiceRequest> {
    let end = u64::try_from(now.as_micros()).unwrap_or(0).saturating_mul(1_000);
    let mut dice = Dice::new(seed);
    let window = HOURS * 3_600 * 1_000_000_000;
    let mut starts: Vec<u64> = (0..RUNS)
        .map(|_| end.saturating_sub(window) + dice.below(window))
        .collect();
    starts.sort_unstable();
    let spans: Vec<ResourceSpans> = starts
        .into_iter()
        .map(|start| {
            let run = run::make(&mut dice, start);
            // A run that would end in the future ended some time ago.
            let over = run.end().saturating_sub(end);
            let run = if over > 0 {
                run.moved_back(over + dice.below(MOVED_NANOS))
            } else {
                run
            };
            match run.dialect {
                run::Dialect::GenAi => genai::spans(&run),
                run::Dialect::OpenInference => inference::spans(&run),
            }
        })
        .collect();
    spans
        .chunks(RUNS_A_REQUEST)
        .map(|chunk| ExportTraceServiceRequest {
            resource_spans: chunk.to_vec(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::parse("2026-11-21T11:00:00Z").unwrap()
    }

    #[test]
    fn a_seed_gives_the_same_runs_and_another_gives_none_of_them() {
        let ids = |seed| -> HashSet<Vec<u8>> {
            let spans = requests(now(), [seed; 16])
                .into_iter()
                .flat_map(|r| r.resource_spans);
            spans
                .flat_map(|r| r.scope_spans)
                .flat_map(|s| s.spans)
                .map(|s| s.trace_id)
                .collect()
        };
        assert_eq!(requests(now(), [1; 16]), requests(now(), [1; 16]));
        assert_eq!(ids(1).len(), RUNS);
        assert!(ids(1).is_disjoint(&ids(2)));
    }

    #[test]
    fn every_span_has_its_parent_before_it_and_lies_within_it() {
        let end = u64::try_from(now().as_micros()).unwrap() * 1_000;
        let mut kinds = HashSet::new();
        for request in requests(now(), [7; 16]) {
            for resource in request.resource_spans {
                let spans = &resource.scope_spans[0].spans;
                assert!(spans[0].parent_span_id.is_empty());
                for (i, span) in spans.iter().enumerate() {
                    assert!(span.start_time_unix_nano < span.end_time_unix_nano);
                    assert!(span.end_time_unix_nano <= end);
                    kinds.insert(span.name.split(' ').next().unwrap_or_default().to_owned());
                    if i > 0 {
                        let parent = spans[..i]
                            .iter()
                            .find(|p| p.span_id == span.parent_span_id)
                            .unwrap();
                        assert!(parent.start_time_unix_nano <= span.start_time_unix_nano);
                        assert!(parent.end_time_unix_nano >= span.end_time_unix_nano);
                    }
                }
            }
        }
        for kind in [
            "invoke_agent",
            "chat",
            "execute_tool",
            "run_guardrail",
            "embeddings",
        ] {
            assert!(kinds.contains(kind), "no {kind}: {kinds:?}");
        }
    }

    #[test]
    fn no_text_keeps_a_gap() {
        let text = format!("{:?}", requests(now(), [3; 16]));
        for gap in tales::GAPS {
            assert!(!text.contains(&format!("{{{gap}}}")), "{gap} is left open");
        }
    }
}
