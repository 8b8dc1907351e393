//! Documents of unlabelled text: a line of a file is one, or a row with one in its columns.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::cmudict;
use super::example::Split;
use super::lines::Lines;
use super::task::{Format, Row, Template, json_row, table_row};
use crate::{Error, Result};

/// The column of JSON lines that is the text, where no template says another: that of C4 and most collections.
const TEXT: &str = "text";

/// How lines hold documents. By default JSON lines have them under "text", and every other line is one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Documents {
    /// For all files; by default that of each file's name, if that is one of JSON lines, and else plain lines.
    format: Option<Format>,
    /// Of a table.
    columns: Vec<String>,
    text: Option<Template>,
    /// Formats that hold their own splits give this one.
    split: Split,
}

impl Documents {
    /// `text` is a template over columns, as tasks have for their sources.
    ///
    /// # Errors
    /// Name the key, and what to write instead.
    pub fn new(format: Option<Format>, columns: Option<&[String]>, text: Option<&str>) -> Result<Documents> {
        let columns = columns.unwrap_or_default().to_vec();
        match format {
            Some(Format::Csv | Format::Scan) => {
                let what = "text is read from lines (\"lines\", \"jsonl\", \"tsv\" or \"cmudict\")";
                return Err(Error::setting("format", what));
            }
            Some(Format::Tsv) if columns.is_empty() => {
                return Err(Error::setting("columns", "the names of the table's columns must be given"));
            }
            Some(Format::Tsv) => {}
            _ if !columns.is_empty() => {
                return Err(Error::setting("columns", "only tables have columns without names: set format = \"tsv\""));
            }
            Some(Format::Lines) if text.is_some() => {
                return Err(Error::setting("text", "a plain line has no columns: it is the text"));
            }
            _ => {}
        }
        let default = match format {
            Some(Format::Tsv) => columns.first().map(String::as_str),
            Some(Format::Cmudict) => Some("word"),
            _ => None,
        };
        let text = match text {
            Some(text) => Some(Template::parse(text).map_err(|what| Error::setting("text", what))?),
            None => default.map(Template::column),
        };
        let known = format.and_then(Format::own_columns).map(|names| names.map(str::to_owned).to_vec());
        let known = known.unwrap_or_else(|| columns.clone());
        let unknown = text.iter().flat_map(Template::columns).find(|name| !known.iter().any(|column| column == name));
        match unknown {
            Some(name) if !known.is_empty() => {
                let what = format!("there is no column {name:?}; there are {}", known.join(", "));
                Err(Error::setting("text", what))
            }
            _ => Ok(Documents { format, columns, text, split: Split::Train }),
        }
    }

    /// The documents of another split, where the format holds several.
    #[must_use]
    pub fn of_split(self, split: Split) -> Documents {
        Documents { split, ..self }
    }

    /// The document of a line; `None` if it is of another split, or a further pronunciation of a word.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub(super) fn of_line<'a>(&self, path: &Path, line: &'a str) -> Result<Option<Cow<'a, str>>, String> {
        let row = match self.format_of(path) {
            Format::Jsonl => json_row(line)?,
            Format::Tsv => table_row(&self.columns, &line.split('\t').collect::<Vec<_>>())?,
            Format::Cmudict => match cmudict::columns_of(line, self.split)? {
                Some(columns) => Row::of_texts(columns.iter().map(|(name, text)| (*name, text.as_str()))),
                None => return Ok(None),
            },
            _ => return Ok(Some(Cow::Borrowed(line))),
        };
        let text = match &self.text {
            Some(template) => template.render(&row),
            None => row.text(&[TEXT]),
        };
        text.map(|text| Some(Cow::Owned(text)))
    }

    fn format_of(&self, path: &Path) -> Format {
        self.format.unwrap_or_else(|| match Format::from_path(path) {
            Ok(Format::Jsonl) => Format::Jsonl,
            _ if self.text.is_some() => Format::Jsonl,
            _ => Format::Lines,
        })
    }

    /// The documents of these files, file after file. After an error the stream ends.
    pub fn of_files(self, paths: Vec<PathBuf>) -> impl Iterator<Item = Result<String>> {
        let mut paths = paths.into_iter();
        let mut open: Option<(PathBuf, Lines)> = None;
        let mut failed = false;
        let mut next = move || -> Result<Option<String>> {
            loop {
                while let Some((path, lines)) = &mut open {
                    let Some((number, line)) = lines.next_text()? else {
                        open = None;
                        continue;
                    };
                    if line.trim().is_empty() {
                        continue;
                    }
                    let document = self.of_line(path, line).map_err(|what| Error::line(&**path, number, what))?;
                    if let Some(document) = document.filter(|document| !document.trim().is_empty()) {
                        return Ok(Some(document.into_owned()));
                    }
                }
                match paths.next() {
                    Some(path) => open = Some((path.clone(), Lines::open(&path)?)),
                    None => return Ok(None),
                }
            }
        };
        std::iter::from_fn(move || {
            if failed {
                return None;
            }
            let document = next().transpose();
            failed = matches!(document, Some(Err(_)));
            document
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn texts(documents: Documents, name: &str, contents: &[u8]) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, contents).unwrap();
        documents.of_files(vec![path]).collect()
    }

    #[test]
    fn lines_and_rows() {
        let named = |format, columns: &[&str], text| {
            let columns: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
            Documents::new(format, (!columns.is_empty()).then_some(&columns), text).unwrap()
        };
        let json = b"{\"text\": \"one\\ntwo\", \"url\": \"x\"}\n\n{\"text\": \" \", \"url\": \"y\"}\n";
        for (documents, name, contents, wanted) in [
            (Documents::default(), "a.txt", &b"one\n\n{\"text\": 1}\n"[..], &["one", "{\"text\": 1}"][..]),
            (Documents::default(), "a.jsonl", json, &["one\ntwo"]),
            (named(None, &[], Some("{url}: {text}")), "a.txt", json, &["x: one\ntwo", "y:  "]),
            (named(Some(Format::Lines), &[], None), "a.json", b"{}\n", &["{}"]),
            (named(Some(Format::Tsv), &["a", "b"], None), "a.tsv", b"1\t2\n3\t4\n", &["1", "3"]),
            (named(Some(Format::Tsv), &["a", "b"], Some("{b|lower}")), "a.tsv", b"1\tX\n", &["x"]),
            (
                named(Some(Format::Cmudict), &[], None),
                "a",
                b";;; x\ncat K AE1 T\ncat(2) K\nabbey AE1\nn!d X\n",
                &["cat"],
            ),
        ] {
            assert_eq!(texts(documents, name, contents).unwrap(), wanted, "{name}");
        }
        let held_out = named(Some(Format::Cmudict), &[], Some("{pronunciation}")).of_split(Split::Validation);
        assert_eq!(texts(held_out, "a", b"cat K AE1 T\nabbey AE1 B\n").unwrap(), ["AE1 B"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (contents, message) in [
            (&b"{\"text\": \"a\"}\n{\"x\": 1}\n"[..], "a.json:2: there is no column \"text\"; there are x"),
            (b"[1]\n", "a.json:1: every line must be a JSON object"),
            (b"\n{\n", "a.json:2: not valid JSON"),
        ] {
            let error = texts(Documents::default(), "a.json", contents).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let columns = ["a".to_owned()];
        for (format, columns, text, key) in [
            (Some(Format::Csv), None, None, "format"),
            (Some(Format::Tsv), None, None, "columns"),
            (None, Some(&columns[..]), None, "columns"),
            (Some(Format::Lines), None, Some("{a}"), "text"),
            (Some(Format::Tsv), Some(&columns[..]), Some("{b}"), "text"),
            (Some(Format::Cmudict), None, Some("{text}"), "text"),
            (None, None, Some("{"), "text"),
        ] {
            let error = Documents::new(format, columns, text).unwrap_err();
            assert!(matches!(&error, Error::Setting { key: found, .. } if found == key), "{error}");
        }
    }

    #[test]
    fn files_follow_each_other_and_an_error_is_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "one\n\ntwo").unwrap();
        fs::write(path("b"), b"three\n\xff\nfour\n").unwrap();
        let lines: Vec<_> = Documents::default().of_files(vec![path("a"), path("b")]).collect();
        let texts: Vec<&str> = lines.iter().filter_map(|line| line.as_deref().ok()).collect();
        assert_eq!((texts, lines.len()), (vec!["one", "two", "three"], 4));
        assert!(lines[3].as_ref().unwrap_err().to_string().contains("b:2"));
    }
}
