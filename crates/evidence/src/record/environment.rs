//! `evidence.environment`: class H, what a run ran in.
//!
//! From OTLP one record per run and resource: the resource's attributes and the
//! SDK that they name. Posted, one per run: the capture fields of SPEC 6.1.
//!
//! Source: SPEC 4.3, 6.1; docs/formats.md, "evidence.environment".

use serde::Deserialize;
use serde_json::value::RawValue;

use super::rule::{self, RuleBroken};
use super::{put, text};
use crate::canonical::{self, Finite, Value, Writer};
use crate::identity::Identity;
use crate::{Kind, hex_string};

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

/// The identity of a stored environment: that of its resource; without one it is the run's.
pub fn environment_identity(body: &[u8]) -> Option<Identity> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        #[serde(borrow)]
        resource: Option<&'a RawValue>,
    }
    let wire: Wire<'_> = serde_json::from_slice(body).ok()?;
    Some(match wire.resource {
        Some(resource) => Identity::environment(resource.get().as_bytes()),
        None => Identity::once(Kind::EvidenceEnvironment),
    })
}

/// How an SDK was attached (SPEC 6.1).
pub const SDK_MODES: [&str; 4] = ["inline", "async", "degraded", "offline"];

/// Where a run ran (SPEC 6.1).
pub const ENVIRONMENTS: [&str; 4] = ["prod", "staging", "dev", "sandbox"];

/// What became of telemetry (SPEC 6.1).
pub const TELEMETRY_DELIVERY: [&str; 4] = ["sent", "dropped", "buffered", "unknown"];

/// The body of an `evidence.environment` as posted, once a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnvironmentEvidence {
    /// One of [`SDK_MODES`].
    pub sdk_mode: String,
    /// The SDK's version.
    pub sdk_version: Option<String>,
    /// One of [`ENVIRONMENTS`].
    pub environment: Option<String>,
    /// Whether the SDK sends telemetry.
    pub telemetry_enabled: bool,
    /// One of [`TELEMETRY_DELIVERY`].
    pub telemetry_delivery_status: Option<String>,
    /// 0 to 1.
    pub capture_confidence_score: Option<Finite>,
    /// Whether it runs for debugging.
    pub debug_mode: bool,
    /// Whether it only pretends to act.
    pub dry_run: bool,
}

impl EnvironmentEvidence {
    /// Whether it keeps to the rules of SPEC 6.1.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RuleBroken> {
        rule::word("sdk_mode", &self.sdk_mode, &SDK_MODES)?;
        rule::identifiers(&[("sdk_version", &self.sdk_version)])?;
        if let Some(environment) = &self.environment {
            rule::word("environment", environment, &ENVIRONMENTS)?;
        }
        if let Some(status) = &self.telemetry_delivery_status {
            rule::word("telemetry_delivery_status", status, &TELEMETRY_DELIVERY)?;
        }
        match self.capture_confidence_score {
            Some(score) => rule::fraction("capture_confidence_score", score.get()),
            None => Ok(()),
        }
    }

    /// The canonical body. `content_mac` is [`crate::content_mac`] under the record's salt.
    pub fn encode(&self, content_mac: &[u8; 32]) -> Vec<u8> {
        let words = |word: &Option<String>| word.as_deref().map(text);
        let mut object = Vec::with_capacity(9);
        put(
            &mut object,
            "capture_confidence_score",
            self.capture_confidence_score.map(Value::from),
        );
        put(
            &mut object,
            "content_mac",
            Some(Value::from(hex_string(content_mac))),
        );
        put(&mut object, "debug_mode", Some(Value::Bool(self.debug_mode)));
        put(&mut object, "dry_run", Some(Value::Bool(self.dry_run)));
        put(&mut object, "environment", words(&self.environment));
        put(&mut object, "sdk_mode", Some(text(&self.sdk_mode)));
        put(&mut object, "sdk_version", words(&self.sdk_version));
        put(
            &mut object,
            "telemetry_delivery_status",
            words(&self.telemetry_delivery_status),
        );
        put(
            &mut object,
            "telemetry_enabled",
            Some(Value::Bool(self.telemetry_enabled)),
        );
        canonical::to_vec(&Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: these bytes are committed to.
    #[test]
    fn body_bytes_of_what_is_posted_are_these() {
        let posted = EnvironmentEvidence {
            sdk_mode: "async".into(),
            sdk_version: Some("1.2".into()),
            environment: Some("prod".into()),
            telemetry_enabled: true,
            telemetry_delivery_status: Some("sent".into()),
            capture_confidence_score: Finite::new(0.5),
            ..EnvironmentEvidence::default()
        };
        posted.check().unwrap();
        let (body, mac) = (posted.encode(&[0xab; 32]), "ab".repeat(32));
        assert_eq!(
            String::from_utf8_lossy(&body),
            format!(
                r#"{{"capture_confidence_score":0.5,"content_mac":"{mac}","debug_mode":false,"dry_run":false,"environment":"prod","sdk_mode":"async","sdk_version":"1.2","telemetry_delivery_status":"sent","telemetry_enabled":true}}"#
            )
        );
        assert_eq!(
            environment_identity(&body),
            Some(Identity::once(Kind::EvidenceEnvironment))
        );
        let bad = EnvironmentEvidence {
            capture_confidence_score: Finite::new(1.1),
            ..posted
        };
        assert_eq!(bad.check().unwrap_err().field, "capture_confidence_score");
    }
}
