//! The rules that fields of requests keep to, each refused as 422 by its name.

use evidence::canonical::{self, Finite, Value};
use evidence::{ByName, IDENTIFIER_BYTES_MAX, NanoCents};
use ledger::Tenant;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::ApiError;

/// Longest text meant for people (a goal, a reason): a page of prose is 4 KiB, so this refuses nothing
/// that is meant, and a list of them stays small.
pub(crate) const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Largest count a caller may give: indexes and counts are stored as 32 bits, and half of that range
/// survives every language's signed integer.
pub(crate) const COUNT_MAX: i64 = i32::MAX as i64;

/// A number as it was sent: read from its canonical text, exactly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Num(pub(crate) Finite);

impl<'de> Deserialize<'de> for Num {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        // serde_json's own reader may be off by one unit in the last place.
        let number = raw.get().parse::<f64>().ok().and_then(Finite::new);
        number
            .map(Self)
            .ok_or_else(|| D::Error::custom("must be a number"))
    }
}

/// A text that is kept beside records, by the tenant's rules, as theirs are.
pub(crate) fn redacted(tenant: &Tenant, text: String) -> String {
    tenant.rules().text(&text).unwrap_or(text)
}

/// 1 to 256 bytes without control characters.
pub(crate) fn id(field: &str, text: &str) -> Result<(), ApiError> {
    if text.is_empty() || text.len() > IDENTIFIER_BYTES_MAX {
        return Err(ApiError::invalid(
            field,
            format_args!("must have 1 to {IDENTIFIER_BYTES_MAX} bytes"),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(ApiError::invalid(field, "must not contain control characters"));
    }
    Ok(())
}

/// The same of each that is given.
pub(crate) fn ids(given: &[(&str, &Option<String>)]) -> Result<(), ApiError> {
    given
        .iter()
        .try_for_each(|(field, text)| text.as_deref().map_or(Ok(()), |text| id(field, text)))
}

/// Prose: at most [`TEXT_BYTES_MAX`].
pub(crate) fn prose(field: &str, text: Option<&str>) -> Result<(), ApiError> {
    match text {
        Some(text) if text.len() > TEXT_BYTES_MAX => Err(ApiError::invalid(
            field,
            format_args!("must have at most {TEXT_BYTES_MAX} bytes"),
        )),
        _ => Ok(()),
    }
}

/// One of the words.
pub(crate) fn word(field: &str, text: &str, words: &[&'static str]) -> Result<&'static str, ApiError> {
    words
        .iter()
        .copied()
        .find(|word| *word == text)
        .ok_or_else(|| ApiError::invalid(field, format_args!("must be one of {}", words.join(", "))))
}

/// Not negative.
pub(crate) fn not_negative(field: &str, number: Option<i64>) -> Result<(), ApiError> {
    match number {
        Some(..0) => Err(ApiError::invalid(field, "must not be negative")),
        _ => Ok(()),
    }
}

/// 0 to [`COUNT_MAX`].
pub(crate) fn count(field: &str, number: i64) -> Result<u32, ApiError> {
    u32::try_from(number)
        .ok()
        .filter(|_| number <= COUNT_MAX)
        .ok_or_else(|| ApiError::invalid(field, format_args!("must be 0 to {COUNT_MAX}")))
}

/// US cents: not negative, and small enough to be summed exactly.
pub(crate) fn cents(field: &str, number: Num) -> Result<Finite, ApiError> {
    NanoCents::from_cents(number.0.get())
        .map(|_| number.0)
        .ok_or_else(|| ApiError::invalid(field, "must be an amount from 0 to 9000000000 cents"))
}

/// Milliseconds: not negative.
pub(crate) fn duration_ms(field: &str, number: Num) -> Result<Finite, ApiError> {
    if number.0.get() < 0.0 {
        return Err(ApiError::invalid(field, "must not be negative"));
    }
    Ok(number.0)
}

/// Any JSON as a value.
pub(crate) fn value(field: &str, raw: &RawValue) -> Result<Value, ApiError> {
    canonical::parse(raw.get().as_bytes(), canonical::Limits::default())
        .map_err(|error| ApiError::invalid(field, error.kind()))
}

/// Any JSON as a value, when given.
pub(crate) fn value_opt(field: &str, raw: Option<&RawValue>) -> Result<Option<Value>, ApiError> {
    raw.map(|raw| value(field, raw)).transpose()
}

/// A part of a body as `T`; what is wrong is named under `path`.
pub(crate) fn part<T: DeserializeOwned>(path: &str, canonical: &str) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_str(canonical);
    serde_path_to_error::deserialize(ByName(&mut reader)).map_err(|error| {
        let inner = error.path().to_string();
        let cause = error.into_inner().to_string();
        let cause = cause.split(" at line ").next().unwrap_or_default();
        let field = match (path, inner.as_str()) {
            ("", ".") => "body".to_owned(),
            ("", inner) => inner.to_owned(),
            (path, ".") => path.to_owned(),
            (path, inner) => format!("{path}.{inner}"),
        };
        ApiError::invalid(&field, cause)
    })
}

/// The canonical JSON of some members of a body, given in canonical order.
pub(crate) fn object_of<'a>(members: impl Iterator<Item = (&'a String, &'a Box<RawValue>)>) -> String {
    let mut text = String::from("{");
    for (key, raw) in members {
        if text.len() > 1 {
            text.push(',');
        }
        let key = canonical::to_vec(&Value::String(key.clone()));
        text.push_str(&String::from_utf8_lossy(&key));
        text.push(':');
        text.push_str(raw.get());
    }
    text.push('}');
    text
}

/// The same refusal, its field named under `path`.
pub(crate) fn under(path: &str) -> impl Fn(ApiError) -> ApiError {
    move |mut error| {
        if error.code == "invalid" {
            error.message.insert_str(0, &format!("{path}."));
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_exactly_or_refused() {
        let num = |text: &str| serde_json::from_str::<Num>(text).map(|num| num.0.get());
        assert_eq!(num("0.1").unwrap().to_bits(), 0.1_f64.to_bits());
        assert_eq!(
            num("9007199254740991").unwrap().to_bits(),
            9_007_199_254_740_991.0_f64.to_bits()
        );
        for bad in ["\"1\"", "true", "[1]", "{}", "\"NaN\""] {
            assert!(num(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_have_a_length_and_no_control_characters() {
        assert!(id("x", "a").is_ok() && id("x", &"ä".repeat(128)).is_ok());
        for bad in ["", &"a".repeat(257), "a\nb", "\u{7f}", "\u{85}"] {
            assert!(id("x", bad).is_err(), "{bad:?}");
        }
    }
}
