//! One record of a file: named values.

use serde_json::{Map, Value};

/// The columns of a line, or the object of a JSON line.
#[derive(Clone, Debug)]
pub(super) struct Row(Map<String, Value>);

impl Row {
    pub(super) fn new(values: Map<String, Value>) -> Row {
        Row(values)
    }

    pub(super) fn of_texts<'a>(columns: impl IntoIterator<Item = (&'a str, &'a str)>) -> Row {
        Row(columns.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text))).collect())
    }

    /// The value of a column; where there is none of the name, dots lead into objects and lists: "answers.text.0".
    /// None if it is missing or null.
    pub(super) fn get(&self, path: &str) -> Option<&Value> {
        let value = match self.0.get(path) {
            Some(value) => value,
            None => {
                let mut steps = path.split('.');
                let first = self.0.get(steps.next()?)?;
                steps.try_fold(first, |value, step| match value {
                    Value::Object(map) => map.get(step),
                    Value::Array(list) => step.parse::<usize>().ok().and_then(|index| list.get(index)),
                    _ => None,
                })?
            }
        };
        (!value.is_null()).then_some(value)
    }

    /// The value of the first of these columns that there is.
    pub(super) fn first(&self, paths: &[&str]) -> Option<&Value> {
        paths.iter().find_map(|path| self.get(path))
    }

    /// [`Row::first`], or an error that says which columns there are.
    pub(super) fn need(&self, paths: &[&str]) -> Result<&Value, String> {
        self.first(paths).ok_or_else(|| {
            let wanted: Vec<String> = paths.iter().map(|path| format!("{path:?}")).collect();
            let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
            format!("there is no column {}; there are {}", wanted.join(" or "), names.join(", "))
        })
    }

    /// The text of the first of these columns that there is.
    pub(super) fn text(&self, paths: &[&str]) -> Result<String, String> {
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
        Value::String(text) => Ok(text.clone()),
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
