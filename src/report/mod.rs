//! One page about one or several runs: curves over each other, tables of results, what differed, what it cost, samples.
//!
//! The page is a single HTML file that needs no network: figures are SVG, styles and the few lines of script are inside. It
//! follows the reader's choice of light or dark, fits a telephone, and prints. It is a function of the runs' files alone.

mod figures;
mod groups;
mod outcome;
mod page;
mod read;
mod results;
mod samples;
mod scale;
mod settings;
mod summary;
mod svg;

use std::path::PathBuf;

use crate::error::{Error, Result};
pub(crate) use groups::{Bars, Group, Interval, groups_page};
pub use outcome::{Cost, Finding, findings};
use page::Page;
pub(crate) use page::{document, escape, section};
use read::Run;
pub use read::{METRICS, PREDICTIONS, RECIPE};
pub(crate) use scale::{duration, number};
pub(crate) use settings::flatten;
pub(crate) use summary::aligned;
pub use summary::summary;

/// What the page shows besides the curves.
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// Default: the names of the runs.
    pub title: Option<String>,
    /// Predictions shown for each task.
    pub samples: usize,
    /// Lay the stages of each run over each other, as if each were a run.
    pub stages: bool,
}

impl Default for ReportOptions {
    fn default() -> ReportOptions {
        ReportOptions { title: None, samples: 12, stages: false }
    }
}

/// A finished page.
#[derive(Clone, Debug)]
pub struct Report {
    pub html: String,
    /// What the reader may want to know of the input: lines that were no events, runs without a step.
    pub remarks: Vec<String>,
}

/// The page about the runs in these folders, in this order. A folder is that of `t5 train` (it has a `log.jsonl`), of a recipe
/// (`recipe.toml` and a folder for each stage), or of one of its stages or of `t5 eval` (`metrics.json`).
///
/// # Errors
/// A folder is neither, or a file in it cannot be read; a log may end within a line, and lines of unknown events are skipped.
pub fn report(folders: &[PathBuf], options: &ReportOptions) -> Result<Report> {
    if folders.is_empty() {
        return Err(Error::Input("name at least one run's folder".into()));
    }
    let mut remarks = Vec::new();
    let mut runs = folders.iter().map(|folder| Run::read(folder, &mut remarks)).collect::<Result<Vec<Run>>>()?;
    if options.stages {
        runs = runs.into_iter().flat_map(Run::into_stages).collect();
    }
    read::make_names_distinct(&mut runs);
    let title = options.title.clone().unwrap_or_else(|| default_title(&runs));
    Ok(Report { html: Page { title: &title, runs: &runs, samples: options.samples }.html(), remarks })
}

fn default_title(runs: &[Run]) -> String {
    match runs {
        [one] => one.name.clone(),
        [one, two] => format!("{} and {}", one.name, two.name),
        [one, ..] => format!("{} and {} other runs", one.name, runs.len() - 1),
        [] => String::new(),
    }
}
