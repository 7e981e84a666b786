//! Messages of every shape, written in the one shape that steps have.
//!
//! `{"messages":[{"parts":[…],"role":"user"},…]}` with the parts `text` {content}, `tool_call` {name,
//! arguments}, `tool_call_response` {response}, `reasoning` {content} and others as they come, all without
//! ids. So the same conversation gives the same bytes whichever vocabulary carried it. Read are: OTel's parts
//! (schema and example, which differ in `response` and `result`), the bodies of the older events, what
//! OpenInference and OpenLLMetry flatten, and the providers' own shapes that emitters pass through.
//!
//! Whoever calls learns whether anything was left out (an id, a name), and then keeps what was sent as well.

use evidence::canonical::{Value, Writer};
use evidence::sha256;

use super::view::parsed_value;

/// What was said, and what the writing of it showed.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Something of what was sent does not stand in the messages.
    pub(crate) lossy: bool,
    /// Why the first message that says so ended.
    pub(crate) finish: Option<String>,
    /// SHA-256 of the text parts, one after the other; none without text.
    pub(crate) fingerprint: Option<[u8; 32]>,
}

/// Writes messages, each with the role it has if it names none.
pub(crate) fn write(messages: &[(Value, &str)], out: &mut Vec<u8>) -> Said {
    let mut text = Text::default();
    let mut said = Said::default();
    let mut w = Writer::new(out);
    w.open_object();
    w.key("messages");
    w.open_array();
    for (message, role) in messages {
        let mut speaker = Speaker {
            w: &mut w,
            said: &mut said,
            text: &mut text,
        };
        speaker.message(message, role);
    }
    w.close_array();
    w.close_object();
    said.fingerprint = text.any.then(|| sha256(&text.bytes));
    said
}

#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    any: bool,
}

struct Speaker<'s, 'w, 'o> {
    w: &'w mut Writer<'o>,
    said: &'s mut Said,
    text: &'s mut Text,
}

/// Members that say nothing that another place does not say.
pub(crate) const REPEATED: [&str; 6] = [
    "event.name",
    "gen_ai.provider.name",
    "gen_ai.system",
    "index",
    "role",
    "type",
];

/// Ids, which differ from one run to the next.
const IDS: [&str; 3] = ["id", "call_id", "tool_call_id"];

impl Speaker<'_, '_, '_> {
    fn message(&mut self, sent: &Value, role: &str) {
        // A choice, and what OpenInference flattens, wrap the message.
        let mut message = sent;
        let inner;
        if let Some(wrapped) = sent.get("message") {
            self.finish(sent);
            self.leave_out(sent, &["message", "finish_reason"]);
            inner = parsed_value(wrapped);
            message = &inner;
        }
        let given = message
            .get("role")
            .or_else(|| sent.get("role"))
            .and_then(Value::as_str);
        let role = self.role(given.filter(|given| !given.is_empty()).unwrap_or(role));
        self.finish(message);

        self.w.open_object();
        self.w.key("parts");
        self.w.open_array();
        match message {
            Value::Object(_) => self.parts(message, &role),
            Value::Null => {}
            text => self.content(text, &role),
        }
        self.w.close_array();
        self.w.key("role");
        self.w.str(&role);
        self.w.close_object();
    }

    fn role(&mut self, given: &str) -> String {
        let role = match given.to_ascii_lowercase().as_str() {
            "human" => "user",
            "ai" | "model" => "assistant",
            "function" => "tool",
            lower => ["assistant", "system", "tool", "user"]
                .into_iter()
                .find(|known| *known == lower)
                .unwrap_or(given),
        };
        self.said.lossy |= role != given;
        role.to_owned()
    }

    fn finish(&mut self, object: &Value) {
        let Some(reason) = object.get("finish_reason") else {
            return;
        };
        match (reason.as_str(), &self.said.finish) {
            (Some("") | None, _) => {}
            (Some(reason), None) => self.said.finish = Some(reason.to_owned()),
            (Some(reason), Some(first)) => self.said.lossy |= reason != first,
        }
    }

    /// What an object holds under that name, where it does nothing but wrap it; else the object.
    fn unwrapped<'v>(&mut self, sent: &'v Value, name: &str) -> &'v Value {
        let Some(inner) = sent.get(name) else {
            return sent;
        };
        self.leave_out(sent, &[name]);
        inner
    }

    /// What an object says under the first of those names; notes whether it says something else under another. Some send it
    /// under two, for readers of either.
    fn one_of<'v>(&mut self, object: &'v Value, names: &[&str]) -> Option<&'v Value> {
        let mut found = names
            .iter()
            .filter_map(|name| object.get(name).filter(|value| !value.is_null()));
        let first = found.next()?;
        self.said.lossy |= found.any(|other| other != first);
        Some(first)
    }

    /// Notes whether an object has members beside those, and those that need no keeping.
    fn leave_out(&mut self, object: &Value, known: &[&str]) {
        let members = object.as_object().unwrap_or_default();
        self.said.lossy |= members.iter().any(|(key, value)| {
            !value.is_null() && !known.contains(&key.as_str()) && !REPEATED.contains(&key.as_str())
        });
    }

    fn parts(&mut self, message: &Value, role: &str) {
        const KNOWN: [&str; 11] = [
            "content",
            "contents",
            "finish_reason",
            "function_call",
            "function_call_arguments_json",
            "function_call_name",
            "parts",
            "reasoning_content",
            "role",
            "text",
            "tool_calls",
        ];
        self.leave_out(message, &KNOWN);
        match message.get("reasoning_content") {
            None | Some(Value::Null) => {}
            Some(Value::String(reasoning)) => self.reasoning(reasoning),
            Some(_) => self.said.lossy = true,
        }
        match message.get("parts") {
            None | Some(Value::Null) => {}
            Some(Value::Array(parts)) => parts.iter().for_each(|part| self.part(part)),
            Some(_) => self.said.lossy = true,
        }
        let calls = message.get("tool_calls").map(parsed_value);
        let calls = calls.as_ref().filter(|calls| !calls.is_null());
        self.said.lossy |= calls.is_some_and(|calls| calls.as_array().is_none());
        let calls = calls.and_then(Value::as_array).unwrap_or_default();
        let call = message.get("function_call").filter(|call| !call.is_null());
        let flat_call = message.get("function_call_name");
        let called = !calls.is_empty() || call.is_some() || flat_call.is_some();
        for content in ["content", "contents", "text"]
            .iter()
            .filter_map(|key| message.get(key))
        {
            // A message that only calls tools has an empty content in some vocabularies and none in others.
            if !(called && content.as_str() == Some("")) {
                self.content(content, role);
            }
        }
        for call in calls.iter().chain(call) {
            let call = self.unwrapped(call, "tool_call");
            self.call(call);
        }
        if let Some(name) = flat_call {
            self.call_of(Some(name), message.get("function_call_arguments_json"));
        }
    }

    fn content(&mut self, content: &Value, role: &str) {
        match content {
            Value::Null => {}
            Value::Array(parts) => parts.iter().for_each(|part| match text_of(part) {
                Some(text) if role == "tool" => {
                    let part = self.unwrapped(part, "message_content");
                    self.leave_out(part, &["content", "text"]);
                    self.one_of(part, &["content", "text"]);
                    self.response(&Value::from(text));
                }
                _ => self.part(part),
            }),
            _ if role == "tool" => self.response(content),
            Value::String(text) => self.say(text),
            Value::Object(_) => self.part(content),
            other => self.say(&String::from_utf8_lossy(&evidence::canonical::to_vec(other))),
        }
    }

    fn part(&mut self, part: &Value) {
        let part = self.unwrapped(part, "message_content");
        if let Some(text) = part.as_str() {
            return self.say(text);
        }
        let get = |keys: &[&str]| keys.iter().find_map(|key| part.get(key));
        match part.get("type").and_then(Value::as_str) {
            Some("text" | "input_text" | "output_text") | None if text_of(part).is_some() => {
                self.leave_out(part, &["content", "text"]);
                self.one_of(part, &["content", "text"]);
                self.say(text_of(part).unwrap_or_default());
            }
            Some("tool_call" | "tool_use" | "function_call" | "function") => self.call(part),
            Some("tool_call_response" | "tool_result" | "function_call_output") => {
                self.leave_out(part, &["content", "output", "response", "result"]);
                let response = self.one_of(part, &["response", "result", "output", "content"]);
                self.response(response.unwrap_or(&Value::Null));
            }
            Some("reasoning" | "thinking")
                if get(&["content", "reasoning", "text", "thinking"])
                    .is_some_and(|text| text.as_str().is_some()) =>
            {
                self.leave_out(part, &["content", "reasoning", "text", "thinking"]);
                self.one_of(part, &["content", "reasoning", "text", "thinking"]);
                let text = get(&["content", "reasoning", "text", "thinking"]).and_then(Value::as_str);
                self.reasoning(text.unwrap_or_default());
            }
            _ => self.other(part),
        }
    }

    fn say(&mut self, text: &str) {
        self.text.bytes.extend_from_slice(text.as_bytes());
        self.text.any = true;
        self.w.open_object();
        self.w.key("content");
        self.w.str(text);
        self.w.key("type");
        self.w.str("text");
        self.w.close_object();
    }

    fn reasoning(&mut self, text: &str) {
        self.w.open_object();
        self.w.key("content");
        self.w.str(text);
        self.w.key("type");
        self.w.str("reasoning");
        self.w.close_object();
    }

    fn call(&mut self, call: &Value) {
        let function = self.unwrapped(call, "function");
        self.leave_out(function, &["arguments", "input", "name"]);
        self.said.lossy |= function.as_object().is_none();
        let arguments = self.one_of(function, &["arguments", "input"]);
        self.call_of(function.get("name"), arguments);
    }

    fn call_of(&mut self, name: Option<&Value>, arguments: Option<&Value>) {
        self.w.open_object();
        if let Some(arguments) = arguments.filter(|value| !value.is_null() && value.as_str() != Some("")) {
            self.w.key("arguments");
            self.w.value(&parsed_value(arguments));
        }
        if let Some(name) = name {
            self.w.key("name");
            self.w.value(name);
        }
        self.w.key("type");
        self.w.str("tool_call");
        self.w.close_object();
    }

    fn response(&mut self, response: &Value) {
        self.w.open_object();
        self.w.key("response");
        self.w.value(&parsed_value(response));
        self.w.key("type");
        self.w.str("tool_call_response");
        self.w.close_object();
    }

    /// A part of another type: as it is, without ids.
    fn other(&mut self, part: &Value) {
        let Value::Object(members) = part else {
            self.w.value(part);
            return;
        };
        self.w.open_object();
        for (key, value) in members {
            if IDS.contains(&key.as_str()) {
                self.said.lossy = true;
            } else {
                self.w.key_any(key);
                self.w.value(value);
            }
        }
        self.w.close_object();
    }
}

/// The text of a text part.
fn text_of(part: &Value) -> Option<&str> {
    let part = part.get("message_content").unwrap_or(part);
    match part.get("type").and_then(Value::as_str) {
        None | Some("text" | "input_text" | "output_text") => part
            .get("content")
            .or_else(|| part.get("text"))
            .and_then(Value::as_str),
        Some(_) => None,
    }
}
