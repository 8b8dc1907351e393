//! The results of a run in a few lines of text.

use std::path::Path;

use super::read::Run;
use super::results::{names, value};
use crate::error::Result;

/// A table with a line for each task of each stage: what its own evaluation says, or that of its best checkpoint. Empty if nothing
/// was evaluated.
///
/// # Errors
/// As [`super::report`].
pub fn summary(folder: &Path) -> Result<String> {
    let run = Run::read(folder, &mut Vec::new())?;
    let results: Vec<_> = run.stages.iter().filter_map(|stage| Some((stage.name.as_str(), stage.result()?))).collect();
    let mut metrics: Vec<String> = Vec::new();
    for name in results.iter().flat_map(|(_, e)| e.tasks.keys().flat_map(|task| names(e, task))) {
        if !metrics.contains(&name) {
            metrics.push(name);
        }
    }
    metrics.sort_by_key(|name| (name != "loss", name != "token accuracy"));
    let head = ["stage", "step", "task", "split", "examples"].map(str::to_owned);
    let mut rows: Vec<Vec<String>> = vec![head.into_iter().chain(metrics.iter().cloned()).collect()];
    for (stage, evaluation) in results {
        let step = if evaluation.step == 0 { "-".to_owned() } else { evaluation.step.to_string() };
        for (task, figures) in &evaluation.tasks {
            let mut row = vec![stage.to_owned(), step.clone(), task.clone(), evaluation.split.clone()];
            row.push(figures.examples.to_string());
            row.extend(metrics.iter().map(|metric| {
                let decimals = if metric == "loss" { 4 } else { 2 };
                value(evaluation, task, metric).map_or_else(|| "-".into(), |(value, _)| format!("{value:.decimals$}"))
            }));
            rows.push(row);
        }
    }
    if rows.len() == 1 {
        return Ok(String::new());
    }
    Ok(aligned(&rows, |column| matches!(column, 0 | 2 | 3)))
}

/// Columns of text: names to the left, numbers to the right.
pub(crate) fn aligned(rows: &[Vec<String>], is_name: impl Fn(usize) -> bool) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match is_name(column) {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
