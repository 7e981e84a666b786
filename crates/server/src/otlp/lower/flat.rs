//! Puts together again what a vocabulary flattened into attributes.
//!
//! `llm.input_messages.0.message.role` is the member `role` of `message` of the first element. Keys arrive
//! in order, so what belongs together stands together.

use evidence::canonical::Value;

use super::super::any::Any;
use super::names::{Flat, Found};
use super::view::{Used, View};

/// Deepest path that is taken apart; what is deeper stays one key. The deepest in use has eight parts.
const PARTS_MAX: usize = 12;

/// A list put together, by the numbers of its elements; empty when there is none.
pub(crate) fn list(view: &View<'_, '_>, flat: Flat, used: &mut Used) -> Vec<Value> {
    let mut root = Vec::new();
    for (place, path, value) in found(view.found, flat, view) {
        insert(&mut root, path, value, PARTS_MAX);
        used.attributes.push(place);
    }
    elements(root)
}

fn found<'f, 'a>(
    found: &'f Found,
    flat: Flat,
    view: &'f View<'_, 'a>,
) -> impl Iterator<Item = (usize, &'a str, Any<'a>)> {
    found.flat(flat, view.attrs)
}

#[derive(Debug)]
enum Node<'a> {
    Leaf(Any<'a>),
    Branch(Vec<(&'a str, Node<'a>)>),
}

fn insert<'a>(branch: &mut Vec<(&'a str, Node<'a>)>, path: &'a str, value: Any<'a>, parts_left: usize) {
    match path.split_once('.') {
        Some((part, rest)) if parts_left > 0 && !part.is_empty() => {
            if !matches!(branch.last(), Some((last, Node::Branch(_))) if *last == part) {
                branch.push((part, Node::Branch(Vec::new())));
            }
            if let Some((_, Node::Branch(inner))) = branch.last_mut() {
                insert(inner, rest, value, parts_left - 1);
            }
        }
        _ => branch.push((path, Node::Leaf(value))),
    }
}

/// The elements of a list in order of their numbers; what has no number comes last.
fn elements(branch: Vec<(&str, Node<'_>)>) -> Vec<Value> {
    let mut numbered: Vec<_> = branch
        .into_iter()
        .map(|(key, node)| (key.parse::<u64>().unwrap_or(u64::MAX), node))
        .collect();
    numbered.sort_by_key(|(number, _)| *number);
    numbered.into_iter().map(|(_, node)| value(node)).collect()
}

fn value(node: Node<'_>) -> Value {
    match node {
        Node::Leaf(any) => any.to_value(),
        Node::Branch(branch)
            if branch
                .iter()
                .all(|(key, _)| key.bytes().all(|byte| byte.is_ascii_digit())) =>
        {
            Value::Array(elements(branch))
        }
        Node::Branch(branch) => Value::object(branch.into_iter().map(|(key, node)| (key, value(node)))),
    }
}
