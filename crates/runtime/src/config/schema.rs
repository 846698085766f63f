//! What a schema says about a document, and what is left of the document without that.

use super::{ADDRESS, dotted, join};
use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::{ValidationError, Validator};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Reports everything that the schema refuses, with its dotted path.
pub(super) fn check_schema(schema: &Value, value: &Value, found: &mut Vec<(String, String)>) {
    let validator = match validator(schema) {
        Ok(validator) => validator,
        Err(error) => return found.push((String::new(), format!("schema: {error}"))),
    };
    for error in validator.iter_errors(value) {
        let path = dotted(error.instance_path().as_str());
        match error.kind() {
            Kind::AdditionalProperties { unexpected } => {
                let known = rule(schema, &error).and_then(|s| s.get("properties")).and_then(Value::as_object);
                for key in unexpected {
                    let hint = known.and_then(|k| nearest(key, k.keys().map(String::as_str)));
                    found.push((join(&path, key), format!("is not a known key{}", did_you_mean(hint))));
                }
            }
            Kind::Required { property } => {
                found.push((join(&path, property.as_str().unwrap_or_default()), "is missing".to_owned()));
            }
            Kind::Format { format } if format == ADDRESS => {
                found.push((path, "is no address with a port, such as 127.0.0.1:8080".to_owned()));
            }
            // The message without the value, which may be a secret.
            _ => found.push((path, not_a_choice(schema, &error).unwrap_or_else(|| error.masked().to_string()))),
        }
    }
}

fn validator(schema: &Value) -> Result<Validator, Box<ValidationError<'static>>> {
    let is_address = |text: &str| text.parse::<SocketAddr>().is_ok();
    let options = jsonschema::options().should_validate_formats(true).with_format(ADDRESS, is_address);
    options.build(schema).map_err(Box::new)
}

/// The part of the schema that an error is about: that which holds the keyword.
fn rule<'a>(schema: &'a Value, error: &ValidationError<'_>) -> Option<&'a Value> {
    schema.pointer(error.schema_path().as_str().rsplit_once('/')?.0)
}

/// What to write instead of something that is none of a few words.
fn not_a_choice(schema: &Value, error: &ValidationError<'_>) -> Option<String> {
    let rule = rule(schema, error)?;
    let mut choices = Vec::new();
    // Only if it is nothing but a choice, and no secret: the hint would tell what the value is like.
    if rule.get("writeOnly").is_some() || !collect_choices(schema, rule, &mut choices) || choices.is_empty() {
        return None;
    }
    let hint = error.instance().as_str().and_then(|given| nearest(given, choices.iter().copied()));
    Some(format!("is not one of {}{}", choices.join(", "), did_you_mean(hint)))
}

/// The words that a part of the schema allows; false if it allows anything else (but null).
fn collect_choices<'a>(schema: &'a Value, part: &'a Value, choices: &mut Vec<&'a str>) -> bool {
    let part = resolved(schema, part);
    if part.get("type").and_then(Value::as_str) == Some("null") {
        return true;
    }
    if let Some(word) = part.get("const").and_then(Value::as_str) {
        choices.push(word);
        return true;
    }
    let listed = part.get("enum").and_then(Value::as_array);
    choices.extend(listed.into_iter().flatten().filter_map(Value::as_str));
    let kinds = ["oneOf", "anyOf"].into_iter().filter_map(|key| part.get(key)?.as_array());
    let kinds: Vec<&Value> = kinds.flatten().collect();
    (listed.is_some() || !kinds.is_empty()) && kinds.into_iter().all(|kind| collect_choices(schema, kind, choices))
}

fn resolved<'a>(schema: &'a Value, part: &'a Value) -> &'a Value {
    let target = part.get("$ref").and_then(Value::as_str).and_then(|to| schema.pointer(to.trim_start_matches('#')));
    target.unwrap_or(part)
}

fn did_you_mean(hint: Option<&str>) -> String {
    hint.map(|word| format!("; did you mean {word}?")).unwrap_or_default()
}

/// A copy that the schema does not refuse, and the dotted paths at which it differs: what is refused is left out, or where
/// something must be there, replaced by the first thing that would do. `None` if that leads nowhere.
pub(super) fn repaired(schema: &Value, value: &Value) -> Option<(Value, BTreeSet<String>)> {
    // A key that is left out may be missed, and what stands in for it may lack keys in turn.
    const ROUNDS: usize = 6;
    let validator = validator(schema).ok()?;
    let (mut copy, mut touched) = (value.clone(), BTreeSet::new());
    for _ in 0..ROUNDS {
        let mut repairs: Vec<(String, Option<Value>)> = Vec::new();
        for error in validator.iter_errors(&copy) {
            let at = error.instance_path().as_str().to_owned();
            let rule = rule(schema, &error)?;
            match error.kind() {
                Kind::AdditionalProperties { unexpected } => {
                    repairs.extend(unexpected.iter().map(|key| (format!("{at}/{}", escaped(key)), None)));
                }
                Kind::Required { property } => {
                    let key = property.as_str()?;
                    let wanted = rule.get("properties")?.get(key)?;
                    repairs.push((format!("{at}/{}", escaped(key)), Some(stand_in(schema, wanted, 0))));
                }
                _ => repairs.push((at, Some(stand_in(schema, rule, 0)))),
            }
        }
        if repairs.is_empty() {
            return Some((copy, touched));
        }
        for (at, instead) in repairs {
            // Without it first: most keys have a default, which says less than a stand-in would.
            let is_first = touched.insert(dotted(&at));
            let (parent, key) = at.rsplit_once('/')?;
            let key = key.replace("~1", "/").replace("~0", "~");
            match (copy.pointer_mut(parent), instead) {
                (Some(Value::Object(map)), Some(instead)) if !map.contains_key(&key) || !is_first => {
                    map.insert(key, instead);
                }
                (Some(Value::Object(map)), _) => _ = map.remove(&key),
                // Left out of a list it would move those after it.
                (Some(Value::Array(items)), Some(instead)) => *items.get_mut(key.parse::<usize>().ok()?)? = instead,
                // Repaired together with something around it.
                _ => {}
            }
        }
    }
    None
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The first thing that a part of the schema allows.
fn stand_in(schema: &Value, part: &Value, depth: usize) -> Value {
    const DEEPEST: usize = 16;
    let part = resolved(schema, part);
    let first = |key: &str| part.get(key).and_then(Value::as_array).and_then(|kinds| kinds.first());
    if let Some(value) = part.get("default").or_else(|| part.get("const")).or_else(|| first("enum")) {
        return value.clone();
    }
    if let Some(kind) = first("oneOf").or_else(|| first("anyOf")).or_else(|| first("allOf")).filter(|_| depth < DEEPEST)
    {
        return stand_in(schema, kind, depth + 1);
    }
    let kind = part.get("type").and_then(|kind| kind.as_str().or_else(|| kind.as_array()?.first()?.as_str()));
    match kind {
        Some("object") => Value::Object(Map::new()),
        Some("array") => Value::Array(Vec::new()),
        Some("string") => Value::String(String::new()),
        Some("integer" | "number") => part.get("minimum").cloned().unwrap_or_else(|| 0.into()),
        Some("boolean") => Value::Bool(false),
        _ => Value::Null,
    }
}

/// Whether a dotted path is another one or lies below it.
pub(super) fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || above.is_empty())
}

/// The known key that differs least, if it is close enough to have been meant.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.map(|k| (edit_distance(key, k), k)).filter(|(d, k)| *d <= 1 + k.len() / 4).min().map(|(_, k)| k)
}

/// Levenshtein distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let next = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, next);
            left = next;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
