//! One made-up run, before any vocabulary: an agent, its steps, what went wrong.

use super::dice::Dice;
use super::tales::{AGENTS, Agent, Call, Gaps, MODELS, Model, Task};

/// Who tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    GenAi,
    OpenInference,
}

/// A run: its first step is the agent itself.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) dialect: Dialect,
    pub(super) agent: &'static Agent,
    pub(super) trace_id: [u8; 16],
    pub(super) session: String,
    pub(super) user: String,
    pub(super) instance: String,
    pub(super) steps: Vec<Step>,
}

/// A step, which becomes a span.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) span_id: [u8; 8],
    /// Of an earlier step.
    pub(super) parent: Option<[u8; 8]>,
    /// Nanoseconds since 1970.
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) error: Option<(&'static str, String)>,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Agent {
        name: &'static str,
        input: String,
        output: Option<String>,
    },
    Chat(Box<Chat>),
    Embeddings {
        text: String,
        tokens: u64,
    },
    Tool {
        name: &'static str,
        call_id: String,
        arguments: String,
        result: Option<String>,
    },
    Guardrail {
        rule: &'static str,
        decision: &'static str,
        reason: String,
    },
}

/// A call of a model.
#[derive(Clone, Debug)]
pub(super) struct Chat {
    pub(super) model: &'static Model,
    pub(super) system: &'static str,
    pub(super) input: String,
    /// `None`: no answer came.
    pub(super) output: Option<String>,
    pub(super) finish: &'static str,
    pub(super) response_id: String,
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
    /// Part of the input tokens.
    pub(super) cached_tokens: u64,
    /// Part of the output tokens.
    pub(super) reasoning_tokens: u64,
}

impl Chat {
    /// US dollars.
    #[allow(clippy::cast_precision_loss)] // below 2^32
    pub(super) fn cost(&self) -> f64 {
        let fresh = (self.input_tokens - self.cached_tokens) as f64 + self.cached_tokens as f64 / 10.0;
        let dollars =
            (fresh * self.model.input_price + self.output_tokens as f64 * self.model.output_price) / 1e6;
        (dollars * 1e6).round() / 1e6
    }
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.steps[0].end
    }

    pub(super) fn moved_back(mut self, nanos: u64) -> Self {
        for step in &mut self.steps {
            step.start -= nanos;
            step.end -= nanos;
        }
        self
    }
}

/// How a run goes. Most go well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Well,
    ToolRetried,
    ToolFailed,
    RateLimited,
    ProviderTimeout,
    Denied,
}

/// Makes up one run that begins at `start`.
pub(super) fn make(dice: &mut Dice, start: u64) -> Run {
    let agent = dice.pick(AGENTS);
    let task = dice.pick(agent.tasks);
    let fate = match dice.below(100) {
        0..74 => Fate::Well,
        74..81 => Fate::ToolRetried,
        81..86 => Fate::ToolFailed,
        86..91 => Fate::RateLimited,
        91..95 => Fate::ProviderTimeout,
        _ => Fate::Denied,
    };
    let mut teller = Teller {
        model: &MODELS[*dice.pick(agent.models)],
        gaps: Gaps::fill(dice),
        agent,
        at: start,
        steps: Vec::new(),
        dice,
    };
    let dialect = if teller.dice.percent(60) {
        Dialect::GenAi
    } else {
        Dialect::OpenInference
    };
    teller.tell(task, fate);
    let Teller { steps, dice, .. } = teller;
    Run {
        dialect,
        agent,
        trace_id: dice.bytes(),
        session: format!("sess_{}", dice.hex::<6>()),
        user: format!("user-{:04}", dice.below(900)),
        instance: format!("{}-{}", agent.service, dice.below(4)),
        steps,
    }
}

struct Teller<'a> {
    dice: &'a mut Dice,
    agent: &'static Agent,
    model: &'static Model,
    gaps: Gaps,
    at: u64,
    steps: Vec<Step>,
}

const MILLI: u64 = 1_000_000;

impl Teller<'_> {
    /// Adds a step that lasts `millis`; gives its number.
    fn step(
        &mut self,
        parent: Option<[u8; 8]>,
        millis: u64,
        error: Option<(&'static str, String)>,
        what: What,
    ) -> usize {
        let start = self.at + self.dice.between(1, 20) * MILLI;
        let end = start + millis * MILLI + self.dice.below(MILLI);
        self.at = end;
        self.steps.push(Step {
            span_id: self.dice.bytes(),
            parent,
            start,
            end,
            error,
            what,
        });
        self.steps.len() - 1
    }

    fn tell(&mut self, task: &'static Task, fate: Fate) {
        let ask = self.gaps.text(self.dice, task.ask);
        let root = self.open(None, self.agent.name, &ask);
        let id = Some(self.steps[root].span_id);
        let rounds = if task.loops { self.dice.between(1, 5) } else { 1 };
        let calls: Vec<&Call> = (0..rounds).flat_map(|_| task.calls).collect();
        let troubled = usize::try_from(self.dice.below(calls.len() as u64)).unwrap_or(0);
        // What the model has read so far, in tokens.
        let mut read = 900 + ask.len() as u64 / 4;
        let mut said = ask.clone();
        for (n, call) in calls.iter().enumerate() {
            let trouble = if n == troubled { fate } else { Fate::Well };
            if trouble == Fate::RateLimited {
                let message = format!(
                    "429 Too Many Requests: rate limit reached for {}",
                    self.model.name
                );
                self.chat(id, &said, None, read, Some(("rate_limit_exceeded", message)));
                self.at += self.dice.between(1_000, 6_000) * MILLI;
            }
            if trouble == Fate::ProviderTimeout {
                let message = || "the provider did not answer within 60 s".to_owned();
                self.chat(id, &said, None, read, Some(("timeout", message())));
                self.at += 2_000 * MILLI;
                if self.dice.percent(50) {
                    self.chat(id, &said, None, read, Some(("timeout", message())));
                    return self.close(root, None, Some(("timeout", message())));
                }
            }
            let why = self.gaps.text(self.dice, &[call.why]);
            self.chat(id, &said, Some((&why, "tool_call")), read, None);
            if task.looks_up && n == 0 {
                let (text, tokens) = (ask.clone(), ask.len() as u64 / 4);
                self.step(id, 40, None, What::Embeddings { text, tokens });
            }
            if let Some(rule) = task
                .rule
                .filter(|_| n + 1 == calls.len() || trouble == Fate::Denied)
            {
                let denied = fate == Fate::Denied;
                let reason = self
                    .gaps
                    .text(self.dice, if denied { rule.denies } else { rule.allows });
                let decision = if denied { "deny" } else { "allow" };
                let what = What::Guardrail {
                    rule: rule.id,
                    decision,
                    reason: reason.clone(),
                };
                let millis = self.dice.between(2, 30);
                self.step(id, millis, None, what);
                if denied {
                    let told =
                        format!("I cannot do this by myself: {reason}. I have passed it on to a colleague.");
                    self.chat(id, &reason, Some((&told, "stop")), read + 200, None);
                    return self.close(root, None, Some(("policy_denied", reason)));
                }
            }
            let result = match trouble {
                Fate::ToolRetried => {
                    self.tool(
                        id,
                        call,
                        Some(("ToolTimeout", format!("{} did not answer within 10 s", call.tool))),
                    );
                    self.tool(id, call, None)
                }
                Fate::ToolFailed => {
                    let error = ("ToolExecutionError", self.gaps.text(self.dice, call.breaks));
                    self.tool(id, call, Some(error.clone()));
                    if self.dice.percent(50) {
                        self.tool(id, call, Some(error.clone()));
                    }
                    let told = format!(
                        "The step {} failed ({}), so nothing was changed.",
                        call.tool, error.1
                    );
                    self.chat(id, &error.1, Some((&told, "stop")), read + 150, None);
                    return self.close(root, None, Some(error));
                }
                _ if call.nested => self.helper(id, call),
                _ => self.tool(id, call, None),
            };
            read += 120 + (why.len() + result.len()) as u64 / 4;
            said = result;
        }
        let answer = self.gaps.text(self.dice, task.answer);
        self.chat(id, &said, Some((&answer, "stop")), read, None);
        self.close(root, Some(answer), None);
    }

    fn open(&mut self, parent: Option<[u8; 8]>, name: &'static str, input: &str) -> usize {
        let at = self.step(
            parent,
            0,
            None,
            What::Agent {
                name,
                input: input.to_owned(),
                output: None,
            },
        );
        self.at = self.steps[at].start;
        at
    }

    /// Ends an agent's step with the last of the steps below it.
    fn close(&mut self, at: usize, answer: Option<String>, failed: Option<(&'static str, String)>) {
        self.at += MILLI;
        let step = &mut self.steps[at];
        (step.end, step.error) = (self.at, failed);
        if let What::Agent { output, .. } = &mut step.what {
            *output = answer;
        }
    }

    fn chat(
        &mut self,
        parent: Option<[u8; 8]>,
        input: &str,
        answer: Option<(&str, &'static str)>,
        read: u64,
        error: Option<(&'static str, String)>,
    ) {
        let input_tokens = read + self.dice.below(60);
        let thinks = self.model.thinks && answer.is_some();
        let reasoning_tokens = if thinks { self.dice.between(60, 900) } else { 0 };
        let output_tokens = answer.map_or(0, |(text, _)| text.len() as u64 / 4 + 12 + reasoning_tokens);
        let cached_tokens = if read > 1_200 && self.dice.percent(70) {
            1_024
        } else {
            0
        };
        let millis = match &error {
            Some(("timeout", _)) => 60_000,
            Some(_) => self.dice.between(80, 400),
            None => 300 + output_tokens * self.dice.between(8, 22),
        };
        let chat = Chat {
            model: self.model,
            system: self.agent.system,
            input: input.to_owned(),
            output: answer.map(|(text, _)| text.to_owned()),
            finish: answer.map_or("error", |(_, finish)| finish),
            response_id: format!("{}{}", self.model.id_prefix, self.dice.hex::<12>()),
            input_tokens,
            output_tokens,
            cached_tokens,
            reasoning_tokens,
        };
        self.step(parent, millis, error, What::Chat(Box::new(chat)));
    }

    /// A tool's call; gives its result.
    fn tool(
        &mut self,
        parent: Option<[u8; 8]>,
        call: &Call,
        error: Option<(&'static str, String)>,
    ) -> String {
        let arguments = self.gaps.text(self.dice, &[call.arguments]);
        let result = self.gaps.text(self.dice, call.results);
        let millis = if error.as_ref().is_some_and(|(kind, _)| *kind == "ToolTimeout") {
            10_000
        } else {
            self.dice.between(15, 1_800)
        };
        let call_id = format!("call_{}", self.dice.hex::<12>());
        let kept = error.is_none().then(|| result.clone());
        self.step(
            parent,
            millis,
            error,
            What::Tool {
                name: call.tool,
                call_id,
                arguments,
                result: kept,
            },
        );
        result
    }

    /// An agent that works for another: two calls of the model and a tool below it.
    fn helper(&mut self, parent: Option<[u8; 8]>, call: &Call) -> String {
        let input = self.gaps.text(self.dice, &[call.why]);
        let at = self.open(parent, call.tool, &input);
        let id = Some(self.steps[at].span_id);
        self.chat(
            id,
            &input,
            Some(("I look at the sources first.", "tool_call")),
            700,
            None,
        );
        let found = self.tool(
            id,
            &Call {
                tool: "search_documents",
                ..*call
            },
            None,
        );
        self.chat(id, &found, Some((&found, "stop")), 1_000, None);
        self.close(at, Some(found.clone()), None);
        found
    }
}
