//! Metrics: `system.telemetry`, the points of one resource and scope together.
//!
//! A point's value is a number, or an object for histograms and summaries. Temporality, start and scope stand
//! with its attributes. Exemplars are not kept; how many there were is, and which traces they name. Bodies are closed at
//! [`TELEMETRY_BYTES_MAX`] and [`TELEMETRY_NAMES_MAX`].

use std::collections::BTreeSet;
use std::sync::Arc;

use evidence::canonical::Writer;
use evidence::record::{Facts, Telemetry, TelemetryPoint};
use evidence::redact::Redactor;
use evidence::{ActorType, Kind, Origin, SourceDomain, Timestamp};
use ledger::{Bind, Draft, Salts};
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogramDataPoint, HistogramDataPoint, NumberDataPoint, SummaryDataPoint,
};
use prost::Message as _;

use super::super::any::{Any, Attr, Budget, read_attr};
use super::super::decode::{MetricsRequest, Rejections, fields};
use super::super::limits::{
    POINT_BYTES_MAX, POINT_TRACES_MAX, TELEMETRY_BYTES_MAX, TELEMETRY_NAMES_MAX, TIME_UNIX_NANO_MAX,
};
use super::super::ordered::{METRIC, Ordered};
use super::super::redact;
use super::super::span::Refusal;
use super::super::wire::{Malformed, Raw, Reader};
use super::traces::SOURCE_COMPONENT;
use super::view::find;
use super::{
    Lowered, RefusedSpans, Sealer, attributes_json, hex, identifier, point_value, run_name, scope_rest,
};

/// What a metric's points are, by the number of the field that holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Points {
    Gauge,
    Sum,
    Histogram,
    Exponential,
    Summary,
}

impl Points {
    /// The fields of a metric that hold points.
    const FIELDS: [u32; 5] = [5, 7, 9, 10, 11];

    const fn of_field(number: u32) -> Option<Self> {
        match number {
            5 => Some(Self::Gauge),
            7 => Some(Self::Sum),
            9 => Some(Self::Histogram),
            10 => Some(Self::Exponential),
            11 => Some(Self::Summary),
            _ => None,
        }
    }

    /// The number of the field in which a point holds its attributes.
    const fn attributes_field(self) -> u32 {
        match self {
            Self::Exponential => 1,
            Self::Histogram => 9,
            Self::Gauge | Self::Sum | Self::Summary => 7,
        }
    }

    /// The number of the field in which a point holds its exemplars; 0 for summaries, which have none.
    const fn exemplars_field(self) -> u32 {
        match self {
            Self::Gauge | Self::Sum => 5,
            Self::Histogram => 8,
            Self::Exponential => 11,
            Self::Summary => 0,
        }
    }
}

/// A metric, read where it lies.
#[derive(Debug)]
struct MetricRef<'a> {
    name: &'a str,
    unit: &'a str,
    /// The message that holds the points.
    data: Option<(Points, &'a [u8])>,
    temporality: i32,
    monotonic: bool,
}

impl<'a> MetricRef<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut metric = Self {
            name: "",
            unit: "",
            data: None,
            temporality: 0,
            monotonic: false,
        };
        let mut reader = Reader::new(bytes, 0);
        while let Some((number, raw)) = reader.field()? {
            match number {
                1 => metric.name = reader.text(raw)?,
                3 => metric.unit = reader.text(raw)?,
                _ => {
                    if let Some(points) = Points::of_field(number) {
                        metric.data = Some((points, Reader::message(raw)?));
                    }
                }
            }
        }
        if let Some((_, data)) = metric.data {
            let mut reader = Reader::new(data, 1 << 1);
            while let Some((number, raw)) = reader.field()? {
                match (number, raw) {
                    (2, Raw::Varint(_)) => metric.temporality = reader.enumeration(raw)?,
                    (3, Raw::Varint(monotonic)) => metric.monotonic = monotonic != 0,
                    _ => {}
                }
            }
        }
        Ok(metric)
    }
}

/// The data points of a metric, counted without being read. One that cannot be read, and is refused as a whole, counts
/// with those that can be told, at least as one.
pub(crate) fn points_count(metric: &[u8]) -> usize {
    let points = |data| fields(data, 1).count();
    match MetricRef::read(metric) {
        Ok(read) => read.data.map_or(0, |(_, data)| points(data)),
        Err(_) => Points::FIELDS
            .iter()
            .flat_map(|number| fields(metric, *number))
            .map(points)
            .sum::<usize>()
            .max(1),
    }
}

/// Lowers the metrics of a request. A point without a time was measured when it was received.
pub fn lower_metrics(request: &MetricsRequest<'_>, received_at: Timestamp, salts: &mut Salts) -> Lowered {
    let mut rejected = request.rejected();
    let mut sealer = Sealer::new(salts, request.bodies_bytes_max());
    let mut drafts = Vec::new();
    let mut misnamed = 0;
    for group in request.groups() {
        let index = group.resource_index;
        let count = |bytes: &[u8]| u64::try_from(points_count(bytes)).unwrap_or(u64::MAX);
        let (mut of_resource, mut of_scope) = (Vec::new(), Vec::new());
        let origin = super::resource(sealer.rules(), group.resource, &mut of_resource)
            .and_then(|r| Ok((r, super::scope(sealer.rules(), group.scope, &mut of_scope)?)));
        let (resource, scope) = match origin {
            Ok(origin) => origin,
            Err(reason) => {
                let count = group.items().map(count).sum();
                rejected.add(count, || {
                    format!("the metrics of resource {index}, which is unreadable: {reason}")
                });
                continue;
            }
        };
        if group.items().next().is_none() {
            continue;
        }
        let source = [
            scope.name,
            resource.text("service.name").unwrap_or_default(),
            SOURCE_COMPONENT,
        ];
        let about = scope_rest(&scope);
        let named = |name: &str| resource.text(name).and_then(identifier);
        let run_id = run_name(resource.text("deponent.run.id"), &mut misnamed);
        let mut batch = Batch {
            body: Telemetry {
                instance: named("service.instance.id").map(|id| id.to_string()),
                run_id: run_id.as_deref().map(str::to_owned),
                run_ids: Vec::new(),
                trace_ids: Vec::new(),
                source: source
                    .into_iter()
                    .find(|name| !name.is_empty())
                    .unwrap_or_default()
                    .to_owned(),
                resource: attributes_json(&resource.attributes),
                points: Vec::new(),
            },
            run_id,
            names: Names::default(),
            bytes: 0,
        };
        for (place, bytes) in group.placed() {
            let metric = match MetricRef::read(bytes) {
                Ok(metric) => metric,
                Err(reason) => {
                    rejected.add(count(bytes), || {
                        format!("metric {place} of resource {index}: {}", reason.0)
                    });
                    continue;
                }
            };
            let Some((points, data)) = metric.data else {
                continue;
            };
            for (at, bytes) in fields(data, 1).enumerate() {
                match read_point(
                    &metric,
                    points,
                    bytes,
                    received_at,
                    about.as_deref(),
                    sealer.rules(),
                    &mut misnamed,
                ) {
                    Ok((point, names)) => batch.push(point, names, &mut sealer, &mut drafts, &mut rejected),
                    Err(reason) => rejected.add(1, || {
                        let name: String = metric.name.chars().take(64).collect();
                        format!("point {at} of metric {name:?} of resource {index}: {reason}")
                    }),
                }
            }
        }
        batch.close(&mut sealer, &mut drafts, &mut rejected);
    }
    rejected.warn("it binds these points to no run", misnamed);
    Lowered {
        drafts,
        rejected,
        refused: RefusedSpans::default(),
        bodies_bytes_left: sealer.bytes_left,
    }
}

/// What points name.
#[derive(Default)]
struct Names {
    /// By `deponent.run.id`.
    runs: BTreeSet<String>,
    /// By exemplars.
    traces: BTreeSet<String>,
}

impl Names {
    /// Whether more than a body names would be named by both.
    fn overflows(&self, more: &Self) -> bool {
        let many = |own: &BTreeSet<String>, more: &BTreeSet<String>| {
            own.len() + more.difference(own).count() > TELEMETRY_NAMES_MAX
        };
        many(&self.runs, &more.runs) || many(&self.traces, &more.traces)
    }

    fn add(&mut self, mut more: Self) {
        self.runs.append(&mut more.runs);
        self.traces.append(&mut more.traces);
    }
}

/// The points that will be one body.
struct Batch {
    body: Telemetry,
    run_id: Option<Arc<str>>,
    names: Names,
    bytes: usize,
}

/// What a point takes beside its name, unit, value and attributes: keys, quotes and time.
const POINT_OVERHEAD_BYTES: usize = 96;

impl Batch {
    fn push(
        &mut self,
        point: TelemetryPoint,
        names: Names,
        sealer: &mut Sealer<'_>,
        drafts: &mut Vec<Draft>,
        rejected: &mut Rejections,
    ) {
        let bytes = point.name.len()
            + point.unit.len()
            + point.value.len()
            + point.attributes.len()
            + POINT_OVERHEAD_BYTES;
        if self.bytes + bytes > TELEMETRY_BYTES_MAX || self.names.overflows(&names) {
            self.close(sealer, drafts, rejected);
        }
        self.bytes += bytes;
        self.names.add(names);
        self.body.points.push(point);
    }

    fn close(&mut self, sealer: &mut Sealer<'_>, drafts: &mut Vec<Draft>, rejected: &mut Rejections) {
        let Some(occurred_at) = self.body.points.iter().map(|point| point.timestamp).max() else {
            return;
        };
        let count = u64::try_from(self.body.points.len()).unwrap_or(u64::MAX);
        let Names { runs, traces } = std::mem::take(&mut self.names);
        self.body.run_ids = runs.into_iter().collect();
        self.body.trace_ids = traces.into_iter().collect();
        let sealed = sealer.seal(Kind::SystemTelemetry, |_, out| self.body.encode(out));
        self.body.points.clear();
        self.bytes = 0;
        let body = match sealed {
            Ok(body) => body,
            Err(reason) => return rejected.add(count, || format!("{count} points: {reason}")),
        };
        drafts.push(Draft {
            kind: Kind::SystemTelemetry,
            bind: Bind::None,
            identity: None,
            content: None,
            trace_id: None,
            correlation_id: self.run_id.clone(),
            actor: (ActorType::System, None),
            occurred_at,
            source_domain: SourceDomain::System,
            source_component: SOURCE_COMPONENT,
            origin: Origin::System,
            body,
            facts: Facts::Telemetry(self.body.facts()),
            expect_run_seq: None,
        });
    }
}

/// The exemplars of a point.
#[derive(Default)]
struct Exemplars {
    count: usize,
    /// What they name, in hex; the first [`POINT_TRACES_MAX`].
    traces: BTreeSet<String>,
}

impl Exemplars {
    fn add(&mut self, exemplar: &[u8]) -> Result<(), Malformed> {
        self.count += 1;
        let mut reader = Reader::new(exemplar, u32::MAX);
        while let Some((number, raw)) = reader.field()? {
            if number != EXEMPLAR_TRACE_FIELD || self.traces.len() >= POINT_TRACES_MAX {
                continue;
            }
            let trace = reader.bytes(raw)?;
            if trace.len() == 16 && trace.iter().any(|byte| *byte != 0) {
                self.traces.insert(hex(trace));
            }
        }
        Ok(())
    }
}

/// The number of the field in which an exemplar holds its trace id.
const EXEMPLAR_TRACE_FIELD: u32 = 5;

/// Checks a point's attributes, and that reading it takes little memory, before it is decoded.
///
/// `kept` holds what is redacted of them because it is text and stands as bytes.
fn check<'a>(
    points: Points,
    bytes: &'a [u8],
    rules: &Redactor,
    kept: &'a mut Vec<Vec<u8>>,
) -> Result<(Vec<Attr<'a>>, Exemplars), Refusal> {
    if bytes.len() > POINT_BYTES_MAX {
        return Err(format!(
            "it has {} bytes, at most {POINT_BYTES_MAX} are taken",
            bytes.len()
        )
        .into());
    }
    let mut attributes = Vec::new();
    let mut exemplars = Exemplars::default();
    let mut budget = Budget::new();
    let mut reader = Reader::new(bytes, u32::MAX);
    while let Some((number, raw)) = reader.field()? {
        if number == points.attributes_field() {
            read_attr(Reader::message(raw)?, &mut budget, &mut attributes)?;
        }
        if number == points.exemplars_field() {
            exemplars.add(Reader::message(raw)?)?;
        }
    }
    if budget.text_in_bytes {
        *kept = redact::each(rules, fields(bytes, points.attributes_field()))?;
        attributes.clear();
        for bytes in kept.iter() {
            read_attr(bytes, &mut Budget::new(), &mut attributes)?;
        }
    }
    Ok((attributes, exemplars))
}

fn read_point(
    metric: &MetricRef<'_>,
    points: Points,
    bytes: &[u8],
    received_at: Timestamp,
    about: Option<&[u8]>,
    rules: &Redactor,
    misnamed: &mut u64,
) -> Result<(TelemetryPoint, Names), Refusal> {
    let mut kept = Vec::new();
    let (attributes, exemplars) = check(points, bytes, rules, &mut kept)?;
    let mut value = Vec::new();
    let not_a_point = |error: prost::DecodeError| Refusal::from(format!("not a data point: {error}"));
    let (start, time, flags) = match points {
        Points::Gauge | Points::Sum => {
            let point = NumberDataPoint::decode(bytes).map_err(not_a_point)?;
            point_value::number(&point, &mut value);
            (point.start_time_unix_nano, point.time_unix_nano, point.flags)
        }
        Points::Histogram => {
            let point = HistogramDataPoint::decode(bytes).map_err(not_a_point)?;
            point_value::histogram(&point, &mut value);
            (point.start_time_unix_nano, point.time_unix_nano, point.flags)
        }
        Points::Exponential => {
            let point = ExponentialHistogramDataPoint::decode(bytes).map_err(not_a_point)?;
            point_value::exponential(&point, &mut value);
            (point.start_time_unix_nano, point.time_unix_nano, point.flags)
        }
        Points::Summary => {
            let point = SummaryDataPoint::decode(bytes).map_err(not_a_point)?;
            point_value::summary(&point, &mut value);
            (point.start_time_unix_nano, point.time_unix_nano, point.flags)
        }
    };
    if time > TIME_UNIX_NANO_MAX {
        return Err(format!("its time {time} lies before 1970 or after 2100").into());
    }
    // The lowest flag says that nothing was measured.
    if flags & 1 != 0 {
        value.clear();
        value.extend_from_slice(b"null");
    }
    let run = find(&attributes, "deponent.run.id").and_then(Any::text);
    let run = run_name(run, misnamed);
    let point = TelemetryPoint {
        timestamp: if time == 0 {
            received_at
        } else {
            Timestamp::from_unix_nanos(time).0
        },
        name: metric.name.to_owned(),
        value,
        unit: metric.unit.to_owned(),
        attributes: point_attributes(&attributes, metric, points, &exemplars, start, about),
    };
    let names = Names {
        runs: run.iter().map(ToString::to_string).collect(),
        traces: exemplars.traces,
    };
    Ok((point, names))
}

/// A point's attributes, and under [`METRIC`] what a point of a `system.telemetry` has no place for.
fn point_attributes(
    attributes: &[Attr<'_>],
    metric: &MetricRef<'_>,
    points: Points,
    exemplars: &Exemplars,
    start: u64,
    about: Option<&[u8]>,
) -> Vec<u8> {
    let mut more = Vec::new();
    let mut w = Writer::new(&mut more);
    w.open_object();
    if metric.temporality != 0 {
        w.key("aggregation_temporality");
        w.i64(i64::from(metric.temporality));
    }
    if exemplars.count > 0 {
        w.key("dropped_exemplars_count");
        w.u64(u64::try_from(exemplars.count).unwrap_or(u64::MAX));
    }
    if !exemplars.traces.is_empty() {
        w.key("exemplar_trace_ids");
        w.open_array();
        for trace in &exemplars.traces {
            w.str(trace);
        }
        w.close_array();
    }
    if points == Points::Sum {
        w.key("is_monotonic");
        w.bool(metric.monotonic);
    }
    if let Some(scope) = about {
        w.key("scope");
        w.raw(scope);
    }
    if start != 0 {
        w.key("start_unix_nano");
        w.str(&start.to_string());
    }
    w.close_object();
    let more = (more != b"{}").then_some((METRIC, more.as_slice()));
    let mut out = Vec::new();
    let mut ordered = Ordered::default();
    ordered.of(attributes);
    ordered.write(attributes, more, &mut Writer::new(&mut out));
    out
}
