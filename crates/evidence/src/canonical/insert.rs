//! One member more in canonical JSON, without reading what the others say.

use super::{DEPTH_CEILING, Limits, Reader, Value, parse, to_vec, write};

/// What a member takes besides its name, mostly: a request's id, or one or two times.
const MEMBER_BYTES: usize = 128;

/// A canonical object with one text more, at the place of its name; `None`: it has a member of that name, or is no
/// object.
pub fn with_text(object: &[u8], name: &str, text: &str) -> Option<Vec<u8>> {
    with_member(object, name, &Value::from(text))
}

/// The same of any value.
pub fn with_member(object: &[u8], name: &str, value: &Value) -> Option<Vec<u8>> {
    let Ok(place) = place_of(object, name) else {
        return by_value(object, name, value);
    };
    let (at, is_last, is_first) = place?;
    let mut out = Vec::with_capacity(object.len() + name.len() + MEMBER_BYTES);
    out.extend_from_slice(object.get(..at)?);
    if is_last && !is_first {
        out.push(b',');
    }
    write(&Value::from(name), &mut out);
    out.push(b':');
    write(value, &mut out);
    if !is_last {
        out.push(b',');
    }
    out.extend_from_slice(object.get(at..)?);
    Some(out)
}

/// What only the general parser reads.
struct Unreadable;

/// Where the member belongs, whether behind all others, and whether there are none; `None`: it is there.
fn place_of(object: &[u8], name: &str) -> Result<Option<(usize, bool, bool)>, Unreadable> {
    let mut reader = Reader::new(object).ok_or(Unreadable)?;
    let (mut next, mut is_there, mut is_first) = (None, false, true);
    reader
        .object(|key, r| {
            is_first = false;
            is_there |= key == name;
            if key > name && next.is_none() {
                // Behind the key stand its quotes and the colon.
                next = Some(r.at().checked_sub(key.len() + 3)?);
            }
            r.skip()
        })
        .and_then(|()| reader.end())
        .ok_or(Unreadable)?;
    if is_there {
        return Ok(None);
    }
    Ok(Some(match next {
        Some(at) => (at, false, is_first),
        None => (object.len() - 1, true, is_first),
    }))
}

fn by_value(object: &[u8], name: &str, value: &Value) -> Option<Vec<u8>> {
    // What is canonical was within limits before.
    let limits = Limits {
        depth_max: DEPTH_CEILING,
        nodes_max: u32::MAX,
    };
    let mut whole = parse(object, limits).ok()?;
    if whole.get(name).is_some() {
        return None;
    }
    whole.as_object()?;
    whole.insert(name, value.clone());
    Some(to_vec(&whole))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(object: &str) -> Option<String> {
        with_text(object.as_bytes(), "request_id", r#"a"b\c"#).map(|out| String::from_utf8(out).unwrap())
    }

    #[test]
    fn it_stands_where_it_belongs_and_never_twice() {
        let id = r#""request_id":"a\"b\\c""#;
        let expected = [
            ("{}", format!("{{{id}}}")),
            (r#"{"a":1}"#, format!(r#"{{"a":1,{id}}}"#)),
            (
                r#"{"z":{"request_id":1}}"#,
                format!(r#"{{{id},"z":{{"request_id":1}}}}"#),
            ),
            (
                r#"{"request":[],"request_ids":0}"#,
                format!(r#"{{"request":[],{id},"request_ids":0}}"#),
            ),
            // What the quick reader leaves to the general one.
            (
                r#"{"a\n":1,"é":"\u0001"}"#,
                format!(r#"{{"a\n":1,{id},"é":"\u0001"}}"#),
            ),
        ];
        for (object, expected) in expected {
            assert_eq!(text(object).as_deref(), Some(expected.as_str()), "{object}");
        }
        for object in [
            r#"{"a":1,"request_id":null}"#,
            r#"{"\n":1,"request_id":null}"#,
            "[]",
            "1",
            "",
            "{",
        ] {
            assert_eq!(text(object), None, "{object}");
        }
    }

    #[test]
    fn a_deep_object_takes_it_too() {
        let deep = format!(r#"{{"a":{}0{}}}"#, "[".repeat(200), "]".repeat(200));
        assert!(text(&deep).unwrap().ends_with(r#"]],"request_id":"a\"b\\c"}"#));
    }

    proptest! {
        #[test]
        fn it_is_what_the_general_way_gives(
            keys in proptest::collection::btree_set(r#"[a-z_é"\\\n]{0,4}|re(quest(_id?)?)?.?"#, 0..6),
            deep in any::<bool>(),
        ) {
            let mut value = Value::Object(Vec::new());
            for (n, key) in keys.into_iter().enumerate() {
                let inner = Value::object([("request_id", Value::from(n as u64))]);
                value.insert(key, if deep { inner } else { Value::from("x\n\"") });
            }
            let object = to_vec(&value);
            for member in [Value::from("i"), Value::object([("a", "i")])] {
                let with = with_member(&object, "request_id", &member);
                prop_assert_eq!(with, by_value(&object, "request_id", &member));
            }
        }
    }
}
