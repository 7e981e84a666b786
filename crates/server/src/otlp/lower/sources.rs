//! Where a model call's messages stand, most telling place first.
//!
//! Attributes of today (JSON text or values), the event that may carry them, the events of before 1.37, what
//! OpenInference and OpenLLMetry flatten, and the plain input and output. The first place that has messages
//! is used; the others stay as sent.

use evidence::canonical::Value;

use super::super::any::{Any, Attr};
use super::super::span::Event;
use super::names::{Flat, Slot};
use super::view::{Used, View, find, parse_text, parsed};
use super::{flat, messages};

/// Messages, each with the role it has if it names none.
pub(crate) type Messages = Vec<(Value, &'static str)>;

/// The event that carries today's attributes.
const DETAILS: &str = "gen_ai.client.inference.operation.details";

const INPUT: &str = "gen_ai.input.messages";
const OUTPUT: &str = "gen_ai.output.messages";
const INSTRUCTIONS: &str = "gen_ai.system_instructions";

/// The message events of before 1.37 and the role of each.
static MESSAGE_EVENTS: &[(&str, &str)] = &[
    ("gen_ai.assistant.message", "assistant"),
    ("gen_ai.system.message", "system"),
    ("gen_ai.tool.message", "tool"),
    ("gen_ai.user.message", "user"),
];
const CHOICE: &str = "gen_ai.choice";
/// The events of before 1.28, each with one attribute.
const CONTENT_PROMPT: &str = "gen_ai.content.prompt";
const CONTENT_COMPLETION: &str = "gen_ai.content.completion";

/// Whether an event is of a generation before 1.37.
pub(crate) fn is_old(event: &Event<'_>) -> bool {
    MESSAGE_EVENTS.iter().any(|(name, _)| *name == event.name)
        || [CHOICE, CONTENT_PROMPT, CONTENT_COMPLETION].contains(&event.name)
}

/// What was sent to the model. The places used go to `used`.
pub(crate) fn input(view: &View<'_, '_>, used: &mut Used) -> Messages {
    let today = with_instructions(
        view.value(Slot::Instructions),
        view.value(Slot::InputMessages),
        used,
    );
    if !today.is_empty() {
        used.attributes.extend(
            [Slot::Instructions, Slot::InputMessages]
                .map(|slot| view.found.place(slot))
                .into_iter()
                .flatten(),
        );
        return today;
    }
    if let Some((place, event)) = details(view) {
        let of = |key| find(&event.attributes, key);
        let messages = with_instructions(of(INSTRUCTIONS), of(INPUT), used);
        if !messages.is_empty() {
            use_details(view, place, event, used);
            return messages;
        }
    }
    let events = from_events(view, used, |event| {
        MESSAGE_EVENTS
            .iter()
            .find(|(name, _)| *name == event.name)
            .map(|(_, role)| *role)
    });
    if !events.is_empty() {
        return events;
    }
    for source in [Flat::InputMessages, Flat::Prompt] {
        let list = flat::list(view, source, used);
        if !list.is_empty() {
            return list.into_iter().map(|message| (message, "user")).collect();
        }
    }
    whole(
        view,
        [Slot::Prompt, Slot::InputValue],
        CONTENT_PROMPT,
        "gen_ai.prompt",
        "user",
        used,
    )
}

/// What the model answered. The places used go to `used`.
pub(crate) fn output(view: &View<'_, '_>, used: &mut Used) -> Messages {
    if let Some(value) = view.value(Slot::OutputMessages) {
        used.attributes.extend(view.found.place(Slot::OutputMessages));
        return listed(parsed(value), "assistant", used);
    }
    let carried =
        details(view).and_then(|(place, event)| Some((place, event, find(&event.attributes, OUTPUT)?)));
    if let Some((place, event, value)) = carried {
        use_details(view, place, event, used);
        return listed(parsed(value), "assistant", used);
    }
    let events = from_events(view, used, |event| (event.name == CHOICE).then_some("assistant"));
    if !events.is_empty() {
        return events;
    }
    for source in [Flat::OutputMessages, Flat::Completion] {
        let list = flat::list(view, source, used);
        if !list.is_empty() {
            return list.into_iter().map(|message| (message, "assistant")).collect();
        }
    }
    let slots = [Slot::Completion, Slot::OutputValue];
    whole(
        view,
        slots,
        CONTENT_COMPLETION,
        "gen_ai.completion",
        "assistant",
        used,
    )
}

/// Instructions, as a first message with the role `system`, and the messages.
fn with_instructions(instructions: Option<Any<'_>>, sent: Option<Any<'_>>, used: &mut Used) -> Messages {
    let sent = sent
        .map(|value| listed(parsed(value), "user", used))
        .unwrap_or_default();
    let Some(instructions) = instructions.map(parsed).filter(|value| !value.is_null()) else {
        return sent;
    };
    let parts = match instructions {
        Value::Array(parts) => parts,
        part => vec![part],
    };
    if parts.is_empty() {
        return sent;
    }
    let parts = Value::Array(parts);
    // Some emitters repeat the instructions as the first message.
    let repeated = |message: &Value| {
        message.get("parts") == Some(&parts) && message.get("role").and_then(Value::as_str) == Some("system")
    };
    if sent.first().is_some_and(|(message, _)| repeated(message)) {
        return sent;
    }
    let system = Value::object([("parts", parts), ("role", Value::from("system"))]);
    std::iter::once((system, "system")).chain(sent).collect()
}

/// The messages that a value holds: a list of them, an object with such a list, one message, or its text.
///
/// An object that says more than its messages stays as sent too.
fn listed(mut value: Value, role: &'static str, used: &mut Used) -> Messages {
    if let Some(Value::Array(_)) = value.get("messages") {
        used.lossy |= value.as_object().is_none_or(|members| members.len() != 1);
        value = value.remove("messages").unwrap_or_default();
    }
    match value {
        Value::Null => Vec::new(),
        Value::Array(list) => list.into_iter().map(|message| (message, role)).collect(),
        one => vec![(one, role)],
    }
}

fn details<'v, 'a>(view: &View<'v, 'a>) -> Option<(usize, &'v Event<'a>)> {
    view.events
        .iter()
        .enumerate()
        .find(|(_, event)| event.name == DETAILS)
}

/// The event is used up when it says nothing but messages and what the span says too. That its sender dropped some of it
/// the span does not say.
fn use_details(view: &View<'_, '_>, place: usize, event: &Event<'_>, used: &mut Used) {
    let repeats = |attr: &Attr<'_>| {
        let span = find(view.attrs, attr.key);
        matches!((span, attr.value), (Some(Any::Str(a)), Any::Str(b)) if a == b)
            || matches!((span, attr.value), (Some(Any::Int(a)), Any::Int(b)) if a == b)
    };
    let is_told = |attr: &Attr<'_>| [INPUT, OUTPUT, INSTRUCTIONS].contains(&attr.key) || repeats(attr);
    if event.dropped == 0 && event.attributes.iter().all(is_told) {
        used.events.push(place);
    }
}

/// One message an event, for those events that have a role.
fn from_events(
    view: &View<'_, '_>,
    used: &mut Used,
    role: impl Fn(&Event<'_>) -> Option<&'static str>,
) -> Messages {
    let mut messages = Messages::new();
    for (place, event) in view.events.iter().enumerate() {
        if let Some(role) = role(event) {
            used.lossy |= event.dropped != 0;
            messages.push((body(event, used), role));
            used.events.push(place);
        }
    }
    messages
}

/// The body of an event: the JSON text that carries it, else its attributes.
fn body(event: &Event<'_>, used: &mut Used) -> Value {
    let carried = ["gen_ai.event.content", "event.body", "body"];
    let text = carried.iter().find_map(|key| find(&event.attributes, key));
    if let Some(body) = text.map(parsed).filter(|body| body.as_object().is_some()) {
        let known = |key: &str| carried.contains(&key) || messages::REPEATED.contains(&key);
        used.lossy |= event.attributes.iter().filter(|attr| !known(attr.key)).count() > 0;
        return body;
    }
    // Calls and the message itself stand as JSON text in an attribute; content is text, whatever it looks like.
    let value = |attr: &Attr<'_>| match (attr.key, attr.value) {
        ("tool_calls" | "message", Any::Str(text)) => parse_text(text).unwrap_or_else(|| Value::from(text)),
        (_, value) => value.to_value(),
    };
    Value::object(event.attributes.iter().map(|attr| (attr.key, value(attr))))
}

/// A prompt or answer as a whole: an attribute, or the event of before 1.28.
fn whole(
    view: &View<'_, '_>,
    slots: [Slot; 2],
    event_name: &str,
    key: &str,
    role: &'static str,
    used: &mut Used,
) -> Messages {
    for slot in slots {
        if let Some(value) = view.value(slot) {
            used.attributes.extend(view.found.place(slot));
            return plain(value, role, used);
        }
    }
    let event = view
        .events
        .iter()
        .enumerate()
        .find(|(_, event)| event.name == event_name);
    let Some((place, event)) = event else {
        return Vec::new();
    };
    let Some(value) = find(&event.attributes, key) else {
        return Vec::new();
    };
    used.lossy |= event.dropped != 0;
    used.events.push(place);
    plain(value, role, used)
}

/// Messages if the value holds some, else its text as one.
fn plain(value: Any<'_>, role: &'static str, used: &mut Used) -> Messages {
    let read = parsed(value);
    let is_message = |value: &Value| value.get("role").is_some() || value.get("message").is_some();
    let holds = match &read {
        Value::Array(list) => !list.is_empty() && list.iter().all(is_message),
        Value::Object(_) => is_message(&read) || matches!(read.get("messages"), Some(Value::Array(_))),
        _ => false,
    };
    if holds {
        listed(read, role, used)
    } else {
        vec![(value.to_value(), role)]
    }
}
