//! Log records: one `system.record` each.
//!
//! Also those that are GenAI events: what belongs to a step arrives with its span.

use evidence::canonical::Value;
use evidence::record::{Facts, SystemRecord};
use evidence::{ActorType, Kind, Origin, SourceDomain, Timestamp};
use ledger::{Bind, Draft, Salts};

use super::super::any::{Any, Attr, Budget, read_any, read_attr};
use super::super::decode::LogsRequest;
use super::super::limits::{NESTING_MAX, SUMMARY_CHARS_MAX, TIME_UNIX_NANO_MAX};
use super::super::redact;
use super::super::span::{self, Refusal};
use super::super::wire::Reader;
use super::traces::SOURCE_COMPONENT;
use super::view::find;
use super::{Lowered, RefusedSpans, Sealer, attributes_json, hex, identifier, run_name};

/// A log record, read where it lies.
#[derive(Debug)]
struct LogRef<'a> {
    time: u64,
    observed: u64,
    severity: i32,
    severity_text: &'a str,
    body: Option<Any<'a>>,
    attributes: Vec<Attr<'a>>,
    dropped: u32,
    flags: u32,
    trace_id: &'a [u8],
    span_id: &'a [u8],
    event_name: &'a str,
    /// See [`Budget::text_in_bytes`].
    text_in_bytes: bool,
}

impl<'a> LogRef<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let mut log = Self {
            time: 0,
            observed: 0,
            severity: 0,
            severity_text: "",
            body: None,
            attributes: Vec::new(),
            dropped: 0,
            flags: 0,
            trace_id: &[],
            span_id: &[],
            event_name: "",
            text_in_bytes: false,
        };
        let mut budget = Budget::new();
        let mut reader = Reader::new(bytes, 1 << 6);
        while let Some((number, raw)) = reader.field()? {
            match number {
                1 => log.time = reader.fixed64(raw)?,
                2 => log.severity = reader.enumeration(raw)?,
                3 => log.severity_text = reader.text(raw)?,
                5 => log.body = Some(read_any(Reader::message(raw)?, &mut budget, NESTING_MAX)?),
                6 => read_attr(Reader::message(raw)?, &mut budget, &mut log.attributes)?,
                7 => log.dropped = reader.uint32(raw)?,
                8 => log.flags = reader.fixed32(raw)?,
                9 => log.trace_id = reader.bytes(raw)?,
                10 => log.span_id = reader.bytes(raw)?,
                11 => log.observed = reader.fixed64(raw)?,
                12 => log.event_name = reader.text(raw)?,
                _ => {}
            }
        }
        log.text_in_bytes = budget.text_in_bytes;
        for (name, id, len) in [("trace_id", log.trace_id, 16), ("span_id", log.span_id, 8)] {
            if !id.is_empty() && id.len() != len {
                return Err(format!("{name} has {} bytes, {len} are needed", id.len()).into());
            }
        }
        // An id of zeros is none: SDKs send it with what is logged outside of any span, and it would bind all of that together.
        for id in [&mut log.trace_id, &mut log.span_id] {
            if id.iter().all(|byte| *byte == 0) {
                *id = &[];
            }
        }
        if log.time.max(log.observed) > TIME_UNIX_NANO_MAX {
            return Err("its time lies before 1970 or after 2100".into());
        }
        Ok(log)
    }
}

/// The words that system records have for those of loggers, which are told apart without case.
const SEVERITY_TEXTS: [(&str, &str); 8] = [
    ("trace", "DEBUG"),
    ("debug", "DEBUG"),
    ("info", "INFO"),
    ("warn", "WARN"),
    ("warning", "WARN"),
    ("error", "ERROR"),
    ("fatal", "CRITICAL"),
    ("critical", "CRITICAL"),
];

/// The words that system records have for OTel's severities: four numbers each, fatal is critical. Some loggers send no
/// number: then their own word counts, where it is a usual one.
fn severity(number: i32, text: &str) -> &'static str {
    match number {
        0 => SEVERITY_TEXTS
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(text))
            .map_or("INFO", |(_, severity)| *severity),
        1..=8 => "DEBUG",
        13..=16 => "WARN",
        17..=20 => "ERROR",
        21..=24 => "CRITICAL",
        _ => "INFO",
    }
}

/// Lowers the log records of a request. A record without a time happened when it was received.
pub fn lower_logs(request: &LogsRequest<'_>, received_at: Timestamp, salts: &mut Salts) -> Lowered {
    let mut rejected = request.rejected();
    let mut sealer = Sealer::new(salts, request.bodies_bytes_max());
    let mut drafts = Vec::new();
    let mut misnamed = 0;
    for group in request.groups() {
        let (mut of_resource, mut of_scope) = (Vec::new(), Vec::new());
        let origin = super::resource(sealer.rules(), group.resource, &mut of_resource)
            .and_then(|r| Ok((r, super::scope(sealer.rules(), group.scope, &mut of_scope)?)));
        let (resource, scope) = match origin {
            Ok(origin) => origin,
            Err(reason) => {
                let count = u64::try_from(group.items().count()).unwrap_or(u64::MAX);
                let index = group.resource_index;
                rejected.add(count, || {
                    format!("the log records of resource {index}, unreadable: {reason}")
                });
                continue;
            }
        };
        if group.items().next().is_none() {
            continue;
        }
        let resource_json = object(&resource.attributes);
        for (place, bytes) in group.placed() {
            let lowered = LogRef::read(bytes).and_then(|log| {
                let of = (&resource, &resource_json, &scope);
                if !log.text_in_bytes {
                    return lower_log(&log, of, received_at, &mut sealer, &mut misnamed);
                }
                let bytes = redact::log(sealer.rules(), bytes)?;
                let log = LogRef::read(&bytes)?;
                lower_log(&log, of, received_at, &mut sealer, &mut misnamed)
            });
            match lowered {
                Ok(draft) => drafts.push(draft),
                Err(reason) => {
                    rejected.add(1, || {
                        format!(
                            "log record {place} of resource {}: {reason}",
                            group.resource_index
                        )
                    });
                }
            }
        }
    }
    rejected.warn("these log records name no run by it", misnamed);
    Lowered {
        drafts,
        rejected,
        refused: RefusedSpans::default(),
        bodies_bytes_left: sealer.bytes_left,
    }
}

fn lower_log(
    log: &LogRef<'_>,
    (resource, resource_json, scope): (&span::Origin<'_>, &Value, &span::Origin<'_>),
    received_at: Timestamp,
    sealer: &mut Sealer<'_>,
    misnamed: &mut u64,
) -> Result<Draft, Refusal> {
    let attr = |key: &str| find(&log.attributes, key).and_then(Any::text);
    // The record's own name is looked at when the resource's is none.
    let mut wrong = 0;
    let run_id = run_name(resource.text("deponent.run.id"), &mut wrong)
        .or_else(|| run_name(attr("deponent.run.id"), &mut wrong));
    *misnamed += u64::from(run_id.is_none() && wrong > 0);
    let trace_id = (!log.trace_id.is_empty()).then(|| hex(log.trace_id));
    let event = [log.event_name, attr("event.name").unwrap_or_default()]
        .into_iter()
        .find(|name| !name.is_empty());
    let component = [
        scope.name,
        resource.text("service.name").unwrap_or_default(),
        SOURCE_COMPONENT,
    ]
    .into_iter()
    .find(|name| !name.is_empty())
    .unwrap_or_default();

    let summary = match log.body {
        Some(Any::Str(text)) => text.to_owned(),
        Some(Any::Empty) | None => event.unwrap_or_default().to_owned(),
        Some(other) => String::from_utf8_lossy(&evidence::canonical::to_vec(&other.to_value())).into_owned(),
    };
    let line = summary.lines().next().unwrap_or_default();
    let short: String = line.chars().take(SUMMARY_CHARS_MAX).collect();

    let mut details = Vec::with_capacity(12);
    let mut put = |key: &str, value: Value| details.push((key.to_owned(), value));
    put("attributes", object(&log.attributes));
    // The body in full, unless the summary is all of it.
    match log.body {
        Some(Any::Str(text)) if text == short => {}
        Some(Any::Empty) | None => {}
        Some(body) => put("body", body.to_value()),
    }
    let numbers = [
        ("dropped_attributes_count", u64::from(log.dropped)),
        ("flags", u64::from(log.flags)),
        ("observed_unix_nano", log.observed),
        ("resource_dropped_attributes_count", u64::from(resource.dropped)),
        ("scope_dropped_attributes_count", u64::from(scope.dropped)),
        ("time_unix_nano", log.time),
    ];
    for (key, number) in numbers.into_iter().filter(|(_, number)| *number != 0) {
        put(key, Value::from(number));
    }
    put("resource", resource_json.clone());
    if !scope.name.is_empty() || !scope.version.is_empty() || !scope.attributes.is_empty() {
        put(
            "scope",
            Value::object([
                ("attributes", object(&scope.attributes)),
                ("name", Value::from(scope.name)),
                ("version", Value::from(scope.version)),
            ]),
        );
    }
    put("severity_number", Value::from(log.severity));
    if !log.severity_text.is_empty() {
        put("severity_text", Value::from(log.severity_text));
    }
    if let Some(trace_id) = &trace_id {
        put("trace_id", Value::from(trace_id.as_str()));
    }
    if !log.span_id.is_empty() {
        put("span_id", Value::String(hex(log.span_id)));
    }

    let record = SystemRecord {
        component: component.to_owned(),
        event_type: event.unwrap_or("LOG").to_owned(),
        severity: severity(log.severity, log.severity_text).to_owned(),
        summary: short,
        details: Some(Value::object(details)),
        host: resource
            .text("host.name")
            .or_else(|| attr("host.name"))
            .map(str::to_owned),
        instance: resource
            .text("service.instance.id")
            .and_then(identifier)
            .map(|id| id.to_string()),
        caused_by: None,
        run_id: run_id.as_deref().map(str::to_owned),
    };
    let body = sealer.seal(Kind::SystemRecord, |_, out| {
        out.append(&mut record.encode());
    })?;
    let time = [log.time, log.observed].into_iter().find(|time| *time != 0);
    let trace_id = trace_id.map(std::sync::Arc::from);
    Ok(Draft {
        kind: Kind::SystemRecord,
        bind: Bind::None,
        identity: None,
        content: None,
        correlation_id: run_id.or_else(|| trace_id.clone()),
        trace_id,
        actor: (ActorType::System, None),
        occurred_at: time.map_or(received_at, |time| Timestamp::from_unix_nanos(time).0),
        source_domain: SourceDomain::Logs,
        source_component: SOURCE_COMPONENT,
        origin: Origin::System,
        body,
        facts: Facts::System(record.facts()),
        expect_run_seq: None,
    })
}

/// Attributes as an object, in the form that spans have them.
fn object(attrs: &[Attr<'_>]) -> Value {
    // What was just written is canonical JSON within the limits of values and nesting, so it reads back.
    let limits = evidence::canonical::Limits {
        depth_max: 128,
        nodes_max: u32::MAX,
    };
    evidence::canonical::parse(&attributes_json(attrs), limits).unwrap_or_default()
}
