//! What the models wrote: some sources of each task, the references, and each run's prediction with a mark.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::page::{escape, key};
use super::read::{Prediction, Run};
use crate::data::task::spread;

/// A block a task, with at most `count` sources spread over its file. Empty if there are no predictions.
pub(super) fn samples(runs: &[Run], count: usize) -> String {
    let tasks: BTreeSet<&String> = runs.iter().flat_map(|run| &run.stages).flat_map(|s| s.predictions.keys()).collect();
    tasks.into_iter().map(|task| block(runs, task, count)).collect()
}

fn block(runs: &[Run], task: &str, count: usize) -> String {
    let mut seen = BTreeSet::new();
    let mut columns: Vec<(usize, &str, BTreeMap<&str, &Prediction>)> = Vec::new();
    let mut sources: Vec<&Prediction> = Vec::new();
    for (i, stage) in runs.iter().enumerate().flat_map(|(i, run)| run.stages.iter().map(move |stage| (i, stage))) {
        let Some(rows) = stage.predictions.get(task) else { continue };
        sources.extend(rows.iter().filter(|row| seen.insert(row.source.as_str())));
        columns.push((i, &stage.name, rows.iter().map(|row| (row.source.as_str(), row)).collect()));
    }
    let mut html = format!("<h3>{}</h3><div class=\"samples\">", escape(task));
    for sample in spread(sources.len(), count).into_iter().map(|at| &sources[at]) {
        let _ = write!(html, "<div class=\"sample\"><p class=\"source\">{}</p>", text(&sample.source));
        if !sample.references.is_empty() {
            let references: Vec<String> = sample.references.iter().map(|r| text(r)).collect();
            let _ = write!(html, "<p class=\"reference\">{}</p>", references.join("<span class=\"dim\"> or </span>"));
        }
        for (run, stage, rows) in &columns {
            let Some(row) = rows.get(sample.source.as_str()) else { continue };
            let (class, mark) = match row.correct {
                Some(true) => ("right", "<span title=\"right\">✓</span>"),
                Some(false) => ("wrong", "<span title=\"wrong\">✗</span>"),
                None => ("", ""),
            };
            let who = if columns.len() > 1 { key(*run, "") } else { String::new() };
            let whose =
                if stage.is_empty() { String::new() } else { format!("<span class=\"dim\">{}</span> ", escape(stage)) };
            let _ = write!(
                html,
                "<p class=\"prediction {class}\" title=\"{}\">{who}{whose}{mark} {}</p>",
                escape(&runs[*run].name),
                text(&row.prediction)
            );
        }
        html.push_str("</div>");
    }
    html.push_str("</div>");
    html
}

/// Nothing is shown as a sign of its own; very long texts are cut.
fn text(text: &str) -> String {
    const LONGEST: usize = 400;
    if text.trim().is_empty() {
        return "<span class=\"dim\">(empty)</span>".into();
    }
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", escape(&text[..end])),
        None => escape(text),
    }
}
