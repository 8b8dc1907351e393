//! One record of a file: named values.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// Before the words NaN and Infinity, which Python writes where JSON has none: a value that can be there, but not be used.
const NO_JSON: &str = "\0";

/// JSON as Python writes it, as JSON: NaN and Infinity become texts that [`text_of`] refuses by their names, and integers of more
/// digits than a machine's number holds become the texts of their digits.
pub(super) fn as_json(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        at += 1;
        if byte == b'"' {
            while bytes.get(at).is_some_and(|&byte| byte != b'"') {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at += 1;
        } else if byte == b'-' || byte.is_ascii_alphanumeric() {
            at += bytes[at..].iter().take_while(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)).count();
            let word = &text[start..at];
            let is_integer = word.strip_prefix('-').unwrap_or(word).bytes().all(|b| b.is_ascii_digit());
            let replacement = match word {
                "NaN" | "Infinity" | "-Infinity" => format!("\"\\u0000{word}\""),
                _ if is_integer && word.parse::<i64>().is_err() && word.parse::<u64>().is_err() => {
                    format!("\"{word}\"")
                }
                _ => continue,
            };
            out += &text[copied..start];
            out += &replacement;
            copied = at;
        }
    }
    if copied == 0 { Cow::Borrowed(text) } else { Cow::Owned(out + &text[copied..]) }
}

/// The columns of a line, or the object of a JSON line.
#[derive(Clone, Debug)]
pub(in crate::data) struct Row(Map<String, Value>);

impl Row {
    pub(super) fn new(values: Map<String, Value>) -> Row {
        Row(values)
    }

    pub(in crate::data) fn of_texts<'a>(columns: impl IntoIterator<Item = (&'a str, &'a str)>) -> Row {
        Row(columns.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text))).collect())
    }

    /// The value of a column; where there is none of the name, dots lead into objects and lists: "answers.text.0".
    /// None if it is missing or null.
    pub(super) fn get(&self, path: &str) -> Option<&Value> {
        self.find(path).ok().flatten()
    }

    /// As [`Row::get`], but an error where the path ends early, in a null or an empty list for example. None if there is no such
    /// column.
    fn find(&self, path: &str) -> Result<Option<&Value>, String> {
        let (name, steps) = match (self.0.contains_key(path), path.split_once('.')) {
            (false, Some((name, steps))) => (name, Some(steps)),
            _ => (path, None),
        };
        let Some(mut value) = self.0.get(name) else { return Ok(None) };
        let mut so_far = name.to_owned();
        for step in steps.iter().flat_map(|steps| steps.split('.')) {
            let found = match value {
                Value::Object(map) => map.get(step).ok_or_else(|| format!("has no key {step:?}")),
                Value::Array(list) if list.is_empty() => Err("is an empty list".to_owned()),
                Value::Array(list) => step.parse::<usize>().ok().and_then(|index| list.get(index)).ok_or_else(|| {
                    format!("is a list of {}: its elements are numbered from 0, there is no {step:?}", list.len())
                }),
                Value::Null => Err("is null".to_owned()),
                _ => Err(format!("is neither an object nor a list: it has no {step:?}")),
            };
            value = found.map_err(|what| format!("the column {so_far:?} {what}"))?;
            so_far = format!("{so_far}.{step}");
        }
        if value.is_null() { Err(format!("the column {so_far:?} is null")) } else { Ok(Some(value)) }
    }

    /// The value of the first of these columns that there is.
    pub(super) fn first(&self, paths: &[&str]) -> Option<&Value> {
        paths.iter().find_map(|path| self.get(path))
    }

    /// [`Row::first`], or an error that says what is wrong with it or which columns there are.
    pub(super) fn need(&self, paths: &[&str]) -> Result<&Value, String> {
        self.first(paths).ok_or_else(|| {
            if let Some(in_the_way) = paths.iter().find_map(|path| self.find(path).err()) {
                return in_the_way;
            }
            let wanted: Vec<String> = paths.iter().map(|path| format!("{path:?}")).collect();
            let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
            format!("there is no column {}; there are {}", wanted.join(" or "), names.join(", "))
        })
    }

    /// The text of the first of these columns that there is.
    pub(in crate::data) fn text(&self, paths: &[&str]) -> Result<String, String> {
        text_of(self.need(paths)?).map_err(|what| format!("the column {:?} {what}", paths.join(" or ")))
    }

    /// The whole row as a JSON value.
    pub(super) fn values(&self) -> &Map<String, Value> {
        &self.0
    }
}

/// Text, a number, true or false, or a list of such, separated by ", ".
pub(super) fn text_of(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => match text.strip_prefix(NO_JSON) {
            Some(word) => Err(format!("is {word}, which is no text")),
            None => Ok(text.clone()),
        },
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Array(list) => Ok(list.iter().map(text_of).collect::<Result<Vec<_>, _>>()?.join(", ")),
        Value::Null => Err("is null".into()),
        Value::Object(map) => {
            let names: Vec<&str> = map.keys().map(String::as_str).collect();
            Err(format!("is an object, not a text: name one of its keys after a dot ({})", names.join(", ")))
        }
    }
}

/// A list of texts; a single text is a list of one.
pub(super) fn texts_of(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Array(list) => list.iter().map(text_of).collect(),
        other => Ok(vec![text_of(other)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_writes_json_of_its_own() {
        for (python, json) in [
            (r#"{"a": 1, "b": [true, -2.5e+3]}"#, r#"{"a": 1, "b": [true, -2.5e+3]}"#),
            (r#"{"NaN \" NaN": NaN, "b": [-Infinity]}"#, r#"{"NaN \" NaN": "\u0000NaN", "b": ["\u0000-Infinity"]}"#),
            ("[12345678901234567890123, 18446744073709551615]", r#"["12345678901234567890123", 18446744073709551615]"#),
            (r#"["é NaN", "\"#, r#"["é NaN", "\"#),
            ("-", "\"-\""),
        ] {
            assert_eq!(as_json(python), json);
        }
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let json = r#"{"a": {"text": [], "n": null, "list": [1, 2]}, "none": null, "x": NaN, "long": 123456789012345678901234}"#;
        let row = Row::new(serde_json::from_str(&as_json(json)).unwrap());
        for (path, message) in [
            ("none", "the column \"none\" is null"),
            ("a.text.0", "the column \"a.text\" is an empty list"),
            ("a.list.2", "the column \"a.list\" is a list of 2"),
            ("a.n.x", "the column \"a.n\" is null"),
            ("a.y", "the column \"a\" has no key \"y\""),
            ("x", "the column \"x\" is NaN"),
            ("x.y", "neither an object nor a list"),
            ("b", "no column \"b\"; there are a, long, none, x"),
        ] {
            let error = row.text(&[path]).unwrap_err();
            assert!(error.contains(message), "{path}: {error}");
        }
        assert_eq!(row.text(&["long"]).unwrap(), "123456789012345678901234");
        assert_eq!(row.text(&["none", "a.list.1"]).unwrap(), "2");
    }
}
