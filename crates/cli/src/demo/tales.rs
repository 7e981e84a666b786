//! What the agents of the demo do: their tasks, tools, rules and words.
//!
//! A text has gaps, `{order}` for instance, which are filled once a run, so that everything said in a run is
//! about the same order. `{n}` is another number each time.

mod agents;
mod gaps;

pub(super) use agents::AGENTS;
#[cfg(test)]
pub(super) use gaps::GAPS;
pub(super) use gaps::Gaps;

pub(super) struct Model {
    pub(super) provider: &'static str,
    pub(super) name: &'static str,
    pub(super) served: &'static str,
    pub(super) id_prefix: &'static str,
    /// US dollars a million tokens.
    pub(super) input_price: f64,
    pub(super) output_price: f64,
    /// Spends reasoning tokens.
    pub(super) thinks: bool,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn model(names: [&'static str; 4], prices: [f64; 2], thinks: bool) -> Model {
    let [provider, name, served, id_prefix] = names;
    let [input_price, output_price] = prices;
    Model {
        provider,
        name,
        served,
        id_prefix,
        input_price,
        output_price,
        thinks,
    }
}

pub(super) static MODELS: &[Model] = &[
    model(
        ["openai", "gpt-4o", "gpt-4o-2024-08-06", "chatcmpl-"],
        [2.5, 10.0],
        false,
    ),
    model(
        ["openai", "gpt-4o-mini", "gpt-4o-mini-2024-07-18", "chatcmpl-"],
        [0.15, 0.6],
        false,
    ),
    model(
        ["anthropic", "claude-sonnet-4", "claude-sonnet-4-20250514", "msg_"],
        [3.0, 15.0],
        true,
    ),
    model(
        ["gcp.gemini", "gemini-2.5-pro", "gemini-2.5-pro-001", "resp-"],
        [1.25, 10.0],
        true,
    ),
    model(
        [
            "mistral_ai",
            "mistral-large-latest",
            "mistral-large-2411",
            "cmpl-",
        ],
        [2.0, 6.0],
        false,
    ),
    model(
        [
            "aws.bedrock",
            "amazon.nova-pro-v1",
            "amazon.nova-pro-v1:0",
            "bdr-",
        ],
        [0.8, 3.2],
        false,
    ),
];

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) name: &'static str,
    pub(super) service: &'static str,
    pub(super) version: &'static str,
    pub(super) system: &'static str,
    /// By number in [`MODELS`].
    pub(super) models: &'static [usize],
    pub(super) tasks: &'static [Task],
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) ask: &'static [&'static str],
    pub(super) calls: &'static [Call],
    pub(super) answer: &'static [&'static str],
    /// Asked before the last call.
    pub(super) rule: Option<&'static Rule>,
    /// Goes round several times.
    pub(super) loops: bool,
    /// Begins with a search by meaning.
    pub(super) looks_up: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) tool: &'static str,
    pub(super) why: &'static str,
    pub(super) arguments: &'static str,
    pub(super) results: &'static [&'static str],
    pub(super) breaks: &'static [&'static str],
    /// The tool is an agent of its own.
    pub(super) nested: bool,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: &'static str,
    pub(super) allows: &'static [&'static str],
    pub(super) denies: &'static [&'static str],
}
