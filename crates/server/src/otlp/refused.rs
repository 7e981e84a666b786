//! Spans that were sent and are not taken: their runs are told, each of at least one, and of how many.
//!
//! In scope: which of them are told one by one. Out of scope: finding the runs and writing it down (api::otlp).
//!
//! Source: SPEC 6.2; docs/http-api.md, "Evidence and integrity".

use std::collections::BTreeMap;

/// Refused spans of one request that are told one by one beyond the first of their trace: each is a record, and more
/// of them say nothing new. The rest of a trace is one record more, with their number.
pub(super) const TOLD_MAX: usize = 100;

/// The refused spans of one request, of all its parts, by trace. A request has at most [`super::ITEMS_MAX`] spans, so no
/// more are held, each with its id and reason: some 30 MB, less than a part takes while it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedSpans {
    by_trace: BTreeMap<[u8; 16], RefusedOfTrace>,
    told: usize,
}

/// Those of one trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedOfTrace {
    /// Told one by one; never empty.
    pub told: Vec<RefusedSpan>,
    /// How many more there are, the first of them, and why it was refused.
    pub more: Option<(u64, RefusedSpan)>,
}

/// A span that is not taken, as far as it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedSpan {
    /// Its id, in hex.
    pub span_id: String,
    /// Why.
    pub reason: String,
}

impl RefusedSpans {
    /// One more.
    pub fn note(&mut self, trace_id: [u8; 16], span_id: String, reason: &dyn std::fmt::Display) {
        let of_trace = self.by_trace.entry(trace_id).or_default();
        if let Some((more, _)) = &mut of_trace.more {
            *more += 1;
            return;
        }
        let span = RefusedSpan {
            span_id,
            reason: reason.to_string(),
        };
        if of_trace.told.is_empty() {
            of_trace.told.push(span);
        } else if self.told < TOLD_MAX {
            self.told += 1;
            of_trace.told.push(span);
        } else {
            of_trace.more = Some((1, span));
        }
    }

    /// Those of a later part of the request.
    pub fn merge(&mut self, later: Self) {
        for (trace_id, of_trace) in later.by_trace {
            for span in of_trace.told {
                self.note(trace_id, span.span_id, &span.reason);
            }
            if let Some((count, first)) = of_trace.more {
                let known = self.by_trace.entry(trace_id).or_default();
                known.more.get_or_insert((0, first)).0 += count;
            }
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_trace.is_empty()
    }

    /// By trace.
    pub fn into_traces(self) -> impl Iterator<Item = ([u8; 16], RefusedOfTrace)> {
        self.by_trace.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trace_is_told_of_one_span_and_of_how_many_more() {
        let mut refused = RefusedSpans::default();
        for span in 0..300 {
            refused.note([1; 16], format!("{span:016x}"), &"why");
        }
        for trace in 2..=200 {
            refused.note([trace; 16], "aa".into(), &"why");
            refused.note([trace; 16], "bb".into(), &"why not");
        }
        let traces: Vec<_> = refused.into_traces().collect();
        assert_eq!(traces.len(), 200);
        assert_eq!(traces[0].1.told.len(), 1 + TOLD_MAX);
        let (more, first) = traces[0].1.more.clone().unwrap();
        assert_eq!((more, first.span_id), (199, format!("{:016x}", TOLD_MAX + 1)));
        for (_, of_trace) in &traces[1..] {
            assert_eq!(of_trace.told.len(), 1);
            let more = of_trace
                .more
                .as_ref()
                .map(|(more, span)| (*more, span.span_id.as_str()));
            assert_eq!(more, Some((1, "bb")));
        }
    }

    #[test]
    fn what_later_parts_refuse_is_told_as_if_it_were_one() {
        let of = |spans: std::ops::Range<usize>| {
            let mut refused = RefusedSpans::default();
            for span in spans {
                refused.note([1; 16], format!("{span:016x}"), &"why");
            }
            refused
        };
        for (one, other) in [(0, 0), (0, 300), (40, 300), (101, 300), (250, 300), (250, 40)] {
            let mut parts = of(0..one);
            parts.merge(of(one..one + other));
            assert_eq!(parts, of(0..one + other), "{one} and {other}");
        }
        let mut parts = of(0..300);
        parts.note([2; 16], "aa".into(), &"why");
        let mut later = RefusedSpans::default();
        later.note([3; 16], "bb".into(), &"why");
        parts.merge(later);
        assert_eq!(parts.into_traces().count(), 3);
    }
}
