//! What a start of a recipe's run would do with each of its parts: `t5 run --dry-run`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Recipe;
use super::record::{Record, Records};
use super::run::{check_part, folder_of, gone_on, has_begun, is_written, names, parts, recorded, spelled_out};
use crate::error::Result;
use crate::report::METRICS;
use crate::run_folder::RunFolder;
use crate::train::Trainer;

/// What a start of a run would do with a part of it: a stage, or the tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// Make it: nothing is there.
    New,
    Done,
    GoesOn {
        /// Steps done.
        step: u64,
        steps: u64,
    },
    /// Evaluate once more, since something has changed.
    Again {
        why: String,
    },
    /// The whole run would not start.
    Refused {
        why: String,
    },
}

/// How the parts of a recipe's run stand, by their names in order. Nothing is started or written.
///
/// # Errors
/// As `Run::open`, but for what only one part is the reason of.
pub fn standings(mut recipe: Recipe, out: Option<PathBuf>, overwrite: bool) -> Result<Vec<(String, Standing)>> {
    let out = folder_of(&mut recipe, out)?;
    let mut records = Records::default();
    if RunFolder::look(&out, &names(&recipe))? {
        records = recorded(&recipe, &out, overwrite)?;
    }
    let mut found: Vec<(String, Standing)> = Vec::new();
    if overwrite {
        found.extend(parts(&recipe).map(|part| (part.to_owned(), Standing::New)));
        return Ok(found);
    }
    let recipe = spelled_out(&recipe, &records, &out)?;
    for part in parts(&recipe) {
        let of = |name: &str| found.iter().find(|(other, _)| other == name).map(|(_, standing)| standing);
        let standing = standing(&recipe, &records, &out, part, of)?;
        found.push((part.to_owned(), standing));
    }
    Ok(found)
}

/// `of`: how the parts before it stand.
fn standing<'a>(
    recipe: &Recipe,
    records: &Records,
    out: &Path,
    part: &str,
    of: impl Fn(&str) -> Option<&'a Standing>,
) -> Result<Standing> {
    if !has_begun(out, part) {
        return Ok(Standing::New);
    }
    if let Err(e) = check_part(recipe, records, out, part) {
        return Ok(Standing::Refused { why: e.to_string() });
    }
    let Some(stage) = recipe.stages.iter().find(|stage| stage.name == part) else { return Ok(Standing::Done) };
    if stage.trains() {
        let Some(state) = Trainer::load_state(&out.join(part))? else { return Ok(Standing::New) };
        let state = gone_on(stage, state, records.0.get(part));
        return Ok(match state.is_finished() {
            true => Standing::Done,
            false => Standing::GoesOn { step: state.step, steps: state.settings.steps },
        });
    }
    if !is_written(&out.join(part).join(METRICS)) {
        return Ok(Standing::New);
    }
    if let Some(start) = recipe.starting_stage(stage).filter(|start| of(&start.name) != Some(&Standing::Done)) {
        return Ok(Standing::Again { why: format!("its model is not done: {}", start.name) });
    }
    Ok(match records.difference(&Record::of(recipe, part, out)?, part)? {
        None => Standing::Done,
        Some(difference) => Standing::Again { why: difference.to_string() },
    })
}
