//! What a step says to projections, read from its stored bytes.
//!
//! Verification reads every one of them, so the writer's form has a fast way of
//! its own ([`Reader`]); what is written otherwise goes to the general parser,
//! and both give the same answer.

use std::borrow::Cow;

use serde::Deserialize;

use super::BodyError;
use super::trace_step::{StepStatus, duration_micros, end_of};
use crate::canonical::Reader;
use crate::cost::NanoCents;
use crate::facet::push_facet;
use crate::identity::Identity;
use crate::time::Timestamp;
use crate::{Header, Kind};

/// Longest name of a step that is projected, in bytes: that of an identifier. What REST takes is no longer, a span may
/// bring a mebibyte; it stands whole in the body. A list of 500 runs under such names would be as many mebibytes.
const NAME_BYTES_MAX: usize = crate::IDENTIFIER_BYTES_MAX;

/// The name of a provider or model as it is projected: cut at a character.
pub(crate) fn projected(name: impl Into<String>) -> String {
    let mut name = name.into();
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    name
}

/// An agent's name as it is projected: it becomes an id, and what is cut would be another's.
pub(crate) fn projected_agent(name: Option<String>) -> Option<String> {
    name.filter(|name| name.len() <= NAME_BYTES_MAX)
}

/// What a step says to projections.
#[derive(Clone, Debug, PartialEq)]
pub struct StepFacts {
    /// Of a REST step.
    pub step_index: Option<u32>,
    /// Trace and span id, of a span.
    pub span: Option<([u8; 16], [u8; 8])>,
    /// A span without parent: its end completes the run.
    pub root: bool,
    /// How it ended.
    pub status: StepStatus,
    /// When it began.
    pub started_at: Timestamp,
    /// When a span ended.
    pub ended_at: Option<Timestamp>,
    /// Whole microseconds.
    pub duration_micros: i64,
    /// What it cost.
    pub cost: NanoCents,
    /// Whether its tokens and cost count for the run.
    pub inference: bool,
    /// Of an inference step, cut at 256 bytes.
    pub provider: Option<String>,
    /// Of an inference step, cut at 256 bytes.
    pub model: Option<String>,
    /// Of an inference step.
    pub input_tokens: Option<i64>,
    /// Of an inference step.
    pub output_tokens: Option<i64>,
    /// Who acted; nobody when the name is longer than 256 bytes and can be no identifier.
    pub agent: Option<String>,
    /// The caller's key, when not empty.
    pub idempotency_key: Option<String>,
}

impl StepFacts {
    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        if let Some(key) = &self.idempotency_key {
            push_facet(out, "step.key", key);
        }
    }

    /// Reads the facts from stored bytes.
    pub(crate) fn read(header: &Header<'_>, body: &[u8]) -> Result<Self, BodyError> {
        match Self::read_written(header, body) {
            Some(facts) => Ok(facts),
            None => Self::read_any(header, body),
        }
    }

    /// Reads a body as [`TraceStep::encode`] writes it; what it does not need is passed over.
    fn read_written(header: &Header<'_>, body: &[u8]) -> Option<Self> {
        let mut r = Reader::new(body)?;
        let mut step: Option<WireStep<'_>> = None;
        let mut provider: Option<WireProvider<'_>> = None;
        let mut otel: Option<WireOtel<'_>> = None;
        r.object(|key, r| {
            match key {
                "step" => step = Some(WireStep::read_written(r)?),
                "provider" => provider = Some(WireProvider::read_written(r)?),
                "otel" => otel = Some(WireOtel::read_written(r)?),
                _ => r.skip()?,
            }
            Some(())
        })?;
        r.end()?;
        Self::of(header, step?, provider, otel).ok()
    }

    fn read_any(header: &Header<'_>, body: &[u8]) -> Result<Self, BodyError> {
        let wire: WireFacts<'_> =
            serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::TraceStep, error))?;
        Self::of(header, wire.step, wire.provider, wire.otel)
    }

    fn of(
        header: &Header<'_>,
        step: WireStep<'_>,
        provider: Option<WireProvider<'_>>,
        otel: Option<WireOtel<'_>>,
    ) -> Result<Self, BodyError> {
        let bad = |what: &str| BodyError::new(Kind::TraceStep, what);
        let span = match &otel {
            Some(otel) => Some((
                unhex16(otel.trace_id).ok_or_else(|| bad("otel.trace_id"))?,
                unhex8(otel.span_id).ok_or_else(|| bad("otel.span_id"))?,
            )),
            None => None,
        };
        let ended_at = match &otel {
            Some(otel) => end_of(
                otel.end_unix_nano
                    .parse()
                    .map_err(|_| bad("otel.end_unix_nano"))?,
            ),
            None => None,
        };
        let (mut input_tokens, mut output_tokens) = (None, None);
        if let Some(provider) = provider.as_ref().filter(|_| step.inference) {
            (input_tokens, output_tokens) = (provider.input_tokens, provider.output_tokens);
        }
        let (provider, model) = match provider {
            Some(p) => (Some(projected(p.provider_name)), Some(projected(p.model_name))),
            None => (None, None),
        };
        Ok(Self {
            step_index: step.step_index,
            span,
            root: otel.is_some_and(|otel| otel.parent_span_id.is_none()),
            status: step.status,
            started_at: header.occurred_at,
            ended_at,
            duration_micros: duration_micros(step.duration_ms),
            cost: NanoCents::from_cents(step.cost_cents).ok_or_else(|| bad("step.cost_cents"))?,
            inference: step.inference,
            provider,
            model,
            input_tokens,
            output_tokens,
            agent: projected_agent(step.agent),
            idempotency_key: step.idempotency_key.filter(|key| !key.is_empty()),
        })
    }

    /// The identity of the step: a span's ids, or a REST step's index.
    pub fn identity(&self) -> Identity {
        match (self.span, self.step_index) {
            (Some((trace, span)), _) => Identity::span(&trace, &span),
            (None, index) => Identity::step(index.unwrap_or(0)),
        }
    }
}

impl<'a> WireStep<'a> {
    fn read_written(r: &mut Reader<'a>) -> Option<Self> {
        let (mut agent, mut idempotency_key, mut step_index) = (None, None, None);
        let (mut cost_cents, mut duration_ms, mut status) = (None, None, None);
        let mut inference = false;
        r.object(|key, r| {
            match key {
                "agent" => agent = Some(r.string()?.into_owned()),
                "cost_cents" => cost_cents = Some(r.number()?.parse().ok()?),
                "duration_ms" => duration_ms = Some(r.number()?.parse().ok()?),
                "idempotency_key" => idempotency_key = Some(r.string()?.into_owned()),
                "inference" => inference = r.bool()?,
                "status" => status = Some(StepStatus::parse(r.plain()?)?),
                "step_index" => step_index = Some(r.number()?.parse().ok()?),
                _ => r.skip()?,
            }
            Some(())
        })?;
        Some(Self {
            agent,
            cost_cents: cost_cents?,
            duration_ms: duration_ms?,
            idempotency_key,
            inference,
            status: status?,
            step_index,
            _lifetime: std::marker::PhantomData,
        })
    }
}

impl<'a> WireProvider<'a> {
    fn read_written(r: &mut Reader<'a>) -> Option<Self> {
        let (mut provider_name, mut model_name) = (None, None);
        let (mut input_tokens, mut output_tokens) = (None, None);
        r.object(|key, r| {
            match key {
                "provider_name" => provider_name = Some(r.string()?),
                "model_name" => model_name = Some(r.string()?),
                "input_tokens" => input_tokens = Some(r.number()?.parse().ok()?),
                "output_tokens" => output_tokens = Some(r.number()?.parse().ok()?),
                _ => r.skip()?,
            }
            Some(())
        })?;
        Some(Self {
            provider_name: provider_name?,
            model_name: model_name?,
            input_tokens,
            output_tokens,
        })
    }
}

impl<'a> WireOtel<'a> {
    fn read_written(r: &mut Reader<'a>) -> Option<Self> {
        let (mut trace_id, mut span_id, mut parent_span_id, mut end_unix_nano) = (None, None, None, None);
        r.object(|key, r| {
            match key {
                "trace_id" => trace_id = Some(r.plain()?),
                "span_id" => span_id = Some(r.plain()?),
                "parent_span_id" => parent_span_id = Some(r.plain()?),
                "end_unix_nano" => end_unix_nano = Some(r.plain()?),
                _ => r.skip()?,
            }
            Some(())
        })?;
        Some(Self {
            trace_id: trace_id?,
            span_id: span_id?,
            parent_span_id,
            end_unix_nano: end_unix_nano?,
        })
    }
}

#[derive(Deserialize)]
struct WireFacts<'a> {
    #[serde(borrow)]
    step: WireStep<'a>,
    #[serde(borrow, default)]
    provider: Option<WireProvider<'a>>,
    #[serde(borrow, default)]
    otel: Option<WireOtel<'a>>,
}

#[derive(Deserialize)]
struct WireStep<'a> {
    #[serde(default)]
    agent: Option<String>,
    cost_cents: f64,
    duration_ms: f64,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    inference: bool,
    status: StepStatus,
    #[serde(default)]
    step_index: Option<u32>,
    #[serde(skip)]
    _lifetime: std::marker::PhantomData<&'a ()>,
}

#[derive(Deserialize)]
struct WireProvider<'a> {
    #[serde(borrow)]
    provider_name: Cow<'a, str>,
    #[serde(borrow)]
    model_name: Cow<'a, str>,
    #[serde(default)]
    input_tokens: Option<i64>,
    #[serde(default)]
    output_tokens: Option<i64>,
}

#[derive(Deserialize)]
struct WireOtel<'a> {
    trace_id: &'a str,
    span_id: &'a str,
    #[serde(default)]
    parent_span_id: Option<&'a str>,
    end_unix_nano: &'a str,
}

fn unhex_into(text: &[u8], bytes: &mut [u8]) -> Option<()> {
    fn nibble(byte: u8) -> Option<u8> {
        char::from(byte)
            .to_digit(16)
            .filter(|_| !byte.is_ascii_uppercase())
            .and_then(|n| u8::try_from(n).ok())
    }
    if text.len() != bytes.len() * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
    }
    Some(())
}

fn unhex16(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    unhex_into(text.as_bytes(), &mut bytes).map(|()| bytes)
}

fn unhex8(text: &str) -> Option<[u8; 8]> {
    let mut bytes = [0; 8];
    unhex_into(text.as_bytes(), &mut bytes).map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use tlog::LeafIndex;

    use super::super::{Otel, Provider, Step, TraceStep};
    use super::*;
    use crate::canonical::Finite;
    use crate::{Actor, ActorType, Origin, RecordId, SourceDomain};

    fn header() -> Header<'static> {
        let at = Timestamp::parse("2026-11-21T09:30:00.000001Z").unwrap();
        Header {
            id: RecordId::new(at, LeafIndex::new(1), 1).unwrap(),
            tenant_id: "default".into(),
            kind: Kind::TraceStep,
            run: None,
            trace_id: None,
            correlation_id: None,
            actor: Actor {
                kind: ActorType::Agent,
                id: None,
            },
            occurred_at: at,
            recorded_at: at,
            source_domain: SourceDomain::Activity,
            source_component: "otlp".into(),
            origin: Origin::Agent,
            commitment: [0; 32],
        }
    }

    fn span() -> TraceStep {
        TraceStep {
            step: Step {
                step_index: None,
                skill_name: "ask \"it\"".into(),
                skill_id: None,
                params: br#"{"messages":[{"content":"a\nb","role":"user"}],"n":[1,-2.5,true,null]}"#.to_vec(),
                status: StepStatus::Failure,
                outcome_category: "PERMANENT".into(),
                outcome_code: Some("timeout".into()),
                outcome_data: None,
                cost_cents: Finite::new(0.0125).unwrap(),
                duration_ms: Finite::new(12.5).unwrap(),
                retry_count: 1,
                source: "otlp".into(),
                idempotency_key: Some("k\t1".into()),
                replay_behavior: None,
                input_hash: None,
                output_hash: None,
                rng_state_before: None,
                tokens: None,
                inference: true,
                agent: Some("planner".into()),
            },
            activity: None,
            provider: Some(Provider {
                provider_name: "openai".into(),
                model_name: "m\u{e9}".into(),
                input_tokens: Some(12),
                output_tokens: Some(3),
                ..Provider::default()
            }),
            policy: None,
            otel: Some(Otel {
                trace_id: [0xab; 16],
                span_id: [0xcd; 8],
                parent_span_id: Some([1; 8]),
                name: "chat".into(),
                end_unix_nano: 1_795_261_404_787_926_090,
                attributes: b"{}".to_vec(),
                ..Otel::default()
            }),
        }
    }

    #[test]
    fn facts_read_back_are_the_facts_that_were_written() {
        let mut rest = span();
        rest.otel = None;
        rest.provider = None;
        rest.step.step_index = Some(7);
        let mut long = span();
        long.step.agent = Some("a".repeat(10_000));
        if let Some(provider) = &mut long.provider {
            provider.model_name = format!("m{}", "\u{e9}".repeat(5_000));
        }
        let facts = long.facts(Timestamp::MIN);
        assert_eq!(facts.agent, None, "it can be no id");
        let model = facts.model.map(|model| model.len());
        assert_eq!(model, Some(NAME_BYTES_MAX - 1), "no character is cut");
        for step in [span(), rest, long] {
            let mut body = Vec::new();
            step.encode(&[7; 32], &mut body);
            let facts = step.facts(header().occurred_at);
            assert_eq!(StepFacts::read_written(&header(), &body).as_ref(), Some(&facts));
            assert_eq!(StepFacts::read_any(&header(), &body).unwrap(), facts);
        }
    }

    #[test]
    fn changed_bytes_are_read_alike_or_refused_by_the_fast_way() {
        let mut body = Vec::new();
        span().encode(&[7; 32], &mut body);
        for at in 0..body.len() {
            for other in [
                b'"',
                b'\\',
                b'0',
                b',',
                b'}',
                b' ',
                0x80,
                body[at] ^ 1,
                body[at] ^ 32,
            ] {
                let mut changed = body.clone();
                changed[at] = other;
                let (mut short, mut long) = (body.clone(), body.clone());
                short.remove(at);
                long.insert(at, other);
                for bytes in [&changed, &short, &long] {
                    if let Some(fast) = StepFacts::read_written(&header(), bytes) {
                        assert_eq!(StepFacts::read_any(&header(), bytes).ok(), Some(fast));
                    }
                }
            }
        }
    }
}
