//! Configuration files: typed, checked against a JSON Schema made from the types, with every fault of every file reported
//! at once: file, line, path, reason.
//!
//! - Unknown keys are refused (the types say `deny_unknown_fields`), with a suggestion.
//! - Where a type says [`kernel::Masked`], the value may be given as `<key>_file: path` instead, and no fault quotes it.
//! - Environment variables override the settings file: `DUNLIN_NOTIFIER__SMTP__HOST` is `notifier.smtp.host`.

mod schema;

use schema::check_schema;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{Event, Parser};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The file, or the environment variable.
    pub file: String,
    /// Where it says so, if known.
    pub line: Option<usize>,
    /// Dotted path of the key; empty for the file as a whole.
    pub path: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// All that is wrong, over all files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} fault{} in the configuration:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}

impl Faults {
    /// `value` if nothing was wrong.
    pub fn into_result<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

/// What a schema cannot say about a section: names that must exist, values that must fit together.
pub trait Validate {
    /// Reports everything that is wrong.
    fn validate(&self, at: &mut At<'_>);
}

/// A place in a document, to report faults at.
pub struct At<'a> {
    path: String,
    found: &'a mut Vec<(String, String)>,
}

impl At<'_> {
    /// Reports that the value of `key` (dotted, below this place) is wrong.
    pub fn fault(&mut self, key: &str, reason: impl fmt::Display) {
        self.found.push((join(&self.path, key), reason.to_string()));
    }

    /// Reports `result`'s error, if it is one; gives its value otherwise.
    pub fn check<T, E: fmt::Display>(&mut self, key: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.fault(key, error)).ok()
    }

    /// A place further down.
    pub fn below(&mut self, key: &str) -> At<'_> {
        At { path: join(&self.path, key), found: self.found }
    }
}

fn join(path: &str, key: &str) -> String {
    match (path, key) {
        ("", _) => key.to_owned(),
        (_, "") => path.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

/// A parsed but unchecked file.
#[derive(Debug, Clone)]
pub struct Document {
    file: String,
    directory: PathBuf,
    value: Value,
    /// Dotted path to line.
    lines: BTreeMap<String, usize>,
    /// Dotted path to the environment variable that set it.
    overrides: BTreeMap<String, String>,
}

impl Document {
    /// Reads a YAML file. An empty one is an empty mapping.
    pub fn read(file: &Path) -> Result<Self, Fault> {
        let text = std::fs::read_to_string(file).map_err(|error| Fault {
            file: file.display().to_string(),
            line: None,
            path: String::new(),
            reason: format!("cannot be read: {error}"),
        })?;
        Self::parse(file, &text)
    }

    /// Parses YAML text; `file` is for messages and for relative paths.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Fault> {
        let name = file.display().to_string();
        let value: Value = serde_saphyr::from_str(text).map_err(|error| Fault {
            file: name.clone(),
            line: error.location().map(|l| l.line() as usize),
            path: String::new(),
            reason: format!("is no valid YAML: {}", first_line(&error.to_string())),
        })?;
        Ok(Self {
            file: name,
            directory: file.parent().unwrap_or(Path::new(".")).to_owned(),
            value: if value.is_null() { Value::Object(Map::new()) } else { value },
            lines: lines(text),
            overrides: BTreeMap::new(),
        })
    }

    /// Applies `DUNLIN_*` variables whose first part names a section or key of `T`. `__` separates levels. Variables that
    /// name nothing of `T` belong to somebody else.
    pub fn override_from<T: JsonSchema>(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let schema = schema_of::<T>();
        let known = schema.pointer("/properties").and_then(Value::as_object).cloned().unwrap_or_default();
        for (variable, text) in variables {
            let Some(name) = variable.strip_prefix("DUNLIN_") else { continue };
            let keys: Vec<String> = name.split("__").map(str::to_ascii_lowercase).collect();
            let Some((last, parents)) = keys.split_last() else { continue };
            if !keys.first().is_some_and(|first| known.contains_key(first)) {
                continue;
            }
            let mut place = &mut self.value;
            for key in parents {
                place = object(place).entry(key).or_insert_with(|| Value::Object(Map::new()));
            }
            object(place).insert(last.clone(), Value::String(text));
            self.overrides.insert(keys.join("."), variable);
        }
        self
    }

    /// The text of a key of the document, checked or not.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.value.get(key)?.as_str()
    }

    /// Checks the document against the type and its rules; on faults reports all of them and returns `None`.
    pub fn check<T: JsonSchema + DeserializeOwned + Validate>(mut self, faults: &mut Faults) -> Option<T> {
        let before = faults.0.len();
        let schema = schema_of::<T>();
        let mut found = Vec::new();
        read_secret_files(&mut self.value, &self.directory, String::new(), &mut found);
        let files = found.len();
        check_schema(&schema, &self.value, &mut found);
        if self.read_overrides_as_yaml(&found) {
            found.truncate(files);
            check_schema(&schema, &self.value, &mut found);
        }
        let mut typed: Option<T> = None;
        if found.is_empty() {
            match serde_path_to_error::deserialize(&self.value) {
                Ok(value) => typed = Some(value),
                Err(error) => found.push((dotted(&error.path().to_string()), error.into_inner().to_string())),
            }
        }
        if let Some(value) = &typed {
            value.validate(&mut At { path: String::new(), found: &mut found });
        } else if found.len() > files {
            found.extend(rule_faults::<T>(&schema, &self.value));
        }
        let mut located: Vec<Fault> = found.into_iter().map(|(path, reason)| self.locate(path, reason)).collect();
        located.sort();
        faults.0.extend(located);
        typed.filter(|_| faults.0.len() == before)
    }

    /// An environment variable is text. Where the schema wants a number or a truth value instead, reads the text as YAML.
    /// Returns whether there was anything to read.
    fn read_overrides_as_yaml(&mut self, found: &[(String, String)]) -> bool {
        let mut changed = false;
        // A fault of an optional section is reported for the section as a whole.
        let at_fault = |path: &str| found.iter().any(|(p, _)| path == p || path.starts_with(&format!("{p}.")));
        for path in self.overrides.keys().filter(|path| at_fault(path)) {
            if let Some(place) = self.value.pointer_mut(&format!("/{}", path.replace('.', "/")))
                && let Value::String(text) = place
                && let Ok(scalar) = serde_saphyr::from_str(text)
            {
                *place = scalar;
                changed = true;
            }
        }
        changed
    }

    fn locate(&self, path: String, reason: String) -> Fault {
        if let Some(variable) = self.overrides.get(&path) {
            return Fault { file: variable.clone(), line: None, path, reason };
        }
        Fault { file: self.file.clone(), line: self.line(&path), path, reason }
    }

    /// The line of a dotted path, or of the nearest one above it.
    pub fn line(&self, path: &str) -> Option<usize> {
        let mut above = path;
        loop {
            match (self.lines.get(above), above.rsplit_once('.')) {
                (Some(line), _) => return Some(*line),
                (None, Some((parent, _))) => above = parent,
                (None, None) => return None,
            }
        }
    }
}

/// The faults by the type's rules of what is left of a document without what the schema refuses. None if too little is left.
fn rule_faults<T: DeserializeOwned + Validate>(schema: &Value, value: &Value) -> Vec<(String, String)> {
    let Some((repaired, touched)) = schema::repaired(schema, value) else { return Vec::new() };
    let Ok(typed) = T::deserialize(repaired) else { return Vec::new() };
    let mut found = Vec::new();
    typed.validate(&mut At { path: String::new(), found: &mut found });
    // What was touched has its fault already, and a rule about something around it may be about its absence.
    let is_touched = |path: &str| touched.iter().any(|t| schema::is_below(path, t) || schema::is_below(t, path));
    found.retain(|(path, _)| !is_touched(path));
    found
}

/// Reads small YAML that is not part of the configuration, such as a column map.
pub fn parse_yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| first_line(&error.to_string()).to_owned())
}

/// The format of [`address`].
const ADDRESS: &str = "socket-address";

/// Schema of a field that holds an address to listen on: `#[schemars(schema_with = "runtime::config::address")]`. With it
/// a wrong one is reported together with all other faults.
pub fn address(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "format": ADDRESS })
}

/// The JSON Schema of a section, as editors get it: secrets may also be given as `<key>_file`.
pub fn editor_schema<T: JsonSchema>() -> Value {
    let mut schema = schema_of::<T>();
    offer_files(&mut schema);
    schema
}

fn schema_of<T: JsonSchema>() -> Value {
    schemars::schema_for!(T).to_value()
}

fn offer_files(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(properties)) = map.get_mut("properties") {
                let secret = |(key, value): (&String, &Value)| value.get("writeOnly").is_some().then(|| key.clone());
                for key in properties.iter().filter_map(secret).collect::<Vec<_>>() {
                    properties.insert(
                        format!("{key}_file"),
                        serde_json::json!({ "type": "string", "description": format!("File that holds {key}") }),
                    );
                }
            }
            map.values_mut().for_each(offer_files);
        }
        Value::Array(items) => items.iter_mut().for_each(offer_files),
        _ => {}
    }
}

/// Replaces `<key>_file: path` by `<key>: content`, everywhere. Paths are relative to the document's directory.
fn read_secret_files(value: &mut Value, directory: &Path, path: String, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            let keys: Vec<String> = map.keys().filter(|k| k.ends_with("_file")).cloned().collect();
            for key in keys {
                let Some(Value::String(file)) = map.get(&key).cloned() else { continue };
                let target = key.trim_end_matches("_file");
                if map.contains_key(target) {
                    found.push((join(&path, &key), format!("give either {target} or {key}, not both")));
                    continue;
                }
                match std::fs::read_to_string(directory.join(&file)) {
                    Ok(content) => {
                        map.remove(&key);
                        map.insert(target.to_owned(), Value::String(content.trim_end().to_owned()));
                    }
                    Err(error) => found.push((join(&path, &key), format!("{file:?} cannot be read: {error}"))),
                }
            }
            for (key, inner) in map.iter_mut() {
                read_secret_files(inner, directory, join(&path, key), found);
            }
        }
        Value::Array(items) => {
            for (n, inner) in items.iter_mut().enumerate() {
                read_secret_files(inner, directory, join(&path, &n.to_string()), found);
            }
        }
        _ => {}
    }
}

/// Dotted paths of all keys and items of a YAML text, each with its line.
fn lines(text: &str) -> BTreeMap<String, usize> {
    enum Level {
        Sequence(usize),
        Mapping(Option<String>),
    }
    let mut found = BTreeMap::new();
    let mut stack: Vec<(String, Level)> = Vec::new();
    for next in Parser::new_from_str(text) {
        let Ok((event, span)) = next else { break };
        let line = span.start.line();
        if matches!(event, Event::SequenceEnd | Event::MappingEnd) {
            stack.pop();
            continue;
        }
        if !matches!(event, Event::Scalar(..) | Event::Alias(..) | Event::SequenceStart(..) | Event::MappingStart(..)) {
            continue;
        }
        // Which path does this node have?
        let path = match stack.last_mut() {
            None => String::new(),
            Some((parent, Level::Sequence(n))) => {
                *n += 1;
                join(parent, &(*n - 1).to_string())
            }
            Some((parent, Level::Mapping(key))) => match (key.take(), &event) {
                (Some(key), _) => join(parent, &key),
                (None, Event::Scalar(text, ..)) => {
                    found.insert(join(parent, text), line);
                    *key = Some(text.to_string());
                    continue;
                }
                (None, _) => continue,
            },
        };
        found.entry(path.clone()).or_insert(line);
        match event {
            Event::SequenceStart(..) => stack.push((path, Level::Sequence(0))),
            Event::MappingStart(..) => stack.push((path, Level::Mapping(None))),
            _ => {}
        }
    }
    found
}

/// `/merchants/0/name` and `merchants[0].name` as `merchants.0.name`.
fn dotted(path: &str) -> String {
    path.trim_start_matches('/').replace(['/', '['], ".").replace(']', "").trim_start_matches('.').to_owned()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("just made an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::Masked;
    use serde::Deserialize;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their presence matters")]
    struct Sample {
        listen: String,
        relay: Relay,
        #[serde(default)]
        limits: Vec<u16>,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their presence matters")]
    struct Relay {
        host: String,
        password: Option<Masked<String>>,
        timeout_seconds: u32,
    }

    impl Validate for Sample {
        fn validate(&self, at: &mut At<'_>) {
            if self.relay.timeout_seconds == 0 {
                at.below("relay").fault("timeout_seconds", "must be above 0");
            }
        }
    }

    fn faults(text: &str) -> Vec<String> {
        let mut faults = Faults::default();
        match Document::parse(Path::new("dunlin.yaml"), text) {
            Ok(document) => drop(document.check::<Sample>(&mut faults)),
            Err(fault) => faults.0.push(fault),
        }
        faults.0.iter().map(Fault::to_string).collect()
    }

    #[test]
    fn lists_every_fault_with_its_line() {
        let text = "listne: x\nrelay:\n  host: 5\n  timeout_seconds: soon\nlimits:\n  - 1\n  - 99999\n";
        assert_eq!(
            faults(text),
            [
                "dunlin.yaml: listen: is missing",
                "dunlin.yaml:1: listne: is not a known key; did you mean listen?",
                "dunlin.yaml:3: relay.host: value is not of type \"string\"",
                "dunlin.yaml:4: relay.timeout_seconds: value is not of type \"integer\"",
                "dunlin.yaml:7: limits.1: value is greater than the maximum of 65535",
            ]
        );
    }

    #[test]
    fn rules_come_after_types() {
        let text = "listen: x\nrelay: { host: h, timeout_seconds: 0 }\n";
        assert_eq!(faults(text), ["dunlin.yaml:2: relay.timeout_seconds: must be above 0"]);
    }

    #[test]
    fn broken_yaml_names_the_line() {
        let found = faults("listen: x\nrelay: [unclosed\n");
        assert!(found[0].starts_with("dunlin.yaml:") && found[0].contains("is no valid YAML"), "{found:?}");
    }

    #[test]
    fn secrets_come_from_files_and_are_never_quoted() {
        let directory = std::env::temp_dir().join(format!("dunlin-config-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("pw"), "hunter2\n").unwrap();
        let parse = |text: &str| {
            let mut faults = Faults::default();
            let document = Document::parse(&directory.join("dunlin.yaml"), text).unwrap();
            (document.check::<Sample>(&mut faults), faults)
        };
        let (sample, _) = parse("listen: x\nrelay: { host: h, timeout_seconds: 1, password_file: pw }\n");
        assert_eq!(sample.unwrap().relay.password.unwrap().reveal(), "hunter2");
        let (_, faults) = parse("listen: x\nrelay: { host: h, timeout_seconds: 1, password_file: nowhere }\n");
        assert!(faults.to_string().contains("relay.password_file: \"nowhere\" cannot be read"), "{faults}");
        let (_, faults) = parse("listen: x\nrelay: { host: h, timeout_seconds: 1, password: [hunter2] }\n");
        assert!(!faults.to_string().contains("hunter2"), "{faults}");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_environment_overrides_and_is_named_in_faults() {
        let variables = [("DUNLIN_RELAY__TIMEOUT_SECONDS", "soon"), ("DUNLIN_LISTEN", "y"), ("DUNLIN_OTHER", "1")];
        let variables = variables.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let mut faults = Faults::default();
        let document = Document::parse(Path::new("dunlin.yaml"), "listen: x\nrelay: { host: h, timeout_seconds: 1 }\n");
        let document = document.unwrap().override_from::<Sample>(variables);
        assert!(document.check::<Sample>(&mut faults).is_none());
        assert_eq!(
            faults.0[0].to_string(),
            "DUNLIN_RELAY__TIMEOUT_SECONDS: relay.timeout_seconds: value is not of type \"integer\""
        );
        assert_eq!(faults.0.len(), 1, "{faults}");
    }

    /// What is asked of a list, with names that refer to each other.
    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct List {
        entries: Vec<Entry>,
        #[serde(default)]
        most: u16,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        key: String,
        #[expect(dead_code, reason = "only its presence matters")]
        tone: Tone,
        after: Option<String>,
        #[expect(dead_code, reason = "only its presence matters")]
        second: Option<Tone>,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Tone {
        /// Kind.
        Friendly,
        /// Clear.
        Firm,
    }

    impl Validate for List {
        fn validate(&self, at: &mut At<'_>) {
            for (n, entry) in self.entries.iter().enumerate() {
                if let Some(after) = entry.after.as_ref().filter(|after| !self.entries.iter().any(|e| e.key == **after))
                {
                    at.fault(&format!("entries.{n}.after"), format!("{after} is no entry"));
                }
                if entry.key.len() < 2 {
                    at.fault(&format!("entries.{n}.key"), "is too short");
                }
            }
            if self.entries.len() > usize::from(self.most) {
                at.fault("most", "is below the number of entries");
            }
        }
    }

    fn list_faults(text: &str) -> Vec<String> {
        let mut faults = Faults::default();
        let document = Document::parse(Path::new("list.yaml"), text).unwrap();
        assert!(document.check::<List>(&mut faults).is_none());
        faults.0.iter().map(Fault::to_string).collect()
    }

    #[test]
    fn rules_are_checked_beside_what_the_schema_refuses() {
        let text = "most: 1\nentries:\n  - { key: one, tone: frim }\n  - { key: x, tone: firm, colour: red }\n  - { key: three, after: none }\n  - { key: four, tone: firm, after: one }\n";
        assert_eq!(
            list_faults(text),
            [
                "list.yaml:1: most: is below the number of entries",
                "list.yaml:3: entries.0.tone: is not one of friendly, firm; did you mean firm?",
                "list.yaml:4: entries.1.colour: is not a known key",
                "list.yaml:4: entries.1.key: is too short",
                "list.yaml:5: entries.2.after: none is no entry",
                "list.yaml:5: entries.2.tone: is missing",
            ],
            "and `four` comes after `one`, whatever that lacks"
        );
    }

    #[test]
    fn what_is_refused_has_one_fault_and_none_follows_from_its_absence() {
        // `most` would be 0 without it, and the key too short.
        assert_eq!(
            list_faults("most: many\nentries:\n  - { key: [], tone: firm, second: friendyl }\n"),
            [
                r#"list.yaml:1: most: value is not of type "integer""#,
                r#"list.yaml:3: entries.0.key: value is not of type "string""#,
                "list.yaml:3: entries.0.second: is not one of friendly, firm; did you mean friendly?",
            ]
        );
        assert_eq!(list_faults("most: 3\nentries: none\n"), [r#"list.yaml:2: entries: value is not of type "array""#]);
        assert_eq!(list_faults("- 1\n").len(), 1, "nothing is left");
    }

    #[test]
    fn editors_are_offered_the_file_form() {
        let schema = editor_schema::<Sample>();
        assert!(schema.to_string().contains("password_file"), "{schema}");
    }
}
