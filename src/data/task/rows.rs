//! Files as rows: TSV, CSV, JSON lines, plain lines, and the formats of two data sets.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::files::Paths;
use super::row::{Row, as_json};
use crate::data::cmudict::CmuDict;
use crate::data::example::Split;
use crate::data::lines::{MAX_LINE, for_each_line, for_each_row as for_each_text, not_utf8};
use crate::data::unpack;
use crate::{Error, Result};

/// How files write their examples; any of them may be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Columns between tabs, without quoting. By default for `.tsv`.
    Tsv,
    /// Columns between commas, quoted where needed (RFC 4180). For `.csv`.
    Csv,
    /// A JSON object a line, or one array of objects. For `.jsonl`, `.ndjson` and `.json`.
    Jsonl,
    /// A column "text", or of parallel files the columns that the declaration names. For `.txt`.
    Lines,
    /// The CMU Pronouncing Dictionary itself: columns "word" and "pronunciation". All splits read the same file and take
    /// their share of the words: 5 % each for validation and test, chosen by a hash of the word. For training a word has
    /// its first pronunciation only. For `.dict`.
    Cmudict,
    /// SCAN's lines `IN: walk left OUT: I_TURN_LEFT I_WALK`: columns "command" and "actions".
    Scan,
}

/// The layout that a declaration gives tables of text.
pub(super) struct TableLayout {
    pub format: Option<Format>,
    pub columns: Option<Vec<String>>,
    /// Whether the first row names the columns. `None`: if it does by its words.
    pub header: Option<bool>,
}

/// One row of a file, as it was read.
pub(super) enum Record {
    Row(Row),
    /// What is wrong with the row.
    Bad(String),
    /// A first row that names the columns, recognised by its words.
    Header,
}

/// What [`for_each_row`] calls with the file, the line (None where rows are not lines) and what stands there.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&Path, Option<usize>, Record) -> Result<()>;

/// What files of pairs call their columns.
const SOURCES: [&str; 6] = ["source", "source_text", "src", "input", "input_text", "inputs"];
const TARGETS: [&str; 8] = ["target", "target_text", "tgt", "output", "output_text", "outputs", "targets", "label"];

impl TableLayout {
    /// Whether the first row of a file names its columns.
    fn is_header(&self, cells: &[&str]) -> bool {
        let Some(columns) = &self.columns else { return self.header.unwrap_or(true) };
        self.header.unwrap_or_else(|| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.trim().to_lowercase()).collect();
            let is_pair = |names: &[String], sources: &[&str], targets: &[&str]| match names {
                [first, second] => sources.contains(&first.as_str()) && targets.contains(&second.as_str()),
                _ => false,
            };
            cells.iter().eq(columns.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>().iter())
                || is_pair(columns, &["source"], &["target"]) && is_pair(&cells, &SOURCES, &TARGETS)
        })
    }

    /// What a row of a table stands for; `names` are the columns' once they are known.
    fn record(&self, names: &mut Option<Vec<String>>, is_first: bool, cells: &[&str]) -> Option<Record> {
        if is_first && self.is_header(cells) {
            names.get_or_insert_with(|| cells.iter().map(|&cell| cell.to_owned()).collect());
            return (self.columns.is_some() && self.header.is_none()).then_some(Record::Header);
        }
        Some(match table_row(names.as_deref().unwrap_or_default(), cells) {
            Ok(row) => Record::Row(row),
            Err(what) => Record::Bad(what),
        })
    }
}

impl Format {
    /// The names of the columns, where the format gives them.
    pub(in crate::data) fn own_columns(self) -> Option<[&'static str; 2]> {
        match self {
            Format::Cmudict => Some(["word", "pronunciation"]),
            Format::Scan => Some(["command", "actions"]),
            _ => None,
        }
    }

    pub(super) fn is_table(self) -> bool {
        matches!(self, Format::Tsv | Format::Csv)
    }

    /// By the ending of the name.
    pub fn from_path(path: &Path) -> Result<Format> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let name = [".gz", ".xz", ".zst"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
        match name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("tsv") => Ok(Format::Tsv),
            Some("csv") => Ok(Format::Csv),
            Some("jsonl" | "ndjson" | "json") => Ok(Format::Jsonl),
            Some("txt") => Ok(Format::Lines),
            Some("dict") => Ok(Format::Cmudict),
            _ => Err(Error::file(
                path,
                "the name does not end in .tsv, .csv, .jsonl, .txt or .dict (before .gz, .xz or .zst): set format = \
                 \"tsv\", \"csv\", \"jsonl\", \"lines\", \"cmudict\" or \"scan\"",
            )),
        }
    }
}

/// All rows of a split's files, in order.
pub(super) fn for_each_row(paths: &Paths, layout: &TableLayout, split: Split, visit: Visit) -> Result<()> {
    match paths {
        Paths::Together(paths) => paths.iter().try_for_each(|path| {
            let format = layout.format.map_or_else(|| Format::from_path(path), Ok)?;
            match format {
                Format::Tsv => tsv(path, layout, visit),
                Format::Csv => csv(path, layout, visit),
                Format::Jsonl => jsonl(path, visit),
                Format::Lines => for_each_text(path, |number, line| {
                    let row = line.map(|line| Row::of_texts([("text", line)]));
                    visit(path, Some(number), row.map_or_else(Record::Bad, Record::Row))
                }),
                Format::Cmudict => cmudict(path, split, visit),
                Format::Scan => scan(path, visit),
            }
        }),
        Paths::Parallel(columns) => {
            let n_files = columns.first().map_or(0, |(_, paths)| paths.len());
            (0..n_files).try_for_each(|index| parallel(columns, index, visit))
        }
    }
}

fn tsv(path: &Path, layout: &TableLayout, visit: Visit) -> Result<()> {
    let mut names: Option<Vec<String>> = layout.columns.clone();
    let mut is_first = true;
    for_each_text(path, |number, line| {
        let record = match line {
            Ok(line) => layout.record(&mut names, is_first, &line.split('\t').collect::<Vec<_>>()),
            Err(what) => Some(Record::Bad(what)),
        };
        is_first = false;
        record.map_or(Ok(()), |record| visit(path, Some(number), record))
    })
}

fn csv(path: &Path, layout: &TableLayout, visit: Visit) -> Result<()> {
    let bounded = unpack::open(path)?.take(MAX_LINE);
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bounded);
    let mut names: Option<Vec<String>> = layout.columns.clone();
    let mut is_first = true;
    let mut bytes = csv::ByteRecord::new();
    while reader.read_byte_record(&mut bytes).map_err(|e| csv_error(path, e))? {
        let number = bytes.position().map(|position| position.line() as usize);
        if reader.get_ref().limit() == 0 {
            let what = "a row of more than 64 MiB: is a quote never closed?".to_owned();
            return Err(Error::File { path: path.to_path_buf(), line: number, what });
        }
        reader.get_mut().set_limit(MAX_LINE);
        let record = match bytes.iter().map(str::from_utf8).collect::<Result<Vec<&str>, _>>() {
            Ok(cells) if cells.iter().all(|cell| cell.trim().is_empty()) => continue,
            Ok(cells) => layout.record(&mut names, is_first, &cells),
            Err(e) => Some(Record::Bad(not_utf8(e.valid_up_to()).replace("the line", "a cell"))),
        };
        is_first = false;
        if let Some(record) = record {
            visit(path, number, record)?;
        }
    }
    Ok(())
}

fn csv_error(path: &Path, error: csv::Error) -> Error {
    let line = error.position().map(|position| position.line() as usize);
    match error.into_kind() {
        csv::ErrorKind::Io(cause) => Error::io("read", path)(cause),
        kind => Error::File { path: path.to_path_buf(), line, what: format!("not a valid CSV record: {kind:?}") },
    }
}

/// An object on a line of its own.
pub(in crate::data) fn json_row(line: &str) -> Result<Row, String> {
    match serde_json::from_str(&as_json(line)) {
        Ok(Value::Object(values)) => Ok(Row::new(values)),
        Ok(_) => Err("every line must be a JSON object ({\"key\": value, ...})".into()),
        Err(e) => Err(format!("not valid JSON: {e}; every line must be a whole object")),
    }
}

pub(in crate::data) fn table_row(names: &[String], cells: &[&str]) -> Result<Row, String> {
    if cells.len() != names.len() {
        return Err(format!("{} column(s), expected {}: {}", cells.len(), names.len(), names.join(", ")));
    }
    Ok(Row::of_texts(names.iter().map(String::as_str).zip(cells.iter().copied())))
}

fn jsonl(path: &Path, visit: Visit) -> Result<()> {
    // The text of an array, and how many lines it has so far.
    let mut array: Option<(String, usize)> = None;
    let mut is_first = true;
    for_each_text(path, |number, line| {
        let begins =
            std::mem::take(&mut is_first) && line.as_ref().is_ok_and(|line| line.trim_start().starts_with('['));
        if begins || array.is_some() {
            let (text, lines) = array.get_or_insert_default();
            // Blank lines are not visited, but they count.
            text.extend((*lines + 1..number).map(|_| '\n'));
            text.push_str(line.map_err(|what| Error::line(path, number, what))?);
            text.push('\n');
            *lines = number;
            return Ok(());
        }
        visit(path, Some(number), line.and_then(json_row).map_or_else(Record::Bad, Record::Row))
    })?;
    array.map_or(Ok(()), |(text, _)| json_array(path, &text, visit))
}

/// `[{...}, {...}]`: its objects, each with the line that it begins on.
fn json_array(path: &Path, text: &str, visit: Visit) -> Result<()> {
    let text = as_json(text);
    let items: Vec<&RawValue> = serde_json::from_str(&text).map_err(|e| {
        Error::line(path, e.line(), format!("not valid JSON: {e}; the file begins as an array of objects"))
    })?;
    let (mut line, mut counted) = (1, 0);
    for item in items {
        let start = item.get().as_ptr() as usize - text.as_ptr() as usize;
        line += text[counted..start].matches('\n').count();
        counted = start;
        let record = match serde_json::from_str(item.get()) {
            Ok(Value::Object(values)) => Record::Row(Row::new(values)),
            _ => Record::Bad("every item of the array must be an object ({\"key\": value, ...})".into()),
        };
        visit(path, Some(line), record)?;
    }
    Ok(())
}

fn cmudict(path: &Path, split: Split, visit: Visit) -> Result<()> {
    for (word, pronunciations) in CmuDict::open(path)?.split(split) {
        for pronunciation in pronunciations {
            let row = Row::of_texts([("word", word), ("pronunciation", pronunciation)]);
            visit(path, None, Record::Row(row))?;
        }
    }
    Ok(())
}

fn scan(path: &Path, visit: Visit) -> Result<()> {
    for_each_text(path, |number, line| {
        let row = line.and_then(|line| {
            let halves = line.trim().strip_prefix("IN:").and_then(|rest| rest.split_once("OUT:"));
            let (command, actions) = halves.ok_or("expected a line like `IN: walk left OUT: I_TURN_LEFT I_WALK`")?;
            Ok(Row::of_texts([("command", command.trim()), ("actions", actions.trim())]))
        });
        visit(path, Some(number), row.map_or_else(Record::Bad, Record::Row))
    })
}

/// The `index`-th files of all columns, side by side.
fn parallel(columns: &[(String, Vec<PathBuf>)], index: usize, visit: Visit) -> Result<()> {
    let mut sides = Vec::with_capacity(columns.len());
    for (name, paths) in columns {
        let Some(path) = paths.get(index) else { continue };
        let mut texts: Vec<(usize, String)> = Vec::new();
        for_each_line(path, |number, line| {
            texts.push((number, line.to_owned()));
            Ok(())
        })?;
        sides.push((name.as_str(), path.as_path(), texts));
    }
    let last = |side: &(&str, &Path, Vec<(usize, String)>)| side.2.last().map_or(0, |(number, _)| *number);
    let Some(shortest) = sides.iter().min_by_key(|side| last(side)) else { return Ok(()) };
    let Some(longest) = sides.iter().max_by_key(|side| last(side)) else { return Ok(()) };
    if last(shortest) != last(longest) {
        return Err(Error::line(
            longest.1,
            last(longest),
            format!("{} ends at line {}: parallel files must match line by line", shortest.1.display(), last(shortest)),
        ));
    }
    let mut others: Vec<_> = sides.iter().skip(1).map(|(name, _, texts)| (*name, texts.iter().peekable())).collect();
    let Some((first_name, first_path, first)) = sides.first() else { return Ok(()) };
    for (number, text) in first {
        let mut row = vec![(*first_name, text.as_str())];
        for (name, texts) in &mut others {
            while texts.next_if(|(n, _)| n < number).is_some() {}
            row.extend(texts.next_if(|(n, _)| n == number).map(|(_, text)| (*name, text.as_str())));
        }
        if row.len() == sides.len() {
            visit(first_path, Some(*number), Record::Row(Row::of_texts(row)))?;
        }
    }
    Ok(())
}
