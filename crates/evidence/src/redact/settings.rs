//! A tenant's settings: names and patterns of its own, built-in patterns that are off.

use super::names::NAME_BYTES_MAX;
use super::{FIELD_MARKER, text::Pattern};
use crate::canonical::Value;
use regex::{Regex, RegexBuilder};

/// Most field names of a tenant: a schema's secrets are counted in tens.
pub const FIELDS_MAX: usize = 200;
/// Most patterns of a tenant: each is a pass over every text of every body.
pub const PATTERNS_MAX: usize = 20;
/// Longest pattern.
pub const PATTERN_BYTES_MAX: usize = 500;
/// Longest name of a pattern, which stands in its marker.
pub const PATTERN_NAME_BYTES_MAX: usize = 32;
/// Largest compiled pattern: `\w{100}` takes 1 MiB, repetitions of repetitions any amount.
const COMPILED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Longest match of a pattern that is called short, in bytes: a search looks no further than that beyond what it
/// finds, so any number of matches costs a text so many times its length at most.
const SHORT_BYTES_MAX: usize = 1_000;
/// Deepest nesting of a pattern.
const NESTING_MAX: u32 = 32;

/// What a tenant adds to the built-in rules, and takes from them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedactionSettings {
    /// Field names under which values are replaced whole, in lower case.
    pub fields: Vec<String>,
    /// Patterns over free text.
    pub patterns: Vec<TenantPattern>,
    /// Built-in patterns that are not applied.
    pub off: Vec<Pattern>,
}

/// A pattern of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantPattern {
    /// `[a-z][a-z0-9_]*`; in capitals it stands in the marker.
    pub name: String,
    /// A regular expression of the crate `regex`: no look-around, no back references.
    pub pattern: String,
}

/// A rule that settings do not keep to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct SettingsError {
    /// The member.
    pub field: &'static str,
    /// What it must be.
    pub rule: String,
}

impl SettingsError {
    fn new(field: &'static str, rule: impl Into<String>) -> Self {
        let rule = rule.into();
        Self { field, rule }
    }
}

/// A pattern that is ready.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) regex: Regex,
    /// None of its matches is longer than [`SHORT_BYTES_MAX`].
    pub(super) short: bool,
    pub(super) marker: String,
}

impl RedactionSettings {
    /// Reads {`fields`, `patterns`: [{`name`, `pattern`}], `off`: [name]}; absent members are empty.
    ///
    /// # Errors
    /// The first rule broken; also when a pattern does not compile or is too large.
    pub fn read(value: &Value) -> Result<Self, SettingsError> {
        let members = value
            .as_object()
            .ok_or_else(|| SettingsError::new("body", "must be an object"))?;
        let known = ["fields", "off", "patterns"];
        if let Some((name, _)) = members.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            return Err(SettingsError::new("body", format!("unknown field `{name}`")));
        }
        let list = |field: &'static str| match value.get(field) {
            None | Some(Value::Null) => Ok(&[][..]),
            Some(Value::Array(elements)) => Ok(elements.as_slice()),
            Some(_) => Err(SettingsError::new(field, "must be a list")),
        };
        let word = |field: &'static str, value: &Value| {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| SettingsError::new(field, "must be text"))
        };
        let settings = Self {
            fields: list("fields")?
                .iter()
                .map(|name| word("fields", name).map(|name| name.to_ascii_lowercase()))
                .collect::<Result<_, _>>()?,
            patterns: list("patterns")?
                .iter()
                .map(|entry| {
                    let of = |member: &str| entry.get(member).unwrap_or(&Value::Null);
                    if entry.as_object().is_none_or(|members| members.len() != 2) {
                        return Err(SettingsError::new("patterns", "must each have name and pattern"));
                    }
                    Ok(TenantPattern {
                        name: word("patterns", of("name"))?,
                        pattern: word("patterns", of("pattern"))?,
                    })
                })
                .collect::<Result<_, _>>()?,
            off: list("off")?
                .iter()
                .map(|name| {
                    Pattern::parse(name.as_str().unwrap_or_default()).ok_or_else(|| {
                        let names: Vec<_> = Pattern::ALL.iter().map(|pattern| pattern.as_str()).collect();
                        SettingsError::new("off", format!("must be of {}", names.join(", ")))
                    })
                })
                .collect::<Result<_, _>>()?,
        };
        settings.compile()?;
        Ok(settings)
    }

    /// The same as JSON.
    pub fn to_value(&self) -> Value {
        let texts = |texts: Vec<&str>| Value::from(texts.into_iter().map(Value::from).collect::<Vec<_>>());
        let patterns: Vec<Value> = self
            .patterns
            .iter()
            .map(|own| Value::object([("name", own.name.as_str()), ("pattern", own.pattern.as_str())]))
            .collect();
        Value::object([
            ("fields", texts(self.fields.iter().map(String::as_str).collect())),
            ("patterns", Value::from(patterns)),
            (
                "off",
                texts(self.off.iter().map(|pattern| pattern.as_str()).collect()),
            ),
        ])
    }

    pub(super) fn is_off(&self, pattern: Pattern) -> bool {
        self.off.contains(&pattern)
    }

    pub(super) fn compile(&self) -> Result<Vec<Compiled>, SettingsError> {
        if self.fields.len() > FIELDS_MAX {
            return Err(SettingsError::new(
                "fields",
                format!("must be at most {FIELDS_MAX}"),
            ));
        }
        for name in &self.fields {
            let plain = name
                .bytes()
                .all(|byte| byte > b' ' && byte != 0x7f && !matches!(byte, b'"' | b'\'' | b'\\'));
            if name.is_empty() || name.len() > NAME_BYTES_MAX || !plain {
                let rule =
                    format!("must have 1 to {NAME_BYTES_MAX} bytes without spaces, quotes and backslashes");
                return Err(SettingsError::new("fields", rule));
            }
        }
        if self.patterns.len() > PATTERNS_MAX {
            return Err(SettingsError::new(
                "patterns",
                format!("must be at most {PATTERNS_MAX}"),
            ));
        }
        self.patterns.iter().map(TenantPattern::compile).collect()
    }
}

impl TenantPattern {
    fn compile(&self) -> Result<Compiled, SettingsError> {
        let refused = |rule: String| Err(SettingsError::new("patterns", format!("{}: {rule}", self.name)));
        let is_name = self.name.starts_with(|first: char| first.is_ascii_lowercase())
            && self
                .name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !is_name || self.name.len() > PATTERN_NAME_BYTES_MAX || self.name == "field" {
            return refused(format!(
                "the name must be [a-z][a-z0-9_]*, at most {PATTERN_NAME_BYTES_MAX} bytes, and not `field`"
            ));
        }
        if self.pattern.len() > PATTERN_BYTES_MAX {
            return refused(format!("must have at most {PATTERN_BYTES_MAX} bytes"));
        }
        let regex = RegexBuilder::new(&self.pattern)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(COMPILED_BYTES_MAX)
            .nest_limit(NESTING_MAX)
            .build();
        let regex = match regex {
            Ok(regex) => regex,
            Err(regex::Error::CompiledTooBig(_)) => return refused("is too large once compiled".to_owned()),
            Err(error) => {
                let last = error.to_string();
                return refused(last.lines().last().unwrap_or_default().to_owned());
            }
        };
        if regex.is_match("") {
            return refused("matches the empty text, and so everywhere".to_owned());
        }
        let longest = regex_syntax::ParserBuilder::new()
            .nest_limit(NESTING_MAX)
            .build()
            .parse(&self.pattern)
            .ok()
            .and_then(|parsed| parsed.properties().maximum_len());
        let name = self.name.to_ascii_uppercase();
        let marker = format!("{}_{name}>", FIELD_MARKER.trim_end_matches('>'));
        Ok(Compiled {
            regex,
            short: longest.is_some_and(|longest| longest <= SHORT_BYTES_MAX),
            marker,
        })
    }
}
