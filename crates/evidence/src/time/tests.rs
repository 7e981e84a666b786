use super::*;
use proptest::prelude::*;

fn micros(text: &str) -> i64 {
    Timestamp::parse(text).expect(text).as_micros()
}

fn refusal(text: &str) -> TimeError {
    Timestamp::parse(text).expect_err(text)
}

#[test]
fn known_times_have_their_known_texts() {
    for (count, text) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_000_000_000_000_000, "2001-09-09T01:46:40.000000Z"),
        (951_827_696_123_456, "2000-02-29T12:34:56.123456Z"),
        (-62_135_596_800_000_000, "0001-01-01T00:00:00.000000Z"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
    ] {
        assert_eq!(micros(text), count);
        let time = Timestamp::from_micros(count).unwrap();
        assert_eq!(time.to_string(), text);
        let mut out = b"at ".to_vec();
        time.write_to(&mut out);
        assert_eq!(out, format!("at {text}").into_bytes());
    }
}

#[test]
fn the_range_ends_at_the_years_1_and_9999() {
    assert_eq!(Timestamp::MIN.to_string(), "0001-01-01T00:00:00.000000Z");
    assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999999Z");
    for outside in [
        Timestamp::MIN.as_micros() - 1,
        Timestamp::MAX.as_micros() + 1,
        i64::MIN,
        i64::MAX,
    ] {
        assert_eq!(Timestamp::from_micros(outside), None);
    }
    assert_eq!(Timestamp::MAX.checked_add_micros(1), None);
    assert_eq!(Timestamp::MIN.checked_add_micros(i64::MIN), None);
    assert_eq!(
        Timestamp::UNIX_EPOCH
            .checked_add_micros(-1)
            .map(Timestamp::as_micros),
        Some(-1)
    );
    assert_eq!(
        Timestamp::MAX.micros_since(Timestamp::MIN),
        315_537_897_599_999_999
    );
    for text in [
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:00-00:01",
        "0000-12-31T23:59:59Z",
    ] {
        assert_eq!(refusal(text), TimeError::OutOfRange, "{text}");
    }
    assert_eq!(micros("0001-01-01T00:01:00+00:01"), Timestamp::MIN.as_micros());
}

#[test]
fn nanoseconds_are_cut_and_the_rest_is_given_back() {
    assert_eq!(Timestamp::from_unix_nanos(1_999), (Timestamp(1), 999));
    let (latest, rest) = Timestamp::from_unix_nanos(u64::MAX);
    assert_eq!(
        (latest.to_string().as_str(), rest),
        ("2554-07-21T23:34:33.709551Z", 615)
    );
}

#[test]
fn every_spelling_of_rfc_3339_is_read() {
    // RFC 3339, section 5.8, but for its leap seconds.
    assert_eq!(
        micros("1985-04-12T23:20:50.52Z"),
        micros("1985-04-12T23:20:50.520000Z")
    );
    assert_eq!(
        micros("1996-12-19T16:39:57-08:00"),
        micros("1996-12-20T00:39:57.000000Z")
    );
    assert_eq!(
        micros("1937-01-01T12:00:27.87+00:20"),
        micros("1937-01-01T11:40:27.870000Z")
    );
    assert_eq!(
        micros("2000-01-01t00:00:00z"),
        micros("2000-01-01T00:00:00-00:00")
    );
    assert_eq!(
        micros("2000-01-01T00:00:00.000000z"),
        micros("2000-01-01T23:59:00+23:59")
    );
}

#[test]
fn a_fraction_is_cut_to_microseconds_and_the_cut_is_told() {
    let cut = |text: &str| Timestamp::parse_exact(text).map(|(time, finer)| (time.as_micros(), finer));
    assert_eq!(cut("1970-01-01T00:00:00.1234567Z"), Ok((123_456, true)));
    assert_eq!(cut("1970-01-01T00:00:00.1234560000Z"), Ok((123_456, false)));
    assert_eq!(cut("1969-12-31T23:59:59.9999999+00:00"), Ok((-1, true)));
    assert_eq!(cut("1970-01-01T00:00:00.5Z"), Ok((500_000, false)));
    assert_eq!(
        cut(&format!("1970-01-01T00:00:00.{}1Z", "0".repeat(5_000))),
        Ok((0, true))
    );
}

#[test]
fn a_finer_time_is_read_up_to_the_next_microsecond_that_there_is() {
    let up = |text: &str| Timestamp::parse_up(text).map(Timestamp::as_micros);
    assert_eq!(up("1970-01-01T00:00:00.1234567Z"), Ok(123_457));
    assert_eq!(up("1970-01-01T00:00:00.1234560000Z"), Ok(123_456));
    assert_eq!(up("1969-12-31T23:59:59.9999999Z"), Ok(0));
    assert_eq!(up("1969-12-31T23:59:59.9999981Z"), Ok(-1));
    let last = Timestamp::MAX.as_micros();
    assert_eq!(up("9999-12-31T23:59:59.999999Z"), Ok(last));
    assert_eq!(up("9999-12-31T23:59:59.9999999Z"), Ok(last));
    assert_eq!(up("yesterday"), Err(TimeError::Malformed));
}

#[test]
fn fields_outside_their_ranges_are_refused() {
    for text in [
        "2023-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2024-02-30T00:00:00Z",
        "2024-04-31T00:00:00Z",
        "2024-00-01T00:00:00Z",
        "2024-13-01T00:00:00Z",
        "2024-01-00T00:00:00Z",
        "2024-01-32T00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:60:00Z",
        "2024-01-01T00:00:61Z",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00-00:60",
    ] {
        assert_eq!(refusal(text), TimeError::FieldOutOfRange, "{text}");
    }
    assert!(Timestamp::parse("2000-02-29T00:00:00Z").is_ok());
    assert_eq!(refusal("1990-12-31T23:59:60Z"), TimeError::LeapSecond);
}

#[test]
fn who_wrote_no_time_is_shown_one() {
    assert!(Timestamp::parse(EXAMPLE).is_ok());
    for text in ["yesterday", "2024-01-01", "2024-01-01T00:00:00"] {
        assert!(refusal(text).to_string().contains(EXAMPLE), "{text}");
    }
    let no_text = serde_json::from_str::<Timestamp>("5").unwrap_err().to_string();
    assert!(no_text.contains(EXAMPLE), "{no_text}");
}

#[test]
fn an_offset_is_required() {
    for text in ["2024-01-01T00:00:00", "2024-01-01T00:00:00.5"] {
        assert_eq!(refusal(text), TimeError::OffsetMissing, "{text}");
    }
}

#[test]
fn other_shapes_are_refused() {
    for text in [
        "",
        "2024-01-01",
        "2024-01-01 00:00:00Z",
        "2024-01-01T00:00Z",
        "24-01-01T00:00:00Z",
        "+2024-01-01T00:00:00Z",
        "12024-01-01T00:00:00Z",
        "2024-1-01T00:00:00Z",
        "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00,5Z",
        "2024-01-01T00:00:00ZZ",
        "2024-01-01T00:00:00Z ",
        " 2024-01-01T00:00:00Z",
        "2024-01-01T00:00:00+0100",
        "2024-01-01T00:00:00+01",
        "2024-01-01T00:00:00.00000:Z",
        "2024-01-01T00:00:00.00000/Z",
        "2024-01-0aT00:00:00Z",
        "２024-01-01T00:00:00Z",
    ] {
        assert_eq!(refusal(text), TimeError::Malformed, "{text}");
    }
}

#[test]
fn serde_uses_the_text() {
    let time = Timestamp::parse("2024-05-06T07:08:09.000010Z").unwrap();
    assert_eq!(
        serde_json::to_string(&time).unwrap(),
        "\"2024-05-06T07:08:09.000010Z\""
    );
    assert_eq!(
        serde_json::from_str::<Timestamp>("\"2024-05-06T09:08:09.00001+02:00\"").unwrap(),
        time
    );
    assert!(serde_json::from_str::<Timestamp>("\"yesterday\"").is_err());
    assert!(serde_json::from_str::<Timestamp>("0").is_err());
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    (Timestamp::MIN.0..=Timestamp::MAX.0).prop_map(Timestamp)
}

proptest! {
    #[test]
    fn a_time_survives_its_text(time in any_time()) {
        let text = time.to_string();
        prop_assert_eq!(text.len(), TEXT_BYTES);
        prop_assert_eq!(Timestamp::parse_exact(&text), Ok((time, false)));
        prop_assert_eq!(Timestamp::parse(&text.replace('Z', "+00:00")), Ok(time));
    }

    #[test]
    fn texts_sort_as_times_do(a in any_time(), b in any_time()) {
        prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
        prop_assert_eq!(a.checked_add_micros(b.micros_since(a)), Some(b));
    }

    #[test]
    fn reading_never_panics(text in any::<String>(), near in "[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})?") {
        for text in [&text, &near] {
            if let Ok(time) = Timestamp::parse(text) {
                prop_assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
            }
        }
    }
}
