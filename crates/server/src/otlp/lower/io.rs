//! What tools and lookups got and gave.

use evidence::canonical::{Value, to_vec};

use super::super::any::Any;
use super::flat;
use super::names::{Flat, Slot};
use super::view::{Used, View, as_input, parsed};

/// The arguments of a tool call, an object; JSON text is parsed, anything else is `{"input": value}`.
pub(crate) fn tool_input(view: &View<'_, '_>, used: &mut Used) -> Option<Vec<u8>> {
    let parameters = |value: Any<'_>| Some(parsed(value)).filter(|value| !is_schema(value));
    let read = |slot: Slot, read: &dyn Fn(Any<'_>) -> Option<Value>| Some((slot, read(view.value(slot)?)?));
    let as_sent = |value: Any<'_>| Some(parsed(value));
    let (slot, sent) = read(Slot::ToolArguments, &as_sent)
        .or_else(|| read(Slot::ToolParameters, &parameters))
        .or_else(|| read(Slot::InputValue, &as_sent))
        .or_else(|| read(Slot::EntityInput, &as_sent))?;
    let (arguments, cut) = match slot {
        Slot::EntityInput => unwrap_call(sent),
        _ => (sent, false),
    };
    if !cut {
        used.attributes.extend(view.found.place(slot));
    }
    Some(to_vec(&as_input(arguments)))
}

/// The result of a tool call; JSON text is parsed.
pub(crate) fn tool_output(view: &View<'_, '_>, used: &mut Used) -> Option<Vec<u8>> {
    let slots = [Slot::ToolResult, Slot::OutputValue, Slot::EntityOutput];
    let (slot, sent) = slots
        .iter()
        .find_map(|&slot| Some((slot, parsed(view.value(slot)?))))?;
    let (result, cut) = match (slot, sent) {
        // LangChain's callback: {"output": …, "kwargs": …}.
        (Slot::EntityOutput, Value::Object(members)) if is_exactly(&members, &["kwargs", "output"]) => {
            (Value::Object(members).remove("output").unwrap_or_default(), true)
        }
        (_, sent) => (sent, false),
    };
    if !cut {
        used.attributes.extend(view.found.place(slot));
    }
    Some(to_vec(&result))
}

/// OpenInference names the parameters' schema as it names the parameters.
fn is_schema(value: &Value) -> bool {
    value.get("properties").is_some() || value.get("$schema").is_some()
}

/// The arguments in the wrappings of OpenLLMetry: a decorated function's `{"args": [], "kwargs": {…}}` and
/// LangChain's callback. `true` when something was cut off.
fn unwrap_call(mut sent: Value) -> (Value, bool) {
    let members = sent.as_object().unwrap_or_default();
    let empty = |key: &str| {
        sent.get(key)
            .and_then(Value::as_array)
            .is_some_and(<[_]>::is_empty)
    };
    if is_exactly(members, &["args", "kwargs"]) && empty("args") {
        return (sent.remove("kwargs").unwrap_or_default(), false);
    }
    if sent.get("input_str").is_some()
        && sent
            .get("inputs")
            .is_some_and(|inputs| inputs.as_object().is_some())
    {
        return (sent.remove("inputs").unwrap_or_default(), true);
    }
    (sent, false)
}

fn is_exactly(members: &[(String, Value)], keys: &[&str]) -> bool {
    members.len() == keys.len() && members.iter().zip(keys).all(|((found, _), key)| found == key)
}

/// What was looked up: `{"input": …}`.
pub(crate) fn query(view: &View<'_, '_>, used: &mut Used) -> Option<Vec<u8>> {
    let slots = [Slot::RetrievalQuery, Slot::InputValue, Slot::EntityInput];
    let (slot, value) = slots.iter().find_map(|&slot| Some((slot, view.value(slot)?)))?;
    used.attributes.extend(view.found.place(slot));
    Some(to_vec(&input_of(parsed(value))))
}

/// An object that is an input already stays as it is.
fn input_of(value: Value) -> Value {
    match &value {
        Value::Object(members) if is_exactly(members, &["input"]) => value,
        _ => Value::Object(vec![("input".to_owned(), value)]),
    }
}

/// What was found: the documents.
pub(crate) fn documents(view: &View<'_, '_>, used: &mut Used) -> Option<Vec<u8>> {
    if let Some(value) = view.value(Slot::RetrievalDocuments) {
        used.attributes.extend(view.found.place(Slot::RetrievalDocuments));
        return Some(to_vec(&parsed(value)));
    }
    let list: Vec<Value> = flat::list(view, Flat::Documents, used)
        .into_iter()
        .map(|mut element| {
            let mut document = element.remove("document").unwrap_or(element);
            // OpenInference sends metadata as JSON text.
            if let Some(metadata) = document.remove("metadata") {
                document.insert("metadata", super::view::parsed_value(&metadata));
            }
            document
        })
        .collect();
    if !list.is_empty() {
        return Some(to_vec(&Value::Array(list)));
    }
    let value = view.value(Slot::OutputValue)?;
    used.attributes.extend(view.found.place(Slot::OutputValue));
    Some(to_vec(&parsed(value)))
}

/// The texts that vectors were made of: `{"input": …}`, one text or a list. The vectors stay as sent.
pub(crate) fn embedded(view: &View<'_, '_>, used: &mut Used) -> Option<Vec<u8>> {
    let mut texts = Vec::new();
    for (place, path, value) in view.found.flat(Flat::Embeddings, view.attrs) {
        if path.ends_with(".embedding.text") {
            texts.push((
                path.split('.').next().and_then(|index| index.parse::<u64>().ok()),
                place,
                value.to_value(),
            ));
        }
    }
    if texts.is_empty() {
        for (place, path, value) in view.found.flat(Flat::Prompt, view.attrs) {
            if path.ends_with(".content") {
                texts.push((
                    path.split('.').next().and_then(|index| index.parse::<u64>().ok()),
                    place,
                    value.to_value(),
                ));
            }
        }
    }
    if texts.is_empty() {
        let slots = [Slot::InputMessages, Slot::InputValue, Slot::Prompt];
        let (slot, value) = slots.iter().find_map(|&slot| Some((slot, view.value(slot)?)))?;
        used.attributes.extend(view.found.place(slot));
        return Some(to_vec(&input_of(parsed(value))));
    }
    texts.sort_by_key(|(index, ..)| *index);
    used.attributes.extend(texts.iter().map(|(_, place, _)| *place));
    let mut values: Vec<Value> = texts.into_iter().map(|(.., value)| value).collect();
    let input = if values.len() == 1 {
        values.remove(0)
    } else {
        Value::Array(values)
    };
    Some(to_vec(&Value::Object(vec![("input".to_owned(), input)])))
}
