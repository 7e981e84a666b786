//! Whether the slots of a panel contradict each other.
//!
//! A signal with two values is a contradiction (CONS-DUP); rules say what else is. What cannot be evaluated
//! is an error and never a pass.
//!
//! Out of scope: where signals come from. Start at [`Panel::parse`] and [`check`]. Rules: SPEC 7.4.

mod input;
mod rule;

pub use rule::{CONDITION_BYTES_MAX, CONDITION_DEPTH_MAX, CONDITION_NODES_MAX, Rule, Severity};

use std::collections::HashMap;

use evidence::canonical::{Value, to_vec};

use crate::read::InputError;

/// Most slots of a panel; one is a tile of a dashboard.
pub const SLOTS_MAX: usize = 1_000;
/// Most signals of a panel, over all slots.
pub const SIGNALS_MAX: usize = 10_000;
/// Longest signal in its canonical form. With [`CONDITION_NODES_MAX`] it bounds what a rule can build.
pub const SIGNAL_BYTES_MAX: usize = 4_096;
/// Most rules of a panel.
pub const RULES_MAX: usize = 1_000;
/// Most signals that a violation shows of a rule that says none itself.
const SHOWN_MAX: usize = 5;
/// Longest part of a value that a violation shows: rules by the thousand may be about one value. With the numbers above,
/// and slots whose ids are short, it bounds what a report says besides what the panel says itself to some 20 MiB.
const SHOWN_BYTES_MAX: usize = 200;

/// One slot and what it shows, in the order it was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// As given.
    pub slot_id: String,
    /// Name and value.
    pub signals: Vec<(String, Value)>,
}

/// A panel and the rules it is held against.
#[derive(Debug)]
pub struct Panel {
    /// As given.
    pub panel_id: String,
    /// In their order.
    pub slots: Vec<Slot>,
    /// Compiled.
    pub rules: Vec<Rule>,
}

impl Panel {
    /// Reads {panel_id, slots: [{slot_id, signals}], rules?}. Absent rules are the built-in ones, `[]` is none.
    ///
    /// # Errors
    /// No I-JSON, a member that is missing, unknown, of the wrong kind or too long; a rule without id or
    /// condition, or whose condition does not compile.
    pub fn parse(json: &[u8]) -> Result<Self, InputError> {
        input::parse(json)
    }
}

/// A contradiction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `CONS-DUP`, or that of the rule.
    pub rule_id: String,
    /// For people.
    pub rule_name: String,
    /// Where the two sides stand, or the signals that the condition names; each slot once.
    pub slots: Vec<String>,
    /// What should hold.
    pub expected: String,
    /// What is.
    pub actual: String,
    /// How bad.
    pub severity: Severity,
}

impl Violation {
    fn to_value(&self) -> Value {
        let slots: Vec<Value> = self.slots.iter().map(|slot| Value::from(slot.as_str())).collect();
        Value::object([
            ("rule_id", Value::from(self.rule_id.as_str())),
            ("rule_name", Value::from(self.rule_name.as_str())),
            ("slots", Value::from(slots)),
            ("expected", Value::from(self.expected.as_str())),
            ("actual", Value::from(self.actual.as_str())),
            ("severity", Value::from(self.severity.as_str())),
        ])
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PanelReport {
    /// Contradictions; first CONS-DUP, then rules in their order.
    pub violations: Vec<Violation>,
    /// Those of rules that only warn.
    pub warnings: Vec<Violation>,
}

impl PanelReport {
    /// Whether nothing contradicts; warnings leave it so.
    pub fn is_consistent(&self) -> bool {
        self.violations.is_empty()
    }

    /// As HTTP and command line answer it.
    pub fn to_value(&self, panel_id: &str) -> Value {
        let list =
            |found: &[Violation]| Value::from(found.iter().map(Violation::to_value).collect::<Vec<_>>());
        Value::object([
            ("panel_id", Value::from(panel_id)),
            ("is_consistent", Value::from(self.is_consistent())),
            ("violations", list(&self.violations)),
            ("warnings", list(&self.warnings)),
        ])
    }
}

/// A rule that could not be evaluated: the panel is neither consistent nor inconsistent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule_id}: {reason}")]
pub struct RuleError {
    /// Which.
    pub rule_id: String,
    /// Why.
    pub reason: String,
}

/// The value that stands for a signal: that of the first slot that shows it.
struct First<'p> {
    slot_id: &'p str,
    value: &'p Value,
}

type Firsts<'p> = HashMap<&'p str, First<'p>>;

/// Holds a panel against its rules.
///
/// # Errors
/// The first rule that cannot be evaluated.
pub fn check(panel: &Panel) -> Result<PanelReport, RuleError> {
    let mut report = PanelReport::default();
    let mut firsts: Firsts<'_> = HashMap::new();
    for slot in &panel.slots {
        for (name, value) in &slot.signals {
            let Some(first) = firsts.get(name.as_str()) else {
                let slot_id = slot.slot_id.as_str();
                firsts.insert(name, First { slot_id, value });
                continue;
            };
            if first.value != value {
                report.violations.push(Violation {
                    rule_id: "CONS-DUP".to_owned(),
                    rule_name: "One value for one signal".to_owned(),
                    slots: vec![first.slot_id.to_owned(), slot.slot_id.clone()],
                    expected: shown(name, first.value),
                    actual: shown(name, value),
                    severity: Severity::Error,
                });
            }
        }
    }
    let all = rule::Signals::new(&firsts);
    for rule in &panel.rules {
        // Absent or null: nothing to hold the rule against.
        let sides: Option<Vec<(&str, &First<'_>)>> = rule
            .signals()
            .map(|name| {
                let first = firsts.get(name)?;
                (!first.value.is_null()).then_some((name, first))
            })
            .collect();
        let Some(sides) = sides else { continue };
        let holds = rule
            .holds(
                &sides.iter().map(|(_, first)| first.value).collect::<Vec<_>>(),
                &all,
            )
            .map_err(|reason| RuleError {
                rule_id: rule.id.clone(),
                reason,
            })?;
        if holds {
            continue;
        }
        // A rule without sides is about what its condition names.
        let mut more = 0;
        let about = if sides.is_empty() {
            let named = rule.named();
            let found = named.iter().filter_map(|name| Some((*name, firsts.get(name)?)));
            let mut found: Vec<(&str, &First<'_>)> = found.collect();
            more = found.len().saturating_sub(SHOWN_MAX);
            found.truncate(SHOWN_MAX);
            found
        } else {
            sides
        };
        let mut slots: Vec<String> = Vec::new();
        for (_, first) in &about {
            if !slots.iter().any(|slot| slot == first.slot_id) {
                slots.push(first.slot_id.to_owned());
            }
        }
        let mut actual: Vec<String> = about
            .iter()
            .map(|(name, first)| shown(name, first.value))
            .collect();
        if more > 0 {
            actual.push(format!("{more} more"));
        }
        let violation = Violation {
            rule_id: rule.id.clone(),
            rule_name: rule.name.clone(),
            slots,
            expected: rule.condition.clone(),
            actual: actual.join(", "),
            severity: rule.severity,
        };
        match rule.severity {
            Severity::Error => report.violations.push(violation),
            Severity::Warning => report.warnings.push(violation),
        }
    }
    Ok(report)
}

fn shown(name: &str, value: &Value) -> String {
    let json = to_vec(value);
    let mut text = String::from_utf8_lossy(&json).into_owned();
    if text.len() > SHOWN_BYTES_MAX {
        text.truncate(text.floor_char_boundary(SHOWN_BYTES_MAX));
        text.push('…');
    }
    format!("{name} = {text}")
}

#[cfg(test)]
mod tests;
