//! Reads a panel. Signals keep their order, which an object of canonical JSON does not: it is the order of
//! what is found.

use std::fmt;

use evidence::canonical::{self, Limits, Value, to_vec};
use evidence::{ByName, IDENTIFIER_BYTES_MAX};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::{Panel, RULES_MAX, Rule, SIGNAL_BYTES_MAX, SIGNALS_MAX, SLOTS_MAX, Slot};
use crate::read::InputError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PanelText {
    #[serde(default)]
    panel_id: String,
    slots: Vec<SlotText>,
    rules: Option<Vec<RuleText>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotText {
    slot_id: String,
    #[serde(default)]
    signals: Ordered,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    id: Option<String>,
    name: Option<String>,
    signal_a: Option<String>,
    signal_b: Option<String>,
    condition: Option<String>,
    severity: Option<String>,
}

#[derive(Default)]
struct Ordered(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Ordered;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of signals")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Ordered(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

pub(super) fn parse(json: &[u8]) -> Result<Panel, InputError> {
    // Strict first: a key twice, or a number with two readings, is refused before anything is read.
    canonical::parse(json, Limits::default()).map_err(|error| InputError::new(error.to_string()))?;
    let mut reader = serde_json::Deserializer::from_slice(json);
    let text =
        PanelText::deserialize(ByName(&mut reader)).map_err(|error| InputError::new(error.to_string()))?;
    if text.slots.len() > SLOTS_MAX {
        return Err(InputError::new(format!("more than {SLOTS_MAX} slots")));
    }
    if text.slots.iter().map(|slot| slot.signals.0.len()).sum::<usize>() > SIGNALS_MAX {
        return Err(InputError::new(format!("more than {SIGNALS_MAX} signals")));
    }
    let slots = text
        .slots
        .into_iter()
        .map(|slot| {
            // Each violation names slots again.
            if slot.slot_id.len() > IDENTIFIER_BYTES_MAX || slot.slot_id.chars().any(char::is_control) {
                return Err(InputError::new(format!(
                    "a slot_id is longer than {IDENTIFIER_BYTES_MAX} bytes, or has control characters"
                )));
            }
            let signals = slot
                .signals
                .0
                .into_iter()
                .map(read_signal)
                .collect::<Result<_, _>>()?;
            Ok(Slot {
                slot_id: slot.slot_id,
                signals,
            })
        })
        .collect::<Result<_, InputError>>()?;
    let rules = match text.rules {
        None => Rule::defaults(),
        Some(rules) if rules.len() > RULES_MAX => {
            return Err(InputError::new(format!("more than {RULES_MAX} rules")));
        }
        Some(rules) => rules.into_iter().map(read_rule).collect::<Result<_, _>>()?,
    };
    Ok(Panel {
        panel_id: text.panel_id,
        slots,
        rules,
    })
}

fn read_signal((name, value): (String, serde_json::Value)) -> Result<(String, Value), InputError> {
    let value = canonical::from_serde(&value).map_err(|error| InputError::new(error.to_string()))?;
    if to_vec(&value).len() > SIGNAL_BYTES_MAX {
        return Err(InputError::new(format!(
            "signal {name:?} is longer than {SIGNAL_BYTES_MAX} bytes"
        )));
    }
    Ok((name, value))
}

fn read_rule(text: RuleText) -> Result<Rule, InputError> {
    let id = text
        .id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| InputError::new("a rule has no id"))?;
    let severity = match text.severity.as_deref() {
        None | Some("ERROR") => super::Severity::Error,
        Some("WARNING") => super::Severity::Warning,
        Some(other) => {
            return Err(InputError::new(format!(
                "rule {id}: severity {other:?} is neither ERROR nor WARNING"
            )));
        }
    };
    let condition = text.condition.unwrap_or_default();
    let name = text.name.unwrap_or_else(|| id.clone());
    Rule::compile(&id, &name, text.signal_a, text.signal_b, &condition, severity)
        .map_err(|reason| InputError::new(format!("rule {id}: {reason}")))
}
