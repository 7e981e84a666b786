//! What a step counts for when a run's evidence is judged: its classes, and what tells whether the record is whole.
//!
//! Read from stored bytes for every step of a run at once, so only what is needed is looked at.
//!
//! Source: SPEC 3, 6.3.

use serde::Deserialize;

use super::trace_step::StepStatus;
use crate::canonical::Reader;

/// What one step says.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct StepEvidence {
    /// It has a section `activity` (class B).
    pub activity: bool,
    /// It has a section `provider` (class G).
    pub provider: bool,
    /// It has a section `policy` (class D).
    pub policy: bool,
    /// The fingerprints of its activity: prompt, response.
    pub fingerprints: (bool, bool),
    /// A model call.
    pub inference: bool,
    /// How it ended.
    pub status: Option<StepStatus>,
    /// It has an outcome.
    pub outcome: bool,
    /// Of a span.
    pub span: Option<SpanEvidence>,
}

/// What a span says beside its step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanEvidence {
    /// Trace id and span id, hex.
    pub id: (String, String),
    /// None of a root.
    pub parent_span_id: Option<String>,
    /// Attributes, events and links that its sender dropped: of the span, of its scope, of its events and links.
    pub dropped: u64,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970; 0: it has not ended.
    pub end: u64,
}

impl StepEvidence {
    /// Reads a stored body; `None`: it is none.
    pub fn read(body: &[u8]) -> Option<Self> {
        Self::read_written(body).or_else(|| Self::read_any(body))
    }

    /// A body in the form that this version writes.
    fn read_written(body: &[u8]) -> Option<Self> {
        let mut r = Reader::new(body)?;
        let mut found = Self::default();
        r.object(|key, r| {
            match key {
                "activity" => {
                    found.activity = true;
                    r.object(|key, r| {
                        match key {
                            "prompt_fingerprint" => found.fingerprints.0 = true,
                            "response_fingerprint" => found.fingerprints.1 = true,
                            _ => {}
                        }
                        r.skip()
                    })?;
                }
                "otel" => found.span = Some(SpanEvidence::read_written(r)?),
                "policy" => {
                    found.policy = true;
                    r.skip()?;
                }
                "provider" => {
                    found.provider = true;
                    r.skip()?;
                }
                "step" => r.object(|key, r| {
                    match key {
                        "inference" => found.inference = r.bool()?,
                        "outcome_data" => {
                            found.outcome = true;
                            r.skip()?;
                        }
                        "status" => found.status = Some(StepStatus::parse(r.plain()?)?),
                        _ => r.skip()?,
                    }
                    Some(())
                })?,
                _ => r.skip()?,
            }
            Some(())
        })?;
        r.end()?;
        Some(found)
    }

    fn read_any(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Wire {
            activity: Option<Prints>,
            otel: Option<Otel>,
            policy: Option<serde::de::IgnoredAny>,
            provider: Option<serde::de::IgnoredAny>,
            step: Step,
        }
        #[derive(Deserialize)]
        struct Prints {
            prompt_fingerprint: Option<serde::de::IgnoredAny>,
            response_fingerprint: Option<serde::de::IgnoredAny>,
        }
        #[derive(Deserialize)]
        struct Step {
            #[serde(default)]
            inference: bool,
            outcome_data: Option<serde::de::IgnoredAny>,
            status: StepStatus,
        }
        #[derive(Default, Deserialize)]
        struct Attributes {
            #[serde(rename = "deponent.scope")]
            scope: Option<Part>,
        }
        /// A scope, an event or a link.
        #[derive(Deserialize)]
        struct Part {
            #[serde(default)]
            dropped_attributes_count: u64,
        }
        #[derive(Deserialize)]
        struct Otel {
            #[serde(default)]
            attributes: Attributes,
            #[serde(default)]
            dropped_attributes_count: u64,
            #[serde(default)]
            dropped_events_count: u64,
            #[serde(default)]
            dropped_links_count: u64,
            end_unix_nano: String,
            #[serde(default)]
            events: Vec<Part>,
            #[serde(default)]
            links: Vec<Part>,
            parent_span_id: Option<String>,
            span_id: String,
            start_unix_nano: String,
            trace_id: String,
        }
        impl Otel {
            fn dropped(&self) -> u64 {
                let parts = self
                    .attributes
                    .scope
                    .iter()
                    .chain(&self.events)
                    .chain(&self.links);
                [
                    self.dropped_attributes_count,
                    self.dropped_events_count,
                    self.dropped_links_count,
                ]
                .into_iter()
                .chain(parts.map(|part| part.dropped_attributes_count))
                .fold(0, u64::saturating_add)
            }
        }
        let wire: Wire = serde_json::from_slice(body).ok()?;
        let span = match wire.otel {
            None => None,
            Some(otel) => Some(SpanEvidence {
                dropped: otel.dropped(),
                id: (otel.trace_id, otel.span_id),
                parent_span_id: otel.parent_span_id,
                start: otel.start_unix_nano.parse().ok()?,
                end: otel.end_unix_nano.parse().ok()?,
            }),
        };
        Some(Self {
            activity: wire.activity.is_some(),
            provider: wire.provider.is_some(),
            policy: wire.policy.is_some(),
            fingerprints: wire.activity.map_or((false, false), |prints| {
                (
                    prints.prompt_fingerprint.is_some(),
                    prints.response_fingerprint.is_some(),
                )
            }),
            inference: wire.step.inference,
            status: Some(wire.step.status),
            outcome: wire.step.outcome_data.is_some(),
            span,
        })
    }
}

impl SpanEvidence {
    fn read_written(r: &mut Reader<'_>) -> Option<Self> {
        let mut span = Self::default();
        r.object(|key, r| {
            match key {
                "attributes" => r.object(|key, r| match key {
                    "deponent.scope" => add_dropped(r, &mut span.dropped),
                    _ => r.skip(),
                })?,
                "dropped_attributes_count" | "dropped_events_count" | "dropped_links_count" => {
                    span.dropped = span.dropped.saturating_add(r.number()?.parse().ok()?);
                }
                "events" | "links" => r.array(|r| add_dropped(r, &mut span.dropped))?,
                "end_unix_nano" => span.end = r.plain()?.parse().ok()?,
                "parent_span_id" => span.parent_span_id = Some(r.plain()?.to_owned()),
                "span_id" => r.plain()?.clone_into(&mut span.id.1),
                "start_unix_nano" => span.start = r.plain()?.parse().ok()?,
                "trace_id" => r.plain()?.clone_into(&mut span.id.0),
                _ => r.skip()?,
            }
            Some(())
        })?;
        Some(span)
    }
}

/// Adds what a scope, an event or a link says that its sender dropped of it.
fn add_dropped(r: &mut Reader<'_>, dropped: &mut u64) -> Option<()> {
    r.object(|key, r| {
        if key != "dropped_attributes_count" {
            return r.skip();
        }
        *dropped = dropped.saturating_add(r.number()?.parse().ok()?);
        Some(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_reading_find_the_same() {
        for body in [
            r#"{"activity":{"fingerprint_of":"redacted","prompt_fingerprint":"ab","skill_id":"s"},"content_mac":"00","otel":{"attributes":{"x":[1,{"y":"\"}"}]},"dropped_attributes_count":2,"dropped_links_count":1,"end_unix_nano":"5","kind":1,"mapping":"m","name":"n","parent_span_id":"p","span_id":"s","start_unix_nano":"3","status_code":0,"trace_id":"t"},"provider":{"model_name":"m"},"step":{"cost_cents":0,"inference":true,"outcome_data":null,"params":{},"status":"failure"}}"#,
            r#"{"content_mac":"00","otel":{"attributes":{"a":{"dropped_attributes_count":64},"deponent.scope":{"attributes":{"dropped_attributes_count":32},"dropped_attributes_count":1}},"dropped_events_count":2,"end_unix_nano":"5","events":[{"attributes":{},"dropped_attributes_count":4,"name":"e","time_unix_nano":"1"},{"attributes":{},"name":"f","time_unix_nano":"1"}],"links":[{"attributes":{},"dropped_attributes_count":8,"span_id":"s","trace_id":"t"}],"span_id":"s","start_unix_nano":"3","trace_id":"t"},"step":{"params":{},"status":"success"}}"#,
            r#"{"content_mac":"00","policy":{"decision":"DENIED"},"step":{"params":{"status":"x"},"status":"success"}}"#,
        ] {
            let read = StepEvidence::read_written(body.as_bytes()).unwrap();
            let any = StepEvidence::read_any(body.as_bytes()).unwrap();
            // `null` is an outcome that was given; the general reader cannot tell it from none.
            assert_eq!(
                StepEvidence {
                    outcome: any.outcome,
                    ..read.clone()
                },
                any
            );
        }
        let dropping = br#"{"otel":{"attributes":{"a":{"dropped_attributes_count":64},"deponent.scope":{"attributes":{"dropped_attributes_count":32},"dropped_attributes_count":1}},"dropped_events_count":2,"end_unix_nano":"5","events":[{"attributes":{},"dropped_attributes_count":4}],"links":[{"dropped_attributes_count":8}],"span_id":"s","start_unix_nano":"3","trace_id":"t"},"step":{"status":"success"}}"#;
        let span = StepEvidence::read(dropping).and_then(|step| step.span);
        assert_eq!(
            span.map(|span| span.dropped),
            Some(15),
            "what the sender's own attributes say is no count"
        );
        let read = StepEvidence::read(
            br#"{"content_mac":"00","otel":{"end_unix_nano":"5","span_id":"s","start_unix_nano":"3","trace_id":"t"},"step":{"status":"success"}}"#,
        )
        .unwrap();
        let span = read.span.unwrap();
        assert_eq!((span.start, span.end, span.parent_span_id), (3, 5, None));
    }
}
