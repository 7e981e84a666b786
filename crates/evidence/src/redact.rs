//! Takes secrets and personal data out of bodies before they are hashed.
//!
//! Two rules, at any depth and in any string: what stands under a field name of the
//! list is replaced whole (`names`); of free text, what looks like a secret or an
//! address is replaced where it stands (`text`). What is replaced leaves a marker,
//! `<REDACTED>` or `<REDACTED_EMAIL>`, and the body's member `redactions` counts the
//! markers that stand in it.
//!
//! Most bodies hold nothing of the kind. So there are two steps: [`Redactor::suspects`]
//! passes once over the bytes and says whether anything could be there (it errs on one
//! side only); the exact rules work on the parsed value, and only then.
//!
//! Names, numbers, truth values and null are never replaced by the first rule: token
//! counts stay. Applied twice it changes nothing more. Everything is linear in the
//! length of the text, tenants' own patterns included: of those that could look further
//! than they match, a number of matches in one text is told apart, and the rest of it is
//! replaced as a whole.
//!
//! Out of scope: which tenant has which rules (ledger); requests that are kept nowhere
//! (server). Start at [`Redactor::body`] and [`Redactor::request`].
//!
//! Source: SPEC 6.4; docs/formats.md, "Redaction".

mod names;
mod scan;
mod settings;
mod text;
mod tree;

use std::sync::{Arc, LazyLock};

use crate::Kind;
use crate::canonical::{self, Limits, Value};

pub use settings::{
    FIELDS_MAX, PATTERN_BYTES_MAX, PATTERN_NAME_BYTES_MAX, PATTERNS_MAX, RedactionSettings, SettingsError,
    TenantPattern,
};
pub use text::{Pattern, is_redacted, markers};

use names::Names;

/// What a marker begins with.
pub const MARKER: &str = "<REDACTED";

/// What stands in the place of a value under a secret field name.
pub const FIELD_MARKER: &str = "<REDACTED>";

/// The body's member that counts the markers in it.
pub const MEMBER: &str = "redactions";

/// Bodies are ours, so they are read whatever they hold; depth is bounded by what can be read again.
const LIMITS: Limits = Limits {
    depth_max: canonical::DEPTH_CEILING,
    nodes_max: u32::MAX,
};

/// The markers that stand in a value: {`count`, `patterns`}.
pub fn tally(value: &Value) -> Value {
    tree::tally(value).to_value()
}

/// The canonical body of what was redacted before, with the markers in it counted and nothing else changed.
pub fn counted(body: Vec<u8>) -> Vec<u8> {
    let Ok(mut value) = canonical::parse(&body, LIMITS) else {
        return body;
    };
    let tally = tree::tally(&value);
    if tally.count == 0 {
        return body;
    }
    value.insert(MEMBER, tally.to_value());
    canonical::to_vec(&value)
}

/// A body that is nested too deep to be looked through, and so is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nested too deep to be looked through for secrets")]
pub struct TooDeep;

/// The rules of one tenant.
#[derive(Debug)]
pub struct Redactor {
    names: Names,
    /// Built-in patterns that are in force.
    patterns: Vec<Pattern>,
    own: Vec<settings::Compiled>,
}

static STANDARD: LazyLock<Arc<Redactor>> = LazyLock::new(|| {
    Arc::new(Redactor {
        names: Names::standard(),
        patterns: Pattern::ALL.to_vec(),
        own: Vec::new(),
    })
});

impl Redactor {
    /// Every built-in rule and no other: what holds unless a tenant's settings say otherwise.
    pub fn standard() -> &'static Arc<Self> {
        &STANDARD
    }

    /// The rules under a tenant's settings.
    ///
    /// # Errors
    /// The settings break a rule; nothing is in force of them.
    pub fn new(settings: &RedactionSettings) -> Result<Self, SettingsError> {
        let own = settings.compile()?;
        Ok(Self {
            names: Names::with(&settings.fields),
            patterns: Pattern::ALL
                .into_iter()
                .filter(|pattern| !settings.is_off(*pattern))
                .collect(),
            own,
        })
    }

    /// Whether canonical JSON could hold anything to replace, or a marker. `false` is certain.
    pub fn suspects(&self, json: &[u8]) -> bool {
        !self.own.is_empty() || scan::suspects(&self.names, json)
    }

    /// The canonical body with secrets replaced and markers counted; `None`: it stays as it is.
    ///
    /// Of the records about callers only what callers wrote freely is looked through: whatever a tenant's rules
    /// are, they cannot keep its trail from being written.
    ///
    /// # Errors
    /// [`TooDeep`]: it cannot be looked through, so it may not be stored.
    pub fn body(&self, kind: Kind, body: &[u8]) -> Result<Option<Vec<u8>>, TooDeep> {
        if !self.suspects(body) {
            return Ok(None);
        }
        let mut value = canonical::parse(body, LIMITS).map_err(|_| TooDeep)?;
        let walk = tree::Walk { rules: self };
        let changed = match (names::free_of(kind), names::line_of(kind)) {
            (Some(free), _) => walk.only(&mut value, free),
            (None, Some(line)) => walk.line(&mut value, line),
            (None, None) if kind == Kind::AuditEvent => walk.event(&mut value),
            (None, None) => walk.whole(&mut value),
        };
        let tally = tree::tally(&value);
        if tally.count > 0 {
            value.insert(MEMBER, tally.to_value());
        }
        Ok((changed || tally.count > 0).then(|| canonical::to_vec(&value)))
    }

    /// The canonical JSON of a request with secrets replaced; `None`: it stays as it is.
    ///
    /// # Errors
    /// [`TooDeep`], as for [`Self::body`].
    pub fn request(&self, json: &[u8]) -> Result<Option<Vec<u8>>, TooDeep> {
        if !self.suspects(json) {
            return Ok(None);
        }
        let mut value = canonical::parse(json, LIMITS).map_err(|_| TooDeep)?;
        Ok(self.value(&mut value).then(|| canonical::to_vec(&value)))
    }

    /// The same of canonical JSON that a client has put together freely: nothing in it is Deponent's own.
    ///
    /// # Errors
    /// [`TooDeep`], as for [`Self::body`].
    pub fn free(&self, json: &[u8]) -> Result<Option<Vec<u8>>, TooDeep> {
        if !self.suspects(json) {
            return Ok(None);
        }
        let mut value = canonical::parse(json, LIMITS).map_err(|_| TooDeep)?;
        let changed = tree::Walk { rules: self }.free(&mut value, text::JSON_LEVELS);
        Ok(changed.then(|| canonical::to_vec(&value)))
    }

    /// Replaces secrets in a request; whether there were any.
    ///
    /// Members of Deponent's own that identify something are left as they are, see `names::is_exempt`.
    fn value(&self, value: &mut Value) -> bool {
        tree::Walk { rules: self }.event(value)
    }

    /// The text with secrets replaced; `None`: it stays as it is.
    pub fn text(&self, text: &str) -> Option<String> {
        text::redact(self, text, text::JSON_LEVELS)
    }

    /// The text with secrets replaced as it would be under that name at the top of a body.
    pub fn text_under(&self, name: &str, text: &str) -> String {
        if !self.is_secret_name(name) {
            return self.text(text).unwrap_or_else(|| text.to_owned());
        }
        if text.is_empty() {
            return String::new();
        }
        FIELD_MARKER.to_owned()
    }

    /// Whether a tenant's own patterns are among them, which cost more than the built-in rules.
    pub fn has_own_patterns(&self) -> bool {
        !self.own.is_empty()
    }

    /// Whether what stands under that name is replaced whole.
    pub fn is_secret_name(&self, name: &str) -> bool {
        self.names.is_secret(name)
    }
}

#[cfg(test)]
mod tests;
