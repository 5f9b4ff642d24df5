//! The functions that `--format` templates may call.

use serde_json::Value;

use super::template::{shown, truth};

/// Calls a function by its name.
pub(super) fn call(name: &str, values: &[Value]) -> Result<Value, String> {
    let text = |text: String| Ok(Value::String(text));
    match (name, values) {
        ("json", [value]) => text(value.to_string()),
        ("lower", [value]) => text(shown(value).to_lowercase()),
        ("upper", [value]) => text(shown(value).to_uppercase()),
        ("title", [value]) => text(title(&shown(value))),
        ("join", [Value::Array(items), by]) => {
            text(items.iter().map(shown).collect::<Vec<_>>().join(&shown(by)))
        }
        ("join", [Value::Null, _]) => text(String::new()),
        ("split", [value, by]) => {
            let (value, by) = (shown(value), shown(by));
            Ok(Value::Array(value.split(&by).map(|part| Value::String(part.to_owned())).collect()))
        }
        ("len", [value]) => length(value).map(Value::from),
        ("index", [value, keys @ ..]) => index(value, keys),
        ("println", values) => text(format!("{}\n", all(values))),
        ("print", values) => text(all(values)),
        ("eq", [first, others @ ..]) => Ok(Value::Bool(others.contains(first))),
        ("ne", [a, b]) => Ok(Value::Bool(a != b)),
        ("not", [value]) => Ok(Value::Bool(!truth(value))),
        ("and", [.., last]) => {
            Ok(values.iter().find(|value| !truth(value)).unwrap_or(last).clone())
        }
        ("or", [.., last]) => Ok(values.iter().find(|value| truth(value)).unwrap_or(last).clone()),
        _ => Err(format!("wrong number or type of args for {name}: got {}", values.len())),
    }
}

fn all(values: &[Value]) -> String {
    values.iter().map(shown).collect::<Vec<_>>().join(" ")
}

fn length(value: &Value) -> Result<usize, String> {
    match value {
        Value::String(text) => Ok(text.len()),
        Value::Array(items) => Ok(items.len()),
        Value::Object(map) => Ok(map.len()),
        Value::Null => Ok(0),
        _ => Err("len of a value that has none".to_owned()),
    }
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, String> {
    let mut value = value;
    for key in keys {
        let next = match (value, key) {
            (Value::Object(map), Value::String(key)) => map.get(key),
            (Value::Array(items), Value::Number(at)) => {
                let at = at.as_u64().and_then(|at| usize::try_from(at).ok());
                let item = at.and_then(|at| items.get(at));
                Some(item.ok_or_else(|| format!("index out of range: {key}"))?)
            }
            _ => return Err(format!("can't index item with {key}")),
        };
        match next {
            Some(next) => value = next,
            None => return Ok(Value::String(String::new())),
        }
    }
    Ok(value.clone())
}

fn title(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
