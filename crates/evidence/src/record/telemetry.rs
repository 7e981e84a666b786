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
    /// The run, when the resource names one.
    pub run_id: Option<String>,
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
        w.key("source");
        w.str(&self.source);
        w.close_object();
    }

    /// The facts of these measurements.
    pub fn facts(&self) -> TelemetryFacts {
        TelemetryFacts {
            run_id: self.run_id.clone(),
        }
    }
}

/// What measurements say to projections.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TelemetryFacts {
    /// The run, when the resource names one.
    #[serde(default)]
    pub run_id: Option<String>,
}

impl TelemetryFacts {
    pub(crate) fn read(body: &[u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::SystemTelemetry, error))
    }

    pub(crate) fn facets(&self, header: &Header<'_>, out: &mut Vec<String>) {
        if let Some(run_id) = &self.run_id {
            push_facet(out, "telemetry.run", run_id);
        }
        if let Some(trace_id) = &header.trace_id {
            push_facet(out, "telemetry.trace", trace_id);
        }
    }
}
