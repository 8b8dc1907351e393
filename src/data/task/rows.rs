//! Files as rows: TSV, CSV, JSON lines, plain lines, and two data sets that are written their own way.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Split;
use super::files::Paths;
use super::row::Row;
use crate::data::bounded::Bounded;
use crate::data::cmudict::{CmuDict, Entry, split_of};
use crate::data::lines::for_each_line;
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
    /// A JSON object a line. For `.jsonl`, `.ndjson` and `.json`.
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
pub(super) struct Layout {
    pub format: Option<Format>,
    pub columns: Option<Vec<String>>,
    pub header: bool,
}

/// What [`for_each_row`] calls with the file, the line (None where rows are not lines) and the row.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&Path, Option<usize>, Row) -> Result<()>;

impl Format {
    /// The names of the columns, where the format gives them.
    pub(super) fn own_columns(self) -> Option<[&'static str; 2]> {
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
pub(super) fn for_each_row(paths: &Paths, layout: &Layout, split: Split, visit: Visit) -> Result<()> {
    match paths {
        Paths::Together(paths) => paths.iter().try_for_each(|path| {
            let format = layout.format.map_or_else(|| Format::from_path(path), Ok)?;
            match format {
                Format::Tsv => tsv(path, layout, visit),
                Format::Csv => csv(path, layout, visit),
                Format::Jsonl => jsonl(path, visit),
                Format::Lines => for_each_line(path, |n, line| visit(path, Some(n), Row::of_texts([("text", line)]))),
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

fn tsv(path: &Path, layout: &Layout, visit: Visit) -> Result<()> {
    let mut names: Option<Vec<String>> = layout.columns.clone();
    let mut in_header = layout.header;
    for_each_line(path, |number, line| {
        let cells: Vec<&str> = line.split('\t').collect();
        if std::mem::take(&mut in_header) {
            names.get_or_insert_with(|| cells.iter().map(|&cell| cell.to_owned()).collect());
            return Ok(());
        }
        let row = row_of(names.as_deref().unwrap_or_default(), &cells).map_err(|e| Error::line(path, number, e))?;
        visit(path, Some(number), row)
    })
}

fn csv(path: &Path, layout: &Layout, visit: Visit) -> Result<()> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(Bounded::new(unpack::open(path)?));
    let mut names: Option<Vec<String>> = layout.columns.clone();
    let mut in_header = layout.header;
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|e| csv_error(path, e))? {
        reader.get_mut().next_row();
        let number = record.position().map(|position| position.line() as usize);
        let cells: Vec<&str> = record.iter().collect();
        if std::mem::take(&mut in_header) {
            names.get_or_insert_with(|| cells.iter().map(|&cell| cell.to_owned()).collect());
            continue;
        }
        if cells.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        let row = row_of(names.as_deref().unwrap_or_default(), &cells);
        let row = row.map_err(|what| Error::File { path: path.to_path_buf(), line: number, what })?;
        visit(path, number, row)?;
    }
    Ok(())
}

fn csv_error(path: &Path, error: csv::Error) -> Error {
    let line = error.position().map(|position| position.line() as usize);
    match error.into_kind() {
        csv::ErrorKind::Io(cause) => Error::io("read", path)(cause),
        csv::ErrorKind::Utf8 { err, .. } => Error::File {
            path: path.to_path_buf(),
            line,
            what: format!("{err}; the text must be UTF-8 (convert it with iconv)"),
        },
        kind => Error::File { path: path.to_path_buf(), line, what: format!("not a valid CSV record: {kind:?}") },
    }
}

fn row_of(names: &[String], cells: &[&str]) -> Result<Row, String> {
    if cells.len() != names.len() {
        return Err(format!("{} column(s), expected {}: {}", cells.len(), names.len(), names.join(", ")));
    }
    Ok(Row::of_texts(names.iter().map(String::as_str).zip(cells.iter().copied())))
}

fn jsonl(path: &Path, visit: Visit) -> Result<()> {
    for_each_line(path, |number, line| {
        let fail = |what: String| Error::line(path, number, what);
        match serde_json::from_str(line) {
            Ok(Value::Object(values)) => visit(path, Some(number), Row::new(values)),
            Ok(_) => Err(fail("every line must be a JSON object ({\"key\": value, ...})".into())),
            Err(e) => Err(fail(format!("not valid JSON: {e}; every line must be a whole object"))),
        }
    })
}

fn cmudict(path: &Path, split: Split, visit: Visit) -> Result<()> {
    let in_split = |entry: &&Entry| split_of(&entry.word) == split;
    for entry in CmuDict::open(path)?.entries.iter().filter(in_split) {
        let taught = if split == Split::Train { 1 } else { usize::MAX };
        for pronunciation in entry.pronunciations.iter().take(taught) {
            let row = Row::of_texts([("word", entry.word.as_str()), ("pronunciation", pronunciation.as_str())]);
            visit(path, None, row)?;
        }
    }
    Ok(())
}

fn scan(path: &Path, visit: Visit) -> Result<()> {
    for_each_line(path, |number, line| {
        let halves = line.trim().strip_prefix("IN:").and_then(|rest| rest.split_once("OUT:"));
        let (command, actions) = halves
            .ok_or_else(|| Error::line(path, number, "expected a line like `IN: walk left OUT: I_TURN_LEFT I_WALK`"))?;
        visit(path, Some(number), Row::of_texts([("command", command.trim()), ("actions", actions.trim())]))
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
            visit(first_path, Some(*number), Row::of_texts(row))?;
        }
    }
    Ok(())
}
