//! The text of a recipe: overrides, and the lines that keys stand on.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT, TOO_DEEP, nests_too_deep};

/// The tables that keys may begin with, beside stages.
pub(super) const SECTIONS: [&str; 4] = ["model", "tokenizer", "texts", "tasks"];

/// The keys of a stage of which one says how long it trains.
pub(super) const LENGTHS: [&str; 4] = ["steps", "minutes", "tokens", "flops"];

/// What is wrong, under which key: "stage.pretrain.lr".
#[derive(Debug)]
pub(crate) struct Wrong {
    pub key: String,
    pub what: String,
}

impl Wrong {
    pub fn new(key: impl Into<String>, what: impl Into<String>) -> Wrong {
        Wrong { key: key.into(), what: what.into() }
    }

    /// An error about the table `of`: under the key that it names, or else under `otherwise`.
    pub fn within(of: &str, error: Error, otherwise: impl Into<String>) -> Wrong {
        match error {
            Error::Setting { key, what } => Wrong::new(format!("{of}.{key}"), what),
            other => Wrong::new(otherwise, other.to_string()),
        }
    }
}

/// The text of a file of settings, which may be a recipe or a study.
pub(crate) struct Source {
    path: PathBuf,
    text: String,
    /// As "KEY=VALUE".
    overrides: Vec<String>,
}

impl Source {
    pub fn read(path: &Path, overrides: &[String]) -> Result<Source> {
        let text = files::read_text(path, SETTINGS_LIMIT)?;
        if nests_too_deep(&text) {
            return Err(Error::file(path, TOO_DEEP));
        }
        Ok(Source { path: path.to_path_buf(), text, overrides: overrides.to_vec() })
    }

    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        if self.overrides.is_empty() {
            return self.parse_text();
        }
        let mut table: Table = self.parse_text()?;
        for text in &self.overrides {
            override_in(&mut table, text).map_err(|what| Error::Input(format!("--set {text}: {what}")))?;
        }
        Value::Table(table).try_into().map_err(|all| {
            // The file itself is wrong: that has a line. Else the first of the overrides with which it is.
            if let Err(in_file) = self.parse_text::<T>() {
                return in_file;
            }
            let wrong = (1..=self.overrides.len()).find_map(|n| {
                let mut table: Table = self.parse_text().ok()?;
                self.overrides[..n].iter().try_for_each(|text| override_in(&mut table, text)).ok()?;
                let error = Value::Table(table).try_into::<T>().err()?;
                Some(format!("--set {}: {}", self.overrides[n - 1], error.message().trim()))
            });
            Error::Input(wrong.unwrap_or_else(|| format!("--set: {}", all.message())))
        })
    }

    fn parse_text<T: DeserializeOwned>(&self) -> Result<T> {
        toml::from_str(&self.text).map_err(|e| {
            let line = e.span().map(|span| self.line_at(span.start));
            let key = e.span().and_then(|span| {
                let table = DeTable::parse(&self.text).ok()?;
                key_at(table.get_ref(), span.start)
            });
            let key = key.map_or(String::new(), |key| format!("{}: ", key.join(".")));
            Error::File { path: self.path.clone(), line, what: format!("{key}{}", e.message().trim()) }
        })
    }

    /// The error with the line of its key, or of the nearest table around it.
    pub fn error(&self, wrong: &Wrong) -> Error {
        // "stage.a.lr" in the file is "a.lr" on the command line.
        let short = |key: &str| key.trim().trim_start_matches("stage.").to_owned();
        let sets = |text: &&String| text.split_once('=').is_some_and(|(key, _)| short(key) == short(&wrong.key));
        if let Some(text) = self.overrides.iter().rev().find(sets) {
            return Error::Input(format!("--set {text}: {}", wrong.what));
        }
        let what = format!("{}: {}", wrong.key, wrong.what);
        Error::File { path: self.path.clone(), line: self.line_of(&wrong.key), what }
    }

    fn line_of(&self, key: &str) -> Option<usize> {
        let table = DeTable::parse(&self.text).ok()?;
        let mut parts = key.split('.').peekable();
        let mut line = None;
        let mut at: &DeTable<'_> = table.get_ref();
        while let Some(part) = parts.next() {
            let (name, value) = at.iter().find(|(name, _)| name.get_ref() == part)?;
            line = Some(self.line_at(name.span().start));
            at = match value.get_ref() {
                DeValue::Table(inner) => inner,
                DeValue::Array(stages) => {
                    let Some(wanted) = parts.next() else { return line };
                    let stage = stages.iter().find(|stage| name_of(stage) == Some(wanted));
                    let Some(stage) = stage else { return line };
                    line = Some(self.line_at(stage.span().start));
                    match stage.get_ref() {
                        DeValue::Table(inner) => inner,
                        _ => return line,
                    }
                }
                _ => return line,
            };
            if parts.peek().is_some_and(|next| !at.iter().any(|(name, _)| name.get_ref() == next)) {
                return line;
            }
        }
        line
    }

    fn line_at(&self, byte: usize) -> usize {
        self.text.as_bytes().iter().take(byte).filter(|&&b| b == b'\n').count() + 1
    }
}

/// The parts of the key that stands at this byte, or whose value does, such as stage, finetune, steps.
fn key_at(table: &DeTable<'_>, byte: usize) -> Option<Vec<String>> {
    // The span of a table is that of its head, so that all of them are looked through.
    table.iter().find_map(|(name, value)| {
        let within = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, byte),
            DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(inner) => {
                    let rest = key_at(inner, byte)?;
                    Some(name_of(item).map(str::to_owned).into_iter().chain(rest).collect())
                }
                _ => None,
            }),
            _ => None,
        };
        let is_here = name.span().contains(&byte) || value.span().contains(&byte);
        let rest = within.or_else(|| is_here.then(Vec::new))?;
        Some([name.get_ref().to_string()].into_iter().chain(rest).collect())
    })
}

fn name_of<'a>(stage: &'a Spanned<DeValue<'_>>) -> Option<&'a str> {
    match stage.get_ref() {
        DeValue::Table(table) => table.iter().find(|(key, _)| key.get_ref() == "name")?.1.get_ref().as_str(),
        _ => None,
    }
}

/// Carries out "KEY=VALUE".
fn override_in(table: &mut Table, text: &str) -> Result<(), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE, such as pretrain.steps=100")?;
    let value = value_of(value);
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err("the key has an empty part".into());
    }
    let last = parts.pop().unwrap_or_default();
    // Errors name a stage's key as "stage.pretrain.steps".
    let says_stage = parts.first() == Some(&"stage");
    if says_stage {
        parts.remove(0);
    }
    let mut is_of_stage = false;
    let mut at = &mut *table;
    if let Some(first) = parts.first().copied().filter(|first| says_stage || !SECTIONS.contains(first)) {
        parts.remove(0);
        is_of_stage = parts.is_empty();
        let name = |stage: &Value| stage.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let stages = at.get_mut("stage").and_then(Value::as_array_mut).map_or(&mut [][..], |stages| &mut stages[..]);
        let known: Vec<String> = stages.iter().map(name).collect();
        let stage = known.iter().position(|name| name == first).and_then(|index| stages[index].as_table_mut());
        at = stage.ok_or_else(|| {
            let (stages, sections) = (known.join(", "), SECTIONS.join(", "));
            format!("there is no stage `{first}`: a key begins with a stage ({stages}) or a section ({sections})")
        })?;
    }
    for part in parts {
        at = at
            .entry(part)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| format!("`{part}` is a value, not a table"))?;
    }
    // A stage is so long in one way.
    if is_of_stage && LENGTHS.contains(&last) {
        LENGTHS.iter().for_each(|other| drop(at.remove(*other)));
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

/// Gives a key of a section a value that is written as in "KEY=VALUE".
///
/// # Errors
/// `Setting`: no such key, or no value for it.
pub(super) fn set<T: Clone + Serialize + DeserializeOwned>(section: &mut T, key: &str, value: &str) -> Result<()> {
    let wrong = |what: String| Error::setting(key, what.trim());
    let mut table = Table::try_from(section.clone()).map_err(|e| wrong(e.to_string()))?;
    table.insert(key.to_owned(), value_of(value));
    *section = Value::Table(table).try_into().map_err(|e: toml::de::Error| wrong(e.message().to_owned()))?;
    Ok(())
}

/// What is no TOML value is text: quotes are a burden in a shell.
fn value_of(text: &str) -> Value {
    let text = text.trim();
    if nests_too_deep(text) {
        return Value::String(text.to_owned());
    }
    match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut parsed) if parsed.len() == 1 => parsed.remove("value").unwrap_or(Value::String(text.to_owned())),
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "seed = 1\n\n[model]\nd_model = 64\n\n[[stage]]\nname = \"a\"\nsteps = 5\n\n[[stage]]\nname = \"b\"\nlr = 1\n";

    fn source() -> Source {
        Source { path: "r.toml".into(), text: TEXT.into(), overrides: Vec::new() }
    }

    #[test]
    fn keys_are_found_by_line() {
        for (key, line) in [
            ("seed", Some(1)),
            ("model.d_model", Some(4)),
            ("model.d_kv", Some(3)),
            ("stage.a.steps", Some(8)),
            ("stage.b.lr", Some(12)),
            ("stage.b.steps", Some(10)),
            ("nothing", None),
        ] {
            assert_eq!(source().line_of(key), line, "{key}");
        }
    }

    #[test]
    fn values_of_the_wrong_type_are_named_by_key_and_line() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code, reason = "only read into")]
        struct Recipe {
            seed: u64,
            model: std::collections::BTreeMap<String, i64>,
            stage: Vec<Stage>,
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code, reason = "only read into")]
        struct Stage {
            name: String,
            steps: Option<u64>,
            lr: Option<u64>,
        }
        for (old, new, place) in [
            ("steps = 5", "steps = -1", "r.toml:8: stage.a.steps: "),
            ("lr = 1", "rate = 1", "r.toml:12: stage.b.rate: unknown field"),
            ("d_model = 64", "d_model = true", "r.toml:4: model.d_model: "),
            ("seed = 1", "seed = [", "r.toml:4: missing"),
        ] {
            let source = Source { text: TEXT.replace(old, new), ..source() };
            let error = source.parse::<Recipe>().unwrap_err().to_string();
            assert!(error.starts_with(place), "{error}");
        }
    }

    #[test]
    fn overrides_reach_tables_and_stages() {
        let mut table: Table = toml::from_str(TEXT).unwrap();
        for text in
            ["model.d_model=128", "b.lr=0.5", "a.train=[\"x\"]", "tokenizer.from=bytes", "seed = 7", "stage.b.steps=9"]
        {
            override_in(&mut table, text).unwrap();
        }
        let text = toml::to_string(&table).unwrap();
        for part in ["d_model = 128", "lr = 0.5", "train = [\"x\"]", "from = \"bytes\"", "seed = 7", "steps = 9"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        override_in(&mut table, "a.tokens=5e6").unwrap();
        assert!(table["stage"][0].get("steps").is_none(), "one length takes the place of another");
        assert!(override_in(&mut table, "seed").is_err());
        assert!(override_in(&mut table, "seed.x=1").is_err());
        assert!(override_in(&mut table, "a..x=1").is_err());
    }
}
