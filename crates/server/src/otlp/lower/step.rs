//! One span as the body of a `trace.step`.
//!
//! An attribute leaves `otel.attributes` only when another part of the body says the same; so what no
//! mapping understands, what it understands in part, and what it changed on the way is kept as sent.

use evidence::canonical::{Finite, Writer};
use evidence::record::{Activity, Otel, Provider, Step, StepStatus, TraceStep};
use evidence::{Timestamp, sha256};

use super::super::ordered::SCOPE;
use super::super::span::SpanRef;
use super::names::Slot;
use super::role::{Role, mapping, role};
use super::shapes::Shape;
use super::usage::{Tokens, cost_cents, tokens};
use super::view::{Used, View, find};
use super::{io, messages, policy, provider, sources, trail};

/// Status code of a span that failed.
const STATUS_ERROR: i32 = 2;

/// Memory that is used for one span after another.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    used: Used,
    attributes: Vec<u8>,
    params: Vec<u8>,
}

/// Name, version and the rest of the scope of a span.
#[derive(Debug, Default)]
pub(crate) struct ScopeText {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Canonical JSON of its attributes and of their dropped count, if there is any.
    pub(crate) rest: Option<Vec<u8>>,
    /// Attributes that its sender dropped.
    pub(crate) dropped: u32,
}

/// What went in and out of a step.
#[derive(Default)]
struct Exchange {
    params: Option<Vec<u8>>,
    outcome: Option<Vec<u8>>,
    prompt: Option<[u8; 32]>,
    response: Option<[u8; 32]>,
    finish: Option<String>,
}

impl Scratch {
    /// Takes back the memory of a step that was encoded.
    pub(crate) fn reclaim(&mut self, step: TraceStep) {
        self.params = step.step.params;
        self.params.clear();
        if let Some(otel) = step.otel {
            self.attributes = otel.attributes;
            self.attributes.clear();
        }
    }

    /// The step of a span whose attributes were looked up.
    pub(crate) fn step(&mut self, span: &SpanRef<'_>, scope: &ScopeText, shape: &mut Shape) -> TraceStep {
        let Shape { ordered, found, .. } = shape;
        let used = &mut self.used;
        used.clear();
        let view = View {
            attrs: &span.attributes,
            events: &span.events,
            found,
        };
        let role = role(&view, span.name);
        let failed = span.status_code == STATUS_ERROR;
        let start = Timestamp::from_unix_nanos(span.start).0;
        let ended = (span.end != 0).then(|| Timestamp::from_unix_nanos(span.end).0);
        let duration_ms = duration_ms(span.start, span.end);

        let exchange = exchange(&view, role, used, &mut self.params);
        let model = model(&view);
        let agent_name = agent_name(&view, role, used);
        let agent = match view.text_at(Slot::AgentId) {
            Some((id, place)) => {
                used.attributes.push(place);
                Some(id)
            }
            None => agent_name,
        };
        let skill_name = skill_name(
            &view,
            role,
            model.map(|(name, _)| name),
            agent_name,
            span.name,
            used,
        )
        .to_owned();
        if agent_name.is_some() && agent != agent_name && skill_name != agent_name.unwrap_or_default() {
            // The agent's name stands nowhere else.
            used.attributes
                .retain(|&place| Some(place) != view.found.place(Slot::AgentName));
        }
        let outcome_code = outcome_code(&view, used);
        let cost_cents = cost_cents(&view, &mut used.attributes);

        let (mut activity, mut provider) = (None, None);
        if role.is_inference() || role == Role::Tool {
            activity = Some(Activity {
                skill_id: skill_name.clone(),
                prompt_fingerprint: exchange.prompt,
                response_fingerprint: exchange.response,
                ..Activity::default()
            });
        }
        if role.is_inference() {
            let tokens = tokens(&view, &mut used.attributes);
            let finish = finish_reason(&view, used).or(exchange.finish);
            let error = outcome_code.clone().filter(|_| failed);
            let section = provider_section(&view, model, &tokens, used);
            if let Some(activity) = &mut activity {
                activity.model_name = Some(section.model_name.clone());
                activity.prompt_token_length = tokens.input;
                activity.response_token_length = tokens.output;
                activity.completion_type = finish;
            }
            provider = Some(Provider {
                provider_latency_ms: ended.map(|_| duration_ms),
                provider_error_code: error,
                requested_at: Some(start),
                responded_at: ended,
                ..section
            });
        }

        let mapping = mapping(&view).to_owned();
        let policy = policy::decision(&view, role, span.name, failed);
        for &place in &used.attributes {
            ordered.take(place);
        }
        let mut attributes = std::mem::take(&mut self.attributes);
        let rest = scope.rest.as_deref().map(|rest| (SCOPE, rest));
        ordered.write(&span.attributes, rest, &mut Writer::new(&mut attributes));
        TraceStep {
            step: Step {
                step_index: None,
                skill_name,
                skill_id: None,
                params: exchange.params.unwrap_or_else(|| b"{}".to_vec()),
                status: if failed {
                    StepStatus::Failure
                } else {
                    StepStatus::Success
                },
                outcome_category: if failed { "FAILURE" } else { "SUCCESS" }.to_owned(),
                outcome_code,
                outcome_data: exchange.outcome,
                cost_cents,
                duration_ms,
                retry_count: 0,
                source: "otlp".to_owned(),
                idempotency_key: None,
                replay_behavior: None,
                input_hash: None,
                output_hash: None,
                rng_state_before: None,
                tokens: None,
                inference: role.is_inference(),
                agent: agent.map(str::to_owned),
            },
            activity,
            provider,
            policy,
            otel: Some(Otel {
                trace_id: span.trace_id,
                span_id: span.span_id,
                parent_span_id: span.parent_span_id,
                name: span.name.to_owned(),
                kind: span.kind,
                start_unix_nano: span.start,
                end_unix_nano: span.end,
                status_code: span.status_code,
                status_message: span.status_message.to_owned(),
                attributes,
                events: trail::events(&span.events, &used.events),
                links: trail::links(&span.links),
                scope: (scope.name.clone(), scope.version.clone()),
                dropped: span.dropped,
                trace_state: span.trace_state.to_owned(),
                flags: span.flags,
                mapping,
            }),
        }
    }
}

/// Milliseconds from start to end; 0 when the span has not ended, or ends before it starts.
#[expect(
    clippy::cast_precision_loss,
    reason = "durations up to 104 days are exact, longer ones to a microsecond"
)]
fn duration_ms(start: u64, end: u64) -> Finite {
    Finite::new(end.saturating_sub(start) as f64 / 1e6).unwrap_or_default()
}

/// Params and outcome of a step, with their fingerprints.
///
/// Agents, workflows and other spans have none: their input and output repeat those of the spans below them,
/// and only some vocabularies carry them.
fn exchange(view: &View<'_, '_>, role: Role, used: &mut Used, params: &mut Vec<u8>) -> Exchange {
    let of_json = |json: Option<&Vec<u8>>| json.map(|json| sha256(json));
    match role {
        Role::Chat => chat(view, used, params),
        Role::Embeddings => {
            let params = io::embedded(view, used);
            Exchange {
                prompt: of_json(params.as_ref()),
                params,
                ..Exchange::default()
            }
        }
        Role::Tool => {
            let (params, outcome) = (io::tool_input(view, used), io::tool_output(view, used));
            Exchange {
                prompt: of_json(params.as_ref()),
                response: of_json(outcome.as_ref()),
                params,
                outcome,
                finish: None,
            }
        }
        Role::Retrieval => Exchange {
            params: io::query(view, used),
            outcome: io::documents(view, used),
            ..Exchange::default()
        },
        Role::Agent | Role::Workflow | Role::Policy | Role::Other => Exchange::default(),
    }
}

fn chat(view: &View<'_, '_>, used: &mut Used, memory: &mut Vec<u8>) -> Exchange {
    let (params, input) = spoken(view, used, sources::input, std::mem::take(memory));
    let (outcome, output) = spoken(view, used, sources::output, Vec::with_capacity(512));
    Exchange {
        params,
        outcome,
        prompt: input.fingerprint,
        response: output.fingerprint,
        finish: output.finish,
    }
}

/// The messages that `source` finds, written. When they do not say all that was sent, or when there are none,
/// nothing counts as used.
fn spoken(
    view: &View<'_, '_>,
    used: &mut Used,
    source: fn(&View<'_, '_>, &mut Used) -> sources::Messages,
    mut json: Vec<u8>,
) -> (Option<Vec<u8>>, messages::Said) {
    let (attributes, events) = (used.attributes.len(), used.events.len());
    used.lossy = false;
    let found = source(view, used);
    let mut said = messages::Said::default();
    if !found.is_empty() {
        said = messages::write(&found, &mut json);
        said.fingerprint.get_or_insert_with(|| sha256(&json));
    }
    if found.is_empty() || said.lossy || used.lossy {
        used.attributes.truncate(attributes);
        used.events.truncate(events);
    }
    ((!found.is_empty()).then_some(json), said)
}

/// The model asked for and where it says so. `llm.model_name` is the one served if that is known, else the
/// one asked for: it names the model, and says nothing about which side it is (trap 7).
fn model<'a>(view: &View<'_, 'a>) -> Option<(&'a str, Slot)> {
    [Slot::RequestModel, Slot::EitherModel, Slot::ResponseModel]
        .into_iter()
        .find_map(|slot| view.text(slot).map(|name| (name, slot)))
}

/// The agent's name. `traceloop.entity.name` is one only on agent spans (trap 6).
fn agent_name<'a>(view: &View<'_, 'a>, role: Role, used: &mut Used) -> Option<&'a str> {
    let entity = || view.text_at(Slot::EntityName).filter(|_| role == Role::Agent);
    let (name, place) = view.text_at(Slot::AgentName).or_else(entity)?;
    used.attributes.push(place);
    Some(name)
}

/// Tool, else (for inference) the model asked for, else the agent, else the span's name.
fn skill_name<'n>(
    view: &View<'_, 'n>,
    role: Role,
    model: Option<&'n str>,
    agent: Option<&'n str>,
    span: &'n str,
    used: &mut Used,
) -> &'n str {
    let name = match role {
        Role::Chat | Role::Embeddings => model,
        Role::Agent => None,
        _ => {
            let entity = || view.text_at(Slot::EntityName).filter(|_| role == Role::Tool);
            let tool = view.text_at(Slot::ToolName).or_else(entity);
            used.attributes.extend(tool.map(|(_, place)| place));
            tool.map(|(name, _)| name)
        }
    };
    name.or(agent).unwrap_or(span)
}

/// `error.type`, else the type of the last exception on record. Never a free text.
fn outcome_code(view: &View<'_, '_>, used: &mut Used) -> Option<String> {
    if let Some((code, place)) = view.text_at(Slot::ErrorType) {
        used.attributes.push(place);
        return Some(code.to_owned());
    }
    let mut exceptions = view
        .events
        .iter()
        .rev()
        .filter(|event| event.name == "exception" || event.name == "gen_ai.client.operation.exception");
    exceptions
        .find_map(|event| find(&event.attributes, "exception.type")?.text())
        .map(str::to_owned)
}

/// Why the answer ended: the first reason given. A list of several stays as sent too.
fn finish_reason(view: &View<'_, '_>, used: &mut Used) -> Option<String> {
    let reasons = super::view::parsed(view.value(Slot::FinishReasons)?);
    let (first, one) = match reasons.as_array() {
        Some(list) => (list.first()?, list.len() == 1),
        None => (&reasons, true),
    };
    let first = first.as_str().filter(|reason| !reason.is_empty())?;
    if one {
        used.attributes.extend(view.found.place(Slot::FinishReasons));
    }
    Some(first.to_owned())
}

fn provider_section(
    view: &View<'_, '_>,
    model: Option<(&str, Slot)>,
    tokens: &Tokens,
    used: &mut Used,
) -> Provider {
    let mut section = Provider {
        provider_name: "unknown".to_owned(),
        model_name: "unknown".to_owned(),
        input_tokens: tokens.input,
        output_tokens: tokens.output,
        cache_read_tokens: tokens.cache_read.unwrap_or(0),
        cache_creation_tokens: tokens.cache_write.unwrap_or(0),
        reasoning_tokens: tokens.reasoning,
        total_tokens: tokens.total,
        ..Provider::default()
    };
    if let Some((sent, place)) = view.text_at(Slot::Provider) {
        let name = provider::normalised(sent);
        if name == sent {
            used.attributes.push(place);
        }
        name.clone_into(&mut section.provider_name);
    }
    if let Some((name, slot)) = model {
        name.clone_into(&mut section.model_name);
        // The name without a side stays as sent, so that nobody takes it for one.
        if slot != Slot::EitherModel {
            used.attributes.extend(view.found.place(slot));
        }
    }
    if let Some((name, place)) = view.text_at(Slot::ResponseModel) {
        section.model_version = Some(name.to_owned());
        used.attributes.push(place);
    }
    if let Some((id, place)) = view.text_at(Slot::ResponseId) {
        section.provider_request_id = Some(id.to_owned());
        used.attributes.push(place);
    }
    section
}
