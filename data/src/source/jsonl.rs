//! JSON lines: each line is an object, and one of its fields the document.

use std::ops::Range;

use serde_json::{Map, Value};

/// The lines that are not blank.
pub(super) fn divide(text: &str) -> Vec<Range<usize>> {
    let mut start = 0;
    let lines = text.split_inclusive('\n').map(|line| {
        start += line.len();
        (start - line.len()..start, line)
    });
    lines.filter(|(_, line)| !line.trim().is_empty()).map(|(range, _)| range).collect()
}

/// The text of one line, or what is wrong with it and the way out.
pub(super) fn read(line: &str, text_key: &str) -> Result<String, String> {
    let mut object: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
        format!("not a JSON object ({error}); each line must be one, such as {{\"text\": \"...\"}}")
    })?;
    match object.remove(text_key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!(
            "\"{text_key}\" is {}, not a string; set data.text_key to the field with the text",
            type_of(&other)
        )),
        None => {
            let keys: Vec<&str> = object.keys().map(String::as_str).collect();
            Err(format!("no field \"{text_key}\"; set data.text_key to one of: {}", keys.join(", ")))
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
