//! A rule: CEL, or the older `… implies …`, which is two conditions of CEL.
//!
//! A condition sees `signal_a`, `signal_b`, `signals` (all by name) and every signal whose name is an
//! identifier. There are no loops: the macros of CEL are refused, so the work is linear in the condition.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::parser::PrattParser;
use cel::{Context, Env};
use evidence::canonical::Value;

use super::Firsts;

/// Longest condition.
pub const CONDITION_BYTES_MAX: usize = 2_000;
/// Most nodes of a condition: what a person can still read. Times the longest signal, 1 MiB at most is built.
pub const CONDITION_NODES_MAX: usize = 256;
/// Deepest nesting of a condition. Parsing and evaluation recurse; 32 levels fit any stack.
pub const CONDITION_DEPTH_MAX: u16 = 32;

/// How bad a contradiction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The panel is inconsistent.
    Error,
    /// It is worth a look.
    Warning,
}

impl Severity {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
        }
    }
}

/// A compiled rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// As given.
    pub id: String,
    /// For people.
    pub name: String,
    /// As given.
    pub condition: String,
    /// As given.
    pub severity: Severity,
    signal_a: Option<String>,
    signal_b: Option<String>,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    /// `signal_a == signal_b`, or its opposite: as the older form compares, where true is 1 and false is 0.
    Same(bool),
    /// If the first holds, the second must.
    Implies(Condition, Condition),
    /// Must hold.
    Cel(Condition),
}

/// A condition of CEL, read.
#[derive(Clone, Debug)]
struct Condition {
    /// As [`strict`] leaves it.
    expression: IdedExpr,
    /// Its free names.
    names: Vec<String>,
}

impl Rule {
    /// The four built-in rules.
    pub fn defaults() -> Vec<Self> {
        const RULES: [(&str, &str, &str, &str, &str); 4] = [
            (
                "CONS-001",
                "Active incidents demand attention",
                "active_incidents",
                "attention_required",
                "signal_a > 0 implies signal_b == True",
            ),
            (
                "CONS-002",
                "Runs at risk stress the system",
                "at_risk_runs",
                "system_state",
                "signal_a > 0 implies signal_b == 'STRESSED'",
            ),
            (
                "CONS-003",
                "Active runs are the running ones",
                "active_runs",
                "runs.by_status.running",
                "signal_a == signal_b",
            ),
            (
                "CONS-004",
                "Active incidents have a severity",
                "active_incidents",
                "highest_severity",
                "signal_a > 0 implies signal_b != 'NONE'",
            ),
        ];
        RULES
            .iter()
            .filter_map(|(id, name, a, b, condition)| {
                let side = |name: &str| Some(name.to_owned());
                // They compile; a test holds their number.
                Self::compile(id, name, side(a), side(b), condition, Severity::Error).ok()
            })
            .collect()
    }

    /// Compiles a condition.
    ///
    /// # Errors
    /// Words that say what is wrong with it.
    pub fn compile(
        id: &str,
        name: &str,
        signal_a: Option<String>,
        signal_b: Option<String>,
        condition: &str,
        severity: Severity,
    ) -> Result<Self, String> {
        if condition.trim().is_empty() {
            return Err("it has no condition".to_owned());
        }
        if condition.len() > CONDITION_BYTES_MAX {
            return Err(format!(
                "its condition is longer than {CONDITION_BYTES_MAX} bytes"
            ));
        }
        let words: Vec<&str> = condition.split_whitespace().collect();
        let form = match words.as_slice() {
            ["signal_a", "==", "signal_b"] if signal_a.is_some() && signal_b.is_some() => Form::Same(true),
            ["signal_a", "!=", "signal_b"] if signal_a.is_some() && signal_b.is_some() => Form::Same(false),
            _ => match implication(condition).as_slice() {
                [only] => Form::Cel(Condition::read(only)?),
                [left, right] => Form::Implies(Condition::read(left)?, Condition::read(right)?),
                _ => return Err("more than one `implies`".to_owned()),
            },
        };
        Ok(Self {
            id: id.to_owned(),
            name: name.to_owned(),
            condition: condition.to_owned(),
            severity,
            signal_a,
            signal_b,
            form,
        })
    }

    /// The signals it is about.
    pub fn signals(&self) -> impl Iterator<Item = &str> {
        self.signal_a.iter().chain(&self.signal_b).map(String::as_str)
    }

    /// The signals that its conditions name themselves, in order of names; not those whose names they compute.
    pub(super) fn named(&self) -> BTreeSet<&str> {
        let conditions = match &self.form {
            Form::Same(_) => [None, None],
            Form::Implies(left, right) => [Some(left), Some(right)],
            Form::Cel(only) => [Some(only), None],
        };
        let mut named = BTreeSet::new();
        for condition in conditions.into_iter().flatten() {
            let names = condition.names.iter().map(String::as_str);
            named.extend(names.filter(|name| !["signal_a", "signal_b", "signals"].contains(name)));
            named.extend(looked_up(&condition.expression).unwrap_or_default());
        }
        named
    }

    /// Whether the signals, in the order of [`Rule::signals`], fulfil it.
    pub(super) fn holds(&self, sides: &[&Value], all: &Signals<'_>) -> Result<bool, String> {
        let mut sides = sides.iter().copied();
        let a = self.signal_a.as_ref().and_then(|_| sides.next());
        let b = self.signal_b.as_ref().and_then(|_| sides.next());
        match &self.form {
            Form::Same(same) => Ok((a.map(as_number) == b.map(as_number)) == *same),
            Form::Implies(left, right) => {
                // Both sides' names first: one that is unknown on the right is an error whatever the left says.
                let (on_left, on_right) = (context(left, a, b, all)?, context(right, a, b, all)?);
                Ok(!truth(left, &on_left)? || truth(right, &on_right)?)
            }
            Form::Cel(only) => truth(only, &context(only, a, b, all)?),
        }
    }
}

fn as_number(value: &Value) -> Value {
    value
        .as_bool()
        .map_or_else(|| value.clone(), |truth| Value::from(i64::from(truth)))
}

/// All signals, made into values of CEL when the first rule asks.
pub(super) struct Signals<'p> {
    firsts: &'p Firsts<'p>,
    map: OnceLock<cel::Value>,
}

impl<'p> Signals<'p> {
    pub(super) fn new(firsts: &'p Firsts<'p>) -> Self {
        Self {
            firsts,
            map: OnceLock::new(),
        }
    }

    fn map(&self) -> cel::Value {
        let make = || {
            let members = self.firsts.iter().map(|(name, first)| (*name, first.value));
            object(members)
        };
        self.map.get_or_init(make).clone()
    }

    /// Those of these names that are there.
    fn some(&self, names: &[&str]) -> cel::Value {
        object(
            names
                .iter()
                .filter_map(|name| Some((*name, self.firsts.get(name)?.value))),
        )
    }
}

/// The names that an expression looks up in `signals`, when it does nothing else with it: CEL makes the whole map
/// anew each time that it is named.
fn looked_up(expression: &IdedExpr) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    let mut open = vec![expression];
    while let Some(next) = open.pop() {
        match &next.expr {
            Expr::Ident(name) if name == "signals" => return None,
            Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
                (operators::INDEX, [map, name]) | (operators::IN, [name, map]) if is_signals(map) => {
                    let Expr::Literal(LiteralValue::String(name)) = &name.expr else {
                        return None;
                    };
                    found.push(name.inner());
                }
                _ => open.extend(call.target.as_deref().into_iter().chain(&call.args)),
            },
            Expr::List(list) => open.extend(&list.elements),
            Expr::Select(select) if is_signals(&select.operand) => found.push(&select.field),
            Expr::Select(select) => open.push(&select.operand),
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        open.extend([&entry.key, &entry.value]);
                    }
                }
            }
            _ => {}
        }
    }
    Some(found)
}

fn is_signals(expression: &IdedExpr) -> bool {
    matches!(&expression.expr, Expr::Ident(name) if name == "signals")
}

/// What a condition sees: every name in it, looked at or not.
fn context(
    condition: &Condition,
    a: Option<&Value>,
    b: Option<&Value>,
    all: &Signals<'_>,
) -> Result<Context<'static, 'static>, String> {
    static STANDARD: OnceLock<Arc<Env>> = OnceLock::new();
    let env = STANDARD.get_or_init(|| Arc::new(Env::default().with_stdlib()));
    let mut context = Context::with_env(Arc::clone(env));
    for name in condition.names.iter().map(String::as_str) {
        let value = match name {
            "signal_a" => a.map(to_cel),
            "signal_b" => b.map(to_cel),
            "signals" => Some(match looked_up(&condition.expression) {
                Some(names) => all.some(&names),
                None => all.map(),
            }),
            name => {
                let signal = all.firsts.get(name).map(|first| to_cel(first.value));
                signal.or_else(|| with_capital(name))
            }
        };
        let value = value.ok_or_else(|| format!("unknown name {name:?}"))?;
        context.add_variable_from_value(name, value);
    }
    Ok(context)
}

/// Truth values as the older form writes them. A signal may have such a name, and then it counts.
fn with_capital(name: &str) -> Option<cel::Value> {
    match name {
        "True" => Some(cel::Value::Bool(true)),
        "False" => Some(cel::Value::Bool(false)),
        _ => None,
    }
}

/// Whether a condition is true.
fn truth(condition: &Condition, context: &Context<'_, '_>) -> Result<bool, String> {
    match cel::Value::resolve(&condition.expression, context) {
        Ok(cel::Value::Bool(truth)) => Ok(truth),
        Ok(_) => Err("its condition is neither true nor false".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Rewrites `a || b` as `a ? true : (b ? true : false)`, and `&&` likewise, wherever they stand: CEL lets one side of
/// them hide an error of the other, and what cannot be evaluated is no pass. A choice goes from left to right, and an
/// error in what it reaches is one.
fn strict(expression: &mut IdedExpr) {
    match &mut expression.expr {
        Expr::Call(call) => {
            for part in call.target.as_deref_mut().into_iter().chain(&mut call.args) {
                strict(part);
            }
            let or = call.func_name == operators::LOGICAL_OR;
            if !or && call.func_name != operators::LOGICAL_AND {
                return;
            }
            let Some(right) = call.args.pop() else { return };
            let right = IdedExpr {
                id: 0,
                expr: Expr::Call(CallExpr {
                    func_name: operators::CONDITIONAL.to_owned(),
                    target: None,
                    args: vec![right, literal(true), literal(false)],
                }),
            };
            operators::CONDITIONAL.clone_into(&mut call.func_name);
            call.args.extend(if or {
                [literal(true), right]
            } else {
                [right, literal(false)]
            });
        }
        Expr::List(list) => list.elements.iter_mut().for_each(strict),
        Expr::Select(select) => strict(&mut select.operand),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    strict(&mut entry.key);
                    strict(&mut entry.value);
                }
            }
        }
        _ => {}
    }
}

fn literal(truth: bool) -> IdedExpr {
    IdedExpr {
        id: 0,
        expr: Expr::Literal(LiteralValue::Boolean(truth.into())),
    }
}

/// What the parser makes of operators.
const OPERATORS: [&str; 18] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::IN,
];

/// Functions of CEL that a condition may call; a test calls each. Any other is refused when the rule is read, not
/// when it happens to be reached.
pub(super) const FUNCTIONS: [&str; 12] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "int",
    "size",
    "startsWith",
    "string",
    "type",
    "uint",
];

/// The condition's parts between ` implies `, outside of quotes.
fn implication(condition: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut quote) = (0, None);
    for (at, letter) in condition.char_indices() {
        match quote {
            Some(open) if letter == open => quote = None,
            None if letter == '\'' || letter == '"' => quote = Some(letter),
            // Two words may share the space between them: the second then begins inside of the first.
            None if at >= start && condition[at..].starts_with(" implies ") => {
                parts.push(&condition[start..at]);
                start = at + " implies ".len();
            }
            _ => {}
        }
    }
    parts.push(condition.get(start..).unwrap_or_default());
    parts
}

impl Condition {
    fn read(source: &str) -> Result<Self, String> {
        // The parser does not count parentheses as depth. Brackets inside of texts count too: harmless.
        let mut depth = 0_u16;
        for byte in source.bytes() {
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > CONDITION_DEPTH_MAX {
                return Err(format!(
                    "its condition is nested deeper than {CONDITION_DEPTH_MAX}"
                ));
            }
        }
        let parser = PrattParser::new()
            .max_recursion_depth(CONDITION_DEPTH_MAX)
            .max_expression_node_count(CONDITION_NODES_MAX)
            .error_reporting_limit(1);
        let mut expression = parser.parse(source).map_err(|errors| {
            let text = errors.to_string();
            text.lines().next().unwrap_or("it does not compile").to_owned()
        })?;
        let names = names(&expression)?.into_iter().map(str::to_owned).collect();
        strict(&mut expression);
        Ok(Self { expression, names })
    }
}

/// The free names of an expression; refuses what loops, builds typed objects, or calls what there is not.
fn names(expression: &IdedExpr) -> Result<Vec<&str>, String> {
    let mut found = Vec::new();
    let mut open = vec![expression];
    let mut nodes = 0;
    while let Some(next) = open.pop() {
        nodes += 1;
        if nodes > CONDITION_NODES_MAX {
            return Err(format!("its condition has more than {CONDITION_NODES_MAX} parts"));
        }
        match &next.expr {
            Expr::Ident(name) => {
                if !found.contains(&name.as_str()) {
                    found.push(name.as_str());
                }
            }
            Expr::Call(call) => {
                let name = call.func_name.as_str();
                if !OPERATORS.contains(&name) && !FUNCTIONS.contains(&name) {
                    return Err(format!("unknown function {name:?}"));
                }
                open.extend(call.target.as_deref().into_iter().chain(&call.args));
            }
            Expr::List(list) => open.extend(&list.elements),
            Expr::Select(select) => open.push(&select.operand),
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        open.extend([&entry.key, &entry.value]);
                    }
                }
            }
            Expr::Literal(_) => {}
            Expr::Comprehension(_) => return Err("its condition loops".to_owned()),
            Expr::Struct(_) | Expr::Unspecified => {
                return Err("its condition has a part that is not supported".to_owned());
            }
        }
    }
    Ok(found)
}

fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(truth) => cel::Value::Bool(*truth),
        Value::Int(number) => cel::Value::Int(*number),
        Value::Float(number) => cel::Value::Float(number.get()),
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(elements) => cel::Value::List(Arc::new(elements.iter().map(to_cel).collect())),
        Value::Object(members) => object(members.iter().map(|(key, member)| (key.as_str(), member))),
    }
}

fn object<'v>(members: impl Iterator<Item = (&'v str, &'v Value)>) -> cel::Value {
    let map = members
        .map(|(key, member)| {
            (
                cel::objects::Key::String(Arc::new(key.to_owned())),
                to_cel(member),
            )
        })
        .collect();
    cel::Value::Map(cel::objects::Map { map: Arc::new(map) })
}
