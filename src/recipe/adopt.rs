//! What a run takes from others instead of making it again.

use std::fs;
use std::path::{Path, PathBuf};

use super::Recipe;
use super::record::{Record, Records};
use super::run::{Run, has_begun, is_written, parts, spelled_out};
use crate::error::{Error, Result};
use crate::report::METRICS;
use crate::run_folder::RunFolder;
use crate::train::Trainer;

impl Run {
    /// Copies parts that are done in other runs' folders and would be made from the same here, as those of the same seed in a study. A
    /// training of fewer steps counts, too, where its rates do not depend on their number: it goes on here. Gives the parts' names and
    /// the folders that they are from.
    ///
    /// # Errors
    /// A folder cannot be read or written.
    pub fn adopt<'p>(&mut self, others: impl Iterator<Item = &'p Path>) -> Result<Vec<(String, PathBuf)>> {
        let others: Vec<(&Path, Records)> =
            others.filter_map(|other| Some((other, Records::read(other).ok()?))).collect();
        let mut adopted = Vec::new();
        let all: Vec<String> = parts(&self.recipe).map(str::to_owned).collect();
        for part in all {
            if has_begun(&self.out, &part) || self.records.0.contains_key(&part) {
                continue;
            }
            let now = self.record(&part)?;
            let usable = |(other, records): &(&Path, Records)| {
                records.0.get(&part).filter(|record| record.begins(&now, &part))?;
                steps_done(&other.join(&part), &part, &self.recipe)
            };
            let found = others.iter().filter_map(|other| Some((usable(other)?, other))).max_by_key(|(steps, _)| *steps);
            let Some((_, (other, records))) = found else { continue };
            let dir = self.folder.begin(&part)?;
            copy_all(&other.join(&part), dir.path())?;
            // As in `begin`: before anything of it is in place.
            self.records.0.insert(part.clone(), records.0[&part].clone());
            self.records.write(&self.folder)?;
            dir.commit()?;
            adopted.push((part, other.to_path_buf()));
        }
        Ok(adopted)
    }

    /// Whether a process is at a run that will have what this one lacks first, so that it can be adopted then. `others` are recipes and
    /// their runs' folders.
    ///
    /// # Errors
    /// What this run would make cannot be read.
    pub fn awaits(&self, others: impl Iterator<Item = (Recipe, PathBuf)>) -> Result<bool> {
        let Some(part) = parts(&self.recipe).find(|part| !has_begun(&self.out, part)) else { return Ok(false) };
        let now = self.record(part)?;
        // Whatever is wrong with another run is its own affair.
        let will_have = |recipe: &Recipe, out: &Path| {
            let records = Records::read(out).ok()?;
            let theirs = Record::of(&spelled_out(recipe, &records, out).ok()?, part, out).ok()?;
            Some(theirs.begins(&now, part))
        };
        let mut others = others.filter(|(_, out)| RunFolder::is_busy(out));
        Ok(others.any(|(recipe, out)| will_have(&recipe, &out) == Some(true)))
    }
}

/// The steps of a part that is done in another run's folder and may be had here; 0 of one that has none.
fn steps_done(folder: &Path, part: &str, recipe: &Recipe) -> Option<u64> {
    match recipe.stages.iter().find(|stage| stage.name == part) {
        None => folder.join("tokenizer.json").exists().then_some(0),
        Some(stage) if stage.trains() => {
            let state = Trainer::load_state(folder).ok()??;
            let fits = stage.steps.is_none_or(|steps| state.step <= steps);
            (state.is_finished() && fits).then_some(state.step)
        }
        Some(_) => is_written(&folder.join(METRICS)).then_some(0),
    }
}

/// Copies the files and folders of a folder into another one.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io("list", from))? {
        let entry = entry.map_err(Error::io("list", from))?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        if old.is_dir() {
            fs::create_dir_all(&new).map_err(Error::io("create", &new))?;
            copy_all(&old, &new)?;
        } else if old.is_file() {
            fs::copy(&old, &new).map_err(Error::io("copy", &old))?;
        }
    }
    Ok(())
}
