//! The spans of a request: one `trace.step` each, and one `evidence.environment` for each trace and resource.
//!
//! A trace is a run. Its run is named by the resource, else by the first span that names one, else it is the
//! trace itself. That holds for a trace not seen before; which run a known trace has, the ledger knows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use evidence::record::{CaptureFailure, Environment, EvidenceClass, Facts, RunStarted};
use evidence::redact::{Redactor, is_redacted};
use evidence::{ActorType, Identity, Kind, Origin, SourceDomain, Timestamp, content_mac, sha256};
use ledger::{Bind, Draft, Salts, TraceBind};

use super::super::decode::{Group, TraceRequest};
use super::super::redact;
use super::super::span::{self, Refusal, SpanRef};
use super::super::wire::Reader;
use super::names::{Found, Slot};
use super::shapes::{Shape, Shapes};
use super::step::{ScopeText, Scratch};
use super::view::View;
use super::{
    Lowered, RefusedSpans, Sealer, attributes_json, hex, identifier, resource, run_name, scope, scope_rest,
};

/// Stands in the header of every record made from OTLP.
pub(super) const SOURCE_COMPONENT: &str = "otlp";

/// A resource, read once for all its spans.
struct Resource {
    json: Vec<u8>,
    hash: [u8; 32],
    run_id: Option<Arc<str>>,
    /// It names a run by what is no identifier.
    is_misnamed: bool,
    environment: Option<String>,
    sdk_version: Option<String>,
    dropped: u32,
}

/// Lowers the spans of a request. No body holds when it was received, which is `recorded_at` in the header.
pub fn lower_traces(request: &TraceRequest<'_>, _received_at: Timestamp, salts: &mut Salts) -> Lowered {
    let mut rejected = request.rejected();
    let mut sealer = Sealer::new(salts, request.bodies_bytes_max());
    let mut scratch = Scratch::default();
    let mut shapes = Shapes::default();
    let mut span = SpanRef::default();
    let mut traces = Traces::default();
    let mut environments = Environments::default();
    // Each with the place of its trace.
    let mut steps: Vec<(usize, Draft)> = Vec::new();
    let mut resource: Option<(usize, Result<Resource, Refusal>)> = None;
    let mut failures = Failures::default();
    let mut refused = request.refused();

    for group in request.groups() {
        let count = || u64::try_from(group.items().count()).unwrap_or(u64::MAX);
        if group.items().next().is_none() {
            continue;
        }
        if resource
            .as_ref()
            .is_none_or(|(index, _)| *index != group.resource_index)
        {
            resource = Some((
                group.resource_index,
                read_resource(sealer.rules(), group.resource),
            ));
        }
        let resource = match &resource {
            Some((_, Ok(resource))) => resource,
            Some((index, Err(reason))) => {
                group
                    .items()
                    .for_each(|bytes| note_refused(&mut refused, bytes, reason));
                rejected.add(count(), || {
                    format!("the spans of resource {index}, which is unreadable: {reason}")
                });
                continue;
            }
            None => continue,
        };
        let scope = match read_scope(sealer.rules(), &group) {
            Ok(scope) => scope,
            Err(reason) => {
                let index = group.resource_index;
                group
                    .items()
                    .for_each(|bytes| note_refused(&mut refused, bytes, &reason));
                rejected.add(count(), || {
                    format!("the spans of an unreadable scope of resource {index}: {reason}")
                });
                continue;
            }
        };
        for (place, bytes) in group.placed() {
            let mut take = |span: &SpanRef<'_>, found: &Found, draft: Draft, sealer: &mut Sealer<'_>| {
                let trace = traces.place(&span.trace_id);
                environments.see(trace, resource, draft.occurred_at, sealer)?;
                failures.see(trace, span, &scope, resource, sealer)?;
                traces.see(trace, span, found, resource, &draft);
                steps.push((trace, draft));
                Ok(())
            };
            let lowered = span.read(bytes).and_then(|()| {
                if !span.text_in_bytes {
                    let content = span.content(bytes)?;
                    let shape = shapes.look_up(&span.attributes);
                    let lowered =
                        lower_span(&span, &scope, content, shape, &mut scratch, &mut sealer, false)?;
                    if let Some(draft) = lowered {
                        return take(&span, &shape.found, draft, &mut sealer);
                    }
                }
                // There may be secrets in it: they are taken out of what was sent, and of what it becomes.
                let bytes = redact::span(sealer.rules(), bytes)?;
                let mut span = SpanRef::default();
                span.read(&bytes)?;
                let content = span.content(&bytes)?;
                let shape = shapes.look_up(&span.attributes);
                let lowered = lower_span(&span, &scope, content, shape, &mut scratch, &mut sealer, true)?;
                lowered.map_or(Ok(()), |draft| take(&span, &shape.found, draft, &mut sealer))
            });
            if let Err(reason) = lowered {
                note_refused(&mut refused, bytes, &reason);
                rejected.add(1, || {
                    format!("span {place} of resource {}: {reason}", group.resource_index)
                });
            }
        }
    }

    let is_misnamed = |trace: &&Trace| trace.is_misnamed && trace.run_id.is_none();
    let misnamed = traces.list.iter().filter(is_misnamed).count();
    let misnamed = u64::try_from(misnamed).unwrap_or(u64::MAX);
    rejected.warn("it names no run", misnamed);
    let binds = traces.binds();
    let mut drafts = Vec::with_capacity(environments.drafts.len() + steps.len() + failures.drafts.len());
    // Failures last: a trace's steps bind it to its run.
    let all = environments
        .drafts
        .into_iter()
        .chain(steps)
        .chain(failures.drafts);
    for (trace, mut draft) in all {
        let Some((hex, bind)) = binds.get(trace) else {
            continue;
        };
        draft.trace_id = Some(Arc::clone(hex));
        draft.correlation_id.clone_from(&bind.correlation_id);
        draft.bind = Bind::Trace(Arc::clone(bind));
        drafts.push(draft);
    }
    Lowered {
        drafts,
        rejected,
        refused,
        bodies_bytes_left: sealer.bytes_left,
    }
}

/// One span as a draft; its trace's part is put in when all spans were seen. None when there may be secrets in
/// it, unless it was `redacted`.
fn lower_span(
    span: &SpanRef<'_>,
    scope: &ScopeText,
    content: [u8; 32],
    shape: &mut Shape,
    scratch: &mut Scratch,
    sealer: &mut Sealer<'_>,
    redacted: bool,
) -> Result<Option<Draft>, Refusal> {
    let step = scratch.step(span, scope, shape);
    let encode = |salt: &evidence::Salt, out: &mut Vec<u8>| step.encode(&content_mac(salt, &content), out);
    let sealed = if redacted {
        Some(sealer.seal(Kind::TraceStep, encode)?)
    } else {
        sealer.seal_clean(Kind::TraceStep, encode)?
    };
    let occurred_at = Timestamp::from_unix_nanos(span.start).0;
    let facts = step.facts(occurred_at);
    // The whole name: cut as it is projected it would be another's.
    let agent = step.step.agent.as_deref().and_then(identifier);
    scratch.reclaim(step);
    let Some(body) = sealed else { return Ok(None) };
    Ok(Some(Draft {
        kind: Kind::TraceStep,
        bind: Bind::None,
        identity: Some(Identity::span(&span.trace_id, &span.span_id)),
        content: Some(content),
        trace_id: None,
        correlation_id: None,
        actor: (ActorType::Agent, agent),
        occurred_at,
        source_domain: SourceDomain::Activity,
        source_component: SOURCE_COMPONENT,
        origin: Origin::Agent,
        body,
        facts: Facts::Step(facts),
        expect_run_seq: None,
    }))
}

/// The environments of a request's traces: one for each trace and resource that has a span.
#[derive(Default)]
struct Environments {
    drafts: Vec<(usize, Draft)>,
    places: HashMap<(usize, [u8; 32]), usize>,
    /// The last one seen: most spans follow one of their own trace.
    last: Option<((usize, [u8; 32]), usize)>,
}

impl Environments {
    fn see(
        &mut self,
        trace: usize,
        resource: &Resource,
        at: Timestamp,
        sealer: &mut Sealer<'_>,
    ) -> Result<(), Refusal> {
        let key = (trace, resource.hash);
        let known = self.last.filter(|(last, _)| *last == key).map(|(_, place)| place);
        let place = if let Some(place) = known.or_else(|| self.places.get(&key).copied()) {
            place
        } else {
            self.drafts.push((trace, environment(resource, at, sealer)?));
            self.places.insert(key, self.drafts.len() - 1);
            self.drafts.len() - 1
        };
        self.last = Some((key, place));
        if let Some((_, draft)) = self.drafts.get_mut(place) {
            draft.occurred_at = draft.occurred_at.min(at);
        }
        Ok(())
    }
}

/// The environment evidence of a trace. What it says does not depend on when: the same resource in a later
/// request is the same again.
fn environment(resource: &Resource, at: Timestamp, sealer: &mut Sealer<'_>) -> Result<Draft, Refusal> {
    let environment = Environment {
        resource: resource.json.clone(),
        environment: resource.environment.clone(),
        sdk_version: resource.sdk_version.clone(),
        dropped_attributes_count: resource.dropped,
    };
    let body = sealer.seal(Kind::EvidenceEnvironment, |_, out| environment.encode(out))?;
    Ok(Draft {
        kind: Kind::EvidenceEnvironment,
        bind: Bind::None,
        identity: Some(environment.identity()),
        content: Some(resource.hash),
        trace_id: None,
        correlation_id: None,
        actor: (ActorType::Agent, None),
        occurred_at: at,
        source_domain: SourceDomain::Activity,
        source_component: SOURCE_COMPONENT,
        origin: Origin::Agent,
        body,
        facts: Facts::Other,
        expect_run_seq: None,
    })
}

/// Notes what of a refused span can be read: its ids.
fn note_refused(refused: &mut RefusedSpans, bytes: &[u8], reason: &Refusal) {
    let (mut trace_id, mut span_id) = (None, String::new());
    let mut reader = Reader::new(bytes, u32::MAX);
    while let Ok(Some((number, raw))) = reader.field() {
        match (number, span::as_message(raw)) {
            (1, Some(id)) => trace_id = <[u8; 16]>::try_from(id).ok(),
            (2, Some(id)) => span_id = hex(id.get(..id.len().min(8)).unwrap_or_default()),
            _ => {}
        }
    }
    if let Some(trace_id) = trace_id.filter(|id| *id != [0; 16]) {
        refused.note(trace_id, span_id, reason);
    }
}

/// What the sender says that he dropped, noted once a trace: of its spans and what belongs to them, of its resource.
#[derive(Default)]
struct Failures {
    drafts: Vec<(usize, Draft)>,
    noted: HashSet<(usize, EvidenceClass)>,
}

impl Failures {
    fn see(
        &mut self,
        trace: usize,
        span: &SpanRef<'_>,
        scope: &ScopeText,
        resource: &Resource,
        sealer: &mut Sealer<'_>,
    ) -> Result<(), Refusal> {
        let (attributes, events, links) = span.dropped;
        let within = || {
            span.events.iter().any(|event| event.dropped != 0)
                || span.links.iter().any(|link| link.dropped != 0)
        };
        if attributes | events | links != 0 {
            let message = "the sender dropped attributes, events or links of spans";
            self.note(trace, span, EvidenceClass::TraceSteps, message, sealer)?;
        } else if scope.dropped != 0 || within() {
            let message = "the sender dropped attributes of scopes, or of events or links of spans";
            self.note(trace, span, EvidenceClass::TraceSteps, message, sealer)?;
        }
        if resource.dropped != 0 {
            let message = "the sender dropped attributes of the resource";
            self.note(trace, span, EvidenceClass::Environment, message, sealer)?;
        }
        Ok(())
    }

    fn note(
        &mut self,
        trace: usize,
        span: &SpanRef<'_>,
        class: EvidenceClass,
        message: &str,
        sealer: &mut Sealer<'_>,
    ) -> Result<(), Refusal> {
        if !self.noted.insert((trace, class)) {
            return Ok(());
        }
        // Traces of one run note it each: which run a trace has is not known here.
        let about = format!("trace {}: dropped by the sender", hex(&span.trace_id));
        let failure = CaptureFailure::noted(class, &about, message);
        let kind = Kind::EvidenceCaptureFailure;
        let body = sealer.seal(kind, |_, out| out.append(&mut failure.encode()))?;
        let draft = Draft {
            kind,
            bind: Bind::None,
            identity: failure.identity(),
            content: None,
            trace_id: None,
            correlation_id: None,
            actor: (ActorType::System, None),
            occurred_at: Timestamp::from_unix_nanos(span.start).0,
            source_domain: SourceDomain::Activity,
            source_component: SOURCE_COMPONENT,
            origin: Origin::System,
            body,
            facts: Facts::Other,
            expect_run_seq: None,
        };
        self.drafts.push((trace, draft));
        Ok(())
    }
}

/// What the spans of one trace have in common, as far as this request shows it.
struct Trace {
    id: [u8; 16],
    run_id: Option<Arc<str>>,
    /// Something that is no identifier was to name its run.
    is_misnamed: bool,
    correlation_id: Option<Arc<str>>,
    /// The agent of the root span, else of the first span that names one.
    agent: Option<String>,
    agent_is_root: bool,
    started_at: Timestamp,
}

#[derive(Default)]
struct Traces {
    list: Vec<Trace>,
    places: HashMap<[u8; 16], usize>,
    last: usize,
}

impl Traces {
    fn place(&mut self, id: &[u8; 16]) -> usize {
        if self.list.get(self.last).is_none_or(|trace| trace.id != *id) {
            self.last = *self.places.entry(*id).or_insert_with(|| {
                self.list.push(Trace {
                    id: *id,
                    run_id: None,
                    is_misnamed: false,
                    correlation_id: None,
                    agent: None,
                    agent_is_root: false,
                    started_at: Timestamp::MAX,
                });
                self.list.len() - 1
            });
        }
        self.last
    }

    /// Takes from a span what counts for its trace. Of several that name a run or a conversation the first
    /// counts; a resource counts before a span.
    fn see(&mut self, trace: usize, span: &SpanRef<'_>, found: &Found, resource: &Resource, draft: &Draft) {
        let Some(trace) = self.list.get_mut(trace) else {
            return;
        };
        let view = View {
            attrs: &span.attributes,
            events: &span.events,
            found,
        };
        if trace.run_id.is_none() {
            let mut misnamed = u64::from(resource.is_misnamed);
            let of_span = || run_name(view.text(Slot::RunId), &mut misnamed);
            trace.run_id = resource.run_id.clone().or_else(of_span);
            trace.is_misnamed |= misnamed > 0;
        }
        if trace.correlation_id.is_none() {
            // Of two people's conversations the same marker may be left, and it would make them one.
            let conversation = view.text(Slot::Conversation).filter(|text| !is_redacted(text));
            trace.correlation_id = conversation.and_then(identifier);
        }
        if let Facts::Step(facts) = &draft.facts {
            let root = facts.root && !trace.agent_is_root;
            if facts.agent.is_some() && (root || trace.agent.is_none()) {
                trace.agent.clone_from(&facts.agent);
                trace.agent_is_root = facts.root;
            }
        }
        trace.started_at = trace.started_at.min(draft.occurred_at);
    }

    /// For each trace its id in hex and how it finds its run.
    fn binds(self) -> Vec<(Arc<str>, Arc<TraceBind>)> {
        let bind = |trace: Trace| {
            let hex: Arc<str> = hex(&trace.id).into();
            let bind = TraceBind {
                trace_id: trace.id,
                run_id: trace.run_id.unwrap_or_else(|| Arc::clone(&hex)),
                start: RunStarted {
                    agent_id: trace.agent,
                    source: "SDK".into(),
                    ..RunStarted::default()
                },
                started_at: trace.started_at,
                correlation_id: trace.correlation_id,
            };
            (hex, Arc::new(bind))
        };
        self.list.into_iter().map(bind).collect()
    }
}

fn read_resource(rules: &Redactor, bytes: &[u8]) -> Result<Resource, Refusal> {
    let mut kept = Vec::new();
    let read = resource(rules, bytes, &mut kept)?;
    let json = redacted_json(rules, attributes_json(&read.attributes))?;
    let text = |text: &str| rules.text(text).unwrap_or_else(|| text.to_owned());
    let sdk = [
        "telemetry.sdk.name",
        "telemetry.sdk.language",
        "telemetry.sdk.version",
    ];
    let sdk: Vec<_> = sdk.iter().filter_map(|key| read.text(key)).collect();
    let environment = read
        .text("deployment.environment.name")
        .or_else(|| read.text("deployment.environment"));
    let mut misnamed = 0;
    Ok(Resource {
        hash: sha256(&json),
        run_id: run_name(read.text("deponent.run.id"), &mut misnamed),
        is_misnamed: misnamed > 0,
        environment: environment.map(text),
        sdk_version: (!sdk.is_empty()).then(|| text(&sdk.join(" "))),
        dropped: read.dropped,
        json,
    })
}

fn read_scope(rules: &Redactor, group: &Group<'_>) -> Result<ScopeText, Refusal> {
    let mut kept = Vec::new();
    let scope = scope(rules, group.scope, &mut kept)?;
    let text = |text: &str| rules.text(text).unwrap_or_else(|| text.to_owned());
    Ok(ScopeText {
        name: text(scope.name),
        version: text(scope.version),
        rest: scope_rest(&scope)
            .map(|rest| redacted_json(rules, rest))
            .transpose()?,
        dropped: scope.dropped,
    })
}

/// Canonical JSON that a sender has put together, with secrets replaced.
fn redacted_json(rules: &Redactor, json: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    let redacted = rules
        .free(&json)
        .map_err(|error| Refusal::from(error.to_string()))?;
    Ok(redacted.unwrap_or(json))
}
