//! Turns a file of pairs that the command line names into a task.

use std::path::Path;

use anyhow::{Result, bail};
use clap::ValueEnum;
use t5_wgpu::data::task::{Files, Format, OnBadRow};
use t5_wgpu::data::{Split, TaskConfig};

/// What the task is called.
pub const PAIRS: &str = "pairs";

/// What `--on-bad-row` can ask for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OnBadRowArg {
    /// Stop with an error that names the line
    Error,
    /// Leave such rows out, and say how many they were
    Skip,
}

impl From<OnBadRowArg> for OnBadRow {
    fn from(arg: OnBadRowArg) -> OnBadRow {
        match arg {
            OnBadRowArg::Error => OnBadRow::Error,
            OnBadRowArg::Skip => OnBadRow::Skip,
        }
    }
}

/// Lets these files be those of a split. Tables have two columns, source and target; JSON lines name theirs.
///
/// # Errors
/// The file's name has another ending.
pub fn set_file(task: &mut TaskConfig, split: Split, file: &Path) -> Result<()> {
    let format = match Format::from_path(file) {
        Ok(format @ (Format::Tsv | Format::Csv | Format::Jsonl)) => format,
        _ => bail!("{}: pairs are read from .tsv, .csv or .jsonl files; a recipe reads other formats", file.display()),
    };
    task.columns = (format != Format::Jsonl).then(|| vec!["source".to_owned(), "target".to_owned()]);
    let path = std::path::absolute(file)?.to_string_lossy().into_owned();
    let files = Some(Files::Together(vec![path]));
    match split {
        Split::Train => task.train = files,
        Split::Validation => task.validation = files,
        Split::Test => task.test = files,
    }
    Ok(())
}
