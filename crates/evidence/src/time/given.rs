//! Times as they were given, where that says more than microseconds.
//!
//! A [`Timestamp`] is what is compared and sorted. The text that it was cut from is kept beside it, in the member
//! [`TIMES_GIVEN`] of the record's body, and only where digits were cut off that were not all zero.
//!
//! Source: SPEC 3, "Numbers"; docs/formats.md, "Times given".

use serde::{Deserialize, Deserializer};

use super::{EXAMPLE, TimeError, Timestamp};
use crate::canonical::{self, Value};

/// Longest text of a time that is given: an RFC 3339 time to the attosecond has 44 bytes. What is kept is kept whole.
pub const GIVEN_BYTES_MAX: usize = 64;

/// The member of a body that keeps the texts: an object of member name and text.
pub const TIMES_GIVEN: &str = "times_given";

/// A time that was given: what Deponent reckons with, and the text where that says more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenTime {
    /// Cut to microseconds.
    pub time: Timestamp,
    finer: Option<Box<str>>,
}

impl GivenTime {
    /// Reads an RFC 3339 time as [`Timestamp::parse_exact`] does; the text is kept if something was cut off.
    ///
    /// # Errors
    /// [`TimeError`]; [`TimeError::TooLong`] beyond [`GIVEN_BYTES_MAX`].
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        if text.len() > GIVEN_BYTES_MAX {
            return Err(TimeError::TooLong);
        }
        let (time, is_finer) = Timestamp::parse_exact(text)?;
        Ok(Self {
            time,
            finer: is_finer.then(|| text.into()),
        })
    }
}

impl<'de> Deserialize<'de> for GivenTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl serde::de::Visitor<'_> for Text {
            type Value = GivenTime;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "an RFC 3339 time such as {EXAMPLE}")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<GivenTime, E> {
                GivenTime::parse(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// The texts of those of a request's times that say more than microseconds, by the name of their member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimesGiven(Vec<(&'static str, Box<str>)>);

impl TimesGiven {
    /// Of the times of a request, each with its member's name.
    pub fn of<const N: usize>(given: [(&'static str, Option<&GivenTime>); N]) -> Self {
        let finer = given
            .into_iter()
            .filter_map(|(name, time)| Some((name, time?.finer.clone()?)));
        Self(finer.collect())
    }

    /// What stands under [`TIMES_GIVEN`]; `None`: there is no such member.
    pub(crate) fn to_value(&self) -> Option<Value> {
        let texts = || Value::object(self.0.iter().map(|(name, text)| (*name, &**text)));
        (!self.0.is_empty()).then(texts)
    }

    /// The canonical body with the member in it. One without such times stays as it is.
    pub fn put(&self, body: Vec<u8>) -> Vec<u8> {
        match self.to_value() {
            // No body is anything but an object, nor has a member of that name of its own.
            Some(times) => canonical::with_member(&body, TIMES_GIVEN, &times).unwrap_or(body),
            None => body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINER: &str = "2026-01-01T00:00:00.123456789Z";

    fn given(text: &str) -> GivenTime {
        GivenTime::parse(text).expect(text)
    }

    fn put(text: &str, body: &str) -> String {
        let times = TimesGiven::of([("timestamp", Some(&given(text))), ("at", None)]);
        String::from_utf8(times.put(body.into())).unwrap()
    }

    #[test]
    fn a_text_is_kept_where_it_says_more_than_microseconds() {
        let time = Timestamp::parse("2026-01-01T00:00:00.123456Z").unwrap();
        for (text, is_kept) in [
            (FINER, true),
            ("2026-01-01t02:00:00.1234560001+02:00", true),
            ("2026-01-01T00:00:00.123456Z", false),
            ("2026-01-01T00:00:00.123456000Z", false),
        ] {
            let read = given(text);
            assert_eq!(
                (read.time, read.finer.as_deref()),
                (time, is_kept.then_some(text))
            );
            assert_eq!(
                serde_json::from_str::<GivenTime>(&format!("{text:?}")).unwrap(),
                read
            );
        }
    }

    #[test]
    fn a_longer_text_than_is_kept_is_refused() {
        let of = |digits: usize| format!("2026-01-01T00:00:00.{}Z", "1".repeat(digits));
        assert_eq!(of(43).len(), GIVEN_BYTES_MAX);
        assert!(GivenTime::parse(&of(43)).is_ok());
        assert_eq!(GivenTime::parse(&of(44)), Err(TimeError::TooLong));
        let refused = serde_json::from_str::<GivenTime>(&format!("{:?}", of(44))).unwrap_err();
        assert!(
            refused.to_string().starts_with("time of more than 64 bytes"),
            "{refused}"
        );
        assert!(serde_json::from_str::<GivenTime>("\"yesterday\"").is_err());
        assert!(serde_json::from_str::<GivenTime>("0").is_err());
    }

    #[test]
    fn a_body_has_the_member_where_it_belongs_or_is_as_it_was() {
        let member = format!(r#""times_given":{{"timestamp":"{FINER}"}}"#);
        assert_eq!(
            put(FINER, r#"{"step":{}}"#),
            format!(r#"{{"step":{{}},{member}}}"#)
        );
        assert_eq!(
            put(FINER, r#"{"a":1,"total_tokens":2}"#),
            format!(r#"{{"a":1,{member},"total_tokens":2}}"#)
        );
        let coarse = "2026-01-01T00:00:00.123456Z";
        assert_eq!(put(coarse, r#"{"step":{}}"#), r#"{"step":{}}"#);
        assert_eq!(
            TimesGiven::of([("timestamp", Some(&given(coarse)))]),
            TimesGiven::default()
        );
        let both = TimesGiven::of([
            ("started_at", Some(&given(FINER))),
            ("frozen_timestamp", Some(&given(FINER))),
        ]);
        assert_eq!(
            String::from_utf8(both.put(b"{}".to_vec())).unwrap(),
            format!(r#"{{"times_given":{{"frozen_timestamp":"{FINER}","started_at":"{FINER}"}}}}"#)
        );
    }
}
