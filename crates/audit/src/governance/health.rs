//! A snapshot of health, in either of its two forms.

use std::collections::{BTreeMap, BTreeSet};

use evidence::Timestamp;
use evidence::canonical::{Value, to_vec};

use crate::checks::{Among, is_redacted, may_be_same};
use crate::read::{self, InputError};

/// Most capabilities of one snapshot, as of a contract's scope.
const CAPABILITIES_MAX: usize = super::SCOPE_ENTRIES_MAX;

/// The known words, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// UNHEALTHY
    Unhealthy,
    /// DEGRADED
    Degraded,
    /// HEALTHY
    Healthy,
}

/// The status of each capability. One whose status is null is not in it: absent and null are the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    statuses: BTreeMap<String, Value>,
    /// Those that were named with null.
    nulls: BTreeSet<String>,
}

impl Health {
    /// Reads a snapshot; `None` for null, which is a missing snapshot. `{}` is one.
    ///
    /// # Errors
    /// Neither an object nor null; a structured form whose `capability_health` is missing or no list, with a member
    /// of another name, with a capability twice or without its name.
    pub fn read(snapshot: &Value, what: &str) -> Result<Option<Self>, InputError> {
        if snapshot.is_null() {
            return Ok(None);
        }
        let members = snapshot
            .as_object()
            .ok_or_else(|| InputError::new(format!("{what} is neither an object nor null")))?;
        let mut health = Self::default();
        if snapshot.get("capability_health").is_some() {
            let within = |error: InputError| InputError::new(format!("{what}: {error}"));
            read::object(
                snapshot,
                what,
                &["captured_at", "system_health", "capability_health"],
            )?;
            // Null too: taken for none, it would make every capability of the other snapshot new, or gone.
            let list = read::list(snapshot, "capability_health", CAPABILITIES_MAX)
                .map_err(within)?
                .ok_or_else(|| InputError::new(format!("{what}: capability_health is null")))?;
            for entry in list {
                let capability = read::required_text(entry, "capability").map_err(within)?;
                if health.statuses.contains_key(&capability) || health.nulls.contains(&capability) {
                    return Err(InputError::new(format!("{what} names {capability:?} twice")));
                }
                health.put(&capability, entry.get("status"));
            }
            return Ok(Some(health));
        }
        // A capability may be called so, but no status is a time: it is the other form, and its list is missing.
        if snapshot
            .get("captured_at")
            .and_then(Value::as_str)
            .is_some_and(is_time)
        {
            return Err(InputError::new(format!("{what}: capability_health is missing")));
        }
        if members.len() > CAPABILITIES_MAX {
            return Err(InputError::new(format!(
                "{what} has more than {CAPABILITIES_MAX} capabilities"
            )));
        }
        for (capability, status) in members {
            // A status may stand in an object of its own, with other things beside it.
            health.put(capability, Some(status.get("status").unwrap_or(status)));
        }
        Ok(Some(health))
    }

    fn put(&mut self, capability: &str, status: Option<&Value>) {
        match status.filter(|status| !status.is_null()) {
            Some(status) => {
                self.statuses.insert(capability.to_owned(), status.clone());
            }
            None => drop(self.nulls.insert(capability.to_owned())),
        }
    }

    /// The status of a capability.
    pub fn status(&self, capability: &str) -> Option<&Value> {
        self.statuses.get(capability)
    }

    /// Whether the name of a capability or its status holds a marker of redaction, so that neither can be compared.
    pub fn is_redacted(&self, capability: &str) -> bool {
        let status = self.status(capability);
        is_redacted(capability) || status.is_some_and(|status| is_redacted(&as_text(status)))
    }

    /// The capabilities that have a status, to look for others among.
    pub(crate) fn among(&self) -> Among<'_> {
        Among::new(self.statuses.keys().map(String::as_str))
    }

    /// Whether two statuses may have been the same before redaction.
    pub(crate) fn may_be_same(was: &Value, is: &Value) -> bool {
        if was == is {
            return true;
        }
        let (was_text, is_text) = (as_text(was), as_text(is));
        if !is_redacted(&was_text) && !is_redacted(&is_text) {
            return false;
        }
        // Within what is no text names are replaced too, and put in another order: what stands beside tells nothing.
        was.as_str().is_none() && is.as_str().is_none() || may_be_same(&was_text, &is_text)
    }

    /// Every capability named, null ones too, in order.
    pub fn capabilities(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .statuses
            .keys()
            .chain(&self.nulls)
            .map(String::as_str)
            .collect();
        names.sort_unstable();
        names
    }

    /// The rank of a status; `None` for a word that is not known.
    pub fn rank(status: &Value) -> Option<Rank> {
        match status.as_str()? {
            "HEALTHY" => Some(Rank::Healthy),
            "DEGRADED" => Some(Rank::Degraded),
            "UNHEALTHY" => Some(Rank::Unhealthy),
            _ => None,
        }
    }
}

/// Also one without an offset, which clocks of some languages leave out.
fn is_time(text: &str) -> bool {
    Timestamp::parse(text).is_ok() || Timestamp::parse(&format!("{text}Z")).is_ok()
}

/// Text as it is, anything else as JSON: a target that is no text is still named in a finding.
pub(super) fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(
        || String::from_utf8_lossy(&to_vec(value)).into_owned(),
        str::to_owned,
    )
}
