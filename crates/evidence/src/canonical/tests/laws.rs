//! The laws, over arbitrary values and bytes.

use super::*;
use proptest::prelude::*;

fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        any::<String>(),
        "[\"\\\\\u{0}-\u{20}a/é\u{e000}-\u{10ffff}]{0,12}"
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-INTEGER_MAX..=INTEGER_MAX).prop_map(Value::Int),
        any::<f64>().prop_filter_map("finite", |number| Finite::new(number).map(Value::from)),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..8).prop_map(Value::object),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_as_the_same_value(value in any_value()) {
        let bytes = to_vec(&value);
        prop_assert_eq!(parse(&bytes, Limits::default()), Ok(value.clone()));
        prop_assert!(is_canonical(&bytes));
        prop_assert_eq!(from_serde(&to_serde(&value)), Ok(value));
    }

    #[test]
    fn any_spelling_of_a_value_has_the_same_canonical_form(value in any_value()) {
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        prop_assert_eq!(parse(&pretty, Limits::default()), Ok(value));
    }

    #[test]
    fn a_double_survives_its_text(number in any::<f64>()) {
        if let Some(finite) = Finite::new(number) {
            let text = number_text(number);
            let read = text.trim_matches('"').parse().ok().and_then(Finite::new);
            prop_assert_eq!(read, Some(finite));
        }
    }

    #[test]
    fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[\\[\\]{}\",:\\\\u0-9a-fdD8eE+.\\- tnl]{0,40}") {
        for bytes in [&bytes[..], text.as_bytes()] {
            if let Ok(value) = parse(bytes, Limits::default()) {
                let written = to_vec(&value);
                prop_assert_eq!(parse(&written, Limits::default()), Ok(value));
            }
        }
    }
}
