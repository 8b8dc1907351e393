//! Checks of a task's declaration that need no file.

use std::collections::HashSet;

use super::files::Files;
use super::load::maker;
use super::preset::Preset;
use super::{Format, TaskConfig};
use crate::data::metrics::MetricKind;

/// Errors name the key and the remedy.
pub(super) fn check(config: &TaskConfig) -> Result<(), String> {
    let splits: Vec<&Files> = [&config.train, &config.validation, &config.test].into_iter().flatten().collect();
    if splits.is_empty() {
        return Err("the task names no files: set train = \"...\", validation or test".into());
    }
    check_held_out(config)?;
    if config.train_examples == Some(0) {
        return Err("train_examples = 0 leaves nothing to train on".into());
    }
    check_layout(config, &splits)?;
    check_words(config)?;
    check_lengths(config)?;
    check_metrics(config)?;
    maker(config).map(drop)
}

fn check_held_out(config: &TaskConfig) -> Result<(), String> {
    match config.held_out {
        Some(share) if !(share > 0.0 && share < 1.0) => Err("held_out must lie between 0 and 1".into()),
        Some(_) if config.validation.is_some() => Err("set validation or held_out, not both".into()),
        Some(_) if config.train.is_none() => Err("held_out is a share of train: set train = \"...\"".into()),
        Some(_) if config.known_format() == Some(Format::Cmudict) => {
            Err("the dictionary has a validation split of its own: leave held_out out".into())
        }
        _ => Ok(()),
    }
}

fn check_layout(config: &TaskConfig, splits: &[&Files]) -> Result<(), String> {
    let parallel: Vec<&&Files> = splits.iter().filter(|files| matches!(files, Files::Parallel(_))).collect();
    if !parallel.is_empty() {
        if config.format.is_some_and(|format| format != Format::Lines) {
            return Err("parallel files hold lines: leave format out".into());
        }
        if config.columns.is_some() || config.header.is_some() {
            return Err("parallel files have the columns that their table names: leave columns and header out".into());
        }
        let columns = |files: &Files| match files {
            Files::Parallel(columns) => columns.keys().cloned().collect(),
            Files::Together(_) => Vec::new(),
        };
        if parallel.len() < splits.len() || parallel.iter().any(|files| columns(files) != columns(parallel[0])) {
            return Err("train, validation and test must name the same columns of parallel files".into());
        }
    }
    let is_table = config.known_format().is_none_or(Format::is_table);
    if !is_table && (config.columns.is_some() || config.header.is_some()) {
        return Err("columns and header are for tsv and csv files: leave them out".into());
    }
    match &config.columns {
        Some(columns) if columns.is_empty() => Err("columns is empty: leave it out, or name every column".into()),
        Some(columns) => {
            let mut seen = HashSet::new();
            match columns.iter().find(|name| !seen.insert(name.as_str())) {
                Some(twice) => Err(format!("columns names {twice:?} twice")),
                None => Ok(()),
            }
        }
        None if config.header == Some(false) => Err("header = false needs columns = [\"...\"], their names".into()),
        None => Ok(()),
    }
}

fn check_words(config: &TaskConfig) -> Result<(), String> {
    let has_preset = config.preset.is_some();
    if has_preset && (config.input.is_some() || config.target.is_some() || config.choices.is_some()) {
        return Err(
            "a preset makes source and target itself: leave input, target and choices out, or drop preset".into()
        );
    }
    if config.choices.as_ref().is_some_and(|choices| choices.len() < 2) {
        return Err("choices needs two templates or more".into());
    }
    if config.choices.is_some() && config.groups_references() {
        return Err("with choices every row is a question: leave group_references out".into());
    }
    if !has_preset {
        match (&config.label, &config.labels) {
            (Some(_), None) => return Err("label needs labels = [\"...\"], the words of the labels 0, 1, ...".into()),
            (None, Some(_)) => return Err("labels needs label = \"...\", the column that holds the label".into()),
            _ => {}
        }
    }
    if let Some(name) = &config.preset {
        let preset = Preset::find(name)?;
        if preset.labels.is_empty() && (config.label.is_some() || config.labels.is_some()) {
            return Err(format!("the preset {name:?} has no labels: leave label and labels out"));
        }
    }
    if config.labels.as_ref().is_some_and(|labels| labels.len() < 2) {
        return Err("labels needs two words or more".into());
    }
    let is_wmt = config.preset.as_deref() == Some("wmt");
    if !is_wmt && (config.source_language.is_some() || config.target_language.is_some()) {
        return Err("source_language and target_language are for the preset \"wmt\": leave them out".into());
    }
    Ok(())
}

fn check_lengths(config: &TaskConfig) -> Result<(), String> {
    let (source, target) = config.lengths();
    if source < 2 || target < 2 {
        return Err("sources and targets need room for 2 tokens: raise max_source and max_target".into());
    }
    Ok(())
}

fn check_metrics(config: &TaskConfig) -> Result<(), String> {
    let metrics = config.resolved_metrics();
    let mut seen = HashSet::new();
    for name in metrics.iter().flat_map(|metric| metric.names()) {
        if !seen.insert(name.clone()) {
            return Err(format!(
                "two metrics give a score {name:?}: rename one with {{ name = \"...\", as = \"...\" }}"
            ));
        }
    }
    match metrics.iter().find(|metric| metric.kind == MetricKind::F1 && metric.labels.len() != 2) {
        Some(f1) => Err(format!(
            "the metric f1 needs two labels, the positive one second, not {}: set {{ name = \"f1\", labels = [...] }}",
            f1.labels.len()
        )),
        None => Ok(()),
    }
}
