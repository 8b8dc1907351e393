//! The model and the tokenizer of a run's folder: where one is named in place of theirs.

use std::path::{Path, PathBuf};

use super::run::TOKENIZER;
use super::{Recipe, Stage};
use crate::error::{Error, Result};
use crate::report::RECIPE;
use crate::run_folder::recover;
use crate::train::Trainer;
use crate::train::trainer::{BEST, LAST, LOG};

/// The model's folder that is meant by `folder`, and a sentence about the choice. `None` if that is no run's folder, but a model's
/// or none at all.
///
/// Of a training it is the best checkpoint, or the last where nothing was evaluated; of a recipe's run that of the last training.
///
/// # Errors
/// The run has no checkpoint yet, or several trainings that no other goes on from.
pub fn model_of_run(folder: &Path) -> Result<Option<(PathBuf, String)>> {
    if folder.is_file() {
        return Ok(None);
    }
    recover(folder)?;
    if folder.join("config.json").exists() {
        return Ok(None);
    }
    if !folder.join(RECIPE).exists() {
        return Ok(of_training(folder)?.map(|(found, about)| (found, format!("{}: taking {about}", folder.display()))));
    }
    let recipe = Recipe::reread(&folder.join(RECIPE))?;
    let trainings: Vec<&Stage> = recipe.stages.iter().filter(|stage| stage.trains()).collect();
    let goes_on = |stage: &Stage| {
        trainings.iter().any(|other| recipe.starting_stage(other).is_some_and(|start| start.name == stage.name))
    };
    let ends: Vec<&str> = trainings.iter().filter(|stage| !goes_on(stage)).map(|stage| stage.name.as_str()).collect();
    let end = match ends[..] {
        [] => return Err(Error::file(folder, "no stage of the run here trains a model")),
        [end] => end,
        _ => {
            let what = format!(
                "the run here has several models that no later stage trains on: {}; name the folder of one, as {}",
                ends.join(", "),
                folder.join(ends[0]).display()
            );
            return Err(Error::file(folder, what));
        }
    };
    match of_training(&folder.join(end))? {
        Some((found, about)) => Ok(Some((found, format!("{}: taking {about} of stage {end}", folder.display())))),
        None => {
            let others = trainings.iter().map(|stage| folder.join(&stage.name));
            let ready: Vec<String> =
                others.filter(|other| other.join(LAST).exists()).map(|other| other.display().to_string()).collect();
            let instead = if ready.is_empty() { String::new() } else { format!(", or name {}", ready.join(" or ")) };
            let what = format!(
                "stage {end} of the run here has no checkpoint yet: carry the recipe out with `t5 run`{instead}"
            );
            Err(Error::file(folder, what))
        }
    }
}

/// What is meant by `spec`, where a tokenizer is named: the tokenizer's folder if that is a run's, else `spec` itself.
///
/// # Errors
/// The run has none yet, or several models.
pub fn tokenizer_of_run(spec: &str) -> Result<String> {
    let folder = Path::new(spec);
    let learned = folder.join(TOKENIZER);
    recover(&learned)?;
    let found = match folder.join(RECIPE).exists() && learned.exists() {
        true => Some(learned),
        false => model_of_run(folder)?.map(|(model, _)| model),
    };
    Ok(found.map_or(spec.to_owned(), |found| found.to_string_lossy().into_owned()))
}

/// The checkpoint of a training, and what it is. `None` if the folder is none's.
fn of_training(folder: &Path) -> Result<Option<(PathBuf, String)>> {
    for name in [BEST, LAST] {
        recover(folder.join(name))?;
    }
    let Some(state) = Trainer::load_state(folder)? else {
        if folder.join(LOG).exists() {
            let what = "the run here has no checkpoint yet: wait for the first one, or begin it again";
            return Err(Error::file(folder, what));
        }
        return Ok(None);
    };
    let unfinished = match state.is_finished() {
        true => String::new(),
        false => format!(" (unfinished: {} of {} steps)", state.step, state.settings.steps),
    };
    Ok(Some(match state.best {
        Some(best) => {
            let about =
                format!("the best checkpoint, {} {:.4} at step {}{unfinished},", best.metric, best.value, best.step);
            (folder.join(BEST), about)
        }
        None => (folder.join(LAST), format!("the last checkpoint, step {}{unfinished},", state.step)),
    }))
}
