//! Evaluations and what is kept of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_with::skip_serializing_none;

use super::conductor::Watch;
use crate::data::Split;
use crate::error::{Error, Result};
use crate::generate::{Decoding, ShouldStop};
use crate::model::Model;
use crate::report::{METRICS, PREDICTIONS};
use crate::run_folder::RunFolder;
use crate::tokenizer::Tokenizer;
use crate::train::engine::Scorer;
use crate::train::evaluate::{Cut, Evaluation, Evaluator, TaskEvaluation};
use crate::train::examples::Sources;
use crate::train::settings::Settings;

/// What an evaluation writes into its folder.
pub const FILES: [&str; 2] = [METRICS, PREDICTIONS];

/// Evaluates a model on everything that the settings name for it, with at most so many examples of a task's split. `None` if `should_stop` said so.
///
/// # Errors
/// What reading the examples gives, or running the model.
pub fn evaluate(
    model: Model,
    tokenizer: &Tokenizer,
    settings: &Settings,
    (split, most): (Split, usize),
    decoding: Decoding,
    watch: &mut dyn Watch,
    should_stop: &ShouldStop<'_>,
) -> Result<Option<Evaluation>> {
    let mut remarks = Vec::new();
    let shared = Arc::new(tokenizer.clone());
    let evaluated = Sources::evaluated(settings, &shared, split, most, &mut remarks)?;
    remarks.iter().for_each(|remark| watch.remark(remark));
    let mut evaluator = Evaluator::new(evaluated, settings.eval_batch_size, decoding, &model, tokenizer);
    let mut scorer = Scorer::new(model);
    let mut loss_of = |batch: &_| pollster::block_on(scorer.score(batch));
    let Some(evaluation) = evaluator.evaluate(&mut loss_of, tokenizer, should_stop)? else { return Ok(None) };
    if let Some(decoding) = &evaluation.decoding {
        watch.remark(&format!("answers: {decoding}"));
    }
    for (name, TaskEvaluation { examples, cut, .. }) in &evaluation.tasks {
        if let Some(Cut { answers, tokens }) = cut {
            watch.remark(&format!(
                "{name}: {answers} of {examples} answers did not end by themselves and were cut at {tokens} tokens \
                 (--max-new-tokens, in recipes max_new_tokens)"
            ));
        }
    }
    Ok(Some(evaluation))
}

/// Writes predictions, then the metrics: where those are, everything is. The folder is made, or must be a run's.
///
/// # Errors
/// The folder cannot be written.
pub fn write_evaluation(folder: &Path, split: Split, evaluation: &Evaluation) -> Result<()> {
    let no_json = |e: serde_json::Error| Error::file(folder, e.to_string());
    let run = RunFolder::open(folder, &FILES)?;
    for (name, task) in evaluation.tasks.iter().filter(|(_, task)| !task.predictions.is_empty()) {
        let mut lines = Vec::new();
        for prediction in &task.predictions {
            serde_json::to_writer(&mut lines, prediction).map_err(no_json)?;
            lines.push(b'\n');
        }
        run.write(&format!("{PREDICTIONS}/{name}.jsonl"), &lines)?;
    }
    let mut text = serde_json::to_vec_pretty(&Metrics {
        split,
        decoding: evaluation.decoding.as_deref(),
        tasks: &evaluation.tasks,
    })
    .map_err(no_json)?;
    text.push(b'\n');
    run.write(METRICS, &text)
}

/// What is kept of an evaluation: no times, so that the same run writes the same bytes.
#[skip_serializing_none]
#[derive(Serialize)]
struct Metrics<'a> {
    split: Split,
    decoding: Option<&'a str>,
    tasks: &'a BTreeMap<String, TaskEvaluation>,
}
