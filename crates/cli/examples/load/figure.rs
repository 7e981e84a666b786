//! Lines of the table: a figure, what it has to be, and whether it is.

use anyhow::{Context, Result};
use serde_json::Value;

/// One line of the table.
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// `None`: shown for comparison.
    pub(crate) target: Option<f64>,
    /// More is better.
    at_least: bool,
    pub(crate) unit: &'static str,
}

impl Figure {
    pub(crate) fn held(&self) -> bool {
        self.target.is_none_or(|target| {
            if self.at_least {
                self.value >= target
            } else {
                self.value < target
            }
        })
    }

    pub(crate) fn line(&self) -> String {
        let name = format!("{} [{}]", self.name, self.unit);
        let value = number(self.value);
        let Some(target) = self.target else {
            return format!("{name:<58} {value:>12}");
        };
        let sign = if self.at_least { '≥' } else { '<' };
        let verdict = if self.held() { "ok" } else { "MISSED" };
        let ratio = self.value / target;
        format!(
            "{name:<58} {value:>12} {sign}{:>11} {ratio:>7.2} {verdict}",
            number(target)
        )
    }
}

pub(crate) fn at_least(name: &str, unit: &'static str, value: f64, target: f64) -> Figure {
    Figure {
        name: name.into(),
        value,
        target: Some(target),
        at_least: true,
        unit,
    }
}

pub(crate) fn below(name: &str, unit: &'static str, value: f64, target: f64) -> Figure {
    Figure {
        name: name.into(),
        value,
        target: Some(target),
        at_least: false,
        unit,
    }
}

pub(crate) fn shown(name: &str, unit: &'static str, value: f64) -> Figure {
    Figure {
        name: name.into(),
        value,
        target: None,
        at_least: true,
        unit,
    }
}

pub(crate) fn number_at(value: &Value, name: &str) -> Result<f64> {
    value[name].as_f64().with_context(|| format!("no {name}"))
}

/// Thousands with a narrow gap, small numbers with two digits.
pub(crate) fn number(value: f64) -> String {
    if value < 1_000.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|c| std::str::from_utf8(c).unwrap())
        .collect();
    groups.join(",")
}
