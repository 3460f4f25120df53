//! Parts of the JSON that tdtrace prints, each of which must be there. Pure.

use anyhow::{Result, anyhow};
use serde_json::Value;

/// The list at `key`.
///
/// # Errors
/// When there is none.
pub(super) fn list<'a>(value: &'a Value, key: &str) -> Result<&'a [Value]> {
    let list = value.get(key).and_then(Value::as_array);
    list.map(Vec::as_slice).ok_or_else(|| anyhow!("there is no list `{key}` in {value}"))
}

/// The number at `key`.
///
/// # Errors
/// When there is none.
pub(super) fn number(value: &Value, key: &str) -> Result<u64> {
    let number = value.get(key).and_then(Value::as_u64);
    number.ok_or_else(|| anyhow!("there is no number `{key}` in {value}"))
}

/// The numbers of the object at `key`, by name.
///
/// # Errors
/// When there is none, or something else is in it.
pub(super) fn numbers<'a>(value: &'a Value, key: &str) -> Result<Vec<(&'a str, u64)>> {
    let object = value.get(key).and_then(Value::as_object);
    object
        .ok_or_else(|| anyhow!("there is no object `{key}` in {value}"))?
        .iter()
        .map(|(name, count)| {
            let count = count.as_u64().ok_or_else(|| anyhow!("{key}: {name} is no count"))?;
            Ok((name.as_str(), count))
        })
        .collect()
}
