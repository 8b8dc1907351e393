//! Tables: what came out, what it cost, what differed.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::page::{escape, key};
use super::read::{Evaluation, Run, Stage};
use super::scale::{duration, number, whole};
use super::settings::differences;
use crate::data::metrics::Direction;

/// A metric of a task in a stage of a run.
struct Outcome {
    last: f64,
    best: f64,
    /// Step of the best.
    step: u64,
    better: Direction,
}

/// A row: a stage of a run, and what it measured on a task's split.
struct Row<'a> {
    run: usize,
    stage: &'a Stage,
    evaluations: Vec<&'a Evaluation>,
}

/// A table for each split of a task: a row for each stage that measured it, a column for each metric, with the last value and
/// the best. What was measured on different examples is never in one table.
pub(super) fn results(runs: &[Run]) -> String {
    let of_task = |e: &Evaluation| e.tasks.keys().map(|task| (task.clone(), e.split.clone())).collect::<Vec<_>>();
    let tables: BTreeSet<(String, String)> =
        stages(runs).flat_map(|(_, stage)| stage.all_evaluations().flat_map(of_task)).collect();
    tables.iter().map(|(task, split)| task_table(runs, task, split)).collect()
}

fn task_table(runs: &[Run], task: &str, split: &str) -> String {
    let counts = |e: &&Evaluation| e.split == split && e.tasks.contains_key(task);
    let mut rows: Vec<Row> = stages(runs)
        .map(|(run, stage)| Row { run, stage, evaluations: stage.all_evaluations().filter(counts).collect() })
        .collect();
    rows.retain(|row| !row.evaluations.is_empty());
    let mut metrics: Vec<String> = Vec::new();
    for name in rows.iter().flat_map(|row| &row.evaluations).flat_map(|e| names(e, task)) {
        if !metrics.contains(&name) {
            metrics.push(name);
        }
    }
    // Losses behind what people read first.
    metrics.sort_by_key(|name| (name == "token accuracy", name == "loss").max((name == "loss", false)));
    let outcomes: Vec<Vec<Option<Outcome>>> =
        rows.iter().map(|row| metrics.iter().map(|metric| outcome(row, task, metric)).collect()).collect();
    let winners: Vec<Option<f64>> = (0..metrics.len()).map(|column| winner(&outcomes, column)).collect();

    let split = if split.is_empty() { "split unknown" } else { split };
    let mut html = format!(
        "<h3>{} <span class=\"dim\">{}</span></h3><div class=\"wide\"><table><thead><tr><th>run</th>\
         <th class=\"n\">examples</th>",
        escape(task),
        escape(split)
    );
    for (metric, column) in metrics.iter().zip(0..) {
        let direction = outcomes.iter().find_map(|row| row[column].as_ref()).map_or(Direction::Higher, |o| o.better);
        let _ = write!(
            html,
            "<th class=\"n\" colspan=\"2\">{} <span class=\"dim\">{}</span></th>",
            escape(metric),
            arrow(direction)
        );
    }
    html.push_str("</tr><tr class=\"sub\"><th></th><th></th>");
    html.push_str(&"<th class=\"n\">last</th><th class=\"n\">best</th>".repeat(metrics.len()));
    html.push_str("</tr></thead><tbody>");
    for (Row { run, stage, evaluations }, outcomes) in rows.iter().zip(&outcomes) {
        let _ = write!(html, "<tr><th>{}{}</th>", key(*run, &runs[*run].name), stage_suffix(stage));
        let examples = evaluations.last().map_or(0, |e| e.tasks[task].examples);
        let _ = write!(html, "<td class=\"n\">{}</td>", whole(examples));
        for ((outcome, winner), metric) in outcomes.iter().zip(&winners).zip(&metrics) {
            let wins = winner.is_some() && outcome.as_ref().map(|o| o.best) == *winner;
            html.push_str(&cells(outcome.as_ref(), wins, if metric == "loss" { 3 } else { 2 }));
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
    html.push_str(&signatures(&rows, task));
    html
}

/// How scores were counted, where a metric says so.
fn signatures(rows: &[Row], task: &str) -> String {
    let figures = rows.iter().flat_map(|row| &row.evaluations).filter_map(|e| e.tasks.get(task));
    let lines: BTreeSet<String> = figures
        .flat_map(|figures| &figures.scores)
        .filter_map(|score| {
            Some(format!("{}: <code>{}</code>", escape(&score.name), escape(score.signature.as_ref()?)))
        })
        .collect();
    lines.into_iter().map(|line| format!("<p class=\"dim\">{line}</p>")).collect()
}

fn cells(outcome: Option<&Outcome>, wins: bool, decimals: usize) -> String {
    let Some(outcome) = outcome else { return "<td class=\"n dim\">–</td><td></td>".into() };
    let shown = |value: f64| format!("{value:.decimals$}").replace('-', "−");
    let best = if wins { format!("<b>{}</b>", shown(outcome.best)) } else { shown(outcome.best) };
    // An evaluation alone has no step.
    let step =
        if outcome.step == 0 { String::new() } else { format!(" <span class=\"dim\">@{}</span>", whole(outcome.step)) };
    format!("<td class=\"n\">{}</td><td class=\"n\">{best}{step}</td>", shown(outcome.last))
}

/// Names of what an evaluation says of a task.
pub(super) fn names(evaluation: &Evaluation, task: &str) -> Vec<String> {
    let Some(figures) = evaluation.tasks.get(task) else { return Vec::new() };
    let named = figures.named().into_iter().map(|(name, ..)| name.to_owned());
    let loss = figures.loss.map(|_| "loss".to_owned());
    named.chain(figures.accuracy.map(|_| "token accuracy".to_owned())).chain(loss).collect()
}

/// What an evaluation says of a task under one of its [`names`].
pub(super) fn value(evaluation: &Evaluation, task: &str, metric: &str) -> Option<(f64, Direction)> {
    let figures = evaluation.tasks.get(task)?;
    match metric {
        "loss" => Some((figures.loss?, Direction::Lower)),
        "token accuracy" => Some((figures.accuracy? * 100.0, Direction::Higher)),
        _ => figures.named().into_iter().find(|(name, ..)| *name == metric).map(|(_, value, better)| (value, better)),
    }
}

fn outcome(row: &Row, task: &str, metric: &str) -> Option<Outcome> {
    let at_step = |e: &&Evaluation| value(e, task, metric).map(|(value, better)| (e.step, value, better));
    let values: Vec<(u64, f64, Direction)> = row.evaluations.iter().filter_map(at_step).collect();
    let &(_, last, better) = values.last()?;
    let beats = |a: f64, b: f64| if better == Direction::Higher { a > b } else { a < b };
    let (step, best) = values
        .iter()
        .fold((0, last), |(at, best), &(s, v, _)| if at == 0 || beats(v, best) { (s, v) } else { (at, best) });
    Some(Outcome { last, best, step, better })
}

/// The best of a column, unless all are alike.
fn winner(outcomes: &[Vec<Option<Outcome>>], column: usize) -> Option<f64> {
    let all = outcomes.iter().filter_map(|row| row[column].as_ref());
    let first = all.clone().next()?;
    if all.clone().all(|outcome| outcome.best == first.best) {
        return None;
    }
    all.map(|o| (o.best, o.better))
        .reduce(|a, b| if (b.0 > a.0) == (a.1 == Direction::Higher) { b } else { a })
        .map(|(best, _)| best)
}

/// Time and tokens of each training.
pub(super) fn cost(runs: &[Run]) -> String {
    let mut html = String::from("<div class=\"wide\"><table><thead><tr><th>run</th>");
    for column in
        ["steps", "epochs", "tokens", "FLOPs", "time", "tokens/s", "padding", "last loss", "skipped", "warnings"]
    {
        let _ = write!(html, "<th class=\"n\">{column}</th>");
    }
    html.push_str("</tr></thead><tbody>");
    for (run, stage) in stages(runs) {
        let Some(last) = stage.steps.last() else { continue };
        let shown = |value: Option<f64>| value.map_or("–".into(), number);
        let steps = if last.steps > last.step {
            format!("{} <span class=\"dim\">of {}</span>", whole(last.step), whole(last.steps))
        } else {
            whole(last.step)
        };
        let time = last.elapsed.filter(|&t| t > 0.0);
        let cells = [
            steps,
            last.epoch.map_or("–".into(), |epoch| format!("{epoch:.2}")),
            number(last.tokens as f64),
            last.flops.filter(|&flops| flops > 0.0).map_or("–".into(), |flops| format!("{flops:.2e}")),
            time.map_or("–".into(), duration),
            shown(time.map(|t| (last.tokens as f64 / t).round())),
            last.padding.map_or("–".into(), |p| format!("{:.0} %", p * 100.0)),
            shown(last.loss),
            whole(last.skipped),
            whole(stage.warnings.len() as u64),
        ];
        let _ = write!(html, "<tr><th>{}{}</th>", key(run, &runs[run].name), stage_suffix(stage));
        cells.iter().for_each(|cell| {
            let _ = write!(html, "<td class=\"n\">{cell}</td>");
        });
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
    html
}

/// Warnings of all runs, the last few of each.
pub(super) fn warnings(runs: &[Run]) -> String {
    const SHOWN: usize = 5;
    let mut html = String::new();
    for (run, stage) in stages(runs) {
        for (step, what) in stage.warnings.iter().rev().take(SHOWN).rev() {
            let name = key(run, &runs[run].name);
            let _ = write!(html, "<li>{name}{} step {}: {}</li>", stage_suffix(stage), whole(*step), escape(what));
        }
        if let Some(more) = stage.warnings.len().checked_sub(SHOWN + 1) {
            let _ = write!(html, "<li class=\"dim\">and {} earlier ones</li>", more + 1);
        }
    }
    if html.is_empty() { html } else { format!("<ul>{html}</ul>") }
}

/// Settings that are not the same in all runs, or nothing.
pub(super) fn settings(runs: &[Run]) -> String {
    let differ = differences(runs);
    if differ.is_empty() {
        return String::new();
    }
    let mut html = String::from("<div class=\"wide\"><table><thead><tr><th>setting</th>");
    for (i, run) in runs.iter().enumerate() {
        let _ = write!(html, "<th>{}</th>", key(i, &run.name));
    }
    html.push_str("</tr></thead><tbody>");
    for (setting, values) in differ {
        let _ = write!(html, "<tr><th><code>{}</code></th>", escape(&setting));
        for value in values {
            let shown =
                value.map_or("<span class=\"dim\">–</span>".into(), |v| format!("<code>{}</code>", escape(&v)));
            let _ = write!(html, "<td>{shown}</td>");
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
    html
}

/// (index of the run, stage) of all stages.
fn stages(runs: &[Run]) -> impl Iterator<Item = (usize, &Stage)> {
    runs.iter().enumerate().flat_map(|(i, run)| run.stages.iter().map(move |stage| (i, stage)))
}

fn stage_suffix(stage: &Stage) -> String {
    if stage.name.is_empty() { String::new() } else { format!(" <span class=\"dim\">{}</span>", escape(&stage.name)) }
}

fn arrow(better: Direction) -> &'static str {
    match better {
        Direction::Higher => "↑",
        Direction::Lower => "↓",
    }
}
