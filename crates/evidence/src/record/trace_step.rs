//! `trace.step`: one step of a trace, or one span.
//!
//! The body has the sections that apply: `step` always; `activity` (class B),
//! `provider` (class G) and `policy` (class D) for what the step did; `otel` for
//! what a span carried besides; `content_mac`, by which the same step sent again
//! is known. Writing is on the ingest path: keys stand in canonical order in the
//! code, nothing is sorted at run time.
//!
//! Source: SPEC 3, 4.1–4.3, 6.1; docs/formats.md, "trace.step".

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::step_facts::{projected, projected_agent};
use super::{BodyError, StepFacts};
use crate::Kind;
use crate::canonical::{Finite, Value, Writer};
use crate::commitment::sha256;
use crate::cost::NanoCents;
use crate::header::words;
use crate::time::Timestamp;

words! {
    /// How a step ended.
    StepStatus { Success = "success", Failure = "failure", Retry = "retry", Skipped = "skipped", }
}

impl StepStatus {
    /// The log level of a step, SPEC 4.1.
    pub const fn level(self) -> &'static str {
        match self {
            Self::Failure => "ERROR",
            Self::Retry => "WARN",
            Self::Success | Self::Skipped => "INFO",
        }
    }
}

/// The section `step`.
#[derive(Clone, Debug)]
pub struct Step {
    /// Given by REST callers; spans get theirs when the run is read or sealed.
    pub step_index: Option<u32>,
    /// Tool, else model, agent, span name.
    pub skill_name: String,
    /// The caller's id of the skill.
    pub skill_id: Option<String>,
    /// Canonical JSON of the normalised input, without call ids, times and usage.
    pub params: Vec<u8>,
    /// How it ended.
    pub status: StepStatus,
    /// E.g. `SUCCESS`, `TRANSIENT`, `PERMANENT`.
    pub outcome_category: String,
    /// E.g. an error type.
    pub outcome_code: Option<String>,
    /// Canonical JSON of the normalised output.
    pub outcome_data: Option<Vec<u8>>,
    /// US cents, not negative.
    pub cost_cents: Finite,
    /// Milliseconds.
    pub duration_ms: Finite,
    /// Earlier attempts.
    pub retry_count: u32,
    /// `engine`, `external`, `replay`; `otlp` for spans.
    pub source: String,
    /// The caller's key for exactly-once effects.
    pub idempotency_key: Option<String>,
    /// `execute`, `skip`, `check`.
    pub replay_behavior: Option<String>,
    /// The caller's hash of the input.
    pub input_hash: Option<String>,
    /// The caller's hash of the output.
    pub output_hash: Option<String>,
    /// The caller's random state.
    pub rng_state_before: Option<Value>,
    /// Tokens of the step as the caller counts them.
    pub tokens: Option<Value>,
    /// A model call: its tokens and cost count for the run (SPEC 4.3).
    pub inference: bool,
    /// The agent that acted, by id, else name.
    pub agent: Option<String>,
}

/// The section `activity`, evidence class B (SPEC 6.1).
#[derive(Clone, Debug, Default)]
pub struct Activity {
    /// Same as the step's skill.
    pub skill_id: String,
    /// The model, when there is one.
    pub model_name: Option<String>,
    /// SHA-256 of the UTF-8 text sent.
    pub prompt_fingerprint: Option<[u8; 32]>,
    /// Tokens sent.
    pub prompt_token_length: Option<i64>,
    /// SHA-256 of the UTF-8 text received.
    pub response_fingerprint: Option<[u8; 32]>,
    /// Tokens received.
    pub response_token_length: Option<i64>,
    /// Why the answer ended, e.g. `stop`.
    pub completion_type: Option<String>,
}

/// The section `provider`, evidence class G (SPEC 6.1). Only inference steps have one.
#[derive(Clone, Debug, Default)]
pub struct Provider {
    /// E.g. `openai`; `unknown` when the span names none.
    pub provider_name: String,
    /// The provider's id of the answer.
    pub provider_request_id: Option<String>,
    /// The model asked for, else the model that served.
    pub model_name: String,
    /// The model that served, when the sender says so.
    pub model_version: Option<String>,
    /// All input tokens, cached ones included.
    pub input_tokens: Option<i64>,
    /// All output tokens, reasoning included.
    pub output_tokens: Option<i64>,
    /// Of the input, read from a cache.
    pub cache_read_tokens: i64,
    /// Of the input, written to a cache.
    pub cache_creation_tokens: i64,
    /// Of the output, spent on reasoning.
    pub reasoning_tokens: Option<i64>,
    /// As given, else input + output.
    pub total_tokens: Option<i64>,
    /// Milliseconds from request to answer.
    pub provider_latency_ms: Option<Finite>,
    /// The provider's error.
    pub provider_error_code: Option<String>,
    /// When asked.
    pub requested_at: Option<Timestamp>,
    /// When answered.
    pub responded_at: Option<Timestamp>,
}

/// The section `policy`, evidence class D (SPEC 6.1), of guardrail and policy spans.
#[derive(Clone, Debug, Default)]
pub struct PolicyDecision {
    /// E.g. `budget`, `capability`, `guardrail`.
    pub policy_type: String,
    /// The rule that decided.
    pub policy_rule_id: Option<String>,
    /// The rule's version.
    pub policy_version: Option<String>,
    /// `GRANTED`, `DENIED`, `PENDING_APPROVAL`.
    pub decision: String,
    /// Why.
    pub decision_reason: Option<String>,
}

/// The section `otel`: what a span carried that the other sections do not hold.
#[derive(Clone, Debug, Default)]
pub struct Otel {
    /// W3C trace id.
    pub trace_id: [u8; 16],
    /// Span id.
    pub span_id: [u8; 8],
    /// Parent span id; none for a root.
    pub parent_span_id: Option<[u8; 8]>,
    /// The span's name.
    pub name: String,
    /// The span kind's number, unknown values kept.
    pub kind: i32,
    /// Nanoseconds since 1970, as sent.
    pub start_unix_nano: u64,
    /// Nanoseconds since 1970, as sent; 0 when the span has no end.
    pub end_unix_nano: u64,
    /// The status code's number, unknown values kept.
    pub status_code: i32,
    /// The status message.
    pub status_message: String,
    /// Canonical JSON object of the attributes that no mapping took.
    pub attributes: Vec<u8>,
    /// Canonical JSON array of events that no mapping took; none when empty.
    pub events: Option<Vec<u8>>,
    /// Canonical JSON array of links; none when empty.
    pub links: Option<Vec<u8>>,
    /// Name and version of the instrumentation scope.
    pub scope: (String, String),
    /// Dropped by the sender: attributes, events, links.
    pub dropped: (u32, u32, u32),
    /// W3C trace state.
    pub trace_state: String,
    /// Span flags.
    pub flags: u32,
    /// Which mapping was applied, e.g. `otel-genai/1.41`.
    pub mapping: String,
}

/// The body of a `trace.step`.
#[derive(Clone, Debug)]
pub struct TraceStep {
    /// Always.
    pub step: Step,
    /// Class B.
    pub activity: Option<Activity>,
    /// Class G.
    pub provider: Option<Provider>,
    /// Class D.
    pub policy: Option<PolicyDecision>,
    /// Of a span.
    pub otel: Option<Otel>,
}

impl TraceStep {
    /// Appends the canonical body. `content_mac` is [`crate::content_mac`] under the record's salt.
    pub fn encode(&self, content_mac: &[u8; 32], out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        w.open_object();
        if let Some(activity) = &self.activity {
            w.key("activity");
            activity.encode(&mut w);
        }
        w.key("content_mac");
        w.hex(content_mac);
        if let Some(otel) = &self.otel {
            w.key("otel");
            otel.encode(&mut w);
        }
        if let Some(policy) = &self.policy {
            w.key("policy");
            policy.encode(&mut w);
        }
        if let Some(provider) = &self.provider {
            w.key("provider");
            provider.encode(&mut w);
        }
        w.key("step");
        self.step.encode(&mut w);
        w.close_object();
    }

    /// The facts of this step, the same that [`StepFacts::read`] finds in the stored bytes.
    pub fn facts(&self, occurred_at: Timestamp) -> StepFacts {
        let provider = self.provider.as_ref();
        let counts = self.step.inference;
        StepFacts {
            step_index: self.step.step_index,
            span: self.otel.as_ref().map(|otel| (otel.trace_id, otel.span_id)),
            root: self
                .otel
                .as_ref()
                .is_some_and(|otel| otel.parent_span_id.is_none()),
            status: self.step.status,
            started_at: occurred_at,
            ended_at: self.otel.as_ref().and_then(|otel| end_of(otel.end_unix_nano)),
            duration_micros: duration_micros(self.step.duration_ms.get()),
            cost: NanoCents::from_cents(self.step.cost_cents.get()).unwrap_or_default(),
            inference: counts,
            provider: provider.map(|p| projected(&p.provider_name)),
            model: provider.map(|p| projected(&p.model_name)),
            input_tokens: provider.filter(|_| counts).and_then(|p| p.input_tokens),
            output_tokens: provider.filter(|_| counts).and_then(|p| p.output_tokens),
            agent: projected_agent(self.step.agent.clone()),
            idempotency_key: self.step.idempotency_key.clone().filter(|key| !key.is_empty()),
        }
    }
}

impl Step {
    fn encode(&self, w: &mut Writer<'_>) {
        w.open_object();
        opt_str(w, "agent", self.agent.as_deref());
        w.key("cost_cents");
        w.f64(self.cost_cents);
        w.key("duration_ms");
        w.f64(self.duration_ms);
        opt_str(w, "idempotency_key", self.idempotency_key.as_deref());
        if self.inference {
            w.key("inference");
            w.bool(true);
        }
        opt_str(w, "input_hash", self.input_hash.as_deref());
        w.key("outcome_category");
        w.str(&self.outcome_category);
        opt_str(w, "outcome_code", self.outcome_code.as_deref());
        if let Some(data) = &self.outcome_data {
            w.key("outcome_data");
            w.raw(data);
        }
        opt_str(w, "output_hash", self.output_hash.as_deref());
        w.key("params");
        w.raw(&self.params);
        opt_str(w, "replay_behavior", self.replay_behavior.as_deref());
        w.key("retry_count");
        w.u64(u64::from(self.retry_count));
        if let Some(state) = &self.rng_state_before {
            w.key("rng_state_before");
            w.value(state);
        }
        opt_str(w, "skill_id", self.skill_id.as_deref());
        w.key("skill_name");
        w.str(&self.skill_name);
        w.key("source");
        w.str(&self.source);
        w.key("status");
        w.str(self.status.as_str());
        if let Some(index) = self.step_index {
            w.key("step_index");
            w.u64(u64::from(index));
        }
        if let Some(tokens) = &self.tokens {
            w.key("tokens");
            w.value(tokens);
        }
        w.close_object();
    }
}

impl Activity {
    fn encode(&self, w: &mut Writer<'_>) {
        w.open_object();
        opt_str(w, "completion_type", self.completion_type.as_deref());
        // Made here over the text after redaction, which need not be the text as it was sent.
        w.key("fingerprint_of");
        w.str("redacted");
        opt_str(w, "model_name", self.model_name.as_deref());
        opt_hex(w, "prompt_fingerprint", self.prompt_fingerprint.as_ref());
        opt_i64(w, "prompt_token_length", self.prompt_token_length);
        opt_hex(w, "response_fingerprint", self.response_fingerprint.as_ref());
        opt_i64(w, "response_token_length", self.response_token_length);
        w.key("skill_id");
        w.str(&self.skill_id);
        w.close_object();
    }
}

impl Provider {
    fn encode(&self, w: &mut Writer<'_>) {
        w.open_object();
        w.key("cache_creation_tokens");
        w.i64(self.cache_creation_tokens);
        w.key("cache_read_tokens");
        w.i64(self.cache_read_tokens);
        opt_i64(w, "input_tokens", self.input_tokens);
        w.key("model_name");
        w.str(&self.model_name);
        opt_str(w, "model_version", self.model_version.as_deref());
        opt_i64(w, "output_tokens", self.output_tokens);
        opt_str(w, "provider_error_code", self.provider_error_code.as_deref());
        if let Some(latency) = self.provider_latency_ms {
            w.key("provider_latency_ms");
            w.f64(latency);
        }
        w.key("provider_name");
        w.str(&self.provider_name);
        opt_str(w, "provider_request_id", self.provider_request_id.as_deref());
        opt_i64(w, "reasoning_tokens", self.reasoning_tokens);
        opt_time(w, "requested_at", self.requested_at);
        opt_time(w, "responded_at", self.responded_at);
        opt_i64(w, "total_tokens", self.total_tokens);
        w.close_object();
    }
}

impl PolicyDecision {
    fn encode(&self, w: &mut Writer<'_>) {
        w.open_object();
        w.key("decision");
        w.str(&self.decision);
        opt_str(w, "decision_reason", self.decision_reason.as_deref());
        opt_str(w, "policy_rule_id", self.policy_rule_id.as_deref());
        w.key("policy_type");
        w.str(&self.policy_type);
        opt_str(w, "policy_version", self.policy_version.as_deref());
        w.close_object();
    }
}

impl Otel {
    fn encode(&self, w: &mut Writer<'_>) {
        w.open_object();
        w.key("attributes");
        w.raw(&self.attributes);
        for (key, count) in [
            ("dropped_attributes_count", self.dropped.0),
            ("dropped_events_count", self.dropped.1),
            ("dropped_links_count", self.dropped.2),
        ] {
            if count != 0 {
                w.key(key);
                w.u64(u64::from(count));
            }
        }
        // Nanoseconds pass 2^53, so they stand as decimal strings, as OTLP/JSON has them.
        w.key("end_unix_nano");
        w.str(itoa::Buffer::new().format(self.end_unix_nano));
        if let Some(events) = &self.events {
            w.key("events");
            w.raw(events);
        }
        if self.flags != 0 {
            w.key("flags");
            w.u64(u64::from(self.flags));
        }
        w.key("kind");
        w.i64(i64::from(self.kind));
        if let Some(links) = &self.links {
            w.key("links");
            w.raw(links);
        }
        w.key("mapping");
        w.str(&self.mapping);
        w.key("name");
        w.str(&self.name);
        if let Some(parent) = self.parent_span_id {
            w.key("parent_span_id");
            w.hex(&parent);
        }
        if !(self.scope.0.is_empty() && self.scope.1.is_empty()) {
            w.key("scope");
            w.open_object();
            w.key("name");
            w.str(&self.scope.0);
            w.key("version");
            w.str(&self.scope.1);
            w.close_object();
        }
        w.key("span_id");
        w.hex(&self.span_id);
        w.key("start_unix_nano");
        w.str(itoa::Buffer::new().format(self.start_unix_nano));
        w.key("status_code");
        w.i64(i64::from(self.status_code));
        if !self.status_message.is_empty() {
            w.key("status_message");
            w.str(&self.status_message);
        }
        w.key("trace_id");
        w.hex(&self.trace_id);
        if !self.trace_state.is_empty() {
            w.key("trace_state");
            w.str(&self.trace_state);
        }
        w.close_object();
    }
}

/// What an answer shows of a stored step; JSON parts are slices of the stored bytes, so they are canonical.
#[derive(Clone, Debug, Deserialize)]
pub struct StepView<'a> {
    /// The section `step`.
    #[serde(borrow)]
    pub step: StepSection<'a>,
    /// The section `activity`.
    #[serde(borrow, default)]
    pub activity: Option<&'a RawValue>,
    /// The section `provider`.
    #[serde(borrow, default)]
    pub provider: Option<&'a RawValue>,
    /// The section `policy`.
    #[serde(borrow, default)]
    pub policy: Option<&'a RawValue>,
    /// The section `otel`.
    #[serde(borrow, default)]
    pub otel: Option<&'a RawValue>,
}

/// The section `step` as stored, see [`Step`].
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // the fields of `Step`
pub struct StepSection<'a> {
    #[serde(default)]
    pub step_index: Option<u32>,
    #[serde(borrow)]
    pub skill_name: Cow<'a, str>,
    #[serde(default)]
    pub skill_id: Option<String>,
    #[serde(borrow)]
    pub params: &'a RawValue,
    pub status: StepStatus,
    #[serde(borrow)]
    pub outcome_category: Cow<'a, str>,
    #[serde(default)]
    pub outcome_code: Option<String>,
    #[serde(borrow, default)]
    pub outcome_data: Option<&'a RawValue>,
    pub cost_cents: f64,
    pub duration_ms: f64,
    pub retry_count: u32,
    #[serde(borrow)]
    pub source: Cow<'a, str>,
    #[serde(default)]
    pub idempotency_key: Option<String>,
    #[serde(default)]
    pub replay_behavior: Option<String>,
    #[serde(default)]
    pub input_hash: Option<String>,
    #[serde(default)]
    pub output_hash: Option<String>,
    #[serde(borrow, default)]
    pub rng_state_before: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub tokens: Option<&'a RawValue>,
}

impl<'a> StepView<'a> {
    /// Reads a stored body.
    pub fn read(body: &'a [u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::TraceStep, error))
    }
}

/// The step hash of SPEC 4.2: SHA-256 of the JCS of the seven fields that say what a step did.
///
/// `params` and `outcome_data` are canonical JSON. An absent outcome_code or outcome_data counts as `null`.
pub fn step_hash(index: u32, step: &StepSection<'_>) -> [u8; 32] {
    let mut out = Vec::with_capacity(256 + step.params.get().len());
    let mut w = Writer::new(&mut out);
    w.open_object();
    w.key("outcome_category");
    w.str(&step.outcome_category);
    w.key("outcome_code");
    match &step.outcome_code {
        Some(code) => w.str(code),
        None => w.null(),
    };
    w.key("outcome_data");
    match step.outcome_data {
        Some(data) => w.raw(data.get().as_bytes()),
        None => w.null(),
    };
    w.key("params");
    w.raw(step.params.get().as_bytes());
    w.key("skill_name");
    w.str(&step.skill_name);
    w.key("status");
    w.str(step.status.as_str());
    w.key("step_index");
    w.u64(u64::from(index));
    w.close_object();
    sha256(&out)
}

/// The root hash of SPEC 4.2 over the step hashes in order.
pub fn root_hash(plan_hash: &str, seed: i64, steps: &[[u8; 32]]) -> [u8; 32] {
    let mut out = Vec::with_capacity(128 + steps.len() * 67);
    let mut w = Writer::new(&mut out);
    w.open_object();
    w.key("plan_hash");
    w.str(plan_hash);
    w.key("seed");
    w.i64(seed);
    w.key("steps");
    w.open_array();
    for step in steps {
        w.hex(step);
    }
    w.close_array();
    w.close_object();
    sha256(&out)
}

fn opt_str(w: &mut Writer<'_>, key: &'static str, value: Option<&str>) {
    if let Some(value) = value {
        w.key(key);
        w.str(value);
    }
}

fn opt_i64(w: &mut Writer<'_>, key: &'static str, value: Option<i64>) {
    if let Some(value) = value {
        w.key(key);
        w.i64(value);
    }
}

fn opt_hex(w: &mut Writer<'_>, key: &'static str, value: Option<&[u8; 32]>) {
    if let Some(value) = value {
        w.key(key);
        w.hex(value);
    }
}

fn opt_time(w: &mut Writer<'_>, key: &'static str, value: Option<Timestamp>) {
    if let Some(value) = value {
        w.key(key);
        w.time(value);
    }
}

pub(super) fn end_of(end_unix_nano: u64) -> Option<Timestamp> {
    (end_unix_nano != 0).then(|| Timestamp::from_unix_nanos(end_unix_nano).0)
}

/// Whole microseconds of a duration in milliseconds; what does not fit is the nearest bound.
#[allow(clippy::cast_possible_truncation)] // `as` saturates, which is what is wanted
pub(super) fn duration_micros(duration_ms: f64) -> i64 {
    (duration_ms * 1_000.0).round() as i64
}
