//! `evidence.environment`: class H, what a run ran in.
//!
//! From OTLP one record per run and resource: the resource's attributes and the
//! SDK that they name. The capture fields of SPEC 6.1 stand beside them when sent.
//!
//! Source: SPEC 4.3, 6.1; docs/formats.md, "evidence.environment".

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::canonical::Writer;
use crate::identity::Identity;

/// The body of an `evidence.environment` made from an OTLP resource.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Canonical JSON object of the resource's attributes.
    pub resource: Vec<u8>,
    /// `deployment.environment.name`, else `deployment.environment`.
    pub environment: Option<String>,
    /// `telemetry.sdk.name`, language and version, joined by a space.
    pub sdk_version: Option<String>,
    /// Attributes of the resource that the sender dropped.
    pub dropped_attributes_count: u32,
}

impl Environment {
    /// Appends the canonical body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        w.open_object();
        if self.dropped_attributes_count != 0 {
            w.key("dropped_attributes_count");
            w.u64(u64::from(self.dropped_attributes_count));
        }
        if let Some(environment) = &self.environment {
            w.key("environment");
            w.str(environment);
        }
        w.key("resource");
        w.raw(&self.resource);
        if let Some(sdk_version) = &self.sdk_version {
            w.key("sdk_version");
            w.str(sdk_version);
        }
        w.key("telemetry_enabled");
        w.bool(true);
        w.close_object();
    }

    /// The identity of this environment within a run.
    pub fn identity(&self) -> Identity {
        Identity::environment(&self.resource)
    }
}

/// The identity of a stored environment: that of its resource.
pub fn environment_identity(body: &[u8]) -> Option<Identity> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        #[serde(borrow)]
        resource: &'a RawValue,
    }
    let wire: Wire<'_> = serde_json::from_slice(body).ok()?;
    Some(Identity::environment(wire.resource.get().as_bytes()))
}
