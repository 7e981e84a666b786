//! `identity.event`: credentials and principals come, change and go; who signed in, and who was refused.
//!
//! What a server knows of its keys is the fold of these records, in ledger order. A secret never stands in one:
//! only SHA-256 over the whole key, of which 256 bits are secret, so that the hash gives nothing away.
//!
//! Source: SPEC 5.4, 11.5; docs/formats.md, "identity.event".

use serde::Deserialize;

use super::{BodyError, put, text};
use crate::canonical::{self, Value};
use crate::facet::push_facet;
use crate::header::words;
use crate::{Kind, Timestamp, hex_string, unhex};

words! {
    /// What happened to a credential or principal.
    IdentityEventType {
        /// A key came to be.
        KeyCreated = "key.created",
        /// A key has another secret; the old one is worth nothing.
        KeyRotated = "key.rotated",
        /// A key is worth nothing any more.
        KeyRevoked = "key.revoked",
        /// A principal may sign in.
        PrincipalAdded = "principal.added",
        /// A principal may not sign in any more.
        PrincipalRemoved = "principal.removed",
        /// A principal has another role.
        RoleChanged = "role.changed",
        /// A principal signed in.
        Signin = "signin",
        /// A credential was refused.
        SigninRefused = "signin.refused",
    }
}

words! {
    /// What a principal may do in its tenant (SPEC 11.5).
    Role {
        /// Reads runs, system records, the ledger.
        Reader = "reader",
        /// Writes evidence and reads its own receipts.
        Writer = "writer",
        /// A reader that also reads the audit topic, verifies and exports.
        Auditor = "auditor",
        /// Everything in the tenant.
        Admin = "admin",
        /// Tenants, and the ledger of the instance.
        Operator = "operator",
    }
}

/// The body of an `identity.event`. When it happened stands in the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityEvent {
    /// What happened.
    pub event_type: IdentityEventType,
    /// The key (its id) or principal that it happened to.
    pub subject_id: String,
    /// Who did it.
    pub principal: String,
    /// Of a key or principal: its role from now on; of several the first by name.
    pub role: Option<Role>,
    /// Of a principal with several: all, by name; else empty.
    pub roles: Vec<Role>,
    /// Of a new or rotated key: SHA-256 of its whole text.
    pub key_hash: Option<[u8; 32]>,
    /// Of a new key: the name that people know it by.
    pub name: Option<String>,
    /// Of a new key: when it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// Why a credential was refused, in one word.
    pub reason: Option<String>,
    /// How many times, when more than one event stands here.
    pub count: Option<u64>,
    /// The request.
    pub request_id: Option<String>,
}

impl IdentityEvent {
    /// One event, nothing more said.
    pub fn new(
        event_type: IdentityEventType,
        subject_id: impl Into<String>,
        principal: impl Into<String>,
    ) -> Self {
        Self {
            event_type,
            subject_id: subject_id.into(),
            principal: principal.into(),
            role: None,
            roles: Vec::new(),
            key_hash: None,
            name: None,
            expires_at: None,
            reason: None,
            count: None,
            request_id: None,
        }
    }

    /// With these roles, sorted by name.
    #[must_use]
    pub fn with_roles(mut self, roles: &[Role]) -> Self {
        self.role = roles.first().copied();
        self.roles = if roles.len() > 1 {
            roles.to_vec()
        } else {
            Vec::new()
        };
        self
    }

    /// Every role that it says.
    pub fn roles(&self) -> &[Role] {
        if self.roles.is_empty() {
            self.role.as_slice()
        } else {
            &self.roles
        }
    }

    /// The canonical body.
    pub fn encode(&self) -> Vec<u8> {
        let mut object = Vec::with_capacity(10);
        put(
            &mut object,
            "count",
            self.count
                .and_then(|count| i64::try_from(count).ok())
                .map(Value::Int),
        );
        put(&mut object, "event_type", Some(text(self.event_type.as_str())));
        put(
            &mut object,
            "expires_at",
            self.expires_at.map(|at| text(&at.to_string())),
        );
        put(
            &mut object,
            "key_hash",
            self.key_hash.map(|hash| text(&hex_string(&hash))),
        );
        put(&mut object, "name", self.name.as_deref().map(text));
        put(&mut object, "principal", Some(text(&self.principal)));
        put(&mut object, "reason", self.reason.as_deref().map(text));
        put(&mut object, "request_id", self.request_id.as_deref().map(text));
        put(&mut object, "role", self.role.map(|role| text(role.as_str())));
        if !self.roles.is_empty() {
            let roles: Vec<Value> = self.roles.iter().map(|role| text(role.as_str())).collect();
            put(&mut object, "roles", Some(Value::Array(roles)));
        }
        put(&mut object, "subject_id", Some(text(&self.subject_id)));
        canonical::to_vec(&Value::Object(object))
    }

    /// Reads a stored body.
    ///
    /// # Errors
    /// The bytes are no body of this kind.
    pub fn read(body: &[u8]) -> Result<Self, BodyError> {
        let error = |reason: &str| BodyError::new(Kind::IdentityEvent, reason);
        let wire: Wire =
            serde_json::from_slice(body).map_err(|error| BodyError::new(Kind::IdentityEvent, error))?;
        let key_hash = match wire.key_hash {
            None => None,
            Some(hex) => Some(unhex(hex.as_bytes()).ok_or_else(|| error("key_hash is no SHA-256"))?),
        };
        Ok(Self {
            event_type: wire.event_type,
            subject_id: wire.subject_id,
            principal: wire.principal,
            role: wire.role,
            roles: wire.roles,
            key_hash,
            name: wire.name,
            expires_at: wire.expires_at,
            reason: wire.reason,
            count: wire.count,
            request_id: wire.request_id,
        })
    }

    /// Whether it happened to a key.
    pub fn is_of_key(&self) -> bool {
        matches!(
            self.event_type,
            IdentityEventType::KeyCreated | IdentityEventType::KeyRotated | IdentityEventType::KeyRevoked
        )
    }

    /// By which lists find it.
    pub(crate) fn facets(&self, out: &mut Vec<String>) {
        out.push("identity".into());
        push_facet(out, "identity.event_type", self.event_type.as_str());
        push_facet(out, "identity.subject", &self.subject_id);
        if self.is_of_key() {
            push_facet(out, "key", &self.subject_id);
        }
    }
}

#[derive(Deserialize)]
struct Wire {
    event_type: IdentityEventType,
    subject_id: String,
    principal: String,
    #[serde(default)]
    role: Option<Role>,
    #[serde(default)]
    roles: Vec<Role>,
    #[serde(default)]
    key_hash: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    expires_at: Option<Timestamp>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    count: Option<u64>,
    #[serde(default)]
    request_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_these_for_ever() {
        let event = IdentityEvent {
            role: Some(Role::Auditor),
            key_hash: Some([0xab; 32]),
            name: Some("ci".into()),
            expires_at: Timestamp::from_micros(1_767_323_045_000_006),
            request_id: Some("r-1".into()),
            ..IdentityEvent::new(IdentityEventType::KeyCreated, "k3y", "local")
        };
        let bytes = event.encode();
        let hash = "ab".repeat(32);
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            format!(
                r#"{{"event_type":"key.created","expires_at":"2026-01-02T03:04:05.000006Z","key_hash":"{hash}","name":"ci","principal":"local","request_id":"r-1","role":"auditor","subject_id":"k3y"}}"#
            )
        );
        assert!(canonical::is_canonical(&bytes));
        assert_eq!(IdentityEvent::read(&bytes).unwrap(), event);
        let refused = IdentityEvent {
            reason: Some("revoked".into()),
            count: Some(7),
            ..IdentityEvent::new(IdentityEventType::SigninRefused, "k3y", "key:k3y")
        };
        assert_eq!(
            String::from_utf8(refused.encode()).unwrap(),
            r#"{"count":7,"event_type":"signin.refused","principal":"key:k3y","reason":"revoked","subject_id":"k3y"}"#
        );
    }

    #[test]
    fn a_key_is_found_by_its_id_and_a_signin_is_not_taken_for_one() {
        let facets = |event_type| {
            let mut out = Vec::new();
            IdentityEvent::new(event_type, "k", "local").facets(&mut out);
            out
        };
        assert_eq!(
            facets(IdentityEventType::KeyRevoked),
            [
                "identity",
                "identity.event_type=key.revoked",
                "identity.subject=k",
                "key=k"
            ]
        );
        assert_eq!(
            facets(IdentityEventType::Signin),
            ["identity", "identity.event_type=signin", "identity.subject=k"]
        );
    }

    #[test]
    fn what_is_no_such_body_is_refused() {
        for bad in [
            "{}",
            r#"{"event_type":"key.borrowed","principal":"local","subject_id":"k"}"#,
            r#"{"event_type":"key.created","key_hash":"zz","principal":"local","subject_id":"k"}"#,
            r#"{"event_type":"key.created","principal":"local","role":"god","subject_id":"k"}"#,
        ] {
            assert!(IdentityEvent::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
