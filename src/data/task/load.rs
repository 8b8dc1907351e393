//! Turns rows into examples.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::preset::PresetMaker;
use super::row::{Row, text_of};
use super::rows::{Record, TableLayout, for_each_row};
use super::template::Template;
use super::{Format, OnBadRow, TaskConfig};
use crate::data::example::{CHOICES, Split, TaskExample, UNKNOWN_LABEL};
use crate::rng::fnv1a;
use crate::{Error, Result};

/// Examples with where they stand, for messages about them.
pub(super) struct Loaded {
    pub files: Vec<PathBuf>,
    pub examples: Vec<Placed>,
    pub left_out: LeftOut,
}

/// Rows that are no examples.
#[derive(Clone, Debug, Default)]
pub struct LeftOut {
    /// Rows that are no examples as they should be (under `on_bad_row = "skip"`).
    pub bad: usize,
    /// What is wrong with the first of them, with its file and line.
    pub first_bad: Option<String>,
    /// Files whose first row was found to name the columns.
    pub headers: Vec<PathBuf>,
}

pub(super) struct Placed {
    pub example: TaskExample,
    /// Index into the files.
    file: usize,
    line: Option<usize>,
}

impl Loaded {
    pub(super) fn into_examples(self) -> Vec<TaskExample> {
        self.examples.into_iter().map(|placed| placed.example).collect()
    }

    pub(super) fn error(&self, placed: &Placed, what: String) -> Error {
        let path = self.files.get(placed.file).cloned().unwrap_or_default();
        Error::File { path, line: placed.line, what }
    }
}

/// A column that every row has whose file gives none of the name: the file's name up to its first dot.
const FILE: &str = "file";

/// How a declaration turns rows into examples.
pub(super) enum Maker {
    /// Templates over the columns and [`FILE`]; the column `label` is replaced by its word before.
    Template {
        prefix: String,
        input: Template,
        target: Template,
        choices: Vec<Template>,
        label: Option<String>,
        labels: Vec<String>,
    },
    Preset(PresetMaker),
}

pub(super) fn load(config: &TaskConfig, base: &Path, split: Split) -> Result<Loaded> {
    config.check()?;
    let paths = config.declared(split)?.resolve(base)?;
    let maker = maker(config).map_err(Error::Input)?;
    let layout = layout(config);
    let mut loaded = Loaded { files: Vec::new(), examples: Vec::new(), left_out: LeftOut::default() };
    for_each_row(&paths, &layout, split, &mut |path, line, record| {
        if loaded.files.last().is_none_or(|last| last != path) {
            loaded.files.push(path.to_path_buf());
        }
        let examples = match record {
            Record::Row(row) => maker.examples(row, path, split),
            Record::Bad(what) => Err(what),
            Record::Header => {
                loaded.left_out.headers.push(path.to_path_buf());
                return Ok(());
            }
        };
        let examples = examples.and_then(|examples| examples.iter().try_for_each(checked).map(|()| examples));
        let examples = match (examples, config.on_bad_row.unwrap_or_default()) {
            (Ok(examples), _) => examples,
            (Err(what), OnBadRow::Skip) => {
                loaded.left_out.bad += 1;
                let error = || Error::File { path: path.to_path_buf(), line, what }.to_string();
                loaded.left_out.first_bad.get_or_insert_with(error);
                return Ok(());
            }
            (Err(what), OnBadRow::Error) => {
                let what =
                    format!("{what} (to leave such rows out: --on-bad-row skip, in recipes on_bad_row = \"skip\")");
                return Err(Error::File { path: path.to_path_buf(), line, what });
            }
        };
        for example in examples {
            if config.held_out.is_some_and(|share| is_held_out(&example.source, share) != (split == Split::Validation))
            {
                continue;
            }
            if loaded.examples.len() == MOST_EXAMPLES {
                let what = format!("a task holds its examples in memory, {MOST_EXAMPLES} at most: split it");
                return Err(Error::File { path: path.to_path_buf(), line, what });
            }
            loaded.examples.push(Placed { example, file: loaded.files.len() - 1, line });
        }
        Ok(())
    })?;
    if loaded.examples.is_empty() {
        let LeftOut { bad, first_bad, .. } = &loaded.left_out;
        let why = first_bad
            .as_ref()
            .map_or(String::new(), |first| format!(": {bad} rows are left out, the first as {first}"));
        return Err(Error::Input(format!("there is no example for {split} in {}{why}", names(&paths.into_paths()))));
    }
    if split != Split::Train && config.groups_references() {
        loaded.examples = grouped(loaded.examples);
    }
    Ok(loaded)
}

/// Files in a sentence.
pub(super) fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Tens of gigabytes already; a packed file may hold any number.
const MOST_EXAMPLES: usize = 1 << 27;

/// Whether a source belongs to this share of all: a function of the source alone, so that it is never on both sides.
fn is_held_out(source: &str, share: f64) -> bool {
    let hash = fnv1a(source.bytes());
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11;
    (mixed as f64) < share * (1u64 << 53) as f64
}

/// What all sources begin with.
pub(super) fn prefix(config: &TaskConfig) -> String {
    match maker(config) {
        Ok(Maker::Template { prefix, .. }) => prefix,
        Ok(Maker::Preset(preset)) => preset.prefix().to_owned(),
        Err(_) => String::new(),
    }
}

/// Errors name the key of the declaration.
pub(super) fn maker(config: &TaskConfig) -> Result<Maker, String> {
    let prefix = config.prefix.as_deref();
    if let Some(name) = &config.preset {
        let languages = config.source_language.as_deref().zip(config.target_language.as_deref());
        let made = PresetMaker::new(name, prefix, languages, config.label.as_deref(), config.label_words())?;
        return Ok(Maker::Preset(made));
    }
    let columns = known_columns(config);
    let has_both = |names: &[String]| ["source", "target"].iter().all(|side| names.iter().any(|name| name == side));
    // Parallel files are a table, whose keys have no order.
    let is_ordered = config.known_format() != Some(Format::Lines);
    let (first, second) = match columns.as_deref() {
        Some([first, second]) if is_ordered && !has_both(&[first.clone(), second.clone()]) => {
            (first.clone(), second.clone())
        }
        _ => ("source".to_owned(), "target".to_owned()),
    };
    let second = config.label.clone().unwrap_or(second);
    let parse = |template: &Option<String>, column: &str| match template {
        Some(template) => Template::parse(template),
        None => Ok(Template::column(column)),
    };
    let (input, target) = (parse(&config.input, &first)?, parse(&config.target, &second)?);
    let choices = config.choices.iter().flatten().map(|template| Template::parse(template));
    let choices: Vec<Template> = choices.collect::<Result<_, _>>()?;
    if let Some(columns) = &columns {
        let is_known = |name: &str| name == FILE || columns.iter().any(|column| column == name);
        let answers = choices.iter().flat_map(Template::columns);
        let used = input.columns().chain(target.columns()).chain(answers).chain(config.label.as_deref());
        if let Some(unknown) = used.into_iter().find(|name| !is_known(name)) {
            return Err(format!(
                "there is no column {unknown:?}; there are {}: set input and target to templates over them, such as \
                 input = \"{{{}}}\"",
                columns.join(", "),
                columns.first().map_or("", String::as_str)
            ));
        }
    }
    Ok(Maker::Template {
        prefix: prefix.unwrap_or_default().to_owned(),
        input,
        target,
        choices,
        label: config.label.clone(),
        labels: config.label_words(),
    })
}

/// The names of the columns, as far as the declaration tells.
fn known_columns(config: &TaskConfig) -> Option<Vec<String>> {
    let parallel =
        [&config.train, &config.validation, &config.test].into_iter().flatten().find_map(|files| match files {
            super::Files::Parallel(columns) => Some(columns.keys().cloned().collect()),
            super::Files::Together(_) => None,
        });
    let own = || config.known_format()?.own_columns().map(|names| names.map(str::to_owned).to_vec());
    parallel.or_else(|| config.columns.clone()).or_else(own)
}

fn layout(config: &TaskConfig) -> TableLayout {
    let own = config.known_preset().map_or(&[][..], |preset| preset.tsv_columns);
    let is_own_file = config.columns.is_none() && config.header.is_none() && config.known_format() == Some(Format::Tsv);
    let columns = if is_own_file && !own.is_empty() {
        Some(own.iter().map(|&name| name.to_owned()).collect())
    } else {
        config.columns.clone()
    };
    TableLayout { format: config.format, header: config.header, columns }
}

/// The word of a label given as a number, as true or false, or as the word; [`UNKNOWN_LABEL`] for -1.
pub(super) fn label_word(value: &Value, labels: &[String]) -> Result<String, String> {
    let text = text_of(value)?;
    if labels.contains(&text) {
        return Ok(text);
    }
    let number = match value {
        Value::Bool(flag) => Some(i64::from(*flag)),
        _ => text.trim().parse::<f64>().ok().filter(|x| x.fract() == 0.0).map(|x| x as i64),
    };
    match number {
        Some(-1) => Ok(UNKNOWN_LABEL.to_owned()),
        Some(number) if usize::try_from(number).is_ok_and(|n| n < labels.len()) => Ok(labels[number as usize].clone()),
        _ => Err(format!("the label {text:?} is none of {} nor their numbers from 0", labels.join(", "))),
    }
}

fn checked(example: &TaskExample) -> Result<(), String> {
    if example.source.trim().is_empty() {
        return Err("the source is empty".into());
    }
    if example.target.trim().is_empty() {
        return Err("the target is empty".into());
    }
    Ok(())
}

/// Examples with one source become one with all their references, where the first of them stood.
fn grouped(examples: Vec<Placed>) -> Vec<Placed> {
    let mut groups: Vec<Placed> = Vec::new();
    let mut group_of: HashMap<String, usize> = HashMap::new();
    for placed in examples {
        match group_of.get(&placed.example.source).and_then(|&index| groups.get_mut(index)) {
            Some(group) => {
                for reference in placed.example.references {
                    if !group.example.references.contains(&reference) {
                        group.example.references.push(reference);
                    }
                }
            }
            None => {
                group_of.insert(placed.example.source.clone(), groups.len());
                groups.push(placed);
            }
        }
    }
    groups
}

impl Maker {
    /// The examples of a row of this file: one for most tasks.
    pub(super) fn examples(&self, row: Row, path: &Path, split: Split) -> Result<Vec<TaskExample>, String> {
        match self {
            Maker::Template { prefix, input, target, choices, label, labels } => {
                let asked =
                    [input, target].into_iter().chain(choices).flat_map(Template::columns).any(|name| name == FILE);
                let row = if asked { with_file(row, path) } else { row };
                let row = match label {
                    Some(column) => with_label(row, column, labels)?,
                    None => row,
                };
                let target = target.render(&row)?;
                let source = format!("{prefix}{}", input.render(&row)?);
                let extra = if choices.is_empty() { Value::Null } else { chosen_from(choices, &target, &row)? };
                Ok(vec![TaskExample { source, references: vec![target.clone()], target, extra }])
            }
            Maker::Preset(made) => made.examples(row, split),
        }
    }
}

/// The answers that are compared, of which the target is one.
fn chosen_from(choices: &[Template], target: &str, row: &Row) -> Result<Value, String> {
    let texts: Vec<String> = choices.iter().map(|choice| choice.render(row)).collect::<Result<_, _>>()?;
    if let Some(twice) = (1..texts.len()).find(|&i| texts[..i].contains(&texts[i])) {
        return Err(format!("two choices are the same: {:?}", texts[twice]));
    }
    if texts.iter().any(|text| text.trim().is_empty()) {
        return Err("a choice is empty".into());
    }
    if !texts.iter().any(|text| text == target) {
        return Err(format!("the target {target:?} is none of the choices {texts:?}"));
    }
    Ok(json!({ CHOICES: texts }))
}

/// The row with the name of its file, unless it has a column of that name.
fn with_file(row: Row, path: &Path) -> Row {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut values = row.values().clone();
    values.entry(FILE).or_insert_with(|| Value::from(name.split('.').next().unwrap_or_default()));
    Row::new(values)
}

/// The row with the label's word in place of its number.
fn with_label(row: Row, column: &str, labels: &[String]) -> Result<Row, String> {
    let word = label_word(row.need(&[column])?, labels)?;
    let mut values = row.values().clone();
    values.insert(column.to_owned(), Value::from(word));
    Ok(Row::new(values))
}
