//! `system.telemetry`: measurements that came with or around a run.
//!
//! Source: SPEC 4.3, 5 (get_system_telemetry); docs/formats.md, "system.telemetry".

use serde::Deserialize;

use super::BodyError;
use crate::canonical::Writer;
use crate::facet::push_facet;
use crate::time::Timestamp;
use crate::{Header, Kind};

/// One measurement.
#[derive(Clone, Debug)]
pub struct TelemetryPoint {
    /// When measured.
    pub timestamp: Timestamp,
    /// The metric's name.
    pub name: String,
    /// Canonical JSON of the value: a number, or an object for histograms.
    pub value: Vec<u8>,
    /// UCUM unit, may be empty.
    pub unit: String,
    /// Canonical JSON object.
    pub attributes: Vec<u8>,
}

/// The body of a `system.telemetry`: the points of one resource and scope.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// The `service.instance.id` of the resource: with their times it leads from a run to these points.
    pub instance: Option<String>,
    /// The run, when the resource names one.
    pub run_id: Option<String>,
    /// The runs that points name by an attribute of their own, ascending.
    pub run_ids: Vec<String>,
    /// The traces that exemplars of points name, in hex, ascending.
    pub trace_ids: Vec<String>,
    /// The service or scope that measured.
    pub source: String,
    /// Canonical JSON object of the resource's attributes.
    pub resource: Vec<u8>,
    /// At least one.
    pub points: Vec<TelemetryPoint>,
}

impl Telemetry {
    /// Appends the canonical body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        w.open_object();
        if let Some(instance) = &self.instance {
            w.key("instance");
            w.str(instance);
        }
        w.key("points");
        w.open_array();
        for point in &self.points {
            w.open_object();
            w.key("attributes");
            w.raw(&point.attributes);
            w.key("name");
            w.str(&point.name);
            w.key("timestamp");
            w.time(point.timestamp);
            w.key("unit");
            w.str(&point.unit);
            w.key("value");
            w.raw(&point.value);
            w.close_object();
        }
        w.close_array();
        w.key("resource");
        w.raw(&self.resource);
        if let Some(run_id) = &self.run_id {
            w.key("run_id");
            w.str(run_id);
        }
        texts(&mut w, "run_ids", &self.run_ids);
        w.key("source");
        w.str(&self.source);
        texts(&mut w, "trace_ids", &self.trace_ids);
        w.close_object();
    }

    /// The facts of these measurements.
    pub fn facts(&self) -> TelemetryFacts {
        TelemetryFacts {
            instance: self.instance.clone(),
            run_id: self.run_id.clone(),
            run_ids: self.run_ids.clone(),
            trace_ids: self.trace_ids.clone(),
        }
    }
}

/// Writes a list of texts; none at all when it is empty.
fn texts(w: &mut Writer<'_>, key: &'static str, texts: &[String]) {
    if texts.is_empty() {
        return;
    }
    w.key(key);
    w.open_array();
    for text in texts {
        w.str(text);
    }
    w.close_array();
}

/// What measurements say to projections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TelemetryFacts {
    /// The service instance, when the resource names one. Records of older versions do not say it.
    #[serde(default)]
    pub instance: Option<String>,
    /// The run, when the resource names one.
    #[serde(default)]
    pub run_id: Option<String>,
    /// The runs that points name.
    #[serde(default)]
    pub run_ids: Vec<String>,
    /// The traces that exemplars name.
    #[serde(default)]
    pub trace_ids: Vec<String>,
}

impl TelemetryFacts {
    pub(crate) fn read(body: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::SystemTelemetry, error))
    }

    pub(crate) fn facets(&self, header: &Header<'_>, out: &mut Vec<String>) {
        if let Some(instance) = &self.instance {
            push_facet(out, "telemetry.instance", instance);
        }
        for run_id in self.run_id.iter().chain(&self.run_ids) {
            push_facet(out, "telemetry.run", run_id);
        }
        if let Some(trace_id) = &header.trace_id {
            push_facet(out, "telemetry.trace", trace_id);
        }
        for trace_id in &self.trace_ids {
            push_facet(out, "telemetry.trace", trace_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telemetry() -> Telemetry {
        Telemetry {
            instance: None,
            run_id: None,
            run_ids: Vec::new(),
            trace_ids: Vec::new(),
            source: "s".into(),
            resource: b"{}".to_vec(),
            points: vec![TelemetryPoint {
                timestamp: Timestamp::parse("2026-11-21T09:30:00Z").unwrap(),
                name: "m".into(),
                value: b"1".to_vec(),
                unit: String::new(),
                attributes: b"{}".to_vec(),
            }],
        }
    }

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_are_these() {
        let text = |telemetry: &Telemetry| {
            let mut out = Vec::new();
            telemetry.encode(&mut out);
            assert_eq!(TelemetryFacts::read(&out).unwrap(), telemetry.facts());
            String::from_utf8(out).unwrap()
        };
        let points = r#""points":[{"attributes":{},"name":"m","timestamp":"2026-11-21T09:30:00.000000Z","unit":"","value":1}]"#;
        assert_eq!(
            text(&telemetry()),
            format!(r#"{{{points},"resource":{{}},"source":"s"}}"#)
        );
        let whole = Telemetry {
            instance: Some("i-1".into()),
            run_id: Some("r1".into()),
            run_ids: vec!["r2".into(), "r3".into()],
            trace_ids: vec!["ab".repeat(16)],
            ..telemetry()
        };
        assert_eq!(
            text(&whole),
            format!(
                r#"{{"instance":"i-1",{points},"resource":{{}},"run_id":"r1","run_ids":["r2","r3"],"source":"s","trace_ids":["{}"]}}"#,
                "ab".repeat(16)
            )
        );
    }
}
