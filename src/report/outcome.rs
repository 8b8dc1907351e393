//! What a run came to, as numbers.

use std::ops::Add;
use std::path::Path;

use super::read::{Run, Stage};
use super::results::{names, value};
use crate::data::metrics::Direction;
use crate::error::Result;

/// One number that a stage found on a task, and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// STAGE/TASK/METRIC.
    pub name: String,
    pub value: f64,
    pub better: Direction,
    /// Whether it is of a stage that only evaluates, or the run has none.
    pub is_last_word: bool,
    pub cost: Cost,
}

/// What the training took that a result rests on: that of its stage, of the stage whose weights this began with, and so on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Of sources and targets.
    pub tokens: f64,
    /// NaN if an older program did not count them.
    pub flops: f64,
    pub seconds: f64,
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            tokens: self.tokens + other.tokens,
            flops: self.flops + other.flops,
            seconds: self.seconds + other.seconds,
        }
    }
}

impl Cost {
    fn of_stage(stage: &Stage) -> Cost {
        let Some(step) = stage.steps.last() else { return Cost::default() };
        Cost { tokens: step.tokens as f64, flops: step.flops.unwrap_or(f64::NAN), seconds: step.elapsed.unwrap_or(0.0) }
    }
}

/// What the run in a folder found: of each stage its own evaluation, or that of its best checkpoint.
///
/// # Errors
/// As [`super::report`].
pub fn findings(folder: &Path) -> Result<Vec<Finding>> {
    let run = Run::read(folder, &mut Vec::new())?;
    let has_last_word = run.stages.iter().any(|stage| stage.last_word.is_some());
    let mut found = Vec::new();
    for stage in &run.stages {
        let Some(evaluation) = stage.result() else { continue };
        let cost = cost(&run, stage);
        for task in evaluation.tasks.keys() {
            for metric in names(evaluation, task) {
                if let Some((value, better)) = value(evaluation, task, &metric) {
                    let name = format!("{}/{task}/{metric}", stage.name);
                    let is_last_word = stage.last_word.is_some() || !has_last_word;
                    found.push(Finding { name, value, better, is_last_word, cost });
                }
            }
        }
    }
    Ok(found)
}

fn cost(run: &Run, stage: &Stage) -> Cost {
    let (mut sum, mut next) = (Cost::default(), Some(stage));
    // A damaged recipe must not lead in circles.
    for _ in 0..=run.stages.len() {
        let Some(stage) = next else { break };
        sum = sum + Cost::of_stage(stage);
        let from = run.settings.get(&format!("stage.{}.from", stage.name));
        next = from.and_then(|from| run.stages.iter().find(|other| other.name == *from));
    }
    sum
}
