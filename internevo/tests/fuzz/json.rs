//! Damage of JSON that leaves it JSON: another value, another key, a branch that grows out of itself.
use super::bytes::{MOST_BYTES, times};
use super::numbers::Numbers;
use super::text::{self, NUMBERS, hostile_name};
use serde_json::{Map, Value};

pub fn damaged(numbers: &mut Numbers, good: &[Value]) -> Vec<u8> {
    let mut value = numbers.pick(good).clone();
    for _ in 0..numbers.count(6) {
        change(numbers, &mut value, good);
    }
    let mut text = value.to_string();
    if numbers.once_in(6) {
        let others: Vec<String> = good.iter().map(Value::to_string).collect();
        return text::damaged(numbers, &text, &others);
    }
    text::cut(&mut text, MOST_BYTES);
    text.into()
}

pub fn change(numbers: &mut Numbers, root: &mut Value, good: &[Value]) {
    let nodes = nodes(numbers.pick(good));
    let donor = (*numbers.pick(&nodes)).clone();
    let name = if numbers.once_in(3) { hostile_name(numbers) } else { format!("k{}", numbers.below(100)) };
    let at = numbers.below(size(root));
    let node = nth(root, &mut { at }).expect("it was counted");
    match numbers.below(10) {
        0..=3 => *node = scalar(numbers),
        4 => *node = donor,
        5 => nest(numbers, node),
        6 | 7 => match node {
            Value::Object(map) => rename(numbers, map, name),
            Value::Array(items) if !items.is_empty() => {
                let item = numbers.pick(items).clone();
                let len = item.to_string().len();
                items.extend(vec![item; times(numbers, len + 1)]);
            }
            other => *other = Value::Array(vec![other.take()]),
        },
        _ => match node {
            Value::Object(map) => {
                map.insert(name, donor);
            }
            Value::Array(items) => items.push(donor),
            other => *other = Value::String(name),
        },
    }
}

fn rename(numbers: &mut Numbers, map: &mut Map<String, Value>, name: String) {
    let keys: Vec<String> = map.keys().cloned().collect();
    if keys.is_empty() {
        return;
    }
    let key = numbers.pick(&keys);
    let value = map.remove(key).expect("it is a key");
    match numbers.below(4) {
        0 => {}
        1 => drop(map.insert(name, value)),
        2 => {
            let many = times(numbers, value.to_string().len() + key.len() + 10);
            map.extend((0..many).map(|i| (format!("{key}{i}"), value.clone())));
        }
        _ => drop(map.insert(numbers.pick(&keys).clone(), value)),
    }
}

/// The node again inside itself, in the place of one of its own, as often as JSON may nest.
fn nest(numbers: &mut Numbers, node: &mut Value) {
    let whole = node.clone();
    let inside = numbers.below(size(&whole));
    let small = whole.to_string().len() < 400;
    for _ in 0..if small { numbers.count(64) } else { 1 } {
        let mut outer = whole.clone();
        *nth(&mut outer, &mut { inside }).expect("it was counted") = node.take();
        *node = outer;
    }
}

fn scalar(numbers: &mut Numbers) -> Value {
    match numbers.below(8) {
        0 => Value::Null,
        1 => Value::Bool(numbers.once_in(2)),
        2 => Value::Array(vec![]),
        3 => Value::Object(Map::new()),
        4 => Value::String(hostile_name(numbers)),
        _ => serde_json::from_str(numbers.pick::<&str>(&NUMBERS)).unwrap_or(Value::Null),
    }
}

/// A tree's nodes, itself first.
fn nodes(value: &Value) -> Vec<&Value> {
    let below: Vec<&Value> = match value {
        Value::Array(items) => items.iter().flat_map(nodes).collect(),
        Value::Object(map) => map.values().flat_map(nodes).collect(),
        _ => vec![],
    };
    [vec![value], below].concat()
}

fn size(value: &Value) -> usize {
    nodes(value).len()
}

/// The node that `left` others come before.
fn nth<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, left)),
        Value::Object(map) => map.values_mut().find_map(|item| nth(item, left)),
        _ => None,
    }
}
